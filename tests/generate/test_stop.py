"""Where a text ends, and what of it may be shown before that is known."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.config import SampleConfig
from gptlab.generate.generate import Sample, generate
from gptlab.text.tokenizer import Tokenizer
from tests.generate.toys import BYTES, CHARACTERS, WORDS, clockwork, lively

ALPHABET = "ab\né€𝄞"
TEXTS = st.text(ALPHABET, max_size=12)
STOPS = st.lists(st.text("abé𝄞", min_size=1, max_size=4), max_size=3).map(tuple)


def ended(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """Read character by character, the text ends where a stop string is first complete, and goes up to its start."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return text[: min(starts)], True
    return text, False


def certain(text: str, stops: tuple[str, ...]) -> str:
    """What no longer can be part of a stop string: all but the longest end that one begins with."""
    begins = {s[:k] for s in stops for k in range(len(s))}
    return text[: len(text) - max((len(b) for b in begins if text.endswith(b)), default=0)]


@settings(max_examples=300)
@given(text=TEXTS, stops=STOPS, data=st.data())
@example(text="abaab", stops=("abab", "aab"), data=None)
def test_any_division_into_tokens(text: str, stops: tuple[str, ...], data: st.DataObject | None) -> None:
    """However bytes fall into tokens: the stream joined is the text, which is the whole up to the first stop.

    On the way, what is shown is a beginning of it, has no part of a stop string or of a character, and is all that
    can be shown.
    """
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1)))) if data and len(raw) > 1 else [1, 3]
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    expected, stopped = ended(text, stops)
    sample, shown, fed = Sample(stop=stops), "", b""
    for number, piece in enumerate(pieces):
        shown += sample.add(number, -1.0, piece)
        fed += piece
        if sample.reason:
            break
        assert shown == sample.text == certain(fed.decode("utf-8", "ignore"), stops)
        assert expected.startswith(shown)
    shown += sample.finish()
    assert (shown, sample.text, sample.reason) == (expected, expected, "stop" if stopped else "length")
    assert sample.finish() == ""
    assert len(sample.ids) == len(sample.logprobs) <= len(pieces)


@given(raw=st.binary(max_size=9), data=st.data())
def test_bytes_that_are_no_text(raw: bytes, data: st.DataObject) -> None:
    """Any bytes in any pieces are shown as decoding them all at once does: U+FFFD for what is no character."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    sample = Sample()
    shown = "".join(sample.add(0, 0.0, raw[a:b]) for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True))
    assert shown + sample.finish() == sample.text == raw.decode("utf-8", "replace")


def write(tokenizer: Tokenizer, cycle: str, prompt: str, **settings: object) -> tuple[list[str], Sample]:
    """The pieces of the stream, and the sample, of a model that writes `cycle` again and again."""
    config = SampleConfig.from_dict({"temperature": 0, **settings})
    steps = list(generate(clockwork(tokenizer, cycle), tokenizer, prompt, config))
    stream, sample = [text for _, text, _ in steps], steps[-1][2]
    assert "".join(stream) == sample.text
    return stream, sample


@pytest.mark.parametrize(
    ("tokenizer", "cycle"),
    [(CHARACTERS, "abcdefgh"), (BYTES, "abcdefgh"), (WORDS, " the end is a thing")],
    ids=["characters", "bytes", "words"],
)
def test_stops_across_tokens(tokenizer: Tokenizer, cycle: str) -> None:
    """A stop string from inside one token to inside a later one ends the text before it; the token is the last read."""
    count = len(tokenizer.encode(cycle))
    for start in range(len(cycle)):
        for length in (1, 2, 3, 5):
            stop = cycle[start : start + length]
            stream, sample = write(tokenizer, cycle, cycle, tokens=2 * count, stop=["§", stop])
            assert sample.text == cycle[: cycle.index(stop)] and sample.reason == "stop"
            assert len(sample.ids) <= count
            assert "".join(stream) == sample.text
    stream, sample = write(tokenizer, cycle, cycle, tokens=2 * count)
    assert sample.text == cycle * 2 and sample.reason == "length" and len(stream) >= 2 * count


def test_stops_that_overlap_themselves() -> None:
    """After a false beginning the search goes on where it may: "fgab" after "fgfgab" is found, and "aab" in "aaab"."""
    sample = Sample(stop=("fgab",))
    assert [sample.add(0, 0.0, bytes([c])) for c in b"xfgfgab"] == ["x", "", "", "fg", "", "", ""]
    assert (sample.text, sample.reason) == ("xfg", "stop")
    sample = Sample(stop=("aab",))
    assert [sample.add(0, 0.0, bytes([c])) for c in b"aaab"] == ["", "", "a", ""] and sample.text == "a"


def test_a_beginning_of_a_stop_at_the_end() -> None:
    """What was held back for a stop string that did not come is shown in the end."""
    stream, sample = write(CHARACTERS, "abcdefgh", "h", tokens=4, stop=["cdef"])
    assert sample.text == "abcd" and sample.reason == "length" and stream == ["a", "b", "cd"]


def test_characters_of_several_tokens() -> None:
    """A character whose bytes are several tokens is shown when its last is there, never in parts."""
    stream, sample = write(BYTES, "né€𝄞x", "x", tokens=11)
    assert sample.text == "né€𝄞x"
    assert [text for text in stream if text] == ["n", "é", "€", "𝄞", "x"]
    _, sample = write(BYTES, "né€𝄞x", "x", tokens=5)  # the end comes within the €
    assert sample.text == "né\N{REPLACEMENT CHARACTER}"
    _, sample = write(BYTES, "né€𝄞x", "x", tokens=20, stop=["€"])
    assert sample.text == "né" and sample.reason == "stop" and len(sample.ids) == 6


def test_gpt2(shared: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """With GPT-2's vocabulary, too, characters that are several tokens stream whole."""
    from gptlab.text.gpt2 import GPT2Tokenizer

    monkeypatch.setenv("GPTLAB_DATA", str(shared))
    tokenizer = GPT2Tokenizer.published()
    sample, shown = Sample(stop=("!",)), []
    for token in tokenizer.encode("É 𝄞 poética! Não").tolist():
        shown.append(sample.add(token, 0.0, tokenizer.pieces[token]))
        if sample.reason:
            break
    assert "".join(shown) == "É 𝄞 poética" and sample.reason == "stop"
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in shown)


def test_each_sample_stops_for_itself() -> None:
    """Of several samples, each ends at its own stop; the others go on; each ends once."""
    config = SampleConfig(tokens=60, stop=("a",), seed=1)
    model = lively(CHARACTERS.vocab_size, 8)
    texts, ends = [""] * 4, [0] * 4
    for i, text, sample in generate(model, CHARACTERS, "b", config, n=4):
        assert not ends[i]
        texts[i] += text
        ends[i] += bool(sample.reason)
    assert ends == [1] * 4 and len({len(text) for text in texts}) > 1
    for i, text in enumerate(texts):
        free = [s for j, _, s in generate(model, CHARACTERS, "b", config.but(stop=()), n=4) if j == i][-1]
        assert text == free.text.split("a")[0]


def test_special_tokens_write_nothing() -> None:
    """A special token, or an id that only the model has, adds no text, and does not break a character in two."""
    sample = Sample()
    assert sample.add(1, 0.0, "é".encode()[:1]) == sample.add(2, 0.0, b"") == ""
    assert sample.add(3, 0.0, "é".encode()[1:]) == "é"
