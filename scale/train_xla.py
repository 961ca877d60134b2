"""The same run on XLA devices (TPUs, or virtual devices of a CPU): one program, its batches cut over all of them.

    PJRT_DEVICE=TPU python scale/train_xla.py imagenet_1pct --name semppl --data IMAGENET --label-list 1percent.txt
    PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python scale/train_xla.py cifar10_cpu --name semppl labels=500

Needs torch 2.9 with torch_xla 2.9, Linux on x86-64. Runs continue and end as with scale/train.py.
"""

import platform
import sys

import launch

from semppl_mini import parallel
from semppl_mini.keeping.command import command


def main() -> None:
    try:
        parallel.start_xla()
    except ImportError as error:
        here = f"Python {platform.python_version()} on {sys.platform} {platform.machine()} ({error})"
        raise ValueError(f"torch_xla cannot be imported by {here}; on Linux x86-64 make the environment with "
                         "`make .venv-xla/.stamp`, elsewhere use scale/train.py.") from None  # fmt: skip
    launch.main(__doc__, "scale/train_xla.py")


if __name__ == "__main__":
    command(main, "scale/train_xla.py")
