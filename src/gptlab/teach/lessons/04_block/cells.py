# %% stack
from gptlab.model.mlps import gelu
from gptlab.model.norms import LayerNorm

torch.manual_seed(0)
layers = [torch.nn.Linear(64, 64) for _ in range(24)]
start = torch.randn(16, 64)


def gradients(step):
    streams = [start.clone().requires_grad_()]
    for layer in layers:
        streams.append(step(streams[-1], layer))
    return [g.norm().item() for g in torch.autograd.grad(streams[-1].sum(), streams)]


# %% three_ways
norm = LayerNorm(64, affine="none")
plain = gradients(lambda x, layer: gelu(layer(x)))
added = gradients(lambda x, layer: x + gelu(layer(x)))
normed = gradients(lambda x, layer: x + gelu(layer(norm(x))))

# %% stack_figure
made, axes = plt_figure("wide", 2.8)
axes.semilogy(added, "s-", color="#E69F00", markersize=4, label="x + f(x)")
axes.semilogy(normed, "D-", color="#0072B2", markersize=4, label="x + f(norm(x))")
axes.semilogy(plain, "o-", color="#D55E00", markersize=4, label="f(x)")
axes.set(xlabel=t("depth"), ylabel=t("gradient_length"), xticks=range(0, 25, 4))
axes.legend(frameon=False, loc="lower right")
made

# %% subject
from gptlab.experiments.base import passage
from gptlab.lens.trace import trace
from gptlab.text.tokenizer import prompt_ids

like_gpt2 = lab.config.family == "gpt2"
model = lab.model if like_gpt2 else gptlab.build(gptlab.preset("gpt2-mini", vocab_size=lab.config.vocab_size))
text = passage(lab, None, 48)
seen = trace(model, lab.tokenizer, prompt_ids(lab.tokenizer, text))
print("a model like GPT-2:", "yours" if like_gpt2 else "untrained, for yours is built otherwise")
print("blocks:", len(model.blocks), "| read:", repr(text))
print("the stream before the first block, (tokens, width):", seen.resid_pre[0].shape)

# %% stream
total = seen.resid_pre[0].copy()
for attention_out, mlp_out in zip(seen.attn_out, seen.mlp_out):
    total += attention_out + mlp_out
difference = np.abs(total - seen.resid_post[-1]).max()
print(f"largest difference: {difference:.1e}")


# %% stream_figure
def size(x):
    return np.sqrt((x**2).mean())


L = len(model.blocks)
whole = [size(seen.resid_pre[0])] + [size(x) for pair in zip(seen.resid_mid, seen.resid_post) for x in pair]
parts = [size(x) for pair in zip(seen.attn_out, seen.mlp_out) for x in pair]
made, axes = plt_figure("wide", 3.0)
axes.plot(np.arange(2 * L + 1) / 2, whole, "o-", color="#0072B2", markersize=4, label=t("stream"))
axes.bar(np.arange(L) + 0.5, parts[::2], 0.3, color="#E69F00", label=t("attention_adds"))
axes.bar(np.arange(L) + 1, parts[1::2], 0.3, color="#009E73", label=t("mlp_adds"))
axes.set(xlabel=t("blocks_passed"), ylabel=t("size"), xticks=range(L + 1), ylim=(0, 1.5 * max(whole)))
axes.legend(frameon=False, loc="upper left")
made


# %% norm_by_hand
def layer_norm(x, part):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + part.eps) * part.weight + part.bias


block = model.blocks[0]
x = torch.from_numpy(seen.resid_pre[0])
first, second = block.residual.norms
with torch.no_grad():
    norm_difference = (layer_norm(x, first) - first(x)).abs().max().item()
print(f"largest difference: {norm_difference:.1e}")

# %% shift
token = torch.tensor([2.0, -1.0, 0.5, 1.5, -2.0, 0.0, 3.0, -0.5])
bare = LayerNorm(8, affine="none")
moved = 3 * token + 4
print(f"x           mean {token.mean():5.2f}, spread {token.std(correction=0):4.2f}")
print(f"3x + 4      mean {moved.mean():5.2f}, spread {moved.std(correction=0):4.2f}")
print(f"norm(x)     mean {bare(token).mean():5.2f}, spread {bare(token).std(correction=0):4.2f}")
shift_difference = (bare(moved) - bare(token)).abs().max().item()
print(f"norm(3x + 4) and norm(x) differ by {shift_difference:.1e} at most")

# %% shift_figure
made, axes = plt_figure("wide", 2.4, ncols=2, sharex=True)
places = np.arange(1, 9)
for side, values in ((axes[0], (token, moved)), (axes[1], (bare(token), bare(moved)))):
    side.plot(places, values[0], "o", color="#0072B2", label="x")
    side.plot(places, values[1], "D", color="#D55E00", fillstyle="none", markersize=9, label="3x + 4")
    side.axhline(0, color="#999999", linewidth=0.8)
    side.set(xlabel=t("place"), xticks=places)
axes[0].set_title(t("before"), fontsize=9)
axes[1].set_title(t("after"), fontsize=9)
made.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
made

# %% eps
eps = 1e-5
direction = token - token.mean()
direction = direction / direction.std(correction=0)
rows = []
for spread in (1.0, 0.1, 0.01, 0.001, 0.0001):
    small = spread * direction
    inside = LayerNorm(8, eps=eps, affine="none")(small).std(correction=0).item()
    outside = (small / (small.std(correction=0) + eps)).std(correction=0).item()
    rows.append([spread, round(inside, 4), round(outside, 4)])
Table([t("spread_before"), t("inside"), t("outside")], rows)


# %% mlp
def tanh_form(h):
    return h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3))) / 2


up, down = block.mlp.up, block.mlp.down
x = torch.from_numpy(seen.resid_mid[0])
with torch.no_grad():
    h = up(second(x))
    by_hand = down(tanh_form(h))
print("token by token:", tuple(x.shape), "->", tuple(h.shape), "->", tuple(by_hand.shape))
mlp_difference = np.abs(by_hand.numpy() - seen.mlp_out[0]).max()
print(f"largest difference: {mlp_difference:.1e}")
numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in block.named_children()}
numbers

# %% gelu_figure
z = torch.linspace(-4, 3, 701, dtype=torch.float64)
exact = F.gelu(z)
farthest = (tanh_form(z) - exact).abs().max().item()
lowest = exact.min().item()
made, axes = plt_figure("wide", 2.6, ncols=2)
axes[0].plot(z, torch.relu(z), "--", color="#D55E00", label="ReLU")
axes[0].plot(z, exact, color="#0072B2", label="GELU")
axes[0].legend(frameon=False)
axes[0].set(xlabel="x")
axes[0].set_title(t("activations"), fontsize=9)
axes[1].plot(z, 1000 * (tanh_form(z) - exact), color="#009E73")
axes[1].set(xlabel="x")
axes[1].set_title(t("thousandths"), fontsize=9)
made

# %% folded
with torch.no_grad():
    stacked = down(up(x))
    matrix = down.weight @ up.weight
    shift = down.weight @ up.bias + down.bias
    single = x @ matrix.T + shift
folded_difference = (stacked - single).abs().max().item()
print("one matrix in the place of two:", tuple(matrix.shape))
print(f"largest difference: {folded_difference:.1e}")

# %% bits
from gptlab.model.mlps import MLP

bits = [[0, 0], [0, 1], [1, 0], [1, 1]]
points, differ = torch.tensor(bits).float(), torch.tensor([a ^ b for a, b in bits])
Table([t("first_bit"), t("second_bit"), t("differ")], [[a, b, a ^ b] for a, b in bits])

# %% xor
xor = {}
for name, activation in (("linear", lambda h: h), ("gelu", gelu)):
    torch.manual_seed(0)
    net = MLP(d_model=2, d_ff=16, activation=activation, bias=True, dropout=0.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(300):
        loss = F.cross_entropy(net(points), differ)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    xor[name] = loss.item()
    print(f"{name:6} loss {loss.item():.4f}  p(differ):", [round(p, 3) for p in net(points).softmax(-1)[:, 1].tolist()])

# %% dropout
torch.manual_seed(0)
drop = torch.nn.Dropout(0.2)
ones = torch.ones(100_000)
drop.train()
dropped = drop(ones)
print("training:  values", sorted(set(dropped.tolist())), f"zeros {(dropped == 0).float().mean():.3f}", end="  ")
print(f"mean {dropped.mean():.3f}")
drop.eval()
print("inference: values", sorted(set(drop(ones).tolist())), f"mean {drop(ones).mean():.3f}")

# %% dropout_mean
torch.manual_seed(0)
branch = MLP(d_model=8, d_ff=32, activation=gelu, bias=True, dropout=0.2)
with torch.no_grad():
    branch.train()
    average = branch(token.expand(100_000, 8)).mean(0)
    branch.eval()
    calm = branch(token)
print("mean of 100000 passes in training:", [round(v, 2) for v in average.tolist()])
print("one pass at inference:            ", [round(v, 2) for v in calm.tolist()])


# %% attention_by_hand
def attention(x, part):
    T, C = x.shape
    q, k, v = part.qkv(x).view(T, 3, part.n_heads, part.head_dim).permute(1, 2, 0, 3)
    scores = q @ k.mT * part.head_dim**-0.5
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
    return part.out((pattern @ v).transpose(0, 1).reshape(T, C))


# %% block_by_hand
def block_by_hand(x, block):
    first, second = block.residual.norms
    x = x + attention(layer_norm(x, first), block.attention)
    h = block.mlp.up(layer_norm(x, second))
    return x + block.mlp.down(tanh_form(h))


# %% all_blocks
far = []
with torch.no_grad():
    for i in range(L):
        ours = block_by_hand(torch.from_numpy(seen.resid_pre[i]), model.blocks[i])
        far.append(np.abs(ours.numpy() - seen.resid_post[i]).max())
Table([t("depth"), t("difference")], [[i + 1, f"{d:.1e}"] for i, d in enumerate(far)])

# %% exercise norm
values = [1.0, 2.0, 3.0, 6.0]
mean = sum(values) / 4
squares = sum((v - mean) ** 2 for v in values)
right = (6 - mean) / (squares / 4) ** 0.5
mistakes = {
    "divisor": (6 - mean) / (squares / 3) ** 0.5,
    "variance": (6 - mean) / (squares / 4),
    "uncentred": 6 / (squares / 4) ** 0.5,
}

# %% exercise epsilon
right = 0.001 / (0.001**2 + 1e-5) ** 0.5
mistakes = {"outside": 0.001 / (0.001 + 1e-5), "none": 1.0, "unrooted": 0.001 / (0.001**2 + 1e-5)}
tolerance = 0.003

# %% exercise dropping
right = (3 / 0.8, 3.0)
mistakes = {"at_inference": (3.0, 3 * 0.8), "both": (3 / 0.8, 3 * 0.8), "by_p": (3 / 0.2, 3.0), "unscaled": (3.0, 3.0)}

# %% exercise count
C = 768
right = 12 * C * C + 13 * C
mistakes = {"no_bias": 12 * C * C, "no_norms": 12 * C * C + 9 * C, "no_attention": 8 * C * C + 5 * C}

# %% exercise collapse
right = 128 * 128 + 128
mistakes = {"both": 2 * 128 * 512 + 512 + 128, "hidden": 512 * 512 + 512, "biasless": 128 * 128}
