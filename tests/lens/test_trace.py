"""A trace holds what the model computes: the same numbers as its logits, the old GPTLab's, and Hugging Face's; and
nobody pays for it who does not look."""

import copy
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gptlab import lab
from gptlab.convert.hf import from_hf
from gptlab.lens.trace import LAYERED, trace
from gptlab.model import attention, block, kernels, mlps, residuals, taps, transformer
from gptlab.model.attention import Attention
from gptlab.model.layouts import begin
from gptlab.model.transformer import Transformer, build
from gptlab.presets import SIZES, preset
from gptlab.text.chars import CharTokenizer

TEXT, THEN = "the quick brown fox", " jumps"
TAPPED = (attention, block, mlps, residuals, transformer)  # the modules that say `tap`
MINIATURES = [name for name in SIZES if name.endswith("-mini")]
CHARACTERS = CharTokenizer.train([TEXT + THEN], specials=("<start>", "<gmask>"))


def model_of(name: str, **changes: Any) -> Transformer:
    """A miniature whose blocks do something, norms and biases too."""
    bridge = {"glm-mini": CHARACTERS.vocab_size - 1, "t5-mini": CHARACTERS.vocab_size - 2}.get(name)
    changes = {"bridge": (bridge,)} | changes if bridge else changes
    model = build(preset(name, vocab_size=CHARACTERS.vocab_size, context=30, **changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def traced(model: Transformer, **more: Any) -> Any:
    return trace(model, CHARACTERS, CHARACTERS.encode(TEXT), CHARACTERS.encode(THEN), **more)


@pytest.mark.parametrize("name", MINIATURES)
def test_patterns_and_logits(name: str) -> None:
    """Rows of every pattern sum to one; a causal model's have nothing above the diagonal; the logits are the model's
    own, by its own kernel, for what `layouts.begin` makes of the text."""
    model = model_of(name)
    read = traced(model)
    T, H = len(read.ids), model.config.n_heads
    stacks = [("pattern", read)] + ([("pattern", read.encoder), ("cross_pattern", read)] if model.encoder else [])
    for kind, some in stacks:
        layers = getattr(some, kind)
        S = len(read.encoder.ids) if kind == "cross_pattern" else len(some.ids)
        for pattern in layers:
            assert pattern.shape == (H, len(some.ids), S) and pattern.min() >= 0
            np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
            if model.config.category == "causal" or (some is read and kind == "pattern" and model.encoder):
                assert not np.triu(pattern, 1).any()
    assert len(read.pattern) == model.config.n_layers and len(read.tokens) == T == read.logits.shape[0]
    begun = begin(model.config, torch.as_tensor(CHARACTERS.encode(TEXT).astype(int))[None])
    begun["ids"] = torch.cat([begun["ids"], torch.as_tensor(CHARACTERS.encode(THEN).astype(int))[None]], 1)
    with torch.no_grad():
        expected = model(**begun)[0].numpy()
    np.testing.assert_array_equal(read.ids, begun["ids"][0])
    np.testing.assert_allclose(read.logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*MINIATURES, "opt-350m"])
def test_the_lens_at_the_last_layer_is_the_logits(name: str) -> None:
    """Final norm, projection, head, scale and bias on what the last block leaves give the logits."""
    changes: Any = {} if "mini" in name else dict(n_layers=2, d_model=32, n_heads=2, d_embedding=16)
    model = model_of(name, **changes, bias_lm_head=name == "gpt2-mini")
    read = traced(model)
    with torch.no_grad():
        x = model.norm(torch.as_tensor(read.resid_post[-1]))
        if model.config.d_embedding != model.config.d_model:
            x = F.linear(x, model.embedding_out.weight)  # type: ignore[arg-type]
        x = x * model.config.logit_scale
        table = model.embedding if model.config.tied_embeddings else model.head
        logits = x @ table.T  # type: ignore[union-attr]
        if model.head_bias is not None:
            logits = logits + model.head_bias
    np.testing.assert_allclose(logits, read.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MINIATURES)
def test_the_stream_adds_up(name: str) -> None:
    """What each block hands on is what the next one is given; of pre-norm blocks, it is what came in and what the
    branches add; z is the pattern times the values, head by head."""
    model = model_of(name)
    read = traced(model)
    sides = [read, read.encoder] if model.encoder else [read]
    for some in sides:
        for before, after in zip(some.resid_post, some.resid_pre[1:], strict=False):
            np.testing.assert_array_equal(before, after)
        groups = model.config.n_heads // model.config.n_kv_heads
        for pattern, v, z in zip(some.pattern, some.v, some.z, strict=True):
            np.testing.assert_allclose(pattern @ v.repeat(groups, 0), z, rtol=1e-4, atol=1e-5)
        if model.config.norm_placement in ("pre", "parallel"):
            added = [a + b for a, b in zip(some.attn_out, some.mlp_out, strict=True)]
            if some is read and model.encoder:
                added = [a + b for a, b in zip(added, some.cross_out, strict=True)]
            for before, more, after in zip(some.resid_pre, added, some.resid_post, strict=True):
                np.testing.assert_allclose(before + more, after, rtol=1e-4, atol=1e-5)
    for name_of_field in LAYERED:
        if "cross" not in name_of_field and not (name_of_field == "resid_mid" and "palm" in name):
            assert len(getattr(read, name_of_field)) == model.config.n_layers, name_of_field


def test_the_old_gptlab(shared: Path, tmp_path: Path) -> None:
    """Of the old program's checkpoint: ids, logits and the last layer's pattern are those that it computed itself."""
    folder = shared / "reference" / "gptlab-cpu"
    expected = np.load(folder / "expected.npz")
    loaded = lab.load(lab.import_run(folder, tmp_path / "old").path, device="cpu")
    read = loaded.trace((folder / "expected_greedy.txt").read_text(encoding="utf-8")[:31])
    assert read.ids.tolist() == expected["ids"].tolist()
    assert read.pattern[-1].shape == expected["last_layer_pattern"].shape == (4, 31, 31)
    np.testing.assert_allclose(read.pattern[-1], expected["last_layer_pattern"], atol=1e-5)
    np.testing.assert_allclose(read.logits, expected["logits"], atol=1e-4)


def test_hugging_face() -> None:
    """Patterns and hidden states of an imported GPT-2 are those of transformers."""
    models = pytest.importorskip("tests.convert.hf_models", reason="needs transformers: install the extra hf")
    theirs = models.drawn("gpt2")
    ours = from_hf(theirs)
    tokenizer = CharTokenizer.train(["".join(map(chr, range(97, 97 + ours.vocab_size)))])
    ids = np.random.default_rng(0).integers(0, ours.vocab_size, ours.context)
    read = trace(ours, tokenizer, ids)
    with torch.no_grad():
        out = theirs(input_ids=torch.as_tensor(ids)[None], output_attentions=True, output_hidden_states=True)
    assert len(out.attentions) == len(read.pattern) == 3
    for pattern, expected in zip(read.pattern, out.attentions, strict=True):
        np.testing.assert_allclose(pattern, expected[0], rtol=1e-9, atol=1e-12)
    # Theirs: what each block is given, and at the end what the final norm gives out.
    for stream, expected in zip([*read.resid_pre, read.norm], out.hidden_states, strict=True):
        np.testing.assert_allclose(stream, expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(read.logits, out.logits[0], rtol=1e-9, atol=1e-9)


class Counted(TorchDispatchMode):
    """Counts every operator that runs within it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operators(model: Transformer) -> Counter[str]:
    """Those of one training step."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    ids = torch.arange(2 * 9).reshape(2, 9) % model.vocab_size
    inputs = {"source": ids} if model.encoder else {}
    with Counted() as counted:
        logits = model(ids[:, :-1], **inputs)
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
    return counted.count


@pytest.mark.parametrize("name", ["gpt2-mini", "glm-mini", "t5-mini", "palm-mini"])
def test_taps_that_nobody_uses_cost_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step runs the same operators, each as often, as without any tap; and a trace taken in between leaves
    it so. While somebody listens with the formula for a kernel, the operators are others."""
    model = model_of(name)
    as_it_is = operators(model)
    traced(model)
    assert operators(model) == as_it_is
    for module in TAPPED:
        monkeypatch.setattr(module, "tap", lambda *_: None)
    assert operators(model) == as_it_is and sum(as_it_is.values()) > 100
    for part in model.modules():
        if isinstance(part, Attention):
            part.kernel = kernels.reference
    assert operators(model) != as_it_is


def test_every_tap_is_replaced_in_that_count() -> None:
    """Whatever in model/ imports `tap` is among the modules that the test above takes it from."""
    root = Path(taps.__file__).parent
    using = {path.stem for path in root.rglob("*.py") if "import tap\n" in path.read_text(encoding="utf-8")}
    assert using == {module.__name__.rpartition(".")[2] for module in TAPPED}


def test_only_what_is_asked_for() -> None:
    """`names` chooses what is kept; asking for anything else says what there is; an encoder's part is its own trace."""
    read = traced(model_of("t5-mini"), names=("*.pattern", "logits"))
    assert {name.rpartition(".")[2] for name in read} == {"pattern", "logits"}
    assert set(read.encoder) == {"blocks.0.attention.pattern", "blocks.1.attention.pattern"}
    assert read["blocks.1.attention.pattern"] is read.pattern[1]
    assert read.encoder.pattern[1] is read["encoder.blocks.1.attention.pattern"]
    with pytest.raises(AttributeError, match=r"blocks\.0\.attention\.pattern"):
        read.mlp_out  # noqa: B018
    with pytest.raises(ValueError, match="no encoder"):
        traced(model_of("gpt2-mini")).encoder  # noqa: B018


def test_it_can_be_kept_and_copied() -> None:
    """A trace can be compared, hashed, copied and shown, though it holds arrays."""
    read = traced(model_of("gpt2-mini"))
    again = copy.deepcopy(read)
    assert read == read and read != again and len({read, again}) == 2
    np.testing.assert_array_equal(again.pattern[0], read.pattern[0])
    assert list(dataclasses.replace(read, tokens=()).tokens) == [] and len(repr(read)) < 2000


def test_the_labels_of_a_trace() -> None:
    """Tokens are labelled as they are read: text, what is put between, and an encoder's by themselves."""
    read = traced(model_of("glm-mini"))
    assert list(read.tokens) == [*TEXT.replace(" ", "␣"), "<gmask>", *THEN.replace(" ", "␣")]
    assert read.prefix == len(TEXT)
    read = traced(model_of("t5-mini"))
    assert list(read.tokens) == ["<start>", *THEN.replace(" ", "␣")] and read.prefix == 0
    assert "".join(read.source_tokens) == TEXT.replace(" ", "␣") == "".join(read.encoder.tokens)


@pytest.mark.parametrize("name", ["gpt2-mini", "glm-mini", "t5-mini"])
def test_what_cannot_be_traced(name: str) -> None:
    """A text without tokens, and one that is longer than the context, are errors, and leave no listener behind."""
    model = model_of(name)
    with pytest.raises(ValueError, match="no tokens"):
        trace(model, CHARACTERS, CHARACTERS.encode(""))
    with pytest.raises(ValueError, match="reads 30: trace a shorter one"):
        trace(model, CHARACTERS, CHARACTERS.encode(31 * "e"))
    read = len(trace(model, CHARACTERS, CHARACTERS.encode("e")).ids)  # by the decoder, with its bridge
    with pytest.raises(ValueError, match="31 tokens long"):
        trace(model, CHARACTERS, CHARACTERS.encode("e"), CHARACTERS.encode((31 - read) * "e"))
    assert not taps.LISTENERS
    assert all(part.kernel is kernels.sdpa for part in model.modules() if isinstance(part, Attention))


def test_the_whole_context_can_be_traced() -> None:
    """As many tokens as the model reads, but not one more; the last row is that of a shorter text's end."""
    model = model_of("gpt2-mini")
    ids = CHARACTERS.encode((TEXT + THEN) * 2)
    whole, part = trace(model, CHARACTERS, ids[:30]), trace(model, CHARACTERS, ids[:12])
    assert len(whole.ids) == 30
    for long, short in zip(whole.pattern, part.pattern, strict=True):
        np.testing.assert_allclose(long[:, :12, :12], short, atol=1e-5)
