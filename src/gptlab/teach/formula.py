"""Formulas: LaTeX, as far as matplotlib's mathtext knows it, drawn as SVG for a page, or written in Unicode."""

import re
import unicodedata
from functools import cache

from markupsafe import Markup

EM = 1000  # units of a drawing
FAMILY = "stix"  # of the fonts that come with matplotlib: beside text of any kind, and complete

SIGNS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ϵ", "varepsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "vartheta": "ϑ", "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ",
    "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "upsilon": "υ", "phi": "ϕ", "varphi": "φ", "chi": "χ",
    "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π",
    "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω", "partial": "∂", "nabla": "∇", "infty": "∞", "ell": "ℓ",
    "cdot": "·", "times": "×", "odot": "⊙", "oplus": "⊕", "otimes": "⊗", "circ": "∘", "ast": "∗", "pm": "±", "div": "÷",
    "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠", "approx": "≈", "equiv": "≡", "sim": "∼",
    "propto": "∝", "ll": "≪", "gg": "≫", "in": "∈", "notin": "∉", "subset": "⊂", "cup": "∪", "cap": "∩",
    "forall": "∀", "exists": "∃", "to": "→", "rightarrow": "→", "leftarrow": "←", "mapsto": "↦", "Rightarrow": "⇒",
    "leftrightarrow": "↔", "longrightarrow": "⟶", "sum": "∑", "prod": "∏", "int": "∫", "dots": "…", "ldots": "…",
    "cdots": "⋯", "vdots": "⋮", "top": "⊤", "bot": "⊥", "mid": " | ", "vert": "|", "Vert": "‖", "|": "‖", "lfloor": "⌊",
    "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩", "prime": "′", "emptyset": "∅", "star": "⋆",
    "{": "{", "}": "}", "%": "%", "$": "$", "_": "_", "#": "#", "&": "&", ",": " ", ";": " ", ":": " ", " ": " ",
    "quad": "  ", "qquad": "    ", "!": "", "left": "", "right": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "",
    "big": "", "Big": "", "displaystyle": "", "limits": "",
}  # fmt: skip
FUNCTIONS = ("log", "ln", "exp", "max", "min", "sin", "cos", "tan", "tanh", "arg", "lim", "det", "dim", "sup", "inf")
SPACED = set("=<>≤≥≠≈≡∼∝≪≫∈∉→←↦⇒↔⟶×±⊙⊕⊗")  # a space on each side
UP = dict(zip("0123456789+-−=()ni⊤", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱᵀ", strict=True))
DOWN = dict(zip("0123456789+-−=()aeijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303", "vec": "\u20d7", "dot": "\u0307", "overline": "\u0305"}
ACCENTS |= {"widehat": "\u0302", "widetilde": "\u0303"}
DOUBLE = dict(zip("RNZQCE", "ℝℕℤℚℂ𝔼", strict=True))
TOKEN = re.compile(r"\\([A-Za-z]+|.)|([{}^_])|(\s+)|(.)", re.DOTALL)


@cache
def svg(tex: str, *, display: bool = False) -> Markup:
    """A formula as a piece of a page, in the colour and the size of the text, on its baseline; its words are in its
    label. ValueError for what mathtext does not know."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.textpath import TextPath

    properties = FontProperties(math_fontfamily=FAMILY, size=EM)
    source = f"${spaced(tex, display)}$"
    try:
        width, height, depth, *_ = MathTextParser("path").parse(source, dpi=72, prop=properties)
    except ValueError as error:
        lines = str(error).strip().splitlines()
        raise ValueError(f"the formula ${tex}$ cannot be set: {lines[-1] if lines else error}") from None
    path = TextPath((0, 0), source, size=EM, prop=properties)
    data, at = [], 0
    codes, points = path.codes, [(round(x), round(-y)) for x, y in path.vertices]
    while at < len(points):
        letter, count = {1: ("M", 1), 2: ("L", 1), 3: ("Q", 2), 4: ("C", 3), 79: ("Z", 1)}[int(codes[at])]
        used = points[at : at + count] if letter != "Z" else []
        data.append(letter + " ".join(f"{x} {y}" for x, y in used))
        at += count
    width, rise, depth = float(width), float(height - depth), float(depth)
    return Markup(
        '<svg class="math" role="img" aria-label="{}" viewBox="0 {:.0f} {:.0f} {:.0f}" '
        'style="width:{:.3f}em;height:{:.3f}em;vertical-align:{:.3f}em"><path d="{}"/></svg>'
    ).format(text(tex), -rise, width, rise + depth, width / EM, (rise + depth) / EM, -depth / EM, "".join(data))


def spaced(tex: str, display: bool) -> str:
    """A formula with the spaces and the signs that mathtext sets otherwise than LaTeX does.

    In a line, fractions are small and bounds stand beside their sum; by itself, large, and above and below, so that a
    sum must stand apart from what its bounds would touch. A function stands apart from the factor before it.
    """
    if display:
        tex = re.sub(r"\\frac(?![A-Za-z])", lambda _: r"\dfrac", tex)
    sign, before = (r"\1", r"\;") if display else (r"{\1}", "")
    bounds = r"((?:[_^](?:{[^{}]*}|\w))*)"
    tex = re.sub(rf"(\\(?:sum|prod|int))(?![A-Za-z]){bounds}", lambda m: rf"{before}{m.expand(sign)}{m[2]}\,", tex)
    tex = re.sub(rf"(?<=[\w)}}\]])\s*(?=\\(?:{'|'.join(FUNCTIONS)})(?![A-Za-z]))", lambda _: r"\,", tex)
    tex = re.sub(r"\\top(?![A-Za-z])", lambda _: r"{\mathrm{\mathsf{T}}}", tex)
    return tex.replace("'", r"\mathrm{′}")


def text(tex: str) -> str:
    """A formula in Unicode, on one line: \\frac{a}{b} as a/b, x_i^2 as xᵢ², what has no such letter as x_(model)."""
    written = "".join(sequence(tokens(tex)))
    for sign in SPACED:
        written = re.sub(rf"\s*{sign}\s*", f" {sign} ", written)
    written = re.sub(r"(?<=[\w)⊤²³′\]])\s*([+−])\s*(?=[\w(∑√∂\[])", r" \1 ", written)
    written = re.sub(r"(?<=[\w)])(?=[∑∏∫])", " ", written)
    written = re.sub(r"(?<=[(\[]) | (?=[)\],])", "", re.sub(r" {2,}", " ", written)).strip()
    return unicodedata.normalize("NFC", written)


def tokens(tex: str) -> list[str]:
    """Commands with their backslash, braces, and letters; spaces between commands are none."""
    found = []
    for match in TOKEN.finditer(tex):
        if not match[3]:
            found.append(match[0].replace("-", "−") if match[4] else match[0])
    return found


def sequence(rest: list[str], until: str | None = None) -> list[str]:
    """What tokens say, up to the end or a closing brace; takes them off the list."""
    out: list[str] = []
    while rest:
        token = rest.pop(0)
        if token == until:
            break
        if token in "^_":
            # A sum's bounds are said like any index: ∑_(i=1)^n.
            inside, table = argument(rest), UP if token == "^" else DOWN
            if all(letter in table for letter in inside):
                out.append("".join(table[letter] for letter in inside))
            else:
                out.append(token + (inside if len(inside) == 1 else f"({inside})"))
        elif token == "{" and rest[:2] == [",", "}"]:  # a decimal comma
            out.append(",")
            del rest[:2]
        elif token == "{":
            out += sequence(rest, "}")
        elif token.startswith("\\"):
            out.append(command(token[1:], rest))
        else:
            out.append(token + (" " if token == "," else ""))
    return out


def argument(rest: list[str]) -> str:
    """The next letter, command, or group in braces."""
    if not rest:
        return ""
    token = rest.pop(0)
    if token == "{":
        return "".join(sequence(rest, "}")).strip()
    return command(token[1:], rest) if token.startswith("\\") else token


def command(name: str, rest: list[str]) -> str:
    if name in ("frac", "dfrac", "tfrac"):
        above, below = argument(rest), argument(rest)
        return f"{grouped(above)}/{grouped(below)}"
    if name == "sqrt":
        inside = argument(rest)
        return f"√{inside}" if len(inside) == 1 else f"√({inside})"
    if name in ("mathrm", "mathbf", "mathit", "mathcal", "mathsf", "mathtt", "boldsymbol", "operatorname", "text"):
        inside = argument(rest)
        # A name of letters is a function's, and stands apart from what it is applied to.
        after = rest[0] if rest else ""
        return inside + (" " if len(inside) > 1 and after.isalnum() else "")
    if name == "mathbb":
        return "".join(DOUBLE.get(letter, letter) for letter in argument(rest))
    if name in ACCENTS:
        return argument(rest) + ACCENTS[name]
    if name in FUNCTIONS:
        return name + (" " if rest and (rest[0].isalnum() or rest[0].startswith("\\")) else "")
    return SIGNS.get(name, name)


def grouped(part: str) -> str:
    """In brackets, where it is more than a product."""
    return part if re.fullmatch(r"[\w.,′\u0302\u0304\u0303₀-ₜ⁰-ⁿᵀᵢⱼᵣᵤᵥ]*|√?\(.*\)|∂\w+", part) else f"({part})"
