"""The fables: what is told can be read back, in every language, and what they cost is known exactly."""

import itertools
import lzma
import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.messages import LANGUAGES
from gptlab.text import corpora
from gptlab.text.fables import SEPARATOR, Fables, corpus, draw, surprisal
from gptlab.text.fables.choices import CHOICES, Choice, Choices
from gptlab.text.fables.grammar import Grammar, grammar

INDEX = st.integers(0, 2**40)

# A language of two choices and a dependent third, small enough to be written down.
TINY = (
    Choice("hero", ("cat", "hen")),
    Choice("friend", ("cat", "hen", "cow"), other_than=("hero",)),
    Choice("mood", ("good", "bad"), odds={"cat": 0.9, "hen": 0.25}, given="hero"),
)
TINY_TABLE = {
    "genders": ["m", "f"],
    "same": {"friend": "hero"},
    "lexicon": {
        "hero": {
            "cat": {"g": "m", "one": "cat", "many": "cats"},
            "hen": {"g": "f", "one": "hen", "many": "hens"},
            "cow": {"g": "f", "one": "cow", "many": "cows"},
        }
    },
    "part": [
        {"by": [], "tellings": {"": "{^hero.one} liked {friend.many}."}},
        {"by": ["mood"], "tellings": {"good": "{:hero|He|She} was liked.", "bad": "{:hero|He|She} was alone."}},
    ],
}


@pytest.mark.parametrize("lang", LANGUAGES)
@given(index=INDEX)
def test_parsing_is_the_inverse_of_telling(lang: str, index: int) -> None:
    """Any story, in any language, reads back as the choices that told it; and so it does partially."""
    choices = draw(3, index)
    told = grammar(lang).tell(choices)
    assert grammar(lang).parse(told) == choices
    assert grammar(lang).parse(told, partial=True) == choices


@pytest.mark.parametrize("lang", LANGUAGES)
@given(index=INDEX, data=st.data())
def test_parsing_is_strict(lang: str, index: int, data: st.DataObject) -> None:
    """A story with one character changed, left out or put in is refused, with a position that is in the text, or it
    is another whole story, which tells exactly that text."""
    told = grammar(lang).tell(draw(3, index))
    at = data.draw(st.integers(0, len(told) - 1))
    damage = data.draw(st.sampled_from(["x", "", told[at] + "x", told[at].swapcase()]))
    text = told[:at] + damage + told[at + 1 :]
    try:
        assert grammar(lang).tell(grammar(lang).parse(text)) == text
    except ValueError as error:
        position = int(str(error).split("position ")[1].split()[0])
        assert 0 <= position <= len(text)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_value_is_visible(lang: str) -> None:
    """To change one choice is to change the text, and two values never read alike."""
    for index, mood in itertools.product(range(3), ("good", "bad")):
        base = {**draw(5, index), "mood": mood}
        for choice in CHOICES:
            texts = {grammar(lang).tell({**base, choice.name: value}) for value in choice.values}
            assert len(texts) == len(choice.values), choice.name


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_size_of_a_story(lang: str) -> None:
    """300 to 600 characters, 60 to 120 nats, one paragraph without a blank too many."""
    for index in range(400):
        choices = draw(0, index)
        told = grammar(lang).tell(choices)
        assert 300 <= len(told) <= 600
        assert 60 <= surprisal(choices) <= 120
        assert "  " not in told and "\n" not in told and told[-1] in ".?!"


def test_one_seed_tells_one_fable_in_all_languages() -> None:
    """The choices of a seed are the same whatever the language: a parallel corpus."""
    rows = [[next(fables)[1] for _ in range(20)] for fables in (Fables(lang, seed=7) for lang in LANGUAGES)]
    assert all(row == rows[0] for row in rows)
    assert rows[0] != [next(other)[1] for other in [Fables("en", seed=8)] for _ in range(20)]


def test_draws_follow_their_distributions() -> None:
    """Over 20,000 stories each value is as frequent as its probability says: within five standard deviations."""
    n = 20_000
    drawn = [draw(1, i) for i in range(n)]
    expected: dict[str, Counter[str]] = {choice.name: Counter() for choice in CHOICES}
    variance: dict[str, Counter[str]] = {choice.name: Counter() for choice in CHOICES}
    for choices in drawn[:2000]:
        for choice in CHOICES:
            for value, p in choice.distribution(choices).items():
                expected[choice.name][value] += p * n / 2000
                variance[choice.name][value] += p * (1 - p) * n / 2000
    for choice in CHOICES:
        counts = Counter(choices[choice.name] for choices in drawn)
        for value in choice.values:
            wanted = expected[choice.name][value]
            # The expectation is itself from a tenth of the draws.
            allowed = 5 * math.sqrt(variance[choice.name][value] * (1 + 10))
            assert abs(counts[value] - wanted) < allowed, (choice.name, value)


def test_surprisal_by_enumeration() -> None:
    """In a language small enough to write down, the told texts' probabilities, counted over all rows of choices, sum
    to one, each is exp(-surprisal) of what its text parses to, and the entropy is that of the text itself."""
    tiny = Grammar(TINY_TABLE, TINY)

    def rows(choices: tuple[Choice, ...], known: Choices) -> list[Choices]:
        if not choices:
            return [known]
        values = choices[0].distribution(known)
        return [row for value in values for row in rows(choices[1:], {**known, choices[0].name: value})]

    by_hand = {"cat": {"good": 0.5 * 0.5 * 0.9, "bad": 0.5 * 0.5 * 0.1}, "hen": {"good": 0.0625, "bad": 0.1875}}
    texts = {tiny.tell(row): row for row in rows(TINY, {})}
    assert len(texts) == 8 and "Hen liked cows. She was alone." in texts
    total = 0.0
    for text, row in texts.items():
        assert tiny.parse(text) == row
        p = math.exp(-surprisal(row, TINY))
        assert p == pytest.approx(by_hand[row["hero"]][row["mood"]])
        total += p
    assert total == pytest.approx(1)
    with pytest.raises(ValueError, match="position 10"):
        tiny.parse("Hen liked hens. She was alone.")  # a friend is another animal than the hero


def test_no_compressor_is_below_the_floor() -> None:
    """What a good compressor needs for further stories, having seen many, is above the floor: codes cannot be shorter
    than the entropy. (It is not far above a trivial bound: below a third of plain 8 bits.)"""
    texts = [text + SEPARATOR for text, _ in itertools.islice(Fables("en", seed=2), 6000)]
    seen, more = "".join(texts[:5000]).encode(), "".join(texts[5000:]).encode()
    bits = 8 * (len(lzma.compress(seen + more, preset=9)) - len(lzma.compress(seen, preset=9)))
    nats = bits * math.log(2) / len("".join(texts[5000:]))
    floor = sum(surprisal(draw(2, i)) for i in range(5000, 6000)) / len("".join(texts[5000:]))
    assert floor < nats < 8 * math.log(2) / 3


@pytest.mark.parametrize("source", ["fables", "fables:pl", "fables:en+pt"])
def test_the_corpus(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by name like any text: stories apart by a blank line, cut between two of them, none of the validation
    stories among the training ones; the floor is the mean surprisal over their characters."""
    monkeypatch.setattr(corpus, "TRAINING", 300)
    monkeypatch.setattr(corpus, "VALIDATION", 40)
    text = corpora.find(source)
    langs = corpus.languages(source)
    training, held_out = text.read(0, text.cut).split(SEPARATOR), text.read(text.cut).split(SEPARATOR)
    assert training.pop() == held_out.pop() == ""
    assert len(training) == 300 and len(held_out) == 40 and not set(training) & set(held_out)
    stories = corpus.validation(langs)
    assert [story.text for story in stories] == held_out
    for story in stories:
        body = story.text
        if len(langs) > 1:
            mark, body = body.split("\n")
            assert mark == LANGUAGES[story.lang]
        choices = grammar(story.lang).parse(body)
        assert story.nats == pytest.approx(surprisal(choices) + math.log(len(langs)))
    characters = text.characters - text.cut
    assert corpus.floor(stories) == pytest.approx(sum(story.nats for story in stories) / characters)
    assert corpora.find(source).sha256 == text.sha256


def test_unknown_languages() -> None:
    """Another language, or one twice, is an error with the names."""
    with pytest.raises(ValueError, match=r"'de'.*en, pt, pl, it, fr"):
        corpora.find("fables:de")
    with pytest.raises(ValueError, match="twice"):
        corpora.find("fables:en+en")


def test_partial_parsing_keeps_what_it_can() -> None:
    """With a sentence lost, all choices of the others are still read, rightly; of another text, nothing."""
    choices = draw(4, 9)
    sentences = grammar("en").tell(choices).split(". ")
    for gone in range(1, len(sentences)):
        text = ". ".join(sentences[:gone] + sentences[gone + 1 :])
        read = grammar("en").parse(text, partial=True)
        assert len(read) >= len(choices) // 2
        assert sum(choices[name] == value for name, value in read.items()) >= len(read) - 1
    assert grammar("en").parse("To be, or not to be.", partial=True) == {}


def test_telling_does_not_depend_on_hashing() -> None:
    """Another process, with another hash seed, tells the same stories."""
    code = "from gptlab.text.fables import Fables; print([next(Fables('it', seed=3)) for _ in range(3)])"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != b""
