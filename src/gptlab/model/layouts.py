"""How a text is put to a model so that it goes on from it: as it stands, as a prefix, or as an encoder's source.

B batch, G given tokens, T tokens that the decoder reads.
"""

from typing import Any

import torch
from torch import Tensor

from gptlab.config import ModelConfig


def begin(config: ModelConfig, given: Tensor) -> dict[str, Any]:
    """The inputs of a model for a text (B, G); what follows is foretold after the last of its `ids`.

    causal: the text · prefix: the text and the bridge, both ways visible but for the bridge's last token, which begins
    what follows · encoder-decoder: the bridge for the decoder (id 0 where there is none, as in T5); as the source the
    text, with the bridge's tokens after the first behind it (the sentinel of the span that is asked).
    """
    bridge = torch.tensor(config.bridge, dtype=torch.long, device=given.device).expand(len(given), -1)
    if config.category == "encoder-decoder":
        ids = bridge if config.bridge else torch.zeros_like(given[:, :1])
        return {"ids": ids, "source": torch.cat([given, bridge[:, 1:]], 1)}
    if config.category == "prefix":
        seen = given.shape[1] + max(0, len(config.bridge) - 1)
        prefix = torch.full((len(given),), seen, device=given.device)
        return {"ids": torch.cat([given, bridge], 1), "prefix": prefix}
    return {"ids": given}


def room(config: ModelConfig) -> int:
    """The most tokens, given and foretold together, that a model takes in at once."""
    if config.category == "prefix":
        return config.context - len(config.bridge)
    return config.context - max(0, len(config.bridge) - 1)


def readable(config: ModelConfig, ahead: int) -> int | None:
    """The most tokens of a prompt that a model reads before it writes `ahead` more; None: any number, for a causal
    model's window moves on. A prefix leaves them room, but no more than half of its own."""
    if config.category == "causal":
        return None
    return room(config) - (min(ahead, room(config) // 2) if config.category == "prefix" else 0)
