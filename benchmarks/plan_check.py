"""Does the planner predict what is measured here? Seconds a step and peak memory of small configurations.

    python benchmarks/plan_check.py            # under three minutes on two idle cores

One number is fitted, the FLOP/s that FITTED achieves; the plan's FLOPs over it are the prediction for the others, and
what each achieves is printed beside, so that another choice can be judged. Measured is a whole step of `fit`, with the
making of views and the monitor, which the plan leaves out, by turns (see timing.py), in seconds of the processor: on a
busy machine those of the clock say little. Memory is the growth of the resident size to its peak in three steps, in a
process of its own (Linux), against the plan's whole sum.
"""

import multiprocessing
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scale"))

import plan  # noqa: E402
from common import Stepper  # noqa: E402
from timing import by_turns, hardware  # noqa: E402

from semppl_mini.recipes import cifar10  # noqa: E402

ROUNDS = 5
FITTED = "narrow, width 32"
BASE = cifar10().replace(labels=None, labelled_share=0.25, batch_size=64, queue=1280, large_views=2, small_views=1,
                         projector_hidden=512, predictor_hidden=512, precision="fp32", device="cpu")  # fmt: skip
CONFIGS = {
    "narrow, width 16": BASE.replace(backbone="narrow", width=16),
    "narrow, width 32": BASE.replace(backbone="narrow", width=32),
    "resnet18, width 16": BASE.replace(backbone="resnet18", width=16),
    "resnet18, width 32": BASE.replace(backbone="resnet18", width=32),
}


def processor_seconds(step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def resident(which: str) -> int:
    """Bytes of this process now ("VmRSS"), or at its peak ("VmHWM")."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return 1024 * int(line.split()[1])


def peak_bytes(config) -> int:
    """How far three steps raise this process's memory."""
    Stepper(config.replace(batch_size=8, queue=160, negatives=4)).step()  # libraries and images are loaded
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is resident
    before, stepper = resident("VmRSS"), Stepper(config)
    for _ in range(3):
        stepper.step()
    return resident("VmHWM") - before


def main() -> None:
    print(hardware())
    tasks = {name: partial(processor_seconds, Stepper(config).step) for name, config in CONFIGS.items()}
    seconds = {name: statistics.median(took) for name, took in by_turns(tasks, ROUNDS).items()}
    flops = {name: sum(plan.flops(config).values()) for name, config in CONFIGS.items()}
    speed = flops[FITTED] / seconds[FITTED]
    print(f"{'':20}{'FLOP':>8}{'measured':>12}{'predicted':>12}{'error':>8}{'achieved':>16}")
    for name in CONFIGS:
        predicted = flops[name] / speed
        times = f"{1000 * seconds[name]:9.0f} ms{1000 * predicted:9.0f} ms"
        achieved = plan.human(flops[name] / seconds[name], "FLOP/s")
        print(f"{name:20}{plan.human(flops[name]):>8}{times}{predicted / seconds[name] - 1:8.0%}{achieved:>16}")
    print(f"{'':20}{'':8}{'peak':>12}{'planned':>12}{'error':>8}")
    for name, config in CONFIGS.items():
        config = config.replace(batch_size=256)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peak = pool.apply(peak_bytes, (config,))
        planned = sum(plan.memory(config, 1, 10).values())
        sizes = f"{plan.human(peak, 'B'):>12}{plan.human(planned, 'B'):>12}"
        print(f"{name:20}{'B 256':>8}{sizes}{planned / peak - 1:8.0%}")


if __name__ == "__main__":
    main()
