"""weights -> arrays: what can be seen in a model, without a word about how it is drawn."""
