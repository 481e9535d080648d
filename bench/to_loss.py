"""How long a training takes to a validation loss: recipes beside each other, over seeds, on one machine.

    python bench/to_loss.py machado --target 2.02 --recipes default --seeds 5 --steps 1000
    python bench/to_loss.py machado --target 2.02 --recipes classic --seeds 1 --steps 5000

Losses are window losses over 6,400 windows of exactly the model's context, the measure of all reference numbers.
Seconds are of training: the evaluations that look for the target are not counted.
"""

import argparse
import statistics
import time

import torch

import gptlab
from gptlab import doctor, runtime
from gptlab.config import recipe
from gptlab.text import corpora
from gptlab.training.evaluate import window_loss
from gptlab.training.loop import Trainer, resolved
from gptlab.training.schedule import rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--preset", default="gptlab-cpu")
    parser.add_argument("--context", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--recipes", nargs="+", default=["default"])
    parser.add_argument("--target", type=float, default=2.02)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--every", type=int, default=20, help="steps between looks at the loss")
    args = parser.parse_args()
    env = runtime.environment()
    print(f"{env['processor']}; torch {env['torch']}, {env['threads']} threads; gptlab {env['gptlab']}")
    text = corpora.find(args.corpus)
    tokenizer = corpora.make_tokenizer("char", text)
    data = corpora.prepare(text, tokenizer)
    changed = {"context": args.context} if args.context else {}
    shape = gptlab.preset(args.preset, vocab_size=tokenizer.vocab_size, **changed)
    print(f"{args.preset}: {gptlab.count(shape).total:,} parameters on {text.name}")
    for name in args.recipes:
        ends, times, steps_needed = [], [], []
        for seed in range(args.seeds):
            changed = {"batch": args.batch} if args.batch else {}
            config = resolved(recipe(name).but(seed=seed, **changed), steps=args.steps)
            chosen = doctor.choose("cpu", config.precision)
            config = config.but(precision=chosen.precision)
            parts = {"init": config.init, "dropout": config.dropout, "kernel": chosen.kernel}
            model = gptlab.build(shape, seed=seed, **parts).train()
            trainer = Trainer(model, data.train, data.val, config)
            seconds, reached = 0.0, None
            for step in range(args.steps):
                fraction = rate(config.schedule, step, steps=args.steps, warmup=config.warmup, final=config.final_lr)
                began = time.perf_counter()
                trainer.step(step, fraction)
                seconds += time.perf_counter() - began
                if reached or (step + 1) % args.every:
                    continue
                near = window_loss(model, data.val, count=400) < args.target + 0.02  # a cheap look first
                if near and window_loss(model, data.val, count=6400) <= args.target:
                    reached = (step + 1, seconds)
            ends.append(window_loss(model, data.val, count=6400))
            if reached:
                steps_needed.append(reached[0])
                times.append(reached[1])
            when = f"{args.target} after {reached[0]} steps, {reached[1]:.1f} s" if reached else "not reached"
            print(f"  {name}, seed {seed}: {when}; {ends[-1]:.4f} after {args.steps} steps, {seconds:.1f} s")
        if args.seeds > 1:
            spread = statistics.stdev(ends)
            print(f"  {name}: {statistics.mean(ends):.4f} ± {spread:.4f} after {args.steps} steps; ", end="")
            print(f"{args.target} in {statistics.mean(times):.1f} ± {statistics.stdev(times):.1f} s" if times else "")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
