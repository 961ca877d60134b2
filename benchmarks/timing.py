"""Timing by turns (A B A B ...), ratios within a round, medians over rounds; and which machine it was.

A ratio of two long runs, one after the other, also compares two moods of the machine. Here the tasks of a
round run within moments of each other, each round gives one ratio, and the median of the ratios is reported.
"""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from semppl_mini import Config
from semppl_mini.parallel.device import uses_bf16

LIBRARIES = ("torch", "torchvision", "numpy", "lightly", "timm", "faiss-cpu")


def by_turns(tasks: dict[str, Callable], rounds: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each task in each round; with `warm`, one round goes before them uncounted.

    A task with something to set up may return its own seconds as a float; else its whole call counts.
    """
    seconds = {name: [] for name in tasks}
    for turn in range(-1 if warm else 0, rounds):
        for name, task in tasks.items():
            start = awaited()
            own = task()
            end = awaited()
            took = own if isinstance(own, float) else end - start
            if turn >= 0:
                seconds[name].append(took)
    return seconds


def awaited() -> float:
    """The time at which a GPU, if there is one, has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def row(what: str, seconds: dict, ours: str, other: str, goal=None, work: float = 0, **more) -> dict:
    """One line of the table: ratio = seconds of `other` / seconds of `ours`, so above 1 ours is the faster.

    With `work` (images, views, ... a call) the two speeds are given as work a second, else as milliseconds.
    """
    ratios = [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    times = {"ours": statistics.median(seconds[ours]), "other": statistics.median(seconds[other])}
    shown = {name: work / s if work else 1000 * s for name, s in times.items()}
    line = {"what": what, **shown, "unit": "/s" if work else "ms", "measured": ours, "against": other}
    return line | {"ratio": middle, "quartiles": [low, high], "rounds": len(ratios), "goal": goal, **more}


def table(rows: list[dict]) -> str:
    """The rows as text, notes below their row; a ratio that misses its goal is marked."""
    lines = [f"{'':58}{'ours':>10}{'other':>10}     {'ratio':>6}  quartiles    goal"]
    for r in rows:
        low, high = r["quartiles"]
        met = "met" if r["goal"] is None or r["ratio"] >= r["goal"] else "MISSED"
        goal = "" if r["goal"] is None else f"{r['goal']:5.2f} {met}"
        speeds = f"{r['ours']:10,.1f}{r['other']:10,.1f} {r['unit']:<3} {r['ratio']:6.2f}"
        lines.append(f"{r['what']:58}{speeds}  {low:.2f}-{high:.2f}  {goal}".rstrip())
        lines += [f"    {note}" for note in r.get("notes", [])]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Installed versions of the libraries compared; a missing one is "not installed"."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def has_bf16() -> bool:
    """Whether precision="auto" means bf16 on this processor."""
    return uses_bf16(Config(), torch.device("cpu"))


def hardware() -> dict:
    """Processor, cores, threads torch uses, bf16 or not, and how busy the machine is at this moment."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    found = {"cpu": processor(), **gpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return found | {"bf16": has_bf16(), "system": platform.platform(), "load_average_at_start": load}
