"""Are the lessons in step? What must be alike in all languages, what must be translated, and what must be computed.

Each function returns what is wrong, a line each: nothing is the good answer. The tests ask them of every lesson.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from gptlab.messages import LANGUAGES, MARKS
from gptlab.teach import prose
from gptlab.teach.exercises import OTHER, RIGHT, Asked, verdict
from gptlab.teach.lesson import LESSONS, Glossary, Lesson, find, glossary, languages, load
from gptlab.teach.prose import Formula, Link, Number, Term, Text

HEADINGS, EXERCISES, MISTAKES = (5, 14), 3, 2  # how many a lesson has: from, to; at least; at least, each

# Words that hold sentences together, by which a language is known. Some belong to several, and count less.
FUNCTION_WORDS = {
    "en": """the of and is to in that it with for are this which not by from as be was on at or an each has have its
        they you your what when one than more but so if there into only all can would will does how no other""",
    "pt": """o a os as de do da dos das que e é um uma não com para no na nos nas em por se mais como mas ou ao à são
        cada seu sua ele ela isso este esta você pelo pela quando entre até também só foi tem já há muito sem
        qual quais deles dela nele esta estes estas mesmo mesma mesmos seus suas pois onde""",
    "pl": """i w z na nie się jest to że do o jak co który która które od po przez dla tak są ten ta tego tej być jego
        jej ich lub ale więc tylko każdy każda każdej każdego każde ma go za przed gdy ze jeśli czy też oraz tym
        tych może można jako jednak niż już
        jaka jaki jakie nim niej nic nad pod którą którym wszystkie każdą ono oni one swoją swój bo czym gdzie sam""",
    "it": """il lo la i gli le di del della dei delle che e è un una non con per in nel nella si più come ma o al alla
        sono ogni suo sua questo questa da dal dalla quando tra fra anche solo ha cui ne ci se dove quindi
        questi queste quali qual loro nello negli ognuno ogni stesso stessa stessi sé ed perché sta hanno
        dal sul sulla""",
    "fr": """le la les de du des que et est un une ne pas avec pour dans en sur se plus comme mais ou au aux sont chaque
        son sa ce cette ces il elle par qui quand entre aussi seulement vous votre on d l n s c qu si leur où
        quel quelle quels quelles y même mêmes celui celle dont ses ces leurs deux""",
}
WORDS = {lang: frozenset(words.split()) for lang, words in FUNCTION_WORDS.items()}
SHARED = {w: sum(w in some for some in WORDS.values()) for some in WORDS.values() for w in some}
LETTERS = {"pt": "ãõ", "pl": "ąćęłńśźż", "it": "ìò", "fr": "êîœûëï"}  # that no other of the five has
SHORT = 9  # words: of less, nothing is said
SAME = 5  # words: equal texts of more are not translated
ENOUGH, LEAD = 3.0, 2.0  # function words of another language: so many, and so many times those of its own
DECIMAL = re.compile(r"(?<![\w.,])\d+[.,]\d+(?![\w]|[.,]\d)")


def told(folder: Path) -> tuple[dict[str, Lesson], list[str]]:
    """A lesson in every language, and what stands against it: languages that lack, formats that are broken."""
    found, wrong = {}, []
    for lang in LANGUAGES:
        try:
            found[lang] = load(folder, lang)
        except ValueError as error:
            wrong.append(str(error))
    return found, wrong


def shape(lesson: Lesson) -> list[tuple[str, ...]]:
    """What must be alike: units by kind and name, their pieces, and those of exercises."""
    rows: list[tuple[str, ...]] = []
    for unit in lesson.units:
        if unit.kind == "code":
            rows.append((unit.id, unit.kind, unit.name, str(unit.text[0])))
        elif unit.kind == "exercise":
            exercise = lesson.exercises[unit.name]
            parts = {"question": exercise.question, **exercise.hints, "key": exercise.key}
            for part in ("question", *sorted(exercise.hints), "key"):
                rows.append((unit.id, unit.kind, part, *signature(parts[part])))
        else:
            rows.append((unit.id, unit.kind, unit.name, *signature(unit.text)))
    return rows


def signature(text: Text) -> list[str]:
    """The pieces that every translation has: terms, computed numbers and links, in whatever order its grammar wants."""
    found = []
    for piece in prose.walk(text):
        if isinstance(piece, Term):
            found.append(f"[[{piece.id}]]")
        elif isinstance(piece, Number):
            found.append(f"{{{{{piece.expression}:{piece.spec}}}}}")
        elif isinstance(piece, Link):
            found.append(f"({piece.target})")
    return sorted(found)


def out_of_step(folder: Path) -> list[str]:
    """Where the languages of a lesson differ in what is to be alike; a language that lacks is one such thing."""
    lessons, wrong = told(folder)
    if not lessons:
        return wrong
    first = next(iter(lessons.values()))
    for lesson in lessons.values():
        where = lesson.path
        if set(lesson.words) != set(first.words):
            wrong.append(f"{where}: [words] differ from {first.lang}: {sorted(set(lesson.words) ^ set(first.words))}")
        if lesson.minutes != first.minutes:
            wrong.append(f"{where}: minutes is {lesson.minutes}, in {first.lang} {first.minutes}")
        if list(lesson.exercises) != list(first.exercises):
            wrong.append(f"{where}: the exercises stand in another order than in {first.lang}")
        if set(lesson.terms) != set(first.terms):
            wrong.append(f"{where}: terms differ from {first.lang}: {sorted(set(lesson.terms) ^ set(first.terms))}")
        ours, theirs = shape(lesson), shape(first)
        lines = {unit.id: unit.line for unit in lesson.units}
        for mine, other in zip(ours, theirs, strict=False):
            if mine != other:
                line = lines.get(mine[0], 1)
                wrong.append(f"{where}:{line}: {' '.join(mine)} | in {first.lang}: {' '.join(other)}")
                if mine[:2] != other[:2]:  # from here on nothing fits
                    break
        if len(ours) != len(theirs):
            wrong.append(f"{where}: {len(ours)} units, in {first.lang} {len(theirs)}")
    return wrong


def missing_terms(known: Glossary | None = None) -> list[str]:
    """Terms that a language lacks, and definitions that are not translated."""
    wrong = []
    for name, entries in (glossary() if known is None else known).items():
        wrong += [f"glossary: {name} has no {lang}" for lang in LANGUAGES if lang not in entries]
        texts = {lang: definition for lang, (_, definition) in entries.items()}
        wrong += [f"glossary: {name}: {what}" for what in untranslated_among(texts)]
    return wrong


# Language


def words_of(text: str) -> list[str]:
    """Words in lower case, parted at apostrophes, too, since "l'attention" begins with a French word."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def known_by(text: str) -> dict[str, float]:
    """How many words speak for each language: those of its list, one of k lists counting 1/k, and its own letters."""
    found = words_of(text)
    return {
        lang: sum(1 / SHARED[word] for word in found if word in some)
        + sum(1 for word in found if word not in some and any(letter in LETTERS.get(lang, "") for letter in word))
        for lang, some in WORDS.items()
    }


def foreign(text: str, lang: str) -> str | None:
    """The language that a text is in, where it is another one than it should be; None also where it is too short."""
    if len(words_of(text)) < SHORT:
        return None
    known = known_by(text)
    found = max(known, key=lambda other: known[other])
    return found if found != lang and known[found] >= ENOUGH and known[found] > LEAD * known[lang] else None


def untranslated_among(texts: dict[str, str]) -> Iterator[str]:
    """Of one text in several languages: pairs that are the same, and those in a language that they should not be in."""
    for one, other in combinations(texts, 2):
        plain = [" ".join(words_of(texts[lang])) for lang in (one, other)]
        if plain[0] == plain[1] and len(plain[0].split()) > SAME:
            yield f"{one} and {other} are the same: {texts[one][:60]!r}"
    for lang, text in texts.items():
        if (found := foreign(text, lang)) is not None:
            yield f"{lang} reads like {found}: {text[:60]!r}"


def named_texts(lesson: Lesson) -> dict[str, str]:
    """All that a translator writes, by a name that is the same in every language; without code, formulas, numbers."""
    found = {"title": lesson.title, "summary": lesson.summary}
    found |= {f"word {key}": value for key, value in lesson.words.items()}
    for unit in lesson.units:
        if unit.kind == "exercise":
            exercise = lesson.exercises[unit.name]
            found[f"{unit.id} question"] = prose.words(exercise.question)
            found |= {f"{unit.id} hint {name}": prose.words(hint) for name, hint in exercise.hints.items()}
            found[f"{unit.id} key"] = prose.words(exercise.key)
        elif unit.kind not in ("cell", "output", "code", "formula"):
            found[unit.id] = prose.words(unit.text)
    return found


def untranslated(folder: Path) -> list[str]:
    """Paragraphs of a lesson, and words of its figures, that are not in the language they should be in."""
    lessons, _ = told(folder)
    texts = {lang: named_texts(lesson) for lang, lesson in lessons.items()}
    names = dict.fromkeys(name for some in texts.values() for name in some)
    return [
        f"{folder.name}: {name}: {what}"
        for name in names
        for what in untranslated_among({lang: some[name] for lang, some in texts.items() if name in some})
    ]


# Numbers


def typed_numbers(lesson: Lesson) -> list[str]:
    """Decimal numbers that are typed in prose although they may be a result, and go out of date.

    What the code has as a literal, and what an exercise gives, is put in, and no result; so is what `typed` names.
    """
    given = {float(number.replace(",", ".")) for number in lesson.typed}
    for cell in (*lesson.cells.values(), *lesson.questions.values()):
        constants = (node.value for node in ast.walk(ast.parse(cell.code)) if isinstance(node, ast.Constant))
        given |= {float(value) for value in constants if isinstance(value, int | float)}
    wrong = []
    for unit in lesson.units:
        allowed, texts = given, [unit.text]
        if unit.kind == "code":
            continue
        if unit.kind == "exercise":
            exercise = lesson.exercises[unit.name]
            allowed = given | {abs(value) for _, value in decimals(exercise.question, lesson.lang)}
            texts = [*exercise.hints.values(), exercise.key]
        found = [written for text in texts for written, value in decimals(text, lesson.lang) if value not in allowed]
        if found:
            wrong.append(
                f"{lesson.path}:{unit.line}: typed: {', '.join(dict.fromkeys(found))}. Compute what is a result, "
                "{{ expression:.4f }}; name what is given in `typed` of the front matter"
            )
    return wrong


def decimals(text: Text, lang: str) -> list[tuple[str, float]]:
    """(as written, value without its sign) of the decimal numbers of a text; whole ones with marks are none."""
    thousands = re.compile(rf"[1-9]\d{{0,2}}(?:{re.escape(MARKS[lang][0])}\d{{3}})+")
    found = [match[0] for match in DECIMAL.finditer(plain_words(text))]
    return [(number, float(number.replace(",", "."))) for number in found if not thousands.fullmatch(number)]


def plain_words(text: Text) -> str:
    """The text without code, formulas, computed numbers and addresses."""
    return prose.joined(text, lambda piece: plain_words(piece.words) if isinstance(piece, Term | Link) else " x ")


# What a lesson has enough of, and what its exercises must do


def too_few(lesson: Lesson) -> list[str]:
    """Headings, exercises and mistakes, where there are not as many as a lesson has; words that nothing asks for."""
    headings = sum(unit.kind == "heading" for unit in lesson.units)
    wrong = []
    if not HEADINGS[0] <= headings <= HEADINGS[1]:
        wrong.append(f"{lesson.path}: {headings} headings; there are to be {HEADINGS[0]} to {HEADINGS[1]}")
    if len(lesson.exercises) < EXERCISES:
        wrong.append(f"{lesson.path}: {len(lesson.exercises)} exercises; there are to be {EXERCISES} at least")
    for name, question in lesson.questions.items():
        if len(question.mistakes) < MISTAKES:
            wrong.append(f"{lesson.path}: exercise {name}: {len(question.mistakes)} mistakes; {MISTAKES} at least")
    return wrong


def not_set(lesson: Lesson) -> list[str]:
    """Formulas that mathtext cannot set."""
    from gptlab.teach import formula

    wrong = []
    for line, text in lesson.texts():
        for piece in prose.walk(text):
            if isinstance(piece, Formula):
                parts = tuple(prose.Value("1.5") if isinstance(part, Number) else part for part in piece.parts)
                try:
                    formula.svg(prose.tex(Formula(parts)), display=piece.display)
                except ValueError as error:
                    wrong.append(f"{lesson.path}:{line}: {error}")
    return wrong


def confused(lesson: Lesson, asked: dict[str, Asked]) -> list[str]:
    """Exercises that do not take the right answer for right, or a mistake for itself; values alone can be tried."""
    wrong = []
    for name, each in asked.items():
        if not callable(each.right) and (found := verdict(each, [each.right])) != RIGHT:
            wrong.append(f"{lesson.path}: exercise {name}: the right answer {each.right!r} is taken for {found!r}")
        for mistake, value in each.mistakes.items():
            if not callable(value) and (found := verdict(each, [value])) != mistake:
                wrong.append(f"{lesson.path}: exercise {name}: {mistake} ({value!r}) is taken for {found!r}")
        if verdict(each, ["an answer that nobody gives"]) != OTHER:
            wrong.append(f"{lesson.path}: exercise {name}: any answer at all is taken for a mistake, or for right")
        hints = [prose.joined(text, repr) for text in lesson.exercises[name].hints.values()]
        if len(set(hints)) < len(hints):
            wrong.append(f"{lesson.path}: exercise {name}: two mistakes get the same hint")
    return wrong


def everything(number: int, langs: Sequence[str] = tuple(LANGUAGES), root: Path = LESSONS) -> list[str]:
    """All that can be said without running a lesson; for whoever writes or translates one."""
    folder = find(number, root)
    wrong = out_of_step(folder) if set(langs) == set(LANGUAGES) else []
    wrong += untranslated(folder)
    for lang in langs:
        if lang in languages(folder):
            lesson = load(folder, lang)
            wrong += [*too_few(lesson), *typed_numbers(lesson), *not_set(lesson)]
    return wrong
