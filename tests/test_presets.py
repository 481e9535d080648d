"""The models by name, against the table of published facts; and names, without torch."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import gptlab
from gptlab.presets import ALIASES, SIZES, preset, settings_for
from gptlab.registry import unknown
from gptlab.text import corpora
from gptlab.text.fables import corpus as fables
from gptlab.training.stories import Stories

# Fields of the same meaning under another name.
RENAMED = {"max_context": "context", "embedding_rows": "vocab_size", "n_decoder_layers": "n_layers"}
# Facts of the table that follow from others, or that a preset says by another field, checked below.
SAID_OTHERWISE = {
    "vocab_size",  # of the tokenizer; the table's rows are what a model has
    "gated_ffn",  # by the activation
    "parallel_block",  # by the norm's placement
    "relative_kind",  # by the position
    "attention_pattern",  # by category and band
    "position_rows",
    "norms_per_layer",
    "top_query_rows",
}
ABOUT = {"special", "survey_row", "survey_differences", "diff_pct", "diff_cause"}
NAMES = [*SIZES, *ALIASES]
# In no table of facts: our own, and shapes for a PC (see test_nanogpt_cpu and the tests below).
UNLISTED = {"nanogpt-cpu", "gptlab-fables", "gptlab-pc", "opt-350m"} | {
    name for name in SIZES if name.endswith("-mini")
}


@pytest.fixture(scope="module")
def facts(shared: Path) -> dict[str, dict[str, Any]]:
    return tomllib.loads((shared / "architectures.toml").read_text(encoding="utf-8"))["models"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNLISTED])
def test_facts(facts: dict[str, dict[str, Any]], name: str) -> None:
    """Every fact of the table is the preset's, and the parameters are as many, to the last one."""
    listed = next(facts[n] for n in (name, *(a for a in ALIASES if ALIASES[a] == name)) if n in facts)
    config = preset(name)
    ours = vars(config)
    for key, value in listed.items():
        if key in SAID_OTHERWISE or key in ABOUT or key.startswith(("published_", "computed_", "hf_")):
            continue
        if key == "norm_placement" and listed["parallel_block"]:
            value = "parallel"
        assert ours[RENAMED.get(key, key)] == value, key
    assert listed["gated_ffn"] == (config.activation in ("swiglu", "geglu", "geglu_tanh"))
    assert listed["parallel_block"] == (config.norm_placement == "parallel")
    assert listed.get("norms_per_layer", 2) == (1 if listed["parallel_block"] else 2)
    relative = {"t5-relative": "t5", "transformer-xl-relative": "transformer-xl"}
    assert listed["relative_kind"] == relative.get(config.position, "none")
    rows = config.context + config.position_offset if config.position == "learned" else 0
    assert listed["position_rows"] == rows
    assert listed.get("top_query_rows", 0) == config.context * config.query_layer
    pattern = {"causal": "dense causal", "prefix": "prefix", "encoder-decoder": "encoder bidirectional"}[
        config.category
    ]
    assert listed["attention_pattern"].startswith("alternating" if config.band_width else pattern)
    counted = gptlab.count(config)
    assert counted.total == listed["computed_params"]
    assert counted.non_embedding == listed["computed_non_embedding"]


def test_every_entry_is_a_preset(facts: dict[str, dict[str, Any]]) -> None:
    """All 28 entries of the table have their model here; one of them is a preset at another vocabulary."""
    assert set(facts) - set(NAMES) == {"nanogpt-seed-gpu-shakespeare"}


def test_opt_350m() -> None:
    """The one OPT with norms behind the branches and a narrower table: 331,196,416 parameters, as its weights have."""
    assert gptlab.count(preset("opt-350m")).total == 331_196_416


def side(a: int, b: int) -> int:
    """-1, 0 or 1: whether a is less than, equal to or more than b."""
    return (a > b) - (a < b)


@pytest.mark.parametrize("name", [name for name in SIZES if name.endswith("-mini")])
def test_a_miniature_keeps_the_shape(name: str) -> None:
    """What makes a family itself is in its miniature: all but sizes is as in the full-size model; and all miniatures
    have about as many parameters."""
    family = name.removesuffix("-mini")
    full = next(preset(n) for n in SIZES if n.startswith(family) and not n.endswith("-mini"))
    mini = preset(name)
    sizes = {"n_layers", "n_encoder_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "d_embedding"}
    sizes |= {"context", "vocab_size", "norm_eps", "residual_alpha", "logit_scale", "band_width"}
    assert {k: v for k, v in vars(mini).items() if k not in sizes} == {
        k: v for k, v in vars(full).items() if k not in sizes
    }
    for same in ("n_encoder_layers", "band_width"):
        assert bool(getattr(mini, same)) == bool(getattr(full, same))
    assert (mini.n_kv_heads == 1) == (full.n_kv_heads == 1)
    assert side(mini.n_heads * mini.head_dim, mini.d_model) == side(full.n_heads * full.head_dim, full.d_model)
    if full.logit_scale != 1:
        assert mini.logit_scale == mini.d_model**-0.5
    if full.residual_alpha != 1:
        assert mini.residual_alpha == (2 * mini.n_layers) ** 0.5
    assert 0.95 < gptlab.count(mini).total / 816_256 < 1.05


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


def test_settings() -> None:
    """A preset's own training settings stand over the recipe's defaults, and under what a recipe says itself."""
    plain, ours = settings_for("default", None), settings_for("default", "gptlab-fables")
    assert (ours.preset, ours.tokenizer, ours.starts, ours.lr) == ("gptlab-fables", "bpe", "blank-lines", 0.012)
    assert plain.tokenizer == "char" and settings_for("default", "gptlab-cpu") == plain
    classic = settings_for("classic", "gptlab-fables")
    assert (classic.tokenizer, classic.lr, classic.optimizer) == ("bpe", 3e-4, "adamw")


@pytest.mark.parametrize("lang", ["fr", "en+pt"])  # where stories have the most tokens
def test_the_fables_preset_holds_every_story(lang: str) -> None:
    """With the vocabulary that it is trained with, the longest validation story fits its context, separators too."""
    config = settings_for("default", "gptlab-fables")
    text = corpora.find(f"fables:{lang}")
    tokenizer = corpora.make_tokenizer(config.tokenizer, text, config.vocab_size)
    stories = Stories(fables.validation(fables.languages(text.name.replace("-", ":"))), tokenizer)
    assert stories.fit(preset("gptlab-fables").context)
