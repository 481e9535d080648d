"""What a fable may go on with, against all texts of a language that is small enough to write them down."""

import itertools
import math
from typing import ClassVar

import numpy as np
import pytest

from gptlab.messages import LANGUAGES
from gptlab.text import tokenizer as tokenizers
from gptlab.text.fables import SEPARATOR, Choices, corpus, draw, surprisal
from gptlab.text.fables.choices import CHOICES, Choice
from gptlab.text.fables.expectation import Odds, Reader, Tales, true_tokens
from gptlab.text.fables.grammar import Grammar, grammar
from gptlab.text.tokenizer import Tokenizer
from tests.text.test_fables import TINY, TINY_TABLE

# The friend is told first, though drawn last, with a word that a longer one begins with; and a word by its gender
# before the animal itself is named.
TURNED = {
    **TINY_TABLE,
    "lexicon": {
        "hero": {
            "cat": {"g": "m", "one": "cat", "many": "cats"},
            "hen": {"g": "f", "one": "cathen", "many": "hens"},
            "cow": {"g": "f", "one": "a cow", "many": "cows"},
        }
    },
    "part": [
        {
            "by": ["mood"],
            "tellings": {"good": "{^friend.many}, liked {:hero|by him|by her}:", "bad": "{^friend.many}?"},
        },
        {"by": [], "tellings": {"": "{hero.one}."}},
    ],
}


def rows(choices: tuple[Choice, ...], known: Choices) -> list[Choices]:
    if not choices:
        return [known]
    values = choices[0].distribution(known)
    return [row for value in values for row in rows(choices[1:], {**known, choices[0].name: value})]


def texts(table: dict[str, object], stories: int) -> dict[str, float]:
    """All texts of so many stories, each followed by a separator, and their probabilities."""
    told = Grammar(table, TINY)
    one = [(told.tell(row) + SEPARATOR, math.exp(-surprisal(row, TINY))) for row in rows(TINY, {})]
    found: dict[str, float] = {}
    for several in itertools.product(one, repeat=stories):
        text = "".join(text for text, _ in several)
        found[text] = found.get(text, 0.0) + math.prod(p for _, p in several)
    return found


def tales(table: dict[str, object]) -> Tales:
    return Tales({"": Grammar(table, TINY)}, TINY)


@pytest.mark.parametrize("table", [TINY_TABLE, TURNED])
def test_next_characters_by_enumeration(table: dict[str, object]) -> None:
    """After every beginning of every text of two stories: p(next character) as it is counted over all texts."""
    every = texts(table, 2)
    assert sum(every.values()) == pytest.approx(1)
    for text in every:
        for at, reader in enumerate(tales(table).start().read(text)):
            going = {other: p for other, p in every.items() if other.startswith(text[:at])}
            if at == len(text):
                break
            counted: dict[str, float] = {}
            for other, p in going.items():
                counted[other[at]] = counted.get(other[at], 0.0) + p / sum(going.values())
            assert reader.next == pytest.approx(counted)


@pytest.mark.parametrize("table", [TINY_TABLE, TURNED])
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_next_tokens_by_enumeration(table: dict[str, object], kind: str) -> None:
    """The same of tokens, given the tokens before: counted over all texts of three stories as a tokenizer cuts them,
    also behind a beginning that is cut between two words."""
    every = texts(table, 3)
    tokenizer = tokenizers.train(kind, [SEPARATOR + "".join(every)], 275 if kind == "bpe" else None)
    cut = {text: (tokenizer.encode(SEPARATOR + text).tolist(), p) for text, p in every.items()}
    some = [text.partition(SEPARATOR)[0] for text in list(every)[:: len(every) // 8]]
    for text in [*some, *(text.rpartition(" ")[0] for text in some)]:
        found = true_tokens(tales(table), text, tokenizer)
        ids = tokenizer.encode(SEPARATOR + text).tolist()
        assert len(found.rows) == len(ids) + 1 and len(found.owners) == len(found.nats) == len(ids)
        for at, row in enumerate(found.rows):
            going = [(other[at], p) for other, p in cut.values() if other[:at] == ids[:at]]
            counted: dict[int, float] = {}
            for token, p in going:
                counted[token] = counted.get(token, 0.0) + p / sum(q for _, q in going)
            assert row == pytest.approx(counted)
            assert found.entropy[at] == pytest.approx(-sum(p * math.log(p) for p in counted.values()), abs=1e-12)
            if at < len(ids):
                assert found.nats[at] == pytest.approx(-math.log(counted[ids[at]]), abs=1e-12)


def learned(langs: tuple[str, ...], kind: str) -> Tokenizer:
    some = [story.text + SEPARATOR for story, _ in zip(corpus.stories(langs), range(300), strict=False)]
    return tokenizers.train(kind, some, 400 if kind == "bpe" else None)


@pytest.mark.parametrize("langs", [*((lang,) for lang in LANGUAGES), ("en", "pl")])
def test_a_story_costs_its_surprisal(langs: tuple[str, ...]) -> None:
    """Summed over a story's characters, and over its tokens of either kind, -ln p is the surprisal of its choices (and
    of its language, where there are two); each distribution sums to one."""
    for story, _ in zip(corpus.stories(langs, seed=5), range(1), strict=False):
        whole = story.text + SEPARATOR
        readers = list(Tales.of(langs).start().read(whole))
        assert all(sum(reader.next.values()) == pytest.approx(1) for reader in readers)
        nats = -sum(math.log(reader.next[c]) for reader, c in zip(readers, whole, strict=False))
        assert nats == pytest.approx(story.nats, abs=1e-9)
        for kind in ("char", "bpe"):
            found = true_tokens(Tales.of(langs), story.text, learned(langs, kind))
            assert found.nats.sum() == pytest.approx(story.nats, abs=1e-9)
            assert all(sum(row.values()) == pytest.approx(1) for row in found.rows)
            assert all((len(row) == 1) == (owner == ()) for row, owner in zip(found.rows, found.owners, strict=False))


@pytest.mark.parametrize("lang", LANGUAGES)
def test_owners(lang: str) -> None:
    """Every choice of a story owns some of its characters, and the text changes with it nowhere before: two stories
    that differ in one choice are alike up to the first character which that choice owns."""
    choices = draw(8, 3)
    told = grammar(lang).tell(choices)
    *_, reader = Tales.of((lang,)).start().read(told)
    owners = reader.owners
    assert len(owners) == len(told)
    assert {name for owner in owners for name in owner} == {choice.name for choice in CHOICES}
    for name in ("hero", "thing", "loss", "obstacle", "gift", "found", "finale"):
        first = next(at for at, owner in enumerate(owners) if name in owner)
        for value in next(choice.values for choice in CHOICES if choice.name == name):
            assert grammar(lang).tell({**choices, name: value})[:first] == told[:first]


def test_odds() -> None:
    """p(some choices | others), against the sum over all rows: also of what is drawn before given what is after."""
    every = [(row, math.exp(-surprisal(row, TINY))) for row in rows(TINY, {})]

    def p(known: Choices) -> float:
        return sum(q for row, q in every if known.items() <= row.items())

    odds = Odds(TINY)
    for row, _ in every:
        for size in range(4):
            for names in itertools.permutations(row, size):
                for cut in range(size):
                    known, more = ({name: row[name] for name in some} for some in (names[:cut], names[cut:]))
                    assert odds(more, known) == pytest.approx(p({**known, **more}) / p(known))
    assert odds({"friend": "hen"}, {"hero": "hen"}) == 0


def test_other_texts() -> None:
    """What is no fable, or ends within a word, is refused with the position; so is a tokenizer across spaces."""
    english = Tales.of(("en",))
    with pytest.raises(ValueError, match="not a fable from position 5 on: no fable goes on with 'x'"):
        list(english.start().read("Once xthere"))
    story = grammar("en").tell(draw(1, 1))
    tokenizer = learned(("en",), "bpe")
    refused = 0
    for cut in range(20, 60):  # some of these cuts are within a token of the word
        try:
            true_tokens(english, story[:cut], tokenizer)
        except ValueError as error:
            assert "ends within a word" in str(error)
            assert (story[cut].isalpha() and story[cut - 1].isalpha()) or story[cut - 1] == " "
            refused += 1
    assert refused > 5

    class Whole:
        pieces: ClassVar = [story.encode()]

        def encode(self, text: str) -> np.ndarray:
            return np.array([ord(text[0]), len(text)])

    with pytest.raises(ValueError, match=r"within a word|joins"):
        true_tokens(english, story, Whole())


def test_a_reader_goes_on_for_ever() -> None:
    """Behind a story comes a separator for certain, and then any story."""
    story = grammar("en").tell(draw(1, 2))
    *_, ended = Tales.of(("en",)).start().read(story)
    assert ended.next == {"\n": 1.0}
    *_, again = ended.read(SEPARATOR)
    assert isinstance(again, Reader) and again.next == pytest.approx(Tales.of(("en",)).start().next)
