"""Examples of a task, from a table: what is given, and what should be answered."""

import csv
import hashlib
import io
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.config import FinetuneConfig
from gptlab.registry import unknown
from gptlab.text.batches import generator
from gptlab.text.fables.choices import Choices
from gptlab.text.reading import scan
from gptlab.text.tokenizer import characters_only

VALIDATION = 0.1  # of the examples
FIELD = 2**31 - 1  # characters in a field of a table; Python's own limit of 131,072 is less than a long document
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
# What columns are usually called, the likelier first: (input, output) of each kind of task.
USUAL = {
    "classify": (
        ("text", "input", "sentence", "content", "review", "document", "tweet", "title"),
        ("label", "output", "class", "category", "sentiment", "topic", "target", "stars"),
    ),
    "translate": (
        ("source", "input", "text", "from", "original", "en", "english"),
        ("target", "output", "translation", "to", "pt", "pl", "it", "fr", "de", "es"),
    ),
    "instruct": (
        ("instruction", "input", "prompt", "question", "request", "text"),
        ("output", "response", "answer", "completion", "target"),
    ),
}
CONTEXT = "input"  # beside an instruction, as in Alpaca's files: what it is about


@dataclass(frozen=True)
class Example:
    """What is given and what should be answered; where it came from, and, of a fable, what it decides."""

    input: str
    output: str
    where: str = ""  # "reviews.csv, line 7"
    choices: Choices = field(default_factory=dict, compare=False)  # that the answer should tell


@dataclass(frozen=True)
class Examples:
    """The two parts of a task's examples, which have no input in common."""

    train: list[Example]
    val: list[Example]
    labels: tuple[str, ...] = ()  # of a classification, in their order

    def __post_init__(self) -> None:
        for part, examples in (("train", self.train), ("validate", self.val)):
            if not examples:
                raise ValueError(f"there is no example to {part} on")


def read(config: FinetuneConfig) -> Examples:
    """The examples of a table, and of another one for validation if there is one; else a tenth of them is kept for it.

    Raises ValueError, with file and line, for what is no table, a column that is not there, an empty field, a label
    that only the validation part has, or fewer than two labels.
    """
    assert config.data is not None
    labelled = config.kind == "classify"
    found = list(examples(Path(config.data), config))
    if config.validation is not None:
        train, asked = found, list(examples(Path(config.validation), config))
        known = {example.input for example in train}
        val = [example for example in asked if example.input not in known]
        if not val:
            raise ValueError(f"{config.validation} holds no example whose input is not in {config.data}, too")
        if repeated := len(asked) - len(val):
            warnings.warn(
                f"{config.validation}: {repeated} of {len(asked)} examples are left out, for {config.data} has their "
                "inputs, too",
                stacklevel=2,
            )
    else:
        train, val = parted(found, config.seed, labelled=labelled)
    if config.examples is not None:
        train = some(train, config.examples, config.seed, labelled=labelled)
    labels: tuple[str, ...] = ()
    if labelled:
        labels = tuple(sorted({example.output for example in train}, key=in_order))
        if len(labels) < 2:
            raise ValueError(f"{config.data} has one label alone, {labels[0]!r}: there is nothing to tell apart")
        for example in val:
            if example.output not in labels:
                raise ValueError(
                    f"{example.where}: the label {example.output!r} is never seen in training, where there are: "
                    f"{', '.join(labels[:20])}. Give it examples to learn from, or leave it out"
                )
    return Examples(train, val, labels)


def in_order(label: str) -> tuple[float, str]:
    """Numbers by size, and names behind them by the alphabet."""
    try:
        number = float(label)
    except ValueError:
        number = math.inf
    return (number if math.isfinite(number) else math.inf), label  # "nan" and "inf" are names


def parted(found: Sequence[Example], seed: int, *, labelled: bool = False) -> tuple[list[Example], list[Example]]:
    """(training, validation): a tenth of the distinct inputs validate, those with the smallest hashes.

    So the same input never stands in both parts, and a file that grows keeps most of its validation part. labelled: an
    input that alone has a label trains. ValueError where nothing is left to validate on.
    """
    where = found[0].where if found else "the file"
    outputs: dict[str, Counter[str]] = defaultdict(Counter)
    for example in found:
        outputs[example.input][example.output] += 1
    if len(outputs) < 2:
        raise ValueError(f"{where}: at least two examples with different inputs are needed, one of them to validate on")
    ranks = {text: hashlib.sha256(f"{seed} {text}".encode()).digest() for text in outputs}
    number = max(1, round(len(outputs) * VALIDATION))
    left = Counter(example.output for example in found)
    held_out: set[str] = set()
    for text in sorted(outputs, key=ranks.__getitem__):
        if len(held_out) == number:
            break
        if not (labelled and any(left[output] == n for output, n in outputs[text].items())):
            held_out.add(text)
            left.subtract(outputs[text])
    if not held_out:
        raise ValueError(
            f"{where}: no label has two different inputs, one to learn from and one to validate on. Add examples, or "
            "give others to validate on, by --validation"
        )
    train = [example for example in found if example.input not in held_out]
    return train, [example for example in found if example.input in held_out]


def some(train: Sequence[Example], number: int, seed: int, *, labelled: bool = False) -> list[Example]:
    """So many examples drawn at random, in their order; more of them hold all that fewer did.

    labelled: one of each label at least. ValueError for fewer examples than labels.
    """
    order = [int(i) for i in generator(seed, "some examples").permutation(len(train))]
    if labelled:
        firsts = {train[i].output: i for i in reversed(order)}
        if number < len(firsts):
            raise ValueError(f"--examples {number} is too few for {len(firsts)} labels: choose {len(firsts)} at least")
        order.sort(key=lambda i: firsts[train[i].output] != i)  # the sort is stable
    return [train[i] for i in sorted(order[:number])]


def examples(path: Path, config: FinetuneConfig) -> Iterator[Example]:
    """The examples of a .csv, .tsv, .jsonl or .json file."""
    rows = list(table(path))
    if not rows:
        raise ValueError(f"{path} has no examples")
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    given, answer = columns(path, names, config)
    for where, row in rows:
        fields = []
        for name in (given, answer):
            if name not in row:
                raise ValueError(f"{where}: there is no column {name!r}; it has: {', '.join(row) or 'none'}")
            fields.append(plain(row[name], f"{where}: the column {name!r}").strip())
            if not fields[-1]:
                raise ValueError(f"{where}: the column {name!r} is empty: fill it, or leave the example out")
        if config.kind == "instruct" and CONTEXT in row and CONTEXT not in (given, answer):
            about = plain(row[CONTEXT], f"{where}: the column {CONTEXT!r}").strip()
            fields[0] += f"\n{about}" if about else ""
        yield Example(fields[0], fields[1], where)


def plain(value: Any, what: str) -> str:
    """What a JSON file holds, as text: null is an empty one. ValueError for a list or an object."""
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(f"{what} holds {kind}, where a text or a number is expected")
    return characters_only(value) if isinstance(value, str) else json.dumps(value)


def columns(path: Path, names: Sequence[str], config: FinetuneConfig) -> tuple[str, str]:
    """The columns that are given and answered: as told, else by their usual names, else the only two."""
    found: list[str | None] = []
    lower = {name.lower().strip(): name for name in reversed(names) if name not in (config.input, config.output)}
    for told, usual in zip((config.input, config.output), USUAL[config.kind], strict=True):
        if told is not None and told not in names:
            raise unknown(f"column in {path}", told, names)
        fitting = (lower[name] for name in usual if name in lower and lower[name] not in found)
        found.append(told if told is not None else next(fitting, None))
    given, answer = found
    rest = [name for name in names if name not in found]
    if len(names) == 2 and (given is None) != (answer is None):
        given, answer = given or rest[0], answer or rest[0]
    if given is None or answer is None or given == answer:
        raise ValueError(
            f"{path} has the columns {', '.join(map(repr, names))}; which of them is given, and which is the answer? "
            "Say it by --input and --output"
        )
    return given, answer


def table(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, row) of a table; ValueError, with the line, for what is none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f"{path} ends in {kind or 'nothing'!r}; examples are read from .csv, .tsv, .jsonl or .json")
    scanned = scan(path.name, [path])
    for note in scanned.notes:
        if note.startswith("line ends"):  # a table's lines may end as they like
            continue
        warnings.warn(f"{path.name}: {note}", stacklevel=2)
    text = scanned.read()
    if kind in (".csv", ".tsv"):
        yield from cells(text, path.name, "\t" if kind == ".tsv" else delimiter_of(text))
    elif kind == ".json":
        rows = parsed(text, path.name)
        if not isinstance(rows, list):
            held = "an object" if isinstance(rows, dict) else "a single value"
            raise ValueError(f"{path} holds {held}, where a list of objects is expected")
        for number, row in enumerate(rows, 1):
            where = f"{path.name}, entry {number}"
            yield where, an_object(row, where)
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                where = f"{path.name}, line {number}"
                yield where, an_object(parsed(line, path.name, number), where)


def parsed(text: str, name: str, line: int = 1) -> Any:
    """JSON that begins in a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{name}, line {line + error.lineno - 1}, column {error.colno}"
        raise ValueError(f"{at}: it is not valid JSON: {error.msg}") from None


def an_object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        shown = json.dumps(row, ensure_ascii=False)[:60]
        raise ValueError(f'{where}: {shown} is no object with names and values, like {{"text": …, "label": …}}')
    return row


def cells(text: str, name: str, delimiter: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(where it stands, row) of a table with a separator; the first row has the names, and empty ones are no rows."""
    csv.field_size_limit(FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    head: list[str] = []
    line = 1  # where a row begins: a field may hold line breaks
    try:
        for row in reader:
            where = f"{name}, line {line}"
            line = reader.line_num + 1
            if not head:
                head = row
                if repeated := [column for i, column in enumerate(head) if column in head[:i]]:
                    raise ValueError(f"{where}: the column {repeated[0]!r} is there twice: rename one of them")
            elif row and len(row) != len(head):
                raise ValueError(
                    f"{where}: {len(row)} fields, where the head has {len(head)}. A field that holds the separator or "
                    "a line break must stand in double quotes"
                )
            elif row:
                yield where, dict(zip(head, row, strict=True))
    except csv.Error as error:
        raise ValueError(
            f"{name}, line {line}: {error}. A field that begins with a double quote must end with one, and those "
            "within it are doubled"
        ) from None


def delimiter_of(text: str) -> str:
    """Comma, semicolon (as spreadsheets write it where the comma is the decimal mark) or tab: the commonest in the
    first line."""
    head = text.lstrip("\n").partition("\n")[0]
    return max(",;\t", key=head.count)
