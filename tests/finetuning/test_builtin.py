"""Tasks made of fables: every request, label and translation says what the fable does, and validation is unseen."""

import random
import re
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import FinetuneConfig
from gptlab.finetuning import builtin
from gptlab.finetuning.builtin import ASKED, MOST, conditions, judged, make, request, translation, words
from gptlab.finetuning.data import Examples
from gptlab.messages import LANGUAGES
from gptlab.text.fables import Choices, corpus, draw
from gptlab.text.fables.choices import CHOICES
from gptlab.text.fables.corpus import TRAINING, VALIDATION
from gptlab.text.fables.grammar import grammar

EVERY = pytest.mark.parametrize("lang", LANGUAGES)
VALUES = {choice.name: choice.values for choice in CHOICES if choice.name in ASKED}
INDEX = st.integers(0, 2**40)
KNOWN = {choice.name: choice for choice in CHOICES}


def config(task: str, **more: object) -> FinetuneConfig:
    return FinetuneConfig(task=task, **more)  # type: ignore[arg-type]


# Requests


@EVERY
def test_the_words(lang: str) -> None:
    """Each value that can be asked for has a phrase of its own, and none holds what parts a list."""
    told = words(lang)
    assert {name: tuple(told[name]) for name in ASKED} == VALUES
    assert {*told} == {"request", "comma", "and", *ASKED}
    phrases = [phrase for name in ASKED for phrase in told[name].values()]
    assert len({phrase.lower() for phrase in phrases}) == len(phrases)
    for phrase in phrases:
        assert phrase == phrase.strip() != "" and not re.search(r"[{},.;\n]|  ", phrase)
        assert told["and"] not in phrase and told["comma"] not in phrase
    assert told["request"].count("{list}") == 1 and told["request"].format(list="x").endswith(".")


def understood(text: str, lang: str) -> Choices:
    """The choices that a request names, by taking it apart."""
    told = words(lang)
    meaning = {phrase: (name, value) for name in ASKED for value, phrase in told[name].items()}
    before, after = told["request"].split("{list}")
    assert text.startswith(before) and text.endswith(after)
    listed = text.removeprefix(before).removesuffix(after)
    *first, last = listed.split(told["and"])
    assert len(first) < 2
    return dict(meaning[phrase] for phrase in (*(first[0].split(told["comma"]) if first else []), last))


@EVERY
@given(data=st.data())
def test_a_request_names_exactly_its_choices(lang: str, data: st.DataObject) -> None:
    """Whatever they are, and in their order: no other choices give the same request."""
    names = data.draw(st.lists(st.sampled_from(ASKED), min_size=1, unique=True))
    asked = {name: data.draw(st.sampled_from(VALUES[name])) for name in names}
    found = understood(request(asked, lang), lang)
    assert found == asked and [*found] == names


@EVERY
def test_requests_and_their_fables(lang: str) -> None:
    """One to four choices, each number about as often, and each choice; the fable has them all, and no request depends
    on the language."""
    sizes: list[int] = []
    named: list[str] = []
    for index in range(400):
        example = conditions(index, (lang,))
        assert understood(example.input, lang) == example.choices
        assert example.choices.items() <= draw(0, index).items()
        assert example.output == grammar(lang).tell(draw(0, index))
        assert judged(example.output, example.choices, lang) == (dict.fromkeys(example.choices, True), True)
        assert example.choices == conditions(index, ("en",)).choices
        sizes.append(len(example.choices))
        named += example.choices
    for n in range(1, MOST + 1):
        assert abs(sizes.count(n) - 100) <= 5 * (400 * 0.25 * 0.75) ** 0.5
    for name in ASKED:
        assert abs(named.count(name) - 200) <= 5 * (400 * 0.25) ** 0.5
    assert {*sizes} == {*range(1, MOST + 1)}


# Moods and translations


@pytest.fixture(scope="module")
def moods() -> Examples:
    return make(config("mood"), ("en",))


def test_moods_are_the_choices(moods: Examples) -> None:
    """The label is what the fable says, read back from its text; both are learned, and both asked."""
    assert moods.labels == ("bad", "good")
    assert {e.output for e in moods.train} == {e.output for e in moods.val} == {*moods.labels}
    for example in (*moods.train[:300], *moods.val):
        found = grammar("en").parse(example.input)
        assert found == example.choices and found["mood"] == example.output


def test_validation_is_unseen(moods: Examples) -> None:
    """Training stories are the corpus's, in its order, and validation stories are the corpus's; none of these is told
    among those, nor in another language, as a text in two languages might have it."""
    assert len(moods.train) == TRAINING and len(moods.val) == VALIDATION
    assert [e.input for e in moods.train[:200]] == [s.text for s in islice(corpus.stories(("en",)), 200)]
    assert [e.input for e in moods.val] == [s.text for s in corpus.validation(("en",))]
    assert {e.input for e in moods.val}.isdisjoint(e.input for e in moods.train)
    seen = {tuple(e.choices.values()) for e in moods.train}
    assert {tuple(s.choices.values()) for s in islice(corpus.stories(("en", "pt")), 200)} <= seen
    both = make(config("translation", examples=1), ("en", "pt"))
    assert [e.choices for e in both.val] == [e.choices for e in moods.val]
    assert seen.isdisjoint(tuple(e.choices.values()) for e in both.val)


def test_a_validation_story_that_trains_is_passed_over() -> None:
    """Were validation numbered from the third last training story on, it would begin behind the last one."""
    assert builtin.held_out(10, 7, 5) == (10, 11, 12, 13, 14)


@settings(max_examples=40)
@given(index=INDEX, langs=st.permutations([*LANGUAGES]))
def test_translations_tell_the_same(index: int, langs: list[str]) -> None:
    """Both texts are read back as the same choices, the first in the first language, the second in the second."""
    example = translation(index, (langs[0], langs[1]))
    source, target = grammar(langs[0]).parse(example.input), grammar(langs[1]).parse(example.output)
    assert source == target == example.choices == draw(0, index)
    assert example.input != example.output


@pytest.mark.parametrize("task", ["mood", "translation", "conditions"])
def test_fewer_examples(task: str) -> None:
    """So many first ones, the same each time, beside all of validation; which languages are meant is told, or those of
    the pretraining text in their order."""
    few, more = make(config(task, examples=3), ("it", "fr")), make(config(task, examples=5), ("it", "fr", "en"))
    assert len(few.train) == 3 and few.train == more.train[:3] and few.val == more.val
    told = ("it", "fr") if task == "translation" else ("it",)
    assert make(config(task, examples=3, languages=told), ("en", "pl")).train == few.train
    assert make(config(task, examples=3, languages=told), ()).train == few.train
    other = make(config(task, examples=3), ("fr", "it"))
    assert [e.choices for e in other.train] == [e.choices for e in few.train] and other.train != few.train


# What is right


def changed(choices: Choices, name: str, rng: random.Random) -> Choices:
    """The same but for one choice, and still possible."""
    others = {o for choice in CHOICES if name in choice.other_than for o in (choice.name,)} | {*KNOWN[name].other_than}
    taken = {choices[name], *(choices[other] for other in others)}
    return {**choices, name: rng.choice([value for value in KNOWN[name].values if value not in taken])}


@EVERY
@settings(max_examples=40)
@given(index=INDEX, rng=st.randoms(use_true_random=False))
def test_choices_are_judged_one_by_one(lang: str, index: int, rng: random.Random) -> None:
    """All of a perfect text are right; that one is wrong which is told otherwise; what is wanted alone is judged."""
    choices = draw(3, index)
    text = grammar(lang).tell(choices)
    assert judged(text, choices, lang) == (dict.fromkeys(choices, True), True)
    name = rng.choice([*choices])
    other = changed(choices, name, rng)
    assert judged(grammar(lang).tell(other), choices, lang) == ({n: n != name for n in choices}, True)
    wanted = {n: choices[n] for n in rng.sample([*choices], 5)}
    assert judged(grammar(lang).tell(other), wanted, lang) == ({n: n != name for n in wanted}, True)
    assert judged(text, {}, lang) == ({}, True)


@EVERY
@settings(max_examples=10)
@given(index=INDEX)
def test_what_is_no_whole_fable(lang: str, index: int) -> None:
    """Its parts count wherever they can be read, but it is not without a fault."""
    choices = draw(3, index)
    text = grammar(lang).tell(choices)
    assert judged(f"{text} {text[:9]}", choices, lang) == (dict.fromkeys(choices, True), False)
    assert judged(f"xyz {text}", choices, lang) == (dict.fromkeys(choices, True), False)
    ends = (0, len(text) // 3, 2 * len(text) // 3, len(text) - 1)
    of_parts = [judged(text[:end], choices, lang) for end in ends]
    assert not any(whole for _, whole in of_parts)
    found = [sum(marks.values()) for marks, _ in of_parts]
    assert found == sorted(found) and found[0] == 0 and 0 < found[-1] < len(choices)


@EVERY
@settings(max_examples=40)
@given(text=st.text(max_size=200) | st.text("abc .\n", max_size=200))
def test_what_is_no_fable_at_all(lang: str, text: str) -> None:
    assert judged(text, draw(0, 0), lang) == (dict.fromkeys(draw(0, 0), False), False)


@EVERY
def test_another_language_is_wrong(lang: str) -> None:
    for index in range(2):
        for other in LANGUAGES.keys() - {lang}:
            marks, whole = judged(grammar(other).tell(draw(0, index)), draw(0, index), lang)
            assert not any(marks.values()) and not whole


# Languages


@pytest.mark.parametrize(
    ("task", "told", "known", "said"),
    [
        ("mood", (), (), r"trained on no fables.* --languages en$"),
        ("conditions", (), (), r"trained on no fables.* --languages en$"),
        ("translation", (), (), r"trained on no fables.* --languages en pt$"),
        ("translation", (), ("en",), r"two languages.*gptlab train fables:en\+pt.*--languages en pt$"),
        ("translation", (), ("pt",), r"two languages.*gptlab train fables:pt\+en.*--languages pt en$"),
        ("translation", ("pl", "pl"), ("en", "pl"), "two languages, not pl pl"),
        ("mood", ("de",), ("en",), "unknown language of fables 'de'.*Known: en, pt, pl, it, fr"),
        ("translation", ("en", "po"), ("en", "pt"), "unknown language of fables 'po'.*Known: en, pt, pl, it, fr"),
    ],
)
def test_languages_that_do_not_fit(task: str, told: tuple[str, ...], known: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(config(task, languages=told), known)
