"""Several texts in a row: none sees another, whatever the architecture."""

import pytest
import torch
from torch import Tensor

from gptlab.model import kernels
from gptlab.model.transformer import build
from gptlab.presets import SIZES, preset
from gptlab.training.loss import summed

MINIS = [name for name in SIZES if name.endswith("-mini") or name.startswith("gptlab-")]
LENGTHS = [[5, 9, 3], [11, 4]]  # of the texts in each row; the second is shorter, and filled up
PREFIXES = [[2, 5, 1], [7, 2]]
WIDTH = 17


def row_of(lengths: list[int], start: int) -> tuple[Tensor, Tensor, Tensor]:
    """ids, positions and segments; what fills the row up goes on with the last text, behind it."""
    ids = torch.arange(start, start + WIDTH) % 100
    positions = torch.cat([torch.arange(n) for n in lengths])
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    rest = WIDTH - len(positions)
    positions = torch.cat([positions, lengths[-1] + torch.arange(rest)])
    return ids, positions, torch.cat([segments, torch.full((rest,), len(lengths) - 1)])


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("kernel", [kernels.sdpa, kernels.reference])
def test_packed_texts_are_as_if_alone(name: str, kernel: kernels.Kernel) -> None:
    """The logits of a text among others in its row are those of the text by itself."""
    config = preset(name, vocab_size=100, context=24)
    model = build(config, seed=3, init="gpt2", kernel=kernel)
    rows = [row_of(lengths, 7 * i) for i, lengths in enumerate(LENGTHS)]
    ids, positions, segments = (torch.stack(parts) for parts in zip(*rows, strict=True))
    given: dict[str, Tensor] = {"positions": positions, "segments": segments}
    if config.category == "prefix":
        of_text = [p[torch.arange(len(p))] for p in map(torch.tensor, PREFIXES)]
        given["prefix"] = torch.stack([of_text[i][segments[i]] for i in range(2)])
    if config.category == "encoder-decoder":  # each text reads itself, backwards
        given |= {"source": ids.flip(1), "source_segments": segments.flip(1)}
        given["source_positions"] = torch.stack([backwards(lengths) for lengths in LENGTHS])
    with torch.inference_mode():
        logits = model(ids, **given)
        for i, lengths in enumerate(LENGTHS):
            at = 0
            for number, n in enumerate(lengths):
                alone: dict[str, Tensor] = {}
                if config.category == "prefix":
                    alone["prefix"] = torch.tensor([PREFIXES[i][number]])
                if config.category == "encoder-decoder":
                    rest = WIDTH - sum(lengths) if number == len(lengths) - 1 else 0
                    alone["source"] = ids[i : i + 1, at : at + n + rest].flip(1)
                found = model(ids[i : i + 1, at : at + n], **alone)
                torch.testing.assert_close(logits[i : i + 1, at : at + n], found, rtol=1e-4, atol=1e-5)
                at += n


def backwards(lengths: list[int]) -> Tensor:
    """Positions of the texts of a row that is read from its end."""
    rest = WIDTH - sum(lengths)
    counted = [*lengths[:-1], lengths[-1] + rest]
    return torch.cat([torch.arange(n) for n in reversed(counted)])


def test_logits_where_they_are_asked() -> None:
    """Logits of some places alone are those of all places, taken there; and so are the loss's gradients."""
    model = build(preset("gpt2-mini", vocab_size=50, context=16), seed=1)
    ids, asked = torch.arange(32).view(2, 16), torch.zeros(2, 16, dtype=torch.bool)
    asked[0, 3:7] = asked[1, 15] = True
    targets = torch.where(asked, ids + 1, -100)
    whole = summed(model(ids), targets)
    (gradient,) = torch.autograd.grad(whole, model.embedding)
    some = model(ids, asked=asked)
    assert some.shape == (5, 50)
    part = torch.nn.functional.cross_entropy(some, targets[asked], reduction="sum")
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(part, model.embedding)[0], gradient, rtol=1e-4, atol=1e-5)
