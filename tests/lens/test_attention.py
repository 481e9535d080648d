"""Measures of heads: against loops, by heads made by hand, and by models whose induction is built in."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from gptlab.lens import attention
from gptlab.lens.trace import trace
from gptlab.model import layouts
from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.text.chars import CharTokenizer
from gptlab.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz .,;ABC"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return CharTokenizer.train([LETTERS])


def drawn(visible: np.ndarray, heads: int, seed: int = 0) -> np.ndarray:
    """Random patterns (heads, T, S) over what is visible."""
    scores = np.random.default_rng(seed).normal(0, 3, (heads, *visible.shape))
    return softmax(np.where(visible, scores, -np.inf), -1)


@pytest.mark.parametrize("kind", ["causal", "band", "prefix", "both ways", "cross"])
def test_measures_against_loops(kind: str) -> None:
    """Each measure is the mean that its name says, query by query, over those that have a choice and see the key."""
    T, S = 7, 7 if kind != "cross" else 5
    row, column = np.mgrid[:T, :S]
    visible = {
        "causal": column <= row,
        "band": (column <= row) & (row - column < 3),
        "prefix": (column <= row) | (column < 3),
        "both ways": np.ones((T, S), bool),
        "cross": np.ones((T, S), bool),
    }[kind]
    pattern = drawn(visible, 4)
    found = attention.measures(pattern, visible, cross=kind == "cross")
    keys = {"previous": -1, "own": 0, "next": 1} if kind != "cross" else {}
    for h in range(4):
        expected: dict[str, list[float]] = {}
        for i in range(T):
            seen = np.flatnonzero(visible[i])
            if len(seen) < 2:
                continue
            nats = entropy(pattern[h, i])
            expected.setdefault("entropy", []).append(nats)
            expected.setdefault("evenness", []).append(nats / np.log(len(seen)))
            for name, away in keys.items():
                if i + away in seen:
                    expected.setdefault(name, []).append(pattern[h, i, i + away])
            if 0 in seen and (i or kind == "cross"):
                expected.setdefault("first", []).append(pattern[h, i, 0])
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name][h], np.mean(values), rtol=1e-12)


def test_heads_made_by_hand() -> None:
    """A head that is all on one kind of key has 1 there and evenness 0; an even one has evenness 1. They have their
    roles, whatever the layers in front of them."""
    T = 9
    visible = np.tri(T, dtype=bool)
    even = visible / visible.sum(-1, keepdims=True)
    first = np.zeros((T, T))
    first[:, 0] = 1
    previous = np.eye(T, k=-1)
    previous[0, 0] = 1
    pattern = np.stack([even, first, previous, np.eye(T)])
    found = attention.measures(np.stack([pattern, pattern[::-1]]), np.stack([visible, visible]))
    for name, head in (("first", 1), ("previous", 2), ("own", 3)):
        assert found[name][0, head] == found[name][1, 3 - head] == 1
    np.testing.assert_allclose(found["evenness"][0], [1, 0, 0, 0], atol=1e-12)
    roles = attention.roles(found)
    assert {role: np.flatnonzero(fits[0]).tolist() for role, fits in roles.items()} == {
        "previous": [2],
        "first": [1],
        "own": [3],
        "sharp": [1, 2, 3],
        "broad": [0],
    }


def test_one_token_has_no_choice() -> None:
    """Where there is one key, nothing can be measured: an error, and no number."""
    with pytest.raises(ValueError, match="longer"):
        attention.measures(np.ones((2, 3, 1, 1)), np.ones((2, 1, 1), bool))


@pytest.mark.parametrize("name", ["gpt2-mini", "gpt3-mini", "pangu-alpha-mini", "glm-mini", "t5-mini", "gopher-mini"])
def test_visible_is_what_the_model_sees(name: str, tokenizer: Tokenizer) -> None:
    """Weights are exactly 0 where a key cannot be seen, and greater everywhere else: bands, prefixes, encoders."""
    changes: dict[str, Any] = {"vocab_size": tokenizer.vocab_size, "bridge": (3, 4) if "glm" in name else ()}
    model = build(preset(name, context=24, **changes, **({"band_width": 4} if "gpt3" in name else {})))
    ids = tokenizer.encode("the quick fox")
    read = trace(model, tokenizer, ids, ids[:5], names=("*.pattern",))
    found = attention.heads(model, read)
    assert list(found) == (["encoder", "decoder", "cross"] if name == "t5-mini" else ["decoder"])
    for some in found.values():
        L, _, T, S = some.pattern.shape
        assert some.pattern.shape[:2] == (model.config.n_layers, model.config.n_heads)
        assert (len(some.queries), len(some.keys)) == (T, S) and some.visible.shape == (L, T, S)
        assert ((some.pattern > 0) == some.visible[:, None]).all()
        np.testing.assert_allclose(some.pattern.sum(-1), 1, atol=1e-5)
    if "glm" in name:
        # The text and the bridge but for its last token, which begins what follows.
        assert read.prefix == len(ids) + 1 and found["decoder"].visible[0, 0].sum() == read.prefix


@pytest.mark.parametrize("name", ["gpt2-mini", "glm-mini", "t5-mini"])
def test_induction_against_a_trace(name: str, tokenizer: Tokenizer) -> None:
    """The score is the mean weight from each token of the second reading to the one after the same token in the first,
    found here by looking tokens up in traces of each sequence."""
    model = build(preset(name, vocab_size=tokenizer.vocab_size, bridge=(0, 1) if name != "gpt2-mini" else ()), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)  # so that patterns are far from even
    rng = np.random.default_rng(0)
    sequences = np.stack([2 + rng.permutation(tokenizer.vocab_size - 2)[:9] for _ in range(3)])  # none of the bridge's
    [(kind, scores)] = attention.induction(model, sequences).items()
    assert kind == ("cross" if name == "t5-mini" else "decoder")
    weights = []
    for sequence in sequences:
        read = trace(model, tokenizer, sequence, sequence)
        pattern = np.stack(read.cross_pattern if kind == "cross" else read.pattern)
        keys = (read.source_ids if kind == "cross" else read.ids).tolist()  # type: ignore[union-attr]
        for token in sequence[:-1].tolist():
            query = len(read.ids) - 1 - read.ids[::-1].tolist().index(token)  # its last place
            weights.append(pattern[:, :, query, keys.index(token) + 1])
    np.testing.assert_allclose(scores, np.mean(weights, 0), rtol=1e-4)


def test_an_induction_head_by_construction(tokenizer: Tokenizer) -> None:
    """A head of a band of two that looks at the previous token, and one that asks for it, score as induction says: the
    first 0, the second nearly 1, and an even model about as little as chance."""
    V, N = tokenizer.vocab_size, 20
    C = 2 * V + 2 * N
    settings: Any = dict(family="", n_layers=2, d_model=C, n_heads=1, vocab_size=V, context=2 * N, d_ff=1)
    shape = preset("nanogpt-cpu", **settings, norm_placement="pre", norm_affine="none", tied_embeddings=True)
    model = build(shape)
    w = dict(model.named_parameters())
    token, memory, place = slice(0, V), slice(V, 2 * V), slice(2 * V, C)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        w["embedding"][:, token] = torch.eye(V)
        w["position.weight"][:, place] = torch.eye(2 * N)
        q, k, v = (w["blocks.0.attention.qkv.weight"][i * C : (i + 1) * C] for i in range(3))
        k[place, place] = torch.eye(2 * N)
        q[place, place] = 60 * torch.eye(2 * N).roll(-1, 0)  # place i asks for place i - 1
        v[token, token] = torch.eye(V)
        w["blocks.0.attention.out.weight"][memory, token] = torch.eye(V)  # what stood before, into the memory
        q, k, v = (w["blocks.1.attention.qkv.weight"][i * C : (i + 1) * C] for i in range(3))
        q[memory, token] = 60 * torch.eye(V)  # I am A: who remembers an A before it?
        k[memory, memory] = torch.eye(V)
    sequences = attention.repeated(model, tokenizer, count=4, longest=N)
    scores = attention.induction(model, sequences)["decoder"]
    assert sequences.shape == (4, 2 * N // 2) and scores[0, 0] < 0.01 and scores[1, 0] > 0.95
    ids = np.concatenate([sequences[0], sequences[0]])
    some = attention.heads(model, trace(model, tokenizer, ids))["decoder"]
    assert attention.measures(some.pattern, some.visible)["previous"][0, 0] > 0.95
    assert attention.induction(build(preset("gpt2-mini", vocab_size=V)), sequences)["decoder"].max() < 0.1


def test_repeated(tokenizer: Tokenizer) -> None:
    """Different tokens of the vocabulary, no special ones, no broken characters; the same for the same seed; as many
    as fit twice; and an error where hardly any do."""
    model = build(preset("glm-mini", vocab_size=60, context=21, bridge=(1, 2)))  # more rows than tokens
    sequences = attention.repeated(model, tokenizer, count=5)
    assert sequences.shape == (5, layouts.room(model.config) // 2) == (5, 9)
    assert sequences.max() < tokenizer.vocab_size and all(len(set(row)) == 9 for row in sequences.tolist())
    np.testing.assert_array_equal(sequences, attention.repeated(model, tokenizer, count=5))
    assert (sequences != attention.repeated(model, tokenizer, count=5, seed=1)).any()
    with pytest.raises(ValueError, match="only 3 fit"):
        attention.repeated(build(preset("gpt2-mini", context=7)), tokenizer)


def test_no_broken_characters() -> None:
    """Tokens that are only part of a character are never drawn, nor are special ones."""

    class Pieces:
        pieces = (b"a", b"\xc3", b"\xa9", "é".encode(), b"", b" b", b"x\xc3", b"yes", b"no")
        vocab_size, specials = 9, ("<start>",)

    model = build(preset("gpt2-mini", vocab_size=9))
    found = attention.repeated(model, Pieces(), count=20)  # type: ignore[arg-type]
    assert set(found.flatten().tolist()) == {0, 3, 5, 7, 8}
