"""How the next token is chosen from the scores that the model gives to all of them.

N samples side by side, V vocabulary. Each function takes logits (N, V) and returns logits (N, V), a token that
is cut having -inf. A new way to sample is one function and a line in `bent`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gptlab.config import SampleConfig
from gptlab.text.tokenizer import Tokenizer


def biased(logits: Tensor, bias: Mapping[int, float]) -> Tensor:
    """Add to the logits of single tokens."""
    if not bias:
        return logits
    index = torch.tensor(list(bias), device=logits.device)
    return logits.index_add(1, index, torch.tensor(list(bias.values()), device=logits.device).expand(len(logits), -1))


def penalised_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of tokens seen, multiply negative ones. Keskar et al. 2019, arXiv 1909.05858.

    seen (N, V): how often each token stands in the prompt and in what was written.
    """
    return torch.where(seen > 0, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalised_frequency(logits: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Subtract the penalty for every time that a token was written; written (N, V) counts, prompt left out."""
    return logits - penalty * written


def penalised_presence(logits: Tensor, written: Tensor, penalty: float) -> Tensor:
    """Subtract the penalty once from every token that was written."""
    return logits - penalty * (written > 0)


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens; those as likely as the k-th stay, too. Fan et al. 2018, arXiv 1805.04833."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < least, -math.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the likeliest tokens until their probability reaches p. Holtzman et al. 2019, arXiv 1904.09751.

    The token that reaches it is kept, so at least one is.
    """
    if p == 1:  # rounded sums would cut the unlikeliest
        return logits
    probabilities, order = logits.softmax(-1).sort(descending=True, stable=True)
    before = probabilities.cumsum(-1) - probabilities
    cut = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= p)
    return logits.masked_fill(cut, -math.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as probable as the likeliest. Nguyen et al. 2024, arXiv 2407.01082."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), -math.inf)


def bent(logits: Tensor, config: SampleConfig, *, bias: Mapping[int, float], seen: Tensor, written: Tensor) -> Tensor:
    """The logits after bias, penalties, temperature and cuts, in this order; temperature 0 is left to `choose`."""
    logits = biased(logits, bias)
    if config.repetition_penalty != 1:
        logits = penalised_repetition(logits, seen, config.repetition_penalty)
    if config.frequency_penalty:
        logits = penalised_frequency(logits, written, config.frequency_penalty)
    if config.presence_penalty:
        logits = penalised_presence(logits, written, config.presence_penalty)
    if config.temperature > 0:
        # Less the greatest, and by no less than 1e-30, so that float32 stays finite: colder is as good as greedy.
        logits = (logits - logits.amax(-1, keepdim=True)) / max(config.temperature, 1e-30)
    if config.top_k is not None:
        logits = top_k(logits, config.top_k)
    if config.top_p is not None:
        logits = top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = min_p(logits, config.min_p)
    return logits


def choose(logits: Tensor, uniform: Tensor, *, greedy: bool) -> Tensor:
    """One token for each row, (N,): the likeliest, or drawn from softmax(logits).

    uniform (N,), from 0 up to 1, decides: the token at which the cumulated probability passes it. So the i-th of
    several samples is the same however many there are, and on every device.
    """
    if greedy:
        return logits.argmax(-1)
    cumulated = logits.cpu().double().softmax(-1).cumsum(-1)  # on the CPU: Apple's GPUs have no double
    # By the last sum and not 1, which rounding may miss; `right` passes over tokens of no probability.
    chosen = torch.searchsorted(cumulated, (uniform.cpu() * cumulated[:, -1])[:, None], right=True)[:, 0]
    return chosen.to(logits.device)


def bias_by_id(bias: Mapping[str, float], tokenizer: Tokenizer) -> dict[int, float]:
    """Keys of `SampleConfig.logit_bias` to token ids: "#42" is id 42, any other text must be one token."""
    out: dict[int, float] = {}
    for name, value in bias.items():
        if name.startswith("#") and name[1:].isdecimal():
            token = int(name[1:])
            if token >= tokenizer.vocab_size:
                raise ValueError(f"logit_bias {name!r}: the ids go from 0 to {tokenizer.vocab_size - 1}")
        else:
            if unknown := tokenizer.unknown(name):
                raise ValueError(f"logit_bias {name!r}: the vocabulary has no {unknown[0]!r}")
            ids = tokenizer.encode(name)
            if len(ids) != 1:
                shown = ", ".join(f"#{i}" for i in ids)
                raise ValueError(f"logit_bias {name!r} is {len(ids)} tokens ({shown}); give one token, or its #id")
            token = int(ids[0])
        out[token] = out.get(token, 0.0) + value
    return out
