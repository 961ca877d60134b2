"""The board of claims, drawn from the JSON files alone: tables and pictures of what `claims.board()` returns.

All effects are in points: hundredths of an accuracy, a share, a correlation or an NMI.
"""

import textwrap
from collections import Counter

import numpy as np

from semppl_mini import plots

COLOUR = {"seen": plots.LINES[0], "opposite here": plots.LINES[1], "not seen here": "#333333"}
GREY, BAND = "#949494", "#e8f0f6"
NAMES = {"digits": "digits", "cifar10": "CIFAR-10"}


def name(row: dict) -> str:
    """A row's number, with its data where a claim has two."""
    claim = row["claim"]
    return f"{claim.number}, {NAMES.get(row['on'], row['on'])}" if len(claim.on) > 1 else claim.number


def points(row: dict) -> str:
    """The effect with its interval, as far as seeds have run."""
    n = len(row["effects"])
    mean, low, high = (f"{100 * row[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if n > 1 else mean if n else ""


def least(row: dict) -> str:
    """What the effect is held against."""
    claim = row["claim"]
    return f"above {-100 * claim.least:.0f}" if claim.harmless else f"{100 * claim.least:.0f}"


def line(rows) -> str:
    """How many rows have which verdict, and which are opposite."""
    count = Counter(row["verdict"] for row in rows)
    kinds = ("seen", "not seen here", "opposite here", "undecided", "open")
    words = [f"{count[word]} {word}" for word in kinds if count[word]]
    opposite = [name(row) for row in rows if row["verdict"] == "opposite here"]
    return f"{len(rows)} rows: {', '.join(words)}." + (f" Opposite: {'; '.join(opposite)}." if opposite else "")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["-"] * len(header), *rows])


def verdicts(rows: list[dict]) -> str:
    """The board as a table."""
    header, lines = ["", "claim", "place", "effect, 95% interval", "minimum", "seeds", "verdict"], []
    for row in rows:
        seeds, word = str(len(row["effects"])), f"**{row['verdict']}.** {row['why']}"
        lines.append([name(row), row["claim"].says, row["claim"].place, points(row), least(row), seeds, word])
    return markdown(header, lines)


def fixed_before(rows: list[dict]) -> str:
    """What stood before the runs: arms, measure, and the minimum effect's reason; a line a claim."""
    claims = dict.fromkeys(row["claim"] for row in rows)
    header = ["", "arms", "measure", "why this minimum"]
    return markdown(header, [[claim.number, ", ".join(f"`{arm}`" for arm in claim.arms), claim.measure.__doc__,
                              claim.reason] for claim in claims])  # fmt: skip


# ---- pictures ------------------------------------------------------------------------------------------------------


def words(ax, row: dict) -> None:
    """Number and claim; verdict, effect and interval below. The layout takes no notice of them."""
    colour, said = COLOUR.get(row["verdict"], GREY), textwrap.fill(f"{name(row)}: {row['claim'].says}", 55)
    look = dict(size=9, transform=ax.transAxes, in_layout=False)
    ax.set_axis_off()
    ax.text(0, 1, said, va="top", **look)
    ax.text(0, 0, f"{row['verdict']}  {points(row)}", va="bottom", color=colour, weight="bold", **look)


def arms(ax, row: dict) -> None:
    """The measure of each arm: a dot a seed, of several a tick at the mean."""
    names = row["claim"].arms
    shares = 100 * np.array([[of_seed[arm] for arm in names] for of_seed in row["values"].values()])  # (seeds, arms)
    y = range(len(names))
    for of_seed in shares:
        ax.plot(of_seed, y, "o", ms=3, color=GREY, mfc="white", clip_on=False)
    if len(shares) > 1:
        ax.vlines(shares.mean(0), np.array(y) - 0.25, np.array(y) + 0.25, plots.LINES[0], lw=2, zorder=3)
    ax.set(yticks=y, ylim=(len(names) - 0.5, -0.5), xmargin=0.1)
    ax.set_yticklabels(names, size=8)
    ax.set_xlabel(textwrap.fill(f"{row['claim'].measure.__doc__}, %", 44), size=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="x")


def effect(ax, row: dict) -> None:
    """Every seed's difference, their interval, 0, and, shaded, effects of at least the minimum."""
    colour, claim, x = COLOUR.get(row["verdict"], GREY), row["claim"], 100 * np.array(row["effects"])
    edge = -100 * claim.least if claim.harmless else 100 * claim.least
    ends = [100 * row[key] for key in ("low", "high")] if len(x) > 1 else []
    low, high = min([0, edge, *x, *ends]), max([0, edge, *x, *ends])
    margin = 0.12 * (high - low)
    ax.set(xlim=(low - margin, high + margin), ylim=(0, 1), yticks=[])
    ax.axvspan(edge, high + margin, color=BAND, zorder=0)
    ax.axvline(0, color=plots.COLOUR[None], lw=0.8)
    ax.plot(x, np.full(len(x), 0.68), "o", ms=3, color=GREY, mfc="white", clip_on=False)
    if ends:
        ax.plot(ends, [0.35, 0.35], "-", lw=2.5, color=colour)
        ax.plot([100 * row["mean"]], [0.35], "o", ms=6, color=colour)
    ax.set_xlabel("effect, points", size=8)
    ax.tick_params(axis="x", labelsize=7)
    ax.locator_params(axis="x", nbins=5)


@plots.figure
def picture(rows: list[dict]):
    """A row each of which a seed has run: the claim and its verdict, the arms' measure, the effect; then the others."""
    run, still = [row for row in rows if row["effects"]], [name(row) for row in rows if not row["effects"]]
    others = textwrap.fill(f"open, no seed has run: {'; '.join(still)}", 140) if still else ""
    heights = [0.95 + 0.15 * max(2, len(row["claim"].arms)) for row in run]
    heights += [0.15 + 0.2 * len(others.splitlines())] * bool(still)
    fig = plots.canvas(10, sum(heights))
    axes = fig.subplots(len(heights), 3, squeeze=False, width_ratios=(4, 2.2, 2.4), height_ratios=heights)
    for (left, middle, right), row in zip(axes, run, strict=False):
        words(left, row)
        arms(middle, row)
        effect(right, row)
    for ax in axes[len(run) :].flat:
        ax.set_axis_off()
    if still:
        axes[-1, 0].text(0, 0, others, size=9, in_layout=False)
    return fig


@plots.figure
def forest(rows: list[dict]):
    """A line each row that a seed has run, in units of its minimum effect: interval, mean, and a dot a seed; then the
    others. Shaded is what the claim promises: 1 and more, or, of what does little harm, -1 and more."""
    run, still = [row for row in rows if row["effects"]], [name(row) for row in rows if not row["effects"]]
    fig = plots.canvas(10, 0.36 * len(run) + 0.9)
    ax, far = fig.subplots(), [1.5]
    for y, row in enumerate(run):
        colour, m = COLOUR.get(row["verdict"], GREY), row["claim"].least
        edge, x = -1 if row["claim"].harmless else 1, np.array(row["effects"]) / m
        ends = [row["low"] / m, row["high"] / m] if len(x) > 1 else []
        far += [*x, *ends]
        ax.barh(y, 1000, 0.8, edge, color=BAND, zorder=0)
        if ends:
            ax.plot(ends, [y, y], "-", lw=2.5, color=colour)
            ax.plot([row["mean"] / m], [y], "o", ms=6, color=colour)
        ax.plot(x, np.full(len(x), y), "o", ms=3, color=GREY, mfc="white", mew=0.7, zorder=3)
        ax.text(1.01, y, f"{row['verdict']}  {points(row)}", va="center", size=8, color=colour, weight="bold",
                transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(run)), [textwrap.fill(f"{name(row)}: {row['claim'].says}", 62) for row in run], size=8)
    ax.set(xlim=(min(far + [-1.5]) - 0.5, max(far) + 0.5), ylim=(max(1, len(run)) - 0.5, -0.5))
    if run:
        ax.axvline(0, color=plots.COLOUR[None], lw=0.8)
    else:
        ax.set_xticks([])
    unit = ["effect, in units of the minimum effect m"] * bool(run)
    others = [textwrap.fill(f"open, no seed has run: {'; '.join(still)}", 120)] * bool(still)
    ax.set_xlabel("\n".join(unit + others), size=8)
    ax.tick_params(axis="x", labelsize=8)
    return fig


def of_paper(rows: list[dict], paper: str, on: str = "digits") -> list[dict]:
    """The rows on a data set of SemPPL's, IFND's or CARP's claims."""
    numbers = {"SemPPL": range(1, 11), "IFND": range(11, 16), "CARP": range(16, 21)}[paper]
    return [row for row in rows if int(row["claim"].number.rstrip("abc")) in numbers and row["on"] == on]
