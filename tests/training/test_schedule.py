import itertools

import pytest

from gptlab.registry import SCHEDULES
from gptlab.training.schedule import rate


@pytest.mark.parametrize("decay", list(SCHEDULES))
def test_the_shape_of_every_schedule(decay: str) -> None:
    """Rises to the peak over the warm-up, never above it, and ends at the final fraction."""
    rates = [rate(decay, s, steps=100, warmup=10, final=0.1) for s in range(101)]
    assert all(a < b for a, b in itertools.pairwise(rates[:11]))
    assert max(rates) == rates[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(1.0 if decay == "constant" else 0.1)


def test_linear_and_cosine_at_their_middle() -> None:
    """Halfway down, both stand halfway between the peak and the end."""
    for decay in ("linear", "cosine"):
        assert rate(decay, 60, steps=110, warmup=10, final=0.2) == pytest.approx(0.6)


def test_no_warmup_begins_at_the_peak() -> None:
    """Without a warm-up, the first step has the full rate, as the classic recipe wants it."""
    assert rate("constant", 0, steps=10, warmup=0, final=1.0) == 1.0
