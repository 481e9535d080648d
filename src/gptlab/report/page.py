"""The pages: a run's report, and several runs compared. Each is one HTML file that loads nothing."""

import base64
import math
import mimetypes
import re
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gptlab import files
from gptlab.messages import catalogue, duration, filled, say
from gptlab.report.facts import Facts, command_of, quoted, spread
from gptlab.report.figures import SHAPES, Chart, Curve, drawn, inlined
from gptlab.run import Run

HERE = Path(__file__).parent
SAMPLES = 5  # shown of those written on the way
LANGUAGE = re.compile(r'(<html lang=)"\w+"')
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # HTML has no place for them


def write(run: Run, lang: str) -> Path:
    """Write RUN/report.html in a language, and return its path. A run without metrics gets what there is."""
    facts = Facts(run)
    page = Page(lang)
    content = page.render(
        "run.html",
        facts=facts,
        run=run,
        charts=page.charts(facts),
        advice=page.advice(facts),
        samples=spread(run.samples(), SAMPLES),
        parts=page.parts(facts),
        sections=page.sections(run),
        commands=page.commands(facts),
        environment=page.environment(run),
        duration=lambda seconds: duration(seconds, lang),
        exp=math.exp,
    )
    files.write_text(run.report, content)
    return run.report


def compare(runs: Sequence[Run], lang: str, out: Path) -> Path:
    """Write one page with several runs side by side, and return its path. ValueError for less than two."""
    if len(runs) < 2:
        raise ValueError(f"compare-runs needs two runs or more, not {len(runs)}")
    page = Page(lang)
    every = [Facts(run) for run in runs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    per_character = all(facts.tokens_per_character is not None for facts in every if facts.val)
    # Nats per token -> the unit that all share.
    factors = [(facts.tokens_per_character or 1.0) if per_character else 1.0 for facts in every]
    halves = all(facts.half for facts in every)  # a measure that any two architectures share
    kinds = {(facts.config.tokenizer, facts.model.vocab_size) for facts in every if facts.config}
    content = page.render(
        "compare.html",
        names=names,
        every=every,
        per_character=per_character,
        halves=halves,
        tokenizers_differ=len(kinds) > 1,
        texts_differ=len({facts.text.get("sha256") for facts in every}) > 1,
        charts=page.compared(names, every, factors, "char" if per_character else "token"),
        rows=page.rows(every, factors, per_character),
        differing=page.differing(every),
        samples=[(name, run.samples()[-1:]) for name, run in zip(names, runs, strict=True)],
    )
    files.write_text(out, content)
    return out


@cache
def templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class Page:
    """What the pages show, in one language."""

    def __init__(self, lang: str) -> None:
        self.lang, self.figures = lang, 0

    def t(self, entry: str, **values: object) -> str:
        """An entry of the report's own catalogue."""
        return filled(catalogue(self.lang, HERE)[entry], self.lang, **values)

    def prose(self, entry: str, **values: object) -> Markup:
        """The same, with `names in backticks` set as code."""
        return Markup(re.sub(r"`(.*?)`", r"<code>\1</code>", str(escape(self.t(entry, **values)))))

    def say(self, entry: str, **values: object) -> str:
        """An entry of the program's catalogue."""
        return say(entry, self.lang, **values)

    def number(self, value: object, spec: str = ",") -> str:
        """A number as the language writes it; anything else as it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        return filled(f"{{value:{spec}}}", self.lang, value=value)

    def render(self, template: str, **values: Any) -> str:
        style = (HERE / "templates" / "style.css").read_text(encoding="utf-8")
        words: dict[str, Any] = {"t": self.t, "prose": self.prose, "say": self.say, "number": self.number}
        about = {"lang": self.lang, "style": Markup(style), "version": version("gptlab")}
        html = templates().get_template(template).render(**words, **about, **values)
        return CONTROL.sub("\N{REPLACEMENT CHARACTER}", html)

    def figure(self, chart: Chart, alt: str) -> dict[str, Markup]:
        """A chart in each shape."""
        return {shape: self.inlined(drawn(chart, self.lang, shape), alt) for shape in SHAPES}

    def inlined(self, svg: str, alt: str) -> Markup:
        self.figures += 1
        return inlined(svg, f"f{self.figures}-", alt)

    # A run's report

    def charts(self, facts: Facts) -> dict[str, dict[str, Markup]]:
        """The figures that the measurements allow, by name."""
        found = {}
        if facts.best:
            curves = [
                Curve(self.t(loss), *columns(points), number=number, marked=number == 1)
                for number, (loss, points) in enumerate(
                    (("training_loss", facts.train), ("validation_loss", facts.val)),
                )
            ]
            guess = [] if facts.finetune else [(self.t("guessing", value=facts.guess), facts.guess)]
            chart = Chart(curves, self.t("axis_step"), self.t("axis_token"), guess)
            ends = {"first": facts.val[0][2], "last": facts.val[-1][2], "best": facts.best[2]}
            found["curves"] = self.figure(chart, self.t("curves_alt", **ends))
        if facts.story and facts.floor:
            level = [(self.t("the_floor", value=facts.floor), facts.floor)]
            curve = Curve(self.t("story_loss"), *columns(facts.story), marked=True)
            chart = Chart([curve], self.t("axis_step"), self.t("axis_char"), level, logarithmic=True, shaded=True)
            ends = {"first": facts.story[0][2], "last": facts.story[-1][2], "floor": facts.floor}
            found["stories"] = self.figure(chart, self.t("stories_alt", **ends))
        return found

    def advice(self, facts: Facts) -> list[tuple[int, str]]:
        """(step, sentence) of what was noticed; what a later version may have noticed, this one cannot say."""
        known = catalogue(self.lang)
        found = [(record, f"advice_{record['advice']}") for record in facts.advice]
        return [(record["step"], self.say(entry, **record)) for record, entry in found if entry in known]

    def parts(self, facts: Facts) -> list[tuple[str, str, int, float]]:
        """(part, what it is, parameters, share of all) of each part that has any."""
        model, total = facts.model, facts.parameters.total
        sizes = {"vocabulary": model.vocab_size, "context": model.context}
        sizes |= {"layers": model.n_layers, "heads": model.n_heads}
        rows = []
        for part, number in vars(facts.parameters).items():
            suffix = "tied" if part == "embedding" and model.tied_embeddings else "is"
            width = model.d_embedding if part == "embedding" else model.d_model
            if number:
                what = self.t(f"part_{part}_{suffix}", d_model=width, **sizes)
                rows.append((self.t(f"part_{part}"), what, number, number / total))
        return rows

    def commands(self, facts: Facts) -> list[tuple[str, list[str]]]:
        """(what for, lines to copy)."""
        run, config = quoted(facts.run.path), facts.config
        if facts.finetune:
            resume = f"gptlab finetune --resume --out {run} --steps {2 * facts.step}"
            ask = "gptlab sample {} {}".format(run, '"…"')
            every = [("go_sample", ask), ("go_evaluate", f"gptlab evaluate {run}"), ("go_finetune", resume)]
            return [(self.t(entry), [line]) for entry, line in every]
        on = "" if config else " --on shakespeare"  # an imported run names no text of its own
        found = [("go_sample", [f"gptlab sample {run} --temperature 1.2", f"gptlab sample {run} --temperature 0.5"])]
        found.append(("go_evaluate", [f"gptlab evaluate {run}{on}"]))
        if config is None:
            return [(self.t(entry), lines) for entry, lines in found]
        resume = f"gptlab train --resume --out {run}"
        if facts.step < (config.steps or 0):
            found.append(("go_resume", [resume]))
        else:
            found.append(("go_train", [f"{resume} --steps {2 * facts.step}"]))
        other = facts.run.path.with_name(f"{facts.run.name}-other")
        again = f"gptlab train {quoted(config.corpus)} {facts.flags(lr=config.lr / 2)}"
        lines = [f"{again} --out {quoted(other)}", f"gptlab compare-runs {run} {quoted(other)}"]
        found.append(("go_compare", lines))
        return [(self.t(entry), lines) for entry, lines in found]

    def environment(self, run: Run) -> list[tuple[str, str]]:
        """(name, value) of what is recorded about the machine and the versions."""
        recorded = run.environment()
        metrics = run.path / "metrics.jsonl"
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(metrics.stat().st_mtime)) if metrics.is_file() else None
        values = {**recorded, "command": command_of(recorded), "ended": ended, "text": run.text.get("sha256")}
        names = ("command", "ended", "gptlab", "python", "torch", "numpy", "system", "processor", "threads", "gpu")
        return [(self.t(f"env_{name}"), str(values[name])) for name in (*names, "text") if values.get(name)]

    def sections(self, run: Run) -> list[dict[str, Any]]:
        """What experiments left, in this language; else in English, or as it is."""
        return [
            {"title": self.one_of(section["title"]), "blocks": [self.block(b, folder) for b in section["blocks"]]}
            for folder, section in run.sections()
        ]

    def one_of(self, texts: dict[str, Any]) -> Any:
        return texts.get(self.lang) or texts.get("en") or next(iter(texts.values()))

    def block(self, block: dict[str, Any], folder: Path) -> dict[str, Any]:
        """A block of a section, ready for the template."""
        kind = block["kind"]
        if kind == "text":
            return {"kind": kind, "text": self.one_of(block["text"])}
        if kind == "table":
            cells = self.one_of(block["rows"])
            rows = [[self.number(c, ",.4g" if isinstance(c, float) else ",") for c in row] for row in cells]
            numeric = [
                all(isinstance(row[i], int | float) for row in cells) for i in range(len(cells[0]) if cells else 0)
            ]
            return {"kind": kind, "head": self.one_of(block["head"]), "rows": rows, "numeric": numeric}
        if kind == "page":
            # A page of its own within this one: it runs its script where it can reach nothing else.
            content = LANGUAGE.sub(
                rf'\1"{self.lang}"', (folder / Path(block["file"]).name).read_text(encoding="utf-8"), 1
            )
            title = self.one_of(block["title"])
            return {"kind": kind, "content": content, "title": title, "height": int(block["height"])}
        caption, alt = self.one_of(block["caption"]), self.one_of(block["alt"])
        if kind == "film":
            film, poster = (embedded(folder / Path(block[part]).name) for part in ("file", "poster"))
            return {"kind": kind, "film": film, "poster": poster, "caption": caption, "alt": alt}
        shapes = {
            shape: self.image(folder / Path(file).name, alt) for shape, file in self.one_of(block["file"]).items()
        }
        return {"kind": "figure", "shapes": shapes, "caption": caption}

    def image(self, path: Path, alt: str) -> Markup:
        if path.suffix == ".svg":
            return self.inlined(path.read_text(encoding="utf-8"), alt)
        return Markup('<img src="{}" alt="{}">').format(embedded(path), alt)

    # Runs compared

    def compared(
        self, names: Sequence[str], every: Sequence[Facts], factors: Sequence[float], unit: str
    ) -> dict[str, dict[str, Markup]]:
        """Validation losses over steps and over seconds, and whole stories where there are any."""
        runs = list(zip(range(len(names)), names, every, factors, strict=True))
        halves = all(facts.half for facts in every)
        series = [
            f.half if halves else [(step, at, loss * factor) for step, at, loss in f.val] for *_, f, factor in runs
        ]
        best = [
            f"{name} {self.number(min(p[2] for p in s), ',.3f')}" for name, s in zip(names, series, strict=True) if s
        ]
        alt = self.t("compare_alt", listed="; ".join(best))
        found = {}
        for axis, at in (("step", 0), ("seconds", 1)):
            curves = [
                Curve(name, [p[at] for p in s], [p[2] for p in s], number)
                for number, (name, s) in enumerate(zip(names, series, strict=True))
                if s
            ]
            if curves:
                found[axis] = self.figure(Chart(curves, self.t(f"axis_{axis}"), self.t(f"axis_{unit}")), alt)
        stories = [Curve(name, *columns(f.story), number) for number, name, f, _ in runs if f.story]
        if stories:
            floors = sorted({f.floor for f in every if f.floor})
            levels = [(self.t("the_floor", value=floor), floor) for floor in floors]
            chart = Chart(stories, self.t("axis_step"), self.t("axis_char"), levels, logarithmic=True)
            found["stories"] = self.figure(chart, self.t("story_curves_mean"))
        return found

    def rows(
        self, every: Sequence[Facts], factors: Sequence[float], per_character: bool
    ) -> list[tuple[str, list[str]]]:
        """(name, a cell for each run) of the table of numbers."""
        unit = "char" if per_character else "token"

        def row(name: str, value: Callable[[Facts], Any], spec: str = ",") -> tuple[str, list[str]]:
            values = [value(facts) for facts in every]
            return name, [self.t("nothing") if v is None else self.number(v, spec) for v in values]

        losses = [f.best[2] * factor if f.best else None for f, factor in zip(every, factors, strict=True)]
        loss_of = dict(zip(map(id, every), losses, strict=True))
        rows = [
            row(self.t("row_model"), lambda f: f.config.preset if f.config else f.model.family),
            row(self.t("fact_parameters"), lambda f: f.parameters.total),
            row(self.t("row_text"), lambda f: f.text.get("name")),
            row(self.t("row_tokenizer"), lambda f: f.config and f"{f.config.tokenizer}, {f.model.vocab_size}"),
            row(self.t("row_steps"), lambda f: f.step or None),
            row(self.t("row_time"), lambda f: duration(f.seconds, self.lang) if f.seconds else None),
            row(self.t(f"row_loss_{unit}"), lambda f: loss_of[id(f)], ",.4f"),
            row(self.t("row_bits"), lambda f: f.bits_per_character, ",.4f"),
        ]
        if all(f.half for f in every):
            rows.insert(6, row(self.t("row_half"), lambda f: f.half[-1][2], ",.4f"))
        if any(f.story for f in every):
            rows.append(row(self.t("row_story"), lambda f: f.story[-1][2] if f.story else None, ",.4f"))
        return rows

    def differing(self, every: Sequence[Facts]) -> list[tuple[str, list[str]]]:
        """(setting, its value in each run) where they are not the same."""
        found = []
        tables = [[dict(vars(f.model)), dict(vars(f.config)) if f.config else {}] for f in every]
        for number, table in enumerate(("model", "train")):
            of_runs = [pair[number] for pair in tables]
            for name in dict.fromkeys(name for values in of_runs for name in values):
                values = [values.get(name, self.t("nothing")) for values in of_runs]
                if any(value != values[0] for value in values):
                    found.append((f"{table}.{name}", [self.t("none") if v is None else str(v) for v in values]))
        return found


def embedded(path: Path) -> str:
    """A file as a data: address."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{mimetypes.guess_type(path.name)[0]};base64,{data}"


def columns(points: Sequence[tuple[int, float, float]]) -> tuple[list[float], list[float]]:
    """Steps and losses."""
    return [point[0] for point in points], [point[2] for point in points]
