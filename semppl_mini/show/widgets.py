"""Widgets of notebook 01: move something and see what it does. They need ipywidgets and a running kernel.

Each function also shows a still figure, so that a notebook teaches when only read, and returns the widget.
"""

import matplotlib.pyplot as plt
from IPython.display import display
from ipywidgets import FloatLogSlider, IntSlider, SelectionSlider, interactive
from torch import Tensor

from ..votes import majority
from .plots import COLOUR, figure, vote_panel


def _explore(draw, **sliders):
    """The widget: sliders over the figure draw(**values)."""
    return interactive(lambda **values: display(draw(**values)), **sliders)


def vote_explorer(images, report: dict, data):
    """A slider over images, each a `vote_panel`: report = `evaluate.inspect(method, images)`.

    Still: the first image voted right and the first voted wrong, if there are such.
    """
    right = report["y_bar"] == images.truth
    for some in (right, ~right):
        for i in some.nonzero()[:1, 0].tolist():
            display(vote_panel(images, report, i, data))
    slider = IntSlider(0, 0, len(images) - 1, continuous_update=False)
    return _explore(lambda image: vote_panel(images, report, image, data), image=slider)


@figure
def softmax_bars(cosines: Tensor, taus: list[float]):
    """softmax(cosines / tau), a panel a temperature: cosines (1 + N,), the positive first, drawn in blue."""
    fig, axes = plt.subplots(1, len(taus), figsize=(3 * len(taus), 2.2), sharey=True, squeeze=False)
    for ax, tau in zip(axes[0], taus, strict=True):
        p = (cosines / tau).softmax(0)
        ax.bar(range(len(p)), p, color=[COLOUR[True]] + ["#a0a0a0"] * (len(p) - 1))
        ax.set(title=rf"$\tau$ = {tau:.2g}: loss {abs(p[0].log()):.2f}", ylim=(0, 1), yticks=(0, 0.5, 1))
        ax.set_xticks(range(len(p)), [f"{cosine:.1f}" for cosine in cosines])
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    axes[0, 0].set(xlabel="cosine, the positive first", ylabel="probability")
    return fig


def temperature_explorer(cosines: Tensor):
    """tau in softmax(cosines / tau): cosines (1 + N,), the positive first. Still: three of them."""
    display(softmax_bars(cosines, [0.05, 0.2, 1.0]))
    slider = FloatLogSlider(0.2, min=-2, max=1, step=0.05)
    return _explore(lambda tau: softmax_bars(cosines, [tau]), tau=slider)


def knn_votes(cosine: Tensor, labels: Tensor, ks: list[int], num_classes: int) -> dict[int, Tensor]:
    """The k-NN vote for several k: cosine (n, Q), labels (Q,) -> {k: votes (n,)}."""
    value, index = cosine.topk(max(ks))
    return {k: majority(labels[index[:, :k]], value[:, :k], num_classes)[0] for k in ks}


@figure
def k_panel(cosine: Tensor, labels: Tensor, truth: Tensor, votes: dict, k: int, i: int, classes: list[str]):
    """Left: accuracy of the vote against k. Right: the entries nearest to query i, voters in full colour."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), width_ratios=(1, 1.6))
    accuracy = {k: float((vote == truth).float().mean()) for k, vote in votes.items()}
    left.semilogx(list(accuracy), list(accuracy.values()), marker="o", mfc="white", lw=1.8)
    left.plot(k, accuracy[k], "o", color=COLOUR[True])
    left.set(xlabel="k", title=f"accuracy of the vote, {accuracy[k]:.1%} with k = {k}", ylim=(0, 1.02))
    left.set_xticks(list(accuracy), list(map(str, accuracy)))
    left.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    left.minorticks_off()
    left.grid(axis="y")
    value, index = cosine[i].topk(min(30, len(labels)))
    colours = [COLOUR[label == truth[i].item()] for label in labels[index].tolist()]
    for place, (x, colour) in enumerate(zip(value.tolist(), colours, strict=True)):
        right.bar(place, x, color=colour, alpha=1 if place < k else 0.25)
        name = classes[labels[index[place]]]
        right.text(place, x, f" {name}", ha="center", va="bottom", fontsize=8, rotation=90 * (len(name) > 2))
    right.set(xlabel="nearest entries", ylabel="cosine", xticks=[])
    right.margins(y=0.02 + 0.06 * max(map(len, classes)))
    title = f"query {i}, true class {classes[truth[i]]}: vote {classes[votes[k][i]]}"
    right.set_title(title, color=COLOUR[bool(votes[k][i] == truth[i])])
    return fig


def k_explorer(cosine: Tensor, labels: Tensor, truth: Tensor, classes: list[str], ks=(1, 3, 10, 30, 100)):
    """k and the vote: cosine (n, Q) of n queries with true classes (n,); labels (Q,).

    Still: the middle k, on the first query that it gets right and the smallest k wrong, if there is one.
    """
    votes = knn_votes(cosine, labels, list(ks), len(classes))

    def draw(k: int, query: int):
        return k_panel(cosine, labels, truth, votes, k, query, classes)

    k = ks[len(ks) // 2]
    display(draw(k, int(((votes[ks[0]] != truth) & (votes[k] == truth)).long().argmax())))
    query = IntSlider(0, 0, len(truth) - 1, continuous_update=False)
    return _explore(draw, k=SelectionSlider(options=ks), query=query)
