"""Models and tokenizers small enough to be followed by hand."""

import torch

from gptlab.config import ModelConfig
from gptlab.model.transformer import Transformer, build
from gptlab.text.bpe import BPETokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.tokenizer import Tokenizer

CHARACTERS = CharTokenizer("\n abcdefgh")
BYTES = BPETokenizer.train(["x"], 256)  # no merges: every byte a token
WORDS = BPETokenizer.train(["the theme of the thermal thesis is a thing, then the end. " * 9], 300)


def lively(vocab_size: int, context: int, *, seed: int = 0, size: float = 0.6) -> Transformer:
    """A random model in float64 whose next token depends on all before: far from certain, far from uniform."""
    config = ModelConfig(vocab_size=vocab_size, context=context, n_layers=2, d_model=12, n_heads=3, n_kv_heads=1)
    model = build(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size)
    return model


def clockwork(tokenizer: Tokenizer, text: str, *, context: int = 8) -> Transformer:
    """A model that, greedy, writes the tokens of `text` in their order, and again from the first.

    Its blocks do nothing (`scaled` starts them so), embeddings are the unit vectors, and the head points from each
    token to the next.
    """
    ids = tokenizer.encode(text).tolist()
    assert len(set(ids)) == len(ids), "each token has one successor"
    V = tokenizer.vocab_size
    config = ModelConfig(vocab_size=V, context=context, n_layers=1, d_model=V, n_heads=1, tied_embeddings=False)
    model = build(config, init="scaled")
    assert model.head is not None
    with torch.no_grad():
        model.embedding.copy_(torch.eye(V))
        model.position.weight.zero_()
        model.head.zero_()
        for here, following in zip(ids, ids[1:] + ids[:1], strict=True):
            model.head[following, here] = 1.0
    return model
