"""Fine-tuning whole: a run in, a run out, for every kind of model and task, and nothing lost on the way."""

import csv
import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gptlab
from gptlab import files, lab, tasks
from gptlab.run import Run
from gptlab.training.loop import Listener
from tests.test_cli import gptlab as command

ANIMALS = {"cat": "animal", "dog": "animal", "oak": "plant", "rose": "plant", "fern": "plant", "hen": "animal"}
MODELS = {
    "causal": {"preset": "gptlab-cpu"},
    "prefix": {"preset": "glm-mini"},
    "encoder-decoder": {"preset": "t5-mini"},
}
STEPS = 60


def sentence(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(list(ANIMALS))
    return f"{rng.choice(('I saw', 'there is'))} a {word} {rng.choice(('here', 'at home'))}", word


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of each category, hardly trained, and files of examples."""
    folder = tmp_path_factory.mktemp("finetune")
    rng = random.Random(0)
    told = [sentence(rng) for _ in range(600)]
    lines = " ".join(f"{text}, of the {ANIMALS[word]}s." for text, word in told)
    (folder / "text.txt").write_text(lines, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        for category, settings in MODELS.items():
            name = settings["preset"]
            more = {"context": 48, "steps": 30, "batch": 8, "sample_every": 0, "eval_windows": 8}
            gptlab.train(folder / "text.txt", preset=name, out=folder / "runs" / category, **more)
        with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *((text, ANIMALS[word]) for text, word in told[:200])])
        with (folder / "words.jsonl").open("w", encoding="utf-8") as file:
            for text, word in told[:200]:
                file.write(json.dumps({"source": text, "target": word}) + "\n")
        yield folder


def tuned(folder: Path, category: str, out: Path, **settings: Any) -> Run:
    settings = {"task": "classify", "data": str(folder / "labels.csv"), "steps": STEPS, "batch": 16, **settings}
    return gptlab.finetune(folder / "runs" / category, out=out, **settings)


def scores(run: Run) -> dict[str, float]:
    return run.metrics()[-1]["scores"]


def cases() -> Iterator[Any]:
    """Every way to train for causal models; for the others what their kind changes, and the rest where time is."""
    for category in MODELS:
        for how in ({}, {"rank": 8}, {"answer": "text"}, {"from_scratch": True}):
            few = category == "causal" or "rank" in how or not how
            yield pytest.param(category, how, marks=() if few else pytest.mark.slow)


@pytest.mark.parametrize(("category", "how"), cases())
def test_labels_are_learned(category: str, how: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Whatever the architecture, and however it is trained, sixty steps learn which words are animals."""
    parent = folder / "runs" / category
    before = {path: files.sha256(path) for path in parent.rglob("*.safetensors")}
    run = tuned(folder, category, tmp_path / "run", **{"lr": 0.01, **how})
    assert scores(run)["accuracy"] >= 0.9
    assert before == {path: files.sha256(path) for path in parent.rglob("*.safetensors")}
    assert Run(run.path).finetune_config.parent == str(parent.resolve())
    # What is kept is what was measured, and what classify says of one text.
    loaded = lab.load(run.path)
    result = tasks.evaluate_task(loaded)
    assert result.told["accuracy"] == scores(run)["accuracy"]
    first = result.examples[0]
    given = loaded.classify(first.input)
    assert sum(given.values()) == pytest.approx(1)
    assert max(given, key=given.__getitem__) == ("animal", "plant")[result.classification.given[0]]


@pytest.mark.parametrize("category", MODELS)
def test_texts_are_answered(category: str, folder: Path, tmp_path: Path) -> None:
    """A model learns to answer by a word of what it was given; `sample` gives the answer, and ends there."""
    data = str(folder / "words.jsonl")
    run = tuned(folder, category, tmp_path / "run", task="translate", data=data, steps=200, patience=None, lr=0.02)
    assert scores(run)["exact"] >= 0.9
    loaded = lab.load(run.path)
    assert loaded.generate("I saw a dog here", temperature=0, tokens=20) == "dog"


@pytest.mark.parametrize("how", [{}, {"rank": 4, "adapter_dropout": 0.2}, {"dropout": 0.1, "optimizer": "adamw"}])
def test_resumed_is_the_run_that_was_not_cut(how: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Killed after its fifth step and resumed from the state of the fourth, it ends with the same weights."""

    class PowerCut(Listener):
        def logged(self, record: dict[str, Any]) -> None:
            if record["step"] == 5:
                raise KeyboardInterrupt

    settings = {"steps": 8, "eval_every": 2, **how}
    whole = tuned(folder, "causal", tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        tuned(folder, "causal", tmp_path / "cut", listeners=[PowerCut()], **settings)
    cut = tasks.go_on(Run(tmp_path / "cut"))
    ends = [run.load_state() for run in (whole, cut)]
    assert ends[0] and ends[1] and ends[0].step == ends[1].step == 8
    assert ends[0].weights.keys() == ends[1].weights.keys()
    assert all(torch.equal(ends[0].weights[name], ends[1].weights[name]) for name in ends[0].weights)
    assert all(torch.equal(ends[0].optimizer[name], ends[1].optimizer[name]) for name in ends[0].optimizer)
    losses = [[(m["step"], m["val_loss"]) for m in run.metrics() if "val_loss" in m] for run in (whole, cut)]
    assert losses[0] == losses[1]
    assert whole.metrics()[0] == cut.metrics()[0], "what was measured before the training stays"
    with pytest.raises(ValueError, match="--resume"):
        lab.train(resume=True, out=tmp_path / "cut")


def scored(run: Run) -> list[int]:
    return [record["step"] for record in run.metrics() if "scores" in record]


def test_a_model_is_scored_once_where_it_is_done(folder: Path, tmp_path: Path) -> None:
    """Not when it was interrupted; at the step where patience ended it; not anew by a resume that finds nothing to do,
    and again after more steps."""

    class Stop(Listener):
        def logged(self, record: dict[str, Any]) -> None:
            if record["step"] == 3:
                signal.raise_signal(signal.SIGINT)

    run = tuned(folder, "causal", tmp_path / "run", steps=6, eval_every=2, listeners=[Stop()])
    assert scored(run) == [] and max(run.states()) == 3
    for steps, expected in ((6, [6]), (6, [6]), (8, [6, 8])):
        assert scored(tasks.go_on(run, steps=steps)) == expected
    hopeless = tuned(folder, "causal", tmp_path / "early", steps=50, eval_every=2, patience=2, lr=1e-9, warmup=0)
    assert scored(hopeless) == [max(hopeless.states())] != [50]
    assert scored(tasks.go_on(hopeless)) == scored(hopeless)


@pytest.mark.parametrize("category", MODELS)
def test_a_prompt_that_is_too_long(category: str, folder: Path, tmp_path: Path) -> None:
    """Of what a fine-tuned model is given, it reads the beginning, as in its training, and says so; a label is given
    to it all the same."""
    run = tuned(folder, category, tmp_path / "labels", steps=2)
    loaded, words = lab.load(run.path), "there is a dog here and " * 20
    with pytest.warns(UserWarning, match=r"1 of 1 examples are longer than the context of 48"):
        probabilities = loaded.classify(words)
    assert sum(probabilities.values()) == pytest.approx(1)
    kept = {"causal": 48 - 1, "prefix": 48 - 2, "encoder-decoder": 48 - 1}[category]  # less what the bridge takes
    assert probabilities == pytest.approx(loaded.classify(words[:kept]), abs=1e-6)
    data = str(folder / "words.jsonl")
    told = lab.load(tuned(folder, category, tmp_path / "text", task="translate", data=data, steps=2).path)
    how = {"temperature": 0, "tokens": 8}
    with pytest.warns(UserWarning, match=r"the prompt has \d+ tokens, and its first (\d+) are read") as caught:
        written = told.generate(words, **how)
    kept = int(str(caught[0].message).split("first ")[1].split()[0])
    assert kept == {"causal": 48 - 1 - 7, "prefix": 48 - 2 - 7, "encoder-decoder": 48 - 1}[category]
    assert written == told.generate(words[:kept], **how) and len(written) <= 8


def test_adapters_alone(folder: Path, tmp_path: Path) -> None:
    """The adapter alone, merged into its base, is the fine-tuned model; beside another base it is refused."""
    run = tuned(folder, "causal", tmp_path / "run", rank=4, steps=10)
    learned = {"adapter_model.safetensors", "tokens.safetensors"}
    assert learned <= {path.name for path in (run.path / "adapter").iterdir()}
    merged = tasks.import_adapter(run.path / "adapter", folder / "runs" / "causal", tmp_path / "merged")
    one, two = run.model(), merged.model()
    ids = torch.arange(24)[None] % 20
    torch.testing.assert_close(one(ids), two(ids), rtol=1e-4, atol=1e-5)
    texts = ["I saw a hen here", "a rose"]
    for text in texts:
        assert lab.load(run.path).classify(text) == pytest.approx(lab.load(merged.path).classify(text), abs=1e-5)
    with pytest.raises(ValueError, match="another model"):
        tasks.import_adapter(run.path / "adapter", folder / "runs" / "prefix", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_exported_with_its_adapter(folder: Path, tmp_path: Path) -> None:
    """Base and adapter, loaded by transformers and peft, give the logits of the fine-tuned run."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    gptlab.train(folder / "text.txt", preset="llama-mini", steps=5, context=48, out=tmp_path / "base", sample_every=0)
    run = tasks.finetune(
        tmp_path / "base", task="classify", data=str(folder / "labels.csv"), rank=4, steps=6, out=tmp_path / "run"
    )
    name = tasks.export_adapter(run.path, tmp_path / "out")
    base = getattr(transformers, name).from_pretrained(tmp_path / "out" / "base")
    beside = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    ids = torch.arange(24)[None] % 20
    with torch.inference_mode():
        torch.testing.assert_close(beside(ids).logits, run.model()(ids), rtol=1e-4, atol=1e-4)
    lab.export_run(run.path, tmp_path / "merged")
    merged = getattr(transformers, name).from_pretrained(tmp_path / "merged")
    with torch.inference_mode():
        torch.testing.assert_close(merged(ids).logits, run.model()(ids), rtol=1e-4, atol=1e-4)


def test_a_new_row_changes_no_old_one(folder: Path, tmp_path: Path) -> None:
    """A model extended by tokens computes the same logits of the old ones, whatever it is built of."""
    from gptlab.finetuning.trainer import extended
    from gptlab.model.kernels import sdpa

    for category in MODELS:
        run = Run(folder / "runs" / category)
        tokenizer = run.tokenizer().extended(("<x>", "<y>"))
        old = run.model()
        new = extended(old, tokenizer, 2, seed=0, kernel=sdpa)
        ids = torch.arange(12)[None] % old.vocab_size
        given = {"source": ids} if category == "encoder-decoder" else {}
        with torch.inference_mode():
            found = new(ids, **given)
            torch.testing.assert_close(found[..., :-2], old(ids, **given), rtol=1e-5, atol=1e-5)
        assert found.shape[-1] == old.vocab_size + 2


def test_class_weights(folder: Path, tmp_path: Path) -> None:
    """Where a label is rare, weights that make all labels count alike find it more often."""
    rng = random.Random(1)
    rows = [(text, ANIMALS[word]) for text, word in (sentence(rng) for _ in range(400))]
    rare = [row for row in rows if row[1] == "plant"] + [row for row in rows if row[1] == "animal"][:12]
    with (tmp_path / "rare.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rare])
    found = []
    for weights in ("none", "balanced"):
        run = tuned(
            folder,
            "causal",
            tmp_path / weights,
            data=str(tmp_path / "rare.csv"),
            validation=str(folder / "labels.csv"),
            class_weights=weights,
            steps=12,
            lr=0.002,
        )
        found.append(tasks.evaluate_task(lab.load(run.path)).classification.recall[0])
    assert found[1] > found[0]


# The command line


def test_the_commands(folder: Path, tmp_path: Path) -> None:
    """finetune, sample, evaluate, report, experiment, export and --resume take a fine-tuned run like any other."""
    env = {"GPTLAB_CACHE": str(folder / "cache")}
    parent, out = folder / "runs" / "causal", tmp_path / "run"
    options = ("--task", "classify", "--data", folder / "labels.csv", "--steps", "30", "--batch", "16", "--rank", "4")
    done = command("finetune", parent, *options, "--out", out, "--lang", "pt", cwd=tmp_path, **env)
    assert done.returncode == 0, done.stderr
    assert "Adaptadores de posto 4" in done.stderr and "acurácia" in done.stderr
    assert json.loads(done.stdout)["accuracy"] >= 0.5
    said = command("sample", out, "I saw a cat here", cwd=tmp_path, **env)
    assert said.returncode == 0 and "animal (" in said.stdout and "%" in said.stdout
    asked = command("sample", out, "I saw a cat here", "--json", cwd=tmp_path, **env)
    assert set(json.loads(asked.stdout)["labels"]) == {"animal", "plant"}
    measured = json.loads(command("evaluate", out, "--json", cwd=tmp_path, **env).stdout)
    assert measured["task"] == "classify" and measured["accuracy"] == json.loads(done.stdout)["accuracy"]
    text = command("evaluate", out, "--on", folder / "text.txt", "--windows", "8", "--json", cwd=tmp_path, **env)
    assert json.loads(text.stdout)["window_loss"] > 0
    for words in (("report", out), ("experiment", "next", out), ("show", out), ("runs",)):
        ran = command(*words, cwd=tmp_path, **env)
        assert ran.returncode == 0, (words, ran.stderr)
    for resume in ("finetune", "train"):
        again = command(resume, "--resume", "--out", out, cwd=tmp_path, **env)
        assert again.returncode == 0, again.stderr
    merged = command("import", out / "adapter", "--base", parent, "--out", tmp_path / "merged", cwd=tmp_path, **env)
    assert merged.returncode == 0, merged.stderr
    assert command("sample", tmp_path / "merged", "a dog", cwd=tmp_path, **env).returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--task", "classify"), "--data"),
        (("--task", "mood", "--data", "labels.csv"), "makes its own examples"),
        (("--task", "classify", "--data", "nowhere.csv"), "nowhere.csv"),
        (("--task", "translation"), "--languages en pt"),
        (("--task", "translation", "--languages", "en"), "two languages"),
        (("--task", "conditions", "--languages", "en"), "no example fits"),
        (("--task", "classify", "--data", "labels.csv", "--rank", "999"), "rank 999"),
        (("--task", "classify", "--data", "labels.csv", "--class-weights", "some"), "balanced"),
        (("--task", "classify", "--data", "labels.csv", "--input", "txt"), "Did you mean 'text'"),
    ],
)
def test_mistakes(options: tuple[str, ...], reason: str, folder: Path, tmp_path: Path) -> None:
    """One message that names what was wrong, status 2, no traceback, and no run half made."""
    words = [folder / word if word == "labels.csv" else word for word in options]
    done = command(
        "finetune",
        folder / "runs" / "causal",
        *words,
        "--out",
        tmp_path / "run",
        cwd=tmp_path,
        GPTLAB_CACHE=str(folder / "cache"),
    )
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_adapters_need_less_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the weights fit, but not their gradients and the optimizer, the model is refused, and adapters are not."""
    weights = 4 * sum(p.numel() for p in Run(folder / "runs" / "causal").model().parameters())
    monkeypatch.setattr("gptlab.runtime.memory", lambda device: 2 * weights)
    with pytest.raises(ValueError, match=r"fine-tune a smaller model, or adapters alone, by --rank 8$"):
        tuned(folder, "causal", tmp_path / "whole", steps=2)
    assert not (tmp_path / "whole").exists()
    assert tuned(folder, "causal", tmp_path / "thin", steps=2, rank=2).states()


def test_a_parent_that_changed(folder: Path, tmp_path: Path) -> None:
    """Resumed after its examples, or its parent, have changed, a fine-tuning says which, and stays as it is."""
    data = tmp_path / "labels.csv"
    data.write_bytes((folder / "labels.csv").read_bytes())
    run = tuned(folder, "causal", tmp_path / "run", data=str(data), steps=4)
    before = (run.path / "model.safetensors").read_bytes()
    data.write_text(data.read_text() + "one more,plant\n")
    with pytest.raises(ValueError, match="examples have changed"):
        tasks.go_on(run)
    assert (run.path / "model.safetensors").read_bytes() == before
