"""GPTLab, a laboratory for GPT language models: train one on a text, watch it learn, look inside.

    import gptlab
    run = gptlab.train("shakespeare", preset="gptlab-cpu", steps=1000, out="runs/s", seed=0)
    lab = gptlab.load("runs/s")
    print(lab.generate("ROMEO:", tokens=200, temperature=0.8, seed=1))

The names below are imported when they are first used, so that `import gptlab` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptlab.config import ModelConfig, SampleConfig, TrainConfig
    from gptlab.convert.hf import from_hf, to_hf
    from gptlab.lab import Lab, load, train
    from gptlab.model.count import count
    from gptlab.model.transformer import build
    from gptlab.presets import preset
    from gptlab.tasks import finetune
    from gptlab.text.fables import Fables as fables

__all__ = [
    "Lab",
    "ModelConfig",
    "SampleConfig",
    "TrainConfig",
    "build",
    "count",
    "fables",
    "finetune",
    "from_hf",
    "load",
    "preset",
    "to_hf",
    "train",
]

HOMES = {
    "Lab": "lab",
    "ModelConfig": "config",
    "SampleConfig": "config",
    "TrainConfig": "config",
    "build": "model.transformer",
    "count": "model.count",
    "fables": "text.fables:Fables",
    "finetune": "tasks",
    "from_hf": "convert.hf",
    "load": "lab",
    "preset": "presets",
    "to_hf": "convert.hf",
    "train": "lab",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'gptlab' has no attribute {name!r}")
    module, _, attribute = HOMES[name].partition(":")
    value = globals()[name] = getattr(import_module(f"gptlab.{module}"), attribute or name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
