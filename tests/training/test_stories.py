"""Stories beside their floor: one by one, side by side, and some for all."""

import numpy as np
import pytest
import torch

import gptlab
from gptlab.model.transformer import Transformer
from gptlab.text.fables import SEPARATOR
from gptlab.text.fables import corpus as fables
from gptlab.text.tokenizer import train
from gptlab.training.stories import Stories

TOLD = fables.validation(("en",))[:12]
TOKENIZER = train("bpe", [story.text + SEPARATOR for story in TOLD], 400)


def model(stories: Stories, context: int) -> Transformer:
    config = gptlab.preset("gptlab-cpu", vocab_size=TOKENIZER.vocab_size, context=context, n_layers=1)
    model = gptlab.build(config)
    with torch.no_grad():
        model.embedding.mul_(40)
    return model


@pytest.mark.parametrize("enough", [True, False])
def test_loss_by_definition(enough: bool) -> None:
    """The mean over characters of -ln p, each story read alone after a separator, up to the next; and `fit` says
    whether the context holds them."""
    stories = Stories(TOLD, TOKENIZER)
    longest = max(len(TOKENIZER.encode(SEPARATOR + story.text + SEPARATOR)) for story in TOLD) - 1
    m = model(stories, longest if enough else longest - 1)
    assert stories.fit(m.context) == enough
    if enough:
        nats = 0.0
        for story in TOLD:
            ids = torch.from_numpy(TOKENIZER.encode(SEPARATOR + story.text + SEPARATOR + "A").astype(np.int64))
            ids = ids[: -len(TOKENIZER.encode("A"))]
            logprobs = m(ids[None, :-1])[0].detach().log_softmax(-1).gather(-1, ids[1:, None])
            nats -= float(logprobs[len(stories.separator) - 1 :].sum())
        characters = sum(len(story.text) + 2 for story in TOLD)
        assert stories.loss(m) == pytest.approx(nats / characters, rel=1e-5)


def test_some_stories_stand_for_all() -> None:
    """Of the first few stories, what they lose above their own floor is added to the floor of all."""
    stories = Stories(TOLD, TOKENIZER)
    m = model(stories, 400)
    few = Stories(TOLD[:4], TOKENIZER)
    assert stories.loss(m, first=4) - stories.floor == pytest.approx(few.loss(m) - few.floor, abs=1e-9)
    assert stories.loss(m, first=12) == pytest.approx(stories.loss(m), abs=1e-12)


def test_the_floor() -> None:
    """The surprisal of the stories' choices over their characters, a separator of two after each."""
    nats, characters = sum(s.nats for s in TOLD), sum(len(s.text) + 2 for s in TOLD)
    assert Stories(TOLD, TOKENIZER).floor == pytest.approx(nats / characters)
