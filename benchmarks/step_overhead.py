"""(a) What does SemPPL cost beside its networks? A whole training step against their bare passes.

Full step    a step of `fit`: images taken, views made, negatives and positives drawn, online and target
             networks, queues, votes, losses, backward, optimizer, moving average, the monitor's counts.
Bare passes  the same networks at the same precision on one batch of views made beforehand: online forward
             and backward on all views, target forward on the large ones. No loss, no optimizer.

The second line of each group gives the step the same views, made beforehand: what the method itself costs. The
third also adds optimizer and moving average to the bare passes, since every method with a target pays them. The
fourth is the share of the whole step that goes into making views.
"""

from common import Stepper
from timing import by_turns, row

from semppl_mini import presets


def measure(rounds: int = 9) -> list[dict]:
    cpu = presets.cifar10_cpu()
    narrow = cpu.replace(backbone="narrow", width=16, stem_stride=1, large_views=2, small_views=0)
    rows = compare("CIFAR-10 CPU preset", cpu, rounds)
    rows += compare("width 16, 2 views", narrow, rounds)
    return rows + compare("width 16, 4 + 2 views", narrow.replace(large_views=4, small_views=2), rounds)


def compare(name: str, config, rounds: int) -> list[dict]:
    stepper = Stepper(config)
    placed = stepper.batches.place(stepper.batches[0])  # views, batch, draws
    views = placed[0]

    def bare():
        stepper.bare(views)

    def bare_and_update():
        stepper.bare(views)
        stepper.update()

    tasks = {"full step": stepper.step, "bare": bare, "bare + update": bare_and_update}
    tasks |= {"views": stepper.views, "step, ready views": lambda: stepper.step(placed)}
    seconds, B = by_turns(tasks, rounds), config.batch_size
    return [
        row(f"{name}: step / bare passes", seconds, "full step", "bare", 0.90, B),
        row("  step on the same views / bare passes", seconds, "step, ready views", "bare", 0.90, B),
        row("  the same / bare passes, optimizer, EMA", seconds, "step, ready views", "bare + update", None, B),
        row("  share of the step spent on making views", seconds, "full step", "views"),
    ]
