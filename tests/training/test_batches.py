import numpy as np
import pytest

from gptlab.text.batches import occurrences, windows

IDS = np.arange(500, dtype=np.uint16)


def test_targets_follow_inputs() -> None:
    """The target of each position is the token after it in the text."""
    rows = windows(IDS, count=64, context=12, seed=3, step=5)
    x, y = rows[:, :-1], rows[:, 1:]
    assert x.shape == y.shape == (64, 12)
    assert (y == x + 1).all()


def test_a_batch_is_a_function_of_seed_step_and_stream() -> None:
    """The same counter gives the same batch, in any order of asking; another counter another batch."""
    first = [windows(IDS, count=8, context=4, seed=1, step=s) for s in range(5)]
    again = [windows(IDS, count=8, context=4, seed=1, step=s) for s in reversed(range(5))][::-1]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    others = [windows(IDS, count=8, context=4, seed=2), windows(IDS, count=8, context=4, seed=1, stream="e")]
    assert all((first[0] != other).any() for other in [*others, first[1]])


def test_every_start_is_drawn_and_equally_often() -> None:
    """Starts are uniform from the first token to the last window: chi-squared below its 99.9% quantile."""
    starts = windows(IDS[:21], count=20_000, context=4, seed=0)[:, 0]
    counts = np.bincount(starts, minlength=17)
    assert len(counts) == 17
    expected = 20_000 / 17
    assert ((counts - expected) ** 2 / expected).sum() < 39.25  # 16 degrees of freedom


@pytest.mark.parametrize("context", [1, 499])
def test_the_shortest_and_the_longest_context_fit(context: int) -> None:
    """A text of context + 1 tokens has exactly one window."""
    rows = windows(IDS[: context + 1], count=3, context=context, seed=0)
    x, y = rows[:, :-1], rows[:, 1:]
    assert (x == IDS[:context]).all() and (y == IDS[1 : context + 1]).all()


def test_windows_begin_where_they_may() -> None:
    """Given starts, every window begins at one of them, each of which is drawn equally often."""
    starts = np.array([3, 10, 40])
    x = windows(IDS, count=3000, context=5, seed=0, starts=starts)[:, :-1]
    rows = [tuple(IDS[s : s + 5]) for s in starts]
    drawn = [tuple(row) for row in x]
    assert set(drawn) == set(rows)
    assert all(900 < drawn.count(row) < 1100 for row in rows)


def test_occurrences() -> None:
    """Where a pattern stands in a text: a loop over all places finds the same, overlapping ones too."""
    ids = np.random.default_rng(1).integers(0, 2, 200).astype(np.uint8)
    for pattern in ([1], [0, 0], [1, 0, 1], [1, 1, 1, 1, 0]):
        slow = [i for i in range(200) if ids[i : i + len(pattern)].tolist() == pattern]
        assert occurrences(ids, np.array(pattern, np.uint8)).tolist() == slow
