# %% place
from gptlab.experiments.base import passage
from gptlab.text.labels import labels

read = lab.trace(passage(lab, None, 64))
p = torch.tensor(read.logits).double().softmax(-1)  # (T, V): a distribution at every place
entropy = torch.special.entr(p).sum(-1)  # (T,), in nats
place = int(entropy[:-1].argmax())
print(lab.tokenizer.decode(read.ids[: place + 1]) + "…")

# %% head
model = lab.model
x = model.embedding_out(model.norm(torch.tensor(read.resid_post[-1][place])))  # (C,)
table = model.embedding if model.head is None else model.head  # (V, C)
with torch.no_grad():
    logits = F.linear(x * model.logit_scale, table, model.head_bias).double()  # table @ x
print(tuple(table.shape), "@", tuple(x.shape), "->", tuple(logits.shape))
print(f"{float((logits - torch.tensor(read.logits[place])).abs().max()):.0e}")

# %% softmax
by_hand = logits.exp() / logits.exp().sum()
print(f"{float((by_hand - logits.softmax(-1)).abs().max()):.0e}")
best = by_hand.argsort(descending=True)[:14]
names = labels(lab.tokenizer, best)
turn = 90 if max(map(len, names)) > 2 else 0  # how names stand below a figure
rows = [[name, round(float(logits[i]), 2), round(float(by_hand[i]), 3)] for name, i in zip(names, best)]
Table([t("token"), t("logit"), t("probability")], rows[:6])

# %% draws
torch.manual_seed(0)
drawn = torch.multinomial(by_hand, 2000, replacement=True)
share = torch.bincount(drawn, minlength=len(by_hand)) / 2000
made, axes = plt_figure("wide", 2.5)
axes.bar(range(len(best)), 100 * by_hand[best].numpy(), color="#0072B2", width=0.7, label=t("probability"))
axes.plot(range(len(best)), 100 * share[best].numpy(), "D", color="#D55E00", label=t("share"))
axes.set_xticks(range(len(best)), names, rotation=turn)
axes.set_ylabel("%")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
made

# %% choose
from gptlab.generate import sampling

uniform = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
line = by_hand.cumsum(0)  # where each token's stretch ends, in the order of the ids
by_rule = torch.searchsorted(line, uniform, right=True)
chosen = sampling.choose(logits.expand(3, -1), uniform, greedy=False)
print(labels(lab.tokenizer, chosen), bool((by_rule == chosen).all()))

# %% temperature
toy = torch.tensor([2.0, 1.0, 0.0])
rows = []
for T in (0.5, 1.0, 2.0):
    right = (toy / T).softmax(0)
    wrong = toy.softmax(0) / T
    wrong = wrong / wrong.sum()
    power = toy.softmax(0) ** (1 / T)
    power = power / power.sum()
    rows.append([T] + [" · ".join(f"{100 * float(v):.0f}" for v in column) for column in (right, wrong, power)])
Table(["T", t("divided_logits"), t("divided_p"), t("power_p")], rows)

# %% temperatures
made, panels = plt_figure("wide", 2.4, ncols=3, sharey=True)
heats = {"T = ½": 0.5, "T = 1": 1.0, "T = 2": 2.0}
spread = {}
for axes, (name, T) in zip(panels, heats.items()):
    q = (logits / T).softmax(-1)
    spread[T] = float(torch.special.entr(q).sum())
    axes.bar(range(len(best)), 100 * q[best].numpy(), color="#0072B2")
    axes.set_xticks(range(len(best)), names, fontsize=7, rotation=turn)
    axes.set_title(name, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("%")
made

# %% top_p
order = by_hand.argsort(descending=True)
reached = by_hand[order].cumsum(0)
size = int((reached < 0.8).sum()) + 1  # the one that reaches it is kept
kept = torch.zeros_like(by_hand)
kept[order[:size]] = by_hand[order[:size]] / by_hand[order[:size]].sum()
cut = sampling.top_p(logits[None], 0.8)[0].softmax(-1)
print(size, f"{float((kept - cut).abs().max()):.0e}")

# %% cuts
made, panels = plt_figure("wide", 2.4, ncols=3, sharey=True)
made_cuts = {
    "top-k, k = 5": sampling.top_k(logits[None], 5)[0],
    "top-p, p = 4/5": sampling.top_p(logits[None], 0.8)[0],
    "min-p, p = 1/2": sampling.min_p(logits[None], 0.5)[0],
}
for axes, (name, left) in zip(panels, made_cuts.items()):
    axes.bar(range(len(best)), 100 * left.softmax(-1)[best].numpy(), color="#0072B2")
    axes.bar(range(len(best)), 100 * by_hand[best].numpy(), fill=False, edgecolor="#333333", hatch="///", linewidth=0.6)
    axes.set_xticks(range(len(best)), names, fontsize=7, rotation=turn)
    axes.set_title(name, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("%")
made


# %% kept
def left(row):
    cuts = sampling.top_k(row, 10), sampling.top_p(row, 0.9), sampling.min_p(row, 0.1)
    return [int(cut.isfinite().sum()) for cut in cuts]


sure, between = int(entropy.argmin()), int((entropy - np.log(2)).abs().argmin())
rows = [[round(float(entropy[i]), 2), *left(torch.tensor(read.logits[i])[None])] for i in (sure, between, place)]
Table([t("entropy"), "top-k, k = 10", "top-p, p = 9/10", "min-p, p = 1/10"], rows)

# %% penalties
toy = torch.tensor([[2.0, 1.0, -1.0]])
written = torch.tensor([[3.0, 0.0, 1.0]])  # how often each token stands in the text so far
ways = {
    t("nothing"): toy,
    t("repetition"): sampling.penalised_repetition(toy, written, 2.0),
    t("frequency"): sampling.penalised_frequency(toy, written, 0.5),
    t("presence"): sampling.penalised_presence(toy, written, 0.5),
}
rows = []
for name, row in ways.items():
    percents = 100 * row.softmax(-1)
    rows.append([name, *row[0].tolist(), " · ".join(f"{v:.0f}" for v in percents[0].tolist())])
Table([t("penalty"), "A", "B", "C", t("percent")], rows)

# %% shifted
raised = toy + 10
before = [row.softmax(-1)[0] for row in (toy, raised)]
after = [sampling.penalised_repetition(row, written, 2.0).softmax(-1)[0] for row in (toy, raised)]
for some in (before, after):
    print([[round(float(v), 3) for v in row] for row in some])

# %% spoiled
print(lab.generate("", tokens=100, seed=3))
print("---")
print(lab.generate("", tokens=100, seed=3, frequency_penalty=1.0))

# %% order
import dataclasses

print([field.name for field in dataclasses.fields(gptlab.SampleConfig)])
settings = gptlab.SampleConfig(frequency_penalty=0.5, temperature=1.5, top_k=12, top_p=0.9)
counts = torch.zeros_like(logits)[None]
counts[0, best[:3]] = 1.0  # as if the three likeliest had each been written once
steps = sampling.top_p(sampling.top_k((logits[None] - 0.5 * counts) / 1.5, 12), 0.9)
bent = sampling.bent(logits[None], settings, bias={}, seen=counts, written=counts)
print(f"{float((steps.softmax(-1) - bent.softmax(-1)).abs().max()):.0e}")
hot_first = int(sampling.top_p(logits[None] / 1.5, 0.9).isfinite().sum())
cut_first = int(sampling.top_p(logits[None], 0.9).isfinite().sum())

# %% stop
from gptlab.generate.generate import Sample

sample = Sample(stop=("wolf",))
for piece in ("the ", "wo", "od, the w", "olf ran"):
    certain = sample.add(0, 0.0, piece.encode())
    print(f"{piece!r:12} {certain!r:12} {sample.held!r}")
print(repr(sample.text), sample.reason)

# %% seeds
prompt = lab.tokenizer.decode(read.ids[: place + 1])
three = lab.generate(prompt, n=3, tokens=40, seed=7)
print(lab.generate(prompt, tokens=40, seed=7) == three[0])
for text in three:
    print(repr(text))

# %% sweep
from gptlab.generate import generate
from gptlab.lens import decoding
from gptlab.text import corpora
from gptlab.text.tokenizer import prompt_ids

trained = lab.run.train_config
source = corpora.find(trained.corpus if trained else "fables")
N, G, length = 8, 40, 500  # texts, tokens given, tokens that follow
validation = "".join(source.chunks(source.cut, source.cut + 12 * N * (G + length)))
pieces = prompt_ids(lab.tokenizer, validation)[: N * (G + length)].reshape(N, -1).astype(np.int64)
begun, theirs = pieces[:, :G], pieces[:, G:]
print(lab.tokenizer.decode(pieces[0])[:160] + "…")

# %% written
heats = [0.0, 0.2, 0.4, 0.7, 1.0, 1.3, 1.6]
texts, nats = [], []
for heat in heats:
    how = gptlab.SampleConfig(tokens=length, temperature=heat)
    ids, logprobs = zip(*generate.tokens(model, begun, how, n=N, bias={}))
    texts.append(torch.stack(ids, 1).numpy())
    nats.append(-float(torch.stack(logprobs).mean()))
own = -float(decoding.read(model, begun, theirs)[0].mean())
rows = [[heat, round(value, 2)] for heat, value in zip(heats, nats)]
Table([t("temperature"), t("nats")], [*rows, [t("corpus"), round(own, 2)]])

# %% measured
known = set("".join(source.chunks(0, min(source.cut, 300_000))).split())


def unknown(rows):
    words = [word for row in rows for word in lab.tokenizer.decode(row).split()[1:-1]]
    return 100 * float(np.mean([word not in known for word in words]))


again = [100 * decoding.repeated(rows.reshape(-1), 16) for rows in [*texts, theirs]]
strange = [unknown(rows) for rows in [*texts, theirs]]
made, panels = plt_figure("wide", 2.6, ncols=2)
for axes, (*values, level), name in zip(panels, (again, strange), (t("repeated"), t("unknown"))):
    axes.plot(heats, values, "o-", color="#0072B2")
    axes.axhline(level, color="#333333", linestyle="--", linewidth=1, label=t("corpus"))
    axes.set(title=name, xlabel=t("temperature"), ylabel="%")
    axes.set_xticks([0, 0.5, 1, 1.5], ["0", "1/2", "1", "3/2"])
    axes.set_ylim(bottom=-0.03 * max(*values, level))  # a line at 0 can be seen
    axes.legend(frameon=False)
made

# %% exercise cold
right = float((torch.tensor([2.0, 0.0]) / 0.5).softmax(0)[0])
mistakes = {
    "undivided": float(torch.tensor([2.0, 0.0]).softmax(0)[0]),
    "multiplied": float((torch.tensor([2.0, 0.0]) * 0.5).softmax(0)[0]),
    "above_one": lambda answer: isinstance(answer, (int, float)) and answer > 1,
}

# %% exercise nucleus
right = 0.5 / (0.5 + 0.2 + 0.15)
mistakes = {
    "too_few": 0.5 / 0.7,
    "not_rescaled": 0.5,
    "too_many": 0.5 / 0.95,
}

# %% exercise frequency
right = 2.0 - 3 * 0.5
mistakes = {
    "prompt_counted": 2.0 - 5 * 0.5,
    "once": 2.0 - 0.5,
    "divided": 2.0 / 0.5,
}

# %% exercise two_steps
right = 0.4 * 0.9
mistakes = {
    "greedy": 0.6 * 0.3,
    "last_only": 0.9,
    "added": 0.4 + 0.9,
}

# %% exercise minimum
right = 3
mistakes = {
    "absolute": 1,
    "subtracted": 4,
}
