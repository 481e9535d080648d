# %% families
from gptlab.presets import FAMILIES, preset

for family in ("gpt2", "llama", "palm"):
    print(family, FAMILIES[family])
print(lab.config.family, lab.config.norm, lab.config.position, lab.config.activation)

# %% survey
from gptlab.survey import table

chosen = [row for row in table.rows() if row.published and row.group not in ("own", "miniatures")]
chosen = [row for row in chosen if row.published.surveyed or row.name == "gpt2-1558m"]
rows = []
for row in chosen:
    c = row.config
    position, activation = table.POSITIONS[c.position][1], table.ACTIVATIONS[c.activation][1]
    for word in ("learned", "relative"):
        position = position.replace(word, t(word))
    numbers = [row.layers, c.n_heads, c.d_model, round(row.parameters / 1e9, 1)]
    rows.append([row.name, row.norm[1], position, activation, *numbers])
Table(["", t("norm"), t("position"), t("activation"), t("layers"), t("heads"), t("width"), t("billions")], rows)

# %% norms
from gptlab.registry import NORMS

torch.manual_seed(0)
x = 1 + 3 * torch.randn(8, 64)
rows = []
for name in NORMS:
    norm = NORMS.build(name, d_model=64, affine="none")
    y = norm(x)
    changes = [f"{float((norm(z) - y).abs().max()):.2g}" for z in (10 * x, x + 5)]
    rows.append([name, f"{float(y.mean(-1).abs().max()):.2g}", *changes])
Table([t("norm"), t("mean"), t("times"), t("plus")], rows)

# %% branches
from gptlab.registry import RESIDUALS

torch.manual_seed(0)
width, depth = 256, 24
start = torch.randn(64, width)
pairs = [[torch.randn(width, width) / width**0.5 for _ in range(2)] for _ in range(depth)]


def followed(name, **options):
    streams = [start]
    for pair in pairs:
        norms = [NORMS.build("layernorm", d_model=width, affine="none")] * RESIDUALS[name].norms_for(2)
        layout = RESIDUALS.build(name, norms=norms, **options)
        streams.append(layout(streams[-1], [lambda h, m=m: h @ m for m in pair]))
    sizes = [float(x.square().mean().sqrt()) for x in streams]
    return sizes, [float(F.cosine_similarity(x, start).mean()) for x in streams]


# %% placements
ways = {
    "pre": followed("pre"),
    "post": followed("post"),
    "parallel": followed("parallel"),
    "post-deepnorm": followed("post-deepnorm", residual_alpha=(2 * depth) ** 0.5),
}
made, panels = plt_figure("wide", 2.7, ncols=2)
colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
for axes, which, name in zip(panels, (0, 1), (t("size"), t("likeness"))):
    for (way, measured), style, color in zip(ways.items(), ("o-", "--", "s:", "-."), colors):
        axes.plot(measured[which], style, color=color, label=way, fillstyle="none")
    axes.set(title=name, xlabel=t("layer"))
    axes.set_yticks([0, 2, 4, 6] if which == 0 else [0, 1])
panels[0].legend(frameon=False)
made

# %% shift
torch.manual_seed(0)
ids = torch.randint(0, 64, (1, 12))
rows = []
for name in ("learned", "sinusoidal", "rope", "alibi", "t5-relative", "transformer-xl-relative", "none"):
    some = gptlab.build(preset("gpt2-mini", position=name, vocab_size=64))
    with torch.no_grad():
        here, there = some(ids), some(ids, positions=torch.arange(30, 42)[None])
    change = float((there - here).abs().max() / here.std())
    own = [p.numel() for part, p in some.named_parameters() if "position" in part or "relative" in part]
    rows.append([name, sum(own), f"{change:.2g}"])
Table([t("position"), t("parameters"), t("change")], rows)

# %% positions
from gptlab.model.positions.t5 import bucket
from gptlab.model.transformer import position_of

far = torch.arange(64)
rope, alibi = (position_of(preset("gpt2-mini", position=name)) for name in ("rope", "alibi"))
torch.manual_seed(0)
q = torch.randn(1, 400, 1, 32).expand(-1, -1, 64, -1)  # the same vector at each of 64 places
turned, _ = rope.rotate(q, q, rope.once(far[None], far[None], torch.float32))
scores = (turned * turned[:, :, :1]).sum(-1).mean((0, 1)) / (q * q).sum(-1).mean()
falls = alibi.once(far[-1:][None], far[None], torch.float32)[0, :, 0].flip(-1)  # (H, 64), by distance
buckets = bucket(-far, buckets=32, max_distance=128, both_ways=False)

# %% by_distance
made, panels = plt_figure("wide", 2.5, ncols=3)
panels[0].plot(far, 100 * scores, color="#0072B2")
panels[0].set_title(t("rope_title"), fontsize=9)
for line, style in zip(falls, ("-", "--", ":", "-.")):
    panels[1].plot(far, line, style, color="#D55E00")
panels[1].set_yticks([0, -5, -10, -15])
panels[1].set_title(t("alibi_title"), fontsize=9)
panels[2].step(far, buckets, color="#009E73")
panels[2].set_title(t("t5_title"), fontsize=9)
for axes in panels:
    axes.set_xlabel(t("distance"))
made

# %% activations
from gptlab.model.mlps import GATED
from gptlab.registry import ACTIVATIONS

points = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
rows = []
for name in ACTIVATIONS:
    function = ACTIVATIONS[name]
    gated = function in GATED
    given = torch.stack([points, torch.ones(5)], -1) if gated else points[:, None]  # gate, value
    rows.append([name, 3 if gated else 2, *(round(float(value), 2) for value in function(given)[:, 0])])
Table([t("activation"), t("matrices"), "−2", "−1", "0", "1", "2"], rows)

# %% mask
from gptlab.model.masks import mask

at = torch.arange(5)[None]
for how in ({}, {"prefix": torch.tensor([3])}, {"band": 2}):
    allowed = mask(at, at, **how).allowed[0, 0]
    print(torch.zeros(5, 5).masked_fill(~allowed, -torch.inf))


# %% influence
def influence(compute, size=10):
    ids = torch.arange(size)[None]
    found = torch.zeros(size, size)
    with torch.no_grad():
        answer = compute(ids)
        for j in range(size):
            changed = ids.clone()
            changed[0, j] = size  # another token
            found[:, j] = (compute(changed) - answer).abs().amax(-1)[0] > 1e-9
    return found


causal, prefix, both = (gptlab.build(preset(name)).double() for name in ("gpt2-mini", "glm-mini", "t5-mini"))

# %% views
first = torch.arange(10)[None]
views = {
    "causal": influence(causal),
    "prefix": influence(lambda ids: prefix(ids, prefix=torch.tensor([4]))),
    "encoder": influence(lambda ids: both.encoder(both.embed(ids), None)),
}
source, own = influence(lambda ids: both(first, source=ids)), influence(lambda ids: both(ids, source=first))
views["decoder"] = torch.cat([source, own], 1)

# %% seen
made, panels = plt_figure("wide", 4.4, nrows=2, ncols=2)
for axes, (name, view) in zip(panels.flat, views.items()):
    axes.imshow(view.numpy(), cmap="cividis", vmin=0, vmax=1)
    axes.set_title(t(name), fontsize=9)
    axes.set_xticks([0, 9], ["1", "10"])
    axes.set_yticks([0, 9], ["1", "10"])
axes.axvline(9.5, color="white", linewidth=3)
axes.set_xticks([4.5, 14.5], [t("source"), t("own")])
made

# %% palm
from gptlab.survey.diagram import draw
from gptlab.survey.summary import Summary

Svg(draw(Summary("palm-mini", preset("palm-mini")), lang), t("alt_palm"))

# %% t5
Svg(draw(Summary("t5-mini", preset("t5-mini")), lang), t("alt_t5"))

# %% formula
c = preset("gpt2-124m")
V, N, L, C = c.vocab_size, c.context, c.n_layers, c.d_model
gpt2 = V * C + N * C + L * (12 * C**2 + 13 * C) + 2 * C
print(gpt2, gptlab.count(c).total)
c = preset("llama-7b")
V, L, C, d_ff = c.vocab_size, c.n_layers, c.d_model, c.d_ff
llama = 2 * V * C + L * (4 * C**2 + 3 * C * d_ff + 2 * C) + C
print(llama, gptlab.count(c).total)

# %% rule
rows = []
for row in chosen:
    rough = 12 * (row.config.n_layers + row.config.n_encoder_layers) * row.config.d_model**2
    exact = row.non_embedding
    rows.append([row.name, round(rough / 1e9, 1), round(exact / 1e9, 1), round(exact / rough, 2)])
Table(["", t("rough"), t("exact"), t("ratio")], rows)

# %% cache
from gptlab.model.cache import Cache
from gptlab.model.cost import cache_bytes

for name in ("gpt2-mini", "palm-mini"):
    c = preset(name)
    held = Cache(c, batch=1)
    formula = 2 * c.n_layers * c.n_kv_heads * c.head_dim * 4  # bytes for each token, in float32
    print(name, c.n_heads, c.n_kv_heads, formula, (held.k.nbytes + held.v.nbytes) // c.context, cache_bytes(c))

# %% caches
kinds = {
    "gpt3-175b": preset("gpt3-175b"),
    "llama-7b": preset("llama-7b"),
    "llama-7b, KV 8": preset("llama-7b", n_kv_heads=8),
    "palm-540b, KV 48": preset("palm-540b", n_kv_heads=48),
    "palm-540b": preset("palm-540b"),
}
rows = []
for name, c in kinds.items():
    bytes_ = cache_bytes(c, "bf16")
    rows.append([name, c.n_heads, c.n_kv_heads, round(bytes_ / 1e3), round(bytes_ * c.context / 1e9, 2)])
more = (gptlab.count(kinds["palm-540b, KV 48"]).total - gptlab.count(kinds["palm-540b"]).total) / 1e9
Table(["", t("heads"), "KV", t("per_token"), t("per_text")], rows)

# %% exercise block
c = preset("gpt2-355m")
right = 12 * c.d_model**2 + 13 * c.d_model
tolerance = 1e-6
mistakes = {
    "matrices_only": 12 * c.d_model**2,
    "all_layers": c.n_layers * (12 * c.d_model**2 + 13 * c.d_model),
    "no_norms": 12 * c.d_model**2 + 9 * c.d_model,
}

# %% exercise gate
right = 2 * 4 * 3072 / 3
mistakes = {
    "same_width": 4 * 3072,
    "halved": 2 * 3072,
    "of_width": 2 / 3 * 3072,
}

# %% exercise visible
right = 55 + 6
mistakes = {
    "causal": 55,
    "everything": 100,
    "prefix_only": 16,
    "added": 55 + 16,
}

# %% exercise held
right = 2 * 32 * 8 * 128 * 4
mistakes = {
    "all_heads": 2 * 32 * 32 * 128 * 4,
    "keys_only": 32 * 8 * 128 * 4,
    "numbers": 2 * 32 * 8 * 128,
    "one_layer": 2 * 8 * 128 * 4,
}
