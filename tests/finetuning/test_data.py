"""Tables of examples: what is read, how it is parted, and for everything that is wrong one error that says where."""

import codecs
import csv
import io
import json
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gptlab.config import FinetuneConfig
from gptlab.finetuning.data import USUAL, Example, Examples, examples, parted, read, some

REVIEWS = [("Ótimo café", "good"), ("Czemu nie", "good"), ("Troppo lungo", "bad"), ("Pas très clair", "bad")]
TABLE = "text,label\n" + "".join(f"{text},{label}\n" for text, label in REVIEWS)
NO_JSON_END = '{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y"}\n{"text": "c", "label": }\n'


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def written(folder: Path, content: str | bytes, name: str = "reviews.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def config(path: Path | str, task: str = "classify", **more: Any) -> FinetuneConfig:
    return FinetuneConfig(task=task, data=str(path), **more)


def pairs(found: list[Example]) -> list[tuple[str, str]]:
    return [(example.input, example.output) for example in found]


# What is wrong


@pytest.mark.parametrize(
    ("name", "content", "more", "said"),
    [
        ("reviews.xlsx", b"PK\x03\x04\0\0", {}, ["reviews.xlsx ends in '.xlsx'", ".csv, .tsv, .jsonl or .json"]),
        ("reviews", TABLE, {}, ["ends in 'nothing'", ".csv, .tsv, .jsonl or .json"]),
        ("reviews.csv", b"text,label\na\0b,good\n", {}, ["reviews.csv is not a text", "offset 12"]),
        ("reviews.csv", "", {}, ["reviews.csv holds no text", "empty"]),
        ("reviews.csv", " \n \n", {}, ["reviews.csv holds no text", "white space"]),
        ("reviews.csv", "text,label\n", {}, ["reviews.csv has no examples"]),
        ("reviews.csv", "text,label", {}, ["reviews.csv has no examples"]),
        ("reviews.jsonl", "[]\n", {}, ["reviews.jsonl, line 1: [] is no object", '{"text": …']),
        ("reviews.json", "[]", {}, ["reviews.json has no examples"]),
        ("reviews.csv", "text,label\na,x\nb,y,z\n", {}, ["line 3: 3 fields, where the head has 2", "double quotes"]),
        ("reviews.csv", "text,label\na,x\nb\n", {}, ["line 3: 1 fields, where the head has 2", "double quotes"]),
        ("reviews.csv", '\n\ntext,label\n"a\n\nb",x\nc,y,z\n', {}, ["reviews.csv, line 7: 3 fields"]),
        ("reviews.tsv", "text\tlabel\na, b\tx\nc\n", {}, ["reviews.tsv, line 3: 1 fields"]),
        ("reviews.csv", 'text,label\na,x\n"b,y\nc,x\nd,y\n', {}, ["reviews.csv, line 3: ", "must end with one"]),
        ("reviews.csv", 'text,label\na,x\n"b" or c,y\nd,y\n', {}, ["reviews.csv, line 3: ", "are doubled"]),
        ("reviews.csv", '"text,label\na,x\n', {}, ["reviews.csv, line 1: ", "must end with one"]),
        ("reviews.jsonl", NO_JSON_END, {}, ["reviews.jsonl, line 4, column 24: it is not valid JSON"]),
        ("reviews.json", f"[{NO_JSON_END}]", {}, ["reviews.json, line 3, column 1: it is not valid JSON"]),
        ("reviews.jsonl", '{"text": "a", "label": "x"}\n["b", "y"]\n', {}, ['line 2: ["b", "y"] is no object']),
        ("reviews.json", '[{"text": "a", "label": "x"}, 7]', {}, ["reviews.json, entry 2: 7 is no object"]),
        ("reviews.json", '{"data": []}', {}, ["reviews.json holds an object, where a list of objects is expected"]),
        ("reviews.json", "12", {}, ["reviews.json holds a single value, where a list of objects is expected"]),
        ("reviews.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', {}, ["line 2: there is no column 'label'"]),
        ("reviews.json", '[{"text": "a", "label": "x"}, {}]', {}, ["entry 2: there is no column 'text'", "none"]),
        ("reviews.csv", "text,label\na,x\n , y\n", {}, ["reviews.csv, line 3: the column 'text' is empty"]),
        ("reviews.csv", "text,label\na,x\nb,\n", {}, ["reviews.csv, line 3: the column 'label' is empty"]),
        ("reviews.jsonl", '{"text": null, "label": "x"}', {}, ["line 1: the column 'text' is empty"]),
        ("reviews.jsonl", '{"text": ["a"], "label": "x"}', {}, ["line 1: the column 'text' holds a list", "number"]),
        ("reviews.json", '[{"text": "a", "label": {}}]', {}, ["entry 1: the column 'label' holds an object"]),
        ("reviews.csv", TABLE, {"input": "texts"}, ["reviews.csv 'texts'", "Did you mean 'text'?", "text, label"]),
        ("reviews.csv", TABLE, {"output": "Label"}, ["reviews.csv 'Label'", "Did you mean 'label'?"]),
        ("reviews.csv", "a,b\nc,d\n", {}, ["has the columns 'a', 'b'", "--input and --output"]),
        ("reviews.csv", "text,a,b\nc,d,e\n", {}, ["has the columns 'text', 'a', 'b'", "--input and --output"]),
        ("reviews.csv", "text\na\nb\n", {}, ["has the columns 'text'", "--input and --output"]),
        ("reviews.csv", TABLE, {"input": "text", "output": "text"}, ["which is the answer", "--input and --output"]),
        ("reviews.csv", "text,label,text\na,x,b\n", {}, ["reviews.csv, line 1: the column 'text' is there twice"]),
        ("reviews.csv", "text,label\na,x\nb,x\nc,x\n", {}, ["reviews.csv has one label alone, 'x'"]),
        ("reviews.csv", "text,label\na,x\na,y\n", {}, ["reviews.csv, line 2: at least two", "different inputs"]),
        ("reviews.csv", "text,label\na,x\nb,y\n", {}, ["no label has two different inputs", "--validation"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once(
    folder: Path, name: str, content: str | bytes, more: dict[str, Any], said: list[str]
) -> None:
    """One line, with the file, where it is in it, and what to do; and no other error behind it."""
    with pytest.raises(ValueError) as error:
        read(config(written(folder, content, name), **more))
    assert type(error.value) is ValueError and name in str(error.value) and "\n" not in str(error.value)
    assert all(words in str(error.value) for words in said), str(error.value)
    assert error.value.__cause__ is None and (error.value.__context__ is None or error.value.__suppress_context__)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "reviews.csv", tmp_path):
        with pytest.raises(ValueError, match=f"there is no file {path}$"):
            read(config(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\nnew,good\nother,medium\n", "others.csv, line 3: the label 'medium' is never seen .* bad, good"),
        ("text,label\nnew,\n", "others.csv, line 2: the column 'label' is empty"),
        (TABLE, "others.csv holds no example whose input is not in .*reviews.csv"),
    ],
)
def test_what_is_wrong_with_the_validation_file(folder: Path, content: str, said: str) -> None:
    others = written(folder, content, "others.csv")
    with pytest.raises(ValueError, match=said):
        read(config(written(folder, TABLE), validation=str(others)))


def test_validation_of_its_own(folder: Path) -> None:
    """All of one file trains, and of the other what is not in it validates."""
    others = written(folder, f"{TABLE}Nowe,good\n", "others.csv")
    with pytest.warns(UserWarning, match=r"others.csv: 4 of 5 examples are left out, for .*reviews.csv has"):
        found = read(config(written(folder, TABLE), validation=str(others)))
    assert pairs(found.train) == REVIEWS and found.val == [Example("Nowe", "good", "others.csv, line 6")]
    assert found.labels == ("bad", "good")


# What is read


@pytest.mark.parametrize(
    ("content", "name", "notes"),
    [
        (TABLE.encode(), "reviews.CSV", []),
        (TABLE.encode().rstrip(), "reviews.csv", []),
        (f"\n\n{TABLE}\n\n".replace("\nC", "\n\n\nC").encode(), "reviews.csv", []),
        (TABLE.replace(",", ";").encode(), "reviews.csv", []),
        (TABLE.replace(",", "\t").encode(), "reviews.csv", []),
        (TABLE.replace(",", "\t").encode(), "reviews.tsv", []),
        (codecs.BOM_UTF8 + TABLE.encode(), "reviews.csv", ["byte order mark left out"]),
        (TABLE.encode("windows-1252"), "reviews.csv", ["read as Windows-1252"]),
        (TABLE.encode("utf-16"), "reviews.csv", ["read as UTF-16", "byte order mark left out"]),
        (TABLE.encode("utf-16-be"), "reviews.csv", ["read as UTF-16 (big-endian)"]),
        (TABLE.replace("\n", "\r\n").encode(), "reviews.csv", []),
        (TABLE.replace("\n", "\r").encode(), "reviews.csv", []),
        ("\n".join(json.dumps({"label": b, "text": a}) for a, b in REVIEWS).encode(), "reviews.jsonl", []),
        ("\n\n".join(json.dumps({"label": b, "text": a}) for a, b in REVIEWS).encode(), "reviews.ndjson", []),
        (json.dumps([{"text": a, "label": b} for a, b in REVIEWS], indent=1).encode(), "reviews.json", []),
        (codecs.BOM_UTF8 + json.dumps([dict(text=a, label=b) for a, b in REVIEWS]).encode(), "reviews.json", ["mark"]),
    ],
)
def test_the_same_table_in_many_ways(folder: Path, content: bytes, name: str, notes: list[str]) -> None:
    """Encodings, line ends, separators and formats give the same examples, and a guessed encoding is said."""
    path = written(folder, content, name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(examples(path, config(path)))
    assert pairs(found) == REVIEWS
    told = [str(warning.message) for warning in caught]
    assert len(told) == len(notes) and all(name in message for message in told)
    assert all(note in message for note, message in zip(notes, told, strict=True))


@pytest.mark.parametrize("name", ["reviews.csv", "reviews.tsv", "reviews.jsonl"])
def test_a_whole_book_in_a_field(folder: Path, name: str) -> None:
    """A text that is far longer than Python's csv module takes by itself is an example like another."""
    book = "once upon a time " * 20_000
    gap = "\t" if name.endswith("tsv") else ","
    rows = [json.dumps({"text": a, "label": b}) for a, b in ((book, "x"), ("short", "y"))]
    table = "\n".join(rows) if name.endswith("jsonl") else f"text{gap}label\n{book}{gap}x\nshort{gap}y\n"
    path = written(folder, table, name)
    assert pairs(list(examples(path, config(path)))) == [(book.strip(), "x"), ("short", "y")]


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0") | st.sampled_from('",;\t\n\r ')
).filter(str.strip)


def plain(text: str) -> str:
    """A text as it is read: with LF line ends, without white space around it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_what_the_csv_module_writes(
    folder: Path, rows: list[tuple[str, str]], delimiter: str, quoting: Any, suffix: str
) -> None:
    """Any text comes back, quotes, separators and line breaks included, and every example knows its first line."""
    delimiter = "\t" if suffix == ".tsv" else delimiter
    file, lines = io.StringIO(), []
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
    for row in [("text", "label"), *rows]:
        lines.append(plain(file.getvalue() + "|").count("\n") + 1)
        writer.writerow(row)
    path = written(folder, file.getvalue(), f"reviews{suffix}")
    found = list(examples(path, config(path)))
    assert pairs(found) == [(plain(a), plain(b)) for a, b in rows]
    assert [example.where for example in found] == [f"reviews{suffix}, line {line}" for line in lines[1:]]


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False)), min_size=1),
    as_lines=st.booleans(),
    ascii_only=st.booleans(),
)
def test_what_the_json_module_writes(
    folder: Path, rows: list[tuple[str, Any]], as_lines: bool, ascii_only: bool
) -> None:
    """Any text comes back as it was, but for white space around it; numbers and truth values as JSON writes them."""
    objects = [json.dumps({"text": a, "label": b}, ensure_ascii=ascii_only) for a, b in rows]
    content = "\n".join(objects) if as_lines else f"[{', '.join(objects)}]"
    path = written(folder, content, "reviews.jsonl" if as_lines else "reviews.json")
    found = list(examples(path, config(path)))
    assert pairs(found) == [(a.strip(), b.strip() if isinstance(b, str) else json.dumps(b)) for a, b in rows]
    assert [e.where.split()[-1] for e in found] == [str(number) for number in range(1, len(rows) + 1)]


def test_half_of_a_character(folder: Path) -> None:
    """A lone surrogate, which JSON can write and UTF-8 cannot, becomes U+FFFD, and does not stop anything later."""
    path = written(
        folder, "".join(f'{{"text": "a{i}\\ud83d", "label": "{i % 2}"}}\n' for i in range(4)), "reviews.jsonl"
    )
    found = read(config(path))
    assert sorted(e.input for e in (*found.train, *found.val)) == [f"a{i}�" for i in range(4)]


# Columns


@pytest.mark.parametrize("task", USUAL)
@given(data=st.data())
def test_columns_are_found_by_usual_names(folder: Path, task: str, data: st.DataObject) -> None:
    """In any case, in any order, among other columns; the likelier names first."""
    usual = USUAL[task]
    assert not {*usual[0]} & {*usual[1]}
    chosen = [sorted(data.draw(st.sets(st.sampled_from(names), min_size=1)), key=names.index) for names in usual]
    if task == "instruct":
        assume("input" not in chosen[0][1:])  # which is added to an instruction, see below
    names = [data.draw(st.sampled_from([n, n.upper(), n.title(), f" {n} "])) for some in chosen for n in some]
    expected = names[0], names[len(chosen[0])]
    columns = data.draw(st.permutations([*names, "number", "id"]))
    path = written(
        folder, "\n".join(json.dumps({c: f"{c.strip()}{i}" for c in columns}) for i in range(3)), "any.jsonl"
    )
    found = pairs(list(examples(path, config(path, task))))
    assert found == [(f"{expected[0].strip()}{i}", f"{expected[1].strip()}{i}") for i in range(3)]


@pytest.mark.parametrize(
    ("head", "more", "expected"),
    [
        ("a,b", dict(input="b", output="a"), "21"),
        ("a,b", dict(input="b"), "21"),  # the other one of two
        ("a,b", dict(output="b"), "12"),
        ("en,pt", {}, "12"),
        ("pt,en", {}, "21"),
        ("en,pt", dict(input="pt"), "21"),  # what is told is not looked for
        ("en,pt", dict(output="en"), "21"),
        ("source,text", dict(output="text"), "12"),
        ("text,other", dict(output="text"), "21"),
        ("source,pl,pt", {}, "13"),  # pt is looked for before pl
        ("source,pl,pt", dict(output="pl"), "12"),
        ("x,text,y,target", dict(input="x"), "14"),
        ("Text,text,target", {}, "13"),  # the first of two that are alike
        (",text,target", {}, "23"),  # a number without a name, as pandas writes
    ],
)  # fmt: skip
def test_columns_that_are_told(folder: Path, head: str, more: dict[str, str], expected: str) -> None:
    path = written(folder, f"{head}\n{','.join('1234'[: head.count(',') + 1])}\n")
    (example,) = examples(path, config(path, "translate", **more))
    assert example.input + example.output == expected


def test_an_instruction_with_its_input(folder: Path) -> None:
    """Alpaca's three columns: what an instruction is about follows it, where there is something."""
    table = [
        {"instruction": "Name a fruit.", "input": "", "output": "A pear."},
        {"instruction": "Add them.", "input": " 3 and 4\n", "output": 7},
        {"instruction": "Add one.", "input": 3, "output": 4},
        {"instruction": "Sleep.", "input": " ", "output": "Zzz."},
        {"instruction": "Wait.", "input": None, "output": "…"},
        {"instruction": "Go.", "output": "Gone."},
    ]
    path = written(folder, json.dumps(table), "alpaca.json")
    found = [e.input for e in examples(path, config(path, "instruct"))]
    assert found == ["Name a fruit.", "Add them.\n3 and 4", "Add one.\n3", "Sleep.", "Wait.", "Go."]
    told = config(path, "instruct", input="input", output="output")
    assert (
        next(e.input for e in list(examples(written(folder, json.dumps(table[1:3]), "alpaca.json"), told))) == "3 and 4"
    )


# The two parts

ROWS = st.lists(st.tuples(st.text("abcd", min_size=1, max_size=4), st.sampled_from("xyz")), min_size=2, max_size=60)


def made(rows: list[tuple[str, str]]) -> list[Example]:
    return [Example(a, b, f"line {i}") for i, (a, b) in enumerate(rows)]


@given(rows=ROWS, seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_the_split(rows: list[tuple[str, str]], seed: int, order: random.Random) -> None:
    """All examples in their order, no input in both parts, a tenth of the inputs to validate, and whatever the order of
    the lines, the same ones."""
    inputs = {a for a, _ in rows}
    assume(len(inputs) > 1)
    train, val = parted(made(rows), seed)
    assert sorted([*train, *val], key=lambda e: int(e.where.split()[1])) == made(rows)
    assert [e.where for e in train] == [e.where for e in made(rows) if e in train]
    held_out = {e.input for e in val}
    assert held_out.isdisjoint(e.input for e in train)
    assert len(held_out) == max(1, round(len(inputs) / 10))
    order.shuffle(rows)
    assert {e.input for e in parted(made(rows), seed)[1]} == held_out
    # Outputs have no part in it.
    assert {e.input for e in parted(made([(a, "x") for a, _ in rows]), seed)[1]} == held_out


def test_the_split_is_drawn() -> None:
    """Over 200 seeds every input validates about as often as any other: within five standard deviations of a tenth."""
    rows = made([(str(i), "x") for i in range(30)])
    counts = Counter(e.input for seed in range(200) for e in parted(rows, seed)[1])
    assert sum(counts.values()) == 600 and all(abs(counts[str(i)] - 20) <= 5 * (200 * 0.09) ** 0.5 for i in range(30))


@given(
    old=st.sets(st.integers(0, 10**6), min_size=20, max_size=200), new=st.sets(st.integers(0, 10**6), max_size=50),
)  # fmt: skip
def test_a_file_that_grows(old: set[int], new: set[int]) -> None:
    """Of the old inputs that validate, as many remain, or more, or fewer, but never others instead; and no more change
    sides than came."""
    new = new - old
    before = {e.input for e in parted(made([(str(i), "x") for i in old]), 0)[1]}
    both = {e.input for e in parted(made([(str(i), "x") for i in old | new]), 0)[1]}
    after = both & {str(i) for i in old}
    assert before <= after or after <= before
    assert len(before ^ after) <= len(new)


@given(rows=ROWS, seed=st.integers(0, 99))
def test_every_label_is_learned(rows: list[tuple[str, str]], seed: int) -> None:
    """Of a classification, no label is in the validation part alone; there is an error only where nothing could be
    held out, by any choice."""
    inputs, labels = {a for a, _ in rows}, {b for _, b in rows}
    assume(len(inputs) > 1)
    possible = [text for text in inputs if {b for a, b in rows if a != text} == labels]
    if not possible:
        with pytest.raises(ValueError, match="line 0: no label has two different inputs"):
            parted(made(rows), seed, labelled=True)
        return
    train, val = parted(made(rows), seed, labelled=True)
    assert {e.output for e in train} == labels
    assert {e.input for e in val}.isdisjoint(e.input for e in train)
    assert 1 <= len({e.input for e in val}) <= max(1, round(len(inputs) / 10))
    plainly = parted(made(rows), seed)
    if {e.output for e in plainly[0]} == labels:  # then nothing had to be done for it
        assert (train, val) == plainly


def test_the_last_of_a_label_trains() -> None:
    """Where each label has two inputs, one of them at least trains, though both may be among those of least hash."""
    rows = made([(str(i), str(i // 2)) for i in range(40)])
    differing = 0
    for seed in range(30):
        train, val = parted(rows, seed, labelled=True)
        assert len({e.output for e in train}) == 20 and len(val) == 4
        differing += val != parted(rows, seed)[1]
    assert differing  # there were such seeds


@pytest.mark.parametrize("n", [3, 4, 5, 9, 10, 50])
def test_a_rare_label_of_a_file(folder: Path, n: int) -> None:
    """A file in which one label occurs once has two labels, whatever the seed, and trains on both."""
    path = written(folder, "text,label\nrare,y\n" + "".join(f"{i},x\n" for i in range(n - 1)))
    for seed in range(12):
        found = read(config(path, seed=seed))
        assert found.labels == ("x", "y") and "rare" in {e.input for e in found.train} and found.val


@given(labels=st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), seed=st.integers(0, 99), data=st.data())
def test_some_of_the_examples(labels: list[str], seed: int, data: st.DataObject) -> None:
    """So many, in their order, of each label one at least; more examples hold those that fewer are; too few for all
    labels are refused."""
    rows = made([(str(i), label) for i, label in enumerate(labels)])
    kinds = len({*labels})
    numbers = sorted(data.draw(st.lists(st.integers(kinds, len(rows) + 3), min_size=2, max_size=2)))
    fewer, more = (some(rows, number, seed, labelled=True) for number in numbers)
    assert [len(fewer), len(more)] == [min(number, len(rows)) for number in numbers]
    assert {e.output for e in fewer} == {*labels} and {e.input for e in fewer} <= {e.input for e in more}
    assert [int(e.input) for e in more] == sorted(int(e.input) for e in more)
    if kinds > 1:
        with pytest.raises(
            ValueError, match=f"--examples {kinds - 1} is too few for {kinds} labels: choose {kinds} at"
        ):
            some(rows, kinds - 1, seed, labelled=True)
    assert len(some(rows, 1, seed)) == 1


def test_some_of_a_sorted_file(folder: Path) -> None:
    """Of a file that has one label after the other, a part has all of them, about as often as the file."""
    path = written(folder, "text,label\n" + "".join(f"{i},{'ab'[i >= 600]}\n" for i in range(800)))
    found = read(config(path, examples=200))
    assert found.labels == ("a", "b") and len(found.train) == 200 and len(found.val) == 80
    rare = sum(e.output == "b" for e in found.train)
    assert abs(rare - 50) <= 5 * (200 * 0.25 * 0.75) ** 0.5
    assert found.train != read(config(path, examples=200, seed=1)).train


def test_labels_in_their_order(folder: Path) -> None:
    """Numbers by size, then names, whatever the order of the lines: 'nan' and 'inf' are names."""
    labels = ["10", "9", "-2", "1.5", "nan", "inf", "NaN", "b", "a"]
    for seed in range(20):
        mixed = random.Random(seed).sample(labels * 3, 27)
        path = written(folder, "text,label\n" + "".join(f"t{i},{label}\n" for i, label in enumerate(mixed)))
        assert read(config(path)).labels == ("-2", "1.5", "9", "10", "NaN", "a", "b", "inf", "nan")


def test_a_part_without_examples() -> None:
    with pytest.raises(ValueError, match="no example to train on"):
        Examples([], [Example("a", "b")])
    with pytest.raises(ValueError, match="no example to validate on"):
        Examples([Example("a", "b")], [])
