"""The lens's section says what is so: its numbers against those of the model itself."""

import csv
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gptlab.experiments.base import passage, traced
from gptlab.experiments.lens import TOKENS, stretch
from gptlab.lens.logits import Lens
from tests.experiments.conftest import conducted


@pytest.mark.parametrize("kind", ["chars", "pieces", "t5", "glm"])
def test_its_numbers(kind: str, of_kind: Any) -> None:
    """In every kind of model: the last row of the table is the model's own answer (no divergence, rank 1, all settled),
    and its surprise that of the logits; the places are those that are asked, behind what a prefix or an encoder saw."""
    lab = of_kind(kind)
    own = {"text": "Era uma vez, um rei"} if kind == "chars" else {}
    conducted(lab, "lens", **own)
    folder = lab.run.section_path("lens")
    with (folder / "layers.csv").open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert [row[0] for row in rows] == ["before", *map(str, range(1, lab.config.n_layers + 1))]
    assert [float(cell) for cell in rows[-1][3:5]] == [0, 1] and rows[-1][6] == "100"

    whole = traced(lab, passage(lab, own.get("text"), TOKENS))
    kept = np.load(folder / "lens.npz")
    asked = len(kept["ids"])
    if lab.config.category == "causal":
        assert asked == len(whole.ids) and (kind != "chars" or "".join(kept["tokens"]) == "Era␣uma␣vez,␣um␣rei")
    else:
        assert asked > 5 and (kept["ids"][0] == lab.config.bridge[-1] if lab.config.bridge else True)
        text = passage(lab, None, TOKENS)
        assert text.endswith(lab.tokenizer.decode(kept["ids"][1:]))
        assert abs(asked - 1 - len(lab.tokenizer.encode(text)) / 2) <= 1
    logits = torch.tensor(whole.logits[-asked:]).double()
    nats = F.cross_entropy(logits[:-1], torch.tensor(kept["ids"][1:].astype(np.int64)))
    assert float(rows[-1][1]) == pytest.approx(float(nats), rel=6e-3)
    assert np.allclose(kept["top_p"][-1], logits.softmax(-1).max(-1).values)


def test_too_short_a_text(of_kind: Any) -> None:
    """One token is foretold by nothing: that is said, with what to do."""
    lab = of_kind("chars")
    with pytest.raises(ValueError, match="longer --text"):
        conducted(lab, "lens", text="E")


def test_the_stretch_is_where_layers_differ_most() -> None:
    """Of all stretches that fit, the one with the greatest mean divergence, found by trying each."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        kl, widths = rng.random((4, 30)) ** 3, rng.uniform(0.2, 0.6, 30)
        nothing = np.zeros(0)
        found = stretch(
            Lens(**{name: kl if name == "kl" else nothing for name in Lens.__dataclass_fields__}), widths, 3.0
        )
        assert widths[found].sum() <= 3
        fitting = []
        for start in range(30):
            stop = max(n for n in range(start, 31) if widths[start:n].sum() <= 3)
            if stop < 30 or start == found.start:
                fitting.append(kl[:-1, start:stop].mean())
        assert kl[:-1, found].mean() == pytest.approx(max(fitting))
