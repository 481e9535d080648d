"""Token after token: the same as a plain loop that reads everything anew, for each window, seed and sample."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import SampleConfig
from gptlab.generate.generate import generate, start_ids, tokens
from gptlab.model.transformer import Transformer
from gptlab.run import Run
from gptlab.text.chars import CharTokenizer
from tests.generate.test_sampling import chi_squared
from tests.generate.toys import BYTES, CHARACTERS, lively

V = CHARACTERS.vocab_size


def windows(window: str, context: int, prompt: list[int], written: list[int]) -> list[list[int]]:
    """What is seen before each written token, by the definitions.

    slide: the last `context` tokens. halves: all, until they fill the context; then the newer half of it, and so on.
    """
    out, seen = [], prompt[-context:]
    for step, token in enumerate(written):
        before = prompt + written[:step]
        out.append(before[-context:] if window == "slide" else seen)
        seen = [*before, token][-max(1, context // 2) :] if len(seen) == context else [*seen, token]
    return out


@torch.no_grad()
def last_logits(model: Transformer, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0, -1]


def run(model: Transformer, prompt: list[int], config: SampleConfig, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(ids, log-probabilities), each (n, tokens)."""
    steps = list(tokens(model, prompt, config, n=n, bias={}))
    return tuple(torch.stack([step[i] for step in steps], dim=1).cpu().numpy() for i in (0, 1))  # type: ignore[return-value]


@settings(max_examples=60)
@given(data=st.data(), window=st.sampled_from(["slide", "halves"]), context=st.integers(1, 7))
def test_windows(data: st.DataObject, window: str, context: int) -> None:
    """With a cache, past the context, after a prompt of any length: each token is the choice, and has the logarithm of
    the probability, that its window read anew gives."""
    model = lively(V, context, seed=data.draw(st.integers(0, 3)))
    prompt = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=3 * context))
    config = SampleConfig(
        tokens=data.draw(st.integers(1, 3 * context + 2)),
        temperature=data.draw(st.sampled_from([0.0, 0.7, 2.0])),
        seed=data.draw(st.integers(0, 9)),
        window=window,
    )
    ids, logprobs = run(model, prompt, config, n=2)
    for row, nats in zip(ids.tolist(), logprobs, strict=True):
        for seen, token, nat in zip(windows(window, context, prompt, row), row, nats, strict=True):
            assert len(seen) <= context
            logits = last_logits(model, seen)
            assert abs(nat - float(logits.log_softmax(-1)[token])) < 1e-4
            if config.temperature == 0:
                assert logits[token] > logits.max() - 1e-4


def test_within_the_context_the_windows_agree() -> None:
    """As long as all fits the context, both windows see everything."""
    model = lively(V, 16)
    one = run(model, [1, 2, 3], SampleConfig(tokens=13, window="slide"))
    two = run(model, [1, 2, 3], SampleConfig(tokens=13, window="halves"))
    assert (one[0] == two[0]).all()


def test_halves_see_at_least_half() -> None:
    """Under `halves`, past the context, between context // 2 and context tokens are seen, and both ends are met."""
    for context in (1, 2, 5, 6):
        lengths = {len(w) for w in windows("halves", context, [0] * context, [0] * 40)}
        assert lengths == set(range(max(1, context // 2), context + 1))


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_penalties_count_prompt_and_text(name: str) -> None:
    """Repetition counts the prompt, too, frequency and presence only what was written, also beyond the context."""
    model, prompt, penalty = lively(V, 6), [1, 2, 3, 3], 1.7
    (ids,), _ = run(model, prompt, SampleConfig.from_dict({"tokens": 30, "temperature": 0, name: penalty}))
    written = ids.tolist()
    for step, seen in enumerate(windows("halves", 6, prompt, written)):
        scores = last_logits(model, seen).tolist()
        for token in range(V):
            times = written[:step].count(token)
            if name == "repetition_penalty" and (times or token in prompt):
                scores[token] *= 1 / penalty if scores[token] > 0 else penalty
            elif name == "frequency_penalty":
                scores[token] -= penalty * times
            elif name == "presence_penalty" and times:
                scores[token] -= penalty
        assert scores[written[step]] > max(scores) - 1e-4
    free = run(model, prompt, SampleConfig(tokens=30, temperature=0))[0][0]
    assert written != free.tolist()


@pytest.mark.parametrize("window", ["slide", "halves"])
def test_a_sample_does_not_know_the_others(window: str) -> None:
    """Sample i is the same whether 1 or 5 are drawn; samples and seeds differ from each other."""
    model = lively(V, 6)
    config = SampleConfig(tokens=30, seed=4, window=window)
    five, nats = run(model, [1, 2], config, n=5)
    for n in (1, 2, 3):
        some, some_nats = run(model, [1, 2], config, n=n)
        assert (some == five[:n]).all() and np.allclose(some_nats, nats[:n], atol=1e-5)
    assert len({tuple(row) for row in five.tolist()}) == 5
    assert (run(model, [1, 2], config)[0] == five[:1]).all()
    assert (run(model, [1, 2], config.but(seed=5))[0] != five[:1]).any()
    assert (run(model, [1, 2], config.but(tokens=40))[0][:, :30] == five[:1]).all()  # a longer text begins the same


def test_samples_follow_the_model() -> None:
    """First and second tokens of 3000 samples are spread as the model says: chi-squared under its 1-in-1000 bound."""
    model = lively(5, 4, size=0.4)
    ids, _ = run(model, [0], SampleConfig(tokens=2, seed=1), n=3000)
    first = last_logits(model, [0]).softmax(-1).numpy()
    assert chi_squared(np.bincount(ids[:, 0], minlength=5), first) < 18.5  # 4 degrees of freedom
    pairs = np.concatenate([first[a] * last_logits(model, [0, a]).softmax(-1).numpy() for a in range(5)])
    expected = pairs * 3000
    counts = np.bincount(ids[:, 0] * 5 + ids[:, 1], minlength=25)
    enough = expected >= 5  # where chi-squared is a fair approximation
    assert enough.sum() > 5
    assert chi_squared(counts[enough], pairs[enough] / pairs[enough].sum()) < 51.2  # at most 24 degrees of freedom


def test_logprobs_are_the_models_own() -> None:
    """What is reported with a token is the model's log-probability, whatever temperature, cut, bias and penalty do."""
    model = lively(V, 6)
    config = SampleConfig(
        tokens=15, temperature=0.3, top_k=3, repetition_penalty=1.4, logit_bias={"a": 3.0}, frequency_penalty=0.2
    )
    (sample,) = {id(s): s for _, _, s in generate(model, CHARACTERS, "ab", config)}.values()
    assert len(sample.ids) == len(sample.logprobs) == 15
    prompt = CHARACTERS.encode("ab").tolist()
    for seen, token, nat in zip(windows("halves", 6, prompt, sample.ids), sample.ids, sample.logprobs, strict=True):
        assert abs(nat - float(last_logits(model, seen).log_softmax(-1)[token])) < 1e-4


def text_of(model: Transformer, prompt: str, tokenizer: object = CHARACTERS, **settings: object) -> str:
    config = SampleConfig.from_dict(settings)
    return "".join(text for _, text, _ in generate(model, tokenizer, prompt, config))  # type: ignore[arg-type]


def test_seeds() -> None:
    """The same seed gives the same text, another seed another; torch's own generator plays no part."""
    model = lively(V, 8)
    torch.manual_seed(0)
    one = text_of(model, "abc", seed=3, tokens=40)
    torch.manual_seed(1)
    assert text_of(model, "abc", seed=3, tokens=40) == one != text_of(model, "abc", seed=4, tokens=40)


def test_bias_decides() -> None:
    """A large bias makes a token certain, by its text or its id; minus infinity makes it impossible."""
    model = lively(V, 8)
    assert text_of(model, "a", logit_bias={"g": 1e4}, tokens=9) == "g" * 9
    assert text_of(model, "a", logit_bias={"#8": 10_000}, tokens=9) == "g" * 9
    without = text_of(model, "a", logit_bias=dict.fromkeys("abcdef", -math.inf), tokens=200)
    assert len(without) == 200 and not set(without) & set("abcdef")
    with pytest.raises(ValueError, match=r"'ga' is 2 tokens \(#8, #2\)"):
        text_of(model, "a", logit_bias={"ga": 1.0})


def test_no_tokens() -> None:
    """tokens=0 writes nothing, and each sample ends once, by its length."""
    found = list(generate(lively(V, 8), CHARACTERS, "abc", SampleConfig(tokens=0), n=3))
    assert [(i, text, sample.reason) for i, text, sample in found] == [(i, "", "length") for i in range(3)]


def test_an_empty_prompt() -> None:
    """A text from nothing goes on from a line end; without one in the vocabulary from a blank; else from token 0."""
    model = lively(V, 8)
    assert text_of(model, "", tokens=20) == text_of(model, "\n", tokens=20) != text_of(model, "a", tokens=20)
    assert start_ids(CharTokenizer("ab ")).tolist() == [2]
    assert start_ids(CharTokenizer("ba")).tolist() == [0]
    assert BYTES.decode(start_ids(BYTES)) == "\n"


def test_unknown_characters_in_the_prompt() -> None:
    """What the vocabulary cannot spell is named in one warning and left out; a prompt of only such is an empty one."""
    model = lively(V, 8)
    with pytest.warns(UserWarning, match="'Q'") as record:
        assert text_of(model, "aQbQ", tokens=9) == text_of(model, "ab", tokens=9)
    assert len(record) == 1
    with pytest.warns(UserWarning, match="'Q'"):
        assert text_of(model, "Q", tokens=9) == text_of(model, "", tokens=9)


def test_wrong_calls() -> None:
    """No sample at all, or a tokenizer with more ids than the model, is a ValueError with the numbers."""
    with pytest.raises(ValueError, match="not 0"):
        next(generate(lively(V, 8), CHARACTERS, "a", SampleConfig(), n=0))
    with pytest.raises(ValueError, match=rf"256 ids, the model {V}"):
        next(generate(lively(V, 8), BYTES, "a", SampleConfig()))


@pytest.fixture
def lab(tmp_path: Path) -> gptlab.Lab:
    model = lively(V, 8)
    run = Run.create(tmp_path / "run", model.config, CHARACTERS)
    run.save_weights(model)
    return gptlab.load(run.path, device="cpu")


def test_lab(lab: gptlab.Lab) -> None:
    """A str for one sample, a list for more, an iterator for a stream; all of the same text."""
    one = lab.generate("ab", tokens=30, seed=2)
    three = lab.generate("ab", tokens=30, seed=2, n=3)
    assert isinstance(one, str) and len(one) == 30 and three[0] == one and len(three) == 3
    stream = lab.generate("ab", tokens=30, seed=2, stream=True)
    assert not isinstance(stream, str) and "".join(stream) == one
    with pytest.raises(ValueError, match="not 2"):
        lab.generate("ab", n=2, stream=True)
    with pytest.raises(ValueError, match="temprature"):
        lab.generate("ab", temprature=2)
    with pytest.raises(ValueError, match="not 0"):
        lab.generate("ab", n=0)
