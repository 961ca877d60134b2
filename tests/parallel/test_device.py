"""A GPU is another place for the same run: the CPU's steps, its own bits after a resume, checkpoints that travel.

Without one, what one device can show is shown on the CPU. The images are noise, so nothing but the package is needed.
"""

import copy
import math
import os
import threading

import parity
import pytest
import torch
from core_checks import differing, random, tiny, weights
from torch.testing import assert_close
from torch.utils._pytree import tree_flatten

from semppl_mini import Data, SemPPL, evaluate, fit, load_data, load_run, parallel, presets
from semppl_mini.batches import Batches
from semppl_mini.data import ImageSet, hide_labels

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at cuBLAS's first use: for the same bits
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))
# a bias before a batch norm has no gradient but rounding errors, by which AdamW takes whole steps; the norm removes it
IDLE = tuple(f"{head}.{part}" for head in ("projector", "predictor") for part in ("0.bias", "1.running_mean"))
NETWORKS = {
    "airbench, muon": {"backbone": "airbench", "small_size": 9, "optimizer": "muon", "lr": 0.02},
    "resnet, lars": {"backbone": "resnet18"},
}


@pytest.fixture(params=["cpu", GPU])
def device(request):
    return request.param


@pytest.fixture
def same_bits():
    """Inside, cuDNN and torch choose deterministic algorithms, and warn where they have none."""
    cudnn, before = torch.backends.cudnn, torch.backends.cudnn.deterministic
    cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)


def noise(n, first):
    truth = torch.arange(n) % 10
    return ImageSet((random(n, 3, 32, 32, seed=first) * 255).byte(), truth, first + torch.arange(n), truth)


DATA = Data("noise", "noise", [str(c) for c in range(10)], hide_labels(noise(64, 0), 20, 0, 10), *map(noise, (30, 30),
            (64, 94)))  # fmt: skip


def run_of(device, folder=None, **more):
    changes = {name: more.pop(name) for name in ("precision", "backbone") if name in more}
    return fit(tiny(device=device, labelled_share=0.25, **changes), DATA, folder, progress=False, **more)


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_the_cpus(name, device):
    """Pseudo-labels, queue labels and counts equal; gradients, terms, weights within 1e-9: four steps in float64."""
    changes = {**NETWORKS[name], "images": DATA.train, "labelled_share": 0.5, "warmup_epochs": 0.5}
    ours, theirs = (parity.run(4, device=where, **changes) for where in (device, "cpu"))
    for state in (ours["state"], theirs["state"]):
        for name in [name for name in state if name.endswith(IDLE)]:
            del state[name]
    parity.agree(ours, theirs, **parity.STRICT)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_has_the_bits_of_a_whole_one(precision, device, same_bits, tmp_path):
    whole = run_of(device, precision=precision)
    assert not run_of(device, tmp_path, precision=precision, steps=3).finished
    resumed = run_of(device, tmp_path, precision=precision)
    assert resumed.finished and not differing(weights(whole), weights(resumed))
    assert [r["loss"] for r in whole.history] == [r["loss"] for r in resumed.history]


def test_tensors_that_travel_as_one_arrive_as_they_were(monkeypatch):
    """A step's, of all types and shapes, one empty, one not contiguous; without a GPU to memory that is not pinned."""
    prepared = Batches(presets.digits(), load_data("digits", labels=100).train, SemPPL.draw)[3]
    given = [prepared, None, torch.zeros(0, 3), torch.arange(12.0).view(3, 4).T, torch.tensor(7).double()]
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    arrived = parallel.device.as_one(given, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    (ours, shape), (theirs, wanted) = tree_flatten(arrived), tree_flatten(given)
    assert shape == wanted and arrived[1] is None and len({x.dtype for x in theirs if x is not None}) >= 5
    for x, y in zip(filter(torch.is_tensor, ours), filter(torch.is_tensor, theirs), strict=True):
        assert x.dtype == y.dtype and torch.equal(x.cpu(), y)
    assert len({x.untyped_storage().data_ptr() for x in ours if x is not None}) == 1


def test_batches_for_a_gpu_are_packed_by_another_thread_and_only_there(monkeypatch):
    """A pretended GPU, but for where they go at last: the rows are those of a batch that is packed at once."""
    threads, device = [], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: threads.append(threading.current_thread()) or x)
    config = presets.digits().replace(device="cpu", batch_size=16, negatives=4)
    batches = Batches(config, load_data("digits", labels=100).train, SemPPL.draw)
    plain = [batches[step] for step in range(3)]
    batches.device = torch.device("cuda")
    for workers in (0, 1):
        threads.clear()
        for ready, wanted in zip(batches.ahead(0, 3, workers), plain, strict=True):
            placed = parallel.device.as_one(ready, device)
            assert type(placed) is type(wanted)
            (ours, shape), (theirs, same) = tree_flatten(placed), tree_flatten(wanted)
            assert shape == same and all(torch.equal(x.cpu(), y) for x, y in zip(ours, theirs, strict=True))
        assert len(threads) == 3 and threading.main_thread() not in threads
    parallel.device.as_one(plain[0], device)
    assert threads[3:] == [threading.main_thread()]


def test_a_checkpoint_is_read_on_the_cpu(device, tmp_path):
    """Every tensor to the bit, and in float64 the same features."""
    run = run_of(device, tmp_path, precision="fp64")
    read = load_run(tmp_path)
    assert all(x.device.type == "cpu" for x in read.method.state_dict().values())
    assert not differing(weights(run), weights(read))
    images = DATA.test.images
    assert_close(read.method.encode(images), run.method.encode(images), rtol=1e-6, atol=1e-6)


def test_an_infinite_gradient_leaves_the_weights(device):
    kept = {}

    def spoil(run, record):
        kept["now"] = dict(run.method.named_parameters())
        kept["before"] = copy.deepcopy(kept["now"])
        next(run.method.encoder.parameters()).register_hook(lambda g: torch.full_like(g, math.inf))

    with pytest.raises(FloatingPointError, match=r"Step 0 .*the gradient of encoder\.stem\.0\.weight is inf"):
        run_of(device, callbacks=[spoil])
    assert not differing(kept["before"], kept["now"])


@pytest.mark.parametrize("device", [GPU])
def test_read_outs_are_the_cpus(device):
    """In float64 the features are the same, so the classifiers put as many images in the right class, give or take."""
    run = run_of(device, precision="fp64")
    ours = evaluate(run.method.encoder, run.config, DATA)
    assert next(run.method.encoder.parameters()).is_cuda
    theirs = evaluate(copy.deepcopy(run.method.encoder).cpu(), run.config, DATA)
    assert ours == pytest.approx(theirs, abs=1.5 / len(DATA.test))


def test_fine_tuning_on_the_device(device):
    run = run_of(device)
    read = evaluate(run.method.encoder, run.config, DATA, "val", tune_steps=2, all_labels=True)
    assert all(0 <= read[name] <= 1 for name in ("knn20", "linear", "fine_tuned", "linear_all"))
    assert next(run.method.encoder.parameters()).device.type == device


def test_a_run_of_another_device_is_read_out_where_its_encoder_is(tmp_path):
    """As a GPU's run on a machine without one."""
    run = run_of("cpu", tmp_path)
    elsewhere = run.config.replace(device="cuda:99")
    read = [evaluate(run.method.encoder, config, DATA, "val", tune_steps=2) for config in (elsewhere, run.config)]
    assert read[0] == read[1]


def test_fp32_on_cuda_is_float32(monkeypatch):
    class Still(torch.nn.Module):
        online = target = torch.nn.ModuleDict()

        def to(self, *args, **more):
            return self

    for precision in ("auto", "fp32"):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        parallel.placed(Still(), torch.device("cuda"), tiny(precision=precision))
        assert torch.backends.cudnn.allow_tf32 == (precision == "auto")
