"""What each experiment can be asked on the command line. Its docstring is its help; nothing here imports torch.

The question NAME is answered by `conduct(lab, section, **options)` in experiments/NAME.py.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from gptlab.messages import LANGUAGES

Lang = Annotated[str | None, arg(metavar="{" + ",".join(LANGUAGES) + "}")]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What all experiments share."""

    run: Annotated[Positional[str | None], arg(metavar="[RUN]")] = None  # default: the latest run
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    lang: Lang = None  # the language of what is said and drawn; default the locale's
    every_language: bool = False  # draw figures in all five, so that the report can be written in each


@dataclass(frozen=True, kw_only=True)
class Anatomy(Experiment):
    """What happens to a prompt, from its letters to the probabilities of the next token?"""

    text: str | None = None  # what the model reads; default the beginning of its validation text
    layer: int = 1  # the layer that is shown in pictures, counted from 1; of the decoder


@dataclass(frozen=True, kw_only=True)
class Tokenizers(Experiment):
    """What are tokens, what do they cost, and which are best?"""

    text: str | None = None  # the sentence that is cut up; default one in the language of the run's text
    minutes: float = 0.4  # of training for each small model whose tokenizers are compared; 0: none
    steps: int | None = None  # optimizer steps of each instead
    others: Annotated[tuple[str, ...], arg(name="with", metavar="RUN …")] = ()  # trained runs to compare with


@dataclass(frozen=True, kw_only=True)
class Embeddings(Experiment):
    """Which tokens, and which positions, has the model learned to be alike?"""

    # the characters of a group of one's own, as in --mark aeiou --mark 0123456789; default vowels, digits, and so on
    mark: UseAppendAction[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Film(Experiment):
    """How do the embeddings move while the model learns?"""

    method: Literal["tsne", "pca"] = "tsne"  # how many dimensions become two
    # the characters of a group of one's own, as in --mark aeiou --mark 0123456789; default vowels, digits, and so on
    mark: UseAppendAction[tuple[str, ...]] = ()
    positions: tuple[int, ...] | None = None  # positions to mark; default 12 13 14
    seconds: float = 12  # about how long the film is; every snapshot is seen, however many there are
    fps: int = 24  # pictures a second


@dataclass(frozen=True, kw_only=True)
class Attention(Experiment):
    """Which tokens does each head look at?"""

    text: str | None = None  # what the model reads; default the beginning of its validation text
    other: Annotated[str | None, arg(name="with")] = None  # a run to put beside it, as one with --n-heads 1


@dataclass(frozen=True, kw_only=True)
class Lens(Experiment):
    """What would each layer say, if it were the last?"""

    text: str | None = None  # what the model reads; default the beginning of its validation text


@dataclass(frozen=True, kw_only=True)
class Next(Experiment):
    """What does the model expect at each place of a text, and what surprises it?"""

    text: str | None = None  # what the model reads; default the beginning of its validation text


@dataclass(frozen=True, kw_only=True)
class Decoding(Experiment):
    """How does the choice of the next token change what is written?"""

    prompt: str | None = None  # what the model goes on from; default the beginning of its validation text
    on: str | None = None  # a known text, a file or a folder to compare with; default the validation text
    samples: int | None = None  # texts written at each temperature; default 16, 8 of a model that is large
    tokens: int | None = None  # in each of them; default 160, fewer of a model that is large, or has no room


@dataclass(frozen=True, kw_only=True)
class Gradients(Experiment):
    """Where in the model does learning happen, and when?"""


@dataclass(frozen=True, kw_only=True)
class Task(Experiment):
    """How well does the model do what it was fine-tuned for, and what did that cost?"""


EXPERIMENTS: dict[str, type[Experiment]] = {  # in the order of the report
    "anatomy": Anatomy,
    "tokenizers": Tokenizers,
    "embeddings": Embeddings,
    "film": Film,
    "attention": Attention,
    "lens": Lens,
    "next": Next,
    "decoding": Decoding,
    "gradients": Gradients,
    "task": Task,
}
