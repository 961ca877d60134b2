"""(c) Batched views against torchvision's pipelines, which take one image at a time.

The same distribution of parameters, the same sizes, from uint8 images to normalised float views; drawing the
parameters is counted. torchvision's v2 transforms run on tensors and on PIL images in one process with one
thread, as a DataLoader worker runs them; ours with all threads and, in lines of their own, with one.
"""

import torch
from common import real_images
from PIL import Image
from timing import by_turns, row
from torchvision.transforms import v2

from semppl_mini import presets
from semppl_mini.views import draw_view, make_views

BATCH = 256


def pipeline(config, pil: bool) -> v2.Compose:
    """The first view of a config in torchvision's words, with the blur kernel of views.py."""
    size, strengths = config.large_size, (config.brightness, config.contrast, config.saturation, config.hue)
    blur = v2.GaussianBlur(2 * (size // 20) + 1, config.blur_sigma)
    steps = [
        v2.RandomResizedCrop(size, config.large_scale, config.ratio, antialias=True),
        v2.RandomHorizontalFlip(config.flip_p),
        v2.RandomApply([v2.ColorJitter(*strengths)], config.jitter_p),
        v2.RandomGrayscale(config.grey_p),
        v2.RandomApply([blur], config.blur_p[0]) if config.blur_p[0] else None,
        v2.RandomSolarize(128, config.solarize_p[0]),
        v2.ToImage() if pil else None,
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(config.mean, config.std),
    ]
    return v2.Compose([step for step in steps if step is not None])


def with_threads(threads: int, task) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    task()
    torch.set_num_threads(before)


def compare(name: str, config, rounds: int) -> list[dict]:
    """Lines for the first view of a config: each task makes BATCH views, a batch at the end."""
    images, rng = real_images().train.images[:BATCH], torch.Generator().manual_seed(0)
    faces = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    on_tensors, on_pil = pipeline(config, pil=False), pipeline(config, pil=True)

    def batched():
        make_views(images, [draw_view(config, 0, BATCH, rng, *images.shape[2:])], config)

    tasks = {
        "batched": batched,
        "batched, 1 thread": lambda: with_threads(1, batched),
        "v2 on tensors": lambda: with_threads(1, lambda: torch.stack([on_tensors(x) for x in images])),
        "PIL": lambda: with_threads(1, lambda: torch.stack([on_pil(x) for x in faces])),
    }
    seconds = by_turns(tasks, rounds)
    return [
        row(f"{name}: v2 on tensors", seconds, "batched", "v2 on tensors", 10, BATCH),
        row("  PIL", seconds, "batched", "PIL", 10, BATCH),
        row("  v2 on tensors, one thread each", seconds, "batched, 1 thread", "v2 on tensors", None, BATCH),
        row("  PIL, one thread each", seconds, "batched, 1 thread", "PIL", None, BATCH),
    ]


def measure(rounds: int = 7) -> list[dict]:
    config = presets.cifar10().replace(mask_p=0.0, blur_p=(0.0,), solarize_p=(0.2,))
    small = config.replace(large_size=config.small_size, large_scale=config.small_scale)
    rows = compare("32 pixels, no blur", config, rounds)
    rows += compare("32 pixels, blur", config.replace(blur_p=(1.0,)), rounds)
    return rows + compare("16 pixels, no blur", small, rounds)
