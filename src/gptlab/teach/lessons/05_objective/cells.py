# %% pairs
from gptlab.experiments.base import passage
from gptlab.text.labels import labels

text = passage(lab, None, 48)
ids = lab.tokenizer.encode(text).astype(np.int64)
shown = labels(lab.tokenizer, ids)
Table([t("input"), t("target")], [[" ".join(shown[:n]), shown[n]] for n in range(1, 9)])

# %% batch
from gptlab.text import corpora
from gptlab.text.batches import windows
from gptlab.text.objectives import NextToken

source = lab.run.train_config.corpus if lab.run.train_config else f"fables:{lang}"
found = corpora.find(source)
data = corpora.prepare(found, lab.tokenizer)
drawn = windows(data.train, count=4, context=8, seed=0)
batch = NextToken()(drawn, None)
print("windows", drawn.shape, "-> ids", batch.ids.shape, "targets", batch.targets.shape)
print("ids    ", batch.ids[0])
print("targets", batch.targets[0])

# %% scored
x = torch.from_numpy(ids)[None]
with torch.no_grad():
    logits = lab.model(x[:, :-1])[0]
p = logits.softmax(-1)[torch.arange(len(ids) - 1), x[0, 1:]]
nats = -p.log()
rows = []
for n in range(9, 17):
    rows.append([" ".join(shown[n - 7 : n]), shown[n], round(p[n - 1].item(), 3), round(nats[n - 1].item(), 3)])
Table([t("input_end"), t("target"), t("probability"), t("surprise")], rows)

# %% by_hand
from gptlab.training.loss import summed

targets = x[0, 1:]
by_hand = nats.mean().item()
torchs = F.cross_entropy(logits, targets).item()
ours = summed(logits[None], targets[None]).item() / len(targets)
print(f"by hand {by_hand:.6f}   torch {torchs:.6f}   the project {ours:.6f}   nats per token")

# %% surprise_figure
q = np.linspace(0.01, 0.99, 99)
expected = -0.7 * np.log(q) - 0.3 * np.log(1 - q)
made, axes = plt_figure("wide", 2.7, ncols=2)
axes[0].plot(q, -np.log(q), color="#0072B2")
axes[0].set(xlabel=t("said"), ylabel=t("nats"))
axes[0].set_title(t("one_token"), fontsize=9)
axes[1].plot(q, expected, color="#D55E00")
axes[1].axvline(0.7, color="#333333", linestyle="--", linewidth=0.9)
axes[1].set(xlabel=t("said"), ylabel=t("nats"))
axes[1].set_title(t("on_average"), fontsize=9)
made

# %% guessing
from gptlab.experiments.base import untrained
from gptlab.training.evaluate import window_loss

count = max(8, 16384 // lab.model.context)
guessing = np.log(lab.config.vocab_size)
before = window_loss(untrained(lab).model, data.val, count=count)
after = window_loss(lab.model, data.val, count=count)
print(f"guessing {guessing:.3f}   before training {before:.3f}   after {after:.3f}   nats per token")

# %% masked
other = x.clone()
other[0, -1] = (other[0, -1] + 1) % lab.config.vocab_size
everything = torch.tensor([x.shape[1]])
with torch.no_grad():
    with_mask = (lab.model(x) - lab.model(other))[0].abs().amax(-1)
    without = (lab.model(x, prefix=everything) - lab.model(other, prefix=everything))[0].abs().amax(-1)
T = len(ids)
rows = [[n + 1, round(with_mask[n].item(), 3), round(without[n].item(), 3)] for n in (0, T // 2, T - 2, T - 1)]
Table([t("position"), t("with_mask"), t("without_mask")], rows)

# %% small
characters = lab.tokenizer if lab.tokenizer.kind == "char" else corpora.make_tokenizer("char", found)
V = characters.vocab_size
letters = corpora.prepare(found, characters)
shape = gptlab.preset("gpt2-mini", vocab_size=V, n_layers=1, d_model=32, n_heads=2, context=16)


# %% cheat
def trained(**seen):
    small = gptlab.build(shape, init="scaled")
    optimizer = torch.optim.AdamW(small.parameters(), lr=0.01)
    losses = []
    for step in range(200):
        window = torch.from_numpy(windows(letters.train, count=32, context=16, seed=0, step=step))
        nats = F.cross_entropy(small(window[:, :-1], **seen).mT, window[:, 1:], reduction="none")
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
        losses.append(nats.mean(0).detach())
    return torch.stack(losses)


# %% cheat_figure
honest, cheating = trained(), trained(prefix=torch.full((32,), 16))
made, axes = plt_figure("wide", 2.7, ncols=2)
for losses, name, style, color in (
    (honest, t("with_mask"), "-", "#0072B2"),
    (cheating, t("without_mask"), "--", "#D55E00"),
):
    axes[0].plot(losses.mean(1), style, color=color, label=name)
    axes[1].plot(range(1, 17), losses[-20:].mean(0), f"o{style}", color=color, markersize=4)
axes[0].set(xlabel=t("step"), ylabel=t("nats"), ylim=(0, None))
axes[1].set(xlabel=t("position"), ylabel=t("nats"), ylim=(0, None), xticks=range(2, 17, 2))
axes[0].legend(frameon=False)
made

# %% positions_figure
rows = torch.from_numpy(windows(data.val, count=count, context=lab.model.context, seed=0, stream="evaluate"))
with torch.no_grad():
    each = [F.cross_entropy(lab.model(some[:, :-1]).mT, some[:, 1:], reduction="none") for some in rows.split(32)]
by_position = torch.cat(each).mean(0)
made, axes = plt_figure("wide", 2.4)
axes.plot(range(1, len(by_position) + 1), by_position, color="#0072B2")
axes.axhline(by_position.mean(), color="#333333", linestyle="--", linewidth=0.9)
axes.set(xlabel=t("position"), ylabel=t("nats"), ylim=(0, None))
made

# %% units
some = data.val[:4001]
loss = lab.text_loss(some)
words = len(lab.tokenizer.decode(some).split())
counts = {"token": loss.tokens, "character": loss.characters, "byte": loss.bytes, "word": words}
rows = [[t(unit), n, loss.nats / n, loss.nats / n / np.log(2), np.exp(loss.nats / n)] for unit, n in counts.items()]
Table([t("unit"), t("how_many"), t("nats_each"), t("bits_each"), t("perplexity")], rows)

# %% split
training = window_loss(lab.model, data.train, count=count)
validation = window_loss(lab.model, data.val, count=count)
print(f"tokens: {len(data.train)} for training, {len(data.val)} for validation")
print(f"loss on windows of the training part {training:.3f}, of the validation part {validation:.3f}")

# %% counting
from collections import Counter


def pieces(text, order):
    return [tuple(text[i : i + order + 1]) for i in range(len(text) - order)]


def counted(order, known, text, more=0.01):
    whole = Counter(pieces(known, order))
    begun = Counter(piece[:-1] for piece in pieces(known, order))
    return np.mean([-np.log((whole[g] + more) / (begun[g[:-1]] + more * V)) for g in pieces(text, order)])


# %% counting_figure
known, new = letters.train[:20000].tolist(), letters.val[:5000].tolist()
orders = range(11)
on_known = [counted(k, known, known[:5000]) for k in orders]
on_new = [counted(k, known, new) for k in orders]
learned = counted(10, known, known[:5000], more=0)
made, axes = plt_figure("wide", 2.6)
axes.plot(orders, on_known, "o-", color="#0072B2", label=t("training_text"))
axes.plot(orders, on_new, "s--", color="#D55E00", label=t("new_text"))
axes.set(xlabel=t("order"), ylabel=t("nats"), ylim=(0, None), xticks=orders)
axes.legend(frameon=False)
made

# %% story
from textwrap import fill

from gptlab.text.fables import corpus
from gptlab.text.fables.choices import CHOICES

langs = corpus.languages(source) if corpora.is_fables(source) else (lang,)
stories = corpus.validation(langs)
story = stories[0]
rows = []
for choice in CHOICES:
    odds = choice.distribution(story.choices)[story.choices[choice.name]]
    rows.append([choice.name, story.choices[choice.name], odds, -np.log(odds)])
print(fill(story.text, 80))
Table([t("choice"), t("value"), t("probability"), t("surprise")], rows[:10])

# %% floor
surprisal, length = sum(row[-1] for row in rows), len(story.text) + len("\n\n")
least = corpus.floor(stories)
print(f"this story: {len(rows)} choices, {surprisal:.2f} nats; {length} characters; {surprisal / length:.4f} nats each")
print(f"all {len(stories)} stories: {least:.4f} nats per character")

# %% truth
from gptlab.text.fables.expectation import Tales, true_tokens

true = true_tokens(Tales.of(langs), story.text, lab.tokenizer).nats
told = lab.tokenizer.encode("\n\n" + story.text).astype(np.int64)[: min(62, lab.model.context + 1)]
first = len(lab.tokenizer.encode("\n\n"))
with torch.no_grad():
    given = torch.from_numpy(told)
    models = F.cross_entropy(lab.model(given[None, :-1])[0], given[1:], reduction="none").numpy()

# %% story_figure
places = np.arange(first, len(told))
names = labels(lab.tokenizer, told[first:])
made, axes = plt_figure("wide", 2.8)
axes.bar(places, true[first : len(told)], color="#0072B2", label=t("truth"))
axes.plot(places, models[first - 1 :], "o", color="#D55E00", markersize=3.5, label=t("model"))
axes.set_xticks(places, names, fontsize=7, rotation=90 if max(map(len, names)) > 1 else 0)
axes.set(ylabel=t("nats"))
made.legend(loc="outside upper left", ncols=2, frameon=False)
made

# %% levels
from gptlab.training.advice import entropy
from gptlab.training.stories import Stories

longest = data.val_characters / len(data.val)
levels = {"guess": guessing / longest, "frequencies": entropy(data.train, lab.config.vocab_size) / longest}
levels["on_windows"] = validation / longest
if corpora.is_fables(source):
    levels |= {"on_stories": Stories(stories, lab.tokenizer).loss(lab.model, first=20), "floor": least}
rows = [[t(name), nats, nats / np.log(2), np.exp(nats)] for name, nats in levels.items()]
Table([t("level"), t("nats_each"), t("bits_each"), t("perplexity")], rows)

# %% exercise shift
right = "c"
mistakes = {"same": "a", "rest": "cadabra", "next": "ca"}

# %% exercise entropy
right = -np.log(0.2)
mistakes = {"bits": -np.log2(0.2), "best": -np.log(0.7), "complement": 0.8, "sign": np.log(0.2)}

# %% exercise perplexity
right = np.exp((0.2 + 2.2) / 2)
mistakes = {"mean": (np.exp(0.2) + np.exp(2.2)) / 2, "base": 2 ** ((0.2 + 2.2) / 2), "sum": np.exp(0.2 + 2.2)}

# %% exercise bits
right = 3.6 / 4.5 / np.log(2)
mistakes = {"nats": 3.6 / 4.5, "times": 3.6 / 4.5 * np.log(2), "token": 3.6 / np.log(2)}

# %% exercise below
right = "b"
mistakes = {"better": "a", "guess": "c"}
