"""The experiment on a task: its numbers against others' computation of them, and what it says against what was
measured."""

import csv
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from gptlab import lab, tasks
from gptlab.experiments import base, figures, task
from gptlab.finetuning import builtin
from gptlab.finetuning.data import Example, Examples
from gptlab.finetuning.scores import Classification
from gptlab.messages import LANGUAGES
from gptlab.run import Run
from gptlab.text.fables import draw
from gptlab.text.fables.choices import CHOICES
from gptlab.text.fables.grammar import grammar
from tests.experiments.conftest import conducted, texts

PLACES = ("aquário", "bosque", "cidade", "deserto", "estrada")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in tasks of some dozen examples."""
    monkeypatch.setattr(builtin, "TRAINING", 48)
    monkeypatch.setattr(builtin, "VALIDATION", 12)
    monkeypatch.setattr(tasks, "WRITTEN", 6)


def table(run: Run, name: str) -> list[dict[str, str]]:
    with (run.section_path("task") / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def examples_of(run: Run) -> Examples:
    assert run.finetune_config is not None
    return tasks.examples_of(run.finetune_config, run.train_config)


def labelled(path: Path) -> Path:
    """Texts that begin with their label, or, some of them, with another one; labels are not equally common."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        place = PLACES[min(int(rng.integers(0, 8)), 4)] if rng.random() < 0.8 else PLACES[0]
        told = place if rng.random() < 0.8 else PLACES[int(rng.integers(0, 5))]
        rows.append([f"{told} {number}\n" + "era uma vez " * int(rng.integers(0, 20)), place])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["text", "label"], *rows])
    return path


def classifier(of_kind: Any, tmp_path: Path, **settings: Any) -> lab.Lab:
    """A fine-tuned model of letters, whose figures are drawn in every language."""
    data = labelled(tmp_path / "places.csv")
    parent = of_kind("chars").run.path
    run = tasks.finetune(parent, task="classify", data=str(data), out=tmp_path / "chars", device="cpu", **settings)
    return lab.load(run.path, device="cpu")


def test_labels(of_kind: Any, tmp_path: Path) -> None:
    """Scores are scikit-learn's on the predictions that are left beside them; the baseline gives one label; what was
    trained are the numbers in the adapter's files; mistakes are mistakes, the surest first."""
    loaded = classifier(of_kind, tmp_path, rank=2, steps=12, batch=16, lr=0.02)
    section = conducted(loaded, "task")
    run = loaded.run
    rows = table(run, "predictions")
    truth, given = ([row[column] for row in rows] for column in ("label", "given"))
    examples = examples_of(run)
    assert [row["text"] for row in rows] == [example.input for example in examples.val]

    precision, recall, f1, number = precision_recall_fscore_support(truth, given, labels=PLACES, zero_division=0)
    for k, row in enumerate(table(run, "labels")):
        assert row["label"] == PLACES[k] and int(row["examples"]) == number[k]
        for name, values in (("precision", precision), ("recall", recall), ("F1", f1)):
            assert (row[name] == "–" and values[k] == 0) or float(row[name]) == pytest.approx(values[k], abs=6e-4)
    arrays = np.load(run.section_path("task") / "task.npz")
    assert (arrays["confusion"] == confusion_matrix(truth, given, labels=PLACES)).all()

    train = [example.output for example in examples.train]
    commonest = max(PLACES, key=train.count)
    scores = table(run, "scores")
    for column, answers in ((1, given), (2, [commonest] * len(rows))):
        values = [float(list(row.values())[column]) for row in scores]
        assert values[0] == pytest.approx(100 * accuracy_score(truth, answers), abs=0.06)
        *_, f1, _ = precision_recall_fscore_support(truth, answers, average="macro", zero_division=0)
        assert values[1] == pytest.approx(f1, abs=6e-4)
    p = np.array([float(row["probability"]) for row in rows])
    right = np.array(truth) == np.array(given)
    bins = [(p >= low) & (p < low + 0.1) for low in np.arange(10) / 10]
    error = sum(abs(right[m].mean() - p[m].mean()) * m.sum() for m in bins if m.any()) / len(p)
    assert float(list(scores[2].values())[1]) == pytest.approx(error, abs=6e-4)

    told = texts(section)
    files = [load_file(path) for path in (run.path / "adapter").glob("*.safetensors")]
    learned = sum(tensor.size for file in files for tensor in file.values())
    total = sum(tensor.size for tensor in load_file(run.path / "model.safetensors").values())
    assert f"{learned:,} parameters, {100 * learned / total:.2f}% of the model's {total:,}" in told
    assert f"from {len(examples.train)} examples" in told and f"by {len(rows)} others" in told
    assert f"“{commonest}”" in told
    wrong = table(run, "wrong")
    sure = sorted(p[~right], reverse=True)[:5]
    assert [float(row["probability"]) for row in wrong] == pytest.approx(sure, abs=6e-4)
    assert all(row["true label"] != row["label given"] and len(row["text"]) <= 120 for row in wrong)

    before, after = (r for r in run.metrics() if r["step"] == -1 or "scores" in r)
    assert f"was {before['pretraining_loss']:.3f} nats per token" in told
    assert f"is {after['scores']['pretraining_loss']:.3f} now" in told
    val = [record for record in run.metrics() if "val_loss" in record]
    assert [float(row["validation_loss"]) for row in table(run, "course")] == [r["val_loss"] for r in val]


def test_what_was_not_measured_is_not_said(of_kind: Any, tmp_path: Path) -> None:
    """Without a pretraining loss nothing is said of forgetting; a run without a task, or whose examples have changed,
    is refused, and what an earlier time left stays."""
    loaded = classifier(of_kind, tmp_path, steps=3, eval_every=3, answer="text")
    records = [r for r in loaded.run.metrics() if r["step"] != -1]
    (loaded.run.path / "metrics.jsonl").unlink()
    for record in records:
        loaded.run.add_metrics(record)
    told = texts(conducted(loaded, "task"))
    assert "forg" not in told and "All " in told and "adapters" not in told
    assert "by writing the label" in told and "linear head" not in told

    with (tmp_path / "places.csv").open("a", encoding="utf-8") as file:
        file.write("more,bosque\n")
    with pytest.raises(ValueError, match="have changed"):
        base.conduct("task", loaded, lang="en")
    assert (loaded.run.section_path("task") / "section.json").is_file()
    parent = of_kind("chars")
    with pytest.raises(ValueError, match=r"was not fine-tuned.*gptlab finetune"):
        base.conduct("task", parent, lang="en")
    assert not parent.run.section_path("task").exists()


@pytest.mark.parametrize(("name", "settings"), [("conditions", {"rank": 2}), ("mood", {"from_scratch": True})])
def test_fables(name: str, settings: dict[str, Any], of_kind: Any, few: None, tmp_path: Path) -> None:
    """Built-in tasks, by the tiniest of models: the share by choice and the share of all are of the same answers."""
    parent = of_kind("pieces").run.path
    run = tasks.finetune(
        parent, task=name, out=tmp_path / name, device="cpu", steps=4, batch=8, context=420, **settings
    )
    loaded = lab.load(run.path, device="cpu")
    section = conducted(loaded, "task")
    told = texts(section)
    if name == "mood":
        assert "drawn anew" in told and "It has forgotten nothing, for it never read" in told
        assert "in doubt?" not in told and len(table(run, "predictions")) == 12
        return
    shares = table(run, "choices")
    asked = [example.choices for example in examples_of(run).val[:6]]
    assert {s["choice"]: int(s["asked"]) for s in shares} == {
        c.name: n for c in CHOICES if (n := sum(c.name in some for some in asked))
    }
    right = sum(int(share["right"]) for share in shares) / sum(map(len, asked))
    assert f"{100 * right:.1f}% are told rightly" in told
    assert [row["written"] for row in table(run, "written")] == list(tasks.evaluate_task(loaded).written)
    assert not any("wanted" in row["example"] for row in table(run, "answers"))  # any fable that fits is right


def translated(tmp_path: Path, change: dict[str, str], *, fault: bool = False) -> tuple[base.Section, list[int]]:
    """The section of eight translations in which some choices are others than they should be."""
    lang = "it"
    told, written, right = [], [], []
    for index in range(8):
        choices = draw(0, index)
        other = choices | {name: value for name, value in change.items() if choices[name] != value}
        told.append(Example(grammar("en").tell(choices), grammar(lang).tell(choices), choices=choices))
        written.append(grammar(lang).tell(other) + ("!" if fault else ""))
        right.append(sum(choices[name] == other[name] for name in choices))
    whole = 0.0 if fault else 1.0
    numbers = {"choices": sum(right) / (8 * len(CHOICES)), "all_choices": 0.0, "whole": whole, "exact": 0.0}
    section = base.Section("task", tmp_path, "en", every_language=True)
    task.texts(section, tasks.Result(numbers, told, written=tuple(written)), lang)
    return section, right


def said(section: base.Section) -> str:
    return "\n".join(block["text"]["en"] for block in section.blocks if block["kind"] == "text")


def test_translations(tmp_path: Path) -> None:
    """What was changed is what is missed, by choice and by example; and what is said follows from it."""
    section, right = translated(tmp_path, {"hero": "snail", "weather": "mist"})
    with (tmp_path / "choices.csv").open(encoding="utf-8") as file:
        shares = {row["choice"]: float(row["share"]) for row in csv.DictReader(file)}
    changed = {"hero": "snail", "weather": "mist"}
    for name, share in shares.items():
        kept = [name not in changed or draw(0, index)[name] == changed[name] for index in range(8)]
        assert share == pytest.approx(np.mean(kept)), name
    assert list(shares) == [choice.name for choice in CHOICES]
    cells = [row[1] for block in section.blocks if block["kind"] == "table" for row in block["rows"]["en"]]
    for number in right[:3]:
        assert any(str(cell).startswith(f"{number} of 29 right; not: ") for cell in cells)
    assert "neither the task nor" in said(section).lower() and "sacrebleu is installed" in said(section)


@pytest.mark.parametrize(
    ("choices", "whole", "gains", "expected"),
    [
        (1.0, 1.0, [20.0, 20.5], "perfect"),
        (0.4, 0.9, [9.0, 10.0, 8.0], "fluent"),
        (0.9, 0.4, [19.0, 18.0, 21.0], "faulty"),
        (0.5, 0.55, [9.0, 10.0, 8.0], "even"),
        (0.2, 0.9, [-1.0, 1.0, 0.5, -0.6], "chance"),
        (0.9, 0.9, [20.0], "chance"),  # one answer shows nothing
    ],
)
def test_what_is_said_of_fables(choices: float, whole: float, gains: list[float], expected: str) -> None:
    assert task.mastered(gains, choices, whole) == expected


def test_guessing() -> None:
    """The best constant answer for a choice, against its frequency in many fables."""
    drawn = [draw(1, index) for index in range(4000)]
    for choice in CHOICES:
        values = [some[choice.name] for some in drawn]
        most = max(values.count(value) for value in choice.values) / len(values)
        assert task.guess(choice) == pytest.approx(most, abs=0.03), choice.name


def of(truth: list[int], p: list[list[float]]) -> Classification:
    probabilities = np.array(p)
    return Classification(tuple("abcdefg"[: probabilities.shape[1]]), probabilities, np.array(truth))


def test_beside_the_baseline() -> None:
    """A difference is called one from two standard errors of it on; the baseline knows the training labels alone."""
    rng = np.random.default_rng(1)
    base_ = rng.random(400) < 0.5
    assert task.compared(np.ones(5, bool), np.ones(5, bool))[0] == "all"
    assert task.compared(rng.random(400) < 0.9, base_)[0] == "better"
    assert task.compared(rng.random(400) < 0.1, base_)[0] == "worse"
    assert task.compared(base_, base_)[0] == "alike"
    verdict, error = task.compared(np.array([True, False, True, True]), np.array([True, True, False, False]))
    assert verdict == "alike" and error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))

    found = of([0, 1, 1, 2], [[0.1, 0.8, 0.1]] * 4)
    known = task.baseline(found, ["a", "a", "b", "c"])
    assert (known.given == 0).all() and known.accuracy == 0.25 and known.calibration_error == pytest.approx(0.25)


def test_how_sure_it_may_be() -> None:
    """Probabilities that are how often it is right differ from that by a standard normal deviation."""
    rng = np.random.default_rng(0)
    deviations = []
    for _ in range(1000):
        p = rng.uniform(0.5, 1, 200)
        deviations.append(task.excess(p, rng.random(200) < p))
    assert abs(np.mean(deviations)) < 0.15 and np.std(deviations) == pytest.approx(1, abs=0.1)
    assert task.excess(np.full(100, 0.9), np.arange(100) < 50) > 5
    assert task.excess(np.ones(3), np.ones(3)) == 0 and task.excess(np.ones(3), np.zeros(3)) == math.inf


def test_what_was_forgotten() -> None:
    lost = (-0.5, 0.0, 0.05, 0.3, 4.0)
    assert [task.how_much(nats) for nats in lost] == ["nothing_better", "nothing", "little", "much", "most"]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 1.0, 0.8], "falling"),
        ([2.0, 1.0, 0.999], "flat"),
        ([2.0, 1.0, 1.01], "flat"),
        ([2.0, 1.0, 1.4], "rising"),
        ([2.0, 2.5, 2.1], "nothing"),
        ([0.7, 3e-5, 2e-5], "flat"),
    ],
)
def test_course(losses: list[float], expected: str) -> None:
    """The verdict on a course, and its best step."""
    records: list[dict[str, Any]] = [{"step": -1, "pretraining_loss": 1.0}, {"step": 3, "train_loss": 0.5}]
    found = task.Course.of([*records, *({"step": 5 * i, "val_loss": loss} for i, loss in enumerate(losses))])
    assert found.verdict == expected and found.best[1] == min(losses)
    assert found.train == [(3, 0.5)] and not found.accuracy


@pytest.mark.parametrize("room", [8, 11, 18])
def test_short_labels(room: int) -> None:
    """Labels that fit stay; others are cut, and none becomes like another, however alike they begin."""
    names = ["yes", "a label that is long", *(f"something as long as number {k}" for k in range(30))]
    cut = task.short(names, room)
    assert cut[0] == "yes" and len(set(cut)) == len(cut) and max(map(len, cut)) <= room
    assert all(name.startswith(label[:3]) for name, label in zip(names, cut, strict=True))


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("shape", figures.SHAPES)
def test_figures_can_be_read(shape: str, lang: str) -> None:
    """Two labels or twenty, few examples or many, short names or long: no text covers another, and each count stands in
    its cell."""
    words = base.Words("task", lang)
    rng = np.random.default_rng(0)
    for K, most, name in ((2, 9, "{}"), (3, 30_000, "rather long label {}"), (20, 400, "the label {}")):
        counts = rng.integers(0, most, (K, K))
        counts[0] = 0
        made = task.matrix(words, shape, counts, counts.sum(1), [name.format(k) for k in range(K)])
        assert figures.clashes(made) == [], (K, most)
        axes = made.axes[0]
        drawn = {text.get_position(): text.get_text() for text in axes.texts}
        assert drawn == {(j, i): words.number(int(counts[i, j]), ",d") for i, j in np.argwhere(counts)}
        cell = axes.get_window_extent().width / K
        widest = max(text.get_window_extent().width for text in axes.texts)
        assert widest < cell and min(float(text.get_fontsize()) for text in axes.texts) >= 4.5, (K, most)
    tenths = np.arange(10) / 10 + 0.05
    for low, number in ((5, 40), (0, 98_765)):
        calibration = np.stack([np.full(10, number), tenths, tenths**2], 1)[low:]
        assert figures.clashes(task.reliable(words, shape, calibration)) == []
    shares = [task.Share(choice.name, 20, k % 20 + 1, task.guess(choice)) for k, choice in enumerate(CHOICES)]
    assert figures.clashes(task.bars(words, shape, shares)) == []
    for steps, accuracy in ((40_000, True), (3, False)):
        at = np.linspace(0, steps, 4).round().astype(int).tolist()
        points = [(step, 1000 / (step + 1)) for step in at]
        shown = task.Course(points, points, [(step, 1.0) for step in at] if accuracy else [])
        assert figures.clashes(task.curves(words, shape, shown, 0.69)) == []


def test_many_labels(tmp_path: Path) -> None:
    """Of more labels than can be drawn, those with most mistakes are; all are in the table."""
    rng = np.random.default_rng(3)
    K = 33
    labels = tuple(f"intent {k:02d}" for k in range(K))
    truth = rng.integers(0, K, 900)
    given = np.where((truth < 25) & (rng.random(900) < 0.6), (truth + 1) % 25, truth)
    found = Classification(labels, np.eye(K)[given] * 0.5 + 0.5 / K, truth)
    examples = [Example(f"text {i}", labels[t]) for i, t in enumerate(truth)]
    section = base.Section("task", tmp_path, "en")
    task.labels(section, tasks.Result(found.told(), examples, found), found, [labels[t] for t in truth], certain=False)
    [figure] = [b for b in section.blocks if b["kind"] == "figure" and "confusion" in str(b["file"])]
    assert "of the 20 labels, out of 33" in figure["caption"]["en"]
    svg = (tmp_path / figure["file"]["en"]["wide"]).read_text(encoding="utf-8")
    assert "intent 03" in svg and "intent 30" not in svg
    tables = [block for block in section.blocks if block["kind"] == "table"]
    assert any(len(block["rows"]["en"]) == K for block in tables)


def test_a_copy_elsewhere(of_kind: Any, tmp_path: Path) -> None:
    """A run that was copied, and whose parent is gone, still tells its story."""
    loaded = classifier(of_kind, tmp_path, rank=1, steps=2, eval_every=2)
    copy = tmp_path / "copy"
    shutil.copytree(loaded.run.path, copy)
    config = (copy / "config.toml").read_text(encoding="utf-8")
    (copy / "config.toml").write_text(
        config.replace(str(of_kind("chars").run.path), "gone/elsewhere"), encoding="utf-8"
    )
    assert "The model elsewhere had learned" in texts(conducted(lab.load(copy, device="cpu"), "task"))
