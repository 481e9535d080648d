"""From a pretrained model to one that does a task: fine-tuning and its scores, joined with runs, texts and writing."""

import dataclasses
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gptlab import files, runtime
from gptlab.config import FinetuneConfig, SampleConfig, TrainConfig
from gptlab.convert import adapters, hf
from gptlab.doctor import Choice
from gptlab.finetuning import builtin, data, lora
from gptlab.finetuning.data import Example, Examples
from gptlab.finetuning.rows import bridged
from gptlab.finetuning.scores import Classification, of_texts
from gptlab.finetuning.trainer import Encoded, Finetuner, classified, extended, special_tokens
from gptlab.generate.generate import PARAGRAPHS, tokens
from gptlab.lab import Lab, coder_of, explained, find, load, machine, numbered, objective_of, paragraphs, report
from gptlab.model.kernels import sdpa
from gptlab.model.transformer import Transformer, build
from gptlab.run import Run, load_tensors, load_weights
from gptlab.survey.fit import check_memory
from gptlab.text import corpora
from gptlab.text.batches import beginnings
from gptlab.text.fables import corpus as fables
from gptlab.text.tokenizer import END, Tokenizer, special_id, within
from gptlab.training import evaluate
from gptlab.training.loop import Listener

if TYPE_CHECKING:
    from gptlab.training.log import Display

PASSES, FEWEST, MOST = 10, 100, (200, 400)  # over the examples, and in steps, at most for labels and for texts
EVALUATIONS = 10
WRITTEN = 200  # validation examples that are answered in writing for a score
FORGOTTEN = 128  # windows, or stories, of the pretraining text that are read before and after
# Peak learning rates for labels and for texts, found on the fables (docs/finetuning.md); of imported models, which are
# larger, what is usual.
RATES = {
    "muon": (0.001, 0.012),
    "adamw": (0.001, 0.002),
    "adapters": (0.003, 0.01),
    "imported muon": (0.001, 0.002),
    "imported adamw": (5e-5, 5e-5),
    "imported adapters": (3e-4, 3e-4),
}
TOGETHER = 64  # texts that are written side by side


def finetune(
    run: str | Path | None = None,
    *,
    task: str,
    out: str | Path | None = None,
    device: str = "auto",
    listeners: Sequence[Listener] = (),
    display: "Display | None" = None,
    **settings: Any,
) -> Run:
    """Train a run's model for a task, and return the run that is made; what `gptlab finetune` calls.

    run: a run directory, default the latest; settings: fields of FinetuneConfig. Raises ValueError for a task that does
    not fit the model, and for examples that cannot be used, with file and line; the parent stays as it is.
    """
    parent = Run(find(run))
    settings |= {name: lasting(settings[name]) for name in ("data", "validation") if settings.get(name)}
    config = FinetuneConfig(task=task, parent=str(parent.path.resolve()), **settings)
    path = new_path(parent, config) if out is None else Path(out)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is there already: go on with it by --resume, or choose another --out")
    config = config.but(parent_sha256=weights_hash(parent), data_sha256=hashes(config))
    examples = examples_of(config, parent.train_config)
    config = filled(config.but(labels=examples.labels), examples, parent)
    with explained(config.training(), parent.model_config, path):
        chosen = machine(device, config.precision)
        config = config.but(precision=chosen.precision)
        check_memory(
            parent.model_config,
            runtime.memory(chosen.device),
            optimizer=None if config.rank else config.optimizer,
            instead="fine-tune a smaller model" + ("" if config.rank else ", or adapters alone, by --rank 8"),
        )
        trainer = trainer_of(config, parent, examples, chosen)
        if display:
            told(display, trainer, parent)
        before = pretraining_loss(load(parent.path, device=device))
        made = Run.create(
            path,
            trainer.model.config,
            trainer.data.coder.tokenizer,
            train=parent.train_config,
            text=parent.text or None,
            finetune=config,
            environment=runtime.environment(),
        )
        with made.lock():
            if before is not None:
                made.add_metrics({"step": -1, "pretraining_loss": before})
            finish(made, trainer, listeners, display, device)
    return made


def go_on(
    run: Run,
    *,
    device: str = "auto",
    listeners: Sequence[Listener] = (),
    display: "Display | None" = None,
    **settings: Any,
) -> Run:
    """Resume a fine-tuning from its newest state, with more steps if `settings` say so.

    Raises ValueError where the parent, or the examples, are not there any more or have changed, and for a setting that
    it was not begun with.
    """
    config = run.finetune_config
    assert config is not None
    for name, value in settings.items():
        if name != "steps" and config.but(**{name: value}) != config:
            raise ValueError(
                f"{run.path} was begun with {name} = {getattr(config, name)!r}, not {value!r}; a fine-tuning that goes "
                "on keeps its settings, but for --steps"
            )
    parent = parent_of(config, run)
    if hashes(config) != config.data_sha256:
        raise ValueError(f"the examples have changed since {run.path} was begun: fine-tune anew, from {config.parent}")
    examples = examples_of(config, parent.train_config)
    if (steps := settings.get("steps")) is not None and steps != config.steps:
        done = max(run.states(), default=0)
        if steps < done:
            raise ValueError(f"{run.path} has done {done} steps already; --steps {steps} is less")
        config = config.but(steps=steps)
        run.set_finetune_config(config)
    with explained(config.training(), run.model_config, run.path), run.lock():
        chosen = machine(device, config.precision)
        trainer = trainer_of(config, parent, examples, chosen)
        finish(run, trainer, listeners, display, device)
    return run


def finish(
    run: Run,
    trainer: Finetuner,
    listeners: Sequence[Listener],
    display: "Display | None",
    device: str,
) -> None:
    """Train, score the best model once it is done, and write the report."""
    try:
        outcome = trainer.fit(run, [*([display] if display else []), *listeners])
    finally:
        if display:
            display.close()
    scored = any("scores" in record and record["step"] == outcome.step for record in run.metrics())
    if outcome.reason != "interrupted" and not scored:
        lab = load(run.path, device=device)
        scores = evaluate_task(lab, trainer.data.examples).told
        after = pretraining_loss(lab)
        if after is not None:
            scores["pretraining_loss"] = after
        run.add_metrics({"step": outcome.step, "scores": scores})
    report(run, display)


# What a fine-tuning begins with


def trainer_of(config: FinetuneConfig, parent: Run, examples: Examples, chosen: Choice) -> Finetuner:
    model, tokenizer, new = begun(config, parent, chosen.kernel)
    coder = coder_of(config, model.config, tokenizer, parent.train_config)
    encoded = Encoded.of(examples, coder, balanced=config.class_weights == "balanced")
    return Finetuner(model.to(chosen.device), encoded, config, new)


def parent_of(config: FinetuneConfig, run: Run) -> Run:
    """The run that was fine-tuned; ValueError where it is gone, or another model."""
    try:
        parent = Run(config.parent)
        same = weights_hash(parent) == config.parent_sha256
    except ValueError:
        raise ValueError(
            f"{run.path} was made of {config.parent}, which is not there any more: put it back to go on"
        ) from None
    if not same:
        raise ValueError(f"{config.parent} was trained on since {run.path} was made of it: fine-tune it anew")
    return parent


def weights_hash(run: Run) -> str:
    path = run.path / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: this run was stopped before its first weights were saved")
    return files.sha256(path)


def hashes(config: FinetuneConfig) -> tuple[str, ...]:
    """Of the files with examples; of one that is not there, nothing: reading it says so."""
    paths = [Path(name) for name in (config.data, config.validation) if name is not None]
    return tuple(files.sha256(path) if path.is_file() else "" for path in paths)


def examples_of(config: FinetuneConfig, trained: TrainConfig | None) -> Examples:
    if config.built_in:
        known = trained is not None and corpora.is_fables(trained.corpus)
        return builtin.make(config, fables.languages(trained.corpus) if known and trained else ())
    return data.read(config)


def examples_of_run(run: Run) -> Examples:
    """Those that a run was fine-tuned on; ValueError for a run without a task, and where they have changed."""
    config = run.finetune_config
    if config is None:
        raise ValueError(f"{run.path} was not fine-tuned, and has no task")
    if hashes(config) != config.data_sha256:
        paths = " and ".join(name for name in (config.data, config.validation) if name)
        raise ValueError(f"the examples of {run.path} have changed, or are not there any more: {paths}")
    return examples_of(config, run.train_config)


def languages(run: Run) -> tuple[str, ...]:
    """Those of a built-in task, of translation from and to; for answers, the last one counts."""
    config = run.finetune_config
    assert config is not None
    known = config.languages or fables.languages(run.train_config.corpus if run.train_config else "")
    return known[: 2 if config.kind == "translate" else 1]


def filled(config: FinetuneConfig, examples: Examples, parent: Run) -> FinetuneConfig:
    """With every default that depends on examples and model."""
    imported = parent.train_config is None
    optimizer = config.optimizer or ("adamw" if config.rank or imported else "muon")
    kind = "adapters" if config.rank else optimizer
    lr = config.lr or RATES[f"imported {kind}" if imported else kind][config.kind != "classify"]
    passes = math.ceil(PASSES * len(examples.train) / config.batch)
    steps = config.steps or min(MOST[config.kind != "classify"], max(FEWEST, passes))
    return config.but(
        optimizer=optimizer,
        lr=lr,
        lr_adam=config.lr_adam or 5 / 3 * lr,
        steps=steps,
        alpha=config.alpha or (2.0 * config.rank if config.rank else None),
        warmup=max(1, steps // 20) if config.warmup is None else config.warmup,
        eval_every=config.eval_every or math.ceil(steps / EVALUATIONS),
    )


def begun(config: FinetuneConfig, parent: Run, kernel: Any) -> tuple[Transformer, Tokenizer, list[int]]:
    """The model that is fine-tuned, its tokenizer, and the ids of the tokens that are new to both."""
    tokenizer = parent.tokenizer()
    names = special_tokens(tokenizer, parent.model_config, config.labels if config.head else ())
    tokenizer = tokenizer.extended(names)
    model = extended(
        parent.model(),
        tokenizer,
        len(names),
        context=config.context,
        seed=config.seed,
        kernel=kernel,
        dropout=config.dropout,
    )
    shape = bridged(model.config, tokenizer)
    if config.from_scratch:
        init = parent.train_config.init if parent.train_config else "gpt2"
        model = build(shape, seed=config.seed, init=init, dropout=config.dropout, kernel=kernel)
    model.config = shape
    return model.train(), tokenizer, [special_id(tokenizer, name) for name in names]


def lasting(path: str | Path) -> str:
    """A file's whole path, so that it is found again from any folder."""
    return str(Path(path).expanduser().resolve())


def new_path(parent: Run, config: FinetuneConfig) -> Path:
    """Beside the parent, PARENT-TASK."""
    return numbered(parent.path.with_name(f"{parent.name}-{config.task}"))


def told(display: "Display", trainer: Finetuner, parent: Run) -> None:
    """Say what is trained, on what, and what adapters save."""
    learned = sum(p.numel() for p in trainer.learning)
    # Of each parameter that learns, gradient and optimizer state: AdamW's two, Muon's one.
    total = sum(p.numel() for p in lora.merged(trainer.model).values()) if trainer.how.rank else learned
    sizes = {"train": len(trainer.data.train), "val": len(trainer.data.val)}
    display.said("finetuning", run=parent.path, task=trainer.how.task, **sizes)
    if trainer.how.rank:
        saved = 12 * (total - learned) / 1e6  # float32
        numbers = {"learned": learned, "total": total, "share": 100 * learned / total, "saved": saved}
        display.said("adapters", rank=trainer.how.rank, **numbers)
    else:
        display.said("all_weights", learned=learned)


# Scores


@dataclasses.dataclass(frozen=True)
class Result:
    """How well a model does its task on validation examples: the numbers by name, and what they are of."""

    told: dict[str, float]
    examples: list[Example]
    classification: Classification | None = None
    written: tuple[str, ...] = ()  # what the model answered


def evaluate_task(lab: Lab, examples: Examples | None = None, *, most: int | None = None, seed: int = 0) -> Result:
    """Score a fine-tuned model on its validation examples; ValueError for a run without a task, or changed examples.

    Labels: accuracy, F1 and calibration. Texts: the share that is exactly right, BLEU and chrF; where the answers are
    fables, the share of choices that they tell rightly. Translations are written greedily, answers to requests drawn.
    """
    config = lab.run.finetune_config
    if config is None:
        raise ValueError(f"{lab.run.path} was not fine-tuned, and has no task")
    examples = examples or examples_of_run(lab.run)
    coder = coder_of(config, lab.config, lab.tokenizer, lab.run.train_config)
    if config.kind == "classify":
        some = examples.val[:most]
        found = classified(lab.model, coder, config.labels, some)
        return Result(found.told(), some, found)
    some = examples.val[: most or WRITTEN]
    how = SampleConfig(tokens=lab.config.context, temperature=0 if config.kind == "translate" else 1, seed=seed)
    # Cut as they were in training, where they are too long.
    texts = answers(lab.model, lab.tokenizer, [coder.row(e).given for e in some], how)
    numbers: dict[str, float] = {}
    if config.built_in:
        lang = languages(lab.run)[-1]
        marks = [builtin.judged(text, e.choices, lang) for text, e in zip(texts, some, strict=True)]
        numbers["choices"] = float(np.mean([right for told, _ in marks for right in told.values()]))
        numbers["all_choices"] = float(np.mean([all(told.values()) for told, _ in marks]))
        numbers["whole"] = float(np.mean([whole for _, whole in marks]))
    if not (config.built_in and config.kind == "instruct"):  # any fable that has what was asked is a right answer
        numbers |= of_texts(texts, [e.output for e in some])
    return Result(numbers, some, written=tuple(texts))


def answers(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[NDArray[np.int64]], how: SampleConfig
) -> list[str]:
    """What a model writes after each prompt, up to <end>; prompts of the same length are answered side by side."""
    end = special_id(tokenizer, END)
    bridge = np.array(model.config.bridge if model.config.category == "causal" else (), np.int64)
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        by_length[len(prompt)].append(number)
    texts = [""] * len(prompts)
    bias = dict.fromkeys(range(tokenizer.vocab_size, model.vocab_size), -math.inf)
    for numbers in by_length.values():
        for some in (numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)):
            rows = np.stack([np.concatenate([prompts[i], bridge]) for i in some])
            left = model.context
            if model.config.category != "encoder-decoder":
                left -= len(prompts[some[0]]) + len(model.config.bridge)
            settings = how.but(tokens=max(1, min(how.tokens, left)), seed=how.seed + some[0])
            written: list[list[int]] = [[] for _ in some]
            open_ = set(range(len(some)))
            for chosen, _ in tokens(model, rows, settings, n=len(some), bias=bias):
                for i, token in enumerate(chosen.tolist()):
                    if token == end:
                        open_.discard(i)
                    elif i in open_:
                        written[i].append(token)
                if not open_:
                    break
            for i, ids in zip(some, written, strict=True):
                texts[i] = tokenizer.decode(ids)
    return texts


def pretraining_loss(lab: Lab) -> float | None:
    """Nats per token of the text that a model was pretrained on, over the same windows of its validation part each
    time: what fine-tuning makes it forget. None where that text is not at hand, or was never known."""
    trained = lab.run.train_config
    if trained is None:
        return None
    try:
        text = corpora.find(trained.corpus)
        if text.sha256 != lab.run.text.get("sha256"):
            raise ValueError("it has changed")
    except (ValueError, OSError) as error:
        warnings.warn(f"what was forgotten of {trained.corpus} is not measured: {error}", stacklevel=2)
        return None
    ids = corpora.prepare(text, lab.tokenizer).val
    context = min(lab.model.context, len(ids) - 1)
    starts = None
    if paragraphs(trained):  # a model of stories has learned to begin where they do
        starts = beginnings(ids, within(lab.tokenizer, PARAGRAPHS))
        starts = starts[starts < len(ids) - context]
    objective = objective_of(lab.config, lab.tokenizer, trained)
    return evaluate.window_loss(lab.model, ids, count=FORGOTTEN, context=context, objective=objective, starts=starts)


# Adapters alone


def export_adapter(run: str | Path | None, out: str | Path) -> str:
    """Write a fine-tuning by adapters for other libraries: OUT/base for transformers, OUT/adapter for peft.

    The base has the rows of the new tokens as they were learned. Returns the name of its class in transformers.
    ValueError for a run without adapters, or whose parent is gone, and for an architecture without such a class; that
    one's RUN/adapter is in peft's format, too, for the model as gptlab builds it.
    """
    out, found = Path(out), Run(find(run))
    config = found.finetune_config
    if config is None or not config.rank:
        raise ValueError(f"{found.path} has no adapters: it was {'trained whole' if config else 'not fine-tuned'}")
    if out.exists():
        raise ValueError(f"{out} is there already: choose another --out")
    model, tokenizer, new = begun(config, parent_of(config, found), sdpa)
    learned = load_tensors(found.path / "model.safetensors")
    with torch.no_grad():
        for name in lora.TABLES:
            if new and name in learned:
                getattr(model, name)[new] = learned[name][new]
    pairs = lora.read(found.path / "adapter")
    theirs = adapters.to_theirs(model.config, {name: (pair.A, pair.B) for name, pair in pairs.items()})
    scale = next(iter(pairs.values())).scale
    with files.write_whole(out) as folder:
        name = hf.write(model.eval(), tokenizer, folder / "base")
        there = {n: lora.Adapter(A, B, scale) for n, (A, B) in theirs.items()}
        lora.write(folder / "adapter", there, "base", transposed=adapters.transposed(model.config))
    return name


def import_adapter(source: str | Path, base: str | Path, out: str | Path | None = None) -> Run:
    """A run of a base run and an adapter in peft's format, merged into its weights.

    source: RUN/adapter of a fine-tuning, or a folder that peft wrote for the same model in transformers. ValueError for
    files that are missing or damaged, for kinds of adapters that are not W + scale B A, and for one of another model.
    """
    folder, parent = Path(source), Run(find(base))
    out = Path("runs") / folder.resolve().name if out is None else Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already: choose another --out")
    pairs = lora.read(folder)
    config, tokenizer, model = None, parent.tokenizer(), parent.model()
    if (folder / lora.TASK).is_file():
        config = FinetuneConfig.read(folder / lora.TASK)
        if weights_hash(parent) != config.parent_sha256:
            raise ValueError(f"{folder} was trained beside another model than {parent.path}: {config.parent}")
        model, tokenizer, new = begun(config, parent, sdpa)
        rows = load_tensors(folder / lora.TOKENS) if new else {}
        with torch.no_grad():
            for name, learned in rows.items():
                getattr(model, name)[new] = learned
        config = config.but(parent=str(parent.path.resolve()))
    weights = lora.merged(model)
    if not pairs.keys() <= weights.keys():
        theirs = {name: (pair.A, pair.B) for name, pair in pairs.items()}
        scale = next(iter(pairs.values())).scale
        ours = adapters.to_ours(model.config, theirs)
        pairs = {name: lora.Adapter(A, B, scale) for name, (A, B) in ours.items()}
    load_weights(model, lora.merge(weights, pairs), folder)
    made = Run.create(
        out, model.config, tokenizer, train=parent.train_config, text=parent.text or None, finetune=config
    )
    made.save_weights(model)
    return made
