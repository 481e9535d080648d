"""The measure that all architectures share, against its definition."""

import pytest
import torch

import gptlab
from gptlab.config import ModelConfig
from gptlab.model.layouts import room
from gptlab.text.tokenizer import train
from gptlab.training.halves import Halves

TEXTS = ["the cat sat on a mat and the dog on the cat.", "a mat, a cat", "notasingleplacetocutthis"]
TOKENIZER = train("char", [*TEXTS, "<>"])
V = TOKENIZER.vocab_size
SHAPE = dict(vocab_size=V, context=12, n_layers=2, d_model=12, n_heads=3, d_ff=20)
MODELS = {
    "causal": gptlab.preset("gpt2-mini", **SHAPE),
    "prefix": gptlab.preset("glm-mini", **SHAPE),
    "prefix with a bridge": gptlab.preset("glm-mini", **SHAPE, bridge=(0, 1)),
    "encoder-decoder": gptlab.preset("t5-mini", **SHAPE, bridge=(1,)),
}


def one(config: ModelConfig, model: torch.nn.Module, given: list[int], asked: list[int]) -> float:
    """Nats of `asked` after `given`, token by token, each read anew."""
    total = 0.0
    for t, token in enumerate(asked):
        if config.category == "encoder-decoder":
            logits = model(torch.tensor([[*config.bridge, *asked[:t]]]), source=torch.tensor([given]))
        elif config.category == "prefix":
            seen = torch.tensor([len(given) + max(0, len(config.bridge) - 1)])
            logits = model(torch.tensor([[*given, *config.bridge, *asked[:t]]]), prefix=seen)
        else:
            logits = model(torch.tensor([[*given, *asked[:t]]]))
        total -= float(logits[0, -1].detach().log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_second_halves_by_definition(config: ModelConfig) -> None:
    """Texts are cut at the space nearest their middle; half of the room is asked at once, after all that fits."""
    model = gptlab.build(config, seed=2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 3)
    cuts = [len("the cat sat on a mat"), len("a mat,"), len(TEXTS[2]) // 2]
    total, characters, most = 0.0, 0, room(config)
    for text, cut in zip(TEXTS, cuts, strict=True):
        ids = TOKENIZER.encode(text).tolist()
        characters += len(text) - cut
        for begin in range(cut, len(ids), most // 2):
            end = min(begin + most // 2, len(ids))
            total += one(config, model, ids[max(0, end - 1 - most) : begin], ids[begin:end])
    halves = Halves(TEXTS, TOKENIZER)
    assert halves.characters == characters
    assert halves.loss(model) == pytest.approx(total / characters, rel=1e-4)
