"""(f) How a training step grows with the queue capacity Q and with the batch B.

The CIFAR-10 CPU preset with full queues. "other" is the first line of a group, so the ratio is the speed left
beside it; batches are compared by images a second.
"""

from common import Stepper
from timing import by_turns, row

from semppl_mini import presets

CAPACITIES, BATCHES = (1024, 5120, 20480, 81920), (64, 128, 256, 512)


def measure(rounds: int = 4) -> list[dict]:
    return by_capacity(rounds) + by_batch(rounds)


def by_capacity(rounds: int) -> list[dict]:
    config = presets.cifar10_cpu()
    steps = {f"Q = {Q:,}": Stepper(config.replace(queue=Q)).step for Q in CAPACITIES}
    seconds, first = by_turns(steps, rounds), next(iter(steps))
    return [row(f"step, B = {config.batch_size}, {name}", seconds, name, first) for name in steps]


def by_batch(rounds: int) -> list[dict]:
    config = presets.cifar10_cpu()
    config = config.replace(negatives=min(config.negatives, BATCHES[0] - 1))
    steps = {f"B = {B}": Stepper(config.replace(batch_size=B)).step for B in BATCHES}
    seconds, first = by_turns(steps, rounds), next(iter(steps))
    each = {name: [s / B for s in seconds[name]] for name, B in zip(steps, BATCHES, strict=True)}  # an image
    return [row(f"images, Q = {config.queue:,}, {name}", each, name, first, work=1) for name in steps]
