"""The report and the comparison, read as a browser reads them: parsed, and held against the run's own files."""

import json
import math
import re
import shutil
import string
import tomllib
import webbrowser
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from gptlab import lab
from gptlab.cli import Train, parse
from gptlab.config import ModelConfig, recipe
from gptlab.messages import LANGUAGES, catalogue, duration
from gptlab.model.count import PARTS
from gptlab.report import page
from gptlab.report.facts import Facts, spread
from gptlab.report.figures import inlined
from gptlab.run import Run
from gptlab.text import corpora
from gptlab.text.fables import corpus as fables
from gptlab.training.log import Display
from tests.test_cli import gptlab
from tests.training.helpers import write_text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
HERE = Path(page.__file__).parent
VOID = {"meta", "br", "img", "hr"}
TINY = {"steps": 20, "context": 16, "batch": 8, "eval_every": 5, "sample_every": 2, "eval_windows": 16}
# Names of programs, and words that two languages share.
SHARED = {"percent", "nothing", "env_gptlab", "env_python", "env_torch", "env_numpy", "env_threads", "env_system"}
SHARED |= {"settings_model", "row_model", "row_tokenizer", "part_attention"}


class Reader(HTMLParser):
    """A page's text and elements; AssertionError where elements do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real runs: characters and word pieces of one text, and fables."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        patch.setattr("gptlab.text.fables.corpus.TRAINING", 60)
        patch.setattr("gptlab.text.fables.corpus.VALIDATION", 10)
        text = write_text(folder / "text.txt")
        lab.train(text, out=folder / "chars", display=Display("it", quiet=True), seed=3, **TINY)
        shutil.copy(folder / "chars" / "report.html", folder / "first.html")
        lab.train(text, out=folder / "pieces", tokenizer="bpe", vocab_size=300, **TINY)
        lab.train("fables:en", out=folder / "fables", **TINY)
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    """A run to change."""
    return Run(shutil.copytree(folder / "chars", tmp_path / "chars"))


def measured(run: Path, loss: str) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(r["step"], r[loss]) for r in map(json.loads, lines) if loss in r]


def test_the_numbers_are_the_runs(folder: Path) -> None:
    """Best loss and its step, ln V, e^loss, parameters, tokens, time and samples, each computed from the files."""
    for name in ("chars", "pieces"):
        run = folder / name
        text = read(page.write(Run(run), "en")).text
        config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
        step, best = min(measured(run, "val_loss"), key=lambda pair: pair[1])
        vocabulary = config["model"]["vocab_size"]
        assert f"ln {vocabulary} = {math.log(vocabulary):.2f}" in text
        assert f"{best:.3f}, after step {step}:" in text and f"among {math.exp(best):,.1f} equally" in text
        parameters = sum(weight.numel() for weight in load_file(run / "model.safetensors").values())
        assert f"{parameters:,} parameters" in text and f"{parameters * 4 / 1e6:.1f} MB" in text
        tokenizer = Run(run).tokenizer()
        ids = corpora.prepare(corpora.find(str(folder / "text.txt")), tokenizer).val
        per_character = len(ids) / len(tokenizer.decode(ids))
        assert f"{best * per_character / math.log(2):.3f}" in text
        assert f"{20 * 8 * 16:,} tokens in all" in text
        for sample in (run / "samples").iterdir():
            assert " ".join(CONTROL.sub("\ufffd", sample.read_text(encoding="utf-8")).split()) in text
            assert f"after step {sample.stem}" in text


def test_training_leaves_a_report_in_the_readers_language(folder: Path) -> None:
    """At the end of a training, in the language of its display."""
    reader = read(folder / "first.html")
    assert dict(reader.elements)["html"] == {"lang": "it"} and "Come ha imparato" in reader.text


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_page_is_one_file(folder: Path, tmp_path: Path, lang: str) -> None:
    """Elements nest, ids are unique and found, and there is no script and nothing that would be loaded."""
    runs = [Run(folder / name) for name in ("chars", "pieces")]
    for path in (page.write(runs[0], lang), page.compare(runs, lang, tmp_path / "compare.html")):
        html = path.read_text(encoding="utf-8")
        reader = Reader(html)
        assert dict(reader.elements)["html"] == {"lang": lang}
        ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
        assert ids and len(set(ids)) == len(ids)
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in reader.elements}
        for tag, attrs in reader.elements:
            for name, value in attrs.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                    assert value and (value.startswith("data:image/") or value[1:] in ids), (tag, name, value)
        assert all(target in ids for target in re.findall(r"url\(#([^)]*)\)", html))
        assert not re.search(r"url\((?!#)|@import|\{\{|\{%", html)
        figures = [attrs for tag, attrs in reader.elements if tag == "svg"]
        assert figures and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in figures)


def test_the_catalogues_are_in_step() -> None:
    """Each language has the same entries with the same values, and nothing in English but what is shared."""

    def fields(text: str) -> list[str]:
        return sorted(f"{name}:{spec}" for _, name, spec, _ in string.Formatter().parse(text) if name)

    english = catalogue("en", HERE)
    for lang in LANGUAGES:
        other = catalogue(lang, HERE)
        assert list(other) == list(english)
        for entry, text in other.items():
            assert fields(text) == fields(english[entry]), (lang, entry)
        assert lang == "en" or {entry for entry in english if other[entry] == english[entry]} <= SHARED


def test_every_entry_is_used() -> None:
    """No sentence is left in a catalogue that no page says."""
    sources = [*HERE.glob("*.py"), *HERE.glob("templates/*.html")]
    said = "".join(path.read_text(encoding="utf-8") for path in sources)
    families = ("part_", "env_", "axis_", "row_loss_")  # said by f"part_{name}"
    unused = [e for e in catalogue("en", HERE) if f'"{e}"' not in said and f"'{e}'" not in said]
    assert [entry for entry in unused if not entry.startswith(families)] == []


def test_every_part_of_a_model_is_explained() -> None:
    """What `count` tells apart has a name and a line in every language."""
    for lang in LANGUAGES:
        assert {f"part_{part}{end}" for part in PARTS for end in ("", "_is")} <= catalogue(lang, HERE).keys()


def test_what_was_written_is_shown_and_not_obeyed(run: Run) -> None:
    """Markup in samples, prompts and names comes out as the text that it is; control characters are replaced."""
    hostile = '<script>alert("1")</script> & </p><b> \x00\x1b {{ 7 * 7 }}'
    run.add_sample(20, hostile)
    run.text["name"] = hostile
    reader = read(page.write(run, "en"))
    shown = '<script>alert("1")</script> & </p><b> \ufffd\ufffd {{ 7 * 7 }}'
    assert shown in reader.text
    assert not {"script", "b"} & {tag for tag, _ in reader.elements}
    assert not CONTROL.search(run.report.read_text(encoding="utf-8"))


def test_a_run_without_a_training_has_a_page(folder: Path, tmp_path: Path) -> None:
    """An imported model's page has what there is: its parts and settings, no curve and no samples."""
    tokenizer = Run(folder / "chars").tokenizer()
    shape = ModelConfig(vocab_size=tokenizer.vocab_size, context=8, n_layers=1, d_model=8, n_heads=1)
    reader = read(page.write(Run.create(tmp_path / "imported", shape, tokenizer), "pt"))
    assert "importado" in reader.text and "tabela de tokens" in reader.text
    assert "svg" not in {tag for tag, _ in reader.elements} and "--resume" not in reader.text
    path = page.compare([Run(tmp_path / "imported"), Run(folder / "chars")], "pt", tmp_path / "compare.html")
    assert read(path).elements


def test_changed_settings_are_marked(folder: Path) -> None:
    """Marked are exactly the settings that were asked for, and what they usually are stands beside them."""
    html = (page.write(Run(folder / "pieces"), "en")).read_text(encoding="utf-8")
    marked = re.findall(r'class="changed">\s*<th scope="row"><code>(\w+)</code>', html)
    asked = {"tokenizer", "vocab_size", "steps", "context", "batch", "eval_every", "sample_every", "eval_windows"}
    assert set(marked) == asked
    assert f"usual: {recipe('default').batch}" in html and "usual: 2000" in html


def test_the_command_to_compare_repeats_the_training(folder: Path) -> None:
    """Parsed as the command line parses it, it is the same training but for half the learning rate."""
    for name in ("chars", "pieces", "fables"):
        facts = Facts(Run(folder / name))
        assert facts.config
        words = facts.flags(lr=facts.config.lr / 2).split()
        args = parse("train", Train, [facts.config.corpus, *words])
        again = {name: getattr(args, name) for name in vars(facts.config)}
        expected = vars(facts.config.but(lr=facts.config.lr / 2))
        derived = ("eval_every", "objective")  # follow from the steps and from the model
        assert {k: v for k, v in again.items() if k not in derived} == {
            k: v for k, v in expected.items() if k not in derived
        }


def test_stories_stand_beside_their_floor(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor is the corpus's own, whether the run recorded it or not, and the excess what is above it."""
    monkeypatch.setattr(fables, "TRAINING", 60)
    monkeypatch.setattr(fables, "VALIDATION", 10)
    run = Run(shutil.copytree(folder / "fables", tmp_path / "fables"))
    stories = fables.validation(("en",))
    floor = sum(s.nats for s in stories) / sum(len(s.text) + 2 for s in stories)
    run.truncate(-1)
    for step, loss in ((0, 4.0), (10, 1.25), (20, floor + 0.5)):
        run.add_metrics({"step": step, "seconds": step / 4, "val_loss": loss, "story_loss": loss})
    for recorded in ({"context_holds_stories": False}, {"context_holds_stories": True, "floor": floor}):
        run.text = {key: value for key, value in run.text.items() if key != "floor"} | recorded
        reader = read(page.write(run, "en"))
        assert f"the floor, {floor:.4f} nats per character" in reader.text
        assert f"{floor + 0.5:.4f} nats per character: 0.5000 above the floor" in reader.text
        assert ("out of its reach" in reader.text) != recorded["context_holds_stories"]
    run.text.pop("floor")
    run.train_config = run.train_config and run.train_config.but(corpus="elsewhere.txt")
    assert "floor" not in read(page.write(run, "en")).text


def test_advice_is_repeated(run: Run) -> None:
    """Advice given while training is said again in the page's language; advice of another version is passed over."""
    entries = {e: text for e, text in catalogue("fr").items() if e.startswith("advice_")}
    for entry, text in entries.items():
        numbers = {name: 7 for _, name, _, _ in string.Formatter().parse(text) if name and name != "step"}
        run.add_metrics({"step": 9, "advice": entry.removeprefix("advice_"), **numbers})
    run.add_metrics({"step": 9, "advice": "of another version"})
    reader = read(page.write(run, "fr"))
    assert sum(attrs.get("class") == "advice" for _, attrs in reader.elements) == bool(entries)
    assert reader.text.count("(après l'étape 9)") == len(entries)
    assert measured(run.path, "val_loss")  # and the measurements are read as before


def leave(run: Run, name: str, section: dict[str, Any]) -> None:
    """A section as an experiment leaves it."""
    run.section_path(name).mkdir(parents=True, exist_ok=True)
    (run.section_path(name) / "section.json").write_text(json.dumps(section), encoding="utf-8")


def test_sections_are_shown_in_their_order_and_language(run: Run) -> None:
    """Text, table, figures, film and live page of experiments; a language that is missing falls back to English."""
    folder = run.section_path("heads")
    folder.mkdir(parents=True)
    (folder / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0"/></svg>')
    (folder / "b.png").write_bytes(b"\x89PNG no more than a sign")
    (folder / "c.html").write_text('<html lang="en"><p class="made">"by" us<script>1 < 2</script></html>')
    (folder / "d.mp4").write_bytes(b"a film")
    both = {"en": "in English", "it": "in italiano"}
    blocks = [
        {"kind": "text", "text": both},
        {"kind": "figure", "file": {"en": {"wide": "a.svg"}}, "caption": both, "alt": {"en": "only English <&>"}},
        {"kind": "figure", "file": {"en": {"wide": "a.svg"}, "it": {"wide": "b.png"}}, "caption": both, "alt": both},
        {
            "kind": "table",
            "head": {"en": ["head", "loss"], "it": ["testa", "perdita"]},
            "rows": {"en": [["a", 1234.5], ["b", 0.25]], "it": [["di a", 1234.5], ["di b", 0.25]]},
        },
        {"kind": "page", "file": "c.html", "title": both, "height": 300},
        {"kind": "film", "file": "d.mp4", "poster": "b.png", "caption": both, "alt": both},
    ]
    leave(run, "heads", {"order": 2, "title": {"en": "Heads", "it": "Teste"}, "blocks": blocks})
    leave(run, "later", {"order": 10, "title": {"en": "Afterwards"}, "blocks": []})
    leave(run, "a-first", {"order": 1, "title": {"en": "Before"}, "blocks": []})
    reader = read(page.write(run, "it"))
    assert reader.text.index("Before") < reader.text.index("Teste") < reader.text.index("Afterwards")
    assert reader.text.count("in italiano") == 4 and "in English" not in reader.text
    assert "1.234" in reader.text and "0,25" in reader.text and "perdita" in reader.text and "di b" in reader.text
    assert "only English <&>" in [attrs.get("aria-label") for _, attrs in reader.elements]
    images = [attrs["src"] or "" for tag, attrs in reader.elements if tag == "img"]
    assert [image[:33] for image in images] == ["data:image/png;base64,iVBORyBubyBt"[:33]]
    [frame] = [attrs for tag, attrs in reader.elements if tag == "iframe"]
    assert frame["sandbox"] == "allow-scripts" and frame["title"] == "in italiano" and frame["height"] == "300"
    assert frame["srcdoc"] == (folder / "c.html").read_text().replace('"en"', '"it"')
    [film] = [attrs for tag, attrs in reader.elements if tag == "video"]
    assert film["src"] == "data:video/mp4;base64,YSBmaWxt" and "script" not in [tag for tag, _ in reader.elements]


def test_a_figure_cannot_do_more_than_be_seen() -> None:
    """Of an SVG from elsewhere, scripts, handlers, styles, links and loads are left out, and ids are made its own."""
    svg = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" onload="x()" width="9">
    <style>* { display: none }</style><script>x()</script><foreignObject><p>x</p></foreignObject>
    <a href="http://e.org"><text>link</text></a>
    <image href="http://e.org/i.png"/><image href="data:image/png;base64,AA"/><defs><clipPath id="c"/></defs>
    <g clip-path="url(#c)" fill="url( 'http://e.org/f.svg#a' )"><use xlink:href="#c"/></g>
    <set attributeName="href" onbegin="x()"/></svg>"""
    result = str(inlined(svg, "p-", 'a "quoted" <name>'))
    for gone in ("http://e.org", "script", "x()", "foreignObject", "<style", "onload", "width"):
        assert gone not in result
    assert 'id="p-c"' in result and "url(#p-c)" in result and 'xlink:href="#p-c"' in result and "base64,AA" in result
    Reader(result)
    with pytest.raises(ValueError, match="no SVG"):
        inlined("<svg", "p-", "")


def test_tokenizers_compare_by_character(folder: Path, tmp_path: Path) -> None:
    """Losses of characters and of word pieces stand side by side in nats per character, and it is said so."""
    runs = [Run(folder / name) for name in ("chars", "pieces")]
    reader = read(page.compare(runs, "en", tmp_path / "compare.html"))
    assert "nats per character: the surprise" in reader.text and "must not be compared" not in reader.text
    for run in runs:
        tokenizer = run.tokenizer()
        ids = corpora.prepare(corpora.find(str(folder / "text.txt")), tokenizer).val
        best = min(loss for _, loss in measured(run.path, "val_loss"))
        assert f"{best * len(ids) / len(tokenizer.decode(ids)):.4f}" in reader.text
    assert "train.tokenizer char bpe" in reader.text and "train.seed 3 0" in reader.text
    assert "train.lr " not in reader.text


def test_what_cannot_compare_says_so(folder: Path, tmp_path: Path) -> None:
    """Where a run does not know its characters, the unit is the token, with a warning; other texts are named, too."""
    runs = [Run(folder / name) for name in ("chars", "pieces", "fables")]
    del runs[1].text["val_characters"]
    text = read(page.compare(runs, "en", tmp_path / "compare.html")).text
    assert "nats per token, because" in text and "must not be compared" in text and "different texts" in text
    with pytest.raises(ValueError, match="two runs or more, not 1"):
        page.compare(runs[:1], "en", tmp_path / "compare.html")


def test_the_command_line_writes_both_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 0, the path on standard output in the reader's language; --open shows it in the browser."""
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    result = gptlab("report", "chars", "--lang", "fr", "--open", cwd=folder)
    assert (result.returncode, result.stdout.strip()) == (0, f"Le rapport : {Path('chars', 'report.html')}")
    assert opened == [(folder / "chars" / "report.html").as_uri()]
    assert dict(read(folder / "chars" / "report.html").elements)["html"] == {"lang": "fr"}
    result = gptlab("compare-runs", "chars", "pieces", "--out", "both.html", cwd=folder)
    assert (result.returncode, result.stdout.strip()) == (0, "The report: both.html")
    assert "chars · pieces" in read(folder / "both.html").text
    for wrong in (("compare-runs", "chars"), ("compare-runs", "chars", "nowhere"), ("report", "nowhere")):
        result = gptlab(*wrong, cwd=folder)
        assert result.returncode == 2 and result.stderr and "Traceback" not in result.stderr


def test_a_report_that_fails_costs_no_training(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the page cannot be written, the training ends as it would have, with a warning."""
    monkeypatch.setenv("GPTLAB_CACHE", str(folder / "cache"))
    run.report.unlink()
    run.report.mkdir()
    with pytest.warns(UserWarning, match="report could not be written"):
        longer = lab.train(resume=True, out=run.path, steps=22)
    assert longer.states()[-1] == 22 and measured(run.path, "val_loss")[-1][0] == 22


def test_some_of_many_samples() -> None:
    """The first and the last are among them, in order, each once."""
    for n in range(12):
        shown = spread(list(range(n)), 5)
        assert shown == sorted(set(shown)) and len(shown) == min(n, 5)
        assert not n or (shown[0], shown[-1]) == (0, n - 1)


def test_durations_are_written_as_the_language_does() -> None:
    """Seconds with a decimal mark of the language; longer ones in the two units that tell most."""
    assert duration(4.25, "en") in ("4.2 s", "4.3 s") and duration(2.9, "pl") == "2,9 s"
    assert [duration(s, "pt") for s in (59.6, 65, 3725)] == ["1 min 0 s", "1 min 5 s", "1 h 2 min"]
