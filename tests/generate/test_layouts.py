"""Writing on with a model that is no plain decoder: a prefix is seen both ways, a source is read by an encoder."""

import numpy as np
import pytest
import torch

import gptlab
from gptlab.config import ModelConfig, SampleConfig
from gptlab.generate.generate import generate, tokens
from gptlab.model.transformer import Transformer
from gptlab.text.chars import CharTokenizer

SHAPE = dict(vocab_size=11, context=12, n_layers=2, d_model=12, n_heads=3, d_ff=20)
LAYOUTS = {
    "prefix": gptlab.preset("glm-mini", **SHAPE),
    "prefix with a bridge": gptlab.preset("glm-mini", **SHAPE, bridge=(9, 10)),
    "encoder-decoder": gptlab.preset("t5-mini", **SHAPE),
    "encoder-decoder with a start": gptlab.preset("t5-mini", **SHAPE, bridge=(7,)),
    "encoder-decoder with a sentinel": gptlab.preset("t5-mini", **SHAPE, bridge=(7, 8)),
}
each_layout = pytest.mark.parametrize("config", LAYOUTS.values(), ids=LAYOUTS)


def model(config: ModelConfig) -> Transformer:
    built = gptlab.build(config, seed=1)
    with torch.no_grad():
        for name, p in built.named_parameters():
            if "norm" not in name:
                p.normal_(0, 0.5, generator=torch.Generator().manual_seed(p.numel()))
    return built


def slow(m: Transformer, prompt: list[int], count: int) -> list[tuple[int, float]]:
    """Greedy tokens and their log-probabilities, everything read anew at every step, from the definition."""
    config, written = m.config, []
    for _ in range(count):
        done = [token for token, _ in written]
        if config.category == "prefix":
            seen = len(prompt) + max(0, len(config.bridge) - 1)
            ids = torch.tensor([[*prompt, *config.bridge, *done]])
            logits = m(ids, prefix=torch.tensor([seen]))
        else:
            source = torch.tensor([[*prompt, *config.bridge[1:]]])
            logits = m(torch.tensor([[*(config.bridge or (0,)), *done]]), source=source)
        logprobs = logits[0, -1].detach().log_softmax(-1)
        written.append((int(logprobs.argmax()), float(logprobs.max())))
    return written


@each_layout
def test_greedy_is_the_slow_way(config: ModelConfig) -> None:
    """With the cache, token by token, it is what reading everything anew gives, up to what the context holds."""
    m, prompt = model(config), [3, 1, 4, 1]
    count = (
        12 - len(prompt) - len(config.bridge) + 1
        if config.category == "prefix"
        else 12 - len(config.bridge or (0,)) + 1
    )
    greedy = SampleConfig(tokens=50, temperature=0)
    steps = list(tokens(m, np.array(prompt), greedy, n=2, bias={}))
    assert len(steps) == count
    for row in range(2):
        written = [(int(ids[row]), float(nats[row])) for ids, nats in steps]
        for (token, nat), (expected, least) in zip(written, slow(m, prompt, count), strict=True):
            assert token == expected
            assert nat == pytest.approx(least, abs=1e-4)


@each_layout
def test_a_long_prompt_is_cut_at_its_front(config: ModelConfig) -> None:
    """What does not fit is left out at the beginning. A prefix leaves room for what is to be written, or half of its
    own, where that is too much; an encoder reads what it can, for what is written is read elsewhere."""
    m = model(config)
    long = np.arange(40) % 7
    bridge = len(config.bridge)
    for count in (3, 40):
        if config.category == "prefix":
            kept = 12 - bridge - (3 if count == 3 else (12 - bridge) // 2)
            left = 12 - bridge - kept + 1
        else:
            kept, left = 12 - max(0, bridge - 1), 12 - max(1, bridge) + 1
        greedy = SampleConfig(tokens=count, temperature=0)
        cut, whole = (list(tokens(m, ids, greedy, n=1, bias={})) for ids in (long[-kept:], long))
        assert [int(ids) for ids, _ in cut] == [int(ids) for ids, _ in whole]
        assert len(whole) == min(count, left)


def test_the_end_token_ends() -> None:
    """Where the tokenizer has <end>, writing it ends the sample, which then ended by itself."""
    known = CharTokenizer("abc", ("<start>", "<end>"))
    m = model(gptlab.preset("t5-mini", **{**SHAPE, "vocab_size": known.vocab_size}, bridge=(3,)))
    always = SampleConfig(tokens=9, temperature=0, logit_bias={"#4": 99.0})
    *_, (_, _, sample) = generate(m, known, "ab", always)
    assert (sample.reason, sample.text, sample.ids) == ("stop", "", [4])


def test_paragraphs() -> None:
    """A model of texts between blank lines reads the last token of one in front of the prompt, and stops where it
    writes one; a stop string of the user's takes its place."""
    known = CharTokenizer("\nab")
    m = model(gptlab.preset("gptlab-fables", vocab_size=3, context=32, n_layers=1, d_model=12, n_heads=3, d_ff=20))
    how = SampleConfig(tokens=30, temperature=1, seed=4)

    def text(prompt: str, config: SampleConfig, paragraphs: bool) -> str:
        return "".join(t for _, t, _ in generate(m, known, prompt, config, paragraphs=paragraphs))

    told = text("ab", how, True)
    assert told == text("\nab", how.but(stop=("\n\n",)), False) and "\n\n" not in told
    assert text("ab", how.but(stop=("a",)), True) == text("\nab", how.but(stop=("a",)), False)
    assert text("", how, True) == text("\n", how.but(stop=("\n\n",)), False)
