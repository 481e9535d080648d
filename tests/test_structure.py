"""The layout of the program: imports go one way, and a few things are done in one place only."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gptlab"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# Highest first. What stands in a row never imports each other.
LAYERS = [
    {"__init__", "__main__"},  # the doors: public names and `python -m gptlab`
    {"cli"},
    {"teach"},
    {"compare", "experiments", "bench"},
    {"tasks"},
    {"lab"},
    {"report"},
    {"training", "finetuning", "generate", "lens", "doctor", "survey"},
    {"run"},
    {"convert", "presets"},
    {"text"},
    {"model"},
    {"config", "runtime", "native"},
    {"messages"},
    {"registry"},
    {"files", "seeds"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
EXCEPTIONS = {
    ("finetuning", "training"),  # it trains
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def part(path: str) -> str:
    """The first folder of src/gptlab that a file is in, or its own name."""
    return path.split("/")[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever it does: `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import at line {node.lineno}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """a.b.c of such an expression, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def uses(tree: ast.AST) -> set[str]:
    """All dotted names in a file, imported or used."""
    return {*imported(tree), *(dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))}


def test_every_part_has_its_place() -> None:
    """Each folder and file of src/gptlab is in the table; a new one fails until somebody says where it belongs."""
    assert FILES
    assert {part(path) for path in TREES} <= set(RANK)


@pytest.mark.parametrize("path", TREES)
def test_imports_go_down(path: str) -> None:
    """A file imports from layers below its own (or its own part), but for the exceptions that are written here."""
    for name in imported(TREES[path]):
        if name.split(".")[0] != "gptlab":
            continue
        target = f"{name}.__init__".split(".")[1]
        if target not in RANK:
            target = "__init__"  # `from gptlab import build`: a public name
        here = part(path)
        allowed = here == target or RANK[here] < RANK[target] or (here, target) in EXCEPTIONS
        assert allowed, f"{path} imports {name}: {here} is not above {target}"


def test_the_exceptions_are_needed() -> None:
    """An exception that nobody uses any more is taken off the list."""
    used = {(part(path), name.split(".")[1]) for path in TREES for name in imported(TREES[path]) if "gptlab." in name}
    assert used >= EXCEPTIONS


@pytest.mark.parametrize("path", TREES)
def test_distributed_and_compile(path: str) -> None:
    """runtime.py alone knows torch.distributed and torch.compile."""
    found = [n for n in uses(TREES[path]) if re.match(r"torch\.(distributed|compile)\b", n)]
    assert not found or path == "runtime.py"


def test_text_without_torch() -> None:
    """Reading and tokenizing texts needs no torch, not even by way of another module."""
    modules = [p[:-3].replace("/", ".").removesuffix(".__init__") for p in TREES if part(p) == "text"]
    code = f"import sys; import gptlab.{', gptlab.'.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert not [path for path in TREES if part(path) == "text" and any("torch" in n for n in imported(TREES[path]))]


@pytest.mark.parametrize("path", TREES)
def test_no_pickles(path: str) -> None:
    """Nothing is unpickled: torch.load is in convert/seed.py alone, with weights_only=True, and NumPy's is never on."""
    tree = TREES[path]
    for name in uses(tree):
        assert name.split(".")[0] not in PICKLES, name
        assert name not in ("torch.jit.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle"), name
        assert name != "torch.load" or path == "convert/seed.py"
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords}
        if dotted(call.func) == "torch.load":
            assert given.get("weights_only") is True and None not in given
        assert given.get("allow_pickle", False) is False


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """The text files that git tracks, by path."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    texts = {}
    for name in filter(None, names.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            texts[name] = data.decode("utf-8")
    return texts


def test_no_path_of_a_machine(tracked: dict[str, str]) -> None:
    """No file names a place on somebody's machine: this checkout's, this Python's, or anybody's home."""
    places = {str(ROOT), str(ROOT.parent), sys.prefix, sys.base_prefix, str(Path.home())}
    own = re.compile("|".join(rf"{re.escape(place)}[/\\]" for place in sorted(places) if place not in ("/", "/usr")))
    anybody = re.compile(r"(?<![\w.~])/(?:home|root|Users|work|mnt|workspace)/\w|[A-Z]:\\Users\\")
    for name, text in tracked.items():
        for number, line in enumerate(text.splitlines(), 1):
            assert not own.search(line) and not anybody.search(line), f"{name}:{number}"


def test_no_package_registry(tracked: dict[str, str]) -> None:
    """No file names a package registry: which one is used is for whoever installs to say."""
    hosts = re.compile(
        r"pypi\.org|python[h]osted|artifact[o]ry|devp[i]\b|registry\.npm|extra[-_]index[-_]url|/simpl[e]/?\b"
    )
    for name, text in tracked.items():
        for number, line in enumerate(text.splitlines(), 1):
            assert not hosts.search(line), f"{name}:{number}"
