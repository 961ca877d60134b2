"""What a step asks of a GPU's host stays little, by the count of benchmarks/waits.py: no wait, a few copies."""

import collections
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import waits

from semppl_mini import monitor, presets

pytestmark = pytest.mark.skipif(not waits.PRETENDS, reason="this torch cannot pretend CUDA")
CONFIG = presets.digits().replace(**waits.SMALL, small_views=2, small_size=12, mask_p=0.5, optimizer="lars",
                                  device="cpu", precision="fp32")  # fmt: skip


@pytest.mark.parametrize("optimizer", ["lars", "adamw", "muon"])
def test_a_step_waits_for_nothing_and_is_sent_in_few_copies(optimizer):
    found = waits.counted(CONFIG.replace(optimizer=optimizer))
    total = sum(found.values(), collections.Counter())
    assert total["waits"] == 0 and found["views"]["copies"] == 1  # a batch
    assert total["copies"] <= 3  # and a rate for each group of weights
    assert found["target"]["operations"] <= 3 and found["are they finite?"]["operations"] <= 5


def test_operations_do_not_grow_with_weights_or_views():
    few, many = (waits.counted(CONFIG.replace(large_views=L, backbone=encoder))
                 for L, encoder in ((2, "narrow"), (4, "resnet18")))  # fmt: skip
    for part in ("optimizer", "target", "state before it"):
        assert few[part] == many[part] and few[part]["operations"] <= 30
    more = many["views"]["operations"] - few["views"]["operations"]
    assert few["views"]["operations"] <= 600 and more <= 30  # of two more views the types of draws


def test_the_count_finds_a_wait_and_a_copy(monkeypatch):
    right = monitor.terms_of

    def wrong(loss, seen):
        return right(loss + float(loss) + torch.tensor([1.0, 2.0]).to(loss.device).sum(), seen)

    monkeypatch.setattr(monitor, "terms_of", wrong)
    numbers = waits.counted(CONFIG)["numbers for the log"]
    assert numbers["waits"] == 1 and numbers["copies"] == 1


def test_few_graph_breaks():
    """What the processor is asked, whether it has bf16; on a GPU not even that."""
    found = waits.breaks(CONFIG)
    assert found.total() <= 1 and all("uses_bf16" in place for place in found)
