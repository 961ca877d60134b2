"""A few optimizer steps on real images, and all that they must agree on, written to a file by the first process.

    python tests/helpers/parity.py OUT                                         one process
    torchrun --nproc-per-node 2 tests/helpers/parity.py OUT                    two
    PJRT_DEVICE=CPU CPU_NUM_DEVICES=4 python tests/helpers/parity.py OUT xla   one program on four XLA devices

More arguments: bug=NAME plants one of `BUGS`; steps=N; watch=False; any field=value of a config. After a -- another
case begins: several are written to OUT.0, OUT.1, and so on.
"""

import os
import sys
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from bare import Bare  # noqa: E402
from core_checks import random, tiny, tiny_data  # noqa: E402
from torch import nn  # noqa: E402
from torch.testing import assert_close  # noqa: E402
from torch.utils._pytree import tree_map_only  # noqa: E402

from semppl_mini import losses, parallel  # noqa: E402
from semppl_mini.keeping.command import override  # noqa: E402
from semppl_mini.semppl import SemPPL  # noqa: E402

STRICT = dict(rtol=1e-9, atol=1e-11)  # float64; sums in another order differ by 1e-15 or so, five steps multiply that
CHANGES = ["labelled_share=0.5", "warmup_epochs=0.5"]  # many labels: the queue fills and wraps round within five steps
RELATIVES = {
    "ifnd": ["method='ifnd'", "clusters=(4,8)", "recluster=1", "acceptance=(0.5,1.0)"],
    "ifnd attracts, keys with a gradient": ["method='ifnd'", "clusters=(4,)", "recluster=1", "keys='online'",
                                            "false_negatives='attract'"],
    "ifnd with a queue": ["method='ifnd'", "clusters=(4,)", "recluster=1", "key_queue=40"],
    "carp": ["method='carp'", "prototypes=60", "block=16"],
    "fine-tuning": ["method='finetune'", "large_views=2", "small_views=0", "labelled_share=None"],
}  # fmt: skip


def agree(one, other, **tolerance):
    """Equal pseudo-labels, queue labels and counts; close gradients at the first step, losses, weights, queues."""
    for a, b in zip(one["y_bar"], other["y_bar"], strict=True):
        assert torch.equal(a, b), "pseudo-labels"
    assert_close(one["counts"], other["counts"], rtol=1e-6, atol=1e-6)  # agreements are float32 shares
    for name in ("gradients", "terms", "state"):
        assert_close(one[name], other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# ---- bugs of the distributed kind, to be noticed --------------------------------------------------------------------


PLANTED = ExitStack()


def exchange(place, name: str, wrong) -> None:
    """Put another function in this place until PLANTED closes."""
    PLANTED.enter_context(patch.object(place, name, wrong))


def plant(name: str, wrong) -> None:
    """Exchange a function of `parallel` wherever a caller may look for it: at its door, and in its files."""
    for place in [module for path, module in sys.modules.items() if path.startswith("semppl_mini.parallel")]:
        if hasattr(place, name):
            exchange(place, name, wrong)


def local_batch_norm():
    """Each process normalises by the statistics of its own rows."""
    plant("share_batch_norm", lambda module: module)


def local_negatives():
    """Each process draws negatives among its own rows only."""
    right = losses.logits

    def wrong(o, t, negatives, tau, ids=None, first=0):
        b = len(negatives)
        row = torch.arange(b)[:, None]
        local = first + (row + 1 + (negatives - row - first - 1) % (b - 1)) % b
        return right(o, t, local, tau, ids, first)

    exchange(losses, "logits", wrong)


def summed_gradients():
    plant("average_", parallel.total)


def local_queue():
    """Each process keeps the labelled images of its own rows only."""
    right = SemPPL.remember

    def wrong(self, views, batch):
        other = torch.full_like(parallel.gather(batch.labels), -1)
        other[parallel.rows(len(other))] = batch.labels
        gather = parallel.gather
        plant("gather", lambda x, dim=0: other if x is batch.labels else gather(x, dim))
        try:
            return right(self, views, batch)
        finally:
            plant("gather", gather)

    exchange(SemPPL, "remember", wrong)


def quartered_batch_norm():
    """As on four devices that each normalise their own quarter of the rows: batch norms see quarters of the batch."""
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        right = kind.forward
        exchange(kind, "forward",
                 lambda self, x, right=right: torch.cat([right(self, part) for part in x.chunk(4)]))  # fmt: skip


def quartered_negatives():
    """As on four devices that each draw negatives among their own quarter of the rows."""
    right = losses.logits

    def wrong(o, t, negatives, tau, ids=None, first=0):
        own = len(negatives) // 4
        row = torch.arange(len(negatives))[:, None]
        local = row // own * own + (row + 1 + (negatives - row - 1) % (own - 1)) % own
        return right(o, t, local, tau, ids, first)

    exchange(losses, "logits", wrong)


def fourfold_gradients():
    """As on four devices whose gradients are summed instead of averaged."""
    plant("average_", lambda tensors: torch._foreach_mul_(tensors, 4))


def own_rows_again():
    """Every process takes the first rows."""
    rows = parallel.rows
    plant("rows", lambda batch: slice(0, rows(batch).stop - rows(batch).start))


BUGS = (
    local_batch_norm, local_negatives, summed_gradients, local_queue, own_rows_again,
    quartered_batch_norm, quartered_negatives, fourfold_gradients,
)  # fmt: skip

# ---- the steps ------------------------------------------------------------------------------------------------------


def run(steps: int, watch: bool = True, images=None, **changes) -> dict:
    """The record of a few steps, in tensors on the CPU: what one process and several, or two devices, must agree on.

    watch=False leaves votes and gradients out: to hold on to a step's tensors changes the graphs that XLA compiles.
    """
    config = tiny(precision="fp64", device="auto" if parallel.uses_xla() else "cpu").replace(**changes)
    images = images or tiny_data().train
    trainer = Bare(config, images)
    if config.backbone == "airbench":  # as the identity its pools find ties in flat images, which rounding would break
        with torch.no_grad():
            for i, w in enumerate(p for p in trainer.method.online["encoder"].parameters() if p.dim() == 4):
                w.add_(0.1 * random(*w.shape, seed=i).to(w) if w.requires_grad else 0)
    record = {"terms": [], "y_bar": [], "counts": [], "compiled": []}
    forward = trainer.method.forward

    def seen(*given):
        loss, seen = forward(*given)
        if "y_bar" in seen:
            record["y_bar"].append(parallel.gather(seen["y_bar"]))
        return loss, seen

    trainer.method.forward = seen if watch else forward
    for step in range(steps):
        terms, counts = trainer.step(step)
        record["terms"].append(torch.stack(list(terms.values())).double().cpu())
        record["counts"].append(torch.stack([part.cpu().double() for both in counts.values() for part in both]))
        record["y_bar"] = [y.cpu() for y in record["y_bar"]]
        if step == 0 and watch:
            trained = [(n, p) for n, p in trainer.method.online.named_parameters() if p.requires_grad]
            record["gradients"] = {n: p.grad.clone() for n, p in trained}
        record["compiled"].append(compilations())
    record["state"] = trainer.method.state_dict()  # weights, target, running statistics, queues
    return tree_map_only(torch.Tensor, torch.Tensor.cpu, record)


def compilations() -> int:
    """How many graphs XLA has compiled so far."""
    if not parallel.uses_xla():
        return 0
    import torch_xla.debug.metrics as metrics

    return (metrics.metric_data("CompileTime") or [0])[0]


def main() -> None:
    out, *more = sys.argv[1:]
    if xla := "xla" in more:
        more.remove("xla")
    (parallel.start_xla if xla else parallel.start)()
    cases = [list(case) for between, case in groupby(more, "--".__eq__) if not between] or [[]]
    for i, case in enumerate(cases):
        options = dict(map(override, case))
        with PLANTED:  # what a case exchanges is put right after it
            if bug := options.pop("bug", None):
                next(plant for plant in BUGS if plant.__name__ == bug)()
            record = run(options.pop("steps", 5), **options)
        if parallel.rank() == 0:
            devices = int(os.environ.get("CPU_NUM_DEVICES", 1)) if xla else 1
            record |= {"devices": devices, "processes": parallel.size()}
            torch.save(record, out if len(cases) == 1 else f"{out}.{i}")
    parallel.stop()


if __name__ == "__main__":
    main()
