"""The experiment on tokenizers, from a trained run to its section, against independent computations."""

import csv
import json
import math
import re
import shutil
import subprocess
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from gptlab import lab
from gptlab.experiments import base, tokenizers
from gptlab.lens.tokenizers import cut
from gptlab.messages import LANGUAGES
from gptlab.run import Run, latest_run
from gptlab.text import corpora, gpt2
from gptlab.text.bpe import BPETokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.fables import corpus as fables
from gptlab.text.gpt2 import GPT2Tokenizer
from gptlab.text.tokenizer import without
from tests.experiments.conftest import conducted, texts

NONE: dict[str, Any] = {"text": "Um gato já viu.", "minutes": 0, "steps": None, "others": ()}


@pytest.fixture(autouse=True)
def prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for these tests, since fables are written into it; and no downloads."""
    monkeypatch.setenv("GPTLAB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(gpt2, "ADDRESS", "http://127.0.0.1:9/")
    monkeypatch.setattr(tokenizers, "COUNTED", 5000)
    monkeypatch.setattr(tokenizers, "JUDGED", 600)
    monkeypatch.setattr(tokenizers, "STORIES", 8)
    monkeypatch.setattr(tokenizers, "LEARNED", 100_000)


def rows(run: Run, table: str) -> list[list[str]]:
    with (run.section_path("tokenizers") / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def check_losses(table: list[list[str]], models: dict[str, lab.Lab], text: str) -> None:
    """Each row is of one of the models, sorted, and says what that makes of the text."""
    assert {row[0] for row in table} == set(models)
    assert [float(row[6]) for row in table] == sorted(float(row[6]) for row in table)
    for name, _, parameters, _, nats, _, bits in table:
        model = models[name]
        spelled = without(text, model.tokenizer.unknown(text))
        assert int(parameters) == sum(p.numel() for p in model.model.parameters())
        assert float(nats) == pytest.approx(model.loss(spelled), abs=6e-4)
        assert float(bits) == pytest.approx(model.loss(spelled, per="char") / math.log(2), abs=6e-4)


@pytest.mark.parametrize("kind", ["chars", "pieces", "t5", "glm"])
@pytest.mark.filterwarnings("ignore:GPT-2's tokenizer is left out")
def test_the_section_says_what_was_counted(of_kind: Any, kind: str) -> None:
    """Its numbers, of the run's own tokenizer and model, are those of plain counting, for every architecture."""
    loaded = of_kind(kind)
    section = conducted(loaded, "tokenizers", **NONE)
    text = corpora.find(loaded.run.train_config.corpus)
    counted = text.read(text.cut, text.cut + 5000)

    [own] = [row for row in rows(loaded.run, "sizes") if row[0].endswith(", this run's")]
    assert int(own[1]) == loaded.tokenizer.vocab_size
    assert float(own[2]) == pytest.approx(len(counted) / len(loaded.tokenizer.encode(counted)), abs=6e-4)

    [own] = [row for row in rows(loaded.run, "languages") if row[0].endswith(", this run's")]
    tokens = {}
    for lang in LANGUAGES:
        told = [story.text for story in islice(fables.stories((lang,), first=fables.FIRST_VALIDATION), 8)]
        tokens[lang] = len(cut(loaded.tokenizer, fables.SEPARATOR.join(told)))
    assert [float(x) for x in own[1:6]] == pytest.approx([tokens[lang] / tokens["en"] for lang in LANGUAGES], abs=6e-4)

    check_losses(rows(loaded.run, "losses"), {"this run": loaded}, counted[:600])
    said = texts(section)
    assert "GPT-2's own vocabulary is missing" in said
    assert "3.42 nats per token are 2.02 bits per character, and 1.44 are 2.08" in said
    assert "64.46% is off: it should be 64.42%, or 64.45%" in said


@pytest.mark.filterwarnings("ignore:GPT-2's tokenizer is left out")
@pytest.mark.filterwarnings("ignore:.*cannot spell")
def test_small_models_are_trained_and_kept(of_kind: Any, tmp_path: Path) -> None:
    """With steps, a model with each tokenizer is trained beside the run, on the run's own text, and is a run: the next
    time it is taken as it is, or goes on. The table says what its own loss is, and that of the runs named by --with."""
    text = "\n".join(f"{number} vezes {number} dá {number**2}." for number in range(700))
    (tmp_path / "contas.txt").write_text(text, encoding="utf-8")
    few = {"steps": 2, "eval_windows": 8, "sample_every": 0, "context": 16}
    run = lab.train(tmp_path / "contas.txt", out=tmp_path / "run", device="cpu", **few)
    loaded, other = lab.load(run.path, device="cpu"), of_kind("pieces")
    section = conducted(loaded, "tokenizers", **{**NONE, "steps": 2, "others": (str(other.run.path),)})
    small = {name: lab.load(run.path / "tokenizers" / name, device="cpu") for name in ("char", "bpe")}
    models = {"this run": loaded, other.run.name: other, f"characters ({loaded.tokenizer.vocab_size})": small["char"]}
    models[f"BPE {small['bpe'].tokenizer.vocab_size}"] = small["bpe"]
    check_losses(rows(run, "losses"), models, text[int(0.9 * len(text)) :][:600])
    assert "2 steps each" in texts(section) and "too few steps to be judged" in texts(section)

    before, parts = small["char"].metrics, base.Section("tokenizers", Path(), "en")
    assert tokenizers.trained(loaded, parts, "contas", "char", steps=2).metrics == before
    assert tokenizers.trained(loaded, parts, "contas", "char", steps=3).metrics[-1]["step"] == 3
    assert latest_run(tmp_path) == run.path


@pytest.mark.filterwarnings("ignore:GPT-2's tokenizer is left out")
@pytest.mark.filterwarnings("ignore:.*cannot spell")
def test_an_imported_run_is_shown_on_fables(of_kind: Any, tmp_path: Path) -> None:
    """A run without a text of its own gets the English fables; what its vocabulary lacks stands in the figure."""
    source = of_kind("chars")
    tokenizer = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz ,."])
    run = Run.create(tmp_path / "imported", source.config.but(vocab_size=tokenizer.vocab_size), tokenizer)
    run.save_weights(lab.build(run.model_config))
    section = conducted(lab.load(run.path, device="cpu"), "tokenizers", **{**NONE, "text": "Olá é"})
    said = texts(section)
    assert "not at hand" in said and "dotted boxes: O á é." in said
    assert rows(run, "losses")[0][3] == tokenizers.NOTHING


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"text": " "}, "the text is empty"),
        ({"minutes": -1.0}, "minutes must be 0 or more, not -1"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"others": ("nowhere",)}, "'nowhere' does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore:GPT-2's tokenizer is left out")
def test_mistakes_are_told(of_kind: Any, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        base.conduct("tokenizers", of_kind("chars"), lang="en", **{**NONE, **wrong})


def test_the_default_sentence_is_in_the_texts_language() -> None:
    """Ours for the texts that are known, and of any other the first sentence of a fair length."""

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    section = base.Section("tokenizers", Path(), "en")
    ours = {"machado": "pt", "shakespeare": "en", "fables": "en", "fables-pl": "pl", "fables-fr": "fr"}
    for name, lang in ours.items():
        assert tokenizers.sentence(Named(name), "", section, None) == section.words[lang]("sentence")  # type: ignore[arg-type]
    mine = "Sim.\n\nEra uma vez um rei que tinha três filhas. Fim."
    found = tokenizers.sentence(Named("mine"), mine, section, None)  # type: ignore[arg-type]
    assert found == "Era uma vez um rei que tinha três filhas."


def test_the_page_cuts_as_python_does(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own tokenizers give the ids and the labels of ours, for any text that is typed there."""
    if not (node := shutil.which("node")):
        pytest.skip("needs node, to run the page's script")
    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    page = (Path(base.__file__).parent / "pages" / "tokenizers.html").read_text(encoding="utf-8")
    script = re.search(r"{% block script %}(.*)let tokenizers = \[\];", page, re.DOTALL)
    assert script
    typed = [
        "A figura é poética!",
        "żółw\u00a0śpi,\n\n  it's 1839 — 中文 🙂\t",
        "",
        "don't  stop",
        "ﬁm x̂ {}<b>\u2003\u200b\x07",
    ]
    book = "\n".join(story.text for lang in LANGUAGES for story in islice(fables.stories((lang,)), 30))
    every = [CharTokenizer.train([book]), BPETokenizer.train([book], 700), GPT2Tokenizer.published()]
    told = [tokenizers.rules(tokenizer) for tokenizer in every]
    asking = f"""
const zlib = require("zlib");
{script[1]}
const found = {json.dumps(told)}.map(({{ packed }}) => {{
  const cut = tokenizerOf(JSON.parse(zlib.inflateSync(Buffer.from(packed, "base64")).toString()));
  return {json.dumps([*typed, book[:2000]])}.map(text => {{
    const pieces = cut(text);
    return [pieces.map(([id]) => id), labelsOf(pieces.map(([, bytes]) => bytes))];
  }});
}});
console.log(JSON.stringify(found));
"""
    answered = subprocess.run([node], input=asking, capture_output=True, check=True, encoding="utf-8")
    for tokenizer, found in zip(every, json.loads(answered.stdout), strict=True):
        for text, (ids, labels) in zip([*typed, book[:2000]], found, strict=True):
            pieces = cut(tokenizer, text)
            assert ids == [piece.id for piece in pieces]
            assert labels == [piece.label for piece in pieces]
