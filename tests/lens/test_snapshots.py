"""Snapshots as pictures that move."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import gptlab
from gptlab import lab
from gptlab.lens.embeddings import directions, tsne
from gptlab.lens.snapshots import between, motion, snapshots
from gptlab.run import Run
from gptlab.text.chars import CharTokenizer
from tests.training.helpers import TINY, write_text


def drift(steps: int = 4) -> np.ndarray:
    """Four groups of points, in tables that change a little from one to the next: (steps, 48, 8)."""
    random = np.random.default_rng(0)
    middles = np.repeat(random.normal(size=(4, 8)), 12, axis=0)
    first, last = (middles + 0.3 * random.normal(size=middles.shape) for _ in range(2))
    return np.stack([first + 0.1 * step * (last - first) for step in range(steps)]).astype(np.float32)


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def test_snapshots_are_the_files(tmp_path: Path) -> None:
    """All that is read is what the files hold, in the order of the steps."""
    text = write_text(tmp_path / "text.txt", words=600)
    run = lab.train(text, out=tmp_path / "run", steps=12, snapshots=5, eval_windows=4, **TINY)
    found = snapshots(run)
    assert found.steps.tolist() == run.snapshots() == [0, 1, 3, 7, 12] and found.positions is not None
    for step, tokens, positions in zip(found.steps, found.tokens, found.positions, strict=True):
        held = load_file(run.path / "snapshots" / f"{step}.safetensors")
        assert torch.equal(held["embedding"], torch.as_tensor(tokens))
        assert torch.equal(held["position.weight"], torch.as_tensor(positions))


def test_no_position_table(tmp_path: Path) -> None:
    """Positions that are computed do not move: they are not among what is filmed."""
    shape = gptlab.preset("gptlab-cpu", position="sinusoidal", vocab_size=3)
    run = Run.create(tmp_path / "run", shape, CharTokenizer.train(["abc"]))
    for step in range(2):
        run.add_snapshot(step, gptlab.build(shape, seed=step))
    assert snapshots(run).positions is None


def test_too_few_snapshots(tmp_path: Path) -> None:
    """A run without two snapshots says how to get them."""
    shape = gptlab.preset("gptlab-cpu", vocab_size=3)
    run = Run.create(tmp_path / "run", shape, CharTokenizer.train(["abc"]))
    with pytest.raises(ValueError, match=r"no snapshots.*--snapshots 60"):
        snapshots(run)
    run.add_snapshot(0, gptlab.build(shape))
    with pytest.raises(ValueError, match=r"one snapshot.*--snapshots 60"):
        snapshots(run)


def test_pictures_by_pca_are_turned_and_nothing_else() -> None:
    """Distances within each picture are those of the two first components by singular value decomposition; and no other
    turn of it, mirrored or not, is nearer to the picture before."""
    tables = drift()
    pictures = list(motion(tables, "pca"))
    for table, picture in zip(tables, pictures, strict=True):
        beyond = table - table.mean(0)
        unit = beyond / np.linalg.norm(beyond, axis=1, keepdims=True)
        centred = unit - unit.mean(0)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        np.testing.assert_allclose(distances(picture), distances(left[:, :2] * values[:2]), atol=1e-4)
    for before, picture in pairwise(pictures):
        least = np.linalg.norm(picture - before)
        for angle in np.linspace(0, 2 * np.pi, 181):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            for mirror in (1, -1):
                assert least <= np.linalg.norm(picture @ turn * [1, mirror] - before) + 1e-6


def test_pictures_by_tsne_go_on_from_the_one_before() -> None:
    """Each is t-SNE begun at the picture before, turned; points move far less than where each picture begins anew."""
    tables = drift()
    pictures = list(motion(tables, "tsne"))
    for table, before, picture in zip(tables[1:], pictures, pictures[1:], strict=False):
        anew = tsne(directions(table), init=before)
        np.testing.assert_allclose(distances(picture), distances(anew), rtol=1e-3, atol=1e-2)
    alone = [tsne(directions(table)) for table in tables]
    moved = [np.linalg.norm(b - a, axis=1).mean() for a, b in pairwise(pictures)]
    jumped = [np.linalg.norm(b - a, axis=1).mean() for a, b in pairwise(alone)]
    assert max(moved) < 0.5 * min(jumped)


def test_between() -> None:
    """At whole numbers it is the very picture, and half-way between two their mean."""
    pictures = np.random.default_rng(0).normal(size=(3, 40, 2))
    for at in range(3):
        assert np.array_equal(between(pictures, at), pictures[at])
    np.testing.assert_allclose(between(pictures, 1.5), (pictures[1] + pictures[2]) / 2, rtol=1e-6)
