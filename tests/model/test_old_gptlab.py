"""The old GPTLab's checkpoint: imported, it computes what it did there; and a stranger's file can do no harm."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import ModelConfig
from gptlab.convert.seed import is_seed
from gptlab.lab import import_run
from gptlab.model import kernels
from gptlab.model.transformer import Transformer

CHARACTERS = "\n abc"
C, L, V, N = 8, 2, len(CHARACTERS), 6


def weights() -> dict[str, torch.Tensor]:
    """A tiny checkpoint with the names that the old program gave."""
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (V, C), "transformer.wpe.weight": (N, C)}
    for i in range(L):
        h = f"transformer.h.{i}"
        for x in "qkv":
            shapes |= {f"{h}.attn.{x}_linear.weight": (C, C), f"{h}.attn.{x}_linear.bias": (C,)}
        shapes |= {f"{h}.attn.c_proj.weight": (C, C), f"{h}.attn.masks": (1, 1, N, N)}
        shapes |= {f"{h}.mlp.c_fc.weight": (4 * C, C), f"{h}.mlp.c_proj.weight": (C, 4 * C)}
        shapes |= {f"{h}.ln_{n}.{x}": (C,) for n in (1, 2) for x in ("a_2", "b_2")}
    shapes |= {"transformer.ln_f.a_2": (C,), "transformer.ln_f.b_2": (C,)}
    generator = torch.Generator().manual_seed(0)
    out = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return out | {"lm_head.weight": out["transformer.wte.weight"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    config = dict(vocab_size=V, max_len=N, n_embd=C, n_head=2, n_layer=L, dropout=0.2, bias=False, batch_size=32)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.txt").write_text(CHARACTERS, encoding="utf-8", newline="")
    torch.save(weights(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def imported(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> gptlab.Lab:
    out = tmp_path_factory.mktemp("imported") / "run"
    import_run(shared / "reference" / "gptlab-cpu", out)
    return gptlab.load(out, device="cpu")


def test_expected_logits(shared: Path, imported: gptlab.Lab) -> None:
    """Logits of every position, and the last layer's attention pattern, are those that the old program computed."""
    expected = np.load(shared / "reference" / "gptlab-cpu" / "expected.npz")
    ids = torch.from_numpy(expected["ids"])[None]
    patterns = []

    def listening(*args, **kwargs):  # type: ignore[no-untyped-def]
        out, pattern = kernels.reference(*args, **kwargs)
        patterns.append(pattern)
        return out, pattern

    model = Transformer(imported.config, kernel=listening).eval()
    model.load_state_dict(imported.model.state_dict())
    with torch.no_grad():
        for logits in (imported.model(ids), model(ids)):
            assert np.abs(logits[0].numpy() - expected["logits"]).max() < 1e-4
    assert len(patterns) == 4
    assert np.abs(patterns[-1][0].numpy() - expected["last_layer_pattern"]).max() < 1e-5
    text = (shared / "reference" / "gptlab-cpu" / "expected_greedy.txt").read_text(encoding="utf-8")
    assert imported.tokenizer.encode(text[:31]).tolist() == expected["ids"].tolist()


def test_expected_text(shared: Path, imported: gptlab.Lab) -> None:
    """Greedy text, the window sliding, is the old program's, character by character."""
    text = (shared / "reference" / "gptlab-cpu" / "expected_greedy.txt").read_text(encoding="utf-8")
    assert len(text) == 91
    assert imported.generate(text[:31], tokens=60, temperature=0, window="slide") == text[31:]


def test_its_tokenizer(shared: Path, imported: gptlab.Lab) -> None:
    """The ids of the old program's sentence."""
    ids = [26, 1, 57, 60, 58, 72, 69, 52, 1, 101, 1, 67, 66, 101, 71, 60, 54, 52, 10, 1, 64, 52, 70, 1]
    assert imported.tokenizer.encode("A figura é poética, mas ").tolist() == ids
    assert imported.tokenizer.vocab_size == 115
    assert sum(p.numel() for p in imported.model.parameters()) == 207_936


def test_every_weight_arrives(folder: Path, tmp_path: Path) -> None:
    """All numbers of a checkpoint, but the masks and the head's copy, are in the imported model, each once."""
    run = import_run(folder, tmp_path / "out")
    ours = torch.cat([p.detach().flatten() for p in gptlab.load(run.path, device="cpu").model.parameters()])
    kept = {n: w for n, w in weights().items() if not n.endswith("masks") and n != "lm_head.weight"}
    theirs = torch.cat([w.flatten() for w in kept.values()])
    assert torch.equal(ours.sort().values, theirs.sort().values)


class Bait:
    """What a stranger's pickle may hold: unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch", "torch-old", "pickle"])
@pytest.mark.parametrize("place", ["value", "whole", "key"])
def test_a_malicious_pickle(folder: Path, tmp_path: Path, form: str, place: str) -> None:
    """A checkpoint with code in it is refused with a ValueError, and the code does not run; nor is a run made."""
    made = tmp_path / "made"
    pickle.loads(pickle.dumps(Bait(made)))  # the bait is a live one
    assert made.exists()
    made.unlink()
    content = {"value": {**weights(), "extra": Bait(made)}, "whole": Bait(made), "key": {Bait(made): 1}}[place]
    path = folder / "pytorch_model.bin"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is refused"):
        import_run(folder, tmp_path / "out")
    assert not made.exists() and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file(scratch: Path, zipped: bool, data: st.DataObject) -> None:
    """A checkpoint that is cut short, or has a wrong byte, is a ValueError with its name, or is read; never another."""
    from gptlab.convert.seed import read_pickle

    path = scratch / "weights.bin"
    torch.save({"a": torch.arange(6.0), "b": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:at]
    else:
        damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path.write_bytes(damaged)
    try:
        found = read_pickle(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


def spoil(weights: dict[str, torch.Tensor], how: str) -> None:
    if how == "lacks":
        del weights["transformer.h.1.mlp.c_fc.weight"]
    elif how == "too much":
        weights["transformer.h.2.ln_1.a_2"] = torch.ones(C)
    elif how == "another shape":
        weights["transformer.wpe.weight"] = torch.ones(N + 1, C)
    elif how == "ragged":
        weights["transformer.h.0.attn.q_linear.weight"] = torch.ones(C, C + 1)
    elif how == "a number":
        weights["transformer.ln_f.a_2"] = torch.tensor(1.0)
    elif how == "another head":
        weights["lm_head.weight"] = torch.ones(V, C)


@pytest.mark.parametrize("how", ["lacks", "too much", "another shape", "ragged", "a number", "another head"])
def test_weights_that_do_not_fit(folder: Path, tmp_path: Path, how: str) -> None:
    """A weight that is missing, too much, of a wrong shape, or would be dropped, is a ValueError; no run is made."""
    theirs = weights()
    spoil(theirs, how)
    torch.save(theirs, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin"):
        import_run(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "pytorch_model.bin"])
def test_a_missing_file(folder: Path, tmp_path: Path, name: str) -> None:
    """A folder that lacks one of the three files is not a checkpoint, and the error names the file."""
    assert is_seed(folder)
    (folder / name).unlink()
    assert not is_seed(folder)
    with pytest.raises(ValueError, match=name):
        import_run(folder, tmp_path / "out")


def test_a_vocabulary_of_another_size(folder: Path, tmp_path: Path) -> None:
    """vocab.txt and config.json must agree; the error has both numbers. A line end is a character as any other."""
    (folder / "vocab.txt").write_text(CHARACTERS + "d\r", encoding="utf-8", newline="")
    with pytest.raises(ValueError, match=rf"{V + 2} characters.* {V}"):
        import_run(folder, tmp_path / "out")


def test_the_run_needs_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Once imported, the checkpoint may go: the run has all."""
    run = import_run(folder, tmp_path / "out")
    shutil.rmtree(folder)
    lab = gptlab.load(run.path, device="cpu")
    assert lab.config == ModelConfig.read(dict(vocab_size=V, max_len=N, n_embd=C, n_head=2, n_layer=L))
    assert len(lab.generate("a", tokens=12)) == 12
