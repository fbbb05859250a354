"""Files of images and of dense targets: which count, how they decode, their fingerprint."""
