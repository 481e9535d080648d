"""Folders of transformers: imported, exported, sharded, damaged, refused; tokenizers with them; the command line."""

import contextlib
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

import gptlab
from gptlab.cli import main
from gptlab.convert.hf import from_hf
from gptlab.convert.hf_tokenizer import read_tokenizer, write_tokenizer
from gptlab.lab import export_run, import_run
from gptlab.model.transformer import build
from gptlab.presets import preset
from gptlab.run import Run
from gptlab.text.bpe import BPETokenizer
from gptlab.text.chars import CharTokenizer
from gptlab.text.gpt2 import GPT2Tokenizer
from gptlab.text.hf import PROBE, HFTokenizer
from gptlab.text.tokenizer import Tokenizer
from tests.convert.hf_models import drawn, transformers

TEXT = "O sol, 1839, não é  o mesmo;\n\n\tit's <s> ours 🙂\r\n fim " * 3
CHARACTERS = CharTokenizer("".join(sorted(set(TEXT)))[:37])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 with a character tokenizer, as transformers writes it."""
    path = tmp_path / "theirs"
    drawn("gpt2").float().save_pretrained(path)
    write_tokenizer(CHARACTERS, path, 13)
    return path


def changed(path: Path, **values: Any) -> None:
    """A JSON file with other values, None taking one away."""
    data = {**json.loads(path.read_text(encoding="utf-8")), **values}
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}), encoding="utf-8")


def run_of(tmp_path: Path, name: str, tokenizer: Tokenizer) -> Path:
    """A run with random weights, as if it had been trained."""
    bridge = (3,) if name == "t5-mini" else ()  # what the decoder begins with
    model = build(preset(name, vocab_size=tokenizer.vocab_size, context=16, bridge=bridge), seed=4)
    run = Run.create(tmp_path / "run", model.config, tokenizer)
    run.save_weights(model)
    return run.path


def equal(a: Path, b: Path) -> bool:
    """Whether two runs have the same weights to the last bit, configuration (but for the family) and tokenizer."""
    weights, expected = (load_file(path / "model.safetensors") for path in (a, b))
    same = weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in expected)
    configs = [Run(path).model_config.but(family="") for path in (a, b)]
    return same and configs[0] == configs[1] and Run(a).tokenizer().to_json() == Run(b).tokenizer().to_json()


def said(*argv: str) -> tuple[int, str, str]:
    """Status, output and errors of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(argv)
    return status, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("name", ["gpt2-mini", "opt-mini", "palm-mini", "bloom-mini", "llama-mini", "t5-mini"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """A run that `gptlab export` writes and `gptlab import` reads is the same run to the last bit; and in between,
    transformers loads every weight and computes its logits."""
    run = run_of(tmp_path, name, CHARACTERS)
    status, out, err = said("export", str(run), "--to", "hf", "--out", str(tmp_path / "theirs"), "--lang", "en")
    assert status == 0, err
    loaded = load(tmp_path / "theirs")
    assert f"transformers.{type(loaded).__name__}.from_pretrained" in out
    ids = torch.randint(0, CHARACTERS.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    ours = gptlab.load(run, device="cpu").model
    with torch.no_grad():
        if ours.encoder is None:
            difference = ours(ids) - loaded(ids).logits
        else:
            difference = ours(ids, source=ids) - loaded(input_ids=ids, decoder_input_ids=ids).logits
            assert loaded.generation_config.decoder_start_token_id == ours.config.bridge[0]
    assert difference.abs().max() < 1e-4
    status, out, err = said("import", str(tmp_path / "theirs"), "--out", str(tmp_path / "back"), "--lang", "en")
    assert status == 0 and "parameters" in out, err
    assert equal(tmp_path / "back", run)
    assert sorted(p.name for p in (tmp_path / "theirs").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def load(folder: Path) -> Any:
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def test_what_it_writes(tmp_path: Path) -> None:
    """transformers alone, from the exported folder, reads the prompt and writes the text that the run does."""
    run = run_of(tmp_path, "llama-mini", BPETokenizer.train([TEXT], 270))
    assert export_run(run, tmp_path / "theirs") == "LlamaForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    prompt = tokenizer("O s", return_tensors="pt")
    written = load(tmp_path / "theirs").generate(
        prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=10, do_sample=False, pad_token_id=0
    )
    ours = gptlab.load(run, device="cpu").generate("O s", tokens=10, temperature=0)
    assert tokenizer.decode(written[0, prompt["input_ids"].shape[1] :]) == ours


@pytest.mark.parametrize("headless", [False, True])
def test_a_sharded_folder(folder: Path, headless: bool) -> None:
    """Weights in several files are read by their index; and those of the model without its head, whose names are
    shorter; the masks that old files hold are left out."""
    expected = from_hf(folder)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (model.transformer if headless else model).save_pretrained(folder, max_shard_size="4KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    first = folder / index["weight_map"][next(iter(index["weight_map"]))]
    weights = load_file(first)
    mask = "h.0.attn.bias" if headless else "transformer.h.0.attn.bias"
    save_file({**weights, mask: torch.ones(1, 1, 13, 13)}, first, metadata={"format": "pt"})
    assert len(set(index["weight_map"].values())) > 2
    found = from_hf(folder)
    assert found.config == expected.config
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters(), strict=True))


def test_a_head_of_its_own(folder: Path) -> None:
    """A head in the file that differs from the token table is not tied to it, as in transformers."""
    weights = load_file(folder / "model.safetensors")
    head = torch.randn(37, 12, generator=torch.Generator().manual_seed(0))
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    ours = from_hf(folder)
    assert not ours.config.tied_embeddings and torch.equal(ours.head, head)
    ids = torch.arange(13)[None]
    with torch.no_grad():
        assert torch.allclose(ours(ids), transformers.GPT2LMHeadModel.from_pretrained(folder)(ids).logits, atol=1e-5)


def spoil(folder: Path, how: str) -> None:
    weights = load_file(folder / "model.safetensors")
    config = folder / "config.json"
    if how == "no config":
        config.unlink()
    elif how == "no JSON":
        config.write_text("{", encoding="utf-8")
    elif how == "no kind":
        changed(config, model_type=None)
    elif how == "an unknown kind":
        changed(config, model_type="bert")
    elif how == "a width in words":
        changed(config, n_embd="twelve")
    elif how == "another width":
        changed(config, n_embd=15)
    elif how == "another depth":
        changed(config, n_layer=2)
    elif how == "no weights":
        (folder / "model.safetensors").unlink()
    elif how == "cut short":
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif how in ("lacks", "too much", "another shape", "ragged"):
        name = "transformer.h.1.mlp.c_fc.weight"
        if how == "lacks":
            del weights[name]
        elif how == "too much":
            weights["transformer.h.1.adapter"] = torch.ones(2)
        elif how == "another shape":
            weights[name] = weights[name].t().contiguous()
        else:
            weights[name] = torch.tensor(1.0)
        save_file(weights, folder / "model.safetensors")
    elif how == "an index without a map":
        (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    elif how == "an index that leads away":
        away = {"weight_map": {"transformer.wte.weight": "../theirs/model.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(away), encoding="utf-8")
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "a damaged tokenizer":
        (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}', encoding="utf-8")
    elif how == "a larger tokenizer":
        (folder / "tokenizer.json").unlink()
        write_tokenizer(CharTokenizer("".join(map(chr, range(64, 102)))), folder, 13)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("no config", "config.json"),
        ("no JSON", "config.json is not valid JSON"),
        ("no kind", "model_type"),
        ("an unknown kind", "'bert'.* Known: gpt2"),
        ("a width in words", "config.json.*n_embd"),
        ("another width", r"shaped \(37, 12\)"),
        ("another depth", "no place for: transformer.h.2"),
        ("no weights", "model.safetensors"),
        ("cut short", "model.safetensors is damaged"),
        ("lacks", "lacks the weight transformer.h.1.mlp.c_fc.weight"),
        ("too much", "transformer.h.1.adapter"),
        ("another shape", r"transformer.h.1.mlp.c_fc.weight is shaped \(31, 12\)"),
        ("ragged", r"transformer.h.1.mlp.c_fc.weight is shaped \(\)"),
        ("an index without a map", "weight_map"),
        ("an index that leads away", "is no file of this folder"),
        ("no tokenizer", "no tokenizer.json"),
        ("a damaged tokenizer", "tokenizer.json holds no tokenizer"),
        ("a larger tokenizer", "38 ids, the model 37"),
    ],
)
def test_a_malformed_folder(folder: Path, tmp_path: Path, how: str, named: str) -> None:
    """A folder in which something is missing, too much or damaged is a ValueError that names it; no run is made."""
    spoil(folder, how)
    with pytest.raises(ValueError, match=named):
        import_run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Bait:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    """Weights in a pickle alone are refused, with the way to convert them; what is in it does not run."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bait(tmp_path / "made")))
    with pytest.raises(ValueError, match=r"pytorch_model\.bin alone, a pickle.*save_pretrained"):
        import_run(folder, tmp_path / "out")
    assert not (tmp_path / "made").exists() and not (tmp_path / "out").exists()


def test_no_code_from_a_folder(folder: Path, tmp_path: Path) -> None:
    """A config that names code of its own is read as the kind that it says; the code does not run."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'made')!r}).touch()\nclass Config: ...\n"
    (folder / "own.py").write_text(code, encoding="utf-8")
    changed(folder / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Config"})
    import_run(folder, tmp_path / "out")
    assert not (tmp_path / "made").exists()


def test_refused_exports(folder: Path, tmp_path: Path) -> None:
    """A model without a class, another format, a folder that is there: each is told in one message, status 2, and
    leaves nothing behind."""
    run = run_of(tmp_path, "pangu-alpha-mini", CHARACTERS)
    before = sorted(tmp_path.iterdir())
    for more, named in (
        (("--out", str(tmp_path / "x")), "query_layer False, not True"),
        (("--out", str(tmp_path / "x"), "--to", "gguf"), "unknown format 'gguf'"),
        (("--out", str(folder)), "is there already"),
    ):
        status, _, err = said("export", str(run), *more)
        assert (status, named in err) == (2, True), err
    assert sorted(tmp_path.iterdir()) == before
    for source, named in ((tmp_path / "a" / "b" / "c", "no folder"), (folder / "config.json", "no folder")):
        status, _, err = said("import", str(source), "--out", str(tmp_path / "x"))
        assert (status, named in err) == (2, True), err


def test_offline(tmp_path: Path) -> None:
    """A name on the hub without network is one message with the name and the way around, and no traceback."""
    program = [sys.executable, "-m", "gptlab", "import", "openai-community/gpt2"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "openai-community/gpt2 is no folder here" in done.stderr and "give its folder" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("package", "source"), [("transformers", "folder"), ("huggingface_hub", "a-name")])
def test_without_the_extra(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, source: str
) -> None:
    """Where a package of the extra hf is missing, the message names the extra."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="extra hf"):
        import_run(folder if source == "folder" else source, tmp_path / "out")


# Tokenizers


def byte_level(tokenizer: BPETokenizer, first: list[str]) -> Any:
    """A byte-level BPE whose special tokens are the first ids, as OPT's are."""
    data = tokenizer.to_json()["tokenizers"]
    vocabulary = dict.fromkeys(first) | data["model"]["vocab"]
    data["model"]["vocab"] = {token: i for i, token in enumerate(vocabulary)}
    model = tokenizers.Tokenizer.from_str(json.dumps(data))
    model.add_special_tokens(first)
    return model


@pytest.fixture(scope="module")
def gpt2(shared: Path) -> GPT2Tokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_DATA", str(shared))
        return GPT2Tokenizer.published()


@pytest.mark.parametrize("kind", ["char", "char, specials", "bpe", "bpe, specials", "hf", "gpt2"])
def test_a_tokenizer_there_and_back(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """transformers' AutoTokenizer reads what is written: the same ids, the same text; and what is read back is the
    tokenizer that was written, kind, pieces, special tokens and all."""
    bpe = BPETokenizer.train([TEXT], 300)
    made = {
        "char": lambda: CharTokenizer("".join(sorted(set(TEXT)))),
        "char, specials": lambda: CharTokenizer("".join(sorted(set(TEXT))), ("<a>", "<b>")),
        "bpe": lambda: bpe,
        "bpe, specials": lambda: BPETokenizer(bpe.model, ("<sep>", "<pad>")),
        "hf": lambda: HFTokenizer(byte_level(bpe, ["<s>", "<pad>"])),
        "gpt2": lambda: request.getfixturevalue("gpt2"),
    }[kind]()
    write_tokenizer(made, tmp_path, 1000)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT if kind != "hf" else TEXT.replace("<s>", "")  # which transformers takes for the special token
    ids = made.encode(text).tolist()
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == text
    assert len(theirs) == made.vocab_size
    back = read_tokenizer(tmp_path)
    assert type(back) is type(made) and (back.pieces, back.specials) == (made.pieces, made.specials)
    assert back.encode(TEXT).tolist() == made.encode(TEXT).tolist()


def test_gpt2_from_its_two_files(shared: Path, tmp_path: Path, gpt2: GPT2Tokenizer) -> None:
    """vocab.json and merges.txt, GPT-2's own, are the kind gpt2, piece by piece."""
    for ours, theirs in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (tmp_path / theirs).write_bytes((shared / "tokenizers" / "gpt2" / ours).read_bytes())
    found = read_tokenizer(tmp_path)
    assert isinstance(found, GPT2Tokenizer) and found.pieces == gpt2.pieces


def test_two_files_with_special_tokens(tmp_path: Path) -> None:
    """In two files, tokens that no merge makes are special: they stand for no bytes, and no text gives them."""
    data = json.loads(byte_level(BPETokenizer.train([TEXT], 300), ["<s>", "<pad>"]).to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(data["model"]["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in data["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    found = read_tokenizer(tmp_path)
    assert isinstance(found, HFTokenizer) and found.pieces[:2] == [b"", b""]
    assert found.decode(found.encode(PROBE)) == PROBE and min(found.encode(TEXT)) > 1


def sentencepiece() -> Any:
    """A tokenizer of LLaMA's form: a space is a visible sign, and one is put before the text."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE({"<unk>": 0, "▁": 1, "a": 2}, [], unk_token="<unk>"))
    model.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    return model


def lower() -> Any:
    model = byte_level(BPETokenizer.train([TEXT], 300), ["<s>"])
    model.normalizer = tokenizers.normalizers.Lowercase()
    return model


def prefixed() -> Any:
    model = byte_level(BPETokenizer.train([TEXT], 300), ["<s>"])
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    return model


def greedy() -> Any:
    model = byte_level(BPETokenizer.train([TEXT], 300), ["<s>"])
    model.add_tokens([tokenizers.AddedToken("<mask>", lstrip=True)])
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [(sentencepiece, "byte-level"), (lower, "changes the text"), (prefixed, "changes the text"), (greedy, "swallows")],
)
def test_a_tokenizer_that_loses_text(tmp_path: Path, make: Any, reason: str) -> None:
    """A tokenizer whose ids are not bytes that give the text again is refused with the reason, and the way without."""
    make().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=rf"tokenizer.json.*{reason}.*gptlab\.from_hf"):
        read_tokenizer(tmp_path)
