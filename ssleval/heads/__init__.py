"""What is fitted on features: tensors in, predictions out."""
