"""(g) The ImageNet pipeline against ImageFolder with torchvision's transforms: six views of an image, 2 workers each.

From files to normalised float views (4 x 224 and 2 x 96 pixels, values of `Config()`, bicubic), all on the CPU.
Theirs: PIL in the workers, a view at a time, without saliency masks. Ours: decoding, masks, crops and photometrics in
the workers; in the last line photometrics in the main process with one thread, where a run has its GPU or TPU. One
real image a class, short side 256: ImageNet's own files are larger, which adds to the decoding of both.
"""

import os
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path

import torch
from timing import by_turns, row
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder

from semppl_mini import Config
from semppl_mini.rng import VIEWS, generator
from semppl_mini.views import draw_views

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scale"))
from imagenet import finish_views, load_imagenet, write_shards  # noqa: E402

SAMPLE = Path(os.environ.get("SEMPPL_SHARED") or ROOT.parent / "shared") / "data/imagenet-sample/train.tar"
BATCH, STEPS, WORKERS = 32, 8, 2


class Steps(Dataset):
    """Entry `step`: that step's crops, finished or with their draws, a function of (seed, step) only."""

    def __init__(self, images, config, finish):
        self.images, self.config, self.finish = images, config, finish

    def __len__(self):
        return STEPS

    def __getitem__(self, step):
        draws = draw_views(self.config, BATCH, generator(self.config.seed, step, VIEWS))
        index = (step * BATCH + torch.arange(BATCH)) % len(self.images)
        crops = self.images.crops(index, draws, self.config)
        return finish_views(crops, draws, self.config) if self.finish else (crops, draws)


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


def ours(folder: Path, config, finish: bool = True):
    """A task: STEPS batches of views, finished in the workers or here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the sample has no validation images
        steps = Steps(load_imagenet(folder).train, config, finish)
    loader = DataLoader(steps, batch_size=None, num_workers=WORKERS, persistent_workers=True)

    def task():
        for batch in loader:
            views = batch if finish else finish_views(*batch, config)
            assert len(views) == config.large_views + config.small_views

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


def measure(rounds: int = 7) -> list[dict]:
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
        tasks["photometrics apart"] = ours(folder / "shards", config, finish=False)
        tasks["ImageFolder, PIL"] = theirs(folder, config)
        os.environ.pop("SEMPPL_DATA") if kept is None else os.environ.update(SEMPPL_DATA=kept)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the workers have the other cores
        seconds = by_turns(tasks, rounds)
        torch.set_num_threads(threads)
        goals = {"class folders": 2, "shards": 2, "photometrics apart": None}
        return [row(f"six views, {name}", seconds, name, "ImageFolder, PIL", goals[name], n) for name in goals]
