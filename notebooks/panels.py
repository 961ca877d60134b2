"""Figures that one or two notebooks draw, beside those of semppl_mini.show.plots and in their look."""

import numpy as np

from semppl_mini.show.plots import CENTRED, COLOUR, LINES, canvas, evidence, figure, grid, percent, show, tiles


@figure
def dot_panels(panels: dict[str, dict[str, list]], alike: bool = False):
    """A panel a measure, {name: shares, one a seed} each: every seed a dot, the mean of several a line, its number.

    alike: all panels have one range, for one measure under several conditions."""
    names = list(dict.fromkeys(name for results in panels.values() for name in results))
    fig, axes = grid(len(panels), 4, 2.8, 0.27 * len(names) + 1, sharey=True, sharex=alike)
    fig.get_layout_engine().set(wspace=0.05)
    for ax, (title, results) in zip(axes, panels.items(), strict=True):
        shown = {names.index(name): [x for x in shares if x is not None] for name, shares in results.items()}
        means = {y: np.mean(shares) for y, shares in shown.items() if len(shares) > 1}
        ax.vlines(list(means.values()), [y - 0.3 for y in means], [y + 0.3 for y in means], LINES[0], lw=2)
        points = np.array([(x, y) for y, shares in shown.items() for x in shares]).reshape(-1, 2)
        ax.plot(*points.T, "o", ms=4, color=LINES[0], mfc="white", clip_on=False)
        for y, shares in shown.items():
            if shares:
                look = dict(xytext=(7, 0), textcoords="offset points", va="center", size=9)
                ax.annotate(f"{100 * np.mean(shares):.1f}", (max(shares), y), **look)
        ax.set(xlabel=title, xmargin=0.2, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        ax.locator_params(axis="x", nbins=4)
        ax.grid(axis="x")
        percent(ax.xaxis)
    return fig


@figure
def confusion(truth, y_bar, classes: list[str]):
    """Pseudo-labels y_bar (n,) against true classes (n,), percent of each class; -1 (no vote, unknown) is left out."""
    truth, y_bar = (both := np.stack([truth, y_bar]))[:, both.min(0) >= 0]
    C, right = len(classes), (truth == y_bar).sum() / max(len(truth), 1)
    count = np.bincount(truth * C + y_bar, minlength=C * C).reshape(C, C)
    share = 100 * count / count.sum(1, keepdims=True).clip(1)
    fig, (ax,) = grid(1, 1, 0.46 * C + 1.2, 0.4 * C + 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto", zorder=1)
    for (row, column), value in np.ndenumerate(share):
        ax.text(column, row, f"{value:.0f}".lstrip("0"), color="white" if value > 55 else None, **CENTRED)
    ax.set_xticks(range(C), classes, rotation=90 if max(map(len, classes)) > 3 else 0)
    ax.set(xlabel="pseudo-label", ylabel="true class", yticks=range(C), yticklabels=classes)
    ax.set_title(f"{right:.1%} of {len(truth):,} right; cells: percent of the true class")
    return fig


@figure
def gallery(data, report: dict, rows: int, images):
    """A row each: images voted right, then wrong, high agreement first; 3 nearest queue images; semantic positives."""
    width, names = 4 + report["positive_ids"].shape[1], [*data.classes, "none"]
    fig, known = canvas(0.93 * width, 2.1 * rows + 1), images.truth >= 0
    for part, good in zip(fig.subfigures(2, 1), (True, False), strict=True):
        found = (known & ((report["y_bar"] == images.truth) == good)).nonzero()[:, 0]
        found = found[report["agreement"][found].argsort(descending=True, stable=True)]
        chosen = found[np.linspace(0, len(found) - 1, min(rows, len(found))).astype(int)].tolist()
        part.suptitle(f"{'right' if good else 'wrong'}: {len(found):,} of {known.sum():,}", color=COLOUR[good])
        spots = tiles(part, rows, width)
        for axes, i in zip(spots, chosen, strict=False):
            show(axes[0], images.images[i], f"{names[report['y_bar'][i]]}?")
            evidence(axes[1:], report, i, data, int(images.truth[i]), 3)
            axes[0].set_ylabel(f"is {names[images.truth[i]]}\n{report['agreement'][i]:.0%} of votes", size=8)
        for ax, text in zip(spots[-1, [0, 2, 5]], ("image", "nearest in the queue", "semantic positives"), strict=True):
            ax.set_xlabel(text)
    return fig
