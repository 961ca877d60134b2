"""Read-outs of frozen features, against scikit-learn, and who may look at which label."""

import copy
import dataclasses

import core_checks
import numpy as np
import pytest
import torch
from core_checks import random, tiny, tiny_data, units, with_train
from sklearn import model_selection
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.testing import assert_close

from semppl_mini import SemPPL, fit, load_data
from semppl_mini.method import encode
from semppl_mini.readout import (
    classifier_accuracy,
    evaluate,
    evaluation,
    fine_tune,
    inspect,
    knn_accuracy,
    linear_probe,
    raw_pixel_accuracy,
    supervised,
    untrained_encoder,
)
from semppl_mini.readout.evaluation import fit_probe


def blobs(n, seed, spread=1.0, dim=6):
    """Features of three classes around three random centres, and their labels."""
    labels = (random(n, seed=seed) * 3).long()
    return units(3, dim, seed=99)[labels] + spread * units(n, dim, seed=seed + 1), labels


# ---- k-NN


@pytest.mark.parametrize("k", [1, 7, 60])
def test_knn_equals_scikit_learn(k, device):
    bank, queries = blobs(60, 0), blobs(700, 10)  # more queries than one chunk
    wanted = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    wanted = wanted.fit(*bank).score(*queries)
    ours = knn_accuracy(*(x.to(device) for x in (*bank, *queries)), k=k)
    assert ours == pytest.approx(wanted, abs=1e-9) and 0.5 < wanted < 1


def test_knn_weights_by_similarity():
    """Two distant neighbours outvote a near one at a high temperature only."""
    bank = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    given = bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert knn_accuracy(*given, k=3) == 1
    assert knn_accuracy(*given, k=3, temperature=10) == 0


@pytest.mark.parametrize("k", [0, 61])
def test_impossible_k(k):
    with pytest.raises(ValueError, match=f"k = {k} .*bank of 60"):
        knn_accuracy(*blobs(60, 0), *blobs(5, 1), k=k)


# ---- linear probe


def test_linear_probe_separates_what_is_separable():
    shift = torch.tensor([1e3, 0, -5, 0, 0, 7]) + 0  # features of any scale and offset
    (x, y), (q, c) = blobs(90, 0, spread=0.05), blobs(200, 10, spread=0.05)
    assert linear_probe(100 * x + shift, y, 100 * q + shift, c) == 1
    assert linear_probe(x, y, q, (c + 1) % 3) == 0


@pytest.mark.parametrize("images, most", [(60, 5000), (400, 100)])
def test_linear_probe_is_logistic_regression_chosen_within_the_labelled_images(images, most):
    """Five folds of equal classes, by hand; of more than `most` images the folds see every so many-th."""
    (x, y), test = blobs(images, 0, 2.5), blobs(300, 20, 2.5)
    make = lambda C: make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=200))  # noqa: E731
    some, grid, right = slice(None, None, -(-images // most)), (1e-4, 0.1, 10.0), []
    for C in grid:
        folds = StratifiedKFold(5, shuffle=True, random_state=0).split(x[some], y[some])
        scores = [make(C).fit(x[some][a], y[some][a]).score(x[some][b], y[some][b]) for a, b in folds]
        right.append(np.mean(scores))
    scores = [make(C).fit(x, y).score(*test) for C in grid]
    assert len(set(right)) == len(set(scores)) == 3  # the choice matters
    assert fit_probe(x, y, grid[::-1], most).score(*test) == pytest.approx(scores[int(np.argmax(right))])
    assert linear_probe(x, y, *test, grid=grid) == fit_probe(x, y, grid).score(*test)


@pytest.mark.parametrize("a_class, folds", [(1, 0), (2, 2), (4, 4), (9, 5)])
def test_linear_probe_of_few_images_a_class_has_as_many_folds(a_class, folds, monkeypatch):
    seen = []
    whole = model_selection.StratifiedKFold
    monkeypatch.setattr(model_selection, "StratifiedKFold", lambda n, **more: seen.append(n) or whole(n, **more))
    x, y = units(3 * a_class, 5), torch.arange(3 * a_class) % 3
    probe = fit_probe(x, y)
    assert seen == [folds] * bool(folds) and probe[1].C in evaluation.GRID
    assert folds or probe[1].C == 0.1


# ---- baselines


@pytest.mark.parametrize("split, k", [("val", 1), ("test", 1), ("test", 3)])
def test_raw_pixels_equal_scikit_learn(split, k):
    data = tiny_data()
    bank, asked = data.train.labelled(), getattr(data, split)
    nearest = KNeighborsClassifier(k).fit(bank.images.flatten(1).double(), bank.labels)
    wanted = nearest.score(asked.images.flatten(1).double(), asked.truth)
    assert raw_pixel_accuracy(data, split, k) == pytest.approx(wanted)


def tuned(data, steps=3, config=None):
    config = config or tiny()
    return fine_tune(untrained_encoder(config, data), config, data, steps)


def test_fine_tuning_sees_labelled_images_only():
    """Other pixels and other hidden labels wherever there is no label: every weight stays the same."""
    data = tiny_data()
    hidden = data.train.labels < 0
    images, truth = data.train.images.clone(), data.train.truth.clone()
    images[hidden], truth[hidden] = 255 - images[hidden], 9 - truth[hidden]
    one, other = tuned(data).state_dict(), tuned(with_train(data, images=images, truth=truth)).state_dict()
    assert not core_checks.differing(one, other)
    labels = torch.where(hidden, -1, 9 - data.train.labels)
    assert core_checks.differing(one, tuned(with_train(data, labels=labels)).state_dict())


def test_fine_tuning_moves_a_copy_of_all_weights(device):
    config = tiny(device=str(device))
    encoder = untrained_encoder(config, tiny_data())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = fine_tune(encoder, config, tiny_data(), 3)
    assert not core_checks.differing(before, encoder.state_dict())
    assert not any(torch.equal(p, before[name]) for name, p in model[0].named_parameters())
    assert not model.training and model[1].out_features == 10


def test_fine_tuning_is_fits_own_and_fixed_in_advance(monkeypatch):
    """No blur, solarize or mask of the pre-training reaches it, no oracle; whole epochs."""
    seen = []
    note = lambda config, *rest, **more: seen.append(config) or fit(config, *rest, **more)  # noqa: E731
    monkeypatch.setattr(evaluation, "fit", note)
    config = tiny(mask_p=0.5, blur_p=(1.0,), solarize_p=(0.5,), oracle=True, labelled_share=0.5, microbatches=2)
    fine_tune(untrained_encoder(config, tiny_data()), config, tiny_data(), 7)
    supervised(config, tiny_data(), 7)
    assert seen[0] == seen[1]  # fine-tuned and from scratch alike
    c = seen[0]
    assert (c.method, c.optimizer, c.batch_size, c.epochs, c.large_views, c.small_views) == \
        ("finetune", "sgd", 20, 7, 1, 0)  # 20 images are labelled
    assert not c.oracle and c.labelled_share is None and c.mask_p == 0 and c.warmup_epochs == 0
    assert (c.blur_p, c.solarize_p, c.jitter_p, c.flip_p) == ((0.0,), (0.0,), config.jitter_p, config.flip_p)
    assert c.lr * 20 / 256 == pytest.approx(0.1)


def test_fine_tuning_learns_its_labels():
    data = tiny_data()
    config = tiny(jitter_p=0.0, grey_p=0.0, large_scale=(0.9, 1.0), width=8, flip_p=0.0, large_size=32)
    model = tuned(data, 40, config)
    assert classifier_accuracy(model, data.train.labelled(), config) > 0.5  # of ten classes


def test_supervised_only_starts_from_the_untrained_encoder():
    config = tiny()
    still = dict(supervised(config, tiny_data(), 1, lr=0.0)[0].named_parameters())  # a step that moves nothing
    assert not core_checks.differing(still, dict(untrained_encoder(config, tiny_data()).named_parameters()))
    assert not core_checks.differing(
        SemPPL(config, 10).encoder.state_dict(), untrained_encoder(config, tiny_data()).state_dict()
    )


def test_classifier_accuracy_counts_right_answers(device):
    data = tiny_data()
    model = tuned(data, 2, tiny(device=str(device)))
    logits = encode(model, data.test.images, tiny())
    wanted = sum(int(row.argmax()) == c for row, c in zip(logits, data.test.truth.tolist(), strict=True)) / 30
    assert classifier_accuracy(model, data.test, tiny()) == pytest.approx(wanted)


# ---- all read-outs


def test_evaluate_reports_every_read_out_and_its_bank():
    config, data = tiny(), tiny_data()
    encoder = untrained_encoder(config, data)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    few = evaluate(encoder, config, data)
    assert set(few) == {"split", "bank", "knn20", "linear", "few_label"}  # no 200 neighbours among 20
    assert few["bank"] == 20 and few["split"] == "test" and few["few_label"] == few["linear"]
    bank = data.train.labelled()
    x, q = (encode(encoder, s.images, config) for s in (bank, data.test))
    assert few["knn20"] == knn_accuracy(x, bank.labels, q, data.test.truth, 20)
    both = evaluate(encoder, config, data, "val", tune_steps=1)
    assert set(both) == {*few, "fine_tuned"} and both["few_label"] == both["linear"]
    assert not core_checks.differing(before, encoder.state_dict())


def test_read_outs_need_and_see_no_validation_image():
    """Who has few labels has no validation set: without one every figure is the same."""
    config, data = tiny(), tiny_data()
    encoder, none = untrained_encoder(config, data), data.val.take(torch.arange(0))
    both = [evaluate(encoder, config, d, tune_steps=2, all_labels=True)
            for d in (data, dataclasses.replace(data, val=none))]  # fmt: skip
    assert both[0] == both[1] and {"fine_tuned", "linear_all"} < set(both[0])


def test_few_label_read_outs_do_not_depend_on_hidden_labels():
    config, data = tiny(), tiny_data()
    encoder = untrained_encoder(config, data)
    one, other = (evaluate(encoder, config, d, tune_steps=1) for d in (data, core_checks.hidden_permuted(data)))
    assert one == other


def test_encode_restores_the_mode_of_any_encoder(device):
    encoder = SemPPL(tiny(), 3).to(device).encoder
    images = tiny_data().test.images[:7]
    for mode in (True, False):
        features = encode(encoder.train(mode), images, tiny(), batch=3)
        assert encoder.training == mode
        assert_close(features, encode(encoder, images, tiny(), batch=7), rtol=1e-4, atol=1e-5)


# ---- a look inside


@pytest.mark.parametrize("large, voting", [(2, None), (3, 2)])
def test_inspect_shows_what_stands_behind_each_vote(large, voting):
    config, data = tiny(k=2, large_views=large, voting_views=voting), tiny_data()
    method = SemPPL(config, 10)
    bank = data.train.labelled()
    method.queue.enqueue(units(large, 20, 8), bank.labels, bank.ids)
    report = inspect(method, data.train.take(torch.arange(9)))
    assert report["views"].shape == (large, 9, 3, 16, 16) and 0 <= report["views"].min() <= report["views"].max() <= 1
    assert report["votes"].shape == (9, 4) and report["y_bar"].shape == (9,)
    assert report["neighbour_ids"].shape == report["cosine"].shape == (9, 4, 2)
    label_of = dict(zip(bank.ids.tolist(), bank.labels.tolist(), strict=True))
    for m in range(9):
        for v in range(4):
            found = report["neighbour_labels"][m, v].tolist()
            assert found == [label_of[i] for i in report["neighbour_ids"][m, v].tolist()]
            vote = core_checks.majority_loop(found, report["cosine"][m, v].tolist())[0]
            assert vote == report["votes"][m, v]
        agreeing = (report["votes"][m] == report["y_bar"][m]).float().mean()
        assert report["agreement"][m] == agreeing and report["y_bar"][m] in report["votes"][m]
        if report["valid"][m]:
            assert {label_of[i] for i in report["positive_ids"][m].tolist()} == {int(report["y_bar"][m])}
            assert int(data.train.ids[m]) not in report["positive_ids"][m].tolist()


def test_inspect_asks_a_set_for_whole_images_and_not_for_pixels_in_memory():
    config, some = tiny(), tiny_data().test.take(torch.arange(5))
    method = SemPPL(config, 10)
    files = type("Files", (), {"__len__": lambda self: 5, "ids": some.ids, "whole": staticmethod(some.whole)})()
    assert not core_checks.differing(inspect(method, some), inspect(method, files)) and method.training


def test_inspect_changes_nothing():
    method = SemPPL(tiny(), 10)
    state = copy.deepcopy(method.state_dict())
    inspect(method, tiny_data().test)
    assert not core_checks.differing(state, method.state_dict()) and method.training


def test_inspect_of_many_images_draws_for_each():
    views = inspect(SemPPL(tiny(), 10), tiny_data().test.take(torch.zeros(502).long()))["views"]
    assert not (views[:, :2] == views[:, 500:]).flatten(2).all(2).any()  # one image, 502 times


def test_tuning_of_many_labels_is_of_batches_of_128_and_whole_epochs():
    c = evaluation.tuning(tiny(), load_data("digits", 300), 7)  # two steps an epoch
    assert (c.batch_size, c.epochs, c.momentum, c.weight_decay) == (128, 4, 0.9, 5e-4)
