"""Milliseconds of a training step of each recipe on this machine, when nothing else runs: what a comparison at equal
minutes needs, since the runs themselves shared their machine with others.

    python benchmarks/minutes.py                   writes benchmarks/minutes.json; 4 minutes of two quiet cores

Steps are `fit`'s own, views included, on CIFAR-10; the recipes take turns, and the median of all their steps but the
first two of a turn counts. lightly's SimCLR is that of lightly_simclr.py. IFND's clusters are made between two epochs:
all images embedded, k-means, labels.
"""

import json
import statistics
import time
from pathlib import Path

import fixmatch
import lightly_simclr
import torch
from timing import hardware

import semppl_mini as s
from semppl_mini.files import write_json
from semppl_mini.keeping.command import Parser, command
from semppl_mini.readout import tuning

ROOT = Path(__file__).resolve().parents[1]
STEPS = 8  # a turn


def recipes(data: s.Data) -> dict:
    """{name: (config, data, class of the method)}"""
    cpu, ifnd = s.presets.cifar10_cpu(), s.presets.cifar10_cpu_ifnd()
    weak = fixmatch.weak_views(data)
    return {
        "SemPPL": (cpu, data, None), "augmentation-only": (cpu.replace(semantic_positives=0), data, None),
        "IFND": (ifnd, data, None), "InfoNCE": (ifnd.replace(clusters=()), data, None),
        "CARP": (s.presets.cifar10_cpu_carp(), data, None),
        "FixMatch": (cpu.replace(labelled_share=0.125), weak, fixmatch.FixMatch),
        "supervised-only": (tuning(cpu, data, 100), data, None),
    }  # fmt: skip


def steps_of(config, data: s.Data, method) -> list[float]:
    """Seconds of some steps, without the first two."""
    run = s.fit(config, data, progress=False, steps=STEPS, method=method)
    speeds = [record["images_per_second"] for record in run.history[2:]]  # of supervised-only's short epochs
    return [step["times"]["all"] for step in run.unfinished][2:] or [config.batch_size / speed for speed in speeds]


def steps_of_lightly(config, data: s.Data) -> list[float]:
    few = data.train.take(torch.arange(STEPS * config.batch_size))
    part = s.Data(data.name, data.provenance, data.classes, few, data.val, data.test)
    _, history = lightly_simclr.train(config, part, 1, 0)
    return [history[0]["seconds"] / STEPS]


def clusters_of(config, data: s.Data) -> float:
    """Seconds that making IFND's clusters anew takes."""
    method = s.fit(config, data, progress=False, steps=1).method
    start = time.perf_counter()
    method.recluster(method.embed(data.train), data.train.ids, seed=0)
    return time.perf_counter() - start


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "minutes.json")
    args, found = parser.parse_args(), hardware()
    parser.whole("--rounds", args.rounds, 1)
    cpu, steps, clusters = s.presets.cifar10_cpu(), {}, []
    data = s.data_for(cpu, "cifar10")
    for turn in range(args.rounds):
        for name, recipe in recipes(data).items():
            steps.setdefault(name, []).extend(steps_of(*recipe))
        steps.setdefault("lightly's SimCLR", []).extend(steps_of_lightly(cpu, data))
        clusters.append(clusters_of(s.presets.cifar10_cpu_ifnd(), data))
        print(turn, {name: round(1000 * statistics.median(x)) for name, x in steps.items()}, flush=True)
    rows = {name: {"ms": 1000 * statistics.median(x), "steps": len(x)} for name, x in steps.items()}
    rows["IFND"]["clusters"] = statistics.median(clusters)  # seconds, between two epochs
    write_json(args.out, {"rows": rows, "epoch": len(data.train) // cpu.batch_size, "hardware": found})
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    command(main, "minutes")
