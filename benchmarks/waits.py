"""What a step asks of a GPU's host: operations started, copies to it, waits for it; and where torch.compile breaks.

    python benchmarks/waits.py [RECIPE ...]     no GPU is needed

Operations are counted on pretended CUDA tensors, which have shapes and devices but no values: what is counted is what
a GPU would be given. A wait is a value that the host asks for; a copy is one from the CPU's memory. Images are the
digits'; numbers of operations depend on layers and views, not on sizes.
"""

import collections
import contextlib
import sys
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from semppl_mini import SemPPL, load_data, monitor, parallel, presets
from semppl_mini.batches import Batches
from semppl_mini.keeping.undo import Undo
from semppl_mini.optim import make_optimizer, set_lr

SMALL = dict(width=8, projector_hidden=32, predictor_hidden=32, batch_size=64, negatives=10, queue=128)

# torch 2.9 asks the driver of pretended tensors, too, and without one may end the process; 2.14 does not.
PRETENDS = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
STREAM = MagicMock(**{"return_value.record_event.return_value.synchronize.return_value": None})  # no GPU has one


class Asked(TorchDispatchMode):
    """Counts operations, copies from the CPU and values asked for; a value that is asked for is 1."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()

    def __torch_dispatch__(self, operation, types, given=(), named=None):
        self.counts["operations"] += operation.namespace != "prim" and not operation.is_view
        if "_local_scalar_dense" in str(operation):
            self.counts["waits"] += given[0].device.type != "cpu"
            return 1
        result = given[0] if "_pin_memory" in str(operation) else operation(*given, **(named or {}))
        before, after = ({x.device.type for x in tree_leaves(part) if isinstance(x, Tensor)}
                         for part in ((given, named), result))  # fmt: skip
        self.counts["copies"] += "copy" in str(operation) and "cuda" in after | before and "cpu" in before
        return result

    def __enter__(self):
        def tolist(x):  # one wait for all of its values
            self.counts["waits"] += x.device.type != "cpu"
            return [1.0] * x.numel()

        self.patch = patch.object(FakeTensor, "tolist", tolist)
        self.patch.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.stop()
        return super().__exit__(*error)


def pretended(x: Tensor, device="cuda") -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=device)


def to_gpu(module: nn.Module) -> None:
    """All tensors of a module become pretended ones of a GPU."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(pretended(p), requires_grad=p.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            part.register_buffer(name, pretended(buffer))


def counted(config) -> dict[str, collections.Counter]:
    """{part of a step: its counts}, of the third step, when all constants and copies are there."""
    data, found = load_data("digits", labels=100), {}
    method, batches = SemPPL(config, 10), Batches(config, data.train, SemPPL.draw)
    prepared = batches[0]
    loss, _ = method(*batches.place(prepared))

    @contextlib.contextmanager
    def part(name):
        with Asked() as asked:
            yield
        found[name] = asked.counts

    with part("gradient"):  # on the CPU: pretended tensors have none
        loss.backward()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_gpu(method)
        batches.device, batches.truth_of = torch.device("cuda"), pretended(batches.truth_of)
        optimizer = make_optimizer(config, method.online)
        for group in optimizer.param_groups:  # torch's own take it on a GPU, but not for pretended tensors
            group |= {"foreach": True} if "foreach" in group else {}
        set_lr(optimizer, 0.1)
        undo = Undo(method, optimizer, batches.device)
        with Asked():  # not counted: another thread does it ahead
            ready = parallel.device.pinned(tree_map_only(Tensor, partial(pretended, device="cpu"), prepared))
        for _ in range(3):
            with part("state before it"):
                undo.keep()
            with part("views"):
                views, batch, draws = batches.place(ready)
            with part("networks and losses"):
                loss, seen = method(views, batch, draws)
            for p in method.online.parameters():
                p.grad = pretended(p)
            with part("numbers for the log"):
                terms, _ = monitor.terms_of(loss, seen), method.count(seen, batch, batches.truth_of)
            with part("are they finite?"), patch.object(torch.cuda, "current_stream", STREAM):
                parallel.averaged(method.online, terms)()
            with part("optimizer"):
                optimizer.step()
            with part("target"):
                method.after_step(0.5)
    parallel.constant.cache_clear()  # of the pretended ones
    return found


def breaks(config) -> collections.Counter:
    """Where torch.compile would part a step, from its views to its loss: {place and reason: how often}."""
    torch._dynamo.reset()
    data, found = load_data("digits", labels=100), collections.Counter()
    method, batches = SemPPL(config, 10), Batches(config, data.train, SemPPL.draw)

    def step(ready):
        return method(*batches.place(ready))[0]

    with patch.object(parallel.pixels, "far", lambda device: True):  # as on a GPU, which is not asked
        explained = torch._dynamo.explain(step)(batches[0])
    for reason in explained.break_reasons:
        frame, first = reason.user_stack[-1], reason.reason.strip().partition("\n")[0]
        found[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}: {first}"] += 1
    return found


if __name__ == "__main__":
    if not PRETENDS:
        sys.exit(f"torch {torch.__version__} cannot pretend CUDA tensors; use a CUDA build of torch 2.14 or later.")
    for recipe in sys.argv[1:] or ("cifar10", "imagenet_1pct"):
        config = presets.named(recipe)
        sizes = dict(large_size=64, small_size=32) if config.small_views else {}
        found = counted(config.replace(**SMALL, **sizes, device="cpu", precision="fp32"))
        total = sum(found.values(), collections.Counter())
        print(f"{recipe:26}{'operations':>12}{'copies':>10}{'waits':>10}")
        for name, counts in [*found.items(), ("a step", total)]:
            print(f"  {name:24}{counts['operations']:12}{counts['copies']:10}{counts['waits']:10}")
        for place, times in breaks(config.replace(**SMALL, **sizes, device="cpu", precision="fp32")).items():
            print(f"  graph break, {times} times: {place}")
