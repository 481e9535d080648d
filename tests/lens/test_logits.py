"""The logit lens, and what is measured of expectations, against plain formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy as scipy_entropy
from scipy.stats import rankdata

from gptlab.lens.logits import TAPS, expectations, first_asked, layers, lens, read_out
from gptlab.lens.trace import Trace, trace
from gptlab.model.layouts import begin
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from gptlab.text.chars import CharTokenizer

MINIATURES = [name for name in SIZES if name.endswith("-mini")]
LETTERS = CharTokenizer.train([""" abcdefghijklmnopqrstuvwxyz"""])
IDS, THEN = LETTERS.encode("what each layer"), LETTERS.encode(" would say")


def made(name: str, **changes: object) -> Transformer:
    model = build(preset(name, **{"n_layers": 3, **changes}), seed=1, init="gpt2")
    with torch.no_grad():  # no gain, bias or scale that might be forgotten is one, or zero
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.2 * noise)
    return model


def traced(model: Transformer) -> Trace:
    causal = model.config.category == "causal"
    return trace(model, LETTERS, IDS, None if causal else THEN, names=TAPS)


@pytest.mark.parametrize("name", MINIATURES)
def test_the_last_layer_says_what_the_model_says(name: str) -> None:
    """Of every architecture, post-norm or parallel, with a query layer, scales, projections and head biases: the lens
    behind the last block is the logits, to the last bit; and there is a row for each block and one before."""
    model = made(name)
    found = traced(model)
    read = list(layers(model, found))
    assert len(read) == model.config.n_layers + 1
    assert np.array_equal(read[-1], found.logits)
    assert not np.allclose(read[0], found.logits, atol=1e-3)
    seen = lens(model, found)
    assert np.array_equal(seen.kl[-1], np.zeros(len(found.ids))) and (seen.kl >= 0).all() and seen.kl[0].max() > 0.01
    assert (seen.choice_rank[-1] == 1).all() and (seen.top[-1] == found.logits.argmax(-1)).all()


def test_by_the_formula() -> None:
    """A stream's logits are W_head W_out norm(x) scale + bias, written out here for the parts that models have."""
    model = made("opt-mini", d_embedding=24, bias_lm_head=True, tied_embeddings=False, logit_scale=0.5)
    x = torch.randn(5, model.config.d_model)
    w = dict(model.named_parameters())
    normed = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"], model.config.norm_eps)
    wanted = (0.5 * normed @ w["embedding_out.weight"].T) @ w["head"].T + w["head_bias"]
    torch.testing.assert_close(read_out(model, x), wanted)
    torch.testing.assert_close(read_out(model, x.numpy()), wanted)


def test_a_layer_is_the_last_one_of_a_shorter_model() -> None:
    """The lens behind block l is what the model says if the blocks after it are taken away."""
    model = made("gptlab-cpu")
    found = traced(model)
    read = list(layers(model, found))
    for kept in (2, 1, 0):
        del model.blocks[kept:]
        with torch.inference_mode():
            torch.testing.assert_close(torch.as_tensor(read[kept]), model(**begin(model.config, ids()))[0])


def ids() -> torch.Tensor:
    return torch.as_tensor(IDS.astype(np.int64))[None]


@pytest.mark.parametrize("name", ["gpt2-mini", "t5-mini", "glm-mini"])
def test_measures(name: str) -> None:
    """Probabilities, ranks, entropies, divergences and where the choice settles: as SciPy and plain loops say."""
    model = made(name)
    found = traced(model)
    seen, read = lens(model, found, top=4), [x.astype(np.float64) for x in layers(model, found)]
    last = torch.tensor(read[-1]).softmax(-1).numpy()
    for row, logits in enumerate(read):
        p = torch.tensor(logits).softmax(-1).numpy()
        for t in range(len(found.ids)):
            choice, rank = int(last[t].argmax()), rankdata(-logits[t], method="min")
            assert seen.top[row, t] == p[t].argmax() and seen.top_p[row, t] == pytest.approx(p[t].max())
            assert seen.choice_p[row, t] == pytest.approx(p[t, choice])
            assert seen.choice_rank[row, t] == rank[choice]
            assert seen.entropy[row, t] == pytest.approx(scipy_entropy(p[t]))
            assert seen.kl[row, t] == pytest.approx(scipy_entropy(last[t], p[t]), abs=1e-9)
            assert np.allclose(seen.best_p[row, t], np.sort(p[t])[::-1][:4])
            if t + 1 < len(found.ids):
                came = found.ids[t + 1]
                assert seen.next_nats[row, t] == pytest.approx(-math.log(p[t, came]))
                assert seen.next_rank[row, t] == rank[came]
    for t, settled in enumerate(seen.settled):
        agree = [seen.top[row, t] == seen.top[-1, t] for row in range(len(read))]
        assert all(agree[settled:]) and (settled == 0 or not agree[settled - 1])


@pytest.mark.parametrize("name", ["gpt2-mini", "t5-mini", "glm-mini"])
def test_where_foretelling_begins(name: str) -> None:
    """From the first place that is asked on, what comes next is what was to be foretold."""
    for bridge in ([], [3], [3, 4]):
        model = build(preset(name, bridge=bridge))
        found = traced(model)
        first = first_asked(model.config, found)
        if model.config.category == "causal":
            assert first == 0
        else:
            assert found.ids[first + 1 :].tolist() == THEN.tolist()


def test_expectations() -> None:
    """Of a distribution that is known: surprisal, rank, entropy, its variance, and the deviation of their sums."""
    p = np.array([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.log(p) + np.array([[3.0], [-2.0], [0.0]])  # a constant changes nothing
    seen = expectations(logits, np.array([1, 0, 0]), top=2)
    assert seen.top_ids[:, 0].tolist() == [0, 3, 0] and np.allclose(seen.top_p[1], [0.4, 0.3])
    assert np.allclose(seen.p, [0.25, 0.1, 1]) and seen.rank.tolist() == [2, 4, 1]
    assert np.allclose(seen.nats, [math.log(4), math.log(10), 0])
    assert np.allclose(seen.entropy, [scipy_entropy(row) for row in p])
    spread = [sum(q * (math.log(q) + scipy_entropy(row)) ** 2 for q in row if q) for row in p]
    assert np.allclose(seen.variance, spread)
    assert seen.perplexity == pytest.approx(40 ** (1 / 3))
    assert seen.deviation == pytest.approx((math.log(40) - seen.entropy.sum()) / math.sqrt(sum(spread)))
    assert expectations(logits[2:], np.array([0])).deviation == 0
    with pytest.raises(ValueError, match="3 rows of logits, but 2 tokens"):
        expectations(logits, np.array([1, 0]))


def test_deviation_of_what_is_true() -> None:
    """Of texts that are drawn from the probabilities themselves, the deviation is as a standard normal: within two in
    about 95 of 100 texts."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 12)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    drawn = (rng.random((400, 60, 1)) > p.cumsum(1)).sum(-1).clip(max=11)
    deviations = np.array([expectations(logits, row).deviation for row in drawn])
    assert abs(deviations.mean()) < 0.2 and 0.9 < deviations.std() < 1.1 and 0.92 < (abs(deviations) < 2).mean() < 0.98


def test_a_trace_without_streams() -> None:
    """What the lens needs and a trace lacks is named."""
    model = made("gptlab-cpu")
    with pytest.raises(ValueError, match="resid_pre"):
        lens(model, trace(model, LETTERS, IDS, names=("logits",)))
