"""(g) The ImageNet pipeline against ImageFolder with torchvision's transforms: six views of an image, 2 workers each.

From files to normalised float views (4 x 224 and 2 x 96 pixels, values of `Config()`, bicubic). Theirs: PIL in the
workers, a view at a time, and no saliency masks. Ours: decoding, masks and crops in the workers, photometrics of the
whole batch in the main process, here on the CPU with all its threads (on a GPU or TPU in a run). One real image a
class, short side 256: ImageNet's own files are larger, which adds to the decoding of both.
"""

import os
import sys
import tarfile
import tempfile
from pathlib import Path

import torch
from timing import by_turns, row
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from semppl_mini import Config
from semppl_mini.rng import VIEWS, generator
from semppl_mini.views import draw_views, finish_views

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scale"))
from imagenet import load_imagenet, write_shards  # noqa: E402

SAMPLE = Path(os.environ.get("SEMPPL_SHARED") or ROOT.parent / "shared") / "data/imagenet-sample/train.tar"
BATCH, STEPS, WORKERS = 32, 8, 2


class Steps(Dataset):
    """Entry `step`: the uint8 crops of that step's rows and their draws, a function of (seed, step) only."""

    def __init__(self, images, config):
        self.images, self.config = images, config

    def __len__(self):
        return STEPS

    def __getitem__(self, step):
        draws = draw_views(self.config, BATCH, generator(self.config.seed, step, VIEWS))
        index = (step * BATCH + torch.arange(BATCH)) % len(self.images)
        return self.images.crops(index, draws, self.config), draws


def transform(config, v: int) -> T.Compose:
    """View v of a config in torchvision's words, with the blur kernel of views.py."""
    large = v < config.large_views
    side, scale = (config.large_size, config.large_scale) if large else (config.small_size, config.small_scale)
    jitter = T.ColorJitter(config.brightness, config.contrast, config.saturation, config.hue)
    blur = T.GaussianBlur(2 * (side // 20) + 1, config.blur_sigma)
    return T.Compose([
        T.RandomResizedCrop(side, scale, config.ratio, T.InterpolationMode.BICUBIC),
        T.RandomHorizontalFlip(config.flip_p),
        T.RandomApply([jitter], config.jitter_p),
        T.RandomGrayscale(config.grey_p),
        T.RandomApply([blur], config.blur_p[v % len(config.blur_p)]),
        T.RandomSolarize(128, config.solarize_p[v % len(config.solarize_p)]),
        T.ToTensor(),
        T.Normalize(config.mean, config.std),
    ])  # fmt: skip


class AllViews:
    def __init__(self, config):
        self.views = [transform(config, v) for v in range(config.large_views + config.small_views)]

    def __call__(self, image):
        return [view(image) for view in self.views]


def ours(folder: Path, config):
    """A task: STEPS batches of views."""
    steps = Steps(load_imagenet(folder).train, config)
    loader = DataLoader(steps, batch_size=None, num_workers=WORKERS, persistent_workers=True)

    def task():
        for crops, draws in loader:
            finish_views(crops, draws, config)

    return task


def theirs(folder: Path, config):
    """A task: STEPS batches of views."""
    images = ImageFolder(folder / "train", AllViews(config))
    images.samples = images.samples[: BATCH * STEPS]
    loader = DataLoader(images, BATCH, num_workers=WORKERS, persistent_workers=True)

    def task():
        for views, _ in loader:
            assert len(views) == config.large_views + config.small_views

    return task


def measure(rounds: int = 5) -> list[dict]:
    if not SAMPLE.exists():
        print(f"left out: there is no {SAMPLE} (a tar of train/SYNSET/*.JPEG)")
        return []
    config, n = Config(interpolation="bicubic"), BATCH * STEPS
    with tempfile.TemporaryDirectory() as folder, tarfile.open(SAMPLE) as tar:
        folder, kept = Path(folder), os.environ.get("SEMPPL_DATA")
        tar.extractall(folder)  # our own sample
        write_shards(folder, folder / "shards", 250)
        os.environ["SEMPPL_DATA"] = str(folder / "index")
        tasks = {"class folders": ours(folder, config), "shards": ours(folder / "shards", config)}
        tasks["ImageFolder, PIL"] = theirs(folder, config)
        os.environ.pop("SEMPPL_DATA") if kept is None else os.environ.update(SEMPPL_DATA=kept)
        seconds = by_turns(tasks, rounds)
        return [row(f"six views from {name}", seconds, name, "ImageFolder, PIL", 2, n)
                for name in ("class folders", "shards")]  # fmt: skip
