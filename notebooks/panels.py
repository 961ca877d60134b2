"""Figures that one or two notebooks draw, beside those of semppl_mini.show.plots and in their look."""

import numpy as np

from semppl_mini.show.plots import CENTRED, COLOUR, LINES, canvas, figure, grid, percent, show, tiles


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


def evidence(axes, report: dict, i: int, data, truth: int, near: int) -> None:
    """The `near` images behind the votes on image i, nearest first, then its semantic positives."""
    order = report["cosine"][i].flatten().argsort(descending=True)
    ids = list(dict.fromkeys(report["neighbour_ids"][i].flatten()[order].tolist()))[:near]
    ids += [-1] * (near - len(ids)) + (report["positive_ids"][i].tolist() if report["valid"][i] else [])
    for ax, id_ in zip(axes, ids, strict=False):
        for n in (data.train.ids == id_).nonzero()[:, 0]:  # one, or none for -1: the place stays blank
            own = int(data.train.truth[n])
            show(ax, data.train.images[n], [*data.classes, "?"][own], own == truth if min(own, truth) >= 0 else None)


@figure
def vote_panel(images, report: dict, i: int, data):
    """How image i of an ImageSet got its pseudo-label: report = `semppl_mini.inspect(method, images)`.

    Left: the vote of each view in each queue. Right: image and views; nearest queue images, semantic positives."""
    names, truth, y_bar = [*data.classes, "none"], int(images.truth[i]), int(report["y_bar"][i])
    L, R = round(report["votes"].shape[1] ** 0.5), report["positive_ids"].shape[1]
    votes, cmap = report["votes"][i].view(L, L).numpy(), "RdBu" if truth >= 0 else "Greys"
    left, right = canvas(9, 2.5).subfigures(1, 2, width_ratios=(1, 2.9))
    ax, (top, bottom) = left.subplots(), tiles(right, 2, 5 + R)
    ax.imshow(votes == truth, cmap=cmap, vmin=-3, vmax=4, extent=(0.5, L + 0.5, L + 0.5, 0.5), zorder=1)
    for (j, a), label in np.ndenumerate(votes):
        ax.text(a + 1, j + 1, names[label][:5], color=COLOUR[bool(label == truth) if truth >= 0 else None], **CENTRED)
    ax.set(xlabel="queue", ylabel="view", xticks=range(1, L + 1), yticks=range(1, L + 1))
    title = f"true {[*data.classes, 'unknown'][truth]}, voted {names[y_bar]} ({(votes == y_bar).sum()} of {L * L})"
    left.suptitle(title, color=COLOUR[y_bar == truth if truth >= 0 else None], size=9, parse_math=False)
    for j, ax in enumerate(top[: 1 + len(report["views"])]):
        show(ax, report["views"][j - 1, i] if j else images.images[i], f"view {j}" if j else "image")
    evidence(bottom, report, i, data, truth, 5)
    for ax, text in zip(bottom[::5], ("nearest", "positives"), strict=False):
        ax.set_ylabel(text)
    return left.figure


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
            text = f"is {names[images.truth[i]]}\n{report['agreement'][i]:.0%} of votes"
            axes[0].set_ylabel(text, size=8, parse_math=False)
        for ax, text in zip(spots[-1, [0, 2, 5]], ("image", "nearest in the queue", "semantic positives"), strict=True):
            ax.set_xlabel(text)
    return fig


@figure
def image_rows(rows: list[tuple], columns: int):
    """A row each (name, images (n, 3, H, W), good (n,) bool, or None: no frame): up to `columns` of them, framed."""
    fig = canvas(0.62 * columns + 1.3, 0.66 * len(rows) + 0.35)
    for axes, (name, images, good) in zip(tiles(fig, len(rows), columns), rows, strict=True):
        for i, (ax, image) in enumerate(zip(axes, images, strict=False)):
            show(ax, image, good=None if good is None else bool(good[i]))
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", size=9, parse_math=False)
    return fig
