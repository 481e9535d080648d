"""Formulas as drawings on the line, and as words."""

import re
from xml.etree import ElementTree

import pytest

from gptlab.teach import formula


@pytest.mark.parametrize(
    ("tex", "told"),
    [
        (r"x_i^2 + y", "xᵢ² + y"),
        (r"\frac{QK^\top}{\sqrt{d_k}}", "QKᵀ/√(dₖ)"),
        (r"\mathrm{softmax}\left(\frac{a + b}{2}\right)", "softmax((a + b)/2)"),
        (r"\hat{y} = \sigma(wx + b)", "ŷ = σ(wx + b)"),
        (r"-\frac{1}{n}\sum_{i=1}^{n}\log p(x_i \mid x_{<i})", "−1/n ∑ᵢ₌₁ⁿlog p(xᵢ | x_(< i))"),
        (r"x \in \mathbb{R}^{T \times d}", "x ∈ ℝ^(T × d)"),
        (r"1{,}5 \times 10^{-3}", "1,5 × 10⁻³"),
        (r"\partial L / \partial w", "∂L/∂w"),
    ],
)
def test_formulas_in_unicode(tex: str, told: str) -> None:
    assert formula.text(tex) == told


def test_a_formula_is_drawn_on_its_baseline() -> None:
    """In units of the text's size and in its colour; what hangs below the line hangs below; by itself it is larger."""
    drawn = formula.svg(r"\frac{a}{b}_q")
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") and root.get("role") == "img" and "fill" not in drawn
    size = re.search(r"height:([\d.]+)em;vertical-align:-([\d.]+)em", drawn)
    assert size and 0 < float(size[2]) < float(size[1])
    height = [float(re.search(r"height:([\d.]+)em", formula.svg(r"\frac{a}{b}", display=d))[1]) for d in (False, True)]  # type: ignore[index]
    assert height[1] > 1.2 * height[0]


def test_bounds_stand_beside_a_sum_in_a_line() -> None:
    """So that the line stays as high as the others."""
    inline, display = (formula.svg(r"\sum_{i=1}^{n} x", display=d) for d in (False, True))
    heights = [float(found[1]) for svg in (inline, display) if (found := re.search(r"height:([\d.]+)em", svg))]
    assert heights[0] < 0.75 * heights[1]


@pytest.mark.parametrize("display", [True, False])
def test_spaces_that_a_reader_needs(display: bool) -> None:
    """Between a factor and a function, and behind a sum; none where a bracket opens, or beside a transposed matrix."""

    def width(tex: str) -> float:
        found = re.search(r"width:([\d.]+)em", formula.svg(tex, display=display))
        assert found
        return float(found[1])

    assert width(r"y \ln a") > width(r"y") + width(r"\ln a") + 0.1
    assert width(r"(\ln a)") == pytest.approx(width(r"(") + width(r"\ln a") + width(r")"), abs=0.05)
    assert width(r"\sum_i p_i") > width(r"\sum_i") + width("p_i") - 0.02
    assert width(r"W^\top + b") == pytest.approx(width("W^T + b"), abs=0.1)
    assert width("f'") < width("f") + 0.4


def test_what_cannot_be_set_is_said() -> None:
    with pytest.raises(ValueError, match=r"the formula \$\\begin.* cannot be set"):
        formula.svg(r"\begin{x}")
