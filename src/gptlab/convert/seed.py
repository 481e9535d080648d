"""The old GPTLab's checkpoints (github wmelo52/GPTLab): config.json, vocab.txt, pytorch_model.bin.

Its names: transformer.{wte,wpe}, transformer.h.I.{ln_1,ln_2}.{a_2,b_2}, attn.{q,k,v}_linear, attn.c_proj,
mlp.{c_fc,c_proj}, transformer.ln_f; attn.masks is a buffer and lm_head repeats wte.
"""

from pathlib import Path

import torch
from torch import Tensor

from gptlab.config import ModelConfig
from gptlab.text.chars import CharTokenizer

# theirs -> ours, {i} a layer; several of theirs are joined row by row.
ROWS: list[tuple[tuple[str, ...], str]] = [
    (("transformer.wte.weight",), "embedding"),
    (("transformer.wpe.weight",), "position.weight"),
    (("transformer.h.{i}.ln_1.a_2",), "blocks.{i}.residual.norms.0.weight"),
    (("transformer.h.{i}.ln_1.b_2",), "blocks.{i}.residual.norms.0.bias"),
    (tuple(f"transformer.h.{{i}}.attn.{x}_linear.weight" for x in "qkv"), "blocks.{i}.attention.qkv.weight"),
    (tuple(f"transformer.h.{{i}}.attn.{x}_linear.bias" for x in "qkv"), "blocks.{i}.attention.qkv.bias"),
    (("transformer.h.{i}.attn.c_proj.weight",), "blocks.{i}.attention.out.weight"),
    (("transformer.h.{i}.ln_2.a_2",), "blocks.{i}.residual.norms.1.weight"),
    (("transformer.h.{i}.ln_2.b_2",), "blocks.{i}.residual.norms.1.bias"),
    (("transformer.h.{i}.mlp.c_fc.weight",), "blocks.{i}.mlp.up.weight"),
    (("transformer.h.{i}.mlp.c_proj.weight",), "blocks.{i}.mlp.down.weight"),
    (("transformer.ln_f.a_2",), "norm.weight"),
    (("transformer.ln_f.b_2",), "norm.bias"),
]


FILES = ("config.json", "vocab.txt", "pytorch_model.bin")


def is_seed(folder: Path) -> bool:
    return all((folder / name).is_file() for name in FILES)


def read_seed(folder: Path) -> tuple[ModelConfig, CharTokenizer, dict[str, Tensor]]:
    """What a checkpoint folder holds, in our terms; the weights by our names.

    Raises ValueError for a file that is missing, does not fit, or holds more than tensors: the weights are a
    pickle, which is read by torch's restricted loader alone.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(f"{folder} has no {missing[0]}: a checkpoint of the old GPTLab is {', '.join(FILES)}")
    config = ModelConfig.read(folder / "config.json")
    characters = (folder / "vocab.txt").read_bytes().decode("utf-8")  # as it is: its line end is a character
    tokenizer = CharTokenizer("".join(sorted(set(characters))))
    if tokenizer.vocab_size != config.vocab_size:
        raise ValueError(
            f"{folder / 'vocab.txt'} has {tokenizer.vocab_size} characters, config.json says {config.vocab_size}"
        )
    theirs = read_pickle(folder / "pytorch_model.bin")
    ours: dict[str, Tensor] = {}
    used = set()
    for sources, target in ROWS:
        for i in range(config.n_layers if "{i}" in target else 1):
            names = [source.format(i=i) for source in sources]
            if missing := [name for name in names if name not in theirs]:
                raise ValueError(f"{folder / 'pytorch_model.bin'} lacks {missing[0]}")
            parts = [theirs[name] for name in names]
            if any(part.dim() == 0 or part.shape[1:] != parts[0].shape[1:] for part in parts):
                shapes = ", ".join(str(tuple(part.shape)) for part in parts)
                raise ValueError(f"{folder / 'pytorch_model.bin'}: {names[0]} … cannot be joined, shaped {shapes}")
            ours[target.format(i=i)] = torch.cat(parts)
            used.update(names)
    left = [
        name for name in theirs if name not in used and not name.endswith("attn.masks") and name != "lm_head.weight"
    ]
    if left:
        raise ValueError(f"{folder / 'pytorch_model.bin'} holds {left[0]}, which the old GPTLab does not have")
    if not torch.equal(theirs.get("lm_head.weight", ours["embedding"]), ours["embedding"]):
        raise ValueError(f"{folder / 'pytorch_model.bin'} has a head that is not its embedding, as the old GPTLab's is")
    return config, tokenizer, ours


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors in a torch checkpoint; ValueError for one that holds anything else, which is not executed."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle leads to any of a dozen kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is refused: it holds more than tensors, or is damaged ({reason})") from None
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} is refused: it holds something other than named tensors")
    return weights
