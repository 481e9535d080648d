"""weights -> weights for a task: examples, adapters, training on answers, scores."""
