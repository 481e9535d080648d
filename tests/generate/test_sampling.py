"""Each way to bend the scores against the same in plain Python, one row and one token at a time."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from gptlab.config import SampleConfig
from gptlab.generate import sampling
from tests.generate.toys import BYTES, CHARACTERS, WORDS

V = 7
LOGIT = st.integers(-120, 120).map(lambda x: x / 4)  # so that two are equal, or differ by more than rounding
ROWS = st.lists(st.lists(LOGIT, min_size=V, max_size=V), min_size=1, max_size=3)
COUNTS = st.lists(st.integers(0, 3), min_size=V, max_size=V)
PENALTY = st.floats(-2, 2)
EDGE = 1e-9


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def softmax(row: list[float]) -> list[float]:
    odds = [math.exp(x - max(row)) for x in row]
    return [odd / sum(odds) for odd in odds]


def plain_top_k(row: list[float], k: int) -> list[float]:
    return [x if sum(y > x for y in row) < k else -math.inf for x in row]


def plain_top_p(row: list[float], p: float) -> list[float]:
    probabilities, out, total = softmax(row), [-math.inf] * len(row), 0.0
    for i in sorted(range(len(row)), key=lambda i: -row[i]):
        assume(abs(total - p) > EDGE or p == 1)  # where rounding decides
        if p == 1 or total < p:
            out[i] = row[i]
        total += probabilities[i]
    return out


def plain_min_p(row: list[float], p: float) -> list[float]:
    probabilities = softmax(row)
    assume(all(abs(q / max(probabilities) - p) > EDGE or q == max(probabilities) for q in probabilities))
    return [x if q >= p * max(probabilities) else -math.inf for x, q in zip(row, probabilities, strict=True)]


def close(ours: torch.Tensor, theirs: list[list[float]], tolerance: float = 1e-9) -> bool:
    """The same tokens are cut, and the others' scores are equal but for rounding."""
    expected = tensor(theirs)
    return torch.equal(ours.isinf(), expected.isinf()) and torch.allclose(
        ours.double(), expected, rtol=tolerance, atol=tolerance
    )


@given(rows=ROWS, k=st.integers(1, V + 2))
def test_top_k(rows: list[list[float]], k: int) -> None:
    """A token stays if fewer than k are likelier; the rows do not touch each other."""
    found = sampling.top_k(tensor(rows), k)
    assert close(found, [plain_top_k(row, k) for row in rows])
    assert (found.isfinite().sum(-1) >= min(k, V)).all()


@given(rows=ROWS, p=st.floats(1e-6, 1))
def test_top_p(rows: list[list[float]], p: float) -> None:
    """Likeliest first, a token stays while those before it fall short of p; among equals the lower id comes first."""
    assert close(sampling.top_p(tensor(rows), p), [plain_top_p(row, p) for row in rows])


def test_top_p_of_1_cuts_nothing() -> None:
    """p = 1 keeps every token, in float32 and a vocabulary of GPT-2's size, where sums of probabilities are rounded."""
    logits = torch.randn(2, 50257, generator=torch.Generator().manual_seed(0)) * 4
    assert torch.equal(sampling.top_p(logits, 1.0), logits)


@given(rows=ROWS, p=st.floats(0, 1))
def test_min_p(rows: list[list[float]], p: float) -> None:
    """A token stays if it is at least p times as probable as the likeliest."""
    assert close(sampling.min_p(tensor(rows), p), [plain_min_p(row, p) for row in rows])


@given(rows=ROWS, counts=COUNTS, penalty=st.floats(0.1, 10))
def test_repetition(rows: list[list[float]], counts: list[int], penalty: float) -> None:
    """A token that was seen, once or often, has its score divided if it is positive and multiplied if not."""
    expected = [
        [x if not c else (x / penalty if x > 0 else x * penalty) for x, c in zip(row, counts, strict=True)]
        for row in rows
    ]
    seen = torch.tensor([counts] * len(rows))
    assert close(sampling.penalised_repetition(tensor(rows), seen, penalty), expected)


@given(rows=ROWS, counts=COUNTS, penalty=PENALTY)
def test_frequency_and_presence(rows: list[list[float]], counts: list[int], penalty: float) -> None:
    """Frequency subtracts for every time that a token was written, presence once."""
    written = torch.tensor([counts] * len(rows))
    per_time = [[x - penalty * c for x, c in zip(row, counts, strict=True)] for row in rows]
    once = [[x - (penalty if c else 0) for x, c in zip(row, counts, strict=True)] for row in rows]
    assert close(sampling.penalised_frequency(tensor(rows), written, penalty), per_time, 1e-5)
    assert close(sampling.penalised_presence(tensor(rows), written, penalty), once, 1e-5)


@given(rows=ROWS, bias=st.dictionaries(st.integers(0, V - 1), st.floats(-9, 9) | st.just(-math.inf)))
def test_bias(rows: list[list[float]], bias: dict[int, float]) -> None:
    """A bias is added to its token's score in every row, and what was given is not changed."""
    logits = tensor(rows).float()
    expected = [[x + bias.get(i, 0) for i, x in enumerate(row)] for row in rows]
    assert close(sampling.biased(logits, bias), expected, 1e-5)
    assert torch.equal(logits, tensor(rows).float())


CONFIGS = st.builds(
    SampleConfig,
    repetition_penalty=st.floats(0.2, 5),
    frequency_penalty=PENALTY,
    presence_penalty=PENALTY,
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, V + 1),
    top_p=st.none() | st.floats(0.01, 1),
    min_p=st.none() | st.floats(0, 1),
)


def no_tie(row: list[float]) -> bool:
    return min(abs(a - b) for i, a in enumerate(row) for b in row[:i]) > 1e-6


@given(row=st.lists(st.floats(-9, 9), min_size=V, max_size=V), seen=COUNTS, written=COUNTS, config=CONFIGS)
def test_all_together(row: list[float], seen: list[int], written: list[int], config: SampleConfig) -> None:
    """Penalties, temperature and cuts act in the order of the fields: the same tokens, the same probabilities."""
    found = sampling.bent(tensor([row]), config, bias={}, seen=torch.tensor([seen]), written=torch.tensor([written]))
    r = config.repetition_penalty
    row = [x if not s else (x / r if x > 0 else x * r) for x, s in zip(row, seen, strict=True)]
    row = [x - config.frequency_penalty * w for x, w in zip(row, written, strict=True)]
    row = [x - config.presence_penalty * (w > 0) for x, w in zip(row, written, strict=True)]
    row = [x / config.temperature for x in row]
    assume(no_tie(row))
    if config.top_k is not None:
        row = plain_top_k(row, config.top_k)
    if config.top_p is not None:
        row = plain_top_p(row, config.top_p)
    if config.min_p is not None:
        row = plain_min_p(row, config.min_p)
    expected = torch.tensor(softmax(row), dtype=torch.float64)
    assert torch.equal(found[0].isinf(), torch.isinf(tensor([row])[0]))
    assert torch.allclose(found[0].softmax(-1), expected, atol=1e-9)


@given(rows=ROWS, config=CONFIGS, uniform=st.floats(0, 1, exclude_max=True))
def test_a_token_is_always_left(rows: list[list[float]], config: SampleConfig, uniform: float) -> None:
    """However sharp the cuts, the likeliest token stays, and what is chosen was not cut."""
    counts = torch.zeros(len(rows), V)
    for logits in (tensor(rows), tensor(rows).float()):
        bent = sampling.bent(logits, config, bias={}, seen=counts, written=counts)
        rest = sampling.bent(logits, SampleConfig(temperature=config.temperature), bias={}, seen=counts, written=counts)
        assert torch.equal(bent.amax(-1), rest.amax(-1)) and bent.amax(-1).isfinite().all()
        chosen = sampling.choose(bent, torch.full((len(rows),), uniform, dtype=torch.float64), greedy=False)
        assert bent.gather(1, chosen[:, None]).isfinite().all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-30, 1e-40, 1e-300, sys.float_info.min])
def test_cold_is_greedy(temperature: float) -> None:
    """As the temperature goes to 0, what is drawn is the likeliest token, in float32 and whatever the draw."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(V), (50, 1)), axis=1)
    logits = torch.from_numpy(order).float() - 3  # scores from -3 to 3, no two alike
    counts = torch.zeros(50, V)
    bent = sampling.bent(logits, SampleConfig(temperature=temperature), bias={}, seen=counts, written=counts)
    for uniform in (0.0, 0.5, math.nextafter(1, 0)):
        drawn = sampling.choose(bent, torch.full((50,), uniform, dtype=torch.float64), greedy=False)
        assert torch.equal(drawn, logits.argmax(-1))
    assert torch.equal(sampling.choose(logits, torch.zeros(50), greedy=True), logits.argmax(-1))


def test_hot_is_uniform() -> None:
    """As the temperature grows, all tokens become as likely."""
    logits, counts = torch.tensor([[5.0, -5.0, 0.0]]), torch.zeros(1, 3)
    bent = sampling.bent(logits, SampleConfig(temperature=1e9), bias={}, seen=counts, written=counts)
    assert torch.allclose(bent.softmax(-1), torch.full((1, 3), 1 / 3))


def chi_squared(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_choose_follows_the_probabilities() -> None:
    """20,000 draws: chi-squared with 5 degrees of freedom is under 20.5 (1 in 1000 is above); a 0 is never drawn."""
    p = np.array([0.0, 0.4, 0.3, 0.0, 0.2, 0.06, 0.03, 0.01, 0.0])
    logits = torch.from_numpy(np.log(p, where=p > 0, out=np.full(9, -np.inf)) + 3).expand(20_000, -1)
    uniform = torch.from_numpy(np.random.default_rng(1).random(20_000))
    counts = np.bincount(sampling.choose(logits, uniform, greedy=False).numpy(), minlength=9)
    assert (counts[p == 0] == 0).all()
    assert chi_squared(counts[p > 0], p[p > 0]) < 20.5


@given(
    row=st.lists(st.floats(-60, 60) | st.just(-math.inf), min_size=1, max_size=V),
    uniform=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 0.5, math.nextafter(1, 0)]),
)
def test_choose_at_the_edges(row: list[float], uniform: float) -> None:
    """The smallest and the greatest draw, too, give a token that exists and was not cut; as cumulated by hand."""
    assume(max(row) > -math.inf)
    chosen = int(sampling.choose(tensor([row]), torch.tensor([uniform], dtype=torch.float64), greedy=False))
    assert 0 <= chosen < len(row) and row[chosen] > -math.inf
    probabilities = softmax(row)
    below = math.fsum(probabilities[:chosen])
    assert below - EDGE <= uniform <= below + probabilities[chosen] + EDGE


def test_bias_by_text_and_number() -> None:
    """A key is a token's text, or "#" and its id; both for one token add up; digits alone are a text."""
    assert sampling.bias_by_id({"a": 1, "#2": 0.5, "#0": -3.0, "\n": 1.0}, CHARACTERS) == {2: 1.5, 0: -2.0}
    the = WORDS.encode(" the")
    assert len(the) == 1 and sampling.bias_by_id({" the": 4.0}, WORDS) == {int(the[0]): 4.0}
    assert sampling.bias_by_id({"7": 1.0, "#": 2.0}, BYTES) == {
        BYTES.pieces.index(b"7"): 1,
        BYTES.pieces.index(b"#"): 2,
    }


@pytest.mark.parametrize(
    ("key", "tokenizer", "words"),
    [
        ("ab", CHARACTERS, ["'ab'", "2 tokens", "#2, #3"]),
        ("é", BYTES, ["'é'", "2 tokens"]),
        ("", CHARACTERS, ["''", "0 tokens"]),
        ("#10", CHARACTERS, ["'#10'", "0 to 9"]),
        ("Z", CHARACTERS, ["'Z'"]),
        ("#²", CHARACTERS, ["'#²'", "vocabulary"]),
    ],
)
def test_a_wrong_bias(key: str, tokenizer: Any, words: list[str]) -> None:
    """A key that is not one token is a ValueError that names it, with what it is, or the range of the ids."""
    with pytest.raises(ValueError) as error:
        sampling.bias_by_id({key: 1.0}, tokenizer)
    assert all(word in str(error.value) for word in ["logit_bias", *words])
