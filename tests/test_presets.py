"""The models by name, against the table of published facts; and names, without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gptlab
from gptlab.presets import ALIASES, SIZES, preset
from gptlab.registry import unknown

# Fields of the same meaning under another name, and facts that are a formula of ours.
RENAMED = {"max_context": "context"}
# What a preset has no field for, and the only value that it can have.
FIXED = {
    "category": "causal",
    "embedding_norm": False,
    "relative_kind": "none",
    "gated_ffn": False,
    "parallel_block": False,
    "attention_scale": "1/sqrt(head_dim)",
    "embedding_scale": 1.0,
    "logit_scale": 1.0,
    "attention_pattern": "dense causal",
    "norms_per_layer": 2,
}
NAMES = [*SIZES, *ALIASES]
UNLISTED = {"nanogpt-cpu"}  # in no table of facts; see test_nanogpt_cpu


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads((shared / "architectures.toml").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNLISTED])
def test_facts(facts: dict[str, dict[str, Any]], name: str) -> None:
    """Every field of the table that a preset has, it has with the table's value; and the parameters are as many."""
    listed = next(facts[n] for n in (name, *(a for a in ALIASES if ALIASES[a] == name)) if n in facts)
    config = preset(name)
    ours = vars(config)
    shown = {RENAMED.get(key, key): value for key, value in listed.items()}
    assert ours == {key: shown[key] for key in ours}
    assert {key: listed[key] for key in FIXED} == FIXED
    assert (listed["embedding_rows"], listed["position_rows"]) == (config.vocab_size, config.context)
    counted = gptlab.count(config)
    assert counted.total == listed["computed_params"]
    assert counted.non_embedding == listed["computed_non_embedding"]


def test_both_names() -> None:
    """A model's two names are one model."""
    assert preset("nanogpt-seed-cpu") == preset("gptlab-cpu")
    assert preset("nanogpt-seed-gpu") == preset("gptlab-gpu")


def test_published_counts(shared: Path) -> None:
    """The counts that were published or measured, at 115 characters, at 65, and with GPT-2's vocabulary."""
    known = tomllib.loads((shared / "reference" / "seed_results.toml").read_text(encoding="utf-8"))
    assert gptlab.count(preset("gptlab-cpu")).total == known["cpu"]["parameters"]
    assert gptlab.count(preset("gptlab-gpu")).total == known["gpu"]["parameters"]
    assert gptlab.count(preset("gptlab-gpu", vocab_size=65)).total == 10_683_264
    bpe = gptlab.count(preset("gptlab-gpu", vocab_size=50257, context=32))
    assert bpe.total == known["gpt2_bpe"]["parameters"]
    for name, width, vocabulary in (("chars_384", 384, 115), ("gpt2_384", 384, 50257), ("chars_64", 64, 115)):
        size = "gptlab-gpu" if width == 384 else "gptlab-cpu"
        counted = gptlab.count(preset(size, vocab_size=vocabulary))
        assert counted.embedding == known["embedding_share"][name]["embedding"]


def test_nanogpt_cpu() -> None:
    """nanoGPT's CPU recipe: 0.80M parameters without its position table, as its own program prints."""
    counted = gptlab.count(preset("nanogpt-cpu"))
    assert f"{(counted.total - counted.position) / 1e6:.2f}M" == "0.80M"


def test_changes() -> None:
    """Any field may be changed by keyword, and what follows from it (head_dim, d_ff) follows."""
    config = preset("gptlab-cpu", d_model=96, n_heads=3, tied_embeddings=False)
    assert (config.head_dim, config.n_kv_heads, config.d_ff, config.tied_embeddings) == (32, 3, 384, False)


def test_unknown() -> None:
    """An unknown name is a ValueError with the close one and all known ones; an unknown field likewise."""
    with pytest.raises(ValueError) as error:
        preset("gpt2-124")
    assert "'gpt2-124'" in str(error.value) and "Did you mean 'gpt2-124m'" in str(error.value)
    assert all(name in str(error.value) for name in NAMES)
    with pytest.raises(ValueError, match="Did you mean 'n_heads'"):
        preset("gptlab-cpu", n_head=2)
    assert "Did you mean" not in str(unknown("fruit", "zzz", ["apple"]))


@pytest.mark.parametrize("module", ["gptlab", "gptlab.presets", "gptlab.config", "gptlab.registry", "gptlab.seeds"])
def test_no_torch(module: str) -> None:
    """Listing models and reading settings loads no torch, so that `--help` and `import gptlab` are quick."""
    code = f"import sys, {module}; print(*[m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names() -> None:
    """Each public name is there, listed by dir(), and is the thing itself; another is an AttributeError."""
    assert set(gptlab.__all__) <= set(dir(gptlab))
    for name in gptlab.__all__:
        assert callable(getattr(gptlab, name)), name
    with pytest.raises(AttributeError, match="nonsense"):
        gptlab.nonsense  # noqa: B018
