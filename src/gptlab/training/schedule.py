"""The learning rate over a training, as a fraction of its peak: a warm-up, then one of these.

Each is a function of the step and of the number of steps. A run that is extended gets the schedule of the
longer run from where it stands: a decayed rate rises again to what the longer schedule has at that step.
"""

import math


def constant(progress: float) -> float:
    return 1.0


def linear(progress: float) -> float:
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Loshchilov and Hutter 2016, arXiv 1608.03983, without restarts."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def rate(decay: str, step: int, *, steps: int, warmup: int, final: float) -> float:
    """The fraction of the peak at `step` (from 0): rises linearly over `warmup` steps, then falls to `final`."""
    from gptlab.registry import SCHEDULES

    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return final + (1.0 - final) * SCHEDULES[decay](min(1.0, progress))
