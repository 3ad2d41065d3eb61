"""What hooks cost: a run of tiny-sd3 by plain diffusers, by ``Model.run``, captured at 50 sites, and patched at one.

    OMP_NUM_THREADS=1 python benchmarks/hooks.py [--rounds 9]

Two pictures of four steps. Seconds of CPU time, the shortest of the rounds; ratios to ``Model.run`` within a round, in
which all take turns, their median. The model is so small that calls into torch are all it costs: an upper bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch

import t2iprobe

PROMPTS, SEEDS, STEPS, SITES = ['a red sign that says "CAT"'] * 2, [1, 2], 4, 50


def ways(model: t2iprobe.Model) -> Mapping[str, Callable[[], object]]:
    """What is compared, by name."""

    def run(**what: object) -> object:
        return model.run(PROMPTS, seed=SEEDS, num_steps=STEPS, **what)

    @torch.no_grad()
    def bare() -> object:
        noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        return model.pipeline(
            PROMPTS, num_inference_steps=STEPS, guidance_scale=3.0, generator=noise, max_sequence_length=18
        )

    results = [site.name for site in model.sites if site.port.side == "out" and not site.carried][:SITES]
    inputs = [site.name for site in model.sites if site.port.side == "in" and not site.carried][:SITES]
    return {
        "plain diffusers": bare,
        "Model.run": run,
        f"{len(results)} results captured": lambda: run(cache=results),
        f"{len(inputs)} inputs captured": lambda: run(cache=inputs),
        "one site patched": lambda: run(interventions=[t2iprobe.patch({1: 0}, "blocks.6.joint_attn.k")]),
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds, model = parser.parse_args().rounds, t2iprobe.load("tiny-sd3")
    model.pipeline.set_progress_bar_config(disable=True)
    compared = ways(model)
    times: dict[str, list[float]] = {name: [] for name in compared}
    for number in range(rounds + 1):
        for name, work in compared.items():
            before = time.process_time()
            work()
            if number:  # the first round warms up
                times[name].append(time.process_time() - before)
    for name, found in times.items():
        ratio = statistics.median(one / other for one, other in zip(found, times["Model.run"], strict=True))
        print(f"{name:24} {min(found):.3f} s  {ratio:.3f}")


if __name__ == "__main__":
    main()
