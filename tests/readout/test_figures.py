"""What figures tell by more than a colour, and do not tell of a single seed."""

import io

import matplotlib
import numpy as np
import panels
import pytest
import torch

from semppl_mini import plots

NAMES = ["cat", "dog", "automobile"]


def texts(fig):
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.fixture
def gathered():
    """Three classes of 40 points, (xy, labels): each a cloud of its own."""
    noise = np.random.default_rng(0).normal(size=(120, 2))
    y = np.arange(120) % 3
    return 10 * np.array([[0, 0], [3, 0], [0, 3]])[y] + noise, y


def test_a_class_that_is_gathered_has_its_name_in_its_midst(gathered):
    xy, y = gathered
    fig = plots.umap_panels([("a", xy, y, None)], NAMES)
    named = {text.get_text(): text.get_position() for text in fig.axes[0].texts}
    assert sorted(named) == sorted(NAMES) and not fig.legends
    for c, name in enumerate(NAMES):
        assert np.linalg.norm(np.array(named[name]) - xy[y == c].mean(0)) < 1.5


def test_classes_that_are_scattered_have_a_legend(gathered):
    xy, y = gathered
    fig = plots.umap_panels([("a", xy, np.random.default_rng(1).permutation(y), None)], NAMES)
    assert not fig.axes[0].texts and [text.get_text() for text in fig.legends[0].get_texts()] == NAMES


def test_a_row_may_have_any_name():
    """Of a folder: dollar signs are no formula, and one that is none does not raise when the picture is drawn."""
    images = torch.zeros(2, 3, 8, 8)
    fig = panels.image_rows([("$^$", images, None), ("US$ and CA$", images, None)], 2)
    fig.savefig(io.BytesIO())
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()] == ["$^$", "US$ and CA$"]


def test_names_do_not_lie_on_each_other():
    """Two classes in one place: the second name goes where the first is not."""
    rng = np.random.default_rng(0)
    xy, y = np.concatenate([rng.normal(size=(80, 2)), rng.normal(size=(80, 2)) + 12]), np.arange(160) % 2
    y[80:] = 2
    places = [text.get_position() for text in plots.umap_panels([("a", xy, y, None)], NAMES).axes[0].texts]
    apart = [np.abs(np.subtract(a, b)) / np.ptp(xy, 0) for i, a in enumerate(places) for b in places[:i]]
    assert len(places) == 3 and all((d > (0.09, 0.055)).any() for d in apart)


def test_what_is_wrong_is_another_mark(gathered):
    xy, y = gathered
    wrong = np.arange(120) < 30
    right, crosses = plots.umap_panels([("a", xy, None, wrong)], NAMES).axes[0].collections
    assert (len(right.get_offsets()), len(crosses.get_offsets())) == (90, 30)
    assert len(right.get_paths()[0]) != len(crosses.get_paths()[0])
    good, bad = panels.image_rows([("row", torch.zeros(2, 3, 4, 4), [True, False])], 2).axes
    assert good.spines["top"].get_linestyle() != bad.spines["top"].get_linestyle()


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_single_seed_has_no_mean(seeds):
    ax = panels.dot_panels({"k-NN": {"SemPPL": [0.5, 0.6, 0.7][:seeds]}}).axes[0]
    assert len(ax.collections[0].get_segments()) == (seeds > 1) and len(ax.lines[0].get_xdata()) == seeds
    assert ax.get_xlabel() == "k-NN"


def test_losses_share_a_range_and_shares_end_at_100_percent():
    history = [dict(epoch=e, L_c=7.0 - e, L_h=0.1 * e, purity=0.5) for e in range(3)]
    fig = plots.curves({"CARP": history}, ["L_c", "L_h", "purity"])
    one, other, purity = fig.axes
    assert one.get_ylim() == other.get_ylim() and purity.get_ylim() == (0, 1.02)
    assert all(ax.get_xlabel() == "epoch" and ax.get_ylabel() for ax in fig.axes)
