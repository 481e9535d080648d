"""The look of figures: what cannot be read is found, and what is told by colour can be told without."""

import matplotlib
import numpy as np
import pytest

from gptlab.experiments import figures


def luminance(colors: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours (N, 3), 0 to 1 (WCAG 2.2)."""
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("shape", figures.SHAPES)
def test_what_cannot_be_read_is_found(shape: str) -> None:
    """A text over another and a text beyond the edge are named; ticks out of view and empty texts are not."""
    made, axes = figures.figure(shape)
    axes.plot([0, 1], [0, 1])
    axes.set_xticks([0, 0.5, 1, 7], ["a", "b", "c", "out of view"])
    axes.set_xlim(0, 1)
    axes.text(0.5, 0.5, "")
    assert figures.clashes(made) == []
    axes.text(0.5, 0.5, "one")
    assert figures.clashes(made) == []
    axes.text(0.52, 0.5, "other")
    axes.text(0.9, 0.9, "much too long to end within the figure's own right edge")
    made.set_layout_engine("none")
    assert figures.clashes(made) == [
        '"much too long to end within the figure\'s own right edge" leaves the figure',
        "'one' covers 'other'",
    ]


def test_heat_maps_can_be_read_in_grey() -> None:
    """What is more is lighter, all the way, and from end to end by far."""
    grey = luminance(matplotlib.colormaps[figures.SEQUENTIAL](np.linspace(0, 1, 64))[:, :3])
    assert (np.diff(grey) > 0).all() and (grey[-1] + 0.05) / (grey[0] + 0.05) > 7


def test_no_two_groups_share_a_marker() -> None:
    """There are as many markers as colours, or more, all different: colour is never alone."""
    assert len(set(figures.MARKERS)) == len(figures.MARKERS) >= len(set(figures.COLORS)) == len(figures.COLORS)
