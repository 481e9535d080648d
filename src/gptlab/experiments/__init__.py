"""One question about a model each, answered in figures, numbers and a page; what `gptlab experiment` runs."""
