"""A training as a person sees it: a bar with the time left, losses, and what the model writes by then.

On a terminal the bar stays at the bottom and the rest scrolls above it; elsewhere there are only plain lines.
All of it goes to standard error.
"""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.rule import Rule
from rich.text import Text

from gptlab.messages import say
from gptlab.model.transformer import Transformer
from gptlab.training.loop import Listener, Outcome


class Display(Listener):
    """Shows a training in a language; `outcome` is how it ended."""

    def __init__(self, lang: str, *, quiet: bool = False) -> None:
        self.lang = lang
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self.bar: Progress | None = None
        self.outcome: Outcome | None = None
        self.train_loss, self.speed, self.steps = 0.0, 0.0, 0
        self.mark = (0.0, 0)  # when, and after how many tokens, the speed was last measured

    def started(self, step: int, steps: int, tokens: int) -> None:
        self.steps = steps
        if step:
            self.said("resuming", step=step, steps=steps)
        self.mark = (time.perf_counter(), tokens)
        if self.console.is_terminal:
            columns = (BarColumn(None), TextColumn("{task.completed:.0f}/{task.total:.0f}"), TimeElapsedColumn())
            loss = TextColumn("{task.fields[loss]}")
            self.bar = Progress(*columns, TimeRemainingColumn(), loss, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=steps, completed=step, loss="")

    def logged(self, record: dict[str, Any]) -> None:
        now, tokens = time.perf_counter(), record["tokens"]
        self.speed = (tokens - self.mark[1]) / (now - self.mark[0])
        self.mark = (now, tokens)
        self.train_loss = record["train_loss"]
        if self.bar:
            self.bar.update(self.task, completed=record["step"], loss=f"{self.train_loss:.3f}")

    def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
        if self.speed:
            numbers = {"train": self.train_loss, "val": record["val_loss"], "speed": self.speed}
            entry = "evaluation_labels" if "accuracy" in record else "evaluation"
            numbers |= {"accuracy": 100 * record.get("accuracy", 0.0)}
            self.said(entry, step=record["step"], steps=self.steps, **numbers)
        self.mark = (time.perf_counter(), self.mark[1])  # an evaluation's time is not the training's

    def sample(self, step: int, text: str) -> None:
        """Called by who lets the model write while it trains."""
        self.console.print(Rule(say("sample", self.lang, step=step), style="dim"))
        self.console.print(Text(text))
        self.console.print(Rule(style="dim"))

    def ended(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.close()

    def close(self) -> None:
        """Take the bar away; also after an error."""
        if self.bar:
            self.bar.stop()
            self.bar = None

    def said(self, entry: str, **values: object) -> None:
        """An entry of the catalogue, in the display's language."""
        self.line(say(entry, self.lang, **values))

    def line(self, text: str) -> None:
        # Soft wrap: a line that is piped or logged stays one line.
        self.console.print(Text(text), soft_wrap=True)
