import math

import numpy as np
import pytest
import torch

import gptlab
from gptlab.model.transformer import Transformer
from gptlab.text.batches import windows
from gptlab.training.evaluate import TextLoss, sliding_nats, story_nats, window_loss

IDS = np.random.default_rng(0).integers(0, 9, 100).astype(np.uint8)


def model(context: int = 8) -> Transformer:
    config = gptlab.preset("gptlab-cpu", context=context, n_layers=1, d_model=16, n_heads=2, vocab_size=9)
    model = gptlab.build(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 3)
    return model


def nats(m: Transformer, seen: list[int], target: int) -> float:
    """-ln p(target) after exactly the tokens seen, by the definition of softmax."""
    logits = m(torch.tensor([seen]))[0, -1].detach().double()
    return float(torch.log(torch.exp(logits).sum()) - logits[target])


def test_window_loss_is_the_mean_over_every_position() -> None:
    """Equal to a loop over windows and positions, each predicted from its window's beginning on."""
    m = model()
    rows = windows(IDS, count=6, context=8, seed=4, stream="evaluate")
    x, y = rows[:, :-1], rows[:, 1:]
    slow = [nats(m, x[b, : t + 1].tolist(), y[b, t]) for b in range(6) for t in range(8)]
    assert window_loss(m, IDS, count=6, seed=4) == pytest.approx(sum(slow) / 48, rel=1e-5)


@pytest.mark.parametrize("length", [2, 5, 8, 9, 10, 13, 31, 100])
@pytest.mark.parametrize("stride", [1, 3, 4, 8, None])
def test_sliding_nats_predicts_every_token_once(length: int, stride: int | None) -> None:
    """Equal to a loop in which windows advance by the stride and each token but the first counts once."""
    m, ids = model(), IDS[:length].tolist()
    step = stride or 4
    slow, first_window_end = 0.0, 8
    for t in range(1, length):
        if t <= first_window_end:
            begin = 0
        else:
            end = min(first_window_end + math.ceil((t - first_window_end) / step) * step, length - 1)
            begin = end - 8
        slow += nats(m, ids[begin:t], ids[t])
    total, tokens = sliding_nats(m, np.array(ids), stride=stride)
    assert tokens == length - 1
    assert total == pytest.approx(slow, rel=1e-5)


def test_limit_is_the_loss_of_the_beginning() -> None:
    """limit=N is the loss of the first N + 1 tokens."""
    assert sliding_nats(model(), IDS, limit=40) == sliding_nats(model(), IDS[:41])


def test_a_uniform_model_loses_ln_v() -> None:
    """Where all logits are equal, the loss is the logarithm of the vocabulary's size."""
    m = model()
    with torch.no_grad():
        m.embedding.zero_()
    assert window_loss(m, IDS, count=5) == pytest.approx(math.log(9), rel=1e-6)


def test_units() -> None:
    """Nats per character and per byte are the same nats over other counts."""
    loss = TextLoss(nats=12.0, tokens=4, characters=6, bytes=8)
    assert [loss.per(u) for u in ("token", "char", "byte")] == [3.0, 2.0, 1.5]
    with pytest.raises(ValueError, match="'word'"):
        loss.per("word")


def test_too_short_a_text_and_a_wrong_stride() -> None:
    """The errors say the numbers."""
    with pytest.raises(ValueError, match="has 1"):
        sliding_nats(model(), IDS[:1])
    with pytest.raises(ValueError, match="not 9"):
        sliding_nats(model(), IDS, stride=9)


@pytest.mark.parametrize("separator", [[8], [8, 8], [3, 8]])
def test_stories_are_read_from_their_start(separator: list[int]) -> None:
    """Each token of a story, and of the separator behind it, counts once, predicted from all before it back to the
    separator in front; equal to a loop, whatever the other stories are."""
    m = model(context=16)
    stories = [IDS[:5], IDS[20:31], IDS[40:41]]
    slow = 0.0
    for story in stories:
        row = [*separator, *story.tolist(), *separator]
        slow += sum(nats(m, row[:t], row[t]) for t in range(len(separator), len(row)))
    assert story_nats(m, stories, np.array(separator, np.uint8)) == pytest.approx(slow, rel=1e-5)


def test_a_story_behind_a_part_of_its_separator() -> None:
    """Where a model begins with less than a separator, only that is read before a story, and all of one behind it."""
    m = model(context=16)
    separator, lead = np.array([8, 3], np.uint8), np.array([3], np.uint8)
    row = [3, *IDS[:5].tolist(), 8, 3]
    slow = sum(nats(m, row[:t], row[t]) for t in range(1, len(row)))
    assert story_nats(m, [IDS[:5]], separator, lead) == pytest.approx(slow, rel=1e-5)


def test_a_story_beyond_the_context_is_read_by_a_sliding_window() -> None:
    """Equal to the sliding-window nats of separator, story and separator, less those inside the first separator."""
    m = model()
    separator = np.array([8, 3], np.uint8)
    row = np.concatenate([separator, IDS[:30], separator])
    expected = sliding_nats(m, row)[0] - nats(m, [8], 3)
    assert story_nats(m, [IDS[:30]], separator) == pytest.approx(expected, rel=1e-5)
