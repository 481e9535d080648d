"""Taps: what flows through a model, by name, while somebody listens; while nobody does, a tap is an empty loop.

A forward pass says `tap(self, "q", q)` of what no module gives out. `record` keeps that and what modules give out,
under the name of the module: (B, T, C) where nothing else is said,

    embed                           tokens looked up, before positions
    blocks.0.resid_pre              the residual stream before a block,
    blocks.0.resid_mid              between its branches (before cross-attention and MLP: resid_mid, resid_mid_cross),
    blocks.0.resid_post             and after it
    blocks.0.residual.norms.0       a norm
    blocks.0.attention.q, k, v      (B, H, T, D) and (B, K, S, D), as scores are made of them: normed and turned
    blocks.0.attention.pattern      (B, H, T, S), of the reference kernel only
    blocks.0.attention.z            (B, H, T, D), what each head has collected
    blocks.0.attention.out          what the branch adds, and likewise of blocks.0.cross
    blocks.0.mlp.hidden             (B, T, d_ff), what the second matrix is given
    blocks.0.mlp.down               what the branch adds
    norm, logits                    after the last block; (B, T, V)

and the same of an encoder after `encoder.`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

LISTENERS: list[Callable[[nn.Module, str, Tensor], None]] = []


def tap(module: nn.Module, name: str, x: Tensor) -> None:
    """Let whoever listens have x, under the name of the module that says so."""
    for listener in LISTENERS:
        listener(module, name, x)


@contextmanager
def record(model: nn.Module, *patterns: str, kernel: Any = None) -> Iterator[dict[str, Tensor]]:
    """Within it, a forward pass fills a dictionary: name -> tensor, the last pass's, in its order; on the
    meta device, too.

    patterns: of names to keep ("*.pattern"), default all; kernel: computes attention meanwhile (kernels.reference, to
    have the patterns). The tensors are those of the pass itself: they hold its gradients, and must not be written to.
    """
    # What a residual layout taps is named as its block's.
    names = {id(module): name.removesuffix(".residual") for name, module in model.named_modules()}
    found: dict[str, Tensor] = {}

    def keep(module: nn.Module, name: str, x: Tensor) -> None:
        if id(module) not in names:  # another model, running beside this one
            return
        whole = ".".join(filter(None, (names[id(module)], name)))
        if not patterns or any(fnmatchcase(whole, pattern) for pattern in patterns):
            found.pop(whole, None)  # passed again, it comes later: the order is that of the last time
            found[whole] = x

    own = {module: module.kernel for module in model.modules() if hasattr(module, "kernel")}
    hooks = [
        module.register_forward_hook(lambda module, _, out: keep(module, "", out))
        for name, module in model.named_modules()
        if name and not name.endswith(".residual") and not isinstance(module, nn.Identity | nn.Dropout)
    ]
    LISTENERS.append(keep)
    try:
        for module in own if kernel else ():
            module.kernel = kernel
        yield found
    finally:
        LISTENERS.remove(keep)
        for hook in hooks:
            hook.remove()
        for module, before in own.items():
            module.kernel = before
