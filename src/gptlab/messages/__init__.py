"""What the program says to people, in five languages: one catalogue each, the same entries in all.

Names, options, help and errors stay English, so that an answer found anywhere fits everyone.
"""

import locale
import os
import string
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from gptlab.registry import unknown

LANGUAGES = {"en": "English", "pt": "Português", "pl": "Polski", "it": "Italiano", "fr": "Français"}


def language(chosen: str | None = None) -> str:
    """The language to speak: the one chosen, else the locale's, else English. ValueError for one we lack."""
    if chosen is not None:
        if chosen not in LANGUAGES:
            raise unknown("language", chosen, LANGUAGES)
        return chosen
    set_by_user = next((os.environ[v] for v in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(v)), None)
    code = (set_by_user or locale.getlocale()[0] or "en")[:2].lower()  # Windows sets none of them
    return code if code in LANGUAGES else "en"


@cache
def catalogue(lang: str, folder: Path = Path(__file__).parent) -> dict[str, str]:
    """All entries of one language; of the program, or of a part that keeps its own in another folder."""
    return tomllib.loads((folder / f"{lang}.toml").read_text(encoding="utf-8"))


def say(entry: str, lang: str, /, **values: object) -> str:
    """An entry in a language, with values filled in; numbers as the language writes them."""
    return filled(catalogue(lang)[entry], lang, **values)


def filled(text: str, lang: str, /, **values: object) -> str:
    """A text with {values} filled in as the language writes them."""
    return Localized(lang).format(text, **values)


def duration(seconds: float, lang: str) -> str:
    """3725 -> 1 h 2 min; 65 -> 1 min 5 s; 4.2 -> 4.2 s or 4,2 s: symbols that all five languages share."""
    if seconds < 10:
        return filled("{seconds:.1f} s", lang, seconds=seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# Thousands separator (a no-break space in Polish and French) and decimal mark.
MARKS = {"en": (",", "."), "pt": (".", ","), "pl": ("\N{NO-BREAK SPACE}", ","), "it": (".", ",")}
MARKS["fr"] = ("\N{NARROW NO-BREAK SPACE}", ",")


class Localized(string.Formatter):
    """str.format, but {x:,.2f} of a number comes out as 1,234.56 or 1.234,56 or 1 234,56."""

    def __init__(self, lang: str) -> None:
        self.marks = MARKS[lang]

    def format_field(self, value: Any, format_spec: str) -> str:
        text = format(value, format_spec)
        if isinstance(value, int | float) and format_spec:
            return text.translate({ord(","): self.marks[0], ord("."): self.marks[1]})
        return text
