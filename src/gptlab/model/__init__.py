"""ids -> logits: pure torch, and no knowledge of files, devices or training."""
