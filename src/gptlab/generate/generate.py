"""Text from a model, token by token, each chosen token being read back in.

N samples side by side, T tokens of prompt, V vocabulary. What was read stays in a key-value cache. Past the
context there are two ways on. "slide": every step reads the last `context` tokens anew, the exact sliding
window (as the old GPTLab does). "halves": when the context is full, the newer half of it is read anew from
position 0, and there is room again; between context/2 and context tokens are seen, at little more than the
cost of one token a step.
"""

import codecs
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gptlab.config import SampleConfig
from gptlab.generate import fast, sampling
from gptlab.model.cache import Cache
from gptlab.model.layouts import begin, readable
from gptlab.model.transformer import Transformer
from gptlab.seeds import key
from gptlab.text.tokenizer import END, Tokenizer, opening, prompt_ids, special_id


class Reader:
    """The model as a reader of N texts of the same length: `read` gives the logits after their last token.

    given: the prompt (G,), or one for each text (N, G), which an encoder reads, or a prefix sees both ways; such models
    have no second window, and `left` is how many tokens they can write behind a prompt that `readable` allows.
    """

    def __init__(self, model: Transformer, given: Tensor, n: int, *, window: str) -> None:
        self.model, self.window, self.vocab_size = model, window, model.vocab_size
        self.cache: Cache | None = None
        self.causal = model.config.category == "causal"
        self.begun = begin(model.config, given.expand(n, -1))
        self.first = self.begun["ids"]
        self.left = None if self.causal else model.context - self.first.shape[1] + 1

    def read(self, written: Tensor) -> Tensor:
        """written (N, T): all tokens so far, of which those that the cache holds are not read again -> (N, V)."""
        context = self.model.context
        ids = torch.cat([self.first, written], 1)
        if self.window == "slide" and self.causal and ids.shape[1] > context:
            return self.model(ids[:, -context:])[:, -1]
        if self.cache is None:
            parameter = self.model.embedding
            self.cache = Cache(self.model.config, len(ids), device=parameter.device, dtype=parameter.dtype)
            return self.model(**{**self.begun, "ids": ids[:, -context:]}, cache=self.cache)[:, -1]
        if self.cache.length == context:
            self.cache.clear()
            new = ids[:, -max(1, context // 2) :]
        else:
            new = ids[:, -1:]
        return self.model(new, cache=self.cache)[:, -1]


def tokens(
    model: Transformer, prompt: Sequence[int] | np.ndarray, config: SampleConfig, *, n: int, bias: dict[int, float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (ids, log-probabilities), each (N,), for up to config.tokens steps.

    The log-probability is the model's own, before anything of `config` bends it. Sample i depends on
    (prompt, config, i) and not on n. prompt: ids that all go on from, or a row of them for each sample.
    """
    given = torch.as_tensor(np.asarray(prompt, dtype=np.int64), device=model.embedding.device)
    if most := readable(model.config, config.tokens):  # of what is to be continued, the end matters most
        given = given[..., -most:]
    draws = [np.random.default_rng(key(config.seed, "sample", i)).random(config.tokens) for i in range(n)]
    uniforms = torch.from_numpy(np.stack(draws, axis=1))
    if not fast.supported(model):
        return stepwise(Reader(model, given, n, window=config.window), given, uniforms, config, bias)
    reader = fast.Reader(model, given, n, window=config.window)
    if fast.chooses(config):
        return fast.write(reader, uniforms, config, bias)
    return stepwise(reader, given, uniforms, config, bias)


@torch.inference_mode()
def stepwise(
    reader: Reader | fast.Reader, given: Tensor, uniforms: Tensor, config: SampleConfig, bias: dict[int, float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """`tokens`, whatever the settings, each chosen from the logits that a reader gives. uniforms (tokens, N)."""
    steps, n, device = *uniforms.shape, given.device
    ids = torch.zeros(n, steps, dtype=torch.long, device=device)
    counted = config.repetition_penalty != 1 or config.frequency_penalty != 0 or config.presence_penalty != 0
    seen = torch.zeros(n, reader.vocab_size if counted else 0, device=device)
    written = torch.zeros_like(seen)
    one = torch.ones(n, 1, device=device)
    if counted:
        seen.scatter_add_(1, given.expand(n, -1), one.expand(n, given.shape[-1]))
    for step in range(steps if reader.left is None else min(steps, reader.left)):
        logits = reader.read(ids[:, :step]).float()
        bent = sampling.bent(logits, config, bias=bias, seen=seen, written=written)
        chosen = sampling.choose(bent, uniforms[step], greedy=config.temperature == 0)[:, None]
        yield chosen[:, 0], logits.log_softmax(-1).gather(1, chosen)[:, 0]
        if counted:
            seen.scatter_add_(1, chosen, one)
            written.scatter_add_(1, chosen, one)
        ids[:, step] = chosen[:, 0]


@dataclass
class Sample:
    """One sample as it grows: its text, and each token with its log-probability in nats."""

    stop: Sequence[str] = ()
    text: str = ""  # ready to be shown: no part of a stop string, no half of a character
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    reason: str = ""  # why it ended: "length" or "stop"; empty while it goes on

    def __post_init__(self) -> None:
        self.bytes = b""  # the beginning of a character that is spread over several tokens
        self.held = ""  # text that may turn out to be the beginning of a stop string

    def add(self, token: int, logprob: float, piece: bytes) -> str:
        """Take in a token; return the text that is now certain."""
        self.ids.append(token)
        self.logprobs.append(logprob)
        return self.release(self.decoded(piece))

    def finish(self, reason: str = "length") -> str:
        """No more tokens: what was held back is certain now."""
        if self.reason:
            return ""
        certain = self.release(self.decoded(b"", final=True))
        if not self.reason:
            self.reason = reason
            self.text += self.held
            certain += self.held
            self.held = ""
        return certain

    def decoded(self, piece: bytes, *, final: bool = False) -> str:
        """The characters that are whole now; at the end U+FFFD for what is no character."""
        found = self.bytes + piece
        text, used = codecs.utf_8_decode(found, "replace", final)
        self.bytes = found[used:]
        return text

    def release(self, new: str) -> str:
        if not self.stop:
            self.text += new
            return new
        self.held += new
        found = [(at + len(s), at) for s in self.stop if (at := self.held.find(s)) >= 0]
        if found:  # the one that was complete first, however the tokens divide the text
            certain, self.held, self.reason = self.held[: min(found)[1]], "", "stop"
        else:
            keep = max((overlap(self.held, s) for s in self.stop), default=0)
            certain, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        self.text += certain
        return certain


def overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that a stop string begins with."""
    return next((k for k in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:k])), 0)


def start_ids(tokenizer: Tokenizer) -> np.ndarray:
    """What a text from nothing follows: a line end, as if a new line began; else a blank, else token 0."""
    for text in ("\n", " "):
        if not tokenizer.unknown(text):
            return tokenizer.encode(text)
    return np.zeros(1, dtype=np.int64)


PARAGRAPHS = "\n\n"  # what stands between the texts of a model that was trained on one at a time


def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompt: str,
    config: SampleConfig,
    *,
    n: int = 1,
    paragraphs: bool = False,
    most: int | None = None,
) -> Iterator[tuple[int, str, Sample]]:
    """Iterate over (which sample, new text, the sample) as text becomes certain, and once at each sample's end.

    The text does not contain the prompt. paragraphs: the model knows texts that begin and end at blank lines; so it
    reads the end of one in front of the prompt, and ends where it writes one, unless `config` has other stop strings.
    most: tokens of the prompt that are read, its first; a warning where it has more. By default its last are read, as
    many as fit.

    Raises ValueError, at once, for a bias or vocabulary that does not fit.
    """
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, not {n}")
    if tokenizer.vocab_size > model.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model {model.vocab_size}")
    bias = sampling.bias_by_id(config.logit_bias, tokenizer)
    # A vocabulary is often padded to a rounder number: ids that stand for nothing are never drawn.
    bias |= dict.fromkeys(range(tokenizer.vocab_size, model.vocab_size), -math.inf)
    ids = prompt_ids(tokenizer, prompt)
    if paragraphs:
        ids = np.concatenate([opening(tokenizer, PARAGRAPHS), ids])
        config = config if config.stop else config.but(stop=(PARAGRAPHS,))
    if most is not None and len(ids) > most:
        warnings.warn(f"the prompt has {len(ids):,} tokens, and its first {most:,} are read", stacklevel=2)
        ids = ids[:most]
    if model.config.category == "causal":  # others are given it by layouts.begin
        ids = np.concatenate([ids, np.array(model.config.bridge, ids.dtype)])
    steps = tokens(model, ids if len(ids) else start_ids(tokenizer), config, n=n, bias=bias)
    return spelled(steps, tokenizer, [Sample(stop=config.stop) for _ in range(n)])


def spelled(
    steps: Iterator[tuple[Tensor, Tensor]], tokenizer: Tokenizer, samples: list[Sample]
) -> Iterator[tuple[int, str, Sample]]:
    """Tokens as text; what `generate` iterates over. A token <end> ends it, where the tokenizer has one."""
    end = special_id(tokenizer, END) if END in tokenizer.specials else -1
    for chosen, logprobs in steps:
        for i, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
            sample = samples[i]
            if sample.reason:
                continue
            text = sample.add(token, logprob, tokenizer.pieces[token])
            if token == end:
                text += sample.finish("stop")
            if text or sample.reason:
                yield i, text, sample
        if all(sample.reason for sample in samples):
            return
    for i, sample in enumerate(samples):
        if not sample.reason:
            yield i, sample.finish(), sample
