"""Models of Hugging Face's transformers <-> ours: objects, folders of config.json and safetensors, names on the hub.

Every weight of theirs and of ours is accounted for, or the conversion is refused. No pickle is opened. The library is
imported when something is converted; it is in the extra `hf`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptlab.config import ModelConfig, read_table
from gptlab.convert.families import FAMILIES, Family
from gptlab.convert.hf_tokenizer import end_of_text, write_tokenizer
from gptlab.model.transformer import Transformer
from gptlab.registry import unknown
from gptlab.text.gpt2 import SIZE, GPT2Tokenizer
from gptlab.text.tokenizer import Tokenizer, special_id

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
HUB_FILES = (CONFIG, "model*.safetensors", INDEX, "tokenizer.json", "vocab.json", "merges.txt")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
NO_FUNCTION = ("family", "bridge")  # fields that say how a model is called and used, not what it computes
# A bias that is missing here and is there becomes zeros: the function is the same.
FILLED: set[tuple[str, Any, Any]] = {
    ("bias_qkv", False, True),
    ("bias_attn_out", False, True),
    ("bias_ffn", False, True),
    ("norm_affine", "weight", "weight+bias"),
}


def from_hf(source: Any) -> Transformer:
    """A model of transformers as ours, in evaluation mode: the same function, to rounding.

    source: such a model, a folder with config.json and safetensors, or a name on the hub. Weights in half precision
    become float32. Raises ValueError for a class or a variant of it that gptlab does not build, and for weights that
    are missing, too many, or of another shape.
    """
    if isinstance(source, str | Path):
        return read(folder_of(source))
    family = next((f for f in FAMILIES.values() if f.model == type(source).__name__), None)
    if family is None:
        raise unknown("model class", type(source).__name__, [f.model for f in FAMILIES.values()])
    return built(*to_ours(family, family.ours(source.config), dict(source.state_dict()), "the model"))


def to_hf(model: Transformer) -> Any:
    """Our model as one of transformers, in evaluation mode: the same function, to rounding.

    Raises ValueError, with the reason, for an architecture that transformers has no class for.
    """
    library = transformers()
    family, config = family_of(model.config)
    named = dict(model.named_parameters())
    zeros = {name: torch.zeros(shape) for name, shape in shapes(config).items()}
    weights = to_theirs(family, config, {name: named.get(name, zero).detach() for name, zero in zeros.items()})
    theirs = getattr(library, family.model)(config_there(family, config))
    theirs.to(model.embedding.dtype).load_state_dict(weights)  # strict: every weight of theirs is given
    return theirs.eval()


def transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            "this needs the package transformers: install gptlab with its extra hf, "
            "as `pip install -c constraints.txt -e .[hf]`"
        ) from error
    return transformers


def write(model: Transformer, tokenizer: Tokenizer, folder: Path) -> str:
    """A folder that transformers loads by from_pretrained: config, weights, tokenizer. Returns the class's name."""
    theirs = to_hf(model)
    ends = {"bos_token_id": SIZE - 1} if isinstance(tokenizer, GPT2Tokenizer) else {}
    if (end := end_of_text(tokenizer)) is not None:
        ends["eos_token_id"] = special_id(tokenizer, end)
    theirs.config.update(ends)
    theirs.generation_config.update(**ends)
    theirs.save_pretrained(folder)
    write_tokenizer(tokenizer, folder, model.context)
    return type(theirs).__name__


# Settings


def config_there(family: Family, config: ModelConfig) -> Any:
    return getattr(transformers(), family.config)(**family.theirs(config))


def family_of(config: ModelConfig) -> tuple[Family, ModelConfig]:
    """The class that computes a model of ours, and the model as it is read back from there.

    A class fits if our settings, written in its terms and read back, are the same; biases of zero may come in.
    """
    candidates = []
    for family in FAMILIES.values():
        try:
            there = family.ours(config_there(family, config))
        except Exception:  # whatever their own checks raise, such a model cannot be said in these terms
            continue
        found = [(n, ours, vars(there)[n]) for n, ours in vars(config).items() if ours != vars(there)[n]]
        candidates.append((family, there, [change for change in found if change[0] not in NO_FUNCTION]))
    candidates.sort(key=lambda candidate: len(candidate[2]))
    for family, there, changes in candidates:
        if set(changes) <= FILLED:
            return family, there
    reasons = "; ".join(
        f"{family.model} has {', '.join(f'{name} {theirs!r}, not {ours!r}' for name, ours, theirs in changes)}"
        for family, _, changes in candidates[:2]
    )
    raise ValueError(f"transformers has no class for this model. {reasons or 'No class has such a shape'}")


# Weights


def shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The weights that a model of ours has."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Transformer(config).named_parameters()}


def layers(config: ModelConfig, ours: str) -> Iterable[int]:
    """The numbers that {i} stands for in a row."""
    if "{i}" not in ours:
        return range(1)
    return range(config.n_encoder_layers if ours.startswith("encoder.") else config.n_layers)


def to_ours(
    family: Family, config: ModelConfig, theirs: dict[str, Tensor], source: str
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Their weights by our names, and the config: a head that differs from the token table is not tied to it."""
    if not any(name.startswith(family.prefix) for name in theirs):
        theirs = {name if name in family.copies else family.prefix + name: w for name, w in theirs.items()}
    left = {name: w for name, w in theirs.items() if not name.endswith(family.derived)}
    (embedding,) = next(names for names, ours, _ in family.weights(config) if ours == "embedding")
    for name in family.copies:
        if name not in left or embedding not in left or (name == "lm_head.weight" and not config.tied_embeddings):
            continue
        if torch.equal(left[name], left[embedding]):
            del left[name]
        elif name == "lm_head.weight":
            config = config.but(tied_embeddings=False)
    expected = shapes(config)
    ours: dict[str, Tensor] = {}
    for names, target, operation in family.weights(config):
        for i in layers(config, target):
            name, sources = target.format(i=i), [n.format(i=i) for n in names]
            if name not in expected:
                continue
            if missing := [n for n in sources if n not in left]:
                raise ValueError(f"{source} lacks the weight {missing[0]}")
            parts = [left.pop(n) for n in sources]
            try:
                ours[name] = operation.join(config, parts)
            except (RuntimeError, IndexError):
                ours[name] = torch.empty(0)
            if ours[name].shape != expected[name]:
                found = ", ".join(str(tuple(part.shape)) for part in parts)
                raise ValueError(
                    f"{source}: {sources[0]} is shaped {found}, which does not make {name}, {tuple(expected[name])}"
                )
    if left:
        raise ValueError(f"{source} holds weights that gptlab has no place for: {', '.join(sorted(left)[:5])}")
    assert ours.keys() == expected.keys(), f"no row gives {sorted(expected.keys() - ours.keys())}"
    return config, ours


def to_theirs(family: Family, config: ModelConfig, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights by their names, the copies of the token table included."""
    theirs: dict[str, Tensor] = {}
    used = set()
    for names, target, operation in family.weights(config):
        for i in layers(config, target):
            name = target.format(i=i)
            if name in ours:
                parts = operation.part(config, ours[name])
                theirs |= {n.format(i=i): part.contiguous() for n, part in zip(names, parts, strict=True)}
                used.add(name)
    assert used == ours.keys(), f"no row takes {sorted(ours.keys() - used)}"
    for name in family.copies:
        theirs.setdefault(name, ours["embedding"])
    return theirs


def built(config: ModelConfig, weights: dict[str, Tensor]) -> Transformer:
    """A model of ours with these weights: float32, or float64 where they are."""
    with torch.device("meta"):
        model = Transformer(config)
    dtype = torch.promote_types(weights["embedding"].dtype, torch.float32)
    copies = {name: w.detach().to("cpu", dtype, copy=True).contiguous() for name, w in weights.items()}
    model.load_state_dict(copies, assign=True)
    return model.requires_grad_().eval()


# Folders


def is_hf(folder: Path) -> bool:
    """Whether a folder's config.json is one of transformers."""
    return (folder / CONFIG).is_file() and "model_type" in read_table(folder / CONFIG)


def folder_of(source: str | Path) -> Path:
    """A folder as it is; for a name on the hub, the folder into which its files have been downloaded.

    Raises ValueError where there is neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists() or not HUB_NAME.fullmatch(str(source)):
        raise ValueError(
            f"{source} holds no model that gptlab can import: it is no folder, and cannot be a name on the hub"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{source} is no folder here. To look for a model of that name on the hub, install gptlab with its extra hf"
        ) from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=list(HUB_FILES)))
    except Exception as error:  # offline, unknown, not public: of a dozen kinds, without a common one
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{source} is no folder here, and could not be had from the hub: {reason} Without network, download it "
            "elsewhere and give its folder"
        ) from error


def read(folder: Path) -> Transformer:
    """The model in a folder; ValueError for one that is damaged, incomplete, of an unknown kind, or a pickle."""
    library = transformers()
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no {CONFIG}")
    values = read_table(path)
    if "model_type" not in values:
        raise ValueError(f"{path} has no model_type: it is not a config of transformers")
    if values["model_type"] not in FAMILIES:
        raise unknown(f"model_type in {path}", values["model_type"], FAMILIES)
    family = FAMILIES[values["model_type"]]
    try:
        config = family.ours(getattr(library, family.config).from_dict(values))
    except Exception as error:  # the library's own validation has kinds of its own
        raise ValueError(f"{path} is no config that gptlab can read: {' '.join(str(error).split())}") from error
    return built(*to_ours(family, config, read_weights(folder), str(folder)))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or of the pieces that its index names."""
    if (folder / INDEX).is_file():
        where = read_table(folder / INDEX).get("weight_map")
        if not isinstance(where, dict) or not all(isinstance(file, str) for file in where.values()):
            raise ValueError(f"{folder / INDEX} has no weight_map of names and files")
        files = sorted(set(where.values()))
    elif (folder / WEIGHTS).is_file():
        files = [WEIGHTS]
    elif pickles := sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise ValueError(
            f"{folder} has its weights in {pickles[0]} alone, a pickle, which could run any program and is not opened. "
            f"If you trust its author, load it with transformers and save_pretrained() it, which writes {WEIGHTS}"
        )
    else:
        raise ValueError(f"{folder} has no {WEIGHTS}")
    weights: dict[str, Tensor] = {}
    for file in files:
        if Path(file).name != file or not (folder / file).is_file():
            raise ValueError(f"{folder / INDEX} names {file!r}, which is no file of this folder")
        try:
            weights |= load_file(folder / file)
        except SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from None
    return weights
