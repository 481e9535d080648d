"""The command line: parses, then calls one function of `gptlab.lab`.

Each command is a dataclass of its options and a function; only the one that is asked for is built, and torch is
imported only when there is something to compute.
"""

import dataclasses
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional, Suppress, arg

from gptlab import config, files
from gptlab.messages import LANGUAGES, duration, filled, language, say
from gptlab.presets import settings_for

T = TypeVar("T")
Lang = Annotated[str | None, arg(metavar="{" + ",".join(LANGUAGES) + "}")]


@dataclass(frozen=True, kw_only=True)
class Train(config.TrainConfig):
    """Train a model on a text: a known one (see `gptlab corpora`), a file of your own, or a folder of files."""

    corpus: Positional[str] = "shakespeare"  # a known text's name, a file or a folder
    out: Path | None = None  # the run directory to make; default runs/TEXT-PRESET
    resume: bool = False  # go on with the run at --out (default: the latest); begin it if it is not there
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    quiet: bool = False  # print nothing but the result
    lang: Lang = None  # the language of what is said; default the locale's


def train(argv: list[str]) -> int:
    out, resume = option(argv, "--out"), "--resume" in argv
    saved = None
    if resume:
        from gptlab.run import Run, latest_run

        path = Path(out) if out else latest_run()
        there = Run(path) if (path / "config.toml").is_file() else None
        if there and there.finetune_config:
            return finetune(argv)
        saved = there.train_config if there else None
    # The recipe's own numbers, or the run's, are the defaults that --help shows.
    base = saved or settings_for(option(argv, "--recipe") or "default", option(argv, "--preset"))
    args = parse("train", Train, argv, Train(**base.to_dict()))
    lang = language(args.lang)
    given = {
        f.name: getattr(args, f.name)
        for f in dataclasses.fields(config.TrainConfig)
        if getattr(args, f.name) != getattr(base, f.name)
    }
    given |= {"recipe": base.recipe, "preset": args.preset}

    from gptlab import lab
    from gptlab.training.log import Display

    display = Display(lang, quiet=args.quiet)
    try:
        given = {"corpus": args.corpus, **given}
        run = lab.train(out=args.out, resume=args.resume, device=args.device, display=display, **given)
    finally:
        display.close()
    ended(display, run, f"gptlab train --resume --out {run.path}", patience=args.patience)
    outcome = display.outcome
    assert outcome is not None
    if told := [m for m in run.metrics() if "story_loss" in m]:
        loss, floor = told[-1]["story_loss"], run.text["floor"]
        display.said("stories", loss=loss, floor=floor, above=100 * (loss / floor - 1))
        if not run.text["context_holds_stories"]:
            display.said("out_of_reach", context=run.model_config.context)
    display.said("saved", run=run.path, command=f"gptlab sample {run.path}")
    if run.report.is_file():
        display.said("report", path=run.report)
    print(json.dumps({"run": str(run.path), "step": outcome.best_step, "val_loss": outcome.best_loss}))
    return 130 if outcome.reason == "interrupted" else 0


def ended(display: Any, run: Any, go_on: str, *, patience: int | None) -> None:
    """Say how a training ended."""
    outcome = display.outcome
    assert outcome is not None
    numbers = {"loss": outcome.best_loss, "best": outcome.best_step, "step": outcome.step, "steps": outcome.steps}
    if outcome.reason == "interrupted":
        display.said("interrupted", command=go_on, **numbers)
    elif outcome.reason == "no better":
        display.said("no_better", patience=patience, **numbers)
    elif outcome.resumed_at == outcome.steps:
        display.said("already", command=f"{go_on} --steps {2 * outcome.steps}", **numbers)
    else:
        display.said("finished", time=duration(outcome.seconds, display.lang), **numbers)


@dataclass(frozen=True, kw_only=True)
class Finetune(config.FinetuneConfig):
    """Train a model for a task: labels, translation, or answers to requests.

    The tasks mood, translation and conditions are made of fables, and need no file.
    """

    run: Annotated[Positional[str | None], arg(metavar="[RUN]")] = None  # whose model; default: the latest run
    task: Annotated[str, arg(metavar="{" + ",".join(config.KINDS) + "}")] = "mood"  # what to learn
    out: Path | None = None  # the run directory to make; default RUN-TASK
    resume: bool = False  # go on with the fine-tuning at --out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    quiet: bool = False  # print nothing but the result
    lang: Lang = None  # the language of what is said; default the locale's
    parent: Suppress[str] = ""
    parent_sha256: Suppress[str] = ""
    data_sha256: Suppress[tuple[str, ...]] = ()
    labels: Suppress[tuple[str, ...]] = ()

    def check(self) -> None:
        if not self.resume:
            super().check()


def finetune(argv: list[str]) -> int:
    args = parse("finetune", Finetune, argv)
    lang = language(args.lang)
    usual = Finetune(resume=True)
    names = [f.name for f in dataclasses.fields(config.FinetuneConfig)]
    given = {name: getattr(args, name) for name in names if getattr(args, name) != getattr(usual, name)}

    from gptlab import lab, tasks
    from gptlab.run import Run
    from gptlab.training.log import Display

    display = Display(lang, quiet=args.quiet)
    how: dict[str, Any] = {"device": args.device, "display": display}
    try:
        if args.resume:
            run = tasks.go_on(Run(lab.find(args.out and str(args.out))), **how, **given)
        else:
            run = tasks.finetune(args.run, out=args.out, **how, **{**given, "task": args.task})
    finally:
        display.close()
    assert run.finetune_config is not None and display.outcome is not None
    ended(display, run, f"gptlab finetune --resume --out {run.path}", patience=run.finetune_config.patience)
    scores: dict[str, float] = next((m["scores"] for m in reversed(run.metrics()) if "scores" in m), {})
    before = next((m["pretraining_loss"] for m in run.metrics() if "pretraining_loss" in m), None)
    for name, value in scores.items():
        if name != "pretraining_loss":
            display.line(scored(name, value, lang))
    if before is not None and "pretraining_loss" in scores:
        display.said("forgotten", before=before, after=scores["pretraining_loss"])
    display.said("saved", run=run.path, command=f'gptlab sample {run.path} "…"')
    if run.report.is_file():
        display.said("report", path=run.report)
    outcome = display.outcome
    print(json.dumps({"run": str(run.path), "step": outcome.best_step, "val_loss": outcome.best_loss, **scores}))
    return 130 if outcome.reason == "interrupted" else 0


def scored(name: str, value: float, lang: str) -> str:
    """A line of a table of scores."""
    return f"  {say(name, lang):<44}{say('number', lang, value=value):>10}"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Let a model write: on from a prompt, or from nothing."""

    first: Annotated[Positional[str | None], arg(name="RUN", metavar="[RUN]")] = None  # default: the latest run
    second: Annotated[Positional[str | None], arg(name="PROMPT", metavar='["PROMPT"]')] = None  # what to go on from
    samples: int = 1  # how many, side by side
    interactive: bool = False  # ask for prompts until an empty line
    json: bool = False  # one JSON object with tokens and their log-probabilities (the model's own, in nats)
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    lang: Lang = None  # the language of what is said; default the locale's
    how: OmitArgPrefixes[config.SampleConfig] = field(default_factory=config.SampleConfig)


def sample(argv: list[str]) -> int:
    args = parse("sample", Sample, argv)
    run, prompt = args.first, args.second
    if prompt is None and run is not None and not names_run(run):
        run, prompt = None, run
    lang = language(args.lang)

    from gptlab import lab

    loaded = lab.load(run, device=args.device)
    task = loaded.run.finetune_config

    def write(prompt: str) -> None:
        if task is not None and task.kind == "classify":
            labelled(loaded, prompt, lang, as_json=args.json)
            return
        stream = loaded.samples(prompt, args.how, n=args.samples)
        if args.json:
            samples = {i: s for i, _, s in stream}
            found = [
                {
                    "text": s.text,
                    "ended": s.reason,
                    "tokens": [
                        {"id": t, "text": loaded.tokenizer.decode([t]), "logprob": p}
                        for t, p in zip(s.ids, s.logprobs, strict=True)
                    ],
                }
                for _, s in sorted(samples.items())
            ]
            print(json.dumps({"run": str(loaded.run.path), "prompt": prompt, "samples": found}, ensure_ascii=False))
            return
        if args.samples == 1:
            print(prompt, end="", flush=True)
            for _, text, _ in stream:
                print(text, end="", flush=True)
            print()
            return
        texts = [prompt] * args.samples
        for i, text, _ in stream:
            texts[i] += text
        for i, text in enumerate(texts):
            print(f"--- {i + 1} ---\n{text}")

    if not args.interactive:
        write(prompt or "")
        return 0
    if sys.stdin.isatty():
        print(say("interactive", lang), file=sys.stderr)
    while True:
        try:
            prompt = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return 0
        if not prompt:
            return 0
        write(prompt)


def labelled(loaded: Any, text: str, lang: str, *, as_json: bool) -> None:
    """Print the labels that a model gives a text, the likeliest first."""
    found = loaded.classify(text)
    if as_json:
        print(json.dumps({"run": str(loaded.run.path), "text": text, "labels": found}, ensure_ascii=False))
        return
    best = sorted(found.items(), key=lambda pair: -pair[1])
    print("   ".join(say("label_given", lang, label=label, share=100 * p) for label, p in best))


def names_run(text: str) -> bool:
    """Whether a lone argument of `sample` is a run and not a prompt."""
    path = Path(text)
    here = [(folder / "config.toml").is_file() for folder in (path, Path("runs") / path) if len(text) < 200]
    return any(here) or path.parts[:1] == ("runs",)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure how well a model predicts text: its own validation part, or another text.

    A fine-tuned model is measured by its task, unless a text is named.
    """

    run: Annotated[Positional[str | None], arg(metavar="[RUN]")] = None  # default: the latest run
    on: str | None = None  # a known text, a file or a folder: all of it, unless the run was trained on it
    windows: int = 6400  # random windows of the window loss
    limit: int = 200_000  # the most tokens that the sliding window reads
    json: bool = False  # one JSON object
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    lang: Lang = None  # the language of what is said; default the locale's


def evaluate(argv: list[str]) -> int:
    args = parse("evaluate", Evaluate, argv)
    lang = language(args.lang)

    from gptlab import lab

    loaded = lab.load(args.run, device=args.device)
    if loaded.run.finetune_config is not None and args.on is None:
        return evaluate_task(loaded, lang, as_json=args.json)
    result = lab.evaluate_on(loaded, args.on, windows=args.windows, limit=args.limit)
    if args.json:
        print(json.dumps(result))
        return 0
    what = say("validation_part" if result["validation_part"] else "whole_text", lang)
    print(say("evaluated_on", lang, run=loaded.run.path, text=result["text"], what=what))
    per_token = ("window_loss", "sliding_loss", "perplexity", "bits_per_character", "bits_per_byte")
    for entry in (*per_token, "story_loss", "floor", "excess"):
        if result.get(entry) is not None:
            print(f"  {say(entry, lang):<44}{say('number', lang, value=result[entry]):>10}")
    if not result.get("context_holds_stories", True):
        print(say("out_of_reach", lang, context=loaded.model.context))
    if result["limited"]:
        print(say("limited", lang, tokens=args.limit), file=sys.stderr)
    return 0


def evaluate_task(loaded: Any, lang: str, *, as_json: bool) -> int:
    """How well a fine-tuned model does its task."""
    from gptlab import tasks

    task = loaded.run.finetune_config
    result = tasks.evaluate_task(loaded)
    if as_json:
        print(json.dumps({"run": str(loaded.run.path), "task": task.task, **result.told}))
        return 0
    print(say("on_task", lang, run=loaded.run.path, task=task.task, number=len(result.examples)))
    for name, value in result.told.items():
        print(scored(name, value, lang))
    return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run's report: one page to read, to keep and to print, in RUN/report.html."""

    run: Annotated[Positional[str | None], arg(metavar="[RUN]")] = None  # default: the latest run
    open: bool = False  # show it in the browser
    lang: Lang = None  # the language of the page; default the locale's


def report(argv: list[str]) -> int:
    args = parse("report", Report, argv)
    lang = language(args.lang)

    from gptlab import lab
    from gptlab.report import page
    from gptlab.run import Run

    return written(page.write(Run(lab.find(args.run)), lang), lang, args.open)


@dataclass(frozen=True, kw_only=True)
class CompareRuns:
    """Write one page with several runs side by side: curves, numbers, settings, samples."""

    runs: Annotated[Positional[tuple[str, ...]], arg(name="RUN", metavar="RUN [RUN ...]")]  # two or more
    out: Path = Path("runs/compare.html")  # the page to write
    open: bool = False  # show it in the browser
    lang: Lang = None  # the language of the page; default the locale's


def compare_runs(argv: list[str]) -> int:
    args = parse("compare-runs", CompareRuns, argv)
    lang = language(args.lang)

    from gptlab import lab
    from gptlab.report import page
    from gptlab.run import Run

    return written(page.compare([Run(lab.find(run)) for run in args.runs], lang, args.out), lang, args.open)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train several architectures on the same text with the same budget, and put their curves on one page.

    All are scored in nats per character of the second half of a story, given its first.
    """

    names: Annotated[Positional[tuple[str, ...]], arg(name="NAME", metavar="NAME NAME [NAME ...]")]  # presets
    corpus: str = "fables"  # a known text's name, a file or a folder
    steps: int = 500  # optimizer steps of each
    tokenizer: str = "char"  # char, bpe (trained on the text) or gpt2
    vocab_size: int | None = None  # of a bpe tokenizer; default 1024
    context: int | None = None  # tokens seen at once; default the shortest of the presets'
    batch: int = 32  # windows per optimizer step
    seed: int = 0  # everything random follows from it
    out: Path = Path("runs/compare")  # the folder to make: a run for each, and compare.html
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    quiet: bool = False  # print nothing but the result
    lang: Lang = None  # the language of what is said, and of the page; default the locale's


def compare(argv: list[str]) -> int:
    args = parse("compare", Compare, argv)
    lang = language(args.lang)

    from gptlab.compare import compare
    from gptlab.training.log import Display

    display = Display(lang, quiet=args.quiet)
    settings = {name: getattr(args, name) for name in ("steps", "tokenizer", "batch", "seed")}
    settings |= {name: getattr(args, name) for name in ("context", "vocab_size") if getattr(args, name) is not None}
    try:
        results = compare(
            args.names, corpus=args.corpus, out=args.out, lang=lang, device=args.device, display=display, **settings
        )
    finally:
        display.close()
    head = ("", say("parameters", lang), say("training_time", lang), say("half_loss", lang))
    rows = [
        (r.name, f"{r.parameters:,}", duration(r.seconds, lang), say("number", lang, value=r.loss)) for r in results
    ]
    table([head, *rows])
    return written(args.out / "compare.html", lang, False)


def written(path: Path, lang: str, show: bool) -> int:
    """Say where a page is, and show it in the browser if that is wanted."""
    print(say("report", lang, path=path))
    if show:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def experiment(argv: list[str]) -> int:
    """`gptlab experiment NAME [RUN]`: without a name, the list of them."""
    from gptlab.experiments.options import EXPERIMENTS

    if not argv or argv[0] in ("-h", "--help"):
        print("gptlab experiment NAME [RUN] [options]; gptlab experiment NAME --help shows the options\n")
        table([(f"  {name}", (options.__doc__ or "").partition("\n")[0]) for name, options in EXPERIMENTS.items()])
        return 0
    name = argv[0]
    if name not in EXPERIMENTS:
        raise config.unknown("experiment", name, EXPERIMENTS)
    args = parse(f"experiment {name}", EXPERIMENTS[name], argv[1:])
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(args)}
    lang, run, device = (language(given.pop("lang")), given.pop("run"), given.pop("device"))

    from gptlab import lab
    from gptlab.experiments.base import conduct

    section = conduct(name, lab.load(run, device=device), lang=lang, **given)
    for block in section.blocks:
        if block["kind"] == "text":
            print(block["text"][lang], end="\n\n")
        elif block["kind"] == "table":
            rows = [
                [filled("{value:,.4g}", lang, value=c) if isinstance(c, float) else str(c) for c in row]
                for row in block["rows"][lang]
            ]
            table([block["head"][lang], *rows])
            print()
    print(say("section", lang, folder=section.folder, report=section.report))
    return 0


@dataclass(frozen=True, kw_only=True)
class Import:
    """Make a run of a model from elsewhere: of Hugging Face's transformers, or of the old GPTLab; or of an adapter."""

    source: Annotated[Positional[str], arg(name="SOURCE", metavar="SOURCE")]  # a folder, or a name on the hub
    out: Path | None = None  # the run directory to make; default runs/ and the last part of SOURCE
    base: str | None = None  # of an adapter in peft's format, as in RUN/adapter: the run that it is merged into
    lang: Lang = None  # the language of what is said; default the locale's


def import_(argv: list[str]) -> int:
    args = parse("import", Import, argv)
    lang = language(args.lang)

    from gptlab import lab
    from gptlab.model.count import count

    if args.base is not None:
        from gptlab import tasks

        run = tasks.import_adapter(args.source, args.base, args.out)
        print(say("merged", lang, run=run.path, base=args.base, command=f"gptlab sample {run.path}"))
        return 0
    run = lab.import_run(args.source, args.out)
    parameters = count(run.model_config).total
    print(say("imported", lang, run=run.path, parameters=parameters, command=f"gptlab sample {run.path}"))
    return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run's best model in another library's form, with its tokenizer."""

    run: Annotated[Positional[str | None], arg(metavar="[RUN]")] = None  # default: the latest run
    to: str = "hf"  # hf: a folder for transformers; peft: of adapters, with their base in a folder beside them
    out: Path  # the folder to make
    lang: Lang = None  # the language of what is said; default the locale's


def export(argv: list[str]) -> int:
    args = parse("export", Export, argv)
    lang = language(args.lang)

    from gptlab import lab

    if args.to == "peft":
        from gptlab import tasks

        name = tasks.export_adapter(args.run, args.out)
        base = f'transformers.{name}.from_pretrained("{args.out}/base")'
        command = f'peft.PeftModel.from_pretrained({base}, "{args.out}/adapter")'
        print(say("exported_adapter", lang, folder=args.out, command=command))
        return 0
    name = lab.export_run(args.run, args.out, to=args.to)
    command = f'transformers.{name}.from_pretrained("{args.out}")'
    print(say("exported", lang, folder=args.out, command=command))
    return 0


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look at this machine: its speed, whether it computes rightly, what training will use. Status 1: it is unwell."""

    json: bool = False  # one JSON object: rates in GFLOP/s, sizes in bytes
    lang: Lang = None  # the language of what is said; default the locale's


def doctor(argv: list[str]) -> int:
    args = parse("doctor", Doctor, argv)
    lang = language(args.lang)

    from gptlab.doctor import examine

    report = examine()
    if args.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
        return 1 if report.findings else 0
    table(report.rows(lang))
    print()
    if report.findings:
        print(say("what_is_wrong", lang))
        for finding in report.findings:
            print(f"- {finding.told(lang)}")
    else:
        print(say("all_well", lang))
    print(report.verdict(lang))
    return 1 if report.findings else 0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure this machine, in about four minutes: products, training, sampling, start-up, each beside its bound."""

    only: str | None = None  # one part alone: training, sampling or startup
    quick: bool = False  # a third of the time, and more noise
    corpus: str | None = None  # the text of the losses; default the tales or Shakespeare if at hand, else the fables
    seed: int = 0  # of weights, windows and samples
    out: Path | None = None  # the JSON file to write; default runs/bench-TIME.json
    json: bool = False  # print that JSON object instead of the table
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    lang: Lang = None  # the language of what is said; default the locale's


def bench(argv: list[str]) -> int:
    args = parse("bench", Bench, argv)
    lang = language(args.lang)
    out = args.out or Path("runs") / f"bench-{time.strftime('%Y-%m-%d-%H%M%S')}.json"
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name the JSON file to write")
    if args.seed < 0:
        raise ValueError(f"seed must be 0 or more, not {args.seed}")

    from gptlab import bench
    from gptlab.doctor import place

    if not place(out.parent)["writable"]:
        raise ValueError(f"--out {out} cannot be written: choose a file in another folder")
    plan = bench.plan(quick=args.quick, corpus=args.corpus, seed=args.seed)
    report = bench.measure(plan, only=args.only, device=args.device, lang=lang)
    written = json.dumps(report.to_dict(), ensure_ascii=False)
    files.write_text(out, written + "\n")
    if args.json:
        print(written)
        return 0
    print(report.told(lang))
    print("\n" + say("bench_saved", lang, path=out, time=duration(report.seconds, lang)))
    return 0


@dataclass(frozen=True, kw_only=True)
class Runs:
    """List the runs in a folder, the one last written to at the end."""

    folder: Annotated[Positional[Path], arg(metavar="[FOLDER]")] = Path("runs")
    lang: Lang = None  # the language of what is said; default the locale's


def runs(argv: list[str]) -> int:
    args = parse("runs", Runs, argv)
    lang = language(args.lang)

    from gptlab.run import Run, find_runs

    rows = []
    for path in find_runs(args.folder):
        run = Run(path)
        losses = [(m["val_loss"], m["step"]) for m in run.metrics() if "val_loss" in m]
        steps = f"{run.metrics()[-1]['step']}" if losses else "–"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime((path / "config.toml").stat().st_mtime))
        rows.append((str(path), steps, say("number", lang, value=min(losses)[0]) if losses else "–", when))
    if not rows:
        print(say("no_runs", lang), file=sys.stderr)
        return 0
    table([("", say("step", lang), say("validation_loss", lang), say("written", lang)), *rows])
    return 0


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """List the texts that are known by name."""


def corpora(argv: list[str]) -> int:
    parse("corpora", Corpora, argv)
    from gptlab.text.corpora import CORPORA

    for lang, name in LANGUAGES.items():
        print(f"fables:{lang}  written here: little animal fables, {name}")
    print("fables:en+pt  two or more languages, mixed; fables is fables:en")
    table([(c.name, c.language, f"{c.bytes:,} bytes", c.title) for c in CORPORA.values()])
    return 0


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that --preset knows: parts, sizes, exact numbers of parameters, and what was published."""

    names: Annotated[Positional[tuple[str, ...]], arg(name="NAME", metavar="[NAME ...]")] = ()  # default: all of them
    wide: bool = False  # every column, and what papers and tables disagree on; needs a terminal of 220 columns
    json: bool = False  # one JSON object with everything
    lang: Lang = None  # the language of notes and headings; default the locale's


def models(argv: list[str]) -> int:
    args = parse("models", Models, argv)
    lang = language(args.lang)

    from gptlab.presets import ALIASES
    from gptlab.survey import table as survey

    rows = survey.rows(args.names)
    if args.json:
        print(json.dumps({"models": [row.to_dict(lang) for row in rows], "aliases": ALIASES}, ensure_ascii=False))
        return 0
    print(survey.printed(rows, lang, wide=args.wide, notes=args.wide or bool(args.names)))
    if not args.names:
        print("; ".join(f"{alias} = {name}" for alias, name in ALIASES.items()))
    return 0


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show a model's modules and shapes, its parameters, operations and memory; and draw it."""

    model: Annotated[Positional[str | None], arg(name="NAME", metavar="[NAME | RUN]")] = None  # default: the latest run
    batch: int = 1  # texts at once
    length: int | None = None  # tokens of each; default the model's context
    precision: Literal["fp32", "bf16"] = "fp32"  # of weights, gradients, activations and cache
    out: Path | None = None  # an SVG file to draw the model into
    json: bool = False  # one JSON object: operations, and sizes in bytes
    device: str = "auto"  # whose memory is meant: auto, cpu, cuda, cuda:1, mps
    lang: Lang = None  # the language of what is said and drawn; default the locale's


def show(argv: list[str]) -> int:
    args = parse("show", Show, argv)
    lang = language(args.lang)

    from gptlab import lab

    summary = lab.summary(
        args.model, batch=args.batch, length=args.length, precision=args.precision, device=args.device
    )
    print(json.dumps(summary.to_dict(), ensure_ascii=False) if args.json else summary.told(lang))
    if args.out is not None:
        from gptlab.survey.diagram import draw

        files.write_text(args.out, draw(summary, lang))
        print(say("drawn", lang, path=args.out), file=sys.stderr)
    return 0


def lesson(argv: list[str]) -> int:
    """`gptlab lesson [N]`, `gptlab lesson check N`, `gptlab lesson key N`."""
    from gptlab.teach import options

    if argv and argv[0] in options.LESSON:
        return exercises(argv[0], parse(f"lesson {argv[0]}", options.LESSON[argv[0]], argv[1:]))
    args = parse("lesson", options.Lesson, argv)
    lang = language(args.lang)
    if args.number is None:
        if args.notebook:
            raise ValueError("--notebook needs the number of a lesson: gptlab lesson 0 --notebook")
        return lessons_listed(lang)

    from gptlab.teach import notebook, terminal

    if args.notebook:
        path = notebook.write(args.number, lang, args.out, run=args.run, own=args.own)
        print(say_of_course("notebook_written", lang, path=path))
        return 0
    terminal.show(terminal.opened(args.number, lang, args.run, own=args.own), args.figures, page=args.page)
    return 0


def exercises(what: str, args: Any) -> int:
    """Ask a lesson's exercises, or print their key."""
    from gptlab.teach import lesson, terminal

    lang = language(args.lang)
    given = None
    if what == "check" and args.answers is not None:
        given = terminal.read_answers(args.answers, lesson.load(lesson.find(args.number), lang))
    played = terminal.opened(args.number, lang, args.run, own=args.own)
    if what == "key":
        terminal.key(played)
    else:
        terminal.check(played, given)
    return 0


def lessons(argv: list[str]) -> int:
    """`gptlab lessons --html DIR`: the course as pages."""
    from gptlab.teach import options

    args = parse("lessons", options.Lessons, argv)
    langs = tuple(LANGUAGES) if args.lang == "all" else tuple(language(lang) for lang in args.lang.split(","))
    if args.html is None:
        return lessons_listed(language() if args.lang == "all" else langs[0])

    from gptlab.teach import pages

    path = pages.build(args.html, langs, args.numbers)[0]
    print(say_of_course("pages_written", language(), path=path))
    if args.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def lessons_listed(lang: str) -> int:
    from gptlab.teach import contents

    contents.listed(lang)
    return 0


def say_of_course(entry: str, lang: str, **values: object) -> str:
    from gptlab.teach.words import say

    return say(entry, lang, **values)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "finetune": finetune,
    "sample": sample,
    "evaluate": evaluate,
    "report": report,
    "compare-runs": compare_runs,
    "experiment": experiment,
    "lesson": lesson,
    "lessons": lessons,
    "compare": compare,
    "import": import_,
    "export": export,
    "doctor": doctor,
    "bench": bench,
    "runs": runs,
    "corpora": corpora,
    "models": models,
    "show": show,
}


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit status is 2 for a user's mistake, which is told in one message."""
    warnings.showwarning = show_warning
    if not argv or argv[0] in ("-h", "--help", "help", "--lang"):
        try:
            print(say("guide", language(option(list(argv), "--lang"))).strip())
        except ValueError as error:
            return failed(error)
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("gptlab"))
        return 0
    try:
        if argv[0] not in COMMANDS:
            raise config.unknown("command", argv[0], COMMANDS)
        return COMMANDS[argv[0]](list(argv[1:]))
    except BrokenPipeError:  # as of `gptlab sample | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        return failed(error)


def failed(error: Exception) -> int:
    if os.environ.get("GPTLAB_TRACEBACK"):
        raise error
    print(f"gptlab: {error}", file=sys.stderr)
    return 2


def show_warning(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
    if issubclass(category, UserWarning):
        print(f"gptlab: {message}", file=sys.stderr)


def parse(command: str, kind: type[T], argv: list[str], default: T | None = None) -> T:
    """The options of a command; on a wrong one, tyro prints what is wrong and exits with status 2."""
    prog = f"gptlab {command}"
    return (
        tyro.cli(kind, args=argv, prog=prog)
        if default is None
        else tyro.cli(kind, args=argv, prog=prog, default=default)
    )


def option(argv: list[str], name: str) -> str | None:
    """An option's value, before all are parsed."""
    for i, word in enumerate(argv):
        if word == name and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
