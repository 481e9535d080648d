"""Where learning happens: what is said is what was recorded."""

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import gmean

from gptlab.experiments import gradients
from gptlab.experiments.base import Words
from gptlab.messages import LANGUAGES
from tests.experiments.conftest import conducted, texts


@pytest.mark.parametrize("kind", ["t5"])
def test_section_says_what_was_recorded(kind: str, of_kind: Any) -> None:
    """The part that moved most in the first tenth, the longest way, and the MLPs' trend are those of metrics.jsonl."""
    lab = of_kind(kind)
    section = conducted(lab, "gradients")
    records = [record for record in lab.metrics if "layers" in record]
    speed = {part: move / weight for part, (_, move, weight) in records[0]["layers"].items()}
    english = Words("gradients", "en")
    [table] = [block for block in section["blocks"] if block["kind"] == "table"]
    first, _, last = table["rows"]["en"]
    fastest = max(speed, key=lambda part: speed[part])
    assert first[2].startswith(gradients.label(fastest)(english)) and first[1] == "1–1" and last[1].endswith("–12")

    steps = [record["step"] for record in records]
    assert steps == list(range(1, 13))  # so a way is a plain sum, but for halves at its ends
    rates = {part: [r["layers"][part][1] / r["layers"][part][2] for r in records] for part in speed}
    ways = {part: sum(rate) + (rate[0] - rate[-1]) / 2 for part, rate in rates.items()}
    furthest = max(ways, key=lambda part: ways[part])
    assert f"“{gradients.label(furthest)(english)}”: its steps" in texts(section)
    assert f"{ways[furthest]:.1f} times the length" in texts(section)

    ends = ["blocks.0.mlp", f"blocks.{lab.config.n_layers - 1}.mlp"]
    ratio = gmean([np.divide(*(record["layers"][part][0] for part in ends)) for record in records])
    trend = "the first has" if ratio > 1.5 else "the last has" if ratio < 1 / 1.5 else "no clear trend"
    assert trend in texts(section)
    data = np.load(lab.run.section_path("gradients") / "gradients.npz")
    at = data["parts"].tolist().index("embedding")
    np.testing.assert_array_equal(data["gradients"][:, at], [r["layers"]["embedding"][0] for r in records])
    page = (lab.run.section_path("gradients") / "gradients.html").read_text(encoding="utf-8")
    sent = json.loads(page.split("const DATA = ")[1].split(";\n")[0])
    assert sent["steps"] == steps and np.shape(sent["rms"]) == (len(speed), 12)


def test_every_part_has_a_name_in_every_language(of_kind: Any) -> None:
    """No part of the models at hand is shown by the name that the program gives it; layers are counted from 1."""
    for kind in ("chars", "t5"):
        for part in of_kind(kind).metrics[-1].get("layers") or gradients.learning(of_kind(kind).run).parts:
            for lang in LANGUAGES:
                told = gradients.label(part)(Words("gradients", lang))
                assert "blocks" not in told and "." not in told and "_" not in told
    assert gradients.label("encoder.blocks.1.mlp")(Words("gradients", "en")) == "encoder: MLP 2"


def test_round_numbers_of_a_scale() -> None:
    """Two numbers or more within any scale, as many as have room."""
    assert gradients.rounds(0.5e-4, 2e-2, 0.2) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert gradients.rounds(0.9e-3, 6e-3, 0.09) == pytest.approx([1e-3, 2e-3, 5e-3])
    for low, high in ((0.011, 0.5), (3.1e-3, 3.2e-3), (4e-5, 6e-5), (1e-12, 1.0)):
        found = gradients.rounds(low, high, 0.2)
        assert len(found) >= 2 and low <= min(found) and max(found) <= high
        assert np.diff(np.log(found)).min() > 0.2 * np.log(high / low)
    assert [gradients.ten_to(value) for value in (1e-3, 2e-4, 10.0)] == ["10⁻³", "2·10⁻⁴", "10¹"]


def test_without_a_training(of_kind: Any, tmp_path: Any) -> None:
    """A model from elsewhere has no record of its gradients: the error says what to do."""
    from gptlab.lab import Lab
    from gptlab.run import Run

    lab = of_kind("chars")
    bare = Run.create(tmp_path / "bare", lab.config, lab.tokenizer)
    with pytest.raises(ValueError, match=r"was imported.*gptlab train"):
        conducted(Lab(bare, lab.model, lab.tokenizer), "gradients")
