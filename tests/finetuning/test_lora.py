"""Adapters: beside peft, merged, and for the same model in transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gptlab import presets
from gptlab.config import FinetuneConfig, ModelConfig
from gptlab.convert import adapters as convert
from gptlab.convert.hf import from_hf
from gptlab.finetuning import lora
from gptlab.model import kernels
from gptlab.model.transformer import Transformer, build
from tests.convert.hf_models import MODELS
from tests.convert.test_hf import ids

peft = pytest.importorskip("peft", reason="needs peft: install the extra dev")

HOW = FinetuneConfig(task="mood", rank=3, alpha=5.0)
# One of each class: plain, transposed, q k v apart, turned pairs, head by head, gate and value, two stacks.
EXCHANGED = [
    name
    for name in MODELS
    if name.split(",")[0] not in {n.split(",")[0] for n in list(MODELS)[: list(MODELS).index(name)]}
]


def drawn(model: Transformer, seed: int = 0) -> None:
    """Adapters that do something: B is not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".B"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def adapted(config: ModelConfig, **more: Any) -> Transformer:
    model = build(config, seed=1, kernel=kernels.sdpa)
    lora.adapt(model, HOW.but(**more), [])
    drawn(model)
    return model


def inputs(config: ModelConfig) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {"ids": ids(config.vocab_size, 9)}
    if config.category == "encoder-decoder":
        given["source"] = ids(config.vocab_size, 7, seed=2)
    if config.category == "prefix":
        given["prefix"] = torch.tensor([3, 1, 5])
    return given


MINIS = [name for name in presets.SIZES if name.endswith("-mini")]


@pytest.mark.parametrize("name", MINIS)
def test_nothing_at_first_and_merged_at_last(name: str) -> None:
    """Before the first step an adapted model computes what it did; trained, it computes what its merged weights do."""
    config = presets.preset(name, vocab_size=50, context=12)
    plain = build(config, seed=1)
    model = build(config, seed=1)
    lora.adapt(model, HOW, [])
    with torch.inference_mode():
        assert torch.equal(model(**inputs(config)), plain(**inputs(config)))
        drawn(model)
        found = model(**inputs(config))
        assert not torch.allclose(found, plain(**inputs(config)), atol=1e-3)
        other = build(config)
        other.load_state_dict(lora.merged(model))
        torch.testing.assert_close(other(**inputs(config)), found, rtol=1e-4, atol=1e-5)
        again = build(config)
        again.load_state_dict(lora.merge(lora.merged(plain), lora.adapters(model)))
        torch.testing.assert_close(again(**inputs(config)), found, rtol=1e-4, atol=1e-5)


def test_only_adapters_learn() -> None:
    """Parameters that learn are A, B and the rows of new tokens, as many as their shapes say; all else stands still."""
    config = presets.preset("gpt2-mini", vocab_size=50, context=12)
    model = build(config, seed=1)
    lora.adapt(model, HOW, [48, 49])
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    C = config.d_model
    matrices = ((C, 3 * C), (C, C), (C, 4 * C), (4 * C, C))
    assert sum(p.numel() for p in learning.values()) == 4 * 3 * sum(a + b for a, b in matrices) + 2 * C
    drawn(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(learning.values(), 0.5)
    model(ids(50, 9)).square().mean().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (name not in learning), name


def test_new_rows() -> None:
    """Of a table with new tokens, their rows alone have gradients, those that the whole table would have there."""
    config = presets.preset("gptlab-fables", vocab_size=50, context=12, n_layers=1)
    plain, model = build(config, seed=1), build(config, seed=1)
    lora.adapt(model, HOW, [7, 49])
    given = torch.tensor([[7, 3, 49, 7]])
    plain(given).square().mean().backward()
    model(given).square().mean().backward()
    rows = model.parametrizations.embedding[0].rows.grad
    torch.testing.assert_close(rows, plain.embedding.grad[[7, 49]])


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dropout_is_for_training(dropout: float) -> None:
    """In evaluation nothing is dropped; in training whole features of A are, the others grow by 1 / (1 - p)."""
    layer = lora.LoRA(torch.zeros(6, 40), 2, 4.0, dropout, "a")
    layer.double()
    torch.manual_seed(0)
    with torch.no_grad():
        layer.B.normal_()
    nothing = torch.zeros(6, 40, dtype=torch.float64)
    whole = layer.scale * layer.B @ layer.A
    torch.testing.assert_close(layer.eval()(nothing), whole)
    found = layer.train()(nothing)
    kept = (found != 0).any(0)
    torch.testing.assert_close(found, whole * kept / (1 - dropout))
    assert bool(kept.all()) == (dropout == 0)


@pytest.mark.parametrize("targets", [("qkv",), ("qkv", "out", "up", "down")])
def test_peft_loads_them_beside_our_model(tmp_path: Path, targets: tuple[str, ...]) -> None:
    """RUN/adapter is in peft's format: peft, given our model, computes what ours does."""
    config = presets.preset("llama-mini", vocab_size=50, context=12)
    model = adapted(config, targets=targets)
    lora.write(tmp_path, lora.adapters(model), "base")
    theirs = peft.PeftModel.from_pretrained(build(config, seed=1), tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids=ids(50, 9)), model(ids(50, 9)), rtol=1e-4, atol=1e-5)
    found = lora.read(tmp_path)
    for name, adapter in lora.adapters(model).items():
        assert torch.equal(found[name].A, adapter.A) and torch.equal(found[name].B, adapter.B)
        assert found[name].scale == pytest.approx(adapter.scale)


def in_transformers(config: ModelConfig, theirs: Any) -> Tensor:
    given = inputs(config)
    more = {"input_ids": given["source"], "decoder_input_ids": given["ids"]} if "source" in given else {}
    with torch.inference_mode():
        return theirs(**more).logits if more else theirs(given["ids"]).logits


@pytest.mark.parametrize("name", EXCHANGED)
def test_the_same_adapter_in_transformers(name: str, tmp_path: Path) -> None:
    """An adapter of ours, exported and loaded by peft, gives the same logits there; read back, it is the same."""
    theirs = MODELS[name]().double().eval()
    ours = from_hf(theirs)
    config = ours.config
    lora.adapt(ours, HOW, [])
    drawn(ours)
    pairs = {n: (a.A, a.B) for n, a in lora.adapters(ours).items()}
    exported = convert.to_theirs(config, pairs)
    scale = next(iter(lora.adapters(ours).values())).scale
    added = {n: lora.Adapter(A, B, scale) for n, (A, B) in exported.items()}
    lora.write(tmp_path, added, "base", transposed=convert.transposed(config))
    beside = peft.PeftModel.from_pretrained(theirs, tmp_path, autocast_adapter_dtype=False)
    with torch.inference_mode():
        found = ours(**inputs(config))
        assert not torch.allclose(found, from_hf(MODELS[name]().double().eval())(**inputs(config)), atol=1e-3)
        torch.testing.assert_close(in_transformers(config, beside.double()), found, rtol=1e-6, atol=1e-6)
    for key, (A, B) in convert.to_ours(config, exported).items():
        torch.testing.assert_close(B @ A, pairs[key][1] @ pairs[key][0])
        assert A.shape == pairs[key][0].shape, "the rank stays"


@pytest.mark.parametrize(
    "name",
    [name if name in ("gpt2", "llama", "t5") else pytest.param(name, marks=pytest.mark.slow) for name in EXCHANGED],
)
def test_pefts_own_adapter_here(name: str, tmp_path: Path) -> None:
    """An adapter that peft made, q, k and v apart and some of them alone, merged here gives the same logits; where
    parts are one matrix with us, its rank is the sum of theirs."""
    theirs = MODELS[name]().double().eval()
    ours = from_hf(theirs)
    leaves = {n.rpartition(".")[2] for n, m in theirs.named_modules() if type(m).__name__ in ("Linear", "Conv1D")}
    leaves -= {"lm_head", "project_in", "project_out", "k_proj", "k"}
    made = peft.get_peft_model(theirs, peft.LoraConfig(r=2, lora_alpha=6, target_modules=sorted(leaves)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for n, p in made.named_parameters():
            if "lora_B" in n:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    made.double().save_pretrained(tmp_path)
    read = lora.read(tmp_path)
    pairs = convert.to_ours(ours.config, {n: (a.A.double(), a.B.double()) for n, a in read.items()})
    added = {n: lora.Adapter(A, B, 3.0) for n, (A, B) in pairs.items()}
    before = {n: p.detach() for n, p in ours.named_parameters()}
    ours.load_state_dict(lora.merge(before, added))
    with torch.inference_mode():
        torch.testing.assert_close(
            in_transformers(ours.config, made.eval()), ours(**inputs(ours.config)), rtol=1e-5, atol=1e-5
        )
    apart = [a for n, a in added.items() if n.endswith("attention.qkv.weight")]
    assert {len(a.A) for a in apart} == ({4} if {"q_proj", "q"} & leaves else {2})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"r": None}, "no r"),
        ({"modules_to_save": ["score"]}, "modules_to_save"),
    ],
)
def test_other_adapters_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    """What is more than W + scale B A is named and refused, never half read."""
    import json

    model = adapted(presets.preset("gpt2-mini", vocab_size=50, context=12, n_layers=1))
    lora.write(tmp_path, lora.adapters(model), "base")
    config = tmp_path / lora.CONFIG
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ValueError, match=reason):
        lora.read(tmp_path)


def test_a_rank_too_high() -> None:
    """A rank above that of a matrix is refused with both numbers."""
    with pytest.raises(ValueError, match=r"rank 500 .* 128"):
        adapted(presets.preset("gpt2-mini", vocab_size=50, context=12), rank=500)


def test_an_adapter_of_another_model() -> None:
    """An adapter of a weight that is not there, or of another shape, is refused by its name."""
    model = adapted(presets.preset("gpt2-mini", vocab_size=50, context=12, n_layers=2))
    other = lora.merged(build(presets.preset("gpt2-mini", vocab_size=50, context=12, n_layers=1)))
    with pytest.raises(ValueError, match=r"blocks\.1\.attention"):
        lora.merge(other, lora.adapters(model))
    narrow = lora.merged(build(presets.preset("gpt2-mini", vocab_size=50, context=12, n_layers=2, d_model=64)))
    with pytest.raises(ValueError, match=r"\(384, 128\)"):
        lora.merge(narrow, lora.adapters(model))
    llama = presets.preset("llama-mini", vocab_size=50, context=12)
    name = "transformer.h.0.attn.c_attn.weight"
    with pytest.raises(ValueError, match=r"c_attn.*LlamaForCausalLM"):
        convert.to_ours(llama, {name: (torch.zeros(2, 128), torch.zeros(384, 2))})
