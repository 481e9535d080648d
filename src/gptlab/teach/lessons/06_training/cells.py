# %% text
from gptlab.text import corpora
from gptlab.text.batches import windows

source = lab.run.train_config.corpus if lab.run.train_config else f"fables:{lang}"
found = corpora.find(source)
characters = lab.tokenizer if lab.tokenizer.kind == "char" else corpora.make_tokenizer("char", found)
data = corpora.prepare(found, characters)
V = characters.vocab_size
shape = gptlab.preset("gpt2-mini", vocab_size=V, n_layers=2, d_model=32, n_heads=2, context=32)
print(V, "characters in the vocabulary;", gptlab.count(shape).total, "parameters")

# %% loop
model = gptlab.build(shape, seed=0, init="scaled").train()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.99))
losses = []
for step in range(200):
    window = torch.from_numpy(windows(data.train, count=16, context=32, seed=0, step=step))
    loss = F.cross_entropy(model(window[:, :-1]).mT, window[:, 1:])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())

# %% loop_figure
from gptlab.training.advice import entropy

guessing, frequencies = np.log(V), entropy(data.train, V)
made, axes = plt_figure("wide", 2.6)
axes.plot(range(1, 201), losses, color="#0072B2", linewidth=1)
for level, name in ((guessing, t("guessing")), (frequencies, t("frequencies"))):
    axes.axhline(level, color="#333333", linestyle="--", linewidth=0.9)
    axes.text(200, level - 0.05, name, ha="right", va="top", fontsize=8.5)
axes.set(xlabel=t("step"), ylabel=t("loss"))
made

# %% writes
from gptlab.config import SampleConfig
from gptlab.generate.generate import generate

beginner = gptlab.build(shape, seed=0, init="scaled")
for name, writer in (("before", beginner), ("after", model.eval())):
    pieces = generate(writer, characters, "", SampleConfig(tokens=70, seed=1))
    print(f"{name:6}", repr("".join(piece for _, piece, _ in pieces)))

# %% descent
w = torch.tensor([2.0, -1.0], requires_grad=True)
optimizer = torch.optim.SGD([w], lr=0.1)
(w**2).sum().backward()
by_hand = w.detach() - 0.1 * w.grad
print("gradient", w.grad)
optimizer.step()
print("by hand ", by_hand)
print("torch   ", w.detach())


# %% noise
def gradient_of(count, seed):
    model = gptlab.build(shape, seed=0, init="gpt2")
    window = torch.from_numpy(windows(data.train, count=count, context=32, seed=seed))
    F.cross_entropy(model(window[:, :-1]).mT, window[:, 1:]).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


reference = gradient_of(1024, 0)
alike = {}
for count in (1, 4, 16, 64):
    tries = [F.cosine_similarity(gradient_of(count, seed), reference, dim=0) for seed in range(1, 6)]
    alike[count] = torch.stack(tries).mean().item()
Table([t("windows"), t("cosine")], [[count, round(value, 3)] for count, value in alike.items()])

# %% adamw
torch.manual_seed(0)
w = torch.randn(5, requires_grad=True)
mine, m, v = w.detach().clone(), torch.zeros(5), torch.zeros(5)
lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.99, 1e-8, 0.1
optimizer = torch.optim.AdamW([w], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=decay)
for step in range(1, 21):
    g = torch.autograd.grad((w**4).sum(), w)[0]
    w.grad = g.clone()
    optimizer.step()
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    fair_m, fair_v = m / (1 - beta1**step), v / (1 - beta2**step)
    mine = mine - lr * (fair_m / (fair_v.sqrt() + eps) + decay * mine)
print(f"largest difference after 20 steps: {(mine - w.detach()).abs().max():.1e}")

# %% updates
from gptlab.training.optim import orthogonal

window = torch.from_numpy(windows(data.train, count=16, context=32, seed=0))
matrix = model.blocks[0].mlp.up.weight
g = torch.autograd.grad(F.cross_entropy(model(window[:, :-1]).mT, window[:, 1:]), matrix)[0].T
entries = g.abs().flatten().sort(descending=True).values
before, after = torch.linalg.svdvals(g), torch.linalg.svdvals(orthogonal(g[None])[0])

# %% updates_figure
made, axes = plt_figure("wide", 2.7, ncols=2)
axes[0].semilogy(entries / entries[0], color="#0072B2", label=t("gradient"))
axes[0].axhline(1, color="#D55E00", linestyle="--", label=t("adam_first"))
axes[1].semilogy(before / before[0], "o-", color="#0072B2", markersize=3, label=t("gradient"))
axes[1].semilogy(after / after[0], "s--", color="#009E73", markersize=3, label=t("muon"))
axes[0].set_title(t("entries"), fontsize=9)
axes[1].set_title(t("directions"), fontsize=9)
for side in axes:
    side.set_xlabel(t("from_largest"))
    side.legend(frameon=False, loc="lower left")
made

# %% new
from gptlab.registry import OPTIMIZERS


def new(name, seed=0, **settings):
    model = gptlab.build(shape, seed=seed, init="scaled").train()
    return model, OPTIMIZERS[name](model, gptlab.TrainConfig(optimizer=name, **settings))


# %% go
def go(model, optimizer, first, last, text=data.train):
    losses = []
    for step in range(first, last):
        window = torch.from_numpy(windows(text, count=16, context=32, seed=0, step=step))
        loss = F.cross_entropy(model(window[:, :-1]).mT, window[:, 1:])
        model.zero_grad()
        loss.backward()
        optimizer.step(1.0)
        losses.append(loss.item())
    return losses


# %% rates_figure
rates = {lr: go(*new("adamw", lr=lr), 0, 120) for lr in (0.0001, 0.005, 0.3)}
made, axes = plt_figure("wide", 2.8)
for (lr, curve), style, color in zip(rates.items(), (":", "-", "--"), ("#009E73", "#0072B2", "#D55E00")):
    axes.plot(range(1, 121), curve, style, color=color, label=f"{lr:g}")
for level in (guessing, frequencies):
    axes.axhline(level, color="#333333", linestyle=(0, (4, 3)), linewidth=0.7)
axes.set(xlabel=t("step"), ylabel=t("loss"), ylim=(2, None))
axes.legend(frameon=False, title=t("rate"))
made

# %% schedule
from gptlab.training.schedule import rate

moments = (0, 4, 20, 100, 200, 300, 399)
rows = []
for step in moments:
    at = [rate(decay, step, steps=400, warmup=20, final=0.0) for decay in ("constant", "linear", "cosine")]
    rows.append([step, *(round(fraction, 3) for fraction in at)])
Table([t("step"), t("constant"), t("linear"), t("cosine_decay")], rows)

# %% overfitting
from gptlab.training.evaluate import window_loss

short = data.train[:1500]
on_short, on_all = new("muon"), new("muon")
seen, unseen, plenty = [], [], []
for first in range(0, 150, 10):
    go(*on_short, first, first + 10, short)
    go(*on_all, first, first + 10)
    seen.append(window_loss(on_short[0], short, count=32))
    unseen.append(window_loss(on_short[0], data.val, count=32))
    plenty.append(window_loss(on_all[0], data.val, count=32))
at = np.arange(10, 151, 10)
best = int(at[np.argmin(unseen)])

# %% overfitting_figure
made, axes = plt_figure("wide", 3.0)
axes.plot(at, seen, "o-", color="#0072B2", markersize=4, label=t("short_seen"))
axes.plot(at, unseen, "s--", color="#D55E00", markersize=4, label=t("short_new"))
axes.plot(at, plenty, "D:", color="#009E73", markersize=4, label=t("long_new"))
axes.plot(best, min(unseen), "o", color="#333333", markersize=11, fillstyle="none")
axes.set(xlabel=t("step"), ylabel=t("loss"), ylim=(0, None))
axes.legend(frameon=False, loc="lower left")
made

# %% run_figure
records = lab.metrics or [{"step": i + 1, "train_loss": loss} for i, loss in enumerate(losses)]
longest = lab.run.text.get("val_characters", 1) / lab.run.text.get("val_tokens", 1)
levels = [np.log(lab.config.vocab_size) / longest] + ([lab.run.text["floor"]] if "floor" in lab.run.text else [])
kinds = {"train_loss": ("-", "#0072B2"), "val_loss": ("o--", "#D55E00"), "story_loss": ("s:", "#009E73")}
made, axes = plt_figure("wide", 3.0)
for kind, (style, color) in kinds.items():
    points = [(r["step"], r[kind] / (1 if kind == "story_loss" else longest)) for r in records if kind in r]
    if points:
        axes.plot(*zip(*points), style, color=color, markersize=3, linewidth=1.2, label=t(kind))
for level in levels:
    axes.axhline(level, color="#333333", linestyle=(0, (4, 3)), linewidth=0.9)
axes.set(xlabel=t("step"), ylabel=t("per_character"), ylim=(0, None))
axes.legend(frameon=False)
made

# %% device
from gptlab import runtime

device = runtime.device("auto")
model = on_all[0].to(device)
print("device:", device, "  weights:", model.embedding.dtype)

# %% precision
window = torch.from_numpy(windows(data.val, count=16, context=32, seed=0)).to(device)
with torch.no_grad():
    fine = F.cross_entropy(model(window[:, :-1]).mT, window[:, 1:]).item()
    with runtime.autocast(device, "bf16"):
        coarse = F.cross_entropy(model(window[:, :-1]).float().mT, window[:, 1:]).item()
print(f"loss in float32 {fine:.5f}   with products in bfloat16 {coarse:.5f}")

# %% again
first = go(*new("muon"), 0, 40)
second = go(*new("muon"), 0, 40)
other = go(*new("muon", seed=1), 0, 40)
print("same seed, same losses:", first == second)
print(f"last loss: seed 0 {first[-1]:.4f}, seed 1 {other[-1]:.4f}")

# %% resume
from copy import deepcopy

model, optimizer = new("muon")
go(model, optimizer, 0, 20)
weights, state = deepcopy(model.state_dict()), deepcopy(optimizer.state())

resumed, forgetful = new("muon", seed=2), new("muon", seed=2)
resumed[0].load_state_dict(weights)
resumed[1].load(state)
forgetful[0].load_state_dict(weights)
print("weights and state, the same losses:", go(*resumed, 20, 40) == first[20:])
lost = np.array(go(*forgetful, 20, 40))
print(f"weights alone, losses differ by up to {np.abs(lost - first[20:]).max():.3f}")

# %% exercise update
right = 0.5 - 0.1 * (-0.2)
mistakes = {"uphill": 0.5 + 0.1 * (-0.2), "no_rate": 0.5 - (-0.2), "change": 0.02}

# %% exercise accumulation
right = 0.1 * (0.2 + 0.3)
mistakes = {"fresh": 0.1 * 0.3, "first": 0.1 * 0.2, "no_rate": 0.2 + 0.3}

# %% exercise first_step
right = 0.01
mistakes = {"sgd": 0.01 * 0.004, "gradient": 0.004, "root": 0.01 * 0.004**0.5}

# %% exercise tokens
right = 400 * 32 * 64
mistakes = {"windows": 400 * 32, "one_step": 32 * 64, "one_window": 400 * 64}

# %% exercise keep
right = 300
mistakes = {"last": 600, "lowest_training": 500, "smallest_gap": 100}
