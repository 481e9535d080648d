# %% parameters
count = sum(p.numel() for p in lab.model.parameters())
layers = lab.config.n_layers
count - gptlab.count(lab.config).total

# %% noise
torch.manual_seed(1)
drawn = torch.rand(2)
drawn

# %% exercise layers
right = layers
mistakes = {"one_more": layers + 1, "heads": layers + 100}
