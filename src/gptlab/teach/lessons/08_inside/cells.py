# %% trace
from gptlab.experiments.base import Words, passage, untrained

model, config = lab.model, lab.config
text = passage(lab, None, 60)
read = lab.trace(text)
print(repr(text), len(read.ids))
for name, array in read.items():
    if name.startswith("blocks.0."):
        print(f"{name:30} {array.shape}")

# %% adds
written = sum(read.attn_out) + sum(read.mlp_out)
if config.norm_placement in ("pre", "parallel"):
    print(f"{abs(read.resid_pre[0] + written - read.resid_post[-1]).max():.0e}")
    print(f"{abs(read.resid_post[-1]).max():.0e}")

# %% control
before = untrained(lab)
blank = before.trace(text)
targets = torch.tensor(read.ids[1:].astype(np.int64))
losses = [float(F.cross_entropy(torch.tensor(some.logits[:-1]), targets)) for some in (blank, read)]
print([round(loss, 2) for loss in losses], round(float(np.log(config.vocab_size)), 2))

# %% gathered
from gptlab.lens import embeddings

names, index = embeddings.groups(lab.tokenizer)
words = Words("embeddings", lang)
shares = [embeddings.chance(index)]
for some in (before.model, model):
    tokens = embeddings.tables(some).tokens[: len(index)]
    shares.append(embeddings.purities(embeddings.distances(tokens), index))
rows = []
for group, name in enumerate(names):
    own = index == group
    percents = [round(100 * float(share[own].mean())) for share in shares if own.sum() > 1]
    rows += [[words(f"group_{name}"), int(own.sum()), *percents]] if percents else []
Table([t("group"), t("tokens"), t("chance"), t("untrained"), t("trained")], rows)

# %% film
from gptlab.lens import snapshots

try:
    film = snapshots.snapshots(lab.run)
    moments = np.linspace(0, len(film.steps) - 1, 4).round().astype(int)
    pictures = list(snapshots.motion(film.tokens[moments][:, : len(index)], "pca"))
    print(len(film.steps), film.tokens.shape, film.steps[moments])
except ValueError as error:  # a model from elsewhere has no film
    film, pictures, moments = None, [], []
    print(error)

# %% frames
from gptlab.experiments.figures import COLORS, MARKERS

styles = [dict(color=COLORS[group % 7], marker=MARKERS[group], s=14) for group in range(len(names))]
made, panels = plt_figure("wide", 4.8, nrows=2, ncols=2)
for axes, points, moment in zip(panels.flat, pictures, moments):
    for group in range(len(names)):
        x, y = points[index == group].T
        axes.scatter(x, y, label=words(f"group_{names[group]}"), **styles[group])
    axes.set_title(f"{t('step')} {film.steps[moment]}", fontsize=9)
    axes.set(xticks=[], yticks=[])
shown = panels[0, 0].get_legend_handles_labels()
made.legend(*shown, loc="outside lower center", ncols=2, fontsize=7.5, frameon=False)
made

# %% heads
from gptlab.lens import attention

heads = attention.heads(model, read)["decoder"]
measured = attention.measures(heads.pattern, heads.visible)
blank_heads = attention.heads(before.model, blank)["decoder"]
blank_measured = attention.measures(blank_heads.pattern, blank_heads.visible)
try:
    twice = attention.repeated(model, lab.tokenizer)
    measured["induction"] = attention.induction(model, twice)["decoder"]
    blank_measured["induction"] = attention.induction(before.model, twice)["decoder"]
except ValueError as error:  # too short a context
    print(error)


def strongest(values):
    layer, head = np.unravel_index(values.argmax(), values.shape)
    return f"L{layer + 1}H{head + 1}", round(100 * float(values.max()))


# %% roles
asked = [name for name in ("previous", "own", "first", "induction") if name in measured]
Table(
    [t("measure"), t("trained"), "%", t("untrained"), "%"],
    [[t(name), *strongest(measured[name]), *strongest(blank_measured[name])] for name in asked],
)

# %% patterns
layer, head = (int(i) for i in np.unravel_index(measured["previous"].argmax(), measured["previous"].shape))
some = slice(0, 24)
turn = 90 if max(map(len, read.tokens)) > 2 else 0
made, panels = plt_figure("wide", 3.6, ncols=2)
for axes, pattern, name in zip(panels, (heads.pattern, blank_heads.pattern), (t("trained"), t("untrained"))):
    axes.imshow(pattern[layer, head, some, some], cmap="cividis", vmin=0, vmax=1)
    axes.set_xticks(range(len(read.tokens[some])), read.tokens[some], fontsize=6)
    axes.set_yticks(range(len(read.tokens[some])), read.tokens[some], fontsize=6)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.tick_params(axis="x", rotation=turn)
    axes.set_title(name, fontsize=9)
made

# %% collects
v = np.repeat(read.v[layer], config.n_heads // config.n_kv_heads, axis=0)  # heads may share values
z = read.pattern[layer] @ v  # (H, T, D)
print(f"{abs(z - read.z[layer]).max():.0e}")
D = config.head_dim
out = model.blocks[layer].attention.out.weight.detach().numpy()  # (C, H D)
sent = np.stack([v[h] @ out[:, h * D : (h + 1) * D].T for h in range(config.n_heads)])  # (H, S, C)
added = read.pattern[layer] * np.linalg.norm(sent, axis=-1)[:, None, :]  # weight times length
differ = (read.pattern[layer].argmax(-1) != added.argmax(-1))[:, 1:].mean(-1)
print([f"L{layer + 1}H{h + 1} {100 * share:.0f}%" for h, share in enumerate(differ)])

# %% windows
from gptlab.text import corpora
from gptlab.text.tokenizer import prompt_ids

source = corpora.find(lab.run.train_config.corpus if lab.run.train_config else "fables")
size = 12 * (config.context + 1)  # tokens: of 12 windows, and the one that follows each
validation = "".join(source.chunks(source.cut, source.cut + 12 * size))
windows = torch.tensor(prompt_ids(lab.tokenizer, validation)[:size].astype(np.int64)).reshape(12, -1)


def loss(some):
    with torch.no_grad():
        return float(F.cross_entropy(some(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()))


whole = {some: loss(some) for some in (model, before.model)}
print([round(value, 3) for value in whole.values()])


# %% without
def without(some, last_matrix, columns=slice(None), mean=False):
    def silenced(module, given):
        z = given[0].clone()
        z[..., columns] = z[..., columns].mean((0, 1)) if mean else 0
        return (z,)

    hook = last_matrix.register_forward_pre_hook(silenced)
    rise = loss(some) - whole[some]
    hook.remove()
    return rise


columns = slice(head * D, (head + 1) * D)  # of the head in the picture
print([round(without(model, model.blocks[layer].attention.out, columns, mean), 3) for mean in (False, True)])


# %% ablations
def ablations(some):
    rows = []
    for block in some.blocks:
        parts = [(block.attention.out, slice(h * D, (h + 1) * D)) for h in range(config.n_heads)]
        parts += [(block.attention.out, slice(None)), (block.mlp.down, slice(None))]
        rows.append([without(some, *part) for part in parts])
    return np.array(rows)  # (L, H + 2)


rises, blank_rises = ablations(model), ablations(before.model)
print(f"{abs(blank_rises).max():.3f}")

# %% rises
made, axes = plt_figure("wide", 0.9 + 0.35 * len(rises))
axes.imshow(np.sqrt(np.maximum(rises, 0)), cmap="cividis", aspect="auto")
for (row, column), value in np.ndenumerate(rises):
    shade = "black" if value > 0.3 * rises.max() else "white"
    axes.text(column, row, f"{1000 * value:.0f}", ha="center", va="center", color=shade, fontsize=8)
numbered = [f"H{h + 1}" for h in range(config.n_heads)]
axes.set_xticks(range(rises.shape[1]), [*numbered, t("all_heads").replace(" ", "\n"), "MLP"])
axes.set_yticks(range(len(rises)), [f"L{row + 1}" for row in range(len(rises))])
axes.tick_params(length=0, labeltop=True, labelbottom=False)
made

# %% together
from scipy.stats import spearmanr

single = rises[:, : config.n_heads]
sums = zip(single.sum(1).tolist(), rises[:, -2].tolist())
rows = [[f"L{row + 1}", round(summed, 3), round(at_once, 3)] for row, (summed, at_once) in enumerate(sums)]
related = float(spearmanr((1 - measured["evenness"]).ravel(), single.ravel()).statistic)
Table([t("layer"), t("summed"), t("at_once")], rows)

# %% lens
from gptlab.lens import logits as reading

seen, blank_seen = reading.lens(model, read), reading.lens(before.model, blank)
with torch.no_grad():
    by_hand = model.unembed(model.norm(torch.tensor(read.resid_post[0])))
print(f"{float((by_hand - reading.read_out(model, read.resid_post[0])).abs().max()):.0e}")
print(f"{abs(read.logits - reading.read_out(model, read.resid_post[-1]).numpy()).max():.0e}")
settled = [int((seen.settled == row).sum()) for row in range(len(seen.top))]
print(settled)

# %% layers
made, axes = plt_figure("wide", 2.6)
axes.plot(seen.next_nats.mean(1), "o-", color="#0072B2", label=t("trained"))
axes.plot(blank_seen.next_nats.mean(1), "s--", color="#D55E00", label=t("untrained"))
axes.axhline(np.log(config.vocab_size), color="#333333", linewidth=0.9, linestyle=":", label=t("guessing"))
axes.set_yscale("log")
axes.set_yticks([0.1, 0.2, 0.5, 1, 2, 5, 10, 20], ["1/10", "1/5", "1/2", "1", "2", "5", "10", "20"])
axes.set_xticks(range(len(seen.top)), [t("embedding"), *(f"L{row}" for row in range(1, len(seen.top)))])
axes.set_ylabel(t("surprisal"))
axes.legend(frameon=False)
made

# %% grid
from gptlab.text.labels import labels

count = 20 if max(map(len, read.tokens)) < 3 else 8
at = range(len(read.ids) - count, len(read.ids))
made, axes = plt_figure("wide", 1.0 + 0.3 * len(seen.top))
axes.imshow(seen.top_p[:, at], cmap="cividis", vmin=0, vmax=1, aspect="auto")
for row in range(len(seen.top)):
    for column, name in enumerate(labels(lab.tokenizer, seen.top[row, at])):
        shade = "black" if seen.top_p[row, at[column]] > 0.55 else "white"
        axes.text(column, row, name, ha="center", va="center", color=shade, fontsize=8)
axes.set_xticks(range(count), read.tokens[at[0] :], fontsize=8)
axes.set_yticks(range(len(seen.top)), [t("embedding"), *(f"L{row}" for row in range(1, len(seen.top)))])
axes.tick_params(length=0, labeltop=True, labelbottom=False)
made

# %% gradients
from gptlab.lens import gradients

try:
    found = gradients.learning(lab.run)
except ValueError as error:  # a model from elsewhere
    found = None
    print(error)
rows = []
for part in range(len(found.parts) if found else 0):
    tenths = [1e6 * found.rms[found.span(*tenth), part].mean() for tenth in ((0.0, 0.1), (0.9, 1.0))]
    numbers = [int(found.sizes[part]), *map(round, map(float, tenths)), round(float(found.halfway()[part]))]
    rows.append([found.parts[part], *numbers])
Table([t("part"), t("parameters"), t("early"), t("late"), t("halfway")], rows)

# %% exercise collected
right = (0.09, 0.5)
mistakes = {
    "unweighted": (0.05, 2.5),
    "only_largest": (0.1, 0.0),
    "swapped": (0.01, 4.5),
}

# %% exercise by_chance
right = 4 / 55
mistakes = {
    "itself_counted": 5 / 56,
    "of_groups": 1 / 5,
    "of_neighbours": 5 / 55,
}

# %% exercise evenness
right = float(np.log(4) / np.log(8))
mistakes = {
    "counted": 0.5,
    "not_divided": float(np.log(4)),
    "most": float(np.log(8)),
}

# %% exercise surprisal
right = float(np.log(0.4 / 0.1))
mistakes = {
    "probabilities": 0.3,
    "bits": 2.0,
    "ratio": 4.0,
}

# %% exercise redundancy
right = 0.13
mistakes = {
    "both": 0.22,
    "summed": 0.09,
    "loss": 0.52,
}
