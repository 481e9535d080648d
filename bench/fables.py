"""How near to the floor a preset comes on the fables: language by language, seed by seed, at a fixed number of steps.

    python bench/fables.py --steps 330 --seeds 0 1 2 3 4              what a minute gives on two cores
    python bench/fables.py --steps 3300 --languages en                what ten minutes give

The loss is that of all 400 validation stories, each read whole from its start, in nats per character.
"""

import argparse
import statistics
import time

import gptlab
from gptlab import lab, runtime
from gptlab.messages import LANGUAGES
from gptlab.presets import settings_for
from gptlab.text import corpora
from gptlab.training.loop import resolved
from gptlab.training.schedule import rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="gptlab-fables")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES))
    parser.add_argument("--steps", type=int, default=330)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    env = runtime.environment()
    print(f"{env['processor']}; torch {env['torch']}, {env['threads']} threads; gptlab {env['gptlab']}")
    for lang in args.languages:
        corpus = f"fables:{lang}"
        config = resolved(settings_for("default", args.preset).but(corpus=corpus), steps=args.steps)
        text = corpora.find(corpus)
        tokenizer = corpora.make_tokenizer(config.tokenizer, text, config.vocab_size)
        data = corpora.prepare(text, tokenizer)
        stories = lab.stories_of(corpus, tokenizer)
        assert stories
        shape = gptlab.preset(args.preset, vocab_size=tokenizer.vocab_size)
        fit = "" if stories.fit(shape.context) else "; its context does not hold a story"
        print(f"{corpus}: {gptlab.count(shape).total:,} parameters, floor {stories.floor:.5f}{fit}", flush=True)
        losses, above = [], []
        for seed in args.seeds:
            model = gptlab.build(shape, seed=seed, init=config.init).train()
            trainer = lab.trainer_of(model, data, tokenizer, config.but(seed=seed), stories)
            began = time.perf_counter()
            for step in range(args.steps):
                warmup, final = config.warmup, config.final_lr
                trainer.step(step, rate(config.schedule, step, steps=args.steps, warmup=warmup, final=final))
            seconds = time.perf_counter() - began
            losses.append(stories.loss(model.eval()))
            above.append(100 * (losses[-1] / stories.floor - 1))
            print(f"  seed {seed}: loss {losses[-1]:.5f}, excess {losses[-1] - stories.floor:.5f}, ", end="")
            print(f"{above[-1]:.2f}% above the floor; {seconds:.0f} s", flush=True)
        if len(args.seeds) > 1:
            print(f"  {lang}: loss {statistics.mean(losses):.5f} ± {statistics.stdev(losses):.5f}, ", end="")
            print(f"{statistics.mean(above):.2f} ± {statistics.stdev(above):.2f}% above the floor", flush=True)


if __name__ == "__main__":
    main()
