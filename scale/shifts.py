"""ImageNet classifiers on images from elsewhere: ImageNet-V2, -R, -Sketch and -C, from their folders.

    python scale/evaluate.py RUNS/linear-1.2-100 --on imagenet-c --data FOLDER --name semppl-c

The run is a classifier, of `--on linear` or `--on finetune` or scale/train.py, whose classes are synsets (run.json).

    imagenet-v2        FOLDER/0 ... FOLDER/999: numbers of the sorted synsets (Recht et al., 2019,
                       github.com/modestyachts/ImageNetV2); ImageFolder alone would sort them as words
    imagenet-r         FOLDER/SYNSET of 200 classes, the answer taken among these (Hendrycks et al., 2021,
                       github.com/hendrycks/imagenet-r, eval.py)
    imagenet-sketch    FOLDER/SYNSET (Wang et al., 2019, github.com/HaohanWang/ImageNet-Sketch)
    imagenet-c         FOLDER/CORRUPTION/SEVERITY/SYNSET, images of 224 pixels that are not resized (Hendrycks and
                       Dietterich, 2019, github.com/hendrycks/robustness)

Mean corruption error, with E the share that is wrong and A that of AlexNet, over 15 corruptions c, 5 severities s:

    CE_c = sum_s E_c,s / sum_s A_c,s        mCE = mean_c CE_c

classes/imagenet.txt has the 1,000 synsets in their order, imagenet_r.txt those 200 (both lists are in that eval.py).
"""

from pathlib import Path

import torch
from encoders import see, top, whole
from torchvision.datasets import ImageFolder

from semppl_mini.parallel import device_of
from semppl_mini.relatives.classifier import FineTuning

# classes, images; of -C in each of its 75 folders
SETS = {"imagenet-v2": (1000, 10_000), "imagenet-r": (200, 30_000), "imagenet-sketch": (1000, 50_889),
        "imagenet-c": (1000, 50_000)}  # fmt: skip
IMAGENET, RENDITIONS = (
    (Path(__file__).parent / "classes" / f"{name}.txt").read_text().split() for name in ("imagenet", "imagenet_r")
)
ALEXNET = {  # its errors, mean over severities: from there, by way of github.com/google-research/augmix, imagenet.py
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip


def read(run, told: dict, on: str, args) -> dict:
    classes, config = told["classes"], run.config.replace(large_size=told["size"][0])
    if not isinstance(run.method, FineTuning) or not set(classes) <= set(IMAGENET) or not classes:
        raise ValueError(f"{args.run} tells no synsets apart; give the folder of a classifier of ImageNet's classes, "
                         "as --on linear and --on finetune make it.")  # fmt: skip
    model = run.method.model.eval().to(device_of(config))

    def share_right(folder: Path, resize: int | None) -> dict:
        return right(model, config, folder, resize, on, classes, args.workers)

    if on != "imagenet-c":
        return share_right(Path(args.data), round(config.large_size * 256 / 224))
    folders = {(c, s): Path(args.data) / c / str(s) for c in ALEXNET for s in range(1, 6)}
    if missing := [folder for folder in folders.values() if not folder.is_dir()]:
        others = f"as are {len(missing) - 1} others of {len(folders)} folders"
        raise ValueError(f"{missing[0]} is missing, {others}; unpack all of them, since the mean is over all.")
    seen = {at: share_right(folder, None) for at, folder in folders.items()}
    complete = all(found["complete"] for found in seen.values())
    return corruption_error({at: 1 - found["top1"] for at, found in seen.items()}) | {"complete": complete}


def corruption_error(wrong: dict[tuple[str, int], float]) -> dict:
    """Errors {(corruption, severity): share} -> {"mce", "ce": {corruption: CE}, "error": its mean over severities}."""
    error = {c: sum(wrong[c, s] for s in range(1, 6)) / 5 for c in ALEXNET}
    ce = {c: error[c] / ALEXNET[c] for c in ALEXNET}
    return {"mce": sum(ce.values()) / len(ce), "ce": ce, "error": error}


def right(model, config, folder: Path, resize: int | None, on: str, classes: list[str], workers: int) -> dict:
    """{"top1", "top5", "classes", "images"} of the images in a folder of class folders."""
    try:
        images = ImageFolder(folder, whole(config.large_size, resize))
    except OSError as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ValueError(f"{folder} holds no {on} in its own layout ({reason}); unpack it there.") from None
    synsets = [synset_of(name, on, folder) for name in images.classes]
    if strange := sorted({*synsets} - {*classes}):
        others = f"nor {len(strange) - 1} others of its {len(synsets)} classes"
        raise ValueError(f"The run does not know {strange[0]}, which {folder} has, {others}; give one that does.")
    logits, y = see(model, images, config, workers)
    among = [i for i, synset in enumerate(classes) if on != "imagenet-r" or synset in RENDITIONS]
    place = {classes[i]: at for at, i in enumerate(among)}  # in the logits that count
    truth = torch.tensor([place[synset] for synset in synsets])[y]
    whole_set = (len(synsets), len(y)) == SETS[on]
    return top(logits[:, among], truth) | {"classes": len(synsets), "images": len(y), "complete": whole_set}


def synset_of(name: str, on: str, folder: Path) -> str:
    if on == "imagenet-v2":
        if not name.isdecimal() or int(name) >= len(IMAGENET):
            raise ValueError(f"{folder / name} is no class of {on}; its folders are called 0 to {len(IMAGENET) - 1}.")
        return IMAGENET[int(name)]
    if name not in (known := RENDITIONS if on == "imagenet-r" else IMAGENET):
        raise ValueError(f"{folder / name} is no class of {on}; its folders are called like {known[0]}.")
    return name
