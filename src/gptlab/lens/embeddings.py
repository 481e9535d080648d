"""Embedding tables: which tokens and positions a model has made alike, as pictures in the plane and as numbers.

N points (tokens or positions), C width of a table. Points are compared in all C dimensions, for a picture in the plane
keeps only some of what is near to what; by the cosine distance 1 - cos of what each has beyond the mean of all, for
training moves all of them alike, too, and lengths tell more of how frequent a token is than of what it is.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.model.positions.sinusoidal import waves
from gptlab.model.transformer import Transformer
from gptlab.text.tokenizer import Tokenizer, named

Array = NDArray[Any]

# What tokens are, in the order in which they are listed: of single characters, and of pieces of words.
CHARACTERS = ("vowels", "consonants", "accented", "capitals", "digits", "punctuation", "space", "letters", "special")
PIECES = ("starts", "continuations", "capitals", "digits", "punctuation", "space", "bytes", "special")
NEIGHBOURS = 5


class Tables(NamedTuple):
    """tokens (V, C); positions (context, C'), None where no table is added to the tokens."""

    tokens: Array
    positions: Array | None


def tables(model: Transformer) -> Tables:
    """A model's token table and its position table: learned, or sinusoidal; RoPE, ALiBi and T5 have none."""
    return tables_of(dict(model.named_parameters()), model.config)


def tables_of(weights: Mapping[str, Tensor], config: ModelConfig) -> Tables:
    """The same of weights by name, such as a run's snapshot. OPT's rows that are no position are left out."""
    positions = None
    if config.position == "learned":
        positions = array(weights["position.weight"][config.position_offset :])
    elif config.position == "sinusoidal":
        every = torch.arange(config.context)
        positions = array(waves(every, config.d_model, dtype=torch.float32, interleaved=True))
    return Tables(array(weights["embedding"]), positions)


def array(x: Tensor) -> Array:
    return x.detach().cpu().float().numpy()


# What tokens are


def groups(tokenizer: Tokenizer, marks: Sequence[str] = ()) -> tuple[list[str], Array]:
    """The groups that a tokenizer's tokens fall into: their names, and the group of each id (V,), -1 for none.

    marks: characters of groups of one's own, which take the place of the usual ones; a token is in the first mark that
    has all of its characters, a space before a word aside. Without marks, names are those of CHARACTERS or PIECES that
    some token is of.

    Raises ValueError for a mark that no token is made of.
    """
    if marks:
        index = np.array([marked(piece, marks) for piece in tokenizer.pieces])
        for number, mark in enumerate(marks):
            if not (index == number).any():
                listed = ", ".join(named(c) for c in dict.fromkeys(mark)) or "nothing"
                raise ValueError(f"no token is made of the characters of mark {mark!r} ({listed}): name others")
        return list(marks), index
    characters = tokenizer.kind == "char"
    kind = kind_of_character if characters else kind_of_piece
    kinds = [kind(piece) for piece in tokenizer.pieces]
    names = [name for name in (CHARACTERS if characters else PIECES) if name in kinds]
    return names, np.array([names.index(name) for name in kinds])


def marked(piece: bytes, marks: Sequence[str]) -> int:
    """The first mark that has all characters of a piece, -1 for none."""
    text = piece.decode("utf-8", "replace")
    found = (number for number, mark in enumerate(marks) if set(text) <= set(mark))
    inner = (number for number, mark in enumerate(marks) if text[0] == " " and set(text[1:]) <= set(mark))
    return -1 if not text else next(found, next(inner, -1) if len(text) > 1 else -1)


def kind_of_character(piece: bytes) -> str:
    """Which of CHARACTERS a token is; y counts as a consonant, and an accented capital as a capital."""
    character = piece.decode()
    if not character:
        return "special"
    if character.isspace():
        return "space"
    if character.isdigit():
        return "digits"
    if not character.isalpha() or character in "ªº":
        return "punctuation"
    if character.isupper():
        return "capitals"
    if character.isascii():
        return "vowels" if character in "aeiou" else "consonants"
    return "accented" if unicodedata.name(character, "").startswith("LATIN SMALL L") else "letters"


def kind_of_piece(piece: bytes) -> str:
    """Which of PIECES a token is: of one with letters, whether it begins with a capital, or after a space, or neither.

    A single byte is a "bytes" where it is no character of its own, or one that is not printed.
    """
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "bytes"
    if not text:
        return "special"
    if text.isspace():
        return "space"
    letters = [character for character in text if character.isalpha()]
    if letters:
        if not letters[0].islower() and letters[0] != letters[0].lower():
            return "capitals"
        return "starts" if text[0] == " " else "continuations"
    if any(character.isdigit() for character in text):
        return "digits"
    return "punctuation" if text.isprintable() else "bytes"


# Pictures


def pca(x: Array) -> Array:
    """The plane of greatest variance: x (N, C) -> (N, 2), its mean at the origin. Pearson 1901."""
    from sklearn.decomposition import PCA

    points: Array = PCA(n_components=2, svd_solver="full").fit_transform(x)
    return points


def tsne(x: Array, init: Array | None = None, perplexity: float | None = None) -> Array:
    """Neighbours stay neighbours: x (N, C) -> (N, 2), by Euclidean distance. van der Maaten and Hinton 2008.

    init: where the points begin, (N, 2), as in the picture before this one of a film; it then goes on from there for
    250 iterations, without the first phase that draws groups apart; default their PCA, and 1000 iterations.
    perplexity: about how many neighbours count, default sqrt(N), from 5 to 30. The same input gives the same picture on
    the same machine. Distances between groups, and a group's extent, mean nothing.
    """
    from sklearn.manifold import TSNE

    usual = min(max(len(x) ** 0.5, 5), 30)
    perplexity = min(perplexity or usual, (len(x) - 1) / 2)
    start: dict[str, Any] = (
        {"init": "pca"} if init is None else {"init": init, "early_exaggeration": 1, "max_iter": 250}
    )
    points: Array = TSNE(perplexity=perplexity, random_state=0, **start).fit_transform(x)
    return points


def aligned(points: Array, to: Array) -> Array:
    """Points turned, mirrored and moved (not scaled) to be as near as possible to others, both (N, 2). Schönemann 1966,
    the orthogonal Procrustes problem."""
    from scipy.linalg import orthogonal_procrustes

    centred, target = points - points.mean(0), to - to.mean(0)
    turn, _ = orthogonal_procrustes(centred, target)
    moved: Array = centred @ turn + to.mean(0)
    return moved


def directions(x: Array) -> Array:
    """Rows less their mean, at length 1, (N, C): their squared Euclidean distance is twice the cosine distance."""
    beyond = x - x.mean(0)
    lengths = np.linalg.norm(beyond, axis=1, keepdims=True)
    unit: Array = beyond / np.maximum(lengths, np.finfo(x.dtype).tiny)
    return unit


# Numbers


def distances(x: Array) -> Array:
    """Cosine distances 1 - cos of rows less their mean, (N, C) -> (N, N): 0 in the same direction, 1 at a right angle,
    2 in the opposite direction."""
    unit = directions(x.astype(np.float64))
    found: Array = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(found, 0)
    return found


def silhouettes(distance: Array, index: Array) -> Array:
    """How much nearer each point is to its own group than to the next one, (N,): (b - a) / max(a, b), with a its mean
    distance to its group and b to the nearest other group. From -1 to 1; 0 is on the border, and alone in a group.
    Rousseeuw 1987. distance (N, N), index (N,) the groups. ValueError where there is only one."""
    from sklearn.metrics import silhouette_samples

    if len(np.unique(index)) < 2:
        raise ValueError("a silhouette compares groups, and all tokens are in one: name groups by --mark")
    found: Array = silhouette_samples(distance, index, metric="precomputed")
    return found


def purities(distance: Array, index: Array, neighbours: int = NEIGHBOURS) -> Array:
    """The share of each point's nearest neighbours that are of its own group, (N,): of so many neighbours, or of as
    many as its group has others, so that 1 can be reached; NaN for a point alone in its group.

    Were groups drawn by lot, it would be (n - 1) / (N - 1) on average, n being the points of the group: see `chance`.
    """
    order = np.argsort(distance + np.diag(np.full(len(distance), np.inf)), axis=1, kind="stable")[:, :neighbours]
    return purities_of(order, index)


def purities_of(order: Array, index: Array) -> Array:
    """`purities`, of neighbours in order of distance, (N, neighbours)."""
    others = sizes(index) - 1
    asked = np.minimum(others, order.shape[1])
    counted = np.arange(order.shape[1]) < asked[:, None]
    same = index[order] == index[:, None]
    found: Array = np.where(asked > 0, (same & counted).sum(1) / np.maximum(asked, 1), np.nan)
    return found


def chance(index: Array) -> Array:
    """The purity of each point's neighbours if groups were drawn by lot, (N,)."""
    by_lot: Array = (sizes(index) - 1) / (len(index) - 1)
    return by_lot


def sizes(index: Array) -> Array:
    """The number of points in each point's group, (N,)."""
    _, which, counts = np.unique(index, return_inverse=True, return_counts=True)
    size: Array = counts[which]
    return size


def shuffled(measure: Callable[[Array], Any], index: Array, times: int = 99) -> Array:
    """What a measure of groups, a number or an array, is once tokens have changed groups by lot, (times, …): a
    permutation test. By chance alone, a value above all 99 comes about once in a hundred times."""
    random = np.random.default_rng(0)
    return np.array([measure(random.permutation(index)) for _ in range(times)])


def between(distance: Array, index: Array) -> Array:
    """The mean distance of points of each group to those of each other, and of its own but themselves, (G, G), groups
    0 … G - 1; NaN within a group of one."""
    member = (index == np.arange(index.max() + 1)[:, None]).astype(float)  # (G, N)
    counts = member.sum(1)
    pairs = np.outer(counts, counts) - np.diag(counts)
    found: Array = np.divide(member @ distance @ member.T, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return found


# Positions


def by_separation(distance: Array) -> Array:
    """The mean distance of positions that are 1, 2, … N - 1 apart, (N - 1,)."""
    return np.array([np.diagonal(distance, apart).mean() for apart in range(1, len(distance))])


def rank_correlation(distance: Array) -> float:
    """Spearman's rank correlation, over all pairs i < j, of j - i and the distance (N, N) of their embeddings: 1 if
    what is further apart in a text always is so in the table, 0 if the one tells nothing of the other."""
    return float(rank_correlations(distance, 0)[0])


def rank_correlations(distance: Array, times: int = 99) -> Array:
    """`rank_correlation`, and then as many of the same table with its positions shuffled, (times + 1,): Mantel's test
    (1967), since pairs that share a position are not independent of each other."""
    from scipy.stats import rankdata

    rows, columns = np.triu_indices(len(distance), 1)
    apart = standard(rankdata(columns - rows))
    ranks = np.zeros_like(distance)
    ranks[rows, columns] = standard(rankdata(distance[rows, columns]))
    ranks += ranks.T
    random = np.random.default_rng(0)
    orders = [np.arange(len(distance)), *(random.permutation(len(distance)) for _ in range(times))]
    return np.array([np.mean(apart * ranks[order[rows], order[columns]]) for order in orders])


def standard(x: Array) -> Array:
    """With mean 0 and variance 1; 0 throughout where all are the same."""
    spread = x.std()
    return (x - x.mean()) / spread if spread > 0 else np.zeros_like(x)


def adjacent(distance: Array) -> float:
    """The share of positions whose nearest other one is the next or the one before; by lot it would be 2 / N."""
    apart = distance + np.diag(np.full(len(distance), np.inf))
    return float(np.mean(np.abs(apart.argmin(1) - np.arange(len(distance))) == 1))
