"""How much each part of a model learns in one step: its gradient, and how far it moves."""

from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def part_of(name: str) -> str:
    """The part that a parameter belongs to: blocks.3.attention.qkv.weight -> blocks.3.attention."""
    words = name.split(".")
    if "blocks" in words:
        return ".".join(words[: words.index("blocks") + 3])
    return ".".join(words[: 2 if words[0] == "encoder" else 1])


class Watch:
    """Watches one step: `backward` when gradients are there, `stepped` after it, then `norms`.

    It keeps a copy of the weights in between, so it is for a few steps only.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:  # frozen, as under adapters
                continue
            self.parts.setdefault(part_of(name), []).append(parameter)

    def backward(self) -> None:
        self.gradients = self.measured({p: [w.grad for w in ws if w.grad is not None] for p, ws in self.parts.items()})
        self.before = {part: [w.detach().clone() for w in weights] for part, weights in self.parts.items()}

    def stepped(self) -> None:
        self.weights = self.measured(self.before)
        pairs = {part: zip(weights, self.before[part], strict=True) for part, weights in self.parts.items()}
        self.moves = self.measured({part: [w.detach() - b for w, b in both] for part, both in pairs.items()})
        del self.before

    @staticmethod
    def measured(tensors: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        return {part: get_total_norm(some) for part, some in tensors.items()}

    def norms(self) -> dict[str, list[float]]:
        """part -> Euclidean norms of its gradient (before clipping), of its step, of its weights before the step."""
        rows = zip(self.parts, self.gradients.values(), self.moves.values(), self.weights.values(), strict=True)
        return {part: [float(f"{norm.item():.4g}") for norm in norms] for part, *norms in rows}
