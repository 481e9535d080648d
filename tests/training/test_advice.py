import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice, pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptlab
from gptlab.config import TrainConfig, recipe
from gptlab.messages import LANGUAGES, say
from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.run import Run
from gptlab.text import tokenizer as tokenizers
from gptlab.text.fables.corpus import SEPARATOR, stories
from gptlab.training import advice
from gptlab.training.advice import Adviser, Watch
from gptlab.training.log import Display
from gptlab.training.loop import Diverged, Listener, Trainer, resolved
from tests.training.helpers import TINY
from tests.training.test_loop import Interrupt

LOW = {"steps": 120, "lr": 1e-4, "lr_adam": 1e-4}
HIGH = {"steps": 150, "warmup": 150, "lr": 1.0, "lr_adam": 1.0, "clip": None}  # rises until it is too high


def fables(lang: str, characters: int) -> str:
    told = "".join(story.text + SEPARATOR for story in islice(stories((lang,)), characters // 300))
    assert len(told) >= characters
    return told[:characters]


def trained(
    path: Path, text: str, listeners: Sequence[Listener] = (), *, width: int = 32, **settings: Any
) -> tuple[Run, list[str]]:
    """A run of a small model on a text, 9/10 of it to train on, begun or gone on with; what was said."""
    config = recipe(settings.pop("recipe", "default")).but(batch=8, save_every=1000, **settings)
    config = resolved(config, steps=config.steps or 0)
    cut = len(text) * 9 // 10
    # As in any training: a vocabulary of all characters, or merges learned on the training part.
    tokenizer = tokenizers.train(
        config.tokenizer, [text if config.tokenizer == "char" else text[:cut]], config.vocab_size
    )
    shape = preset("gptlab-cpu", context=16, n_layers=1, d_model=width, n_heads=2, vocab_size=tokenizer.vocab_size)
    model = build(shape, init=config.init, dropout=config.dropout)
    trainer = Trainer(model, tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:]), config)
    run = Run(path) if path.exists() else Run.create(path, shape, tokenizer, train=config)
    said: list[str] = []
    with suppress(Diverged):  # which comes after the advice
        trainer.fit(run, [Adviser(trainer, run, lambda found: said.append(found.name)), *listeners])
    return run, said


def given(run: Run) -> list[str]:
    return [record["advice"] for record in run.metrics() if "advice" in record]


def letters(number: int) -> str:
    """Random letters: beyond their frequencies, they can only be learned by heart."""
    return "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), number))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("unlike", {}),
        ("small", {}),
        ("slow", LOW),
        ("slow", {"recipe": "classic", "steps": 100, "lr": 1e-5}),
        ("diverging", HIGH),
        ("overfitting", {"steps": 150}),
    ],
)
def test_a_bad_training_is_told_what_is_wrong(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    """Each kind of bad training is given its advice, once, and no other; all languages can say it."""
    texts = {
        "unlike": lambda: fables("fr", 36_000) + fables("pt", 4_000),
        "small": lambda: letters(330),
        "overfitting": lambda: letters(1000),
    }
    text = texts.get(name, lambda: fables("en", 20_000))()
    run, said = trained(tmp_path / "run", text, **{"steps": 100, **settings})
    assert said == given(run) == [name]
    record = next(record for record in run.metrics() if "advice" in record)
    for lang in LANGUAGES:
        assert "{" not in say(f"advice_{name}", lang, **record)


@pytest.mark.parametrize(
    ("lang", "settings"),
    [
        ("en", {}),
        ("it", {"tokenizer": "bpe", "vocab_size": 400}),
        ("fr", {"tokenizer": "bpe", "vocab_size": 800}),
        ("pt", {"recipe": "classic", "width": 128}),  # for less, its rate is too low indeed
    ],
)
def test_a_healthy_training_is_left_alone(tmp_path: Path, lang: str, settings: dict[str, Any]) -> None:
    """No advice where nothing is wrong, in any language, with either tokenizer and either recipe."""
    run, said = trained(tmp_path / "run", fables(lang, 20_000), **{"steps": 120, **settings})
    assert said == given(run) == []


def test_a_trial_is_left_alone(tmp_path: Path) -> None:
    """A training of a few dozen steps is given no advice, whatever is wrong with it."""
    run, said = trained(tmp_path / "run", letters(200) + "?" * 20, **{**LOW, "steps": 60})
    assert said == given(run) == []


def test_a_resumed_run_repeats_nothing(tmp_path: Path) -> None:
    """A run that is stopped after its advice and goes on notes what one in a single piece notes, once."""
    text = letters(1000)
    whole, said = trained(tmp_path / "whole", text, steps=150)
    (note,) = [record for record in whole.metrics() if "advice" in record]
    assert said == ["overfitting"] and note["step"] < 150
    assert trained(tmp_path / "parts", text, [Interrupt(note["step"])], steps=150)[1] == said
    run, said = trained(tmp_path / "parts", text, steps=150)
    assert said == [] and run.metrics()[-1]["step"] == 150
    assert [record for record in run.metrics() if "advice" in record] == [note]


def test_the_display_says_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A training by name says its advice on standard error, in the language of its display."""
    (tmp_path / "text.txt").write_text(letters(300))
    gptlab.train(
        tmp_path / "text.txt",
        out=tmp_path / "run",
        display=Display("pl"),
        listeners=[Interrupt(5)],
        **{**TINY, "steps": 100},
    )
    (note,) = [record for record in Run(tmp_path / "run").metrics() if "advice" in record]
    assert note["advice"] == "small" and say("advice_small", "pl", **note) in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_languages_are_told_apart(kind: str) -> None:
    """A validation part in another language than the training part is noticed, for all pairs; in the same, never."""
    texts = {lang: fables(lang, 40_000) for lang in LANGUAGES}
    for one, two in permutations(LANGUAGES, 2):
        parts = texts[one][:36_000], texts[two][36_000:], texts[one][36_000:]
        tokenizer = tokenizers.train(kind, parts if kind == "char" else parts[:1])
        train_ids, other, same = (tokenizer.encode(part) for part in parts)
        assert advice.unlike(train_ids, other, tokenizer.vocab_size), (one, two)
        assert not advice.unlike(train_ids, same, tokenizer.vocab_size), one


def slow_excess(text: list[Any], reference: list[Any], cells: int) -> float:
    p, q = Counter(text), Counter(reference)
    return sum(
        n / p.total() * (math.log(n / p.total()) - math.log((q[x] + 0.5) / (q.total() + 0.5 * cells)))
        for x, n in p.items()
    )


def test_the_excess_is_the_relative_entropy() -> None:
    """The counts and their excess are what counting one by one gives, of tokens and of pairs."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 7, 300).astype(np.uint8), rng.integers(2, 9, 200).astype(np.uint8)
    for order, cells in ((1, 9), (2, 81)):
        rows = [ids.tolist() if order == 1 else list(pairwise(ids.tolist())) for ids in (a, b)]
        found = advice.excess(advice.counts(a, 9, order), advice.counts(b, 9, order))
        assert found == pytest.approx(slow_excess(rows[0], rows[1], cells))
    shares = [n / 300 for n in Counter(a.tolist()).values()]
    assert advice.entropy(a, 9) == pytest.approx(-sum(p * math.log(p) for p in shares))


def told(records: Iterator[dict[str, Any]], **settings: Any) -> list[str]:
    config = TrainConfig(**{"steps": 2000, "eval_every": 100, "eval_windows": 320, **settings})
    watch = Watch(config, entropy=3.3, evaluated=10_000)
    return [found.name for record in records if (found := watch.read(record))]


def curves(seed: int, *, spread: float, train_rise: float = 0.0, val_rise: float = 0.0) -> Iterator[dict[str, Any]]:
    """Losses that fall from 4.2 to 1.4, with noise; over the second half, 1000 steps, they rise by so much."""
    rng = np.random.default_rng(seed)
    for step in range(0, 2001, 10):
        loss, late = 1.4 + 2.8 * math.exp(-step / 200), max(0, step - 1000) / 1000
        if step:
            yield {"step": step, "train_loss": loss - 0.3 * late + train_rise * late + rng.normal(0, spread)}
        if step % 100 == 0:
            yield {"step": step, "val_loss": loss + val_rise * late + rng.normal(0, spread / 5)}


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.2])
def test_noise_is_no_trend(spread: float) -> None:
    """Losses that vary about falling curves give no advice, whatever they vary by; the same curves rising do."""
    for seed in range(30):
        assert told(curves(seed, spread=spread)) == []
        assert set(told(curves(seed, spread=spread, train_rise=4.0, val_rise=4.0))) == {"diverging"}
        assert set(told(curves(seed, spread=spread, val_rise=1.0))) == {"overfitting"}
