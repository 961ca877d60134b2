"""Images of unknown class (truth = -1) are left out of every count; a figure that nothing is left for is None."""

import dataclasses

import matplotlib.figure
import numpy as np
import panels
import pytest
import torch
from core_checks import differing, tiny, tiny_data, units, weights, with_train
from measures import measure, retrieval

from semppl_mini import SemPPL, fit, knn_accuracy, linear_probe, plots, raw_pixel_accuracy
from semppl_mini.method import encode
from semppl_mini.readout import (
    classifier_accuracy,
    evaluate,
    fine_tune,
    inspect,
    share_right,
    untrained_encoder,
)

NAMES = {
    "semppl": {"pseudo_label_accuracy", "purity", "false_negatives"},
    "ifnd": {"false_negatives_before", "false_negatives", "pair_precision", "pair_recall"},
}


def unknown(data, split, rows=slice(None)):
    """The data with the true classes of some rows of a split unknown, those of unlabelled images in training."""
    images = getattr(data, split)
    truth = images.truth.clone()
    truth[rows] = -1
    if split == "train":
        truth = torch.where(images.labels >= 0, images.labels, truth)
    return dataclasses.replace(data, **{split: dataclasses.replace(images, truth=truth)})


def run_of(method, data):
    more = dict(clusters=(4,), recluster=1, acceptance=(1.0, 1.0), keys="target") if method == "ifnd" else {}
    return fit(tiny(method=method, labelled_share=0.25, **more), data, progress=False)


@pytest.mark.parametrize("method", NAMES)
def test_a_run_without_a_known_hidden_class_learns_the_same_and_counts_none(method):
    """Who does not know the classes trains to the same bits; of all that asks for them nothing wrong is left."""
    known, labelled = run_of(method, tiny_data()), run_of(method, unknown(tiny_data(), "train"))
    nothing = run_of(method, with_train(tiny_data(), truth=torch.full((64,), -1)))
    assert not differing(weights(known), weights(labelled)) and not differing(weights(known), weights(nothing))
    assert all(nothing.history[-1][name] is None for name in NAMES[method])
    assert None not in known.history[-1].values() and known.history[-1]["loss"] == nothing.history[-1]["loss"]
    if method == "semppl":  # labelled images, whose positives are right, have a known class
        assert labelled.history[-1]["pseudo_label_accuracy"] is None and labelled.history[-1]["purity"] == 1


def test_read_outs_are_of_the_known_images():
    config, data = tiny(), tiny_data()
    few, encoder = unknown(data, "test", slice(11)), untrained_encoder(config, data)
    wanted = dataclasses.replace(data, test=data.test.take(torch.arange(11, 30)))
    assert evaluate(encoder, config, few, tune_steps=1) == evaluate(encoder, config, wanted, tune_steps=1)
    assert raw_pixel_accuracy(few) == raw_pixel_accuracy(wanted)
    ours, theirs = (measure(encoder, config, d, n=5) for d in (few, wanted))
    assert ours == theirs
    some = unknown(data, "train")
    bank = encode(encoder, data.train.labelled(), config), data.train.labelled().labels
    asked = encode(encoder, data.test, config), data.test.truth
    assert evaluate(encoder, config, some, all_labels=True)["knn20_all"] == knn_accuracy(*bank, *asked)


def test_read_outs_of_no_known_image_are_none():
    config, data = tiny(), unknown(tiny_data(), "test")
    encoder = untrained_encoder(config, data)
    result = evaluate(encoder, config, data, tune_steps=1, all_labels=True)
    names = {"knn20", "linear", "few_label", "fine_tuned", "knn20_all", "linear_all"}
    assert {name for name, share in result.items() if share is None} == names
    assert raw_pixel_accuracy(data) is None
    assert classifier_accuracy(fine_tune(encoder, config, data, 1), data.test, config) is None
    given = units(6, 4), torch.arange(6) % 2, units(3, 4, seed=1), torch.full((3,), -1)
    assert knn_accuracy(*given, k=1) is None and linear_probe(*given) is None
    with pytest.raises(ValueError, match="No test image has a known class; give another split"):
        measure(encoder, config, data)


def test_share_right_counts_known_ones():
    found, truth = torch.tensor([0, 1, -1, 2]), torch.tensor([0, 2, -1, -1])
    assert share_right(found, truth) == 0.5 and share_right(found, truth * 0 - 1) is None


@pytest.mark.parametrize("known", [(), (4,)])
def test_a_yardstick_of_one_known_class_is_none(known):
    config, data = tiny(), tiny_data()
    truth = torch.where(torch.isin(data.train.truth, torch.tensor(known)), data.train.truth, -1)
    encoder = untrained_encoder(config, data)
    result = evaluate(encoder, config, with_train(data, truth=truth), all_labels=True)
    assert result["linear_all"] is None and "knn20_all" not in result
    assert evaluate(encoder, config, data) == {name: x for name, x in result.items() if not name.endswith("_all")}


def test_retrieval_of_images_each_alone_in_its_class_is_none():
    assert retrieval(units(6, 4), torch.arange(6)) is None


# ---- figures


def texts(fig):
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text) if text.get_text()]


def test_figures_leave_unknown_classes_out():
    data = unknown(unknown(tiny_data(), "train"), "test", slice(10))
    method = SemPPL(tiny(), 10)
    bank = data.train.labelled()
    method.queue.enqueue(units(2, 20, 8), bank.labels, bank.ids)
    report = inspect(method, data.test)
    known = data.test.truth >= 0
    right = int((report["y_bar"] == data.test.truth)[known].sum())
    shown = texts(panels.gallery(data, report, 2, data.test))
    assert f"right: {right} of 20" in shown and f"wrong: {20 - right} of 20" in shown
    confused = panels.confusion(data.test.truth, report["y_bar"], data.classes)
    assert f"{right / 20:.1%} of 20 right" in texts(confused)[-1]
    panel = texts(panels.vote_panel(data.test, report, 0, data))
    assert any(text.startswith("true unknown, voted") for text in panel)
    colours = plots.umap_panels([("x", np.eye(3, 2), [-1, 0, 9], None)], data.classes).axes[0].collections[0]
    assert colours.get_facecolors()[0].tolist()[:3] == [0xBB / 255] * 3
    assert len(np.unique(colours.get_facecolors(), axis=0)) == 3


def test_figures_of_nothing_known_are_drawn():
    nothing = torch.full((4,), -1)
    assert "0.0% of 0 right" in texts(panels.confusion(nothing, torch.arange(4), ["a"] * 4))[-1]
    panels.dot_panels({"k-NN": {"SemPPL": [None, 0.5], "CARP": [None]}})
    plots.curves({"run": [{"epoch": 0, "purity": None}, {"epoch": 1, "purity": None}]}, ["purity"])
