# %% lookup
table = torch.arange(15.0).reshape(5, 3)
ids = torch.tensor([4, 0, 4])
print(table)
print(table[ids])

# %% one_hot
chosen_rows = F.one_hot(ids, num_classes=5).float()
print(chosen_rows)
print("largest difference:", (chosen_rows @ table - table[ids]).abs().max().item())

# %% gradient
table.requires_grad_()
loss = table[ids].sum()
loss.backward()
table.grad

# %% own_table
from gptlab.experiments.base import passage

read = passage(lab, None, 24)
trace = lab.trace(read)
ids = torch.as_tensor(trace.ids)
with torch.no_grad():
    vectors = lab.model.embedding_in(lab.model.embedding[ids]) * lab.model.embedding_scale
print(trace.tokens)
print(tuple(lab.model.embedding.shape), tuple(vectors.shape))
print("largest difference:", np.abs(vectors.numpy() - trace.embed).max())

# %% rows
made, axis = plt_figure("wide", 3.0)
shown = min(16, len(ids))
strongest = vectors[:shown].abs().max().item()
scale = {"cmap": "RdBu", "vmin": -strongest, "vmax": strongest}
picture = axis.imshow(vectors[:shown].numpy(), aspect="auto", interpolation="none", **scale)
axis.set_yticks(range(shown), trace.tokens[:shown], fontsize=8)
axis.set(xlabel=t("axis_component"))
made.colorbar(picture, ax=axis, pad=0.01)
made

# %% widths
names = ("gpt2-124m", "gpt2-1558m", "llama-7b", "gpt3-175b", "palm-540b", "mt-nlg-530b")
rows = [[name, gptlab.preset(name).d_model, gptlab.count(gptlab.preset(name)).total] for name in names]
rows.insert(0, [t("this_model"), lab.config.d_model, gptlab.count(lab.config).total])
Table([t("head_model"), t("head_width"), t("head_parameters")], rows)

# %% tied
model = lab.model
with torch.no_grad():
    last = model.embedding_out(torch.as_tensor(trace.norm)) * model.logit_scale
    by_hand = last @ (model.embedding if model.head is None else model.head).T
    if model.head_bias is not None:
        by_hand += model.head_bias
print(tuple(by_hand.shape), "tied:", model.head is None)
print("largest difference:", np.abs(by_hand.numpy() - trace.logits).max())


# %% cosine
def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


a = torch.tensor([3.0, 4.0])
for b in ([6.0, 8.0], [8.0, -6.0], [-3.0, -4.0], [4.0, 3.0]):
    print(b, "dot product", (a @ torch.tensor(b)).item(), "  cosine", round(cosine(a, torch.tensor(b)), 2))

# %% learned
from gptlab.experiments.base import Words, untrained
from gptlab.experiments.embeddings import chosen
from gptlab.lens import embeddings

kept, how = chosen(lab, [])
before, after = embeddings.tables(untrained(lab).model), embeddings.tables(lab.model)
points = {"before": before.tokens[kept.ids], "after": after.tokens[kept.ids]}
distance = {when: embeddings.distances(some) for when, some in points.items()}
print(len(kept.ids), "tokens in", lab.config.d_embedding, "dimensions")

# %% neighbours
rows = []
for number in kept.sized:
    members = np.flatnonzero(kept.index == number)
    frequent = members if kept.counts is None else members[np.argsort(-kept.counts[members], kind="stable")]
    for token in frequent[:3]:
        cosines = np.where(np.arange(len(kept.ids)) == token, -1, 1 - distance["after"][token])
        nearest = np.argsort(-cosines, kind="stable")[:5]
        near = " · ".join(kept.labels[other] for other in nearest)
        kind = kept.label(Words("embeddings", lang), number)
        rows.append([kept.labels[token], kind, near, round(float(cosines[nearest[0]]), 2)])
Table([t("head_token"), t("head_kind"), t("head_nearest"), t("head_cosine")], rows)

# %% kinds
in_groups = np.isin(kept.index, kept.sized)
alike = {when: embeddings.purities(found, kept.index)[in_groups].mean() for when, found in distance.items()}
by_lot = embeddings.chance(kept.index)[in_groups].mean()
Table(
    [t("head_table"), t("head_same_kind")],
    [[t(when), round(100 * alike[when])] for when in alike] + [[t("by_lot"), round(100 * by_lot)]],
)

# %% plane
from types import SimpleNamespace

from gptlab.experiments.embeddings import token_figure

flat, shares = [], {}
for when, some in points.items():
    directions = embeddings.directions(some)
    flat.append(SimpleNamespace(pictures={"pca": embeddings.pca(directions)}))
    shares[when] = flat[-1].pictures["pca"].var(0).sum() / directions.var(0).sum()
made = token_figure(Words("embeddings", lang), "wide", groups=kept, pair=flat, picture="pca")
legend = made.legends[0]
named = [text.get_text() for text in legend.get_texts()]
legend.remove()
made.legend(legend.legend_handles, named, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
made


# %% bare
def without_positions(layers):
    bare = gptlab.build(lab.config.but(position="none", query_layer=False, n_layers=layers))
    bare.load_state_dict(lab.model.state_dict(), strict=False)
    return bare


bare, bare_one = without_positions(lab.config.n_layers), without_positions(1)
torch.manual_seed(0)
order = torch.cat([torch.randperm(len(ids) - 1), torch.tensor([len(ids) - 1])])
print("".join(np.array(trace.tokens)[order]))

# %% shuffled
whole = torch.tensor([len(ids)])
cases = [("own", model, None), ("bare", bare, None), ("bare_one", bare_one, None), ("bare_open", bare, whole)]
changes = {}
with torch.no_grad():
    for name, one, prefix in cases:
        straight, mixed = (one(text[None], prefix=prefix)[0, -1] for text in (ids, ids[order]))
        changes[name] = (straight - mixed).abs().max().item()
Table([t("head_model"), t("head_change")], [[t(name), float(f"{change:.3g}")] for name, change in changes.items()])

# %% places
if after.positions is None:
    print(t("no_table"), lab.config.position)
else:
    print(after.positions.shape)
    start = vectors.numpy() + after.positions[: len(ids)]
    print("largest difference:", np.abs(start - trace.resid_pre[0]).max())

# %% places_figure
from gptlab.model.positions.sinusoidal import waves

every = torch.arange(lab.config.context)
shown = {"sinusoidal": waves(every, lab.config.d_model, dtype=torch.float32, interleaved=True).numpy()}
if lab.config.position == "learned":
    shown = {"before": before.positions, "after": after.positions, **shown}
made, axes = plt_figure("wide", 2.6, ncols=len(shown), squeeze=False)
for axis, (name, places) in zip(axes[0], shown.items(), strict=True):
    picture = axis.imshow(1 - embeddings.distances(places), cmap="cividis", vmin=-1, vmax=1)
    axis.set(title=t(name), xlabel=t("axis_position"))
made.colorbar(picture, ax=axes[0].tolist(), label=t("axis_cosine"), pad=0.02)
made

# %% turned
from gptlab.model.positions.rope import RoPE

rope = RoPE(head_dim=8, rope_base=10_000.0, rope_fraction=1.0, rope_pairing="interleaved")
torch.manual_seed(1)
q, k = torch.randn(2, 1, 1, 1, 8)
for at_query, at_key in ((3, 1), (9, 7), (40, 38), (9, 1)):
    turned_q, _ = rope.rotate(q, k, rope.once(torch.tensor([[at_query]]), None, q.dtype))
    _, turned_k = rope.rotate(q, k, rope.once(torch.tensor([[at_key]]), None, k.dtype))
    print(at_query, at_key, "score", round((turned_q * turned_k).sum().item(), 4))

# %% exercise table_size
gpt2 = gptlab.preset("gpt2-124m")
right = gpt2.vocab_size * gpt2.d_model
mistakes = {
    "added": gpt2.vocab_size + gpt2.d_model,
    "square": gpt2.vocab_size**2,
    "positions": gpt2.context * gpt2.d_model,
    "width_alone": gpt2.d_model,
}

# %% exercise untied
gpt2 = gptlab.preset("gpt2-124m")
right = gptlab.count(gptlab.preset("gpt2-124m", tied_embeddings=False)).total
mistakes = {
    "same": gptlab.count(gpt2).total,
    "less": gptlab.count(gpt2).total - gpt2.vocab_size * gpt2.d_model,
    "twice": 2 * gptlab.count(gpt2).total,
}

# %% exercise angle
a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
right = cosine(a, b)
mistakes = {
    "dot": (a @ b).item(),
    "squares": (a @ b / (a @ a * (b @ b))).item(),
    "distance": (a - b).norm().item(),
    "one_length": (a @ b / a.norm()).item(),
}

# %% exercise exchanged
five = torch.as_tensor(kept.ids[:5])
with torch.no_grad():
    straight, mixed = bare_one(five[None])[0], bare_one(five[[1, 0, 2, 3, 4]][None])[0]
right = int(((straight - mixed).abs().amax(-1) < 1e-3).sum())
mistakes = {"all": 5, "none": 0, "last": 1, "second": 4}
