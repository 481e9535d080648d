"""What a run directory says about its training, as numbers for a page."""

import math
from pathlib import Path
from typing import Any

from gptlab.config import FinetuneConfig, TrainConfig
from gptlab.model.count import count
from gptlab.presets import preset, settings_for
from gptlab.run import Run
from gptlab.text import corpora
from gptlab.text.fables import corpus as fables
from gptlab.text.objectives import USUAL
from gptlab.training.loop import DEFAULT_STEPS, resolved

Point = tuple[int, float, float]  # step, seconds, loss


class Facts:
    """The numbers of one run. What it does not record is None or empty: an imported run has no training."""

    def __init__(self, run: Run) -> None:
        self.run, self.model, self.text, self.finetune = run, run.model_config, run.text, run.finetune_config
        # Of a fine-tuned run, the metrics are of the fine-tuning, and the training was another run's.
        self.config = None if self.finetune else run.train_config
        self.parameters = count(run.model_config)
        records = run.metrics()
        losses = ("train_loss", "val_loss", "story_loss", "half_loss")
        self.train, self.val, self.story, self.half = (points(records, loss) for loss in losses)
        self.advice = [record for record in records if "advice" in record]
        self.step = max((record["step"] for record in records), default=0)
        self.seconds = max((record["seconds"] for record in records if "seconds" in record), default=0.0)
        self.tokens = max((record["tokens"] for record in records if "tokens" in record), default=0)
        self.best = min(self.val, key=lambda point: point[2], default=None)
        self.guess = math.log(self.model.vocab_size)
        self.floor = self.find_floor() if self.story else None
        self.holds_stories = self.text.get("context_holds_stories", True)

    @property
    def tokens_per_character(self) -> float | None:
        """Of the validation part; None for a run that did not record it."""
        if "val_characters" in self.text:
            return float(self.text["val_tokens"] / self.text["val_characters"])
        return 1.0 if self.config and self.config.tokenizer == "char" else None

    @property
    def bits_per_character(self) -> float | None:
        if self.best is None or self.tokens_per_character is None or self.finetune:
            return None
        return self.best[2] * self.tokens_per_character / math.log(2)

    @property
    def passes(self) -> float | None:
        """How often each token of the training part was read, on average."""
        return self.tokens / self.text["train_tokens"] if self.text.get("train_tokens") else None

    def find_floor(self) -> float | None:
        """Nats per character that no model of these fables can fall below; None for another text."""
        if "floor" in self.text:
            return float(self.text["floor"])
        if self.config is None or not corpora.is_fables(self.config.corpus):
            return None
        return fables.floor(fables.validation(fables.languages(self.config.corpus)))

    def model_settings(self) -> list[tuple[str, Any, Any]]:
        """(name, value, the preset's value) of each field of the model; equal ones where no preset is known."""
        values = vars(self.model)
        usual = values
        if self.config is not None:
            usual = vars(preset(self.config.preset, vocab_size=self.model.vocab_size))
        return [(name, value, usual[name]) for name, value in values.items()]

    def train_settings(self) -> list[tuple[str, Any, Any]]:
        """(name, value, the recipe's value) of each field of the training, or the fine-tuning."""
        if self.finetune:
            plain = vars(FinetuneConfig(task=self.finetune.task, data=self.finetune.data))
            hashes = ("parent_sha256", "data_sha256")
            found = {name: value for name, value in vars(self.finetune).items() if name not in hashes}
            return [(name, value, value if plain[name] is None else plain[name]) for name, value in found.items()]
        if self.config is None:
            return []
        usual = vars(self.usual(self.config))
        if usual["precision"] == "auto":  # what it came to on the machine is no change
            usual = {**usual, "precision": self.config.precision}
        return [(name, value, usual[name]) for name, value in vars(self.config).items()]

    def flags(self, **changes: Any) -> str:
        """The options of `gptlab train` that repeat this training, but for the changes."""
        assert self.config is not None
        config = self.config.but(**changes)
        usual = vars(self.usual(config).but(preset=TrainConfig().preset))
        found = [] if config.recipe == "default" else ["--recipe", config.recipe]
        for name, value in vars(config).items():
            option = name.replace("_", "-")
            if name == "minutes" or value == usual[name]:  # the steps say how long
                continue
            if isinstance(value, bool):
                found.append(f"--{option}" if value else f"--no-{option}")
            else:
                found += [f"--{option}", quoted(value)]
        return " ".join(found)

    def usual(self, config: TrainConfig) -> TrainConfig:
        """The settings when nothing is asked for but the text, the model and the recipe."""
        base = settings_for(config.recipe, config.preset).but(objective=USUAL[self.model.category])
        steps = config.steps or base.steps or DEFAULT_STEPS
        # How often it evaluates follows from the number of steps, so that alone is no difference.
        filled = resolved(base.but(corpus=config.corpus, batch=config.batch), steps=steps)
        return filled.but(batch=base.batch, steps=base.steps or DEFAULT_STEPS)


def points(records: list[dict[str, Any]], loss: str) -> list[Point]:
    """The measurements of one loss, in order."""
    return [(r["step"], r.get("seconds", 0.0), r[loss]) for r in records if loss in r]


def spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` of a list, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def command_of(environment: dict[str, Any]) -> str | None:
    """The command that began the run, as it was typed; None for a run that was begun from Python."""
    program, *words = environment.get("command") or [""]
    if Path(program).stem not in ("gptlab", "__main__"):
        return None
    return " ".join(["gptlab", *(quoted(word) for word in words)])


def quoted(word: object) -> str:
    """A word for a shell, in double quotes where it needs them: these work in all shells."""
    text = str(word)
    return text if text and not any(c in text for c in " '&()$*?;|<>") else f'"{text}"'
