import string

import pytest

from gptlab.messages import LANGUAGES, catalogue, language, say

ENGLISH = catalogue("en")


def fields(text: str) -> list[str]:
    return sorted(f"{name}:{spec}" for _, name, spec, _ in string.Formatter().parse(text) if name)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_catalogues_are_in_step(lang: str) -> None:
    """Each language has the same entries, with the same values to fill in, in the same order of entries."""
    other = catalogue(lang)
    assert list(other) == list(ENGLISH)
    for entry, text in other.items():
        assert fields(text) == fields(ENGLISH[entry]), entry


@pytest.mark.parametrize("lang", [code for code in LANGUAGES if code != "en"])
def test_nothing_is_left_in_english(lang: str) -> None:
    """No entry is the English one, but those that are only numbers."""
    same = {entry for entry, text in catalogue(lang).items() if text == ENGLISH[entry]}
    assert same <= {"number", "label_given"}


def test_the_guide_shows_the_same_commands_everywhere() -> None:
    """The commands of the guide are the same in all languages, but for names of files and known texts."""
    shown = {}
    for lang in LANGUAGES:
        lines = [line.split() for line in catalogue(lang)["guide"].splitlines() if line.startswith("  gptlab")]
        shown[lang] = [line[1] for line in lines]
    assert len({tuple(commands) for commands in shown.values()}) == 1


def test_the_language_is_chosen_or_the_locales(monkeypatch: pytest.MonkeyPatch) -> None:
    """--lang first, then LC_ALL, LC_MESSAGES and LANG, then English; an unknown choice is an error."""
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.delenv("LC_MESSAGES", raising=False)
    monkeypatch.setenv("LANG", "pt_BR.UTF-8")
    assert language() == "pt" and language("fr") == "fr"
    monkeypatch.setenv("LC_ALL", "it_IT.UTF-8")
    assert language() == "it"
    monkeypatch.setenv("LC_ALL", "ja_JP.UTF-8")
    assert language() == "en"
    with pytest.raises(ValueError, match="'de'"):
        language("de")
    assert "3" in say("resuming", "pl", step=3, steps=9)


def test_numbers_are_written_as_the_language_does() -> None:
    """Thousands and decimals have the language's marks; a plain number, such as a step or a path, is left alone."""
    values = dict(step=1000, steps=2000, train=2.5, val=2.25, speed=12345.6)
    assert "2.500" in say("evaluation", "en", **values) and "12,346" in say("evaluation", "en", **values)
    assert "2,500" in say("evaluation", "pt", **values) and "12.346" in say("evaluation", "pt", **values)
    assert "12\N{NO-BREAK SPACE}346" in say("evaluation", "pl", **values)
    assert all("1000/2000" in say("evaluation", lang, **values) for lang in LANGUAGES)
