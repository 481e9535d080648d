"""The one loss that compares with the truth: nats per character of whole fables, beside the least that is possible."""

from functools import cached_property

import numpy as np

from gptlab.model.transformer import Transformer
from gptlab.text.fables import SEPARATOR
from gptlab.text.fables import corpus as fables
from gptlab.text.tokenizer import Tokenizer, within
from gptlab.training.evaluate import story_nats


class Stories:
    """Stories of known surprisal, as ids of a tokenizer that can spell them."""

    def __init__(self, stories: list[fables.Story], tokenizer: Tokenizer, lead: np.ndarray | None = None) -> None:
        """lead: the ids that a model reads before a story, if not the whole separator."""
        self.stories = stories
        self.ids = [tokenizer.encode(story.text) for story in stories]
        self.separator = within(tokenizer, SEPARATOR)
        self.lead = self.separator if lead is None else lead

    @cached_property
    def floor(self) -> float:
        """-ln p(stories) over their characters: no model can do better, in nats per character."""
        return fables.floor(self.stories)

    def fit(self, context: int) -> bool:
        """Whether a model of this context sees the whole of every story."""
        return max(map(len, self.ids)) + len(self.lead) + len(self.separator) - 1 <= context

    def loss(self, model: Transformer, *, first: int | None = None) -> float:
        """Nats per character of the stories, separators included, each read whole from its start.

        With `first`, only so many are read, and what they lose above their own floor is added to that of all: stories
        differ far more in surprisal than in how well a model knows their language.
        """
        some = self.stories[:first]
        characters = sum(len(story.text) + len(SEPARATOR) for story in some)
        nats = story_nats(model, self.ids[:first], self.separator, self.lead)
        return self.floor + nats / characters - fables.floor(some)
