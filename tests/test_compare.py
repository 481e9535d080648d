"""Architectures side by side: trained alike, scored alike, on one page."""

from pathlib import Path

import pytest

from gptlab import lab
from gptlab.compare import compare
from gptlab.run import Run
from tests.test_cli import gptlab
from tests.training.helpers import write_text


def test_three_kinds(tmp_path: Path) -> None:
    """A decoder, a prefix model and an encoder-decoder get the same steps, batch, context and text; the result is the
    best weights' loss on second halves, best first; a second call trains nothing again."""
    text = str(write_text(tmp_path / "text.txt"))
    names = ["gpt2-mini", "glm-mini", "t5-mini"]
    given = dict(corpus=text, out=tmp_path / "cmp", steps=4, batch=4, context=16, sample_every=0, eval_windows=8)
    results = compare(names, **given)
    assert {r.name for r in results} == set(names)
    assert [r.loss for r in results] == sorted(r.loss for r in results)
    runs = [Run(tmp_path / "cmp" / name) for name in names]
    same = [(c.steps, c.batch, c.context, c.seed, c.tokenizer) for run in runs if (c := run.train_config)]
    assert len(set(same)) == 1 and len(same) == 3
    assert [run.train_config.objective for run in runs if run.train_config] == ["next-token", *["continuation"] * 2]
    for result in results:
        loaded = lab.load(result.run.path)
        assert result.loss == pytest.approx(lab.halves_of(text, loaded.tokenizer).loss(loaded.model))
        assert all("half_loss" in m for m in result.run.metrics() if "val_loss" in m)
    page = (tmp_path / "cmp" / "compare.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)
    before = [run.metrics() for run in runs]
    assert [r.loss for r in compare(names, **given)] == [r.loss for r in results]
    assert [run.metrics() for run in runs] == before


@pytest.mark.parametrize(("names", "said"), [(["gpt2-mini"], "two models"), (["gpt2-mini", "gpt2-mini"], "once")])
def test_what_is_nothing_to_compare(names: list[str], said: str, tmp_path: Path) -> None:
    """One model, or one twice, is an error before anything is trained; so is an unknown name, which names the known."""
    with pytest.raises(ValueError, match=said):
        compare(names, corpus="fables", out=tmp_path / "cmp", steps=1)
    result = gptlab("compare", "gpt2-mini", "gpt9", cwd=tmp_path)
    assert result.returncode == 2 and "'gpt9'" in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
