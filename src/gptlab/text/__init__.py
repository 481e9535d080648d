"""Text file -> ids: tokenizers, texts, and their cached arrays of ids.

The names are resolved when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Tokenizer": "tokenizer",
    "load": "tokenizer",
    "prompt_ids": "tokenizer",
    "save": "tokenizer",
    "special_id": "tokenizer",
    "train": "tokenizer",
    "CharTokenizer": "chars",
    "BPETokenizer": "bpe",
    "GPT2Tokenizer": "gpt2",
    "CORPORA": "corpora",
    "Data": "corpora",
    "Source": "corpora",
    "check_length": "corpora",
    "find": "corpora",
    "make_tokenizer": "corpora",
    "prepare": "corpora",
    "Text": "reading",
    "fetch": "download",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
