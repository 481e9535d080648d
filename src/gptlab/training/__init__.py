"""logits -> weights: the loss, the optimizers, the schedule and the loop."""
