"""Widgets of notebook 01, for a running kernel: each function returns one, and shows a still figure to read."""

from IPython.display import display
from ipywidgets import FloatLogSlider, IntSlider, SelectionSlider, interactive
from panels import vote_panel
from torch import Tensor

from semppl_mini.show.plots import COLOUR, dots, figure, grid
from semppl_mini.votes import majority

SHOWN = {"auto_display": True}  # the figure that a slider's function returns


def vote_explorer(images, report: dict, data):
    """A slider over images, each a `vote_panel`. Still: the first image voted right and the first voted wrong."""
    right, known = report["y_bar"] == images.truth, images.truth >= 0
    for i in (*(right & known).nonzero()[:1, 0], *(~right & known).nonzero()[:1, 0]):
        display(vote_panel(images, report, int(i), data))
    slider = IntSlider(0, 0, len(images) - 1, continuous_update=False)
    return interactive(lambda image: vote_panel(images, report, image, data), SHOWN, image=slider)


def temperature_explorer(cosines: Tensor):
    """tau in softmax(cosines / tau): cosines (1 + N,), the positive first and blue. Still: three of them."""

    @figure
    def bars(*taus: float):
        fig, axes = grid(len(taus), len(taus), 3, 2.2, sharey=True)
        for ax, tau in zip(axes, taus, strict=True):
            p = (cosines / tau).softmax(0)
            ax.bar(range(len(p)), p, color=[COLOUR[True]] + ["#a0a0a0"] * (len(p) - 1))
            ax.set(title=rf"$\tau$ = {tau:.2g}: loss {abs(p[0].log()):.2f}", ylim=(0, 1), yticks=(0, 0.5, 1))
            ax.set_xticks(range(len(p)), [f"{cosine:.1f}" for cosine in cosines])
            ax.set_xlabel("cosine, the positive first")
        axes[0].set_ylabel("probability")
        return fig

    display(bars(0.05, 0.2, 1.0))
    return interactive(lambda tau: bars(tau), SHOWN, tau=FloatLogSlider(0.2, min=-2, max=1, step=0.05))


def knn_votes(cosine: Tensor, labels: Tensor, ks: list[int], num_classes: int) -> dict[int, Tensor]:
    """The k-NN vote for several k: cosine (n, Q), labels (Q,) -> {k: votes (n,)}."""
    value, index = cosine.topk(max(ks))
    return {k: majority(labels[index[:, :k]], value[:, :k], num_classes)[0] for k in ks}


def k_explorer(cosine: Tensor, labels: Tensor, truth: Tensor, classes: list[str], ks=(1, 3, 10, 30, 100)):
    """k and the vote: cosine (n, Q), labels (Q,), truth (n,). Still: the middle k, where the smallest gets it wrong."""
    cosine, truth = cosine[truth >= 0], truth[truth >= 0]  # of known class
    votes, middle = knn_votes(cosine, labels, list(ks), len(classes)), ks[len(ks) // 2]
    accuracy = {k: float((vote == truth).float().mean()) for k, vote in votes.items()}

    @figure
    def panels(k: int, query: int):  # left: accuracy against k; right: entries nearest to the query, voters in full
        fig, (left, right) = grid(2, 2, 4.5, 2.6, width_ratios=(1, 1.6))
        dots(left, list(map(str, accuracy)), list(accuracy.values()), mfc="white")
        left.plot(list(accuracy).index(k), accuracy[k], "o", color=COLOUR[True], zorder=3)
        left.set(xlabel="k", ylabel="accuracy of the vote", title=f"{accuracy[k]:.1%} with k = {k}", ylim=(0, 1.02))
        value, index = cosine[query].topk(min(30, len(labels)))
        own, vote = int(truth[query]), int(votes[k][query])
        for place, (x, label) in enumerate(zip(value.tolist(), labels[index].tolist(), strict=True)):
            right.bar(place, x, color=COLOUR[label == own], alpha=1 if place < k else 0.25)
            turn = 90 * (len(classes[label]) > 2)
            right.text(place, x, f" {classes[label]}", ha="center", va="bottom", fontsize=8, rotation=turn)
        voters = f"of {k} that vote" if k > len(value) else "voters in full colour"
        right.set(xlabel=f"the {len(value)} nearest entries, {voters}", ylabel="cosine", xticks=[])
        right.margins(y=0.02 + 0.06 * max(map(len, classes)))
        right.grid(False)
        right.set_title(f"query {query}, true class {classes[own]}: vote {classes[vote]}", color=COLOUR[vote == own])
        return fig

    display(panels(middle, int(((votes[ks[0]] != truth) & (votes[middle] == truth)).long().argmax())))
    query = IntSlider(0, 0, len(truth) - 1, continuous_update=False)
    return interactive(panels, SHOWN, k=SelectionSlider(options=ks), query=query)
