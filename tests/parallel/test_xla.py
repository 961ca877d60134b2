"""One program on four XLA devices takes the steps of one process: `make test-xla`, in an environment of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import parity
import pytest
import torch
from parity import CHANGES, RELATIVES, STRICT, agree

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch_xla") is None, reason="this is for `make test-xla`")
ROOT = Path(__file__).resolve().parents[2]
XLA = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4", "XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compile fast
STEPS = 6  # lr 0 and warm-up in the first epoch's half, then cosine; the queue fills and wraps round


def steps(folder, *changes, xla=False):
    """The record of parity.py, on the CPU by torch alone or on four XLA devices; the same torch in both."""
    out = folder / f"{xla}-{'-'.join(changes).replace(' ', '')}.pt"
    command = [sys.executable, parity.__file__, out, f"steps={STEPS}", *CHANGES, *changes, *(["xla"] if xla else [])]
    done = subprocess.run(command, env=os.environ | (XLA if xla else {}), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def alone(folder):
    return steps(folder)


@pytest.fixture(scope="module")
def four(folder):
    return steps(folder, xla=True)


def test_parity_of_four_xla_devices_with_one_process_in_float64(alone, four):
    assert four["devices"] == 4
    agree(alone, four, **STRICT)


def test_parity_xla_compiles_nothing_after_the_second_step(folder):
    """Neither for the learning rates of a warm-up, 0 included, nor while the queue fills and wraps round."""
    compiled = steps(folder, "watch=False", "precision=fp32", xla=True)["compiled"]
    assert compiled[1] > 0 and compiled[1:] == [compiled[1]] * (STEPS - 1)


def test_several_xla_hosts_are_refused():
    code = ("import torch_xla.runtime as r; from semppl_mini import parallel; parallel.start_xla(); "
            "r.process_count = lambda: 4; parallel.start_xla()")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | XLA, cwd=ROOT,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode and "4 hosts share these XLA devices and one is supported; take a slice" in done.stderr


@pytest.mark.parametrize("bug", ["quartered_batch_norm", "quartered_negatives", "fourfold_gradients"])
def test_parity_with_xla_notices(bug, four, folder):
    """The same, of a plain process that does what four devices would with a planted bug: none of them may pass."""
    with pytest.raises(AssertionError):
        agree(steps(folder, f"bug={bug}"), four, **STRICT)


def test_parity_of_four_xla_devices_with_one_process_in_float32(folder):
    """Votes may flip on near-ties: at most two of the 96 here; the first step's gradients have no past to differ in."""
    one, four = steps(folder, "precision=fp32"), steps(folder, "precision=fp32", xla=True)
    flips = sum(int((a != b).sum()) for a, b in zip(one["y_bar"], four["y_bar"], strict=True))
    assert flips <= 2
    scale = max(float(g.abs().max()) for g in one["gradients"].values())
    torch.testing.assert_close(one["gradients"], four["gradients"], rtol=0, atol=1e-3 * scale)
    torch.testing.assert_close(one["terms"][:2], four["terms"][:2], rtol=1e-3, atol=1e-3)


def test_parity_of_airbench_and_muon_on_four_xla_devices(folder):
    changes = ["backbone=airbench", "small_size=9", "optimizer=muon", "lr=0.02"]
    agree(steps(folder, *changes), steps(folder, *changes, xla=True), rtol=1e-6, atol=1e-6)  # as of two processes


@pytest.mark.parametrize("name, tolerance", [("ifnd", STRICT), ("carp", {"rtol": 1e-6, "atol": 1e-9})])
def test_parity_of_relatives_on_four_xla_devices(name, tolerance, folder):
    """IFND, clustering after the first epoch, and CARP, whose GELU XLA computes to some 1e-8 only, in float64."""
    changes = ["lr=0.1", *RELATIVES[name]]
    agree(steps(folder, *changes), steps(folder, *changes, xla=True), **tolerance)
