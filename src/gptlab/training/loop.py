"""The training loop: batches in, better weights out, and a state to go on from whatever happens.

All randomness is a function of (seed, step), so a state is weights, optimizer and counters, and a resumed run
is, to the last bit, the run that was never stopped (on a CPU, with the same number of threads).
"""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptlab import runtime
from gptlab.config import TrainConfig
from gptlab.model.transformer import Transformer
from gptlab.registry import OPTIMIZERS
from gptlab.run import Run, State, load_weights, table_bytes, tensors
from gptlab.seeds import key
from gptlab.text.batches import generator, windows
from gptlab.text.objectives import Batch, Objective
from gptlab.training import evaluate
from gptlab.training.layers import Watch
from gptlab.training.optim import Optimizer
from gptlab.training.schedule import rate

Starts = tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]  # of the training and the validation part

DEFAULT_STEPS = 2000
EVALUATIONS = 20  # in a training, unless eval_every says otherwise
LOGS_PER_EVALUATION = 10
SNAPSHOTS, SNAPSHOT_ROOM = 60, 32 * 2**20  # at most so many, and so many bytes, unless the user says otherwise
WATCHED = 60  # steps of which the gradient of each part is recorded
# The loss of guessing every token alike is ln V. A training this far above it no longer learns anything.
DIVERGED = 1.5


class Diverged(ValueError):
    """The loss is no number any more, or far above that of guessing."""


@dataclass
class Counters:
    """Where the loop stands, beside the step; saved with every state."""

    best_loss: float = math.inf
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0  # of training so far, over all processes that took part


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    reason: str  # "finished", "interrupted" or "no better" (patience)
    resumed_at: int  # the step it began at, 0 for a new run
    step: int
    steps: int
    best_loss: float
    best_step: int
    seconds: float


class Listener:
    """Someone who follows a training. Every method may be left out."""

    def started(self, step: int, steps: int, tokens: int) -> None:
        """Before the first step; `step`, and the tokens seen until then, are not 0 when a run is resumed."""

    def logged(self, record: dict[str, Any]) -> None:
        """A few times between evaluations, with the record that goes to metrics.jsonl."""

    def evaluated(self, record: dict[str, Any], model: Transformer) -> None:
        """After each evaluation; the model must be left as it was."""

    def ended(self, outcome: Outcome) -> None: ...


def resolved(config: TrainConfig, *, steps: int) -> TrainConfig:
    """The configuration with every default that depends on the length of the training filled in."""
    eval_every = config.eval_every or math.ceil(steps / EVALUATIONS)  # rounded up: none just before the last
    windows = config.eval_windows or min(1024, max(32, steps * config.batch // 200))  # under 5% of the time
    return config.but(steps=steps, eval_every=eval_every, eval_windows=windows)


def moments(number: int, steps: int) -> set[int]:
    """So many steps, at first close together, since that is when most changes; step 0 and the last included."""
    return {round(steps * (i / max(1, number - 1)) ** 2) for i in range(number)}


class Loop:
    """What every training is: steps on batches, evaluations, states. A subclass says what a batch is, what it costs,
    and how good a model is."""

    tokens_per_step: int
    guess: float  # the loss of guessing all alike, in nats
    margin = DIVERGED  # a loss so much above that is hopeless

    def __init__(self, model: Transformer, config: TrainConfig) -> None:
        self.model, self.config = model, config
        self.device = next(model.parameters()).device
        self.draws = bool(config.dropout)  # whether a step draws at random
        self.learning = [p for p in model.parameters() if p.requires_grad]
        self.optimizer: Optimizer = OPTIMIZERS[config.optimizer](model, config)

    def batch(self, step: int) -> Batch:
        """What is learned from in a step."""
        raise NotImplementedError

    def nats(self, batch: Batch) -> Tensor:
        """The loss of a batch, summed over what it asks, a scalar."""
        return evaluate.batch_nats(self.model, batch)

    def assessed(self, config: TrainConfig) -> dict[str, float]:
        """What an evaluation measures, by name; the weights with the least `val_loss` are kept."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """What a state keeps of the model: all that is learned."""
        return tensors(self.model)

    def restore(self, weights: dict[str, Tensor], source: Path) -> None:
        """The inverse of `weights`; ValueError, with the source, for weights that do not fit."""
        load_weights(self.model, weights, source)

    def keep(self, run: Run) -> None:
        """Save the model as it is, as the best so far."""
        run.save_weights(self.model)

    def step(self, step: int, fraction: float, watch: Watch | None = None) -> tuple[Tensor, Tensor]:
        """One optimizer step; the training loss in nats per token, and the norm of its gradient."""
        config = self.config
        batch = self.batch(step)
        asked = batch.asked
        total = torch.zeros((), device=self.device)
        for parameter in self.learning:
            parameter.grad = None
        for part, chunk in enumerate(batch.split(config.accumulate)):
            if self.draws:
                torch.manual_seed(key(config.seed, "dropout", step, part))
            with runtime.autocast(self.device, config.precision):
                loss = self.nats(chunk) / asked
            loss.backward()
            total += loss.detach()
        if watch:
            watch.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learning, config.clip or math.inf)
        self.optimizer.step(fraction)
        if watch:
            watch.stepped()
        return total, norm

    def fit(self, run: Run, listeners: Sequence[Listener] = ()) -> Outcome:
        """Train from the run's newest state, or from the start, to config.steps.

        Raises Diverged for a loss that is NaN or hopeless, ValueError for a state that does not fit; whatever
        is raised, the states on disk are good ones.
        """
        config = self.config
        assert config.steps and config.eval_every and config.eval_windows, "resolved() first"
        save_every = config.save_every or config.eval_every
        log_every = max(1, config.eval_every // LOGS_PER_EVALUATION)
        number = config.snapshots
        if number is None:
            number = min(SNAPSHOTS, SNAPSHOT_ROOM // table_bytes(self.model))
        kept, watched = moments(number, config.steps), moments(WATCHED, config.steps)
        counters, start = Counters(), 0
        if state := run.load_state():
            self.restore(state.weights, run.path / "state" / str(state.step))
            self.optimizer.load(state.optimizer)
            counters, start = Counters(**state.counters), state.step
        run.truncate(start if state else -1)
        for listener in listeners:
            listener.started(start, config.steps, start * self.tokens_per_step)

        began = time.perf_counter() - counters.seconds
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        step, saved, reason = start, start if state else -1, "finished"

        def save() -> None:
            nonlocal saved
            if saved != step:
                if not all(p.isfinite().all() for p in self.learning):
                    check(math.nan, step)
                counters.seconds = time.perf_counter() - began
                run.save_state(State(step, self.weights(), self.optimizer.state(), asdict(counters)))
                saved = step

        def record(**more: Any) -> dict[str, Any]:
            entry = {"step": step, "seconds": round(time.perf_counter() - began, 3), **more}
            run.add_metrics(entry)
            return entry

        def assess() -> None:
            found = self.assessed(config)
            loss = found["val_loss"]
            check(loss, step)
            if loss < counters.best_loss:
                counters.best_loss, counters.best_step, counters.evaluations_since_best = loss, step, 0
                self.keep(run)
            else:
                counters.evaluations_since_best += 1
            entry = record(**found)
            for listener in listeners:
                listener.evaluated(entry, self.model)

        def check(loss: float, at: int) -> None:
            if not loss < self.guess + self.margin:  # NaN is not less either
                last = f"the last good state is step {saved}" if saved >= 0 else "no step was saved"
                raise Diverged(
                    f"the loss is {loss:.3g} at step {at}, where guessing gives {self.guess:.2f}: "
                    f"training diverged. Lower --lr (now {config.lr:g}); {last}"
                )

        self.model.train()
        with interruptible() as interrupted, seeded(self.draws):
            if not state:
                assess()
                if kept:
                    run.add_snapshot(0, self.model)
                save()
            while step < config.steps:
                if interrupted():
                    reason = "interrupted"
                    break
                if config.patience and counters.evaluations_since_best >= config.patience:
                    reason = "no better"
                    break
                fraction = rate(config.schedule, step, steps=config.steps, warmup=config.warmup, final=config.final_lr)
                watch = Watch(self.model) if step + 1 in watched else None
                loss, norm = self.step(step, fraction, watch)
                losses.append(loss)
                norms.append(norm)
                step += 1
                if watch:
                    record(layers=watch.norms())
                if step % log_every == 0 or step == config.steps:
                    mean = torch.stack(losses).mean().item()
                    check(mean, step)
                    entry = record(
                        train_loss=mean,
                        grad_norm=torch.stack(norms).mean().item(),
                        lr=config.lr * fraction,
                        tokens=step * self.tokens_per_step,
                    )
                    losses.clear()
                    norms.clear()
                    for listener in listeners:
                        listener.logged(entry)
                if step % config.eval_every == 0 or step == config.steps:
                    assess()
                if step in kept:
                    run.add_snapshot(step, self.model)
                if step % save_every == 0 or step == config.steps:
                    save()
            if losses:
                check(torch.stack(losses).mean().item(), step)
            save()
        self.model.eval()
        outcome = Outcome(
            reason, start, step, config.steps, counters.best_loss, counters.best_step, time.perf_counter() - began
        )
        for listener in listeners:
            listener.ended(outcome)
        return outcome


class Trainer(Loop):
    """A training on the windows of a text: `measure` how many steps fit into some minutes, then `fit`."""

    def __init__(
        self,
        model: Transformer,
        train_ids: NDArray[np.unsignedinteger],
        val_ids: NDArray[np.unsignedinteger],
        config: TrainConfig,
        *,
        starts: Starts = (None, None),
        objective: Objective = evaluate.NEXT_TOKEN,
        measures: Mapping[str, Callable[[Transformer], float]] = MappingProxyType({}),
    ) -> None:
        """starts: where windows of the two parts may begin, by default anywhere; objective: what is asked of them;
        measures: what else an evaluation records, by name, beside the validation loss."""
        super().__init__(model, config)
        self.train_ids, self.val_ids = train_ids, val_ids
        self.starts, self.objective, self.measures = starts, objective, measures
        self.tokens_per_step, self.guess = config.batch * model.context, math.log(model.vocab_size)

    def batch(self, step: int) -> Batch:
        """Random windows, and what the objective asks of them."""
        config = self.config
        rows = windows(
            self.train_ids,
            count=config.batch,
            context=self.model.context,
            seed=config.seed,
            step=step,
            starts=self.starts[0],
        )
        return self.objective(rows, generator(config.seed, "objective", step))

    def assessed(self, config: TrainConfig) -> dict[str, float]:
        loss = self.evaluate(config)
        return {"val_loss": loss, **{name: measure(self.model) for name, measure in self.measures.items()}}

    def evaluate(self, config: TrainConfig) -> float:
        """Nats per token of random windows of the validation part, the same each time."""
        assert config.eval_windows is not None
        with runtime.autocast(self.device, config.precision):
            return evaluate.window_loss(
                self.model,
                self.val_ids,
                count=config.eval_windows,
                seed=config.seed,
                objective=self.objective,
                starts=self.starts[1],
            )

    def measure(self, minutes: float, *, seconds: float = 3.0) -> int:
        """How many steps fit into `minutes`, evaluations included, by trying some on a copy."""
        began = time.perf_counter()
        model = copy.deepcopy(self.model)
        trial = Trainer(model, self.train_ids, self.val_ids, self.config, starts=self.starts, objective=self.objective)
        trial.model.train()
        done, started = 0, began
        while done < 5 or time.perf_counter() - started < min(seconds, minutes * 6):
            trial.step(done, 0.0)
            runtime.synchronize(self.device)
            done += 1
            if done == 2:  # the first ones allocate
                started = time.perf_counter()
        per_step = (time.perf_counter() - started) / (done - 2)
        steps = 1
        for _ in range(3):  # evaluation's share depends on the number of steps, which depends on its share
            guess = resolved(self.config, steps=steps)
            assert guess.eval_every and guess.eval_windows
            evaluation = guess.eval_windows / self.config.batch / 3 * per_step  # forward only: a third
            left = minutes * 60 - (time.perf_counter() - began)
            steps = max(1, int(left / (per_step + evaluation / guess.eval_every)))
        return steps


@contextmanager
def seeded(draws: bool) -> Iterator[None]:
    """Leave torch's global generator, which dropout must reseed, as the caller had it."""
    if not draws:
        yield
        return
    with torch.random.fork_rng():
        yield


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn a first Ctrl-C (or a termination) into a flag that is read between steps; a second one strikes."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():  # only the main thread may take signals
        yield lambda: asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
