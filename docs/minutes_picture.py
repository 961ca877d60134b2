"""Draw accuracy against minutes, a point a recipe: `python docs/minutes_picture.py` writes docs/figures/minutes.svg.

Numbers are those of the table below the picture in docs/speedrun.md: validation images, linear read-out, or the own
classifier where that is better. Whiskers are one standard deviation of seeds, where there are several.
"""

from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import tables

from semppl_mini import plots

PLACE = {  # of a method's name: from its last point, in points, and which of its ends is there
    "SemPPL": (8, -2, "left"), "augmentation-only": (8, -3, "left"), "FixMatch": (8, -1, "left"),
    "lightly's SimCLR": (8, -3, "left"), "supervised-only": (9, -3, "left"),
}  # fmt: skip


def accuracy(run: dict) -> float:
    """In percent."""
    return 100 * max(run["read"]["few_label"], run["read"].get("classifier", 0))


def points() -> dict[str, list[tuple]]:
    """{method: [(minutes, mean, standard deviation, number of seeds)]}, a point a row of the table."""
    found = {}
    for method, _, minutes, _, runs in tables.yardsticks():
        shares = [accuracy(run) for run in runs]
        spread = stdev(shares) if len(shares) > 1 else 0
        found.setdefault(method.strip("*"), []).append((minutes, mean(shares), spread, len(shares)))
    return found


def draw(path) -> None:
    with plt.rc_context(plots.STYLE | {"svg.fonttype": "none", "svg.hashsalt": "semppl-mini"}):
        fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        for i, (method, of_method) in enumerate(points().items()):
            x, y, spread, _ = zip(*of_method, strict=True)
            look = dict(color=plots.LINES[i], marker="o", ms=6, capsize=3, lw=1.5)
            ax.errorbar(x, y, spread if any(spread) else None, **look)
            dx, dy, side = PLACE.get(method, (8, -3, "left"))
            ax.annotate(f"{method} {y[-1]:.1f}", (x[-1], y[-1]), (dx, dy), textcoords="offset points", ha=side,
                        color=plots.LINES[i])  # fmt: skip
        ax.set(xscale="log", xlabel="minutes of training, two quiet CPU cores", ylabel="right with 500 labels, %")
        ax.set_xlim(1.4, 80)
        ticks = [2, 4, 8, 16, 32, 64]
        ax.set_xticks(ticks, list(map(str, ticks)))
        ax.minorticks_off()
        ax.yaxis.set_major_locator(plt.MultipleLocator(5))
        fig.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(__file__).parent / "figures/minutes.svg")
