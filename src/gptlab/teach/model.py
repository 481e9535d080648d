"""The model that lessons 1 to 10 look at: the reader's own latest run, else a small one that is trained for them."""

import warnings
from pathlib import Path
from typing import Any

import filelock

from gptlab import files, lab
from gptlab.lab import Lab
from gptlab.messages import LANGUAGES
from gptlab.run import Run, find_runs
from gptlab.teach.words import say
from gptlab.training.log import Display

# Some half a minute on two cores. One token a character, so that lessons can show what a model reads.
SETTINGS: dict[str, Any] = {"preset": "gpt2-mini", "tokenizer": "char", "steps": 400, "seed": 0}
NAME = "gpt2-mini-400"  # to be changed with the settings, so that no old one is found
FIRST = 1  # the first lesson with a model


def find(lang: str, run: str | Path | None = None, *, own: bool = True, quiet: bool = False) -> Lab:
    """The model of the lessons: the run that is named; else, where `own`, the reader's latest if it serves; else the
    small one in the reader's language. ValueError for a named run that is none, or no causal model's."""
    if run is not None:
        loaded = lab.load(run, device="cpu")
        if loaded.config.category != "causal":
            raise ValueError(
                f"{run} is a model of the kind {loaded.config.category!r}; lessons look at one that reads from left to "
                "right ('causal'): name another --run, or leave it out"
            )
        return loaded
    return (latest() if own else None) or small(lang, quiet=quiet)


def latest(root: str | Path = "runs") -> Lab | None:
    """The reader's latest causal run, if it can be loaded. Runs that are still without weights are passed over, and
    fine-tuned ones, which have forgotten most of their language for a task."""
    for path in reversed(find_runs(root)):
        try:
            run = Run(path)
            if run.model_config.category == "causal" and run.finetune_config is None:
                return lab.load(path, device="cpu")
        except (ValueError, OSError) as error:
            warnings.warn(f"{path} is not looked at: {error}", stacklevel=2)
    return None


def small(lang: str, *, quiet: bool = False) -> Lab:
    """The small model in a language, from the cache; trained first where it is not there, which is shown."""
    path = kept(lang)
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{NAME}.lock")):  # who comes second waits, and finds it
        if not (path / "config.toml").is_file():
            display = Display(lang, quiet=quiet)
            display.line(say("model_training", lang))
            try:
                with files.write_whole(path) as made:
                    lab.train("fables" if lang == "en" else f"fables:{lang}", out=made, display=display, **SETTINGS)
            finally:
                display.close()
    return lab.load(path, device="cpu")


def kept(lang: str) -> Path:
    """Where the small model of a language is."""
    return files.cache_dir() / "course" / lang / NAME


def is_small(loaded: Lab) -> bool:
    """Whether this is the small model, and none of the reader's."""
    return any(loaded.run.path == kept(lang) for lang in LANGUAGES)
