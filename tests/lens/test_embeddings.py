"""Embedding tables: what tokens are, pictures that keep what they promise, and measures against slow twins."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from gptlab.lens import embeddings
from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.text.chars import CharTokenizer
from gptlab.text.tokenizer import train

RANDOM = np.random.default_rng(5)


def blobs(sizes: list[int], width: int = 8, spread: float = 0.1) -> tuple[NDArray[Any], NDArray[Any]]:
    """Groups of points around directions at right angles to each other."""
    index = np.repeat(np.arange(len(sizes)), sizes)
    return np.eye(width)[index] + spread * RANDOM.normal(size=(len(index), width)), index


@pytest.mark.parametrize(
    ("characters", "kind"),
    [
        ("aeiou", "vowels"),
        ("bcxyz", "consonants"),
        ("áãçêłßœ", "accented"),
        ("AZÉŁΩ", "capitals"),
        ("019", "digits"),
        (".,;—“”!$+ª°", "punctuation"),
        (" \n\t\N{NO-BREAK SPACE}", "space"),
        ("ωж字", "letters"),
    ],
)
def test_kinds_of_characters(characters: str, kind: str) -> None:
    """Each character is what a reader calls it."""
    assert {embeddings.kind_of_character(c.encode()) for c in characters} == {kind}


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        (b" fox", "starts"),
        (b" a", "starts"),
        (b"ing", "continuations"),
        (b"'s", "continuations"),
        (" ção".encode(), "starts"),
        (b" The", "capitals"),
        (b"Once", "capitals"),
        (b" 12", "digits"),
        (b'."', "punctuation"),
        (b"\n\n", "space"),
        (b"\xc3", "bytes"),
        (b"\x00", "bytes"),
        (b"", "special"),
    ],
)
def test_kinds_of_pieces(piece: bytes, kind: str) -> None:
    """Each piece of a word is what a reader calls it; half a character is a part of one."""
    assert embeddings.kind_of_piece(piece) == kind


def test_groups_hold_every_token() -> None:
    """Without marks each id has a group, named in the order of the list, and only those that occur are named."""
    names, index = embeddings.groups(CharTokenizer("\n AZabeé", specials=("<end>",)))
    assert names == ["vowels", "consonants", "accented", "capitals", "space", "special"]
    assert [names[i] for i in index] == ["space"] * 2 + ["capitals"] * 2 + [
        "vowels", "consonants", "vowels", "accented", "special",
    ]  # fmt: skip


def test_marks_take_the_place_of_groups() -> None:
    """A token is in the first mark that spells it, the space before a word aside; the rest is in none."""
    tokenizer = train("bpe", ["a a a aa aa 12 12 12 bb bb bb"] * 9, 262, ["<end>"])
    names, index = embeddings.groups(tokenizer, ("ab", "a0123456789"))
    found = {tokenizer.pieces[i].decode(): names[index[i]] for i in np.flatnonzero(index >= 0)}
    assert names == ["ab", "a0123456789"] and index[-1] == -1
    assert found[" a"] == found["a"] == found["b"] == "ab" and found["7"] == "a0123456789"
    assert {"2", " "} & set(found) == {"2"} and set("".join(found)) <= set(" ab0123456789")


def test_a_mark_without_tokens_is_an_error() -> None:
    """It names the mark, and what is in it."""
    with pytest.raises(ValueError, match=r"mark 'qx' \('q' \(U\+0071\), 'x' \(U\+0078\)\)"):
        embeddings.groups(CharTokenizer("abc"), ("ab", "qx"))


@pytest.mark.parametrize("changes", [{}, {"position_offset": 2}, {"position": "sinusoidal"}, {"position": "rope"}])
def test_the_position_table_is_what_the_model_adds(changes: dict[str, Any]) -> None:
    """Row p is what is added to a token at position p; nothing is added where there is no table."""
    model = build(preset("gptlab-cpu", vocab_size=11, context=16).but(**changes))
    found = embeddings.tables(model)
    added = model.position.embed(torch.zeros(1, 16, 64), torch.arange(16)[None])[0].detach().numpy()
    assert found.tokens.shape == (11, 64)
    if found.positions is None:
        assert not added.any()
    else:
        np.testing.assert_array_equal(found.positions, added)
    assert (found.positions is None) == (changes.get("position") == "rope")


def test_pca_is_the_plane_of_greatest_variance() -> None:
    """Points lie in it as the two largest singular values say, and centred."""
    x = RANDOM.normal(size=(30, 7)) * np.arange(1, 8) + 3
    points = embeddings.pca(x)
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    np.testing.assert_allclose(points.T @ points, np.diag(singular[:2] ** 2), atol=1e-8)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)


def test_tsne_keeps_neighbours() -> None:
    """Groups that are far apart stay apart, a picture goes on from the one before, and four points have one, too."""
    x, index = blobs([12, 10, 14])
    points = embeddings.tsne(x)
    gaps = cdist(points, points)
    assert points.shape == (36, 2) and embeddings.purities(gaps, index).mean() == 1
    again = embeddings.tsne(x, init=points)
    assert np.linalg.norm(again - points, axis=1).mean() < 0.5 * gaps.mean()
    assert embeddings.tsne(x[:4]).shape == (4, 2)


def test_alignment_undoes_turning_mirroring_and_moving() -> None:
    """And does not scale: what was made twice as large stays so."""
    to = RANDOM.normal(size=(20, 2))
    turn = np.array([[0.6, 0.8], [0.8, -0.6]])  # with a reflection
    np.testing.assert_allclose(embeddings.aligned(to @ turn + [5, -3], to), to, atol=1e-12)
    twice = embeddings.aligned(2 * to @ turn, to)
    np.testing.assert_allclose(twice - twice.mean(0), 2 * (to - to.mean(0)), atol=1e-12)


def test_distances_are_cosine_and_of_what_differs() -> None:
    """SciPy's cosine distances of rows less their mean; they know nothing of what all rows share, nor of scale."""
    x = RANDOM.normal(size=(15, 6)).astype(np.float32)
    found = embeddings.distances(x)
    np.testing.assert_allclose(found, cdist(x - x.mean(0), x - x.mean(0), "cosine"), atol=1e-6)
    np.testing.assert_allclose(embeddings.distances(7 * (x + 2)), found, atol=1e-5)
    unit = embeddings.directions(x)
    np.testing.assert_allclose(cdist(unit, unit) ** 2, 2 * found, atol=1e-5)


def test_silhouettes_are_as_defined() -> None:
    """(b - a) / max(a, b), point by point; one group alone cannot be compared."""
    x, index = blobs([4, 6, 1], spread=0.5)
    distance = embeddings.distances(x)
    found = embeddings.silhouettes(distance, index)
    for i, own in enumerate(index):
        others = [distance[i, index == group].mean() for group in range(3) if group != own]
        same = [distance[i, j] for j in range(11) if index[j] == own and j != i]
        a, b = np.mean(same) if same else 0, min(others)
        assert found[i] == pytest.approx((b - a) / max(a, b) if same else 0)
    with pytest.raises(ValueError, match="--mark"):
        embeddings.silhouettes(distance, np.zeros(11, dtype=int))


def test_purities_are_as_defined() -> None:
    """Counted neighbour by neighbour; a small group asks for as many as it has others, so that 1 can be reached."""
    x, index = blobs([9, 3, 1, 7], spread=0.6)
    distance = embeddings.distances(x)
    found = embeddings.purities(distance, index, 5)
    for i, own in enumerate(index):
        asked = min(5, int((index == own).sum()) - 1)
        nearest = sorted((j for j in range(20) if j != i), key=lambda j: distance[i, j])[:asked]
        assert np.isnan(found[i]) if not asked else found[i] == np.mean([index[j] == own for j in nearest])
    apart, index = blobs([2, 8, 4], spread=0.01)
    assert embeddings.purities(embeddings.distances(apart), index).tolist() == [1.0] * 14


def test_chance_is_what_shuffling_gives_on_average() -> None:
    """The expected purity of groups drawn by lot, (n - 1) / (N - 1), is the mean over many draws."""
    x, index = blobs([12, 5, 2, 8], spread=1)
    order = np.argsort(embeddings.distances(x) + 9 * np.eye(27), axis=1)[:, :5]
    drawn = embeddings.shuffled(lambda some: embeddings.purities_of(order, some).mean(), index, 2000)
    assert embeddings.chance(index).mean() == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 2000**0.5)
    assert (
        len(set(drawn)) > 20
        and (drawn == embeddings.shuffled(lambda some: embeddings.purities_of(order, some).mean(), index, 2000)).all()
    )


def test_between_groups() -> None:
    """Means over pairs of different points, pair by pair."""
    x, index = blobs([3, 5, 1])
    distance = embeddings.distances(x)
    found = embeddings.between(distance, index)
    for a in range(3):
        for b in range(3):
            pairs = [distance[i, j] for i in range(9) for j in range(9) if i != j and (index[i], index[j]) == (a, b)]
            assert found[a, b] == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found[a, b])


def test_rank_correlation_is_spearmans() -> None:
    """SciPy's, over all pairs, ties included; shuffled positions correlate about 0."""
    points = RANDOM.normal(size=(25, 4)) + np.linspace(0, 3, 25)[:, None]
    distance = cdist(points, points)
    rows, columns = np.triu_indices(25, 1)
    assert embeddings.rank_correlation(distance) == pytest.approx(
        spearmanr(columns - rows, distance[rows, columns]).statistic
    )
    several = embeddings.rank_correlations(distance, 200)
    assert several[0] == embeddings.rank_correlation(distance) > 0.3 > np.abs(several[1:]).max() * 0.5
    assert abs(several[1:].mean()) < 0.05


def test_positions_in_a_row() -> None:
    """On a line all is as in the text: correlation 1, each nearest to a neighbour, distance k between k apart; where
    all distances are the same, nothing is."""
    line = np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0)))
    assert embeddings.rank_correlation(line) == pytest.approx(1)
    assert embeddings.adjacent(line) == 1
    np.testing.assert_allclose(embeddings.by_separation(line), np.arange(1, 9))
    assert embeddings.rank_correlation(1 - np.eye(9)) == 0
    # Every other one first: 0 2 4 6 8 1 3 5 7, of which only 8 and 1 are beside each other in the text and not near.
    mixed = line[np.ix_([0, 2, 4, 6, 8, 1, 3, 5, 7], [0, 2, 4, 6, 8, 1, 3, 5, 7])]
    assert embeddings.adjacent(mixed) < 0.5
