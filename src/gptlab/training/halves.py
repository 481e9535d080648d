"""A measure that every kind of model can be given: nats per character of the second half of a text, given the first.

A decoder reads on, a prefix model sees the first half both ways, an encoder-decoder reads it by its encoder.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gptlab.model.layouts import room
from gptlab.model.transformer import Transformer
from gptlab.text.tokenizer import Tokenizer
from gptlab.training.evaluate import nats, together

PIECE = 512  # characters of a text that is no collection of stories


class Halves:
    """Texts, cut at the space nearest to their middle; what follows it is asked.

    Where a text is longer than a model takes in, each token is foretold from as much as fits before it, but for half
    of the room, which is asked at once.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer) -> None:
        self.rows: list[tuple[NDArray[np.int64], int]] = []  # ids, and the first that is asked
        self.characters = 0
        for text in texts:
            middle = len(text) // 2
            spaces = [at for at, c in enumerate(text) if c == " " and at > 0] or [middle]
            cut = min(spaces, key=lambda at: abs(at - middle))
            first, second = (tokenizer.encode(part).astype(np.int64) for part in (text[:cut], text[cut:]))
            self.rows.append((np.concatenate([first, second]), len(first)))
            self.characters += len(text) - cut

    @torch.inference_mode()
    def loss(self, model: Transformer) -> float:
        """Nats per character of all second halves."""
        was_training = model.training
        model.eval()
        most = room(model.config)
        stride = max(1, most // 2)
        windows = defaultdict(list)  # by length and by how many tokens are asked, to be read side by side
        for ids, start in self.rows:
            for begin in range(start, len(ids), stride):
                end = min(begin + stride, len(ids))
                row = ids[max(0, end - 1 - most) : end]
                windows[len(row), end - begin].append(row)
        total = 0.0
        for (length, asked), rows in windows.items():
            at_once = together(model, length)
            for first in range(0, len(rows), at_once):
                some = torch.from_numpy(np.stack(rows[first : first + at_once]))
                total += nats(model, some[:, :-1], some[:, 1:], last=asked)
        model.train(was_training)
        return total / self.characters
