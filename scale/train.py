"""Train and evaluate one run of a preset, and write what came out as one JSON file: in one process, or in several
that share every batch.

    python scale/train.py cifar10_cpu --name semppl-500-seed0 labels=500 seed=0
    python scale/train.py cifar10_cpu --name supervised-500-seed0 --supervised 2000 labels=500 seed=0
    torchrun --nproc-per-node 2 scale/train.py cifar10_cpu --name semppl-500-seed0 labels=500 seed=0

The run's folder is RUNS/NAME (environment variable SEMPPL_RUNS, default runs/); a run that was stopped continues
there, also with another number of processes. The test images are read once, at the end.
"""

import launch

from semppl_mini import parallel
from semppl_mini.keeping.command import command


def main() -> None:
    parallel.start()
    launch.main(__doc__, "scale/train.py")


if __name__ == "__main__":
    command(main, "scale/train.py")
