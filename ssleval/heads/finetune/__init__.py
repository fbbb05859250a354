"""Fine-tuning end to end: a copy of the backbone with a linear layer, trained by timm's own parts."""
