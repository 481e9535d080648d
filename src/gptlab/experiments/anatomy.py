"""What happens to a prompt, from its letters to the probabilities of the next token?"""

import base64
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gptlab.experiments import figures
from gptlab.experiments.base import Section, Words, passage, traced
from gptlab.lab import Lab
from gptlab.lens.anatomy import Step, Sum, Write, active, misfit, sums, walk, writes
from gptlab.lens.trace import Array, Trace
from gptlab.model.attention import Attention
from gptlab.model.block import Block, QueryBlock
from gptlab.model.positions.base import Position
from gptlab.model.transformer import Transformer
from gptlab.survey.table import ACTIVATIONS
from gptlab.text.labels import labels

TOKENS = 16  # of a text that nobody chose
LONGEST = 32  # of one that somebody did: a row must stay high enough to be pointed at
TOP = 12  # next tokens that are shown
ROUNDING = 1e-5  # more than this, relative to the largest number, is no rounding of float32
EVEN = 1.15  # a ratio below which two lengths count as about the same
NUMBERS = 1_200_000  # on the live page: two bytes each
WIDTHS = (512, 384, 256, 192, 128, 96, 64, 32)  # the columns that a tensor may be cut to, to keep to that
LOOKS = {  # of branches, in their order
    "attention": {"color": figures.COLORS[0], "hatch": ""},
    "cross": {"color": figures.COLORS[2], "hatch": "////"},
    "mlp": {"color": figures.COLORS[1], "hatch": "...."},
}
Told = list[tuple[str, dict[str, Any]]]  # entries of prose, with their values


def conduct(lab: Lab, section: Section, *, text: str | None, layer: int) -> None:
    n_layers = lab.config.n_layers
    if not 1 <= layer <= n_layers:
        raise ValueError(f"layer must be from 1 to {n_layers}, the layers of this model, not {layer}")
    trace = traced(lab, passage(lab, text, TOKENS if text is None else LONGEST))
    steps = walk(lab.model, trace)
    arrays = {step.name: step.array for step in steps}
    totals = sums(lab.model)
    misfits = {total.name: misfit(total, lab.model, arrays) for total in totals}
    written = list(writes(totals, arrays))

    numbers = sum(step.array.size for step in steps)
    values = {"tokens": len(trace.ids), "text": " ".join(trace.tokens), "steps": len(steps), "numbers": numbers}
    if trace.source_ids is None:
        section.text("intro", **values)
    else:
        source = {"source_tokens": len(trace.source_ids), "source": " ".join(trace.source_tokens)}
        section.text("intro_encoder", **values, **source)
    section.text("reading")
    chosen = [step for step in steps if step.stack == "decoder" and step.layer == layer - 1]
    section.figure(
        "block",
        lambda words, shape: pictures(chosen, shape),
        layer=layer,
        pictures=len(chosen),
        first=chosen[0].part,
        last=chosen[-1].part,
    )
    tell_layer(section, lab.model, trace, chosen, layer - 1)
    tell_checks(section, steps, misfits)
    tell_writes(section, written, arrays, lab.config.d_model)
    tell_next(section, lab, trace, arrays)
    section.data("layer", **{step.part: step.array for step in chosen})
    head = ("step", "shape", "dimensions", "norm_mean", "norm_min", "norm_max", "mean", "std")
    rows = [
        [s.name, shape_of(s), " × ".join(s.axes), *(measured(s).values() if s.array.ndim > 1 else [])] for s in steps
    ]
    section.csv("steps", head, rows)

    data = page(lab, trace, steps, totals, misfits)
    megabytes = sum(len(group["packed"]) for group in data["groups"]) / 1e6
    section.text("anatomy_mean", megabytes=megabytes)
    if any(card["kept"] != card["shape"] for group in data["groups"] for card in group["cards"]):
        section.text("anatomy_cut", columns=data["columns"])
    section.page("anatomy", data, height=760)


def measured(step: Step) -> dict[str, float]:
    """Norm per token (mean, smallest, largest), mean and standard deviation of all numbers."""
    norms, x = step.norms, step.array.astype(np.float64)
    values = {"norm": norms.mean(), "low": norms.min(), "high": norms.max(), "mean": x.mean(), "deviation": x.std()}
    return {name: float(value) for name, value in values.items()}


def shape_of(step: Step) -> str:
    return " × ".join(map(str, step.array.shape))


def powered(value: float) -> str:
    """4.2e-08 as 4 · 10⁻⁸, for a sentence."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits} · 10{raised}".replace(" ", "\N{NO-BREAK SPACE}")


# One layer


def side_by_side(x: Array) -> Array:
    """A tensor as one picture: heads one beside the other, with gaps between them."""
    if x.ndim == 2:
        return x
    gap = np.full((x.shape[1], max(1, round(x.shape[0] * x.shape[2] / 120))), np.nan)
    return np.concatenate([part for head in x for part in (head, gap)][:-1], axis=1)


def pictures(steps: Sequence[Step], shape: str) -> Figure:
    """All tensors of a layer, in order: row by row."""
    columns = {"wide": 4, "narrow": 2}[shape]
    rows = math.ceil(len(steps) / columns)
    high = 1.3  # inches of a row
    made, axes = figures.figure(shape, rows * high)
    width = made.get_figwidth() / columns
    made.set_layout_engine("none")  # all places are given
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    for at, step in enumerate(steps):
        left, top = at % columns * width, (rows - at // columns) * high
        limit = float(np.abs(step.array).max()) or 1.0
        box = (left + 0.04, left + width - 0.1, top - high + 0.08, top - 0.38)
        figures.heat(axes, side_by_side(step.array), vmin=-limit, vmax=limit, extent=box)
        stream = step.kind.startswith("resid")
        frame = Rectangle(
            (box[0], box[2]), box[1] - box[0], box[3] - box[2], fill=False, edgecolor=figures.INK, zorder=3
        )
        frame.set_linewidth(2.2 if stream else 0.5)
        axes.add_patch(frame)
        name = step.part.removeprefix("residual.")
        axes.text(box[0], top - 0.05, f"{at + 1}  {name}", va="top", fontsize=8, weight="bold" if stream else "normal")
        axes.text(box[0], top - 0.205, shape_of(step), va="top", fontsize=7, color="#555555")
    axes.set_xlim(0, columns * width)
    axes.set_ylim(0, rows * high)
    return made


def tell_layer(section: Section, model: Transformer, trace: Trace, steps: Sequence[Step], layer: int) -> None:
    section.text("layer_mean")
    section.table("layer", [[step.part, shape_of(step), *measured(step).values()] for step in steps])
    units = model.config.d_ff
    share = 100 * active(trace[f"blocks.{layer}.mlp.up"], units)
    percents = {"percent": share.mean(), "low": share.min(), "high": share.max()}
    section.text("units_gated" if gated(model) else "units_plain", units=units, **percents)


def gated(model: Transformer) -> bool:
    block = model.blocks[0]
    assert isinstance(block, Block)
    return len(block.mlp.sections) > 1


def tell_checks(section: Section, steps: Sequence[Step], misfits: Mapping[str, float]) -> None:
    worst = max(misfits.values())
    section.text(
        "checks" if worst < ROUNDING else "checks_off",
        sums=len(misfits),
        misfit=powered(worst),
        pattern=powered(max(off_one(step.array) for step in steps if step.kind == "pattern")),
        probabilities=powered(off_one(steps[-1].array)),
    )


def off_one(rows: Array) -> float:
    """How far the sum of a row is from one, at most."""
    return float(np.abs(rows.sum(-1, dtype=np.float64) - 1).max())


# Who writes into the stream


def tell_writes(section: Section, written: Sequence[Write], arrays: Mapping[str, Array], width: int) -> None:
    branches = [branch for branch in LOOKS if any(w.branch == branch for w in written)]
    stacks = [s for s in ("encoder", "decoder") if any(w.stack == s for w in written)]
    lengths: dict[str, list[float]] = {}  # of the stream: before each layer, and after the last
    for stack in stacks:
        prefix = "encoder." if stack == "encoder" else ""
        n_layers = 1 + max(w.layer for w in written if w.stack == stack)
        names = [f"{prefix}blocks.{i}.resid_pre" for i in range(n_layers)]
        names.append(f"{prefix}blocks.{n_layers - 1}.resid_post")
        lengths[stack] = [float(np.linalg.norm(arrays[name], axis=-1).mean()) for name in names]
    totals = {b: sum(float(w.added.mean()) for w in written if w.branch == b) for b in branches}
    cosines = {b: float(np.concatenate([w.cosine for w in written if w.branch == b]).mean()) for b in branches}
    first, last = lengths["decoder"][0], lengths["decoder"][-1]

    def listed(some: Mapping[str, float], spec: str) -> Callable[[Words], str]:
        return lambda words: ", ".join(f"{words(f'branch_{b}')} {words.number(v, spec)}" for b, v in some.items())

    section.text("norms_mean")
    section.figure(
        "norms",
        lambda words, shape: streams(words, shape, written, lengths, branches),
        first=first,
        last=last,
        list=listed(totals, ",.3g"),
    )
    if len(stacks) > 1:
        section.blocks[-1]["caption"] = section.said("norms_caption_encoder")
    most, second, *_ = sorted(totals, key=lambda b: -totals[b])
    ratio = totals[most] / max(totals[second], 1e-12)
    section.text(f"who_{most}" if ratio >= EVEN else "who_even", ratio=ratio)
    loudest = max(written, key=lambda w: float(w.added.mean()))
    section.text(
        "loudest",
        layer=name_of(loudest),
        branch=lambda words: words(f"branch_{loudest.branch}"),
        added=loudest.added.mean(),
        stream=loudest.stream.mean(),
    )
    change = last / max(first, 1e-12)
    verdict = "grows" if change > EVEN else "shrinks" if change < 1 / EVEN else "keeps"
    section.text(f"stream_{verdict}", first=first, last=last, ratio=change)
    chance = width**-0.5
    section.text("cosine_mean", width=width, chance=chance)
    by_layer = {b: [(float(w.cosine.mean()), name_of(w)) for w in written if w.branch == b] for b in branches}
    mixed = {b: c for b, c in by_layer.items() if min(c)[0] < -chance and max(c)[0] > chance}
    alike = {b: c for b, c in cosines.items() if b not in mixed}
    for way, some in (
        ("with", {b: c for b, c in alike.items() if c > chance}),
        ("across", {b: c for b, c in alike.items() if abs(c) <= chance}),
        ("against", {b: c for b, c in alike.items() if c < -chance}),
    ):
        if some:
            section.text(f"cosine_{way}", list=listed(some, ".2f"))
    for branch, found in mixed.items():
        (low, lowest), (high, highest) = min(found), max(found)
        values = {"low": low, "low_layer": lowest, "high": high, "high_layer": highest}
        section.text("cosine_mixed", branch=lambda words, branch=branch: words(f"branch_{branch}"), **values)
    head = ("stack", "layer", "branch", "norm_added", "norm_stream", "cosine")
    means = [
        [w.stack, w.layer + 1, w.branch, *(float(x.mean()) for x in (w.added, w.stream, w.cosine))] for w in written
    ]
    section.csv("writes", head, means)


def name_of(write: Write) -> str:
    """The layer, as the figure names it: those of an encoder with an E."""
    return f"{'E' if write.stack == 'encoder' else ''}{write.layer + 1}"


def streams(
    words: Words,
    shape: str,
    written: Sequence[Write],
    lengths: Mapping[str, Sequence[float]],
    branches: Sequence[str],
) -> Figure:
    """By layer: the length of the stream and of what is added; below, the cosines between them."""
    made, (above, below) = figures.figure(shape, 4.4, nrows=2, sharex=True, height_ratios=(3, 2))
    start, ticks, names = 0.0, [], []
    places: dict[tuple[str, int], float] = {}
    for stack, along in lengths.items():
        above.plot(
            start - 0.5 + np.arange(len(along)),
            along,
            "-o",
            color=figures.INK,
            markersize=3.5,
            linewidth=1.4,
            label=words("stream") if stack == "decoder" else None,
        )
        for layer in range(len(along) - 1):
            places[stack, layer] = start + layer
            ticks.append(start + layer)
            names.append(f"{'E' if stack == 'encoder' else ''}{layer + 1}")
        start += len(along)
    bar = 0.72 / len(branches)
    for number, branch in enumerate(branches):
        own = [w for w in written if w.branch == branch]
        x = [places[w.stack, w.layer] + (number - (len(branches) - 1) / 2) * bar for w in own]
        look: dict[str, Any] = {**LOOKS[branch], "edgecolor": "white", "linewidth": 0}
        above.bar(x, [w.added.mean() for w in own], bar * 0.9, label=words(f"branch_{branch}"), **look)
        below.bar(x, [w.cosine.mean() for w in own], bar * 0.9, **look)
    every = math.ceil(len(ticks) / {"wide": 26, "narrow": 12}[shape])
    below.set_xticks(ticks[::every], names[::every])
    below.axhline(0, color=figures.INK, linewidth=0.8)
    ends = [float(w.cosine.mean()) for w in written]
    below.set_ylim(1.15 * min(-0.05, *ends), 1.15 * max(0.05, *ends))
    above.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(axis="y", color=figures.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.yaxis.set_major_formatter(lambda value, _: words.number(value, ",.4g"))
    below.set_xlabel(words("axis_layer"))
    above.set_ylabel(words("axis_norm"))
    below.set_ylabel(words("axis_cosine"))
    made.legend(loc="outside upper left", ncols=4 if shape == "wide" else 2, frameon=False)
    made.align_ylabels()
    return made


# The end


def tell_next(section: Section, lab: Lab, trace: Trace, arrays: Mapping[str, Array]) -> None:
    logits, chances = arrays["logits"][-1].astype(np.float64), arrays["probabilities"][-1]
    best = np.argsort(-chances, kind="stable")[:TOP]
    names = [labels(lab.tokenizer, [i])[0] for i in best]
    percents = 100 * chances[best]
    difference = float(logits[best[0]] - logits[best[1]])
    section.text(
        "next_mean",
        vocabulary=len(chances),
        token=trace.tokens[-1],
        best=names[0],
        second=names[1],
        percent=percents[0],
        percent_second=percents[1],
        difference=difference,
        ratio=math.exp(difference),
    )
    entropy = -float((chances * np.log(np.maximum(chances, np.finfo(np.float64).tiny))).sum())
    section.text("next_sure" if math.exp(entropy) < 1.5 else "next_unsure", choices=math.exp(entropy))

    def draw(words: Words, shape: str) -> Figure:
        made, (left, right) = figures.figure(shape, 3.4, ncols=2, sharey=True)
        rows = np.arange(len(best))
        left.hlines(rows, 0, logits[best], color=figures.COLORS[0], linewidth=1.2)
        left.plot(logits[best], rows, "o", color=figures.COLORS[0], markersize=4)
        left.axvline(0, color=figures.INK, linewidth=0.8)
        right.barh(rows, percents, 0.7, color=figures.COLORS[0])
        for row, percent in zip(rows, percents, strict=True):
            label = words.number(percent, ".1f")
            right.annotate(label, (percent, row), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
        left.set_yticks(rows, names)
        left.invert_yaxis()
        right.set_xlim(0, max(percents) * {"wide": 1.15, "narrow": 1.35}[shape])
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_formatter(lambda value, _: words.number(value, ",.4g"))
            axes.locator_params(axis="x", nbins=5 if shape == "wide" else 4)
            axes.grid(axis="x", color=figures.FAINT, linewidth=0.6)
            axes.set_axisbelow(True)
        left.set_xlabel(words("axis_logit"))
        right.set_xlabel(words("axis_probability"), loc="right")
        return made

    def listed(words: Words) -> str:
        pairs = zip(names, percents, strict=True)
        return "; ".join(f"{name} {words.number(p, '.1f')}%" for name, p in pairs)

    section.figure("next", draw, count=len(best), token=trace.tokens[-1], list=listed)


# What happens in a step


class Explainer:
    """What happens in each step of a model, as entries of prose with their values: a method for each last name of a
    tap. A tap that has none yet is shown by name and shape alone."""

    def __init__(self, model: Transformer, trace: Trace) -> None:
        self.model, self.trace, self.config = model, trace, model.config

    def __call__(self, step: Step) -> Told:
        method = getattr(self, f"say_{step.kind}", None)
        return [] if method is None else method(step)

    def block(self, step: Step) -> Block:
        stack = self.model.encoder if step.stack == "encoder" else self.model
        assert stack is not None and step.layer is not None
        block = stack.blocks[step.layer]
        assert isinstance(block, Block)
        return block

    def attention(self, step: Step) -> Attention:
        module = self.block(step).get_submodule(step.part.split(".")[0])
        assert isinstance(module, Attention)
        return module

    @staticmethod
    def crosses(step: Step) -> bool:
        return step.part.startswith("cross.")

    def norm(self) -> Told:
        c = self.config
        formula = {
            "layernorm": "(x − mean(x)) / √(var(x) + ε)",
            "seed-layernorm": "(x − mean(x)) / (std(x) + ε)",
            "rmsnorm": "x / √(mean(x²) + ε)",
        }[c.norm]
        if "weight" in c.norm_affine:
            formula += " · g"
        if "bias" in c.norm_affine:
            formula += " + b"
        learned = {"weight": "norm_gain", "weight+bias": "norm_gain_bias"}.get(c.norm_affine)
        return [(f"norm_{c.norm}", {"formula": formula}), *([(learned, {})] if learned else [])]

    def say_ids(self, step: Step) -> Told:
        values = {"tokens": len(step.array), "vocabulary": self.config.vocab_size}
        told: Told = [("ids_source" if step.stack == "encoder" else "ids", values)]
        if self.trace.prefix:
            told.append(("ids_prefix", {"prefix": self.trace.prefix}))
        return told

    def say_embedding_in(self, step: Step) -> Told:
        c = self.config
        return [("embedding_in", {"vocabulary": c.vocab_size, "table_width": c.d_embedding, "width": c.d_model})]

    def say_embed(self, step: Step) -> Told:
        c = self.config
        scale = "" if c.embedding_scale == 1 else f"{c.embedding_scale:.4g} "
        if c.d_embedding != c.d_model:
            return [("embed_projected", {"formula": f"x = {scale}E[id] W"})]
        return [("embed", {"vocabulary": c.vocab_size, "width": c.d_model, "formula": f"x = {scale}E[id]"})]

    def say_position(self, step: Step) -> Told:
        return [(f"position_{self.config.position}", {})]

    def say_embedding_norm(self, step: Step) -> Told:
        return [*self.norm(), ("norm_embedding", {})]

    def say_resid_pre(self, step: Step) -> Told:
        if step.layer:
            return [("resid_pre", {"before": step.layer})]
        told: Told = [("resid_pre_first", {"width": self.config.d_model})]
        if type(self.model.position).embed is Position.embed:
            told.append((f"positions_{self.config.position}", {}))
        return told

    def say_norms(self, step: Step) -> Told:
        return [*self.norm(), (f"norm_{self.config.norm_placement}", {"alpha": self.config.residual_alpha})]

    def say_norm(self, step: Step) -> Told:
        return [*self.norm(), ("norm_encoder" if step.stack == "encoder" else "norm_final", {})]

    def say_qkv(self, step: Step) -> Told:
        return [("qkv", {})]

    def say_q_norm(self, step: Step) -> Told:
        return [("qk_norm", {}), *self.norm()]

    say_k_norm = say_q_norm

    def turned(self, step: Step) -> Told:
        rotates = type(self.model.position).rotate is not Position.rotate and not self.crosses(step)
        return [("turned", {})] if rotates else []

    def shared(self) -> Told:
        c = self.config
        return [("shared", {"heads": c.n_heads, "kv_heads": c.n_kv_heads})] if c.n_kv_heads < c.n_heads else []

    def say_q(self, step: Step) -> Told:
        by_position = isinstance(self.block(step), QueryBlock)
        return [("q_cross" if self.crosses(step) else "q_position" if by_position else "q", {}), *self.turned(step)]

    def say_k(self, step: Step) -> Told:
        return [("k_cross" if self.crosses(step) else "k", {}), *self.turned(step), *self.shared()]

    def say_v(self, step: Step) -> Told:
        return [("v_cross" if self.crosses(step) else "v", {}), *self.shared()]

    def say_pattern(self, step: Step) -> Told:
        module, cross = self.attention(step), self.crosses(step)
        biased = type(self.model.position).bias is not Position.bias and not cross
        scale = f" / √{module.head_dim}" if module.scale != 1 else ""
        told: Told = [("pattern", {"formula": f"softmax(q · k{scale}{' + b' if biased else ''})"})]
        if biased:
            told.append((f"bias_{self.config.position}", {}))
        if cross:
            return [*told, ("mask_cross", {})]
        if step.stack == "encoder":
            return [*told, ("mask_everything", {})]
        prefix = self.trace.prefix
        told.append(("mask_prefix", {"prefix": prefix}) if prefix else ("mask_causal", {}))
        if module.band:
            told.append(("mask_band", {"back": module.band - 1}))
        return told

    def say_z(self, step: Step) -> Told:
        return [("z", {})]

    def say_out(self, step: Step) -> Told:
        return [("out_cross" if self.crosses(step) else "out", {})]

    def say_resid_mid(self, step: Step) -> Told:
        return [("resid_mid", {})]

    def say_resid_mid_cross(self, step: Step) -> Told:
        return [("resid_mid_cross", {})]

    def say_up(self, step: Step) -> Told:
        values = {"units": self.config.d_ff, "width": self.config.d_model}
        return [("up_gated" if gated(self.model) else "up", values)]

    def say_hidden(self, step: Step) -> Told:
        c = self.config
        formula = {
            "relu": "max(u, 0)",
            "relu_squared": "max(u, 0)²",
            "gelu": "u Φ(u)",
            "gelu_tanh": "u Φ(u)",
            "swiglu": "g σ(g) · u",
            "geglu": "g Φ(g) · u",
            "geglu_tanh": "g Φ(g) · u",
        }[c.activation]
        share = active(self.trace[step.name.removesuffix("hidden") + "up"], c.d_ff)
        name = ACTIVATIONS[c.activation][1]
        values = {"activation": name, "formula": formula, "percent": round(100 * float(share.mean()))}
        return [("hidden_gated" if gated(self.model) else "hidden", values)]

    def say_down(self, step: Step) -> Told:
        return [("down", {"width": self.config.d_model})]

    def say_resid_post(self, step: Step) -> Told:
        assert step.layer is not None
        return [("resid_post", {"layer": step.layer + 1})]

    def say_embedding_out(self, step: Step) -> Told:
        return [("embedding_out", {"table_width": self.config.d_embedding, "width": self.config.d_model})]

    def say_logits(self, step: Step) -> Told:
        c = self.config
        scale = "" if c.logit_scale == 1 else f"{c.logit_scale:.4g} "
        table = "E" if c.tied_embeddings else "W"
        formula = f"{scale}x {table}ᵀ{' + b' if c.bias_lm_head else ''}"
        return [("logits_tied" if c.tied_embeddings else "logits_untied", {"formula": formula})]

    def say_probabilities(self, step: Step) -> Told:
        return [("probabilities", {})]


# The live page


def page(
    lab: Lab, trace: Trace, steps: Sequence[Step], totals: Sequence[Sum], misfits: Mapping[str, float]
) -> dict[str, Any]:
    """All steps in groups: before the layers, each layer, after them; the numbers of a group, two bytes each, are
    packed together."""
    explain, by_name = Explainer(lab.model, trace), {total.name: total for total in totals}
    arrays = {step.name: step.array for step in steps}
    columns = next((n for n in WIDTHS if sum(cut(s.array, n).size for s in steps) <= NUMBERS), WIDTHS[-1])
    groups: list[dict[str, Any]] = []
    for stack, layer, where, own in grouped(steps):
        cells, cards = [], []
        for step in own:
            kept = cut(step.array, columns)
            card: dict[str, Any] = {
                "name": step.name,
                "shape": step.array.shape,
                "kept": kept.shape,
                "axes": ["gates" if a == "units" and step.kind == "up" and gated(lab.model) else a for a in step.axes],
                "rows": step.read,
                "told": explain(step),
            }
            if step.axes[-1] == "seen":
                card["seen"] = "encoder" if step.part.startswith("cross.") else step.stack
            if step.array.ndim > 1:
                limit = float(np.abs(kept).max()) or 1.0
                cells.append(np.round(kept / limit * 32767).astype("<i2").tobytes())
                card |= {"limit": limit, "measured": measured(step)}
            if step.kind in ("pattern", "probabilities"):
                card["one"] = powered(off_one(step.array))
            if step.name in by_name:
                card["sum"] = checked(by_name[step.name], arrays) | {"off": powered(misfits[step.name])}
            cards.append(card)
        packed = base64.b64encode(zlib.compress(b"".join(cells), 9)).decode()
        groups.append({"stack": stack, "layer": layer, "where": where, "cards": cards, "packed": packed})
    chances = arrays["probabilities"]
    best = np.argsort(-chances, axis=-1, kind="stable")[:, :8]
    return {
        "groups": groups,
        "columns": columns,
        "tokens": {"encoder": trace.source_tokens, "decoder": trace.tokens},
        "ids": {"encoder": [] if trace.source_ids is None else trace.source_ids, "decoder": trace.ids},
        "vocabulary": [labels(lab.tokenizer, [i])[0] for i in range(min(columns, chances.shape[-1]))],
        "top": [
            [[labels(lab.tokenizer, [i])[0], round(float(row[i]), 5)] for i in ids]
            for row, ids in zip(chances, best, strict=True)
        ],
        "colors": [to_hex(color) for color in colormaps[figures.SEQUENTIAL](np.linspace(0, 1, 255))],
    }


def grouped(steps: Sequence[Step]) -> list[tuple[str, int | None, str, list[Step]]]:
    """Steps by stack and layer, in order: (stack, layer, "begin", "layer" or "end", steps)."""
    groups: list[tuple[str, int | None, str, list[Step]]] = []
    entered = set()
    for step in steps:
        if step.layer is not None:
            entered.add(step.stack)
        where = "layer" if step.layer is not None else "end" if step.stack in entered else "begin"
        if not groups or groups[-1][:3] != (step.stack, step.layer, where):
            groups.append((step.stack, step.layer, where, []))
        groups[-1][3].append(step)
    return groups


def cut(x: Array, columns: int) -> Array:
    """So many of its columns; of a tensor with heads, in as many whole heads."""
    if x.ndim == 3:
        return x[: max(1, columns // x.shape[2]), :, :columns]
    return x[:, :columns] if x.ndim == 2 else x


def checked(total: Sum, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """A sum to do by hand: for the last token, in the dimension where most is added."""
    parts = {name: arrays[name][-1].astype(np.float64) for name in total.terms}
    found: dict[str, Any] = {"formula": total.formula}
    if len(parts) > 1 and not total.norm:
        at = int(np.abs(list(parts.values())[-1]).argmax())
        terms = [[factor, parts[name][at]] for name, factor in total.terms.items()]
        found |= {"dimension": at, "terms": terms, "result": arrays[total.name][-1, at]}
    return found
