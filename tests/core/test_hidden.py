"""Hidden labels stay hidden: permuting them changes what the monitor reports and not one bit of what is learned."""

import core_checks
import pytest
import torch
from core_checks import differing, hidden_permuted, tiny, tiny_data, weights

from semppl_mini import SemPPL, fit
from semppl_mini.batches import Batches


@pytest.mark.parametrize("changes", [
    {},
    {"optimizer": "sgd", "lr": 0.5, "k": 3, "gamma_schedule": "cosine"},
    {"semantic_positives": 0},
    {"backbone": "airbench", "small_size": 9, "optimizer": "muon", "lr": 0.02},
], ids=["lars", "sgd", "augmentation-only", "airbench-muon"])  # fmt: skip
def test_hidden_labels_change_no_weight_and_no_buffer(changes):
    core_checks.check_hidden(**changes)


def test_hidden_labels_change_an_oracle_run():
    """The proof that the test above can fail: with oracle=True the same permutation does reach the weights."""
    config = tiny(oracle=True, labelled_share=0.25)
    runs = [fit(config, data, progress=False) for data in (tiny_data(), hidden_permuted(tiny_data()))]
    moved = differing(*map(weights, runs))
    assert any(name.startswith("online.encoder") for name in moved)


def test_hidden_labels_are_no_part_of_a_batch():
    """What the method is given of an unlabelled image is -1, and no true class unless the run is named oracle."""
    data = tiny_data()
    index = torch.arange(16)
    for oracle in (False, True):
        config = tiny(oracle=oracle)
        batches = Batches(config, data.train, SemPPL.draw)
        _, batch, _ = batches.place(batches.prepare(0, index))
        assert torch.equal(batch.labels, data.train.labels[:16]) and (batch.labels == -1).any()
        assert torch.equal(batches.truth_of[batch.ids], data.train.truth[:16])
        assert batch.oracle is None if not oracle else torch.equal(batch.oracle, data.train.truth[:16])
