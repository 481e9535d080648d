"""The layers joined: a text becomes a run, and a run a model to work with. What the command line is made of."""

import errno
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gptlab import doctor, files, native, runtime
from gptlab.config import FinetuneConfig, ModelConfig, SampleConfig, TrainConfig
from gptlab.convert import hf, seed
from gptlab.convert.hf_tokenizer import read_tokenizer
from gptlab.finetuning.data import Example
from gptlab.finetuning.rows import Coder
from gptlab.finetuning.trainer import classified
from gptlab.generate.generate import PARAGRAPHS, Sample, generate
from gptlab.lens.trace import Trace, trace
from gptlab.messages import language
from gptlab.model.transformer import Transformer, build
from gptlab.presets import ALIASES, SIZES, preset, settings_for
from gptlab.registry import OBJECTIVES, unknown
from gptlab.run import Run, latest_run, load_weights
from gptlab.survey.fit import check_memory
from gptlab.survey.summary import Summary
from gptlab.text import corpora, objectives
from gptlab.text.batches import beginnings
from gptlab.text.fables import corpus as fables
from gptlab.text.objectives import Objective
from gptlab.text.tokenizer import Tokenizer, opening, prompt_ids, within, without
from gptlab.training import evaluate
from gptlab.training.advice import Advice, Adviser
from gptlab.training.halves import PIECE, Halves
from gptlab.training.loop import DEFAULT_STEPS, Listener, Starts, Trainer, resolved
from gptlab.training.stories import Stories

if TYPE_CHECKING:
    from gptlab.training.log import Display

EXPORTS = ("hf", "peft")
EXTENDABLE = ("steps", "minutes")  # what may change when a run goes on
# Stories that are read at each evaluation, all of them in `gptlab evaluate`; few by a model that cannot hold one, which
# reads it by a sliding window, many times as long.
STORIES, FEW_STORIES = 50, 5
HALVES = 400  # pieces of a text without stories, of which second halves are asked
SAMPLE = SampleConfig(tokens=160, temperature=0.8)  # written while it trains


def train(
    corpus: str | Path | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    listeners: Sequence[Listener] = (),
    display: "Display | None" = None,
    halves: bool = False,
    **settings: Any,
) -> Run:
    """Train a model on a text and return its run directory; what `gptlab train` calls.

    corpus: a known text's name, a file or a folder; settings: fields of TrainConfig, those not given being the
    recipe's; halves: each evaluation measures the second halves of some texts, too. With resume, a run that stands at
    `out` (default: the latest) goes on from its newest state, and may be given more steps; if there is none, it begins.

    Raises ValueError for settings that do not fit, each other or the text, and Diverged for a loss that does
    not come down; a run's last good states stay as they are.
    """
    if corpus is not None:
        settings["corpus"] = str(corpus)
    if resume:
        path = Path(out) if out is not None else latest_run()
        if (path / "config.toml").is_file():
            return go_on(Run(path), settings, device, listeners, display, halves)
    config = settings_for(settings.pop("recipe", "default"), settings.get("preset")).but(**settings)
    text = corpora.find(config.corpus)
    for note in text.notes:
        warnings.warn(f"{text.name}: {note}", stacklevel=2)
    config = config.but(corpus=corpora.lasting(config.corpus))
    changed = {"context": config.context, "n_heads": config.n_heads}
    shape = preset(config.preset, **{name: value for name, value in changed.items() if value is not None})
    asked = objectives.chosen(config.objective, shape.category, shape.context)
    config = config.but(objective=asked)
    specials = OBJECTIVES[asked].specials(shape.category, shape.context)
    tokenizer = corpora.make_tokenizer(config.tokenizer, text, config.vocab_size, specials)
    data = corpora.prepare(text, tokenizer)
    corpora.check_length(data, shape.context)
    stories = stories_of(config.corpus, tokenizer, config)
    shape = shape.but(vocab_size=tokenizer.vocab_size, bridge=objective_of(shape, tokenizer, config).bridge)

    path = numbered(Path("runs") / f"{text.name}-{config.preset}") if out is None else Path(out)
    if path.exists() and not resume and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already: go on with it by --resume, or choose another --out")
    with explained(config, shape, path):
        if display and native.pending():
            display.said("compiling")
        chosen = machine(device, config.precision)
        config = config.but(precision=chosen.precision)
        check_memory(shape, runtime.memory(chosen.device), optimizer=config.optimizer)
        model = build(shape, seed=config.seed, init=config.init, dropout=config.dropout, kernel=chosen.kernel)
        trainer = trainer_of(model.to(chosen.device), data, tokenizer, config, stories, halves=halves)
        if display:
            sizes = {"train": len(data.train), "val": len(data.val)}
            display.said(
                "training",
                preset=config.preset,
                parameters=sum(p.numel() for p in model.parameters()),
                text=text.name,
                **sizes,
            )
        steps = config.steps
        if steps is None and config.minutes is not None:
            if display:
                display.said("measuring", minutes=config.minutes)
            steps = trainer.measure(config.minutes)
        trainer.config = config = resolved(config, steps=steps or DEFAULT_STEPS)
        about = {
            "name": text.name,
            "sha256": text.sha256,
            "characters": text.characters,
            "train_tokens": len(data.train),
            "val_tokens": len(data.val),
            "val_characters": data.val_characters,
        }
        if stories:
            about |= {"floor": stories.floor, "context_holds_stories": stories.fit(shape.context)}
        run = Run.create(path, shape, tokenizer, train=config, text=about, environment=runtime.environment())
        with run.lock():
            fit(trainer, run, tokenizer, listeners, display)
    return run


def go_on(
    run: Run,
    settings: dict[str, Any],
    device: str,
    listeners: Sequence[Listener],
    display: "Display | None",
    halves: bool = False,
) -> Run:
    """Resume a run, with more steps if `settings` say so; ValueError for a setting that it was not begun with."""
    saved = run.train_config
    if run.finetune_config is not None:
        raise ValueError(f"{run.path} was fine-tuned: it goes on by `gptlab finetune --resume --out {run.path}`")
    if saved is None:
        raise ValueError(f"{run.path} was imported and has no training to resume")
    if "corpus" in settings:
        settings["corpus"] = corpora.lasting(settings["corpus"])
    if settings.get("precision") == "auto":  # what it was for this run is decided
        del settings["precision"]
    for name, value in settings.items():
        if name not in EXTENDABLE and saved.but(**{name: value}) != saved:
            raise ValueError(
                f"{run.path} was begun with {name} = {getattr(saved, name)!r}, not {value!r}; a run that goes on "
                "keeps its settings, but for --steps and --minutes"
            )
    text = corpora.find(saved.corpus)
    if text.sha256 != run.text["sha256"]:
        raise ValueError(f"{saved.corpus} has changed since {run.path} was begun: train a new run on it")
    tokenizer = run.tokenizer()
    data = corpora.prepare(text, tokenizer)
    stories = stories_of(saved.corpus, tokenizer, saved)
    with explained(saved, run.model_config, run.path), run.lock():
        saved = saved.but(precision="fp32") if saved.precision == "auto" else saved  # a run from before there was bf16
        chosen = machine(device, saved.precision)
        model = build(run.model_config, seed=saved.seed, init=saved.init, dropout=saved.dropout, kernel=chosen.kernel)
        trainer = trainer_of(model.to(chosen.device), data, tokenizer, saved, stories, halves=halves)
        steps, minutes = settings.get("steps"), settings.get("minutes")
        if minutes is not None and minutes != saved.minutes:
            steps = max(run.states(), default=0) + trainer.measure(minutes)
        if steps is not None and steps != saved.steps:
            done = max(run.states(), default=0)
            if steps < done:
                raise ValueError(f"{run.path} has done {done} steps already; --steps {steps} is less")
            trainer.config = saved.but(steps=steps)
            run.set_train_config(trainer.config)
        fit(trainer, run, tokenizer, listeners, display)
    return run


def paragraphs(config: TrainConfig | None) -> bool:
    """Whether a model was trained on texts that begin and end at blank lines."""
    return config is not None and config.starts == "blank-lines"


def stories_of(source: str, tokenizer: Tokenizer, config: TrainConfig | None = None) -> Stories | None:
    """The validation stories of a corpus of fables, as a model that was trained so reads them; None for another text,
    and where the tokenizer cannot spell them, for then their floor is not that of what is read."""
    if not corpora.is_fables(source):
        return None
    stories = fables.validation(fables.languages(source))
    if tokenizer.unknown("".join(story.text for story in stories)):
        return None
    return Stories(stories, tokenizer, opening(tokenizer, PARAGRAPHS) if paragraphs(config) else None)


def halves_of(source: str, tokenizer: Tokenizer, *, first: int | None = None) -> Halves:
    """Texts of which the second half is asked: validation stories, or pieces of the validation part."""
    if corpora.is_fables(source):
        told = fables.validation(fables.languages(source))[:first]
        return Halves([story.text + fables.SEPARATOR for story in told], tokenizer)
    text = corpora.find(source)
    some = "".join(text.chunks(text.cut, min(text.characters, text.cut + HALVES * PIECE)))
    pieces = [some[at : at + PIECE] for at in range(0, len(some), PIECE)][:first]
    return Halves([without(piece, tokenizer.unknown(piece)) for piece in pieces], tokenizer)


def trainer_of(
    model: Transformer,
    data: corpora.Data,
    tokenizer: Tokenizer,
    config: TrainConfig,
    stories: Stories | None,
    *,
    halves: bool = False,
) -> Trainer:
    """A trainer whose windows begin where the configuration says, and who measures what the text allows."""
    starts: Starts = (None, None)
    if paragraphs(config):
        found = [beginnings(ids, within(tokenizer, PARAGRAPHS)) for ids in (data.train, data.val)]
        fitting = [at[at < len(ids) - model.context] for at, ids in zip(found, (data.train, data.val), strict=True)]
        if not all(map(len, fitting)):
            part = "training" if not len(fitting[0]) else "validation"
            raise ValueError(
                f"starts is 'blank-lines', and the {part} part of {data.text.name} has none that a window of "
                f"{model.context} tokens could follow: use --starts anywhere"
            )
        starts = (fitting[0], fitting[1])
    measures: dict[str, Callable[[Transformer], float]] = {}
    if stories:
        measures["story_loss"] = partial(stories.loss, first=STORIES if stories.fit(model.context) else FEW_STORIES)
    if halves:
        measures["half_loss"] = halves_of(config.corpus, tokenizer, first=STORIES).loss
    objective = objective_of(model.config, tokenizer, config)
    return Trainer(model, data.train, data.val, config, starts=starts, objective=objective, measures=measures)


def objective_of(shape: ModelConfig, tokenizer: Tokenizer, config: TrainConfig | None) -> Objective:
    """What a model is, or was, trained for, with its tokenizer's special tokens; for an imported one, the plainest."""
    plainest = "next-token" if shape.category == "causal" else "continuation"
    name = objectives.chosen(config.objective if config else plainest, shape.category, shape.context)
    objective: Objective = OBJECTIVES[name](tokenizer, shape.category)
    return objective


def fit(
    trainer: Trainer, run: Run, tokenizer: Tokenizer, listeners: Sequence[Listener], display: "Display | None"
) -> None:
    shown = [display] if display else []

    def tell(advice: Advice) -> None:
        if display:
            display.said(f"advice_{advice.name}", **advice.numbers)

    everyone = [*shown, Adviser(trainer, run, tell), Sampler(run, tokenizer, trainer.config, display), *listeners]
    try:
        trainer.fit(run, everyone)
    finally:
        if display:
            display.close()
    report(run, display)


def report(run: Run, display: "Display | None") -> None:
    """Write a run's report; a warning where that fails."""
    try:
        from gptlab.report import page  # here, for a model that only writes needs none of it

        page.write(run, display.lang if display else language())
    except Exception as error:  # whatever it is, the model is trained and saved
        warnings.warn(f"the report could not be written: {error!r}. Try `gptlab report {run.path}`", stacklevel=2)


class Sampler(Listener):
    """Lets the model write while it trains, into samples/ and onto the display."""

    def __init__(self, run: Run, tokenizer: Tokenizer, config: TrainConfig, display: "Display | None") -> None:
        self.run, self.tokenizer, self.config, self.display = run, tokenizer, config, display

    def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
        config, step = self.config, record["step"]
        if not config.sample_every or not config.eval_every:
            return
        # By the step and not by a count of its own: a resumed run writes at the same places.
        if step != config.steps and (step == 0 or step // config.eval_every % config.sample_every):
            return
        training = model.training
        model.eval()
        written = generate(model, self.tokenizer, config.prompt, SAMPLE, paragraphs=paragraphs(config))
        text = config.prompt + "".join(t for _, t, _ in written)
        model.train(training)
        self.run.add_sample(step, text)
        if self.display:
            self.display.sample(step, text)


def machine(device: str, precision: str = "fp32") -> doctor.Choice:
    """The device and the kernel to use; a warning names what was passed over for them, and why."""
    chosen = doctor.choose(device, precision)
    for found in chosen.findings:
        warnings.warn(f"{found.told()} Used instead: {chosen.kernel_name} on {chosen.device}", stacklevel=3)
    return chosen


def numbered(first: Path) -> Path:
    """A path, with a number after it where that is taken."""
    path, number = first, 2
    while path.exists():
        path, number = first.with_name(f"{first.name}-{number}"), number + 1
    return path


@contextmanager
def explained(config: TrainConfig, shape: ModelConfig, path: Path) -> Iterator[None]:
    """Turn what the machine refuses (memory, disk) into a ValueError that says what would help."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(
            sign in str(error).lower() for sign in ("out of memory", "can't allocate memory", "not enough memory")
        ):
            raise
        rows = config.batch // config.accumulate
        raise ValueError(
            f"out of memory with {rows} windows of {shape.context} tokens at once: try --accumulate "
            f"{config.accumulate * 2}, a smaller --batch (now {config.batch}) or a smaller --preset. "
            f"What {path} held is as it was"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ValueError(
            f"the disk is full ({error.filename or path}). The states in {path} are good: free some space, then "
            f"gptlab train --resume --out {path}"
        ) from error


@dataclass(frozen=True)
class Lab:
    """A trained model at hand, with its tokenizer: what a notebook works with."""

    run: Run
    model: Transformer
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.run.model_config

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The measurements of the training, in order: dictionaries with `step`, and a loss or two and `seconds`,
        or an `advice` and the numbers that it names."""
        return self.run.metrics()

    def generate(self, prompt: str = "", *, n: int = 1, stream: bool = False, **settings: Any) -> Any:
        """Text that goes on from `prompt`, without it: a str, or a list of n of them.

        settings: fields of SampleConfig (tokens, temperature, top_k, seed, …). With stream, an iterator that
        yields text as it comes, of the one sample. A character that the vocabulary lacks is named in a warning
        and left out.
        """
        config = SampleConfig.from_dict(settings)
        if stream:
            if n != 1:
                raise ValueError(f"stream yields one sample, not {n}")
            return (text for _, text, _ in self.samples(prompt, config))
        texts = [""] * n
        for i, text, _ in self.samples(prompt, config, n=n):
            texts[i] += text
        return texts[0] if n == 1 else texts

    def samples(self, prompt: str, config: SampleConfig, *, n: int = 1) -> Iterator[tuple[int, str, Sample]]:
        """(which sample, new text, the sample) as it is written; see generate.generate. A fine-tuned model reads the
        beginning of a prompt that is too long, as it did of such examples."""
        trained, tuned, most = self.run.train_config, self.run.finetune_config, None
        if tuned is not None:
            coder = coder_of(tuned, self.config, self.tokenizer, trained)
            most = coder.room(min(config.tokens, self.config.context // 2))
        return generate(self.model, self.tokenizer, prompt, config, n=n, paragraphs=paragraphs(trained), most=most)

    def trace(self, text: str, then: str = "", *, names: Sequence[str] = ()) -> Trace:
        """What flows through the model while it reads `text`: named arrays, as in lens/trace.py.

            trace = lab.trace("ROMEO:")
            trace.tokens, trace.pattern[2].shape    # labels of T tokens; (heads, T, T)

        then: what the decoder reads behind it, where an encoder or a prefix reads the text; names: patterns of the
        arrays to keep ("*.pattern"), default all. ValueError for a text without tokens, or longer than the context.
        """
        given, follows = prompt_ids(self.tokenizer, text), prompt_ids(self.tokenizer, then)
        if paragraphs(self.run.train_config):  # as generate does
            given = np.concatenate([opening(self.tokenizer, PARAGRAPHS), given])
        return trace(self.model, self.tokenizer, given, follows, names=names)

    def classify(self, text: str) -> dict[str, float]:
        """The probability of each label, of a model that was fine-tuned to give labels; ValueError for another."""
        config = self.run.finetune_config
        if config is None or config.kind != "classify":
            raise ValueError(f"{self.run.path} was not fine-tuned to give labels")
        coder = coder_of(config, self.config, self.tokenizer, self.run.train_config)
        found = classified(self.model, coder, config.labels, [Example(text, config.labels[0])])
        coder.warn()
        return dict(zip(config.labels, found.probabilities[0].tolist(), strict=True))

    def loss(self, text: str, *, per: str = "token", stride: int | None = None) -> float:
        """Nats per token ("char", "byte") of a text read from its start by a sliding window.

        Every token but the first is predicted once, from at least context - stride tokens before it where there
        are so many; stride defaults to half the context. Between tokenizers only "char" and "byte" compare.
        """
        return self.text_loss(prompt_ids(self.tokenizer, text), stride=stride).per(per)

    def text_loss(self, ids: np.ndarray, *, stride: int | None = None, limit: int | None = None) -> evaluate.TextLoss:
        """The same of a text given as ids, in all units."""
        nats, tokens = evaluate.sliding_nats(self.model, ids, stride=stride, limit=limit)
        predicted = b"".join(self.tokenizer.pieces[i] for i in ids[1 : tokens + 1].tolist())
        return evaluate.TextLoss(nats, tokens, len(predicted.decode("utf-8", "replace")), len(predicted))


def coder_of(config: FinetuneConfig, shape: ModelConfig, tokenizer: Tokenizer, trained: TrainConfig | None) -> Coder:
    """How the examples of a fine-tuning are put to its model; trained: how that was pretrained."""
    lead = opening(tokenizer, PARAGRAPHS) if paragraphs(trained) else None
    return Coder(tokenizer, shape, lead=lead, labels=config.labels if config.head else ())


def load(run: str | Path | None = None, *, device: str = "auto") -> Lab:
    """A run's best model, ready to use; without a name, the latest run's.

    Raises ValueError if there is no such run, or a file of it is missing or damaged.
    """
    found = Run(find(run))
    chosen = machine(device)
    return Lab(found, found.model(chosen.device, kernel=chosen.kernel), found.tokenizer())


def summary(
    model: str | Path | None = None,
    *,
    batch: int = 1,
    length: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
) -> Summary:
    """A model in numbers, on this machine: of a preset, of a run, or without a name of the latest run.

    length: tokens of each text, default the context; precision: fp32 or bf16. ValueError for what is not known.
    """
    name, optimizer = str(model), TrainConfig().optimizer
    if model is not None and (name in SIZES or name in ALIASES):
        shape = preset(name)
    else:
        path = find(model)
        if model is not None and not path.exists():
            raise unknown("model or run", name, [*SIZES, *ALIASES])
        run = Run(path)
        name, shape = str(path), run.model_config
        optimizer = run.train_config.optimizer if run.train_config else optimizer
    memory = runtime.memory(runtime.device(device))
    return Summary(name, shape, batch, length, precision, memory, optimizer)


def find(run: str | Path | None) -> Path:
    """A run's folder: as given, or under runs/, or the latest."""
    if run is None:
        return latest_run()
    under = Path("runs") / run
    return under if not (Path(run) / "config.toml").is_file() and (under / "config.toml").is_file() else Path(run)


def evaluate_on(lab: Lab, source: str | Path | None, *, windows: int, limit: int) -> dict[str, Any]:
    """A model's losses on a text: window loss (None where the text is too short) and sliding-window losses.

    source: a known text, a file or a folder; None is the text it was trained on. Of that text, found again by its
    content, only the validation part is used; of any other, all.
    """
    run = lab.run
    if source is None:
        if run.train_config is None:
            raise ValueError(f"{run.path} was imported and names no text: give one by --on")
        source = run.train_config.corpus
    text = corpora.find(str(source))
    own = text.sha256 == run.text.get("sha256")
    data = corpora.prepare(text, lab.tokenizer, whole=not own)
    ids = data.val if own else data.train
    loss = lab.text_loss(ids, limit=limit)
    fits = len(ids) > lab.model.context
    objective = objective_of(lab.config, lab.tokenizer, run.train_config)
    return {
        "run": str(run.path),
        "text": text.name,
        "validation_part": own,
        "window_loss": evaluate.window_loss(lab.model, ids, count=windows, objective=objective) if fits else None,
        "sliding_loss": loss.per("token"),
        "perplexity": math.exp(loss.per("token")),
        "bits_per_character": loss.per("char") / math.log(2),
        "bits_per_byte": loss.per("byte") / math.log(2),
        "tokens": loss.tokens,
        "limited": loss.tokens < len(ids) - 1,
        **against_floor(lab, str(source)),
    }


def against_floor(lab: Lab, source: str) -> dict[str, Any]:
    """On a corpus of fables: nats per character of whole validation stories, beside the least that is possible."""
    stories = stories_of(source, lab.tokenizer, lab.run.train_config)
    if stories is None:
        return {}
    loss = stories.loss(lab.model)
    return {
        "story_loss": loss,
        "floor": stories.floor,
        "excess": loss - stories.floor,
        "context_holds_stories": stories.fit(lab.model.context),
    }


def import_run(source: str | Path, out: str | Path | None = None) -> Run:
    """A run directory from a model made elsewhere: a folder, or a name on Hugging Face's hub.

    Raises ValueError for a model or a tokenizer of a kind that is not known, and for files that are missing, damaged or
    pickles (the old GPTLab's excepted, which are read by torch's restricted loader).
    """
    path = Path(source)
    out = Path("runs") / path.resolve().name if out is None else Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already: choose another --out")
    if seed.is_seed(path) and not hf.is_hf(path):
        config, characters, weights = seed.read_seed(path)
        tokenizer: Tokenizer = characters
        model = build(config)
        load_weights(model, weights, path / seed.FILES[-1])
    else:
        path = hf.folder_of(source)
        if not hf.is_hf(path):
            raise ValueError(
                f"{path} holds no model that gptlab can import: Hugging Face's have a config.json with a model_type, "
                "the old GPTLab's config.json, vocab.txt and pytorch_model.bin"
            )
        model = hf.read(path).float()
        config, tokenizer = model.config, read_tokenizer(path)
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(f"{path}: the tokenizer has {tokenizer.vocab_size} ids, the model {config.vocab_size}")
    run = Run.create(out, config, tokenizer)
    run.save_weights(model)
    return run


def export_run(run: str | Path | None, out: str | Path, *, to: str = "hf") -> str:
    """Write a run's best model and its tokenizer as a folder that Hugging Face's transformers loads.

    Returns the name of its class there; ValueError, with the reason, where there is none.
    """
    out = Path(out)
    if to not in EXPORTS:
        raise unknown("format", to, EXPORTS)
    if out.exists():
        raise ValueError(f"{out} is there already: choose another --out")
    found = Run(find(run))
    with files.write_whole(out) as folder:
        return hf.write(found.model(), found.tokenizer(), folder)
