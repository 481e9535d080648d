# %% sentences
from gptlab.text.fables import draw
from gptlab.text.fables.corpus import FIRST_VALIDATION, VALIDATION
from gptlab.text.fables.grammar import grammar

teller, behind = grammar(lang), FIRST_VALIDATION + VALIDATION  # all fables of the corpus


def turning_point(index):
    """The sentence on which a fable turns, and how it ends."""
    choices = draw(0, index)
    part = teller.parts[6]
    pieces = part.tellings[choices["mood"], choices["telling6"]]
    text = "".join(piece if isinstance(piece, str) else teller.form(piece, choices) for piece in pieces)
    return text, choices["mood"]


told = [turning_point(behind + index) for index in range(600)]
Table([t("given"), t("answer")], [[text, t(label)] for text, label in told[5:9]])

# %% file
import csv
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
with (folder / "endings.csv").open("w", encoding="utf-8", newline="") as file:
    csv.writer(file).writerows([("text", "label"), *told])
for label in ("good", "bad"):
    print(label, sum(found == label for _, found in told))
print("different sentences", len(dict(told)))

# %% tokens
from gptlab.finetuning.rows import Coder, label_token

names = ["<start>", "<end>", label_token("bad"), label_token("good")]
longer = lab.tokenizer.extended(names)
shape = lab.config.but(vocab_size=longer.vocab_size, bridge=(longer.vocab_size - 4,))
print(lab.tokenizer.vocab_size, "->", longer.vocab_size)

# %% row
from gptlab.finetuning.data import Example

coder = Coder(longer, shape, labels=("bad", "good"))
text, label = told[0]
row = coder.row(Example(text, label))
batch = coder.batch([row])
asked = [int(target) for target in batch.targets[0] if target >= 0]
print(len(batch.ids[0]), asked, [names[i - longer.vocab_size] for i in asked])


# %% finetune
def tuned(name, **settings):
    """A model made of this course's, in a folder of its own."""
    settings = {
        "steps": 40,
        "eval_every": 10,
        "data": str(folder / "endings.csv"),
        **settings,
    }
    return gptlab.finetune(lab.run.path, task="classify", out=folder / name, **settings)


whole = tuned("whole", examples=256)
scores = whole.metrics()[-1]["scores"]
print({name: round(value, 4) for name, value in scores.items()})

# %% classify
judge = gptlab.load(whole.path)
judged = [(text, judge.classify(text)) for text, _ in told[5:9]]
Table(
    [t("given"), t("good"), t("bad")],
    [[text, found["good"], found["bad"]] for text, found in judged],
)


# %% compare
def right(name, **settings):
    return tuned(name, **settings).metrics()[-1]["scores"]["accuracy"]


sizes, anew = (24, 256), {"from_scratch": True, "lr": 0.01}
accuracy = {
    "pretrained": [right("p", examples=sizes[0]), scores["accuracy"]],
    "scratch": [right(f"s{n}", examples=n, **anew) for n in sizes],
}
Table(
    [t("examples"), *map(t, accuracy)],
    [list(row) for row in zip(sizes, *accuracy.values())],
)

# %% labels_figure
made, axes = plt_figure("wide", 2.6)
for (kind, found), marker in zip(accuracy.items(), "os"):
    axes.plot(range(len(sizes)), [100 * a for a in found], marker=marker, label=t(kind))
axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
axes.set_xlabel(t("examples"))
axes.set_ylabel(t("right"))
axes.set_ylim(0, 105)
axes.legend(frameon=False)
made

# %% confusion
from gptlab import tasks

result = tasks.evaluate_task(gptlab.load(folder / f"s{sizes[0]}"))
found = result.classification
rows = zip(found.labels, found.confusion.tolist())
Table([t("true_given"), *map(t, found.labels)], [[t(name), *row] for name, row in rows])

# %% forgotten
before = whole.metrics()[0]["pretraining_loss"]
after = scores["pretraining_loss"]
print(f"{before:.3f} {after:.3f}")

# %% lora_by_hand
torch.manual_seed(0)
W = lab.model.blocks[0].mlp.up.weight.detach()
outputs, inputs = W.shape
rank, alpha = 4, 8
A, B = torch.randn(rank, inputs) / inputs**0.5, torch.zeros(outputs, rank)
added = alpha / rank * (B @ A)
print(W.shape, W.numel(), A.numel() + B.numel(), bool((W + added == W).all()))

# %% lora
thin = tuned("thin", examples=256, rank=4, lr=0.01)
thin_scores = thin.metrics()[-1]["scores"]
from gptlab.finetuning import lora

pairs = lora.read(thin.path / "adapter")
learned = sum(pair.A.numel() + pair.B.numel() for pair in pairs.values())
total = gptlab.count(lab.config).total
print(round(thin_scores["accuracy"], 4), learned, total)

# %% merged
name = next(iter(pairs))
frozen = lab.run.model().state_dict()[name]
merged = thin.model().state_dict()[name]
print(name, float((frozen + pairs[name].product() - merged).abs().max()))

# %% exercise adapter
right = 8 * (256 + 1024)
mistakes = {"whole": 256 * 1024, "one": 8 * 256, "square": 8 * 8 * (256 + 1024)}

# %% exercise targets
right = 1
mistakes = {"all": 51, "given": 50, "none": 0}

# %% exercise recall
right = 40 / (40 + 10)
mistakes = {"precision": 40 / (40 + 5), "accuracy": (40 + 45) / 100, "wrong": 10 / 50}
