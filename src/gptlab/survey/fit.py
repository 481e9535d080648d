"""Whether a model can be trained in so much memory, and which smaller one could."""

from gptlab.config import ModelConfig
from gptlab.model.cost import training_memory
from gptlab.model.count import count
from gptlab.presets import SIZES, preset


def fitting(memory: int, family: str, *, optimizer: str = "muon") -> tuple[str | None, str | None]:
    """The largest preset of a family, and of all, whose weights, gradients and optimizer fit into so many bytes."""
    sizes = sorted(((count(preset(name)).total, name) for name in SIZES), reverse=True)
    fit = [name for _, name in sizes if training_memory(preset(name), optimizer=optimizer).total <= memory]
    return next((name for name in fit if SIZES[name]["family"] == family), None), next(iter(fit), None)


def check_memory(config: ModelConfig, memory: int | None, *, optimizer: str | None, instead: str | None = None) -> None:
    """ValueError for a model that cannot be trained in so many bytes whatever the batch; None: nobody knows.

    optimizer: None where the weights stand still, beside adapters; instead: what to do, default a preset that fits.
    """
    training = training_memory(config, optimizer=optimizer or "adamw")
    needed = training.total if optimizer else training.weights
    if memory is None or needed <= memory:
        return
    if instead is None:
        named = dict.fromkeys(name for name in fitting(memory, config.family, optimizer=optimizer or "adamw") if name)
        instead = f"use a smaller --preset, such as {' or '.join(named) or 'one of your own'}"
    what = f"weights, gradients and {optimizer}" if optimizer else "its weights alone"
    raise ValueError(
        f"a model of {count(config).total:,} parameters needs {needed / 1e9:,.1f} GB for {what}, and there are "
        f"{memory / 1e9:,.1f} GB here: {instead}"
    )
