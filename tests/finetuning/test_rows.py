"""Examples in a batch are examples by themselves: losses, gradients, and what is kept of those that are too long."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gptlab.config import FinetuneConfig, ModelConfig
from gptlab.finetuning.data import Example, Examples
from gptlab.finetuning.rows import PACKED, Coder, Row, bridged, label_token
from gptlab.finetuning.trainer import Encoded, Finetuner
from gptlab.model import kernels
from gptlab.model.layouts import begin
from gptlab.model.transformer import Transformer, build
from gptlab.presets import preset
from gptlab.text.chars import CharTokenizer
from gptlab.text.objectives import IGNORED, Batch
from gptlab.text.tokenizer import END, START, special_id
from gptlab.training.evaluate import inputs

CONTEXT = 24
LABELS = ("no", "yes")
TOKENIZER = CharTokenizer("abcdefgh \n", (START, END, "<gmask>", *map(label_token, LABELS)))
MODELS = {  # preset -> its bridge, () being the usual one
    "gptlab-fables": (),
    "gpt2-mini": (),  # learned positions
    "gopher-mini": (),  # Transformer-XL's
    "gpt3-mini": (),  # a band
    "pangu-alpha-mini": (),  # a layer that asks by position
    "glm-mini": (special_id(TOKENIZER, "<gmask>"), special_id(TOKENIZER, START)),
    "t5-mini": (special_id(TOKENIZER, START), special_id(TOKENIZER, "<gmask>")),
}
ALL = pytest.mark.parametrize("name", MODELS)
TEXT = st.text("abcdefgh \n", max_size=10)
# Lengths of what is given and of the answer, which fit, and are of at least a token.
SIZES = st.lists(st.tuples(st.integers(1, 10), st.integers(1, 8)), min_size=1, max_size=8)


def shape(name: str, context: int = CONTEXT) -> ModelConfig:
    vocab = TOKENIZER.vocab_size
    return bridged(preset(name, vocab_size=vocab, context=context, n_layers=2, bridge=MODELS[name]), TOKENIZER)


@cache
def model_of(name: str) -> Transformer:
    """In float64, so that nothing but a mistake makes a difference, and with no weight at nothing, so that one does."""
    model = build(shape(name), seed=1, init="gpt2", kernel=kernels.sdpa).double()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return model


def coder_of(name: str, context: int = CONTEXT, labels: tuple[str, ...] = ()) -> Coder:
    return Coder(TOKENIZER, shape(name, context), labels=labels)


def drawn(sizes: list[tuple[int, int]], seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    ids = [(rng.integers(0, TOKENIZER.vocab_size, n), rng.integers(0, TOKENIZER.vocab_size, m)) for n, m in sizes]
    return [Row(given, answer, 1.0 + i) for i, (given, answer) in enumerate(ids)]


def binned(coder: Coder, rows: list[Row]) -> list[list[Row]]:
    """Rows put together as they come, as long as they fit."""
    bins: list[list[Row]] = [[]]
    for row in rows:
        if any(sum(coder.sizes(r)[side] for r in [*bins[-1], row]) > CONTEXT for side in (0, 1)):
            bins.append([])
        bins[-1].append(row)
    return bins


def nats(model: Transformer, batch: Batch) -> Tensor:
    """Of each target, in the order of the rows."""
    given = inputs(batch, torch.device("cpu"))
    targets = given.pop("targets")
    given.pop("weights", None)
    return torch.nn.functional.cross_entropy(model(**given).transpose(1, 2), targets, reduction="none")


def alone(model: Transformer, row: Row) -> Tensor:
    """The same of one example, as generation would put it to the model: `layouts.begin`, and then the answer. Of causal
    models the bridge follows the text."""
    config = model.config
    before = np.concatenate([row.given, config.bridge]) if config.category == "causal" else row.given
    given = begin(config, torch.from_numpy(before.astype(np.int64))[None])
    answer = torch.from_numpy(row.answer)
    given["ids"] = torch.cat([given["ids"], answer[None, :-1]], 1)
    logits = model(**given)[0, -len(answer) :]
    return torch.nn.functional.cross_entropy(logits, answer, reduction="none")


def gradients(model: Transformer, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


# What a batch is


@ALL
@settings(max_examples=40)
@given(sizes=SIZES, packed=st.booleans())
def test_a_batch_asks_what_its_examples_ask(name: str, sizes: list[tuple[int, int]], packed: bool) -> None:
    """Targets are the answers and nothing else, each with its example's weight, behind what generation would read; and
    what is told to the decoder and the encoder of each example is that layout, too."""
    coder, rows = coder_of(name), drawn(sizes)
    batch = coder.batch(rows, packed=packed)
    asked = batch.targets != IGNORED
    assert batch.ids.shape[1] <= CONTEXT and asked.sum() == sum(len(row.answer) for row in rows)
    assert batch.asked == sum(row.weight * len(row.answer) for row in rows)
    segments = np.zeros_like(batch.ids) if batch.segments is None else batch.segments
    weights = np.ones(batch.ids.shape) if batch.weights is None else batch.weights
    expected = []
    for row in rows:
        config = coder.config
        before = np.concatenate([row.given, config.bridge]) if config.category == "causal" else row.given
        given = {n: a[0].tolist() for n, a in begin(config, torch.from_numpy(before.astype(np.int64))[None]).items()}
        given["ids"] += row.answer[:-1].tolist()
        ignored = [IGNORED] * (len(given["ids"]) - len(row.answer))
        expected.append((given, ignored + row.answer.tolist(), row.weight))
    found = []
    for b, of_row in enumerate(segments):
        for number in range(of_row.max() + 1):
            here = of_row == number
            length = np.flatnonzero(here & asked[b]).max() - np.flatnonzero(here).min() + 1  # the rest fills up
            given = {"ids": batch.ids[b, here][:length].tolist()}
            if batch.prefix is not None:
                given["prefix"] = int(batch.prefix[b] if batch.prefix.ndim == 1 else batch.prefix[b, here][0])
            if batch.source is not None and batch.source_segments is not None and batch.source_positions is not None:
                there = batch.source_segments[b] == number
                given["source"] = batch.source[b, there].tolist()
                assert batch.source_positions[b, there].tolist() == list(range(there.sum()))
            if batch.positions is not None:
                assert batch.positions[b, here].tolist() == list(range(here.sum()))
            (weight,) = set(weights[b, here & asked[b]].tolist())
            found.append((given, batch.targets[b, here][:length].tolist(), weight))
            assert not asked[b, here][length:].any()
    assert sorted(found, key=repr) == sorted(expected, key=repr)


@ALL
@settings(max_examples=40)
@given(sizes=SIZES)
def test_sizes_are_those_of_the_arrays(name: str, sizes: list[tuple[int, int]]) -> None:
    """`sizes` of a row is what it takes in a batch by itself; bins hold all rows, once each, and no more than fits."""
    coder, rows = coder_of(name), drawn(sizes)
    for row in rows:
        batch = coder.batch([row])
        assert coder.sizes(row) == (batch.ids.shape[1], 0 if batch.source is None else batch.source.shape[1])
    bins = coder.shared(rows)
    assert sorted(row.weight for some in bins for row in some) == [row.weight for row in rows]
    for some in bins:
        assert max(sum(coder.sizes(row)[side] for row in some) for side in (0, 1)) <= CONTEXT


@ALL
def test_packing_where_it_saves(name: str) -> None:
    """Short examples beside a long one share rows; examples that are alike, of which nothing is filled up, do not."""
    coder = coder_of(name)
    mixed = drawn([(9, 8), *[(1, 1)] * 11])
    packed, plain = coder.batch(mixed), coder.batch(mixed, packed=False)
    assert packed.segments is not None and len(packed.ids) < len(plain.ids) == 12
    places = [batch.ids.size + (0 if batch.source is None else batch.source.size) for batch in (packed, plain)]
    assert places[0] <= PACKED * places[1]
    for size in ((2, 2), (9, 8)):
        assert len(coder.batch(drawn([size] * 12)).ids) == 12


# Losses and gradients


@ALL
def test_packed_examples_are_as_if_alone(name: str) -> None:
    """Losses and gradients of a packed batch, whatever the order, and of a padded one, are those of the examples by
    themselves, each put to the model as generation does."""
    model, coder = model_of(name), coder_of(name)
    rows = drawn([(7, 5), (1, 1), (4, 8), (10, 2), (2, 3), (6, 1), (1, 6), (3, 3), (9, 8)])
    singles = torch.cat([alone(model, row) for row in rows])
    expected = gradients(model, singles.sum())
    orders = [rows, rows[::-1], rows[3:] + rows[:3]]
    batches = [coder.batch(some) for some in orders] + [coder.batch(rows, packed=False)]
    batches += [coder.filled(binned(coder, some)) for some in orders] + [coder.filled(coder.shared(rows))]
    assert all(1 < len(batch.ids) < len(rows) for batch in batches[4:])
    for batch in batches:
        each = nats(model, batch)
        assert (each[torch.from_numpy(batch.targets) == IGNORED] == 0).all()
        torch.testing.assert_close(each.sum(), singles.sum(), rtol=1e-10, atol=1e-10)
        asked = each[torch.from_numpy(batch.targets) != IGNORED].sort().values
        torch.testing.assert_close(asked, singles.sort().values, rtol=1e-10, atol=1e-10)
        for found, wanted in zip(gradients(model, each.sum()), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


@ALL
def test_nothing_of_one_example_reaches_another(name: str) -> None:
    """Other tokens in one example, its answer included, leave the losses of all others of its row as they are; its own
    change."""
    model, coder = model_of(name), coder_of(name)
    rows = drawn([(3, 2), (2, 4), (4, 2)])
    others = drawn([(3, 2), (2, 4), (4, 2)], seed=1)
    with torch.inference_mode():
        before = nats(model, coder.filled([rows]))
        for i in range(3):
            changed = [others[n] if n == i else row for n, row in enumerate(rows)]
            batch = coder.filled([changed])
            assert batch.segments is not None
            differs = (nats(model, batch) - before).abs() > 1e-12
            assert differs.any() and set(batch.segments[differs.numpy()].tolist()) == {i}


@ALL
def test_what_fills_up_is_not_seen(name: str) -> None:
    """Behind the ends of rows may stand any token: losses and gradients are the same."""
    model, coder = model_of(name), coder_of(name)
    rows = drawn([(9, 8), (1, 2), (2, 1)])
    batch = coder.batch(rows, packed=False)
    expected = gradients(model, nats(model, batch).sum())
    for b, row in enumerate(rows):
        decoder, encoder = coder.sizes(row)
        batch.ids[b, decoder:] = 3
        if batch.source is not None:
            batch.source[b, encoder:] = 4
    for found, wanted in zip(gradients(model, nats(model, batch).sum()), expected, strict=True):
        if found.shape[0] == TOKENIZER.vocab_size:  # not even the rows of these tokens
            torch.testing.assert_close(found[3:5], wanted[3:5], rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-10)


# From texts to rows


@ALL
@settings(max_examples=40)
@given(text=TEXT, answer=TEXT)
def test_a_row_is_the_text_and_the_answer(name: str, text: str, answer: str) -> None:
    """The prompt that generation gets, and the answer with <end> behind it, or the label's token."""
    lead = TOKENIZER.encode("\n")
    coder = Coder(TOKENIZER, shape(name), lead=lead)
    row = coder.row(Example(text, answer), 0.5)
    assert row.weight == 0.5 and row.given.tolist() == coder.prompt(text).tolist()
    assert TOKENIZER.decode(row.given) == f"\n{text}"
    assert row.answer[-1] == special_id(TOKENIZER, END) and TOKENIZER.decode(row.answer[:-1]) == answer
    head = Coder(TOKENIZER, shape(name), labels=LABELS)
    for label in LABELS:
        row = head.row(Example(text, "no"), answer=label)
        assert row.answer.tolist() == [special_id(TOKENIZER, label_token(label))]


@ALL
def test_the_usual_bridge(name: str) -> None:
    """A model that has none gets <start>; one that has one keeps it."""
    config = shape(name)
    assert config.bridge == (MODELS[name] or (special_id(TOKENIZER, START),)) and bridged(config, TOKENIZER) == config
    with pytest.raises(ValueError, match="no special token '<start>'"):
        bridged(config.but(bridge=()), CharTokenizer("ab"))


@ALL
@pytest.mark.parametrize("labels", [(), LABELS])
@pytest.mark.parametrize("context", [8, 11])
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_kept(name: str, labels: tuple[str, ...], context: int, data: st.DataObject) -> None:
    """At the context's edge, one more, and a hundred times as long: what fits is whole; else as much is kept as there
    is room for, beginnings both, the answer before the text, of which a token stays."""
    coder = coder_of(name, context, labels)
    bridge, encoded = len(coder.bridge), coder.encoded
    length = st.integers(0, 2 * context) | st.just(100 * context)
    given, answer = "abcdefgh" * data.draw(length), "hgfedcba" * data.draw(length)
    given, answer = given[: data.draw(length)], answer[: data.draw(length)]
    example = Example(given, "yes" if labels else answer)
    row, prompt = coder.row(example), coder.prompt(given)
    whole = coder_of(name, 10**6, labels).row(example).answer
    n, m = len(prompt), len(whole)
    assert row.given.tolist() == prompt.tolist()[: len(row.given)]
    assert row.answer.tolist() == whole.tolist()[: len(row.answer)]
    sizes = coder.sizes(row)
    assert max(sizes) <= context and len(row.given) >= 1 and len(row.answer) >= 1
    # The longest for which there is room, by counting up from nothing.
    fits = [k for k in range(1, m + 1) if (bridge if encoded else 1 + bridge) + k - 1 <= context]
    assert len(row.answer) == fits[-1]
    read = 0 if encoded else len(row.answer)  # beside the text
    fits = [k for k in range(1, n + 1) if k + bridge - 1 + read <= context]
    assert len(row.given) == fits[-1]
    assert (coder.cut == 0) == (len(row.given) == n and len(row.answer) == m)
    batch = coder.batch([row])
    assert batch.ids.shape[1] == sizes[0]


@ALL
@pytest.mark.parametrize("extra", [0, 1, 100 * CONTEXT])
def test_the_models_take_what_is_kept(name: str, extra: int) -> None:
    """Of examples that are exactly as long as the context, or longer, losses can be computed, beside shorter ones."""
    coder = coder_of(name)
    room = CONTEXT - len(coder.bridge)
    given, answer = (room + 1, room) if coder.encoded else (room - 1, room - 1)
    examples = [Example("a" * (given + extra), "b"), Example("c", "d" * (answer + extra)), Example("e", "f")]
    rows = [coder.row(example) for example in examples]
    assert [max(coder.sizes(row)) == CONTEXT for row in rows] == [True, True, False]
    assert coder.cut == (2 if extra else 0)
    with torch.inference_mode():
        each = nats(model_of(name), coder.batch(rows))
    singles = torch.cat([alone(model_of(name), row) for row in rows])
    torch.testing.assert_close(each.sum(), singles.sum(), rtol=1e-10, atol=1e-10)


def test_what_is_said_of_what_is_cut() -> None:
    """How many, of how many, the longest with its place and length; nothing where nothing was cut."""
    coder = coder_of("gpt2-mini")
    coder.row(Example("a" * (CONTEXT - 3), "bc", "here"))  # with bridge and <end>, less the last: 24
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coder.warn()
    coder.row(Example("a" * (CONTEXT - 2), "bc", "x.csv, line 3"))
    coder.row(Example("a" * 1000, "bc", "x.csv, line 4"))
    with pytest.warns(UserWarning) as caught:
        coder.warn()
    assert [str(warning.message) for warning in caught] == [
        "2 of 3 examples are longer than the context of 24 tokens and are cut at their end; "
        "the longest, x.csv, line 4, has 1,003"
    ]


@ALL
def test_where_nothing_fits(name: str) -> None:
    """An error that says how long the context is, and the shortest example."""
    coder = coder_of(name)
    some = [Example("a" * n, "b") for n in (30, 40, 26)]
    shortest = 26 + len(coder.bridge) + (-1 if coder.encoded else 1)
    with pytest.raises(ValueError, match=rf"context of 24 tokens \(the shortest has {shortest}\).* longer context"):
        Encoded.of(Examples(some[:2], some[2:]), coder)


@ALL
@settings(max_examples=40)
@given(text=st.text("abcß\u3042\ud800\n", max_size=12), answer=st.text("abß", max_size=6))
def test_what_the_vocabulary_lacks(name: str, text: str, answer: str) -> None:
    """It is left out, of texts and answers, and named in one warning; of what is nothing else, one token is read."""
    coder = coder_of(name)
    row = coder.row(Example(text, answer))
    lost = {*text, *answer} - {*TOKENIZER.characters}
    kept = "".join(c for c in text if c not in lost)
    assert TOKENIZER.decode(row.given) == (kept or TOKENIZER.characters[0]) and len(row.given) == max(1, len(kept))
    assert TOKENIZER.decode(row.answer) == answer.replace("ß", "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coder.warn()
    listed = ", ".join(map(repr, sorted(lost)))
    expected = [f"not in the model's vocabulary, and left out of the examples: {listed}"] if lost else []
    assert [str(warning.message) for warning in caught] == expected


def test_an_empty_text_at_the_edge() -> None:
    """What stands for an empty text counts, too: the answer is cut by one token more."""
    coder = coder_of("gpt2-mini")
    row = coder.row(Example("", "a" * (CONTEXT - 1)))
    assert coder.sizes(row) == (CONTEXT, 0) and len(row.answer) == CONTEXT - 1 and coder.cut == 1


# Weights


def tuner(balanced: bool, answer: str = "head") -> Finetuner:
    some = [Example("abc"[i % 3] * (1 + i), LABELS[i == 4]) for i in range(8)]
    config = FinetuneConfig(
        task="classify",
        data="reviews.csv",
        answer=answer,
        class_weights="balanced" if balanced else "none",
        steps=4,
        batch=4,
        optimizer="adamw",
        lr=0.01,
        lr_adam=0.01,
        warmup=1,
        eval_every=2,
    )
    name = "gpt2-mini" if answer == "head" else "glm-mini"
    tokenizer = TOKENIZER if answer == "head" else CharTokenizer("abcesnoy", ("<gmask>", START, END))
    shaped = bridged(preset(name, vocab_size=tokenizer.vocab_size, context=CONTEXT, n_layers=1), tokenizer)
    coder = Coder(tokenizer, shaped, labels=LABELS if answer == "head" else ())
    data = Encoded.of(Examples(some, some[3:5], LABELS), coder, balanced=balanced)
    return Finetuner(build(shaped, seed=2), data, config, [])


@pytest.mark.parametrize("answer", ["head", "text"])
@torch.inference_mode()
def test_class_weights(answer: str) -> None:
    """The weighted loss is the sum of weight times loss, weights n / (K n_label): each label counts alike, n / K, and
    all together n; what is answered stays as it is."""
    plain, balanced = tuner(False, answer), tuner(True, answer)
    weights = {"no": 8 / (2 * 7), "yes": 8 / (2 * 1)}
    for part in ("train", "val"):
        rows, examples = getattr(balanced.data, part), getattr(balanced.data.examples, part)
        assert [row.weight for row in rows] == [weights[e.output] for e in examples]
    assert {row.weight for row in plain.data.train} == {1.0}
    assert sum(row.weight for row in balanced.data.train) == pytest.approx(8)
    for packed in (True, False):
        batch = balanced.data.coder.batch(balanced.data.train, packed=packed)
        plain_batch = plain.data.coder.batch(plain.data.train, packed=packed)
        logits, wanted, _ = balanced.answered(batch)
        same_logits, same_wanted, none = plain.answered(plain_batch)
        torch.testing.assert_close(logits, same_logits)
        assert torch.equal(wanted, same_wanted) and none is None
        of_all = float(balanced.nats(batch))
        alone = [float(plain.nats(plain.data.coder.batch([row]))) for row in plain.data.train]
        weighed = [row.weight * nats for row, nats in zip(balanced.data.train, alone, strict=True)]
        assert of_all == pytest.approx(sum(weighed), rel=1e-4)
        singles = [float(balanced.nats(balanced.data.coder.batch([row]))) for row in balanced.data.train]
        assert singles == pytest.approx(weighed, rel=1e-4)
        assert float(plain.nats(plain_batch)) == pytest.approx(sum(alone), rel=1e-4)
        asked = sum(row.weight * len(row.answer) for row in balanced.data.train)
        assert batch.asked == pytest.approx(asked)


def test_a_head_chooses_among_labels() -> None:
    """With a head, the loss is that of a softmax over the labels alone, whatever the other tokens' logits."""
    found = tuner(False)
    batch = found.data.coder.batch(found.data.train, packed=False)
    given = inputs(batch, torch.device("cpu"))
    targets = given.pop("targets")
    ids = [special_id(TOKENIZER, label_token(label)) for label in LABELS]
    with torch.inference_mode():
        answered, wanted, _ = found.answered(batch)
        total = found.nats(batch)
        logits = found.model(**given)[targets != IGNORED][:, ids].log_softmax(-1)
    truth = torch.tensor([LABELS.index(e.output) for e in found.data.examples.train])
    torch.testing.assert_close(answered.log_softmax(-1), logits)
    assert torch.equal(wanted, truth)
    torch.testing.assert_close(total, -logits[torch.arange(8), truth].sum())


def test_every_example_once_in_a_pass() -> None:
    """Over two passes of four steps in all, each example is asked twice, once in each pass, in another order."""
    found = tuner(False)
    seen = []
    for step in range(4):
        batch = found.batch(step)
        segments = np.zeros_like(batch.ids) if batch.segments is None else batch.segments
        for b, number in zip(*np.nonzero(batch.targets != IGNORED), strict=True):
            here = (segments[b] == segments[b, number]) & (np.arange(batch.ids.shape[1]) <= number)
            seen.append(tuple(batch.ids[b, here]))
    expected = [tuple(np.concatenate([row.given, found.data.coder.bridge])) for row in found.data.train]
    assert sorted(seen[:8]) == sorted(seen[8:]) == sorted(expected)
    assert (
        found.order(0).tolist() != found.order(1).tolist() and found.order(0).tolist() == tuner(True).order(0).tolist()
    )
