# %% story
from itertools import islice

stories = [story for story, choices in islice(gptlab.fables(lang, seed=0), 400)]
text = "\n\n".join(stories)
print(len(text), "characters; the first story:")
print(stories[0])

# %% counting
from collections import Counter

pairs = Counter(a + b for a, b in zip(text, text[1:]) if (a + b).isalpha())
seen = pairs.most_common(1)[0][0]  # the two letters most often side by side
places = [i for i in range(len(text) - 2) if text[i : i + 2] == seen]
followers = Counter(text[i + 2] for i in places)
rows = [[repr(c), n, round(n / len(places), 3)] for c, n in followers.most_common(5)]
Table([t("next"), t("times"), t("probability")], rows)

# %% settings
settings = {"vocab_size": 50257, "context_length": 1024, "emb_dim": 768}
settings |= {"n_heads": 12, "n_layers": 12, "drop_rate": 0.1, "qkv_bias": False}
config = gptlab.ModelConfig.read(settings)
print("d_model", config.d_model, "head_dim", config.head_dim, "d_ff", config.d_ff)

# %% widths
from gptlab.survey import table

models = [row for row in table.rows() if row.group not in ("own", "miniatures")]
widths, sizes = [m.config.d_model for m in models], [m.parameters for m in models]
made, axes = plt_figure("wide", 3.4)
axes.loglog(widths, sizes, "o")
for m in models:
    if m.name in ("t5-small", "gpt2-124m", "gpt2-1558m", "llama-7b", "t5-11b", "gpt3-175b", "palm-540b"):
        axes.annotate(m.name, (m.config.d_model, m.parameters), (-6, 2), textcoords="offset points", ha="right")
axes.set(xlabel=t("width"), ylabel=t("parameters"), xlim=(100, 40000), ylim=(3e7, 2e12))
axes.set_xticks([200, 500, 2000, 5000, 20000], [200, 500, 2000, 5000, 20000])
made

# %% dropped
torch.manual_seed(0)
ones = torch.ones(8)
print("training: ", F.dropout(ones, p=0.1, training=True))
print("inference:", F.dropout(ones, p=0.1, training=False))
many = F.dropout(torch.ones(1_000_000), p=0.1, training=True)
zeros, mean = (many == 0).float().mean().item(), many.mean().item()
print(f"of a million numbers, {zeros:.4f} are 0; the mean is {mean:.4f}")

# %% counted_by_hand
V, T, C, L = 50257, 1024, 768, 12  # vocabulary, context, width, layers
attention = 3 * C * C + (C * C + C)  # q, k, v without biases; output with one
mlp = (C * 4 * C + 4 * C) + (4 * C * C + C)  # to the hidden width, and back
norms = 2 * (C + C)  # two, each with a gain and a bias
block = attention + mlp + norms
tables, head = V * C + T * C, V * C
total = tables + L * block + (C + C) + head  # C + C: the last norm
print(f"a block: {block:,}; in all: {total:,}")

# %% counted
counted = gptlab.count(config)
print("by hand minus counted:", total - counted.total)
parts = ["embedding", "position", "attention", "mlp", "norm", "head"]
rows = []
for part in parts:
    number = getattr(counted, part)
    rows.append([t(part), number, round(number / counted.total, 4)])
Table([t("part"), t("parameters"), t("share")], rows)

# %% built
gpt2 = gptlab.build(config, seed=0, dropout=settings["drop_rate"])
numbers = sum(p.numel() for p in gpt2.parameters())
size = sum(p.numel() * p.element_size() for p in gpt2.parameters())
print(f"{numbers:,} numbers, {size:,} bytes; the first block:")
named = gpt2.blocks[0].named_parameters()
rows = [[name, str(tuple(p.shape)), p.numel()] for name, p in named]
Table([t("parameter"), t("shape"), t("numbers")], rows)

# %% asked
with torch.no_grad():
    logits = gpt2(torch.tensor([[464, 2068, 7586, 21831]]))
probabilities = logits[0, -1].softmax(-1)  # of what follows the last token
low, high = probabilities.min().item(), probabilities.max().item()
print(len(probabilities), f"probabilities, their sum is {probabilities.sum():.4f}")
print(f"from {low:.7f} to {high:.7f}; 1 / 50257 is {1 / 50257:.7f}")
try:
    gpt2(torch.zeros(1, 1025, dtype=torch.int64))
except ValueError as error:
    print(error)
del gpt2  # its memory is free again

# %% as_published
original = gptlab.count(gptlab.preset("gpt2-124m"))
made, axes = plt_figure("wide", 2.8)
for y, model in enumerate((original, counted)):
    left = 0.0
    for part, color, hatch in zip(parts, ("C0", "C4", "C2", "C1", "C7", "C5"), ("", "", "//", "", "", "..")):
        number = getattr(model, part) / 1e6
        axes.barh(y, number, 0.6, left, color=color, hatch=hatch, edgecolor="white", label=t(part) if y else None)
        left += number
axes.set(yticks=[0, 1], yticklabels=[t("as_published"), t("as_here")], xlabel=t("millions"))
made.legend(loc="outside upper center", ncols=3)
made

# %% ranks
scalar = torch.tensor(7.0)
vector = torch.tensor([1.0, 2.0, 3.0, 4.0])
matrix = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
box = torch.arange(24.0).reshape(2, 3, 4)
named = {"scalar": scalar, "vector": vector, "matrix": matrix, "box": box}
rows = []
for name, x in named.items():
    rows.append([t(name), x.ndim, str(tuple(x.shape)), x.numel()])
Table([t("tensor"), t("rank"), t("shape"), t("elements")], rows)

# %% containers
made, axes = plt_figure("wide", 2.4)
for start, (name, x) in zip((0, 2.5, 8, 12.5), named.items()):
    sheets = x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1] if x.ndim else 1)
    for k in reversed(range(len(sheets))):  # the sheet behind is drawn first
        for (i, j), number in np.ndenumerate(sheets[k].numpy()):
            left, low = start + j + 1.1 * k, 1.1 * k - i
            axes.bar(left + 0.5, 1, 1, low, color="#dddddd" if k else "#a6d8f5", edgecolor="black")
            if k == 0 or i == 0 or j == 3:  # the front sheet covers the others
                axes.text(left + 0.5, low + 0.5, f"{number:.0f}", ha="center", va="center", fontsize=9)
    axes.text(start + sheets.shape[2] / 2, 2.5, t(name), ha="center", weight="bold")
axes.set(aspect="equal", ylim=(-2.2, 3.2))
axes.axis("off")
made

# %% elements
print(matrix[1])  # a row; counting begins at 0
print(matrix[:, 1])  # a column
print(matrix[1, 2], matrix[1, 2].item())  # an element; as a Python number

# %% created
print(torch.zeros(2, 3))
print(torch.full((2,), 0.5), torch.arange(5))
generator = torch.Generator().manual_seed(0)
print(torch.randn(2, 3, generator=generator))  # normal: mean 0, deviation 1

# %% dtypes
ids, numbers = torch.tensor([464, 2068]), torch.tensor([0.1, 2.0])
examples = [ids, numbers, numbers.to(torch.bfloat16)]
examples += [numbers.to(torch.float64), numbers > 1]
rows = [[str(x.dtype), x.element_size(), str(x.tolist())] for x in examples]
Table([t("dtype"), t("bytes"), t("values")], rows)

# %% converted
print(torch.tensor([1.9, -1.9]).to(torch.int64))
print(torch.tensor([16_777_216, 16_777_217]).to(torch.float32).to(torch.int64))

# %% numpy
array = np.array([1.0, 2.0, 3.0])
shared, copied = torch.from_numpy(array), torch.tensor(array)
array[0] = 100.0
print(shared)
print(copied)
print(array.dtype, torch.tensor([1.0, 2.0, 3.0]).dtype)

# %% device
from gptlab.runtime import device

where = device("auto")  # a GPU that this PyTorch can use, else the CPU
moved = matrix.to(where)
print(moved.device.type, (moved * 2).cpu())

# %% reshaped
line = torch.arange(6)
print(line.view(2, 3))
print(line.reshape(3, -1))  # -1: as many as remain
line[0] = 100
print(line.view(2, 3)[0])

# %% transposed
print(matrix.T)
print(matrix.reshape(3, 2))
try:
    matrix.T.view(6)
except RuntimeError:
    print("no view of these numbers has this shape")
print(matrix.T.reshape(6))

# %% products
other = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
print(matrix @ other)
print("row 0 with column 1:", (matrix[0] * other[:, 1]).sum().item())
print(matrix * matrix)  # element by element

# %% linear
generator = torch.Generator().manual_seed(0)
inputs = torch.randn(2, 3, 4, generator=generator)  # texts, tokens, numbers
weight = torch.randn(5, 4, generator=generator)
bias = torch.randn(5, generator=generator)
outputs = inputs @ weight.T + bias
print(tuple(inputs.shape), "->", tuple(outputs.shape))
difference = (outputs - F.linear(inputs, weight, bias)).abs().max()
print(f"largest difference from F.linear: {difference:.1e}")

# %% flow
letters = sorted(set(text))
small = gptlab.build(gptlab.preset("gpt2-mini", vocab_size=len(letters)), seed=0)
ids = torch.tensor([letters.index(c) for c in text[: 8 * 65]]).reshape(8, 65)
given, asked = ids[:, :-1], ids[:, 1:]  # 64 tokens; what follows each of them
flow = {"given": given, "embedded": small.embed(given), "logits": small(given)}
rows = []
for name, x in flow.items():
    rows.append([t(name), x.ndim, str(tuple(x.shape)), str(x.dtype)])
Table([t("tensor"), t("rank"), t("shape"), t("dtype")], rows)


# %% chain
def slope(f, x, h=1e-4):
    return (f(x + h) - f(x - h)) / (2 * h)


inner = slope(lambda x: 3 * x + 1, 2)
outer = slope(lambda u: u**2, 7)
whole = slope(lambda x: (3 * x + 1) ** 2, 2)
print(f"{inner:.4f} * {outer:.4f} = {whole:.4f}")

# %% forward
from gptlab.teach import autograd

x, y = torch.tensor(1.1), torch.tensor(1.0)
w = torch.tensor(2.2, requires_grad=True)
b = torch.tensor(0.0, requires_grad=True)
with autograd.record():  # for the drawing below; autograd itself does not need it
    z = w * x + b
    a = torch.sigmoid(z)
    loss = F.binary_cross_entropy(a, y)
print(f"z = {z:.4f}, a = {a:.4f}, loss = {loss:.4f}")

# %% curve
ws = torch.linspace(-3, 5, 161)
losses = -torch.sigmoid(1.1 * ws).log()
tilt = (a.item() - 1) * 1.1  # the slope at w = 2.2: it is derived below
made, axes = plt_figure("wide", 2.8)
axes.plot(ws, losses, label=t("loss_of_w"))
axes.plot([0, 4.4], [loss.item() - 2.2 * tilt, loss.item() + 2.2 * tilt], "--", label=t("tangent"))
axes.plot(2.2, loss.item(), "o", color="black")
axes.set(xlabel="w", ylabel=t("loss"))
axes.legend()
made

# %% graph
named = {"x": x, "w": w, "b": b, "z": z, "a": a, "y": y, "loss": loss}
words = {key: t("graph_" + key) for key in autograd.graph(loss, **named).keys}
drawn = autograd.graph(loss, words=words, **named)
Svg(drawn.svg("wide", lang), t("alt_graph"), drawn.svg("narrow", lang))

# %% local_slopes
value = a.item()
loss_by_a = -1 / value  # for y = 1
a_by_z = value * (1 - value)
z_by_w, z_by_b = 1.1, 1
by_w, by_b = loss_by_a * a_by_z * z_by_w, loss_by_a * a_by_z * z_by_b
print(f"dL/dw: {loss_by_a:.4f} * {a_by_z:.4f} * {z_by_w} = {by_w:.4f}")
print(f"dL/db: {loss_by_a:.4f} * {a_by_z:.4f} * {z_by_b} = {by_b:.4f}")
print(f"in short: {(value - 1) * 1.1:.4f} and {value - 1:.4f}")

# %% numeric
import math


def loss_at(w, b):
    return -math.log(1 / (1 + math.exp(-(w * 1.1 + b))))


h = 1e-5
print(f"dL/dw: {(loss_at(2.2 + h, 0) - loss_at(2.2 - h, 0)) / (2 * h):.4f}")
print(f"dL/db: {(loss_at(2.2, h) - loss_at(2.2, -h)) / (2 * h):.4f}")

# %% backward
loss.backward()
print(f"dL/dw: {w.grad:.4f}, dL/db: {b.grad:.4f}")


# %% three_ways
def loss_by_torch(x, y, w, b):
    return F.binary_cross_entropy(torch.sigmoid(w * x + b), y)


formulas = {"w": lambda x, y, w, b: (torch.sigmoid(w * x + b) - y) * x}
formulas["b"] = lambda x, y, w, b: torch.sigmoid(w * x + b) - y
point = {"x": 1.1, "y": 1.0, "w": 2.2, "b": 0.0}
rows = []
for row in autograd.check(loss_by_torch, gradients=formulas, **point).rows:
    numbers = [f"{n:.8f}" for n in (row.analytic, row.numeric, row.autograd)]
    errors = [float(f"{e:.1e}") for e in (row.analytic_error, row.numeric_error)]
    rows.append([row.input, *numbers, *errors])
names = ["parameter", "by_hand", "numeric", "autograd", "error_by_hand", "error_numeric"]
Table([t(name) for name in names], rows)


# %% step_sizes
def loss_of(w):
    return -torch.sigmoid(1.1 * w).log()


steps, found = 10.0 ** torch.arange(-13, 0.25, 0.5), {}
for dtype in (torch.float32, torch.float64):
    ws = torch.linspace(-3, 3, 101).to(dtype)
    exact = (torch.sigmoid(1.1 * ws.double()) - 1) * 1.1
    ways = [(loss_of(ws + h) - loss_of(ws - h)) / (2 * h) for h in steps.to(dtype)]
    ws.requires_grad_()
    ways += torch.autograd.grad(loss_of(ws).sum(), ws)
    errors = [((way - exact).norm() / exact.norm()).item() for way in ways]
    print(f"{dtype}: numeric {min(errors[:-1]):.1e}, autograd {errors[-1]:.1e}")
    found[dtype] = errors

# %% step_figure
made, axes = plt_figure("wide", 3.4)
for (dtype, errors), style, color in zip(found.items(), ("o-", "s--"), ("C0", "C1")):
    name = str(dtype).removeprefix("torch.")
    axes.loglog(steps, errors[:-1], style, color=color, markersize=4, label=t("numeric_in").format(name))
    axes.axhline(errors[-1], color=color, linestyle=":", label=t("autograd_in").format(name))
axes.set(xlabel=t("step_size"), ylabel=t("error"), yticks=[1e-16, 1e-12, 1e-8, 1e-4, 1])
made.legend(loc="outside upper center", ncols=2)
made

# %% network
torch.manual_seed(34)
first, second = torch.nn.Linear(10, 5), torch.nn.Linear(5, 1)
net = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.Sigmoid())
x, y = torch.randn(1, 10), torch.ones(1, 1)
named = net.named_parameters()
rows = [[name, str(tuple(p.shape)), p.numel()] for name, p in named]
Table([t("parameter"), t("shape"), t("numbers")], rows)

# %% without_relu
weight = second.weight @ first.weight  # (1, 10)
bias = second.weight @ first.bias + second.bias
points = torch.randn(100, 10)
difference = second(first(points)) - F.linear(points, weight, bias)
print(f"largest difference: {difference.abs().max():.1e}")

# %% forward_pass
W1, b1, W2, b2 = net.parameters()
z1 = x @ W1.T + b1
h = z1.relu()
z2 = h @ W2.T + b2
a = z2.sigmoid()
print("z1", z1.detach())
print("h ", h.detach())
with autograd.record():  # for the drawing below
    loss = F.binary_cross_entropy(net(x), y)
print(f"z2 = {z2.item():.4f}, a = {a.item():.4f}, loss = {-math.log(a.item()):.4f}")
print(f"by the network itself: a = {net(x).item():.4f}, loss = {loss.item():.4f}")

# %% backward_pass
with torch.no_grad():
    d_z2 = a - y  # (1, 1)
    d_W2, d_b2 = d_z2.T @ h, d_z2.sum(0)  # (1, 5), (1,)
    d_h = d_z2 @ W2  # (1, 5)
    d_z1 = d_h * (z1 > 0)  # (1, 5)
    d_W1, d_b1 = d_z1.T @ x, d_z1.sum(0)  # (5, 10), (5,)
print("d_z2", d_z2)
print("d_h ", d_h)
print("d_z1", d_z1)

# %% network_graph
named = {"x": x, "W1": W1, "b1": b1, "W2": W2, "b2": b2, "y": y, "loss": loss}
words = {key: t("graph_" + key) for key in autograd.graph(loss, **named).keys}
drawn = autograd.graph(loss, words=words, **named)
Svg(drawn.svg("wide", lang), t("alt_network_graph"), drawn.svg("narrow", lang))

# %% compared
loss.backward()
by_hand = {"0.weight": d_W1, "0.bias": d_b1, "2.weight": d_W2, "2.bias": d_b2}
rows = []
for name, p in net.named_parameters():
    length = round(p.grad.norm().item(), 4)
    difference = (p.grad - by_hand[name]).abs().max()
    rows.append([name, str(tuple(p.grad.shape)), length, float(f"{difference:.1e}")])
Table([t("parameter"), t("shape"), t("length"), t("difference")], rows)

# %% gradient_picture
made, axes = plt_figure("wide", 2.6)
limit = 2 * W1.grad.abs().max().item()  # pale colours, on which numbers can be read
axes.imshow(W1.grad.numpy(), cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
for (i, j), number in np.ndenumerate(W1.grad.numpy()):
    axes.text(j, i, f"{number:.3f}" if number else "0", ha="center", va="center", fontsize=7)
axes.set(xlabel=t("inputs"), ylabel=t("neurons"), xticks=range(10), yticks=range(5))
made

# %% reverse
order, waiting = [], [loss.grad_fn]
while waiting:
    node = waiting.pop(0)
    order.append(node.name().split("::")[-1])
    waiting += [before for before, _ in node.next_functions if before]
print("\n".join(order))

# %% accumulated
once = W2.grad.clone()
F.binary_cross_entropy(net(x), y).backward()  # without emptying .grad first
difference = (W2.grad - 2 * once).abs().max()
print(f"largest difference from twice as much: {difference:.1e}")
net.zero_grad()
print(W2.grad)

# %% update
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
before = F.binary_cross_entropy(net(x), y)
before.backward()
by_hand = W2.detach() - 0.1 * W2.grad
optimizer.step()
after = F.binary_cross_entropy(net(x), y)
difference = (W2 - by_hand).abs().max()
print(f"largest difference from w - lr * gradient: {difference:.1e}")
print(f"loss before {before.item():.4f}, after {after.item():.4f}")

# %% training
torch.manual_seed(0)
inputs = torch.randn(64, 10)
targets = (inputs[:, :1] > inputs[:, 1:2]).float()  # 1: the first is larger
history = []
for step in range(200):
    loss = F.binary_cross_entropy(net(inputs), targets)  # forward, and the loss
    optimizer.zero_grad()
    loss.backward()  # backward
    optimizer.step()  # update
    history.append(loss.item())
print(f"loss at the first step {history[0]:.4f}, at the last {history[-1]:.4f}")

# %% loss_curve
made, axes = plt_figure("wide", 2.6)
axes.plot(range(1, 201), history)
axes.axhline(math.log(2), linestyle="--", color="black", linewidth=1)
axes.annotate(t("guessing"), (200, math.log(2)), (0, 3), textcoords="offset points", ha="right")
axes.set(xlabel=t("step"), ylabel=t("loss"), ylim=(0, 0.8))
made

# %% whole_model
optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
for step in range(2):
    loss = F.cross_entropy(small(given).flatten(0, 1), asked.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.4f}")
with_gradient = [p for p in small.parameters() if p.grad is not None]
print(len(with_gradient), "parameter tensors have a gradient")
print(f"ln {len(letters)} = {math.log(len(letters)):.4f}")

# %% exercise qkv_bias
right = 12 * 3 * 768
mistakes = {"one_block": 3 * 768, "one_projection": 12 * 768, "per_head": 12 * 12 * 3 * 768, "matrix": 12 * 3 * 768**2}

# %% exercise product_shape
right = (8, 16, 5)
mistakes = {"inner_kept": (8, 16, 32, 5), "batch_lost": (16, 5), "last_kept": (8, 16, 32)}

# %% exercise reshaped_row
right = [1, 3, 5]
mistakes = {"transposed": [1, 2, 3], "row": [1, 2], "second": [2, 4, 6]}

# %% exercise other_label
right = value * 1.1
mistakes = {
    "still_one": (value - 1) * 1.1,
    "by_b": value,
    "sign": -value * 1.1,
    "unfinished": value * (1 - value) * 1.1,
}

# %% exercise passes
right = 2 * sum(p.numel() for p in net.parameters())
mistakes = {"one_each": 61, "one_sided": 62, "weights_only": 110}

# %% exercise one_step
right = 2.2 - 2 * (value - 1) * 1.1
mistakes = {"sign": 2.2 + 2 * (value - 1) * 1.1, "no_rate": 2.2 - (value - 1) * 1.1, "change": -2 * (value - 1) * 1.1}
tolerance = 0.003

# %% exercise twice
right = 3 * (value - 1) * 1.1
mistakes = {"last": (value - 1) * 1.1, "zero": 0, "product": ((value - 1) * 1.1) ** 3}
