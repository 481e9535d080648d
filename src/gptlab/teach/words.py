"""What the course says around its lessons, in five languages: a catalogue of its own, in messages/."""

from pathlib import Path

from gptlab.messages import catalogue, filled

HERE = Path(__file__).parent / "messages"


def say(entry: str, lang: str, /, **values: object) -> str:
    """An entry in a language, with values filled in."""
    return filled(catalogue(lang, HERE)[entry], lang, **values)
