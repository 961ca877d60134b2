"""A step as a CUDA graph: what it may not do, on any machine; that its replays are the step, where a GPU is."""

import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import semppl_mini as s
from semppl_mini import keeping, monitor, parallel
from semppl_mini.batches import Batches

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
from waits import PRETENDS  # noqa: E402

SMALL = {"width": 8, "batch_size": 128, "negatives": 127, "queue": 256, "epochs": 2, "projector_hidden": 32,
         "predictor_hidden": 32, "embedding_dim": 16, "warmup_epochs": 0, "precision": "fp64"}  # fmt: skip
METHODS = {
    "semppl": {"backbone": "airbench", "stem_stride": 1, "optimizer": "muon"},
    "small views": {"optimizer": "lars", "small_views": 2, "small_size": 12, "mask_p": 0.5, "blur_p": (1.0, 0.1)},
    "augmentation-only": {"semantic_positives": 0},
    "ifnd": {"method": "ifnd", "labelled_share": None, "clusters": (10,), "recluster": 1},
    "carp": {"method": "carp", "labelled_share": None, "prototypes": 64, "block": 8},
}  # fmt: skip
pretending = pytest.mark.skipif(not PRETENDS, reason="this torch cannot pretend CUDA")


def config_of(changes: dict) -> s.Config:
    return s.presets.digits().replace(**SMALL | changes)


class Copies(TorchDispatchMode):
    """Notes operations that take values from the host to the device, or ask the device for some."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        result = operation(*given, **(named or {}))
        before, after = ({x.device.type for x in tree_leaves(part) if isinstance(x, torch.Tensor)}
                         for part in ((given, named), result))  # fmt: skip
        crossed = before and after and before != after and "cuda" in before | after
        if crossed or "_local_scalar" in str(operation) or "nonzero" in str(operation):
            self.found.append(str(operation))
        return result


@pretending
@pytest.mark.parametrize("changes", METHODS.values(), ids=METHODS)
def test_views_and_loss_copy_nothing_from_the_host(changes):
    """On pretended CUDA tensors, which have shapes and devices but no values."""
    config, data = config_of(changes | {"precision": "fp32"}), s.load_data("digits", labels=100)
    kind = keeping.class_of(config)
    method, batches = kind(config, 10, int(data.train.ids.max()) + 1), Batches(config, data.train, kind.draw)
    prepared = batches[0]

    def pretend(x):
        return torch.empty(x.shape, dtype=x.dtype, device="cuda")

    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in method.modules():
            for name, p in module.named_parameters(recurse=False):
                module.register_parameter(name, torch.nn.Parameter(pretend(p), requires_grad=p.requires_grad))
            for name, buffer in module.named_buffers(recurse=False):
                module.register_buffer(name, pretend(buffer))
        batches.device, batches.truth_of = torch.device("cuda"), pretend(batches.truth_of)
        ready = tree_map_only(torch.Tensor, pretend, prepared)
        for _ in range(2):  # in the second step all constants are there
            with Copies() as copies:
                views, batch, draws = batches.place(ready)
                loss, seen = method(views, batch, draws)
                terms, _ = monitor.terms_of(loss, seen), method.count(seen, batch, batches.truth_of)
    parallel.constant.cache_clear()  # of the pretended ones
    assert all(x.device.type == "cuda" for x in (loss, *views, *terms.values()))
    assert copies.found == []


@pretending
def test_the_spy_finds_copies():
    with FakeTensorMode(), Copies() as copies:
        x = torch.empty(3, device="cuda")
        _ = x + torch.tensor([1.0, 2.0, 3.0]).to("cuda")
        _ = x.cpu()
    assert len(copies.found) == 2


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_graphs_is_the_run(name, device):
    """On CPUs the field has no effect, one method shows it; on CUDA replays reach the weights of single operations."""
    if device.type == "cpu" and name != "semppl":
        pytest.skip("on a CPU the same code runs")
    changes = METHODS[name]
    data, ends, untimed = s.load_data("digits", labels=100), [], {"seconds", "images_per_second", "data_share"}
    for graph in (False, True):
        run = s.fit(config_of(changes | {"device": str(device), "graph": graph}), data, progress=False, steps=30)
        records = [{name: x for name, x in record.items() if name not in untimed} for record in run.history]
        ends.append((run.method.state_dict(), records))
    (weights, records), (others, other_records) = ends
    near = {"rtol": 0, "atol": 0} if device.type == "cpu" else {"rtol": 1e-6, "atol": 1e-8}
    for name, x in weights.items():
        torch.testing.assert_close(others[name], x, **near)
    for record, other in zip(records, other_records, strict=True):
        assert record == pytest.approx(other, abs=0 if device.type == "cpu" else 1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_step_that_waits_is_no_graph():
    class Waits(s.SemPPL):
        def forward(self, views, batch, draws):
            loss, seen = super().forward(views, batch, draws)
            return loss * float(loss > 0), seen

    with pytest.raises(ValueError, match="graph = True cannot capture this method's step .*; give graph=False"):
        s.fit(config_of({"graph": True}), s.load_data("digits", labels=100), progress=False, method=Waits)


def test_one_early():
    """Same items, same order; an error reaches who asks for the item, and closing ends the maker."""
    made = []

    def items():
        for i in range(4):
            if i == 3:
                raise ValueError("three")
            made.append(i)
            yield i

    early, got = parallel.one_early(items()), []
    with pytest.raises(ValueError, match="three"):
        for x in early:
            got.append(x)
    assert got == made == [0, 1, 2]
    early = parallel.one_early(iter([5, 6, 7]))
    assert next(early) == 5
    early.close()
    assert list(parallel.one_early(iter(()))) == []
