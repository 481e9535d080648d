"""Tokenizers <-> tokenizer.json, as Hugging Face's libraries read and write it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from gptlab.config import read_table
from gptlab.text.bpe import BYTE_OF, BPETokenizer, library_tokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.gpt2 import END_OF_TEXT, SIZE, GPT2Tokenizer
from gptlab.text.hf import HFTokenizer
from gptlab.text.tokenizer import END, Tokenizer

FILE, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
CHARACTER = r"[\s\S]"


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, as the kind char, bpe or gpt2 where it is one, else hf.

    Raises ValueError, with the reason, for one whose ids do not stand for bytes.
    """
    if (folder / FILE).is_file():
        path = folder / FILE
        data = read_table(path)
    elif (folder / VOCABULARY).is_file() and (folder / MERGES).is_file():
        path = folder / VOCABULARY
        data = from_two_files(folder / VOCABULARY, folder / MERGES)
    else:
        raise ValueError(
            f"{folder} has no {FILE}, nor {VOCABULARY} and {MERGES}. From another form of tokenizer, transformers "
            f"writes {FILE}: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    try:
        return tokenizer_of(data)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path} holds no tokenizer that gptlab can use: {error}. The model alone is had in Python, by "
            "gptlab.from_hf"
        ) from error


def tokenizer_of(data: dict[str, Any]) -> Tokenizer:
    model, words = data["model"], data["pre_tokenizer"]
    if data.get("normalizer") is None and model["type"] in ("BPE", "WordLevel"):
        vocabulary, specials = parted(model["vocab"], data.get("added_tokens") or [])
        if specials is not None:
            if model["type"] == "WordLevel" and words == json.loads(character_model(["a"]).to_str())["pre_tokenizer"]:
                return CharTokenizer("".join(vocabulary), specials)
            if model["type"] == "BPE" and splits_as_gpt2(words):
                merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
                if is_gpt2(vocabulary, merges, specials):
                    return GPT2Tokenizer([bytes(map(BYTE_OF.__getitem__, token)) for token in vocabulary], specials[1:])
                bare = {**model, "vocab": {token: i for i, token in enumerate(vocabulary)}}
                nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
                return BPETokenizer(library_tokenizer({**data, **nothing, "model": bare, "added_tokens": []}), specials)
    return HFTokenizer(library_tokenizer(data))


def parted(vocabulary: dict[str, int], added: list[dict[str, Any]]) -> tuple[list[str], tuple[str, ...] | None]:
    """Ordinary tokens and special ones, in the order of their ids; None if the special ones are not the last."""
    specials = {token["content"]: token["id"] for token in added if token["special"]}
    ordinary = sorted(vocabulary.keys() - specials.keys(), key=vocabulary.__getitem__)
    last = sorted(specials, key=specials.__getitem__)
    ids = [vocabulary[token] for token in ordinary] + [specials[token] for token in last]
    whole = ids == list(range(len(ids))) and len(specials) == len(added)
    return ordinary, tuple(last) if whole else None


def splits_as_gpt2(words: Any) -> bool:
    return isinstance(words, dict) and (words["type"], words["add_prefix_space"], words.get("use_regex", True)) == (
        "ByteLevel",
        False,
        True,
    )


def is_gpt2(vocabulary: list[str], merges: list[str], specials: tuple[str, ...]) -> bool:
    """Whether merging in the order of ids, as tiktoken does, is merging in the order of merges."""
    if len(vocabulary) != SIZE - 1 or specials[:1] != (END_OF_TEXT,):
        return False
    return [merge.replace(" ", "") for merge in merges] == vocabulary[256:]


def from_two_files(vocabulary: Path, merges: Path) -> dict[str, Any]:
    """GPT-2's old form: a table of ids, and a list of merges under a line with a version."""
    ids = read_table(vocabulary)
    lines = [line for line in merges.read_text(encoding="utf-8").splitlines() if not line.startswith("#version")]
    model = {"type": "BPE", "vocab": ids, "merges": [line for line in lines if line]}
    # It does not say which tokens are special: those that no merge makes, for no text has them.
    made = {line.replace(" ", "") for line in lines} | set(BYTE_OF)
    added = [{"id": i, "content": token} for token, i in ids.items() if token not in made]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None} | {
        "added_tokens": [token | flags for token in added],
        "pre_tokenizer": words,
        "decoder": words,
        "model": model,
    }


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """tokenizer.json and tokenizer_config.json: what transformers' AutoTokenizer reads."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    if isinstance(tokenizer, CharTokenizer):
        model = character_model(list(tokenizer.characters))
    elif isinstance(tokenizer, GPT2Tokenizer):
        model = library_tokenizer(gpt2_data(tokenizer))
    else:
        model = library_tokenizer(tokenizer.to_json()["tokenizers"])
    model.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in tokenizer.specials])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=model,
        model_max_length=context,
        bos_token=END_OF_TEXT if isinstance(tokenizer, GPT2Tokenizer) else None,
        eos_token=end_of_text(tokenizer),
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def end_of_text(tokenizer: Tokenizer) -> str | None:
    """The special token with which a text ends; None where there is none."""
    return next((name for name in (END, END_OF_TEXT) if name in tokenizer.specials), None)


def character_model(characters: list[str]) -> Any:
    """The library's tokenizer with an id for each character, by their order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    model = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token=""))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(CHARACTER), "isolated")
    model.decoder = decoders.Fuse()
    return model


def gpt2_data(tokenizer: GPT2Tokenizer) -> dict[str, Any]:
    """Its tokenizer.json, less the special token. tiktoken needs no list of merges: it is found again."""
    character = {byte: c for c, byte in BYTE_OF.items()}
    ranks = {piece: rank for rank, piece in enumerate(tokenizer.pieces[: SIZE - 1])}

    def spelled(piece: bytes) -> str:
        return "".join(map(character.__getitem__, piece))

    data = json.loads(BPETokenizer.train([""], 256).model.to_str())
    data["model"]["vocab"] = {spelled(piece): rank for piece, rank in ranks.items()}
    data["model"]["merges"] = [list(map(spelled, halves(piece, ranks))) for piece in ranks if len(piece) > 1]
    return data


def halves(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that are merged into a piece: what it consists of when all earlier merges are done."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        _, i = min((ranks.get(a + b, len(ranks)), i) for i, (a, b) in enumerate(pairwise(parts)))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
