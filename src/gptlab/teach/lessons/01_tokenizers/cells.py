# %% numbers
word = "café"
head = [t("head_character"), t("head_code_point"), t("head_bytes")]
Table(head, [[letter, str(ord(letter)), " ".join(map(str, letter.encode("utf-8")))] for letter in word])

# %% characters
from itertools import islice

from gptlab.text import tokenizer

told = [story for story, _ in islice(gptlab.fables(lang), 700)]
learned, held_out = "\n\n".join(told[:600]), "\n\n".join(told[600:])
characters = tokenizer.train("char", [learned])
sentence = told[600].split(". ")[0] + "."
ids = characters.encode(sentence)
print(sentence)
print(ids)
print(characters.decode(ids) == sentence)

# %% unknown
print(repr(characters.characters))
print(characters.unknown("Ω = 7"))

# %% pairs
import re
from collections import Counter
from itertools import pairwise

text = "ban banana ban bandana banana"
words = [list(word) for word in re.findall(r" ?\w+", text)]
print(words)
Counter(pair for word in words for pair in pairwise(word)).most_common(4)


# %% joined
def joined(word, pair):
    out = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


joined(["b", "a", "n", "a", "n", "a"], ("a", "n"))

# %% learn
merges, steps = [], []
for step in range(1, 6):
    pair, times = Counter(pair for word in words for pair in pairwise(word)).most_common(1)[0]
    words = [joined(word, pair) for word in words]
    merges.append(pair)
    now = " ".join("·".join(word).replace(" ", "␣") for word in words)
    steps.append([step, " + ".join(pair).replace(" ", "␣").replace("␣+␣", " + "), times, now])
Table([t("head_step"), t("head_merged"), t("head_times"), t("head_text")], steps)

# %% agree
small = tokenizer.train("bpe", [text], 300)
print(small.vocab_size, small.pieces[256:])
print([piece.decode() for piece in small.pieces[256:]] == ["".join(pair) for pair in merges])

# %% new_word
word = list(" bananas")
for pair in merges:
    word = joined(word, pair)
print(word)
print([small.pieces[i] for i in small.encode(" bananas")])

# %% vocabularies
from gptlab.lens.tokenizers import cut, smaller

largest = tokenizer.train("bpe", [learned], 2048)
sizes = [*(size for size in (256, 512, 1024) if size < largest.vocab_size), largest.vocab_size]
byte_pairs = {size: smaller(largest, size) for size in sizes}
print(sizes)
print(byte_pairs[512].decode(byte_pairs[512].encode("Ω = 7")))

# %% pieces
from gptlab.experiments.tokenizers import boxes

rows = [(t("row_characters"), cut(characters, sentence))]
rows += [(t("row_byte_pairs").format(size=size), cut(byte_pairs[size], sentence)) for size in sizes]
boxes("wide", [(f"{name} · {len(found)}", found) for name, found in rows])

# %% lengths
every = {len(characters.pieces): characters} | byte_pairs
kinds = [t("row_characters"), *(t("row_byte_pairs").format(size=size) for size in sizes)]
counts = [len(one.encode(held_out)) for one in every.values()]
per_token = [len(held_out) / count for count in counts]
table_sizes = [one.vocab_size * lab.config.d_embedding for one in every.values()]
head = [t("head_tokenizer"), t("head_tokens"), t("head_per_token"), t("head_parameters")]
Table(head, [list(row) for row in zip(kinds, counts, np.round(per_token, 2).tolist(), table_sizes, strict=True)])

# %% rare
seen = np.bincount(largest.encode(learned), minlength=largest.vocab_size)
never = int((seen == 0).sum())
bands = {"0": (0, 0), "1–9": (1, 9), "10–99": (10, 99), "100–999": (100, 999), "≥ 1000": (1000, seen.max())}
rows = [[name, int(((seen >= low) & (seen <= high)).sum())] for name, (low, high) in bands.items()]
Table([t("head_seen"), t("head_pieces")], rows)


# %% frequencies
def frequency_loss(one):
    ids, new = one.encode(learned), one.encode(held_out)
    counts = np.bincount(ids, minlength=one.vocab_size) + 1
    return float(-np.log(counts / counts.sum())[new].mean())


losses = [frequency_loss(one) for one in every.values()]
bits = [loss / (ratio * np.log(2)) for loss, ratio in zip(losses, per_token, strict=True)]
rows = zip(kinds, np.round(losses, 2).tolist(), np.round(bits, 2).tolist(), strict=True)
Table([t("head_tokenizer"), t("head_loss"), t("head_bits")], [list(row) for row in rows])

# %% two_measures
made, axes = plt_figure("wide", 2.7, ncols=2)
for axis, values, name in zip(axes, (losses, bits), (t("head_loss"), t("head_bits")), strict=True):
    axis.plot(sizes, values[1:], "o-", color="#0072B2", label=t("byte_pairs"))
    axis.plot([characters.vocab_size], values[:1], "s", color="#D55E00", label=t("row_characters"))
    axis.set(xscale="log", xlim=(45, 2500), xlabel=t("axis_vocabulary"), ylabel=name, ylim=(0, 1.1 * max(values)))
    axis.set_xticks([64, 256, 1024], ["64", "256", "1024"])
    axis.minorticks_off()
axes[0].legend(loc="lower right")
made

# %% own_model
from gptlab.experiments.base import passage

mine = lab.tokenizer
read = passage(lab, None, 200)
measured = lab.text_loss(mine.encode(read))
print(mine.kind, mine.vocab_size, repr(read))
print("nats per token    ", round(measured.per("token"), 3))
print("bits per character", round(measured.per("char") / np.log(2), 3))

# %% special
marked = tokenizer.train("bpe", [learned], 512, specials=("<end>",))
end = tokenizer.special_id(marked, "<end>")
print(end, marked.pieces[end])
print(marked.encode("<end>"), end in marked.encode("<end>"))

# %% spellings
for spelling in ("Kiro", " Kiro", "kiro", "KIRO"):
    print(repr(spelling), largest.encode(spelling), [piece.label for piece in cut(largest, spelling)])

# %% languages
from gptlab.messages import LANGUAGES

told_in = {code: "\n\n".join(story for story, _ in islice(gptlab.fables(code), 50)) for code in LANGUAGES}
spent = {code: len(byte_pairs[1024].encode(told)) for code, told in told_in.items()}
rows = [[LANGUAGES[code], len(told), spent[code], round(len(told) / spent[code], 2)] for code, told in told_in.items()]
Table([t("head_language"), t("head_characters"), t("head_tokens"), t("head_per_token")], rows)

# %% languages_figure
made, axis = plt_figure("wide", 2.1)
order = sorted(spent, key=spent.get, reverse=True)
axis.barh([LANGUAGES[code] for code in order], [spent[code] for code in order], color="#0072B2")
axis.set(xlabel=t("axis_tokens"))
made

# %% exercise bytes_of_word
right = len("ação".encode())
mistakes = {"characters": len("ação"), "two_each": 2 * len("ação"), "one_accent": len("ação") + 1}

# %% exercise first_merge
pairs = Counter(pair for word in ("tata", "at", "ta", "tat") for pair in pairwise(word))
right = "".join(pairs.most_common(1)[0][0])
mistakes = {"second": "".join(pairs.most_common(2)[1][0]), "longest": "tata", "times": pairs.most_common(1)[0][1]}

# %% exercise vocabulary
right = 256 + 1000 + 2
mistakes = {"no_bytes": 1000 + 2, "no_specials": 256 + 1000, "no_merges": 256 + 2}

# %% exercise bits
right = 3.2 / (4 * np.log(2))
mistakes = {
    "still_nats": 3.2 / 4,
    "per_token": 3.2 / np.log(2),
    "times_ln2": 3.2 / 4 * np.log(2),
    "times_length": 3.2 * 4 / np.log(2),
}

# %% exercise better
right = "A" if 0.95 < 2.9 / 3.8 else "B"
mistakes = {"per_token": "A", "no_answer": lambda answer: str(answer).strip().lower() in t("neither").split("; ")}
