# %% projections
x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
query_matrix = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
key_matrix = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
value_matrix = torch.tensor([[1.0, 0.0], [0.0, 5.0], [3.0, 0.0]])
q, k, v = x @ query_matrix, x @ key_matrix, x @ value_matrix
for name, rows in (("q", q), ("k", k), ("v", v)):
    print(name, rows.tolist())

# %% linear
torch.manual_seed(0)
a, b = torch.randn(2, 100, 3)
another = torch.randn(2, 4)
print("of a sum:  ", ((a + b) @ query_matrix - (a @ query_matrix + b @ query_matrix)).abs().max().item())
print("two in one:", (a @ query_matrix @ another - a @ (query_matrix @ another)).abs().max().item())

# %% scores
scores = q @ k.T
print(scores)
print("token 3 asks, token 1 is asked:", (q[2] @ k[0]).item())

# %% variance
torch.manual_seed(0)
widths = [4, 16, 64, 256, 1024]
spread, largest = {"raw": [], "scaled": []}, {"raw": [], "scaled": []}
for width in widths:
    dots = torch.randn(4000, 1, width) @ torch.randn(4000, width, 1)
    many = torch.randn(500, width) @ torch.randn(32, width).T
    for name, scale in (("raw", 1.0), ("scaled", width**-0.5)):
        spread[name].append((dots * scale).var().item())
        largest[name].append((many * scale).softmax(-1).amax(-1).mean().item())
rows = [[width, round(a, 1), round(b, 2)] for width, a, b in zip(widths, spread["raw"], spread["scaled"], strict=True)]
Table([t("head_width"), t("head_raw"), t("head_scaled")], rows)

# %% saturation
made, axes = plt_figure("wide", 2.6, ncols=2)
for name, style in (("raw", "o-"), ("scaled", "s--")):
    axes[0].plot(widths, spread[name], style, label=t(name))
    axes[1].plot(widths, largest[name], style, label=t(name))
axes[0].set(xscale="log", yscale="log", xlabel=t("head_width"), ylabel=t("axis_variance"))
axes[1].set(xscale="log", ylim=(0, 1), xlabel=t("head_width"), ylabel=t("axis_largest"))
axes[1].axhline(1 / 32, color="gray", linewidth=0.8)
for axis in axes:
    axis.set_xticks(widths, [str(width) for width in widths])
    axis.minorticks_off()
axes[0].legend()
made

# %% mask
scaled = scores / 2**0.5
mask = torch.full((4, 4), -torch.inf).triu(1)
print(mask)
print(scaled + mask)

# %% pattern
pattern = (scaled + mask).softmax(-1)
print(pattern)
print("sums:", pattern.sum(-1).tolist())

# %% wrong_masks
below = torch.ones(4, 4).tril()
ways = {
    "mask_right": pattern,
    "mask_zero_before": (scaled * below).softmax(-1),
    "mask_zero_after": scaled.softmax(-1) * below,
}
second = {name: [*weights[1].tolist(), weights[1].sum().item()] for name, weights in ways.items()}
rows = [[t(name), *(round(number, 3) for number in numbers)] for name, numbers in second.items()]
Table([t("head_mask"), *(t("token").format(number=number) for number in range(1, 5)), t("head_sum")], rows)

# %% weighted_sum
z = pattern @ v
print(v)
print(z)

# %% steps
made, axes = plt_figure("wide", 2.4, ncols=3)
shown = {"step_scores": scaled, "step_mask": scaled + mask, "step_pattern": pattern}
for axis, (name, values) in zip(axes, shown.items(), strict=True):
    seen = values.masked_fill(values.isinf(), torch.nan)
    axis.imshow(seen.numpy(), cmap="Blues", vmin=0, vmax=1.6 if name == "step_pattern" else 1.6 * scaled.max())
    for (row, column), value in np.ndenumerate(values.numpy()):
        axis.text(column, row, "−∞" if np.isinf(value) else f"{value:.2f}", ha="center", va="center", fontsize=8)
    axis.set(title=t(name), xlabel=t("axis_key"), ylabel=t("axis_query") if name == "step_scores" else "")
    axis.set_xticks(range(4), range(1, 5))
    axis.set_yticks(range(4), range(1, 5))
made

# %% kernel
from gptlab.model import kernels
from gptlab.model.masks import Mask

batch = [rows[None, None] for rows in (q, k, v)]
their_z, their_pattern = kernels.reference(*batch, mask=Mask(causal=True), bias=None, scale=2**-0.5, dropout=0.0)
torch_z = F.scaled_dot_product_attention(*batch, is_causal=True)
print("gptlab, pattern:", (their_pattern - pattern).abs().max().item(), "  z:", (their_z - z).abs().max().item())
print("torch, z:       ", (torch_z - z).abs().max().item())


# %% not_linear
def attend(x, weights=None):
    q, k, v = x @ query_matrix, x @ key_matrix, x @ value_matrix
    weights = (q @ k.T / 2**0.5 + mask).softmax(-1) if weights is None else weights
    return weights @ v


print("pattern kept:     ", (attend(2 * x, pattern) - 2 * attend(x, pattern)).abs().max().item())
print("pattern made anew:", (attend(2 * x) - 2 * attend(x)).abs().max().item())

# %% own_qkv
from gptlab.experiments.base import passage

trace = lab.trace(passage(lab, None, 24))
attention = lab.model.blocks[0].attention
x = torch.as_tensor(trace.resid_pre[0] if lab.config.norm_placement == "post" else trace["blocks.0.residual.norms.0"])
with torch.no_grad():
    rows = F.linear(x, attention.qkv.weight, attention.qkv.bias)
q, k, v = rows.split(attention.sections, dim=-1)
print("x", tuple(x.shape), "qkv", tuple(rows.shape), "q", tuple(q.shape), "k", tuple(k.shape), "v", tuple(v.shape))
q, k, v = (part.unflatten(-1, (-1, attention.head_dim)).transpose(0, 1) for part in (q, k, v))
print("by heads:", tuple(q.shape), tuple(k.shape), tuple(v.shape))

# %% own_extras
plain, position = q, lab.model.position
every = torch.arange(len(x))[None]
with torch.no_grad():
    shared = position.once(every, every, x.dtype)
    q, k = (found[0] for found in position.rotate(attention.q_norm(q[None]), attention.k_norm(k[None]), shared))
    bias = position.bias(q[None], k[None], shared, attention.relative)
share = attention.n_heads // attention.n_kv_heads
k, v = k.repeat_interleave(share, 0), v.repeat_interleave(share, 0)
print(lab.config.position, "  change of q:", (q - plain).abs().max().item(), "  bias:", bias is not None)

# %% own_steps
with torch.no_grad():
    scores = q @ k.mT * attention.scale + (0 if bias is None else bias[0])
    pattern = (scores + torch.full((len(x), len(x)), -torch.inf).triu(1)).softmax(-1)
    z = pattern @ v
    side_by_side = torch.cat(list(z), -1)
    attn_out = F.linear(side_by_side, attention.out.weight, attention.out.bias)
print(tuple(scores.shape), tuple(z.shape), tuple(side_by_side.shape), tuple(attn_out.shape))

# %% same
by_hand = {"q": q, "k": k, "v": v, "pattern": pattern, "z": z, "attn_out": attn_out}
differences = {}
for name, mine in by_hand.items():
    theirs = torch.as_tensor(getattr(trace, name)[0])
    theirs = theirs.repeat_interleave(share, 0) if name in ("k", "v") else theirs
    differences[name] = (mine - theirs).abs().max().item()
    print(f"{name:9}", tuple(theirs.shape), "largest difference", f"{differences[name]:.1e}")

# %% heads
from gptlab.lens.attention import heads, measures

some = heads(lab.model, trace)["decoder"]
measured = measures(some.pattern, some.visible)
measured["sharp"] = 1 - measured["evenness"]
best = {}
for name in ("previous", "own", "first", "evenness", "sharp"):
    best[name] = tuple(map(int, np.unravel_index(measured[name].argmax(), measured[name].shape)))
rows = [[t(name), at[0] + 1, at[1] + 1, round(100 * float(measured[name][at]))] for name, at in best.items()]
Table([t("head_most"), t("head_block"), t("head_head"), t("head_percent")], rows)

# %% patterns
picked = list(dict.fromkeys(best[name] for name in ("previous", "first", "evenness")))
made, axes = plt_figure("wide", 2.8, ncols=3)
for axis in axes[len(picked) :]:
    axis.set_visible(False)
for axis, at in zip(axes, picked, strict=False):
    axis.imshow(np.where(some.visible[at[0]], some.pattern[at], np.nan), cmap="cividis", vmin=0, vmax=1)
    axis.set_title(t("block_and_head").format(block=at[0] + 1, head=at[1] + 1), fontsize=9)
    axis.set_xticks(range(len(x)), trace.tokens, fontsize=5, rotation=90 if max(map(len, trace.tokens)) > 2 else 0)
    axis.set_yticks(range(len(x)), trace.tokens, fontsize=5)
    axis.tick_params(length=0)
made

# %% sum_of_heads
with torch.no_grad():
    slices = attention.out.weight.split(attention.head_dim, dim=1)
    added = sum(one @ part.T for one, part in zip(z, slices, strict=True))
    added = added if attention.out.bias is None else added + attention.out.bias
print("largest difference:", (added - attn_out).abs().max().item())

# %% future
ids = torch.as_tensor(trace.ids)[None]
changed = ids.clone()
changed[0, -1] = (ids[0, -1] + 1) % lab.config.vocab_size
with torch.no_grad():
    moved = (lab.model(ids) - lab.model(changed)).abs().amax(-1)[0]
print("at the changed place:", round(moved[-1].item(), 3), "  at all places before it:", moved[:-1].max().item())

# %% exercise score
q, k = np.array([1.0, 2.0]), np.array([3.0, 1.0])
right = q @ k / 2**0.5
mistakes = {"unscaled": q @ k, "by_width": q @ k / 2, "times": q @ k * 2**0.5, "sum": (q + k).sum()}

# %% exercise spread
right = 64**0.5
mistakes = {"variance": 64, "one": 1, "scale": 64**-0.5}

# %% exercise masked
weights = np.exp([1.0, 2.0, 3.0])
right = weights[0] / weights[:2].sum()
mistakes = {
    "no_mask": weights[0] / weights.sum(),
    "zero_score": weights[0] / (weights[:2].sum() + 1),
    "own": weights[1] / weights[:2].sum(),
    "not_exponential": 1 / 3,
}

# %% exercise visible
right = 10 * 11 // 2
mistakes = {"all": 10 * 10, "not_self": 10 * 9 // 2, "one_each": 10}

# %% exercise size
right = 4 * 768**2
mistakes = {"no_output": 3 * 768**2, "each_whole": 12 * 4 * 768**2, "one_head": 4 * 768 * 64, "one_matrix": 768**2}
