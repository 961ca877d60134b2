"""Every figure of the notebooks: a function of records, tensors and plain numbers that returns a Figure."""

import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

# For colour-blind readers too: classes in Petroff's colours (a dark blue for a grey), lines in Okabe and Ito's.
CLASSES = "#3f90da #ffa90e #bd1f01 #94a4a2 #832db6 #a96b59 #e76300 #b9ac70 #003f5c #92dadd".split()
LINES = "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #000000".split()
COLOUR = {True: LINES[0], False: LINES[1], None: "#333333"}  # right is blue, wrong vermilion; neither
FAINT, CENTRED = "#d9d9d9", {"ha": "center", "va": "center", "parse_math": False}  # classes may be named "$"
STYLE = {f"{part}color": COLOUR[None] for part in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")}
STYLE |= {f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")}
STYLE |= {"axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "grid.color": FAINT}
STYLE |= {"figure.dpi": 90, "figure.constrained_layout.use": True, "axes.titlelocation": "left"}
STYLE |= {"axes.prop_cycle": plt.cycler(color=LINES), "axes.titlesize": 10, "figure.titlesize": 10}
STYLE |= {"xtick.major.size": 0, "ytick.major.size": 0, "ytick.major.pad": 7, "legend.frameon": False}
SHARES = """pseudo_label_accuracy coverage vote_agreement purity false_negatives false_negatives_before acceptance
pair_precision pair_recall accuracy data_share prototype_usage prototypes_chosen""".split()

figure = plt.rc_context(STYLE)  # decorator: a function that draws on a `canvas`, in our look


def canvas(width: float, height: float) -> plt.Figure:
    """An empty Figure, in inches, that pyplot lets go of, so that a notebook shows it once."""
    fig = plt.figure(figsize=(width, height))
    plt.close(fig)
    return fig


def words(key: str) -> str:
    """A field of a record or a Config as readers know it."""
    if key[1:2] == "_":  # a term of a loss
        return rf"${key[0]}_{{\mathrm{{{key[2:]}}}}}$"
    return key.replace("_", " ").replace("pseudo l", "pseudo-l").replace("knn", "k-NN, k = ")


def percent(axis) -> None:
    axis.set_major_formatter(lambda share, _: f"{100 * share:g}%")


def std(shares: list) -> float:
    """Standard deviation over seeds; of one: 0."""
    return float(np.std(shares, ddof=len(shares) > 1))


def band(ax, shares: list) -> None:
    """A grey line at the mean of shares, in a band of one std to each side."""
    ax.axhspan(np.mean(shares) - std(shares), np.mean(shares) + std(shares), color=FAINT, zorder=0)
    ax.axhline(np.mean(shares), color=COLOUR[None], lw=0.8, zorder=0.5)


def dots(ax, names: list[str], shares: list, error=None, **look) -> None:
    """Shares, a dot above each name, with bars of length `error` to both sides (n,) or to each (2, n)."""
    ax.errorbar(range(len(names)), shares, error, fmt="o", **look)
    ax.set_xticks(range(len(names)), names)
    percent(ax.yaxis)


def grid(panels: int, columns: int, width: float, height: float, **layout):
    """A Figure and so many axes, in at most `columns` columns, each of width x height inches."""
    rows = -(-panels // columns)
    columns = -(-panels // rows)
    fig = canvas(max(width * columns, 3.6), height * rows)
    axes = fig.subplots(rows, columns, squeeze=False, **layout).flat
    plt.setp(axes[panels:], visible=False)
    return fig, axes[:panels]


@figure
def curves(histories: dict[str, list[dict]], keys: list[str], x: str = "epoch"):
    """A panel a field of the records, against epoch (a hollow dot: untrained) or field x; oracle runs are dashed.

    Losses L_... have one range of y, penalties I_... another."""
    fig, axes = grid(len(keys), 4, 2.6, 2.1) if len(keys) > 1 else grid(1, 1, 6.5, 2.8)
    kin = {key[0]: ax for key, ax in zip(keys, axes, strict=True) if key[1:2] == "_"}
    look = dict(lw=1.8, marker="o" if x == "epoch" else "", mfc="white", markevery=slice(0, 1), clip_on=False)
    for ax, key in zip(axes, keys, strict=True):
        if key[1:2] == "_" and kin[key[0]] is not ax:
            ax.sharey(kin[key[0]])
        for i, (name, history) in enumerate(histories.items()):
            points = [(record[x], record[key]) for record in history if record.get(key) is not None]
            dash = (0, (4, 2)) if "oracle" in name.lower() else "-"
            ax.plot(*np.array(points, float).T, ls=dash, label=name, color=LINES[i % len(LINES)], **look)  # or no line
        ax.set(ylabel=words(key), xlabel=words(x), xlim=(0, max([1, *(r[x] for h in histories.values() for r in h)])))
        ax.locator_params(axis="x", nbins=6 if len(keys) == 1 else 4, integer=True)
        if key in SHARES:
            ax.set_ylim(0, 1.02)
            percent(ax.yaxis)
    if len(keys) == 1:
        ends, (low, high), height = {line: line.get_ydata()[-1] for line in ax.lines}, ax.get_ylim(), -1.0
        for line in sorted(ends, key=ends.get):  # its name beside its end, from the lowest up, a line of text apart
            height = max((ends[line] - low) / (high - low), height + 0.09)
            text = line.get_label() + (f"  {ends[line]:.1%}" if key in SHARES else "")
            ax.text(1.02, height, text, color=line.get_color(), va="center", transform=ax.transAxes)
    elif len(histories) > 1:
        runs = {line.get_label(): line for ax in axes for line in ax.lines}
        fig.legend(runs.values(), runs, loc="outside upper left", ncols=4, markerscale=0)
    return fig


@figure
def pseudo_label_curves(histories: dict[str, list[dict]], level: tuple | None = None):
    """Pseudo-label accuracy against epoch. level: (name, shares, one a seed) to compare with, a grey line and band."""
    fig = curves(histories, ["pseudo_label_accuracy"])
    if level:
        name, shares = level
        band(fig.axes[0], shares)
        spread = f" ± {100 * std(shares):.1f}" if len(shares) > 1 else ""
        fig.axes[0].set_title(f"grey: {name}, {np.mean(shares):.1%}{spread}")
    return fig


def live():
    """A callback for `fit` that redraws accuracy and loss after every epoch; silent outside a notebook."""
    shown = []

    def redraw(run, record: dict) -> None:
        if "ipykernel" in sys.modules:
            from IPython.display import display

            fig = curves({"run": run.history}, ["pseudo_label_accuracy", "loss"])
            for ax in fig.axes:
                ax.set_xlim(0, run.config.epochs)  # so that it fills as the training goes on
            shown[0].update(fig) if shown else shown.append(display(fig, display_id=True))

    return redraw


def umap_of(features, seed: int = 0) -> np.ndarray:
    """UMAP (McInnes et al., 2018; cosine) of features (n, dim) -> (n, 2). ImportError without umap-learn."""
    x = np.asarray(features)
    if x.ndim != 2 or len(x) < 4 or not x.size or not np.isfinite(x).all():
        raise ValueError(f"UMAP cannot map features of shape {x.shape}; give (n, dim) of 4 images or more, all finite.")
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError("UMAP figures need umap-learn: `pip install umap-learn` adds it.") from error
    return UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(x)


def _name(ax, xy, y, classes: list[str]) -> list[int]:
    """Write each class's name where it is densest, if it is gathered anywhere and no other name is there -> classes."""
    places, extent = {}, np.ptp(xy, 0)
    for c in np.unique(y[y >= 0]):
        own = xy[y == c] / extent
        if own.std(0).mean() < 0.75 * (xy / extent).std(0).mean():
            apart = np.sort(np.linalg.norm(own[:, None] - own, axis=-1), 1)[:, : 1 + len(own) // 4].mean(1)
            for x in own[apart.argsort()]:
                size = {b: (0.014 * (len(classes[b]) + len(classes[c]) + 1), 0.055) for b in places}
                if all((np.abs(x - places[b]) > size[b]).any() for b in places):
                    places[c] = x
                    break
    for c, x in places.items():
        edge = [withStroke(linewidth=3, foreground="white")]
        ax.text(*(x * extent), classes[c], size=9, weight="bold", zorder=4, path_effects=edge, **CENTRED)
    return list(places)


@figure
def umap_panels(panels: list[tuple], classes: list[str]):
    """A panel each (title, xy (n, 2), labels (n,) or None: grey, wrong (n,) or None: crosses, vermilion on grey)."""
    fig, axes = grid(len(panels), 3, 3.2, 3.3)
    unnamed = set() if all(labels is None for _, _, labels, _ in panels) else set(range(len(classes)))
    for ax, (title, xy, labels, wrong) in zip(axes, panels, strict=True):
        xy, y = np.asarray(xy), np.asarray(-np.ones(len(xy)) if labels is None else labels, int)
        wrong = np.zeros(len(xy), bool) if wrong is None else np.asarray(wrong)
        shown = ~wrong if labels is None else slice(None)
        ax.scatter(*xy[shown].T, s=7, c=np.where(y < 0, "#bbbbbb", np.array(CLASSES)[y % len(CLASSES)])[shown], lw=0)
        ax.scatter(*xy[wrong].T, s=14, c=COLOUR[False] if labels is None else "black", marker="x", lw=0.7)
        unnamed -= set(_name(ax, xy, y, classes))
        ax.set(title=title, xticks=[], yticks=[])
    if unnamed and len(classes) <= len(CLASSES):
        handles = [plt.Line2D([], [], ls="", marker="o", color=colour) for colour in CLASSES[: len(classes)]]
        fig.legend(handles, classes, loc="outside right center", handletextpad=0)
    return fig


@figure
def agreement(votes_agreement, correct):
    """Accuracy with 95% Wilson intervals, and count, of images by vote agreement (n,); correct (n,) bool."""
    level, correct = np.asarray(votes_agreement), np.asarray(correct, float)
    bins = np.where(level > 0.999, 4, np.ceil(4 * level - 1e-3) - 1)  # quarters, and unanimous votes by themselves
    x, n = np.unique(bins.astype(int), return_counts=True)
    y = np.array([correct[bins == b].mean() for b in x])
    centre, half = (y + 1.92 / n) / (1 + 3.84 / n), 1.96 * np.sqrt(y * (1 - y) / n + 0.96 / n**2) / (1 + 3.84 / n)
    fig, (ax,) = grid(1, 1, 6.5, 3)
    names = [f"{('0-25', '26-50', '51-75', '76-99', '100')[b]}\nn = {m:,}" for b, m in zip(x, n, strict=True)]
    dots(ax, names, y, (y - centre + half, centre + half - y))
    ax.axhline(correct.mean(), color=COLOUR[None], lw=0.8, ls=":")
    ax.set(ylabel="right pseudo-labels", ylim=(-0.04, 1.04), title=f"dotted: all images, {correct.mean():.1%}")
    ax.set_xlabel("votes for the pseudo-label (%), and number of images")
    return fig


def tiles(fig, rows: int, columns: int, **layout):
    return fig.subplots(rows, columns, squeeze=False, subplot_kw={"xticks": [], "yticks": []}, **layout)


def show(ax, image, title: str = "", good: bool | None = None) -> None:
    """An image (3 or 1, H, W), uint8 or in [0, 1]; its frame (blue, or dashed) and title say whether it is `good`."""
    x = np.asarray(image.expand(3, -1, -1).permute(1, 2, 0))
    ax.imshow(x if x.dtype == np.uint8 else x.clip(0, 1), interpolation="nearest")
    look = dict(linewidth=2.5, linestyle=(0, (1.5, 1)) if good is False else "-", capstyle="butt")
    ax.spines[:].set(visible=good is not None, color=COLOUR[good], **look)
    ax.set_title(title, color=COLOUR[good], loc="center", fontsize=9, pad=4, parse_math=False)


@figure
def view_grid(images, views, mean=(0, 0, 0), std=(1, 1, 1), titles=None):
    """A row an image of (n, 3, H, W): the original, then its normalised views, each (n, 3, S, S)."""
    mean, std = (views[0].new_tensor(c).view(3, 1, 1) for c in (mean, std))
    shown = [images, *(view * std + mean for view in views)]
    widths = [1.0, *(max(view.shape[-1] / views[0].shape[-1], 0.6) for view in views)]  # large first
    titles = titles or ["original", *(f"view {v + 1}" for v in range(len(views)))]
    fig = canvas(1.25 * sum(widths), 1.25 * len(images) + 0.2)
    for (m, v), ax in np.ndenumerate(tiles(fig, len(images), len(shown), width_ratios=widths)):
        show(ax, shown[v][m], "" if m else titles[v])
    return fig
