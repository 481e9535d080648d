"""The decoder in C++ against the modules: the same logits, the same tokens, for every model that it takes; and the same
bits whatever runs beside a text."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.config import ModelConfig, SampleConfig
from gptlab.generate import fast, sampling
from gptlab.generate import generate as plain
from gptlab.generate.generate import generate, tokens
from gptlab.model import kernels
from gptlab.model.taps import record
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from tests.generate.toys import CHARACTERS
from tests.model.plain import CONFIGS, error, random_ids, random_model
from tests.model.test_transformer import models

ROUNDING = 1e-5  # relative to the largest, of float32
SHAPE = dict(vocab_size=11, context=9, n_layers=2, d_model=20, n_heads=4, n_kv_heads=2)
SMALL = ModelConfig(**SHAPE, position="rope", rope_fraction=0.4, head_dim=10, activation="swiglu", bias_lm_head=True)


@pytest.fixture(autouse=True)
def decoder() -> None:
    if fast.library() is None:
        pytest.skip("needs a compiler")


def taken(config: ModelConfig) -> bool:
    """The models that the decoder takes, by their configuration."""
    return config.category == "causal" and not config.query_layer and config.position != "transformer-xl-relative"


def single(config: ModelConfig, *, seed: int = 0, size: float = 0.4) -> Transformer:
    """A random model in float32."""
    return random_model(config, seed=seed, size=size).float()


@torch.inference_mode()
def exact(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """What the modules make of the last tokens, in float64."""
    return copy.deepcopy(model).double()(ids)[:, -1]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits(config: ModelConfig) -> None:
    """Of every family, at every length that fits: what the modules give; and what is not taken is refused."""
    model, ids = single(config), random_ids(config, 3, config.context)
    assert fast.supported(model) == taken(config)
    if not taken(config):
        with pytest.raises(ValueError, match="does not know"):
            fast.logits(model, ids)
        return
    for length in range(1, config.context + 1):
        assert error(fast.logits(model, ids[:, :length]), exact(model, ids[:, :length])) < ROUNDING


@pytest.mark.parametrize("name", [n for n in SIZES if n.endswith("-mini") or n in ("gptlab-cpu", "gptlab-fables")])
def test_presets(name: str) -> None:
    """The models for a PC in their own sizes: most are taken, and what they foretell is what the modules foretell."""
    model = build(preset(name), seed=1, init="scaled")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    if taken(model.config):
        for length in (1, 7, model.context):
            ids = random_ids(model.config, 2, length)
            assert error(fast.logits(model, ids), exact(model, ids)) < ROUNDING


@settings(max_examples=40)
@given(config=models(), length=st.integers(1, 13), seed=st.integers(0, 99))
def test_any_parts(config: ModelConfig, length: int, seed: int) -> None:
    """Whatever parts are joined, the decoder is as exact as the modules in float32."""
    position = "alibi" if config.position == "transformer-xl-relative" else config.position
    config = config.but(category="causal", n_encoder_layers=0, query_layer=False, position=position)
    model, ids = single(config, seed=seed), random_ids(config, 2, length, seed=seed)
    with torch.no_grad():
        theirs = error(model(ids)[:, -1], exact(model, ids))  # more than ROUNDING where large numbers cancel out
    assert error(fast.logits(model, ids), exact(model, ids)) < ROUNDING + 30 * theirs


@settings(max_examples=30)
@given(data=st.data(), window=st.sampled_from(["slide", "halves"]), context=st.integers(1, 40))
def test_readers(data: st.DataObject, window: str, context: int) -> None:
    """Token after token, past the context, after a prompt of any length: the two readers agree; a text is read alike,
    to the last bit, alone and among others, and with a prompt of its own or one that all share."""
    model = single(SMALL.but(context=context), seed=data.draw(st.integers(0, 9)))
    length, steps, n = data.draw(st.integers(1, 2 * context)), data.draw(st.integers(1, 50)), 3
    prompt, written = random_ids(model.config, 1, length)[0], random_ids(model.config, n, steps, seed=1)
    slow = plain.Reader(model, prompt, n, window=window)
    shared = fast.Reader(model, prompt, n, window=window)
    own = fast.Reader(model, prompt.expand(n, -1), n, window=window)
    alone = [fast.Reader(model, prompt, 1, window=window) for _ in range(n)]
    with torch.inference_mode():
        for step in range(steps + 1):
            found = shared.read(written[:, :step])
            assert error(found, slow.read(written[:, :step])) < ROUNDING
            assert torch.equal(found, own.read(written[:, :step]))
            for i, reader in enumerate(alone):
                assert torch.equal(found[i : i + 1], reader.read(written[i : i + 1, :step]))


@settings(max_examples=20)
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_in_pieces(pieces: list[int], seed: int) -> None:
    """A text read at once or in pieces: the same bits."""
    model = single(SMALL.but(context=45), seed=seed)
    ids = random_ids(model.config, 1, sum(pieces), seed=seed)
    reader = fast.Reader(model, ids, 1, window="halves")
    for piece in pieces:
        new = ids[:, reader.length : reader.length + piece].contiguous()
        reader.advance(new.data_ptr(), 1, piece, None)
    assert torch.equal(reader.logits[:, : SMALL.vocab_size], fast.logits(model, ids))


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls a function as if the doctor had found the decoder wrong."""

    def call(function: Any, *values: Any, **more: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(fast, "WRONG", {"decoder"})
            return function(*values, **more)

    return call


def drawn(model: Transformer, prompt: Any, config: SampleConfig, n: int, bias: dict[int, float]) -> tuple[Any, Any]:
    steps = list(tokens(model, prompt, config, n=n, bias=bias))
    return tuple(torch.stack([step[i].clone() for step in steps], dim=1) for i in (0, 1))


SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.7, "window": "slide"},
    "top k": {"top_k": 4},
    "top p": {"top_p": 0.7, "temperature": 1.3},
    "min p": {"min_p": 0.1, "window": "slide"},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    "repetition": {"repetition_penalty": 1.5, "temperature": 0.0},
}


@pytest.mark.parametrize("more", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("bias", [{}, {3: -np.inf, 10: -np.inf, 5: 1.5}], ids=["no bias", "bias"])
def test_the_same_tokens(more: dict[str, Any], bias: dict[int, float], without: Any) -> None:
    """For many seeds, whatever the settings, far past the context: the tokens of the plain path, and their nats."""
    model = single(SMALL, size=0.6)
    assert fast.supported(model) and not without(fast.supported, model)
    for seed in range(8):
        config = SampleConfig.from_dict({"tokens": 40, "seed": seed, **more})
        prompt = random_ids(SMALL, 1, 1 + 3 * seed, seed=seed)[0].numpy()
        ids, nats = drawn(model, prompt, config, 3, bias)
        expected, expected_nats = without(drawn, model, prompt, config, 3, bias)
        assert torch.equal(ids, expected)
        assert torch.allclose(nats, expected_nats, atol=1e-4)
        assert not bias or not (ids == 3).any()


def test_a_prompt_for_each(without: Any) -> None:
    """Samples that go on from different prompts."""
    model, config = single(SMALL), SampleConfig(tokens=30)
    prompts = random_ids(SMALL, 4, 6).numpy()
    ids, _ = drawn(model, prompts, config, 4, {})
    assert torch.equal(ids, without(drawn, model, prompts, config, 4, {})[0])
    assert len({tuple(row) for row in ids.tolist()}) == 4


@pytest.mark.parametrize("vocabulary", [1, 5, 64, 65, 3000])
@pytest.mark.parametrize("temperature", [0.0, 1e-12, 0.3, 1.0, 1e30])
def test_the_choice(vocabulary: int, temperature: float) -> None:
    """What is chosen is what sampling.choose chooses from the same logits, in vocabularies of every size."""
    model, n = single(SMALL.but(vocab_size=vocabulary)), 300
    config = SampleConfig(tokens=1, temperature=temperature)
    uniforms = torch.rand(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniforms[0, :2] = torch.tensor([0, np.nextafter(1, 0)])
    bias = dict.fromkeys(range(0, vocabulary - 1, 3), -np.inf)
    for some in ({}, bias):
        reader = fast.Reader(model, torch.tensor([0]), n, window="halves")
        ((ids, nats),) = fast.write(reader, uniforms, config, some)
        logits = fast.logits(model, torch.tensor([[0]])).expand(n, -1)
        nothing = torch.zeros(n, vocabulary)
        bent = sampling.bent(logits, config, bias=some, seen=nothing, written=nothing)
        assert torch.equal(ids, sampling.choose(bent, uniforms[0], greedy=temperature == 0))
        assert torch.allclose(nats, logits.log_softmax(-1).gather(1, ids[:, None])[:, 0], atol=1e-5)


@pytest.fixture
def threads() -> Iterator[Any]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("width", "n"), [(48, 1), (48, 50), (320, 1), (320, 3), (320, 130)], ids=lambda value: str(value)
)
def test_threads(width: int, n: int, threads: Any) -> None:
    """However many threads share a text's layers, or the texts: the same bits."""
    model = single(SMALL.but(d_model=width, context=70), size=0.1)
    prompt, config = random_ids(SMALL, 1, 60)[0].numpy(), SampleConfig(tokens=13)
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(drawn(model, prompt, config, n, {}))
    for ids, nats in found[1:]:
        assert torch.equal(ids, found[0][0]) and torch.equal(nats, found[0][1])


CHANGES: dict[str, Any] = {
    "in place": lambda p: p.add_(0.1),
    "one number": lambda p: p.view(-1)[-1:].add_(0.1),
    "its data": lambda p: p.data.mul_(1.5),
    "its memory": lambda p: np.negative(p.numpy(), out=p.numpy()),
    "another tensor": lambda p: setattr(p, "data", p.data + 0.2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_change(change: Any) -> None:
    """However a weight is changed, the next text is the changed model's: its copy's, to the last bit."""
    model, ids = single(SMALL), random_ids(SMALL, 2, 5)
    for name, parameter in model.named_parameters():
        before = fast.logits(model, ids)
        with torch.no_grad():
            change(parameter.requires_grad_(False))
        after = fast.logits(model, ids)
        assert torch.equal(after, fast.logits(copy.deepcopy(model), ids)), name
        assert not torch.equal(after, before), name


def test_weights_are_packed_once() -> None:
    """A model that has not changed is packed once, and what was packed goes with it."""
    model = single(SMALL)
    assert fast.packed(model) is fast.packed(model)
    held = len(fast.PACKED)
    del model
    assert len(fast.PACKED) < held


class Other(nn.Linear):
    """Not the layer that the decoder knows."""


def test_what_is_not_taken() -> None:
    """Other precisions, other parts, and a model in training or listened to are left to the plain path."""
    assert fast.supported(single(SMALL))
    assert not fast.supported(single(SMALL).double()) and not fast.supported(single(SMALL).bfloat16())
    assert not fast.supported(single(SMALL).train())
    model = single(SMALL)
    with record(model, "logits"):
        assert not fast.supported(model)
    model.blocks[0].attention.out.__class__ = Other
    assert not fast.supported(model)
    model = single(SMALL)
    model.blocks[1].register_forward_hook(lambda *_: None)
    assert not fast.supported(model)

    def own(*args: Any, **more: Any) -> Any:
        return kernels.sdpa(*args, **more)

    model = random_model(SMALL, kernel=own).float()
    assert not fast.supported(model)
    assert len(list(tokens(model, [1], SampleConfig(tokens=3), n=2, bias={}))) == 3


def test_forbidden_by_the_environment() -> None:
    """GPTLAB_NATIVE=0 leaves everything to the plain path."""
    code = "import gptlab as g; from gptlab.generate import fast; print(fast.supported(g.build(g.preset('gpt2-mini'))))"
    for value, expected in (("0", "False"), ("1", "True")):
        environment = {**os.environ, "GPTLAB_NATIVE": value}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("ids", [[[0, 11]], [[-1, 0]], [[]]])
def test_wrong_ids(ids: list[list[int]]) -> None:
    """An id that the vocabulary does not have, or no token at all, is an error and no number from elsewhere."""
    with pytest.raises(IndexError, match="from 0 to 10"):
        fast.logits(single(SMALL), torch.tensor(ids, dtype=torch.long))


@pytest.mark.parametrize(
    "more", [{}, {"stop": ("ab", "c")}, {"logit_bias": {"a": 2.0, "#3": -9.0}}, {"top_k": 2, "stop": ("ba",)}]
)
def test_texts(more: dict[str, Any], without: Any) -> None:
    """The same texts, ends, ids and nats by both ways; ids that the tokenizer lacks are not drawn."""
    model = single(SMALL.but(vocab_size=CHARACTERS.vocab_size + 3), size=0.6)

    def texts() -> list[tuple[int, str, str, list[int], list[float]]]:
        config = SampleConfig.from_dict({"tokens": 60, **more})
        found = generate(model, CHARACTERS, "abc", config, n=5)
        return [(i, text, sample.reason, list(sample.ids), list(sample.logprobs)) for i, text, sample in found]

    one, two = texts(), without(texts)
    assert [row[:4] for row in one] == [row[:4] for row in two]
    assert max(max(row[3]) for row in one) < CHARACTERS.vocab_size
    for ours, theirs in zip(one, two, strict=True):
        assert np.allclose(ours[4], theirs[4], atol=1e-4)
