"""A run directory, which holds all that a model needs: weights, configuration, tokenizer, states, metrics.

    config.toml            the model's and the training's configuration, and where the text came from
    tokenizer.json         text <-> ids
    model.safetensors      the best weights so far
    state/STEP/            the last two states to resume from, each with checksums
    metrics.jsonl          a line per measurement
    samples/STEP.txt       what the model wrote on the way
    snapshots/STEP.safetensors  its embedding tables on the way, for films
    sections/NAME/         what experiments found out, for the report
    adapter/               of a fine-tuning by adapters: these alone
    tokenizers/NAME/       runs of their own, that the experiment on tokenizers compares
    report.html            all of it as a page to read and to print
    environment.json       versions, machine, command

Everything is written whole or not at all, and nothing is ever unpickled.
"""

import json
import os
import re
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import tomli_w
from safetensors import SafetensorError

from gptlab import files
from gptlab.config import FinetuneConfig, ModelConfig, TrainConfig
from gptlab.text import tokenizer as tokenizers
from gptlab.text.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is imported where weights are read or written: `gptlab runs` needs none
    import torch
    from torch import Tensor, nn

    from gptlab.model.kernels import Kernel
    from gptlab.model.transformer import Transformer

KEPT_STATES = 2


@dataclass(frozen=True)
class State:
    """Where a training stood: weights and optimizer by name, and the counters of the loop."""

    step: int
    weights: dict[str, "Tensor"]
    optimizer: dict[str, "Tensor"]
    counters: dict[str, Any]


class Run:
    """A run directory on disk. `Run(path)` opens one; `Run.create` makes one."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        config = self.path / "config.toml"
        if not config.is_file():
            what = "has no config.toml: it is no run directory" if self.path.is_dir() else "does not exist"
            raise ValueError(f"run {str(self.path)!r} {what}. `gptlab runs` lists the runs here")
        try:
            table = tomllib.loads(config.read_text(encoding="utf-8"))
            self.model_config = ModelConfig.read(table["model"])
            self.train_config = TrainConfig.read(table["train"]) if "train" in table else None
            # Of a run that was made of another one; `train` is then how that one was trained.
            self.finetune_config = FinetuneConfig.read(table["finetune"]) if "finetune" in table else None
        except (ValueError, KeyError) as error:
            raise ValueError(f"{config} is damaged: {error}") from None
        self.text: dict[str, Any] = table.get("text", {})  # name, sha256, characters, tokens of the training text

    @classmethod
    def create(
        cls,
        path: str | Path,
        model: ModelConfig,
        tokenizer: Tokenizer,
        *,
        train: TrainConfig | None = None,
        text: dict[str, Any] | None = None,
        finetune: FinetuneConfig | None = None,
        environment: dict[str, Any] | None = None,
    ) -> "Run":
        """A new run directory; config.toml comes last, so a half-made one is no run."""
        path = Path(path)
        tokenizers.save(tokenizer, path / "tokenizer.json")
        if environment is not None:
            files.write_text(path / "environment.json", json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
        tables = {
            "model": model.to_dict(),
            "finetune": finetune.to_dict() if finetune else None,
            "train": train.to_dict() if train else None,
            "text": text,
        }
        present = {name: table for name, table in tables.items() if table is not None}
        files.write_text(path / "config.toml", tomli_w.dumps(present))
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def set_train_config(self, config: TrainConfig) -> None:
        """Put another training configuration in the place of the old one, as when a run is extended."""
        path = self.path / "config.toml"
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        files.write_text(path, tomli_w.dumps({**table, "train": config.to_dict()}))
        self.train_config = config

    def set_finetune_config(self, config: FinetuneConfig) -> None:
        """The same of a fine-tuning."""
        path = self.path / "config.toml"
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        files.write_text(path, tomli_w.dumps({**table, "finetune": config.to_dict()}))
        self.finetune_config = config

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; ValueError if another process does. The system frees it on any death."""
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(
                f"another process is training in {self.path}: wait for it, stop it, or choose another --out"
            ) from None
        try:
            self.sweep()
            yield
        finally:
            lock.release()

    def sweep(self) -> None:
        """Remove what a killed writer left half done."""
        for folder in (self.path, *(self.path / name for name in ("state", "samples", "snapshots", "sections"))):
            for leftover in folder.glob(f"{files.TEMPORARY}*"):
                files.remove(leftover)

    # Tokenizer and weights

    def tokenizer(self) -> Tokenizer:
        return tokenizers.load(self.path / "tokenizer.json")

    def save_weights(self, model: "nn.Module") -> None:
        with files.write_whole(self.path / "model.safetensors") as temporary:
            save_tensors(tensors(model), temporary)

    def model(self, device: "torch.device | None" = None, *, kernel: "Kernel | None" = None) -> "Transformer":
        """The model with its best weights, in evaluation mode; kernel: how attention is computed, by default sdpa."""
        from gptlab.model.kernels import sdpa
        from gptlab.model.transformer import build

        path = self.path / "model.safetensors"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: this run was stopped before its first weights were saved")
        model = build(self.model_config, kernel=kernel or sdpa)
        load_weights(model, load_tensors(path), path)
        return model.to(device) if device else model

    # States

    def save_state(self, state: State) -> None:
        """Write state/STEP/, then let go of all but the newest two."""
        with files.write_whole(self.path / "state" / str(state.step)) as folder:
            folder.mkdir(parents=True)
            save_tensors(state.weights, folder / "model.safetensors")
            save_tensors(state.optimizer, folder / "optimizer.safetensors")
            sums = {name: files.sha256(folder / name) for name in ("model.safetensors", "optimizer.safetensors")}
            manifest = {"step": state.step, "sha256": sums, "counters": state.counters}
            (folder / "state.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for step in self.states()[:-KEPT_STATES]:
            files.remove(self.path / "state" / str(step))

    def states(self) -> list[int]:
        """The steps that have a state, oldest first."""
        return sorted(int(p.name) for p in (self.path / "state").glob("*") if p.name.isdigit())

    def load_state(self) -> State | None:
        """The newest undamaged state, None if there is none; a damaged one is named in a warning."""
        for step in reversed(self.states()):
            folder = self.path / "state" / str(step)
            try:
                manifest = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                for name, expected in manifest["sha256"].items():
                    if files.sha256(folder / name) != expected:
                        raise ValueError(f"{name} does not match its checksum")
                weights, optimizer = (read_tensors(folder / f"{part}.safetensors") for part in ("model", "optimizer"))
                return State(step, weights, optimizer, manifest["counters"])
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                warnings.warn(f"the state {folder} is damaged ({error}); going back to the one before", stacklevel=2)
        return None

    # Metrics and samples

    def metrics(self) -> list[dict[str, Any]]:
        """The measurements so far, each a dictionary with at least `step`."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a killed writer leaves half a line

    def add_metrics(self, record: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record) + "\n")

    def truncate(self, step: int) -> None:
        """Forget what was measured and kept after `step`, for it will be again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        files.write_text(self.path / "metrics.jsonl", "".join(kept))
        for taken in self.snapshots():
            if taken > step:
                files.remove(self.snapshot_path(taken))

    def add_sample(self, step: int, text: str) -> None:
        files.write_text(self.path / "samples" / f"{step}.txt", text)

    def samples(self) -> list[tuple[int, str]]:
        """What the model wrote while it trained: (step, text), in order."""
        paths = [path for path in (self.path / "samples").glob("*.txt") if path.stem.isdigit()]
        return sorted((int(path.stem), path.read_text(encoding="utf-8")) for path in paths)

    def snapshot_path(self, step: int) -> Path:
        return self.path / "snapshots" / f"{step}.safetensors"

    def add_snapshot(self, step: int, model: "nn.Module") -> None:
        """Keep the embedding tables as they are now."""
        with files.write_whole(self.snapshot_path(step)) as temporary:
            save_tensors({name: table for name, table in tensors(model).items() if is_table(name)}, temporary)

    def snapshots(self) -> list[int]:
        """The steps that have a snapshot, in order."""
        return sorted(int(p.stem) for p in (self.path / "snapshots").glob("*.safetensors") if p.stem.isdigit())

    def snapshot(self, step: int) -> dict[str, "Tensor"]:
        """The embedding tables at a step, by the names that the model gives them. ValueError for a damaged file."""
        return load_tensors(self.snapshot_path(step))

    def environment(self) -> dict[str, Any]:
        """Versions, machine and command of the training's beginning; empty where none was recorded."""
        path = self.path / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    # Sections of the report

    def section_path(self, name: str) -> Path:
        """The folder that an experiment fills: section.json, and the files that it names.

        section.json is {"order": int, "title": {lang: text}, "blocks": [block, …]}, a block one of
            {"kind": "text", "text": {lang: text}}
            {"kind": "table", "head": {lang: [cell, …]}, "rows": {lang: [[cell, …], …]}}
            {"kind": "figure", "file": {lang: {shape: "x.svg"}}, "caption": {lang: text}, "alt": {lang: text}}
            {"kind": "film", "file": "x.mp4", "poster": "x.png", "caption": {lang: text}, "alt": {lang: text}}
            {"kind": "page", "file": "x.html", "title": {lang: text}, "height": int}
        """
        return self.path / "sections" / name

    def sections(self) -> list[tuple[Path, dict[str, Any]]]:
        """The sections that experiments left, each with its folder, by their `order` and then by name."""
        paths = sorted((self.path / "sections").glob("*/section.json"))
        found = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        return sorted(found, key=lambda pair: pair[1]["order"])


def is_table(name: str) -> bool:
    """Whether a parameter of that name is a table of tokens or of positions: what a snapshot keeps."""
    return name in ("embedding", "position.weight", "query")


def table_bytes(model: "nn.Module") -> int:
    """The bytes of a snapshot."""
    return sum(p.numel() * p.element_size() for name, p in model.named_parameters() if is_table(name))


def tensors(model: "nn.Module") -> dict[str, "Tensor"]:
    """The model's parameters by name, ready to be written."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def load_weights(model: "nn.Module", weights: dict[str, "Tensor"], source: Path) -> None:
    """Copy weights in, each of them; ValueError names what is missing, too much, or of another shape."""
    import torch

    named = dict(model.named_parameters())
    if missing := sorted(named.keys() ^ weights.keys()):
        raise ValueError(f"{source} does not fit the model; missing or unknown: {', '.join(missing[:5])}")
    with torch.no_grad():
        for name, parameter in named.items():
            if parameter.shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)} in the file, {tuple(parameter.shape)} in the model"
                raise ValueError(f"{source} does not fit the model; {name} is {shapes}")
            parameter.copy_(weights[name])


def save_tensors(named: dict[str, "Tensor"], path: Path) -> None:
    """Write a safetensors file; OSError if the disk refuses, with its number, which safetensors itself hides."""
    from safetensors.torch import save_file

    try:
        save_file(named, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a safetensors file, by name."""
    from safetensors.torch import load_file

    return load_file(path)


def load_tensors(path: Path) -> dict[str, "Tensor"]:
    """The same, but a damaged file is a ValueError that names it."""
    try:
        return read_tensors(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def find_runs(root: str | Path = "runs") -> list[Path]:
    """The run directories under `root`, the one last written to at the end."""

    def last_written(path: Path) -> float:
        return max(f.stat().st_mtime for f in (path / "config.toml", path / "metrics.jsonl") if f.exists())

    return sorted((config.parent for config in Path(root).glob("*/config.toml")), key=last_written)


def latest_run(root: str | Path = "runs") -> Path:
    """The run last written to; ValueError if there is none."""
    runs = find_runs(root)
    if not runs:
        raise ValueError(
            f"there is no run in {str(Path(root))!r} yet: make one with `gptlab train`, or name its folder"
        )
    return runs[-1]
