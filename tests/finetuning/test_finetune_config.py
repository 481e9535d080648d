"""The record of a fine-tuning: it goes out and comes back, and what cannot work is one error that says what to do."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from gptlab.config import KINDS, PRECISIONS, TARGETS, FinetuneConfig, TrainConfig
from gptlab.finetuning.builtin import TOLD
from gptlab.finetuning.data import USUAL
from gptlab.registry import OPTIMIZERS, SCHEDULES

COUNTS = st.integers(1, 10**9)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
FRACTION = st.floats(0, 1, exclude_max=True)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "none")
BUILT_IN = {name: kind for name, kind in KINDS.items() if name != kind}


@st.composite
def configs(draw: st.DrawFn) -> FinetuneConfig:
    task = draw(st.sampled_from([*KINDS]))
    values: dict[str, Any] = {}
    if task in BUILT_IN:
        number = 2 if BUILT_IN[task] == "translate" else 1
        values["languages"] = draw(st.just(()) | st.tuples(*[NAMES] * number))
    else:
        values = {"data": draw(NAMES), **{n: draw(st.none() | NAMES) for n in ("validation", "input", "output")}}
    if KINDS[task] == "classify":
        values["class_weights"] = draw(st.sampled_from(["none", "balanced"]))
        values["labels"] = draw(st.lists(NAMES | st.just("none")))
        values["answer"] = draw(st.sampled_from(["head", "text"]))
    values |= {name: draw(st.none() | COUNTS) for name in ("examples", "context", "steps", "eval_every", "patience")}
    values |= {name: draw(st.none() | POSITIVE) for name in ("lr", "lr_adam", "clip")}
    rank = draw(st.just(0) | st.integers(1, 64))
    if rank:
        values |= {"alpha": draw(st.none() | POSITIVE), "adapter_dropout": draw(FRACTION)}
        values["targets"] = tuple(draw(st.permutations(TARGETS))[: draw(st.integers(1, 4))])
    return FinetuneConfig(
        task=task,
        rank=rank,
        optimizer=draw(st.sampled_from([None, *OPTIMIZERS])) if not rank else draw(st.sampled_from([None, "adamw"])),
        from_scratch=draw(st.booleans()) and not rank,
        dropout=draw(FRACTION),
        data_sha256=tuple(draw(st.lists(NAMES, max_size=2))),
        schedule=draw(st.sampled_from([*SCHEDULES])),
        precision=draw(st.sampled_from(PRECISIONS)),
        weight_decay=draw(st.floats(0, 10)),
        batch=draw(COUNTS),
        warmup=draw(st.none() | st.integers(0, 10**6)),
        seed=draw(st.integers(0, 2**62)),
        **values,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


@given(config=configs())
def test_round_trips(folder: Path, config: FinetuneConfig) -> None:
    """Written to TOML or JSON, alone or as the table of a run among others, and read again, it is equal to itself."""
    values = config.to_dict()
    for content in (values, {"model": {"x": 1}, "finetune": values}):
        (folder / "c.toml").write_text(tomli_w.dumps(content), encoding="utf-8", newline="")
        (folder / "c.json").write_text(json.dumps(content), encoding="utf-8")
        assert FinetuneConfig.read(folder / "c.toml") == FinetuneConfig.read(folder / "c.json") == config
    assert config.but() == config


@given(config=configs(), accumulate=st.integers(1, 4))
def test_the_training_that_it_is(config: FinetuneConfig, accumulate: int) -> None:
    """All that the two records have in common is the same in both, once the defaults are filled in."""
    filled = config.but(
        optimizer=config.optimizer or "adamw",
        lr=config.lr or 0.1,
        lr_adam=config.lr_adam or 0.2,
        warmup=config.warmup or 0,
        accumulate=accumulate,
        batch=12,
    )
    found = filled.training()
    names = {f.name for f in dataclasses.fields(TrainConfig)} & {f.name for f in dataclasses.fields(FinetuneConfig)}
    assert {"steps", "batch", "accumulate", "lr", "clip", "dropout", "seed", "patience", "precision"} <= names
    assert {name: getattr(found, name) for name in names} == {name: getattr(filled, name) for name in names}
    assert (found.snapshots == 0) == (config.rank > 0)  # with adapters the tables do not move, and make no film


def test_a_batch_in_parts() -> None:
    """Parts of a batch are equal, as in every training."""
    with pytest.raises(ValueError, match="batch 32 is not divisible by accumulate 5"):
        FinetuneConfig(task="mood", accumulate=5)


@pytest.mark.parametrize("task", KINDS)
def test_kinds(task: str) -> None:
    """Each task is scored as one of three, and has what this needs: usual names, or fables that are told."""
    config = FinetuneConfig(task=task, data=None if task in BUILT_IN else "x.csv")
    assert (config.kind, config.built_in) == (KINDS[task], task in BUILT_IN)
    assert config.head == (config.kind == "classify")
    assert not config.head or not config.but(answer="text").head
    assert config.kind in USUAL and ((task in TOLD) == config.built_in)


WRONG: list[tuple[str, Any]] = [
    *[(name, -1) for name in ("rank", "seed", "weight_decay", "warmup", "alpha", "lr", "lr_adam", "clip", "dropout")],
    *[(name, 0) for name in ("batch", "accumulate", "steps", "examples", "context", "eval_every", "patience")],
    *[(name, 0.0) for name in ("alpha", "lr", "lr_adam", "clip")],
    *[(name, math.nan) for name in ("alpha", "lr", "clip", "weight_decay", "dropout", "adapter_dropout")],
    *[(name, 1.0) for name in ("dropout", "adapter_dropout")],
    *[(name, 2.5) for name in ("rank", "steps", "batch", "seed")],
    *[(name, "many") for name in ("rank", "steps", "lr", "from_scratch", "targets")],
    ("targets", ("qkv", "key")),
    ("targets", ()),
    ("answer", "tail"),
    ("class_weights", "balance"),
    ("optimizer", "adamv"),
    ("schedule", "cosin"),
    ("precision", "fp64"),
    ("task", "moods"),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=[f"{name}={value}" for name, value in WRONG])
def test_a_wrong_value(field: str, value: Any) -> None:
    """One line, with the field, the value, and, where there are names to choose from, these."""
    with pytest.raises(ValueError) as error:
        FinetuneConfig.from_dict({"task": "mood", field: value})
    message = str(error.value)
    shown = value[-1] if isinstance(value, tuple) and value else value
    assert {"targets": "target"}.get(field, field) in message and str(shown) in message and "\n" not in message


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (dict(task="mod"), "unknown task 'mod'. Did you mean 'mood'.* classify, translate, instruct, mood"),
        (dict(task="classify"), "'classify' needs examples: --data FILE.*or take 'mood'"),
        (dict(task="translate"), "'translate' needs examples: --data FILE.*or take 'translation'"),
        (dict(task="instruct", validation="b.csv"), "'instruct' needs examples: --data FILE.*or take 'conditions'"),
        (dict(task="mood", data="a.csv"), "'mood' makes its own examples; --data is for 'classify'"),
        (dict(task="translation", input="en"), "'translation' makes its own examples; --data is for 'translate'"),
        (dict(task="conditions", validation="b.csv"), "makes its own examples; --data is for 'instruct'"),
        (dict(task="classify", data="a.csv", languages=("en",)), "languages are of the built-in tasks"),
        (dict(task="mood", languages=("en", "pt")), "'mood' takes one language, not en pt"),
        (dict(task="conditions", languages=("en", "pt")), "'conditions' takes one language, not en pt"),
        (dict(task="translation", languages=("en",)), "'translation' takes two languages, from and to, not en"),
        (dict(task="translation", languages=("en", "pt", "pl")), "takes two languages, from and to, not en pt pl"),
        (dict(task="translation", class_weights="balanced"), "class_weights .* 'translation' has no labels"),
        (dict(task="conditions", answer="text"), "answer is of classifications"),
        (dict(task="mood", rank=2, targets=("qkv", "qkv")), "distinct"),
        (dict(task="mood", alpha=3), "alpha is of adapters: choose their --rank"),
        (dict(task="mood", targets=("qkv",)), "targets is of adapters"),
        (dict(task="mood", rank=4, optimizer="muon"), "adapters are trained by adamw"),
        (dict(task="mood", rank=4, from_scratch=True), "choose --rank or --from-scratch"),
        (dict(task="mood", lora_rank=3), "unknown FinetuneConfig field 'lora_rank'"),
        (dict(data="a.csv"), "a FinetuneConfig needs task too"),
    ],
)
def test_what_does_not_fit_together(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        FinetuneConfig.from_dict(values)
    assert "\n" not in str(error.value)
