"""The list of lessons, on the terminal; to print it, no torch is imported."""

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from gptlab.teach.lesson import folders, languages, load
from gptlab.teach.words import say

WIDTH = 100  # columns of text, at most


def console() -> Console:
    found = Console(highlight=False)
    return Console(highlight=False, width=min(found.width, WIDTH))


def listed(lang: str) -> None:
    """The lessons that there are in a language."""
    told = [(number, folder) for number, folder in folders().items() if lang in languages(folder)]
    if not told:
        print(say("none_yet", lang))
        return
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column(say("lesson_title", lang), justify="right")
    grid.add_column("")
    grid.add_column(say("minutes_title", lang), justify="right")
    for number, folder in told:
        lesson = load(folder, lang)
        grid.add_row(str(number), Group(Text(lesson.title, "bold"), Text(lesson.summary)), str(lesson.minutes))
    console().print(grid)
