"""The figures of notebook 06: one process beside several, and what recipes cost on given chips, by `plan.py`."""

import numpy as np

from semppl_mini.show.plots import CLASSES, COLOUR, FAINT, LINES, canvas, figure


@figure
def shared_figure(one, several, processes: int):
    """Loss a step of one process, and of several that share its batches, over each other; below, how far apart."""
    fig = canvas(6.4, 4)
    fig.get_layout_engine().set(hspace=0.08)
    above, below = fig.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.plot(one, lw=5, color="#9ec9e8", label="one process")
    above.plot(several, lw=1, color=COLOUR[None], label=f"{processes} processes")
    above.set_ylabel("loss")
    above.legend()
    apart = np.abs(np.subtract(several, one)) / np.abs(one)
    below.semilogy(np.maximum(apart, 1e-17), lw=1, color=COLOUR[False])
    below.set(xlabel="step", ylabel="relative\ndistance", ylim=(1e-17, 1), yticks=(1e-16, 1e-8, 1))
    return fig


PARTS = {  # entries of a plan that make a part, and its colour
    "memory": {
        "activations": (["activations"], LINES[0]),
        "weights, gradients, optimizer": (["online networks", "weights in bf16", "gradients", "optimizer"], LINES[1]),
        "target": (["target networks"], LINES[2]),
        "queues": (["queues"], LINES[3]),
        "views, votes, similarities": (["views", "votes", "similarities"], LINES[4]),
    },
    "flops": {
        "online forward": (["online forward"], LINES[5]),
        "online backward": (["online backward"], CLASSES[8]),
        "target forward": (["target forward"], LINES[2]),
        "votes, similarities": (["votes", "similarities"], LINES[4]),
    },
}


def _bars(ax, plans: list[dict], key: str, units: list[float]) -> None:
    """A bar for each plan, its parts side by side, in its own unit; beside it what it comes to."""
    left = np.zeros(len(plans))
    for name, (entries, colour) in PARTS[key].items():
        width = np.array([sum(p[key][entry] for entry in entries) for p in plans]) / units
        ax.barh(range(len(plans)), width, 0.62, left, color=colour, label=name)
        left += width
    for y, p in enumerate(plans):
        memory = f"{sum(p['memory'].values()) / 1e9:.3g} of {p['chip']['memory'] / 1e9:.3g} GB"
        hours = " to ".join(dict.fromkeys(f"{end:.3g}" for end in p["hours"]))
        text, colour = memory if key == "memory" else f"{hours} h", COLOUR[None if p["fits"] else False]
        ax.text(1.015, y, text, va="center", size=9, color=colour, transform=ax.get_yaxis_transform())
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, fontsize=8, handlelength=1, borderpad=0)
    ax.grid(axis="x")
    ax.grid(False, axis="y")


@figure
def plan_figure(plans: dict[str, dict]):
    """Memory a device, in percent of the chip's, and FLOPs a step, by part: a bar for each plan of `plan.py`.

    The grey band is kept free; the figures of a plan that does not fit are vermilion.
    """
    fig = canvas(9.5, 0.33 * len(plans) + 1.5)
    left, right = fig.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    _bars(left, list(plans.values()), "memory", [p["chip"]["memory"] / 100 for p in plans.values()])
    _bars(right, list(plans.values()), "flops", [1e15] * len(plans))
    left.axvspan(90, 100, color=FAINT, zorder=0)
    left.axvline(100, color=COLOUR[None], lw=0.8)
    left.set(xlim=(0, max(100, left.get_xlim()[1])), xlabel="memory a device, % of the chip's")
    left.set_yticks(range(len(plans)), list(plans))
    left.invert_yaxis()
    used = {" to ".join(dict.fromkeys(f"{end:.0%}" for end in p["utilisation"])) for p in plans.values()}
    right.set_xlabel(f"PFLOP a step, all devices; hours at {' or '.join(sorted(used))} of the peak")
    return fig
