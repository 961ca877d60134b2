"""(d) The 16 votes at the paper's size (Q = 81,920, D = 256, L = 4), B = 1,024, against faiss's exact index.

Both get the same queries (L B, D) and the same L queues of unit keys, and both votes go through the same
`majority`. faiss's IndexFlatIP keeps its own copy of the keys; making it is not counted. Peak extra memory is
how far the process's resident memory rises during a call, by Linux's high-water mark (None without glibc).
"""

import ctypes
import platform
from pathlib import Path

import faiss
import torch
import torch.nn.functional as F
from timing import by_turns, row
from torch import Tensor

from semppl_mini import Config
from semppl_mini.votes import majority, vote

B, Q, D, L, C = 1024, 81920, 256, 4, 10


def planted(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (L, B, D), keys (L, Q, D), labels (Q,): C noisy clusters, so that votes are not all equal."""
    centres = F.normalize(torch.randn(C, D, generator=rng), dim=1)
    labels, asked = torch.randint(C, (Q,), generator=rng), torch.randint(C, (B,), generator=rng)
    keys = torch.randn(L, Q, D, generator=rng).mul_(0.2).add_(centres[labels])
    o = torch.randn(L, B, D, generator=rng).mul_(0.2).add_(centres[asked])
    return F.normalize(o, dim=2), F.normalize(keys, dim=2), labels


def resident(field: str) -> float:
    """VmRSS (now) or VmHWM (high-water mark) of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_extra_mb(task) -> float | None:
    """How many MB resident memory rises above its start while `task` runs."""
    mark = Path("/proc/self/clear_refs")
    if not mark.exists() or platform.libc_ver()[0] != "glibc":
        return None
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back, so that using it again is seen
    mark.write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    task()
    return round(resident("VmHWM") - before, 1)


def measure(rounds: int = 3) -> list[dict]:
    faiss.omp_set_num_threads(torch.get_num_threads())
    o, keys, labels = planted(torch.Generator().manual_seed(0))
    indices = [faiss.IndexFlatIP(D) for _ in range(L)]
    for index, queue in zip(indices, keys, strict=True):
        index.add(queue.numpy())
    found = {}

    def ours():
        found["ours"] = vote(o, keys, labels, 1, C, Config().knn_chunk_mb)

    def theirs():
        pairs = [index.search(o.view(L * B, D).numpy(), 1) for index in indices]  # cosine, slot: (L B, 1)
        cosine, slot = (torch.stack([torch.from_numpy(p[i]).view(L, B) for p in pairs], 1) for i in (0, 1))
        votes, weights = (x.flatten(0, 1).T for x in (labels[slot], cosine))  # (B, L L), column j L + a
        found["faiss"] = majority(votes, weights, C)[0], votes

    seconds = by_turns({"ours": ours, "faiss": theirs}, rounds)
    memory = {"ours": peak_extra_mb(ours), "faiss": peak_extra_mb(theirs)}
    same = [float((a == b).double().mean()) for a, b in zip(found["ours"], found["faiss"], strict=True)]
    notes = [
        f"peak extra memory: ours {memory['ours']} MB (goal: under 1,024), faiss {memory['faiss']} MB",
        f"equal: {same[0]:.2%} of the pseudo-labels, {same[1]:.2%} of the single votes",
    ]
    more = {"peak_extra_mb": memory, "equal_pseudo_labels": same[0], "equal_votes": same[1], "notes": notes}
    return [row("16 votes, B 1,024, Q 81,920, D 256: IndexFlatIP", seconds, "ours", "faiss", 1.0, **more)]
