"""fit(): what a run records and keeps, exact repetition, the order of samples."""

import itertools
import json
import time

import core_checks
import pytest
import torch
from core_checks import differing, tiny, tiny_data, weights, with_train
from torch.testing import assert_close

from semppl_mini import SemPPL, batches, fit, keeping, load_run, losses, optim, rng, semppl
from semppl_mini.files import checkpoint
from semppl_mini.networks import BLOCKS, ResNet

TIMES = {"images_per_second", "data_share", "seconds"}
FIELDS = {"epoch", "loss", "L_augm", "L_sempos", "I_augm", "I_sempos", "lr", "pseudo_label_accuracy",
          "coverage", "embedding_std", "vote_agreement", "purity", "false_negatives"} | TIMES  # fmt: skip


def run_of(config, folder=None, data=None, callbacks=()):
    return fit(config, data or tiny_data(), folder, callbacks, progress=False)


def untimed(history):
    """A history without what depends on the clock."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run in its folder, which no test changes."""
    return run_of(tiny(labelled_share=0.25), tmp_path_factory.mktemp("run"))


# ---- what a run records


def test_history_has_every_field_of_every_epoch(run):
    assert [record["epoch"] for record in run.history] == [0, 1, 2]
    assert all(set(record) == FIELDS for record in run.history)
    for record in run.history:
        for name in FIELDS - {"epoch", "lr", "loss"}:
            high = 100 if name.startswith(("L_", "I_")) else 1e6 if name in TIMES else 1
            assert 0 <= record[name] <= high, name
    assert run.history[-1]["coverage"] == 1


def test_the_log_has_a_json_line_a_step_and_a_line_an_epoch(run):
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    steps = [line for line in lines if "step" in line]
    assert epochs == run.history and [line["step"] for line in steps] == list(range(8))
    assert lines.index(epochs[1]) == 5  # the untrained network, four steps, their epoch
    for name in ("loss", "L_augm", "L_sempos", "I_augm", "I_sempos"):
        assert sum(line[name] for line in steps[4:]) / 4 == pytest.approx(epochs[2][name])
    assert [line["lr"] for line in steps] == [optim.lr_at(run.config, i / 4) for i in range(8)]


def test_epoch_zero_measures_the_untrained_network_and_trains_nothing(device, tmp_path):
    class Enough(Exception):
        pass

    def measured(run, record):
        assert record["epoch"] == 0 and record["coverage"] == 1  # its queues were full
        state = checkpoint.newest(run.folder)[1]
        assert not any(bool(momentum["momentum"].any()) for momentum in state["optimizer"]["state"].values())
        assert not differing(SemPPL(run.config, 10).state_dict(), state["method"])
        raise Enough

    with pytest.raises(Enough):
        run_of(tiny(device=str(device)), tmp_path, callbacks=[measured])


def test_augmentation_only_has_no_semantic_terms():
    record = run_of(tiny(semantic_positives=0, epochs=1)).history[-1]
    assert FIELDS - set(record) == {"L_sempos", "I_sempos", "purity"}


def test_a_run_without_any_label_finishes():
    """Augmentation-only: no vote, None where nothing was counted, never NaN, and JSON can say so."""
    data = with_train(tiny_data(), labels=torch.full((64,), -1))
    record = run_of(tiny(epochs=1, labels=None, semantic_positives=0), data=data).history[-1]
    assert record["coverage"] == 0 and record["pseudo_label_accuracy"] is None
    assert json.loads(json.dumps(record, allow_nan=False)) == record


@pytest.mark.parametrize("oracle", [False, True])
def test_oracle_runs_are_named_in_the_log(oracle, tmp_path):
    run_of(tiny(epochs=1, oracle=oracle), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(line.get("oracle", False) is oracle for line in lines if "epoch" in line)
    assert load_run(tmp_path).config.oracle is oracle


def test_fit_trains_on_every_device(device):
    losses = [record["loss"] for record in run_of(tiny(device=str(device), epochs=4)).history]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("precision", ["bf16", "fp64"])
def test_fit_runs_in_other_precisions(precision):
    reference = run_of(tiny(epochs=1)).history[-1]
    record = run_of(tiny(epochs=1, precision=precision)).history[-1]
    assert record["loss"] == pytest.approx(reference["loss"], rel=0.1 if precision == "bf16" else 1e-2)


# ---- callbacks and folders


def test_callbacks_see_every_epoch():
    seen = []
    result = run_of(tiny(epochs=1), callbacks=[lambda run, record: seen.append((run, record))])
    assert [record for _, record in seen] == result.history
    assert all(run.method is result.method for run, _ in seen)


def test_keep_encoders(tmp_path):
    run = run_of(tiny(epochs=4), tmp_path, callbacks=[keeping.keep_encoders(2)])
    kept = sorted(path.name for path in tmp_path.glob("encoder-*.pt"))
    assert kept == ["encoder-0000.pt", "encoder-0002.pt", "encoder-0004.pt"]
    assert not differing(checkpoint.load(tmp_path / kept[-1]), run.method.encoder.state_dict())
    assert differing(checkpoint.load(tmp_path / kept[0]), run.method.encoder.state_dict())


def test_load_run_gives_back_config_history_and_method(run):
    for path in (run.folder, checkpoint.path_of(run.folder, 8), str(run.folder)):
        loaded = load_run(path)
        assert loaded.config == run.config and loaded.history == run.history and loaded.folder == run.folder
        assert not differing(weights(loaded), weights(run))
    images = tiny_data().test.images
    assert_close(loaded.method.encode(images), run.method.encode(images))


def test_the_saved_encoder_is_a_plain_state_dict_with_clean_keys(run):
    state = torch.load(run.folder / "encoder.pt", weights_only=True)
    assert type(state) in (dict, type(run.method.encoder.state_dict()))
    assert {name.split(".")[0] for name in state} == {"stem", "stages"}
    encoder = ResNet(BLOCKS["narrow"], 8, 2)
    encoder.load_state_dict(state)
    x = core_checks.random(3, 3, 16, 16)
    assert_close(encoder.eval()(x), run.method.encoder.eval()(x))
    run.method.encoder.train()


def test_a_finished_folder_is_read_not_trained(run):
    before = (run.folder / "log.jsonl").read_text()
    again = run_of(run.config, run.folder, callbacks=[lambda *_: pytest.fail("an epoch was run again")])
    assert again.history == run.history and not differing(weights(again), weights(run))
    assert (run.folder / "log.jsonl").read_text() == before


# ---- repetition, to the bit


def test_two_equal_runs_are_equal_to_the_bit_and_another_seed_is_not(run):
    torch.manual_seed(99)  # the global generator does not matter
    assert not differing(weights(run_of(run.config)), weights(run))
    other = weights(run_of(run.config.replace(seed=1)))
    assert len(differing(other, weights(run))) > len(other) / 2


def test_gamma_one_freezes_the_target_for_a_whole_run():
    run = run_of(tiny(gamma=1.0))
    start = SemPPL(run.config, 10)
    for name, value in run.method.target.named_parameters():
        assert torch.equal(value, start.target.get_parameter(name))
    assert not torch.equal(run.method.encoder.stem[0].weight, start.encoder.stem[0].weight)


# ---- the augmentation-only baseline


def relabelled(data):
    """The data with the visible labels permuted among the labelled images."""
    labels, at = data.train.labels.clone(), (data.train.labels >= 0).nonzero().squeeze(1)
    labels[at] = labels[at].roll(len(at) // 2)
    assert (labels != data.train.labels).sum() > len(at) / 2
    return with_train(data, labels=labels)


@pytest.mark.parametrize("share", [None, 0.25])
def test_augmentation_only_weights_depend_on_no_label(share):
    """The same order of samples, other labels: every weight is equal to the bit; only the queues' labels differ."""
    config = tiny(semantic_positives=0, labelled_share=share)
    one, other = (weights(run_of(config, data=d)) for d in (tiny_data(), relabelled(tiny_data())))
    assert differing(one, other) == ["queue.all_labels"]
    semppl = config.replace(semantic_positives=3)
    one, other = (weights(run_of(semppl, data=d)) for d in (tiny_data(), relabelled(tiny_data())))
    assert any(name.startswith("online") for name in differing(one, other))


# ---- order of samples, randomness


def order_of(labels, epoch=0, **changes):
    return batches.epoch_order(tiny(**changes), labels, epoch)


LABELS = torch.tensor([3, -1, -1, 1, -1, -1, -1, 0, -1, -1] * 8)  # 24 labelled, 56 unlabelled


def test_without_a_share_an_epoch_is_one_shuffle():
    order = order_of(LABELS)
    assert order.shape == (5, 16) and sorted(order.flatten().tolist()) == list(range(80))
    assert order_of(LABELS[:70]).shape == (4, 16)  # what is left of a batch waits for another shuffle
    assert not torch.equal(order, order_of(LABELS, epoch=1))
    assert torch.equal(order, order_of(LABELS)) and not torch.equal(order, order_of(LABELS, seed=1))
    assert torch.equal(order, order_of(torch.full((80,), -1)))  # labels do not matter


@pytest.mark.parametrize("share, labelled", [(0.25, 4), (0.5, 8), (0.33, 5), (0.35, 6), (1.0, 16)])
def test_a_share_fixes_the_labelled_images_of_every_batch(share, labelled):
    for epoch in range(3):
        order = order_of(LABELS, epoch, labelled_share=share)
        assert order.shape == (5, 16)
        assert ((LABELS[order] >= 0).sum(1) == labelled).all()
        assert (LABELS[order[:, :labelled]] >= 0).all()


def test_each_kind_is_used_evenly_over_the_epochs():
    """Endless shuffles: no image of a kind comes an (n + 2)nd time before all of its kind came n times."""
    orders = torch.cat([order_of(LABELS, epoch, labelled_share=0.25) for epoch in range(7)])
    for part in (orders[:, :4], orders[:, 4:]):
        counts = torch.bincount(part.flatten(), minlength=80)
        kind = counts[(LABELS >= 0) == (LABELS[part[0, 0]] >= 0)]
        assert kind.max() - kind.min() <= 1 and kind.sum() == counts.sum()


def test_orders_with_a_share_repeat_and_differ():
    order = order_of(LABELS, 1, labelled_share=0.25)
    assert torch.equal(order, order_of(LABELS, 1, labelled_share=0.25))
    for other in (order_of(LABELS, 2, labelled_share=0.25), order_of(LABELS, 1, labelled_share=0.25, seed=1)):
        assert not torch.equal(order[:, :4], other[:, :4]) and not torch.equal(order[:, 4:], other[:, 4:])


def test_each_kind_and_seed_has_shuffles_of_its_own():
    labels = torch.tensor([0, -1] * 40)  # as many labelled as unlabelled
    orders = [order_of(labels, labelled_share=0.5, seed=seed) // 2 for seed in (0, 1)]
    parts = {tuple(order[:, half].flatten().tolist()) for order in orders for half in (slice(8), slice(8, 16))}
    assert len(parts) == 4


@pytest.mark.parametrize("labels, share, words", [
    (torch.full((80,), -1), 0.25, "labelled_share = 0.25 .*labelled images"),
    (torch.zeros(80).long(), 0.25, "labelled_share = 0.25 .*unlabelled images"),
    (torch.zeros(15).long(), None, "batch_size = 16 exceeds the 15 training images"),
])  # fmt: skip
def test_impossible_orders_stop_with_one_sentence(labels, share, words):
    with pytest.raises(ValueError, match=words):
        order_of(labels, labelled_share=share)


def test_draws_of_a_step_have_a_stream_each():
    drawn = semppl.draw_step(tiny(), 4)
    assert torch.equal(drawn.u, torch.rand(16, 3, generator=rng.generator(0, 4, rng.POSITIVES)))
    assert torch.equal(drawn.negatives, losses.draw_negatives(16, 4, rng.generator(0, 4, rng.NEGATIVES)))


def test_randomness_is_a_function_of_seed_step_and_purpose():
    def number(*given):
        return torch.rand(2, generator=rng.generator(*given)).tolist()

    assert number(3, 5, rng.VIEWS) == number(3, 5, rng.VIEWS)
    purposes = [rng.VIEWS, rng.NEGATIVES, rng.POSITIVES, rng.ORDER, rng.LABELS, rng.INIT, rng.EVALUATION]
    grid = list(itertools.product([0, 1, 2, 3, 2**31], [0, 1, 2, 3, 10_000_000], purposes))
    assert len({tuple(number(*given)) for given in grid}) == len(grid)  # sums, shifts, swaps would collide


def test_draws_of_a_step_repeat_and_differ():
    config = tiny()
    one, same, later = (semppl.draw_step(config, step) for step in (4, 4, 5))
    assert torch.equal(one.u, same.u) and torch.equal(one.negatives, same.negatives)
    assert not torch.equal(one.u, later.u) and not torch.equal(one.negatives, later.negatives)
    assert one.u.shape == (16, 3) and one.negatives.shape == (16, 4)
    assert (one.u >= 0).all() and (one.u < 1).all()


def test_runs_dir_obeys_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMPPL_RUNS", str(tmp_path))
    assert keeping.runs_dir() == tmp_path
    monkeypatch.delenv("SEMPPL_RUNS")
    assert keeping.runs_dir().name == "runs"


def test_labels_of_config_and_data_must_agree():
    with pytest.raises(ValueError, match="config.labels = 30 asks for 30 of 64 images, but 20 have a label; give"):
        run_of(tiny(labels=30))


def spied(monkeypatch, look):
    """Calls look(method) before every forward pass."""
    right = SemPPL.forward
    monkeypatch.setattr(SemPPL, "forward", lambda self, *given: look(self) or right(self, *given))


def test_speed_is_of_all_images_and_data_share_is_what_was_waited_for(monkeypatch):
    spied(monkeypatch, lambda method: time.sleep(0.3))
    record = run_of(tiny(epochs=1)).history[-1]
    assert record["images_per_second"] * record["seconds"] == pytest.approx(4 * 16) and record["seconds"] >= 4 * 0.3
    assert 0 < record["data_share"] < 0.5


def test_epoch_zero_is_eight_steps_with_every_labelled_image_in_the_queues(monkeypatch):
    seen = []
    spied(monkeypatch, lambda method: seen.append({*method.queue.ids.tolist()}))
    run_of(tiny(batch_size=4, negatives=3, epochs=1))
    assert len(seen) == 8 + 16 and {*tiny_data().train.labelled().ids.tolist()} <= seen[0]
