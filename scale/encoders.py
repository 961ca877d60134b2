"""An encoder to be read out, of whatever this repository writes, and what all processes see with it.

    load("runs/semppl")                     a run, or one of its checkpoints; a converted checkpoint is one, too
    load("runs/semppl/export-timm")         an export that holds weights: torchvision, timm, safetensors
"""

from functools import partial
from pathlib import Path

import torch
from export import read_json, told_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv

import semppl_mini as s
from semppl_mini import parallel
from semppl_mini.files import check_type, checkpoint
from semppl_mini.keeping import start_from
from semppl_mini.keeping.run import ARCHITECTURE
from semppl_mini.method import encode
from semppl_mini.relatives.classifier import LinearEvaluation

WEIGHTS = ("encoder.pth", "encoder.safetensors", "model.safetensors", "encoder.pt")  # of exports, and a run's alone
PROGRAMS = ("encoder.onnx", "encoder.torchscript.pt", "encoder.pt2")


def load(path) -> tuple[s.Run, dict]:
    """A run, and what its run.json tells (`export.told_of`); of an export a run without a history."""
    folder = Path(path)
    if not (folder / "run.json").is_file() or checkpoint.kept(folder):
        run = s.load_run(path)
        return run, told_of(run)
    found = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not found:
        programs = [name for name in PROGRAMS if (folder / name).is_file()]
        has = f"holds a program ({programs[0]})" if programs else f"holds none of {', '.join(WEIGHTS)}"
        raise ValueError(f"{folder} {has}; give the run's own folder, or export it to safetensors or torchvision.")
    told = read_json(folder / "run.json")
    method = LinearEvaluation(config_of(folder / "run.json", told), 2)
    start_from(found[0], method)
    run = s.Run(method.config, method, [], folder, str(told.get("provenance", "unknown")))
    return run, told_of(run)


def config_of(path: Path, told: dict) -> s.Config:
    architecture = check_type(f"{path}: architecture", told.get("architecture"), dict)
    architecture = {name: architecture[name] for name in ARCHITECTURE if name in architecture}
    own = {name: told[name] for name in ("mean", "std") if name in told}
    return s.Config.from_dict({**architecture, **own, "method": "linear", "device": "cpu"})


def view(size: int, resize: int | None, image) -> Tensor:
    """PIL image -> uint8 (3, size, size): the short side to `resize` pixels (None: as it is), then the centre."""
    x = tv.pil_to_tensor(image.convert("RGB"))
    x = x if resize is None else tv.resize(x, [resize], tv.InterpolationMode.BICUBIC, antialias=True)
    return tv.center_crop(x, [size, size])


def whole(size: int, resize: int | None):
    """The function image -> `view(size, resize, image)`, which can be sent to workers however these are started."""
    return partial(view, size, resize)


class Readable(Dataset):
    """Some images of a set; ValueError, by name, where one cannot be read."""

    def __init__(self, images: Dataset, rows: list[int]):
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int):
        try:
            return self.images[self.rows[i]]
        except (OSError, SyntaxError) as error:  # PIL's
            raise ValueError(f"An image cannot be read ({error}); fetch it again, or leave it out.") from None


@torch.no_grad()
def see(network: nn.Module, images: Dataset, config, workers: int = 0) -> tuple[Tensor, Tensor]:
    """What a network makes of n pairs (uint8 image, label): (n, dim), and the labels, (n,) or (n, C).

    Of several processes each sees its share, and all get all of it.
    """
    n = len(images)
    own = Readable(images, parallel.share(n).tolist())
    try:
        seen = [(encode(network, x, config), y) for x, y in DataLoader(own, 64, num_workers=workers)]
    except ValueError as error:  # a worker's has its whole traceback
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None
    return tuple(everywhere(torch.cat(part), config)[:n] for part in zip(*seen, strict=True))


def everywhere(x: Tensor, config) -> Tensor:
    """The rows of all processes, on the CPU; what exchanges them may want them on a device."""
    return parallel.gather(x.to(parallel.device_of(config))).cpu() if parallel.size() > 1 else x


def top(logits: Tensor, truth: Tensor) -> dict:
    """{"top1", "top5"}: the shares of images whose class is the likeliest, or among the five likeliest."""
    right = logits.topk(min(5, logits.shape[1])).indices == truth[:, None]  # (n, 5)
    return {"top1": float(right[:, 0].float().mean()), "top5": float(right.any(1).float().mean())}
