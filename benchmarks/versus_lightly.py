"""(b) Images a second against lightly's BYOL: same backbone, heads, batch, two large views of real images.

Ours     whole steps of `fit` with SemPPL: beside BYOL's work, queues, votes and semantic positives.
lightly  its heads, loss, momentum update and transforms (no blur, as its CIFAR example has it), PIL images
         through a DataLoader with 2 workers, plain SGD; timed in the steady state.
Ceiling  the bare networks on views made beforehand (step_overhead.py): no method with them can be faster.

"Equal precision" is fp32 for both. "Own defaults" is our precision="auto", bf16 where the processor multiplies
in bf16, against lightly's fp32; where "auto" means fp32 the two are one comparison. lightly's tensors are
contiguous, as in its example; a line with everything channels-last tells how much of the ratio is that.
"""

import copy
import functools
import itertools
import time

import torch
from common import Stepper, real_images
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from PIL import Image
from timing import by_turns, has_bf16, row
from torch import nn
from torch.utils.data import DataLoader, Dataset

from semppl_mini import presets

HIDDEN, EMBEDDING, WORKERS, WARM, TIMED = 1024, 256, 2, 3, 6


class PILImages(Dataset):
    """The first `size` training images as PIL images, like torchvision's CIFAR10; two views of each."""

    def __init__(self, size: int):
        images = real_images().train.images[:size]
        self.pixels, side = images.permute(0, 2, 3, 1).contiguous().numpy(), images.shape[-1]
        first = BYOLView1Transform(input_size=side, gaussian_blur=0.0)
        self.transform = BYOLTransform(first, BYOLView2Transform(input_size=side, gaussian_blur=0.0))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, i: int):
        return self.transform(Image.fromarray(self.pixels[i]))


class LightlyBYOL:
    """BYOL out of lightly's parts, on a copy of `backbone`. A call returns the seconds of TIMED steps."""

    def __init__(self, backbone, batch: int, memory_format=torch.contiguous_format):
        online = nn.Sequential(copy.deepcopy(backbone), BYOLProjectionHead(backbone.dim, HIDDEN, EMBEDDING))
        self.online, self.format = online.to(memory_format=memory_format).train(), memory_format
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = BYOLPredictionHead(EMBEDDING, HIDDEN, EMBEDDING)
        trained = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimizer, self.criterion = torch.optim.SGD(trained, lr=0.06), NegativeCosineSimilarity()
        # More batches than are used: the workers are still at work while the last one is timed.
        images = PILImages(batch * (WARM + TIMED + 2 * WORKERS))
        self.loader = DataLoader(images, batch, shuffle=True, drop_last=True, num_workers=WORKERS)

    def step(self, views) -> None:
        update_momentum(self.online, self.target, m=0.996)
        x0, x1 = (x.contiguous(memory_format=self.format) for x in views)
        p0, z0 = self.predictor(self.online(x0)), self.target(x0)
        p1, z1 = self.predictor(self.online(x1)), self.target(x1)
        loss = (self.criterion(p0, z1) + self.criterion(p1, z0)) / 2
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self) -> float:
        batches = iter(self.loader)
        for views in itertools.islice(batches, WARM):
            self.step(views)
        start = time.perf_counter()
        for views in itertools.islice(batches, TIMED):
            self.step(views)
        return time.perf_counter() - start


def repeat(task, *arguments) -> None:
    for _ in range(TIMED):
        task(*arguments)


def measure(rounds: int = 3) -> list[dict]:
    heads = dict(projector_hidden=HIDDEN, predictor_hidden=HIDDEN, embedding_dim=EMBEDDING)
    config = presets.cifar10_cpu().replace(backbone="narrow", width=16, large_views=2, small_views=0, **heads)
    config = config.replace(large_size=real_images().train.images.shape[-1], mask_p=0.0)
    rows = compare("width 16, stride-1 stem", config.replace(stem_stride=1), rounds)
    return rows + compare("width 16, stride-2 stem", config.replace(stem_stride=2), rounds)


def compare(name: str, config, rounds: int) -> list[dict]:
    tasks, B = {}, config.batch_size
    for precision in ("fp32", "bf16") if has_bf16() else ("fp32",):
        ours = Stepper(config.replace(precision=precision))
        tasks[f"ours, {precision}"] = functools.partial(repeat, ours.step)
        tasks[f"ceiling, {precision}"] = functools.partial(repeat, ours.bare, ours.views())
    tasks["lightly"] = LightlyBYOL(ours.method.encoder, B)
    tasks["lightly, channels-last"] = LightlyBYOL(ours.method.encoder, B, torch.channels_last)
    seconds, work = by_turns(tasks, rounds, warm=False), TIMED * B
    rows = [
        row(f"{name}: equal precision (fp32)", seconds, "ours, fp32", "lightly", 1.9, work),
        row("  ceiling: bare networks", seconds, "ceiling, fp32", "lightly", None, work),
        row("  ours / lightly in channels-last", seconds, "ours, fp32", "lightly, channels-last", None, work),
    ]
    notes = [] if has_bf16() else ["no bf16 on this processor: our default is fp32, the first line again"]
    mine, ceiling = f"ours, {precision}", f"ceiling, {precision}"
    return rows + [
        row(f"{name}: own defaults", seconds, mine, "lightly", 2.5, work, notes=notes),
        row("  ceiling: bare networks", seconds, ceiling, "lightly", None, work),
    ]
