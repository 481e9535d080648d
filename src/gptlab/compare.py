"""Architectures side by side: the same text, tokenizer, context, steps and seed; what differs is the architecture.

Decoders, prefix models and encoder-decoders are scored by one measure that all can be given: nats per character of
the second half of a story, given its first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab import lab
from gptlab.model.count import count
from gptlab.presets import preset
from gptlab.report import page
from gptlab.run import Run
from gptlab.training.log import Display


@dataclass(frozen=True)
class Compared:
    """One architecture's result."""

    name: str
    run: Run
    parameters: int
    loss: float  # nats per character of second halves, of the best weights
    seconds: float  # of training


def compare(
    names: Sequence[str],
    *,
    corpus: str,
    out: Path,
    lang: str = "en",
    device: str = "auto",
    display: Display | None = None,
    **settings: Any,
) -> list[Compared]:
    """Train each preset into OUT/NAME, and write OUT/compare.html; best first.

    settings: fields of TrainConfig, the same for all. The context is by default the shortest of the presets'. A run
    that is there already goes on, or is taken as it is. Raises ValueError for fewer than two names, or one twice.
    """
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ValueError(f"compare needs two models or more, each once; not: {', '.join(names) or 'none'}")
    shapes = {name: preset(name) for name in names}  # an unknown one is told before the first is trained
    settings.setdefault("context", min(shape.context for shape in shapes.values()))
    found = []
    for name, shape in shapes.items():
        objective = "next-token" if shape.category == "causal" else "continuation"
        given = {**settings, "preset": name, "objective": objective}
        run = lab.train(corpus, out=out / name, resume=True, halves=True, device=device, display=display, **given)
        loaded = lab.load(run.path, device=device)
        loss = lab.halves_of(corpus, loaded.tokenizer).loss(loaded.model)
        seconds = max(m["seconds"] for m in run.metrics() if "seconds" in m)
        found.append(Compared(name, run, count(run.model_config).total, loss, seconds))
    page.compare([result.run for result in found], lang, out / "compare.html")
    return sorted(found, key=lambda result: result.loss)
