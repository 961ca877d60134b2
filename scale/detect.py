"""Detection, and segmentation with --masks, by torchvision's Faster R-CNN or Mask R-CNN with FPN around an encoder.

    python scale/detect.py runs/ifnd --data COCO --name ifnd-coco
    python scale/detect.py runs/ifnd/export-timm --data COCO --masks --name ifnd-coco-masks
    python scale/detect.py random --data build/shapes --recipe tiny --freeze --name shapes-frozen

DATA is a folder in COCO's layout: train2017/, val2017/ and annotations/instances_train2017.json, ..._val2017.json.
`random` is a new ResNet-18. Average precision is COCO's own (pycocotools).

--recipe moco is MoCo's for COCO (He et al., 2020; github.com/facebookresearch/moco, detection/), which IFND took over:
all layers are trained, batch norms too, also in FPN; SGD, momentum 0.9, rate 0.02 at batch 16 (smaller batches take so
much less), decay 1e-4, a tenth of the rate after 2/3 and 8/9 of 90,000 steps; short sides of 640 to 800 pixels in
training, 800 in evaluation. Theirs is Detectron2's network on eight GPUs; this is torchvision's, in one process, and
starts anew when it was stopped. --recipe tiny is for the images of 64 pixels that scale/shapes.py draws.
"""

import contextlib
import importlib.util
import io
import json
import math
import shlex
import sys
import time
from collections import OrderedDict
from pathlib import Path

import encoders
import torch
from launch import check_file_name, hardware
from torch import Tensor, nn
from torchvision.datasets import CocoDetection
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.v2 import functional as tv

import semppl_mini as s
from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping import runs_dir
from semppl_mini.keeping.command import Parser, command
from semppl_mini.networks import ENCODERS, ResNet
from semppl_mini.parallel import device_of

RECIPES = {  # steps, images of a step, rate at that batch; sides in training and at test; widths; anchors, RoIs
    "moco": {"steps": 90_000, "batch": 16, "rate": 0.02, "sides": tuple(range(640, 801, 32)), "side": 800,
             "longest": 1333, "channels": 256, "hidden": 1024, "anchor": 32, "rois": 512},
    "tiny": {"steps": 400, "batch": 8, "rate": 2e-3, "adamw": True, "sides": (64,), "side": 64, "longest": 64,
             "channels": 32, "hidden": 128, "anchor": 12, "rois": 32},
}  # fmt: skip
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of what COCOeval sums up


# ---- networks


class Body(nn.Module):
    """An encoder's stages, then FPN: images (B, 3, H, W) -> {"0": (B, F, H / 4, W / 4), ..., "3", "pool"}."""

    def __init__(self, encoder: nn.Module, frozen: bool, channels: int, x: Tensor):
        super().__init__()
        if not isinstance(encoder, ResNet):
            raise ValueError(f"{type(encoder).__name__} has not the stages that FPN takes; give a run of a ResNet.")
        self.encoder, self.frozen, self.out_channels = encoder, frozen, channels
        encoder.requires_grad_(not frozen)
        with torch.no_grad():
            sizes = [f.shape for f in self.eval().maps(x)]
        self.last = [i for i, f in enumerate(sizes) if i + 1 == len(sizes) or sizes[i + 1][1:] != f[1:]]  # of a stage
        widths = [sizes[i][1] for i in self.last]
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), nn.BatchNorm2d)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The output of every block."""
        x, found = self.encoder.stem(x), []
        for block in self.encoder.stages:
            found.append(x := block(x))
        return found

    def train(self, mode: bool = True) -> "Body":
        super().train(mode)
        self.encoder.train(mode and not self.frozen)
        return self

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.maps(x)
        return self.fpn(OrderedDict((str(k), found[i]) for k, i in enumerate(self.last)))


def detector(run: s.Run, recipe: dict, classes: int, frozen: bool, masks: bool) -> nn.Module:
    """Faster R-CNN, or Mask R-CNN, for so many classes beside the background."""
    body = Body(run.method.encoder, frozen, recipe["channels"], torch.zeros(1, 3, 64, 64))
    levels = len(body.last) + 1
    anchors = AnchorGenerator(tuple((recipe["anchor"] << k,) for k in range(levels)), levels * ((0.5, 1.0, 2.0),))
    F, hidden = recipe["channels"], recipe["hidden"]
    return (MaskRCNN if masks else FasterRCNN)(
        body, min_size=recipe["sides"], max_size=recipe["longest"], image_mean=run.config.mean,
        image_std=run.config.std, rpn_anchor_generator=anchors, box_batch_size_per_image=recipe["rois"],
        box_head=TwoMLPHead(F * 7 * 7, hidden), box_predictor=FastRCNNPredictor(hidden, classes + 1),
        **({"mask_predictor": MaskRCNNPredictor(256, 256, classes + 1)} if masks else {}),
    )  # fmt: skip


# ---- data


def opened(root: Path, part: str, masks: bool = False) -> CocoDetection:
    """ValueError: a part is missing, or something else."""
    folder, told = root / f"{part}2017", root / "annotations" / f"instances_{part}2017.json"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells how long it took
            images = CocoDetection(str(folder), str(told))
        if not images.ids or not images.coco.getCatIds():
            raise ValueError("no image, or no class")
        check(images, folder, masks)
        return images
    except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
        reason = f"{type(error).__name__}: " + " ".join(str(error).split())[:200].rstrip(".")
        need = f"{folder.name}/ and {told.relative_to(root)}"
        raise ValueError(f"{root} holds no {part} part in COCO's layout ({reason}); put {need} there.") from None


def check(images: CocoDetection, folder: Path, masks: bool) -> None:
    """ValueError, before anything is trained: an annotation is of no use, all are, or an image is not there."""
    things = images.coco.anns
    if len(things) < (n := len(images.coco.dataset.get("annotations", ()))):
        raise ValueError(f"{n} annotations share {len(things)} ids")
    for name, thing in things.items():
        if odd := fault(thing, images.coco, masks):
            raise ValueError(f"annotation {name} {odd}")
    if not any(map(learnt, things.values())):
        raise ValueError(f"none of {len(things)} annotations has a box of a pixel or more that is no crowd")
    for told in images.coco.imgs.values():
        if not (folder / told["file_name"]).is_file():
            raise ValueError(f"{told['file_name']} is not there")


def fault(thing: dict, coco, masks: bool) -> str:
    """What is wrong with an annotation, or ""."""
    def number(x):
        return isinstance(x, (int, float)) and math.isfinite(x)

    box, shape = thing.get("bbox", ()), thing.get("segmentation")
    for name, known in (("category_id", coco.cats), ("image_id", coco.imgs)):
        if thing.get(name) not in known:
            return f"is of {name} {thing.get(name)}, which is not told"
    if not isinstance(box, list) or len(box) != 4 or not all(map(number, box)):
        return f"has bbox {box}, not left, top, width, height"
    if not number(thing.get("area")):
        return f"has area {thing.get('area')}, not a number of pixels"
    polygons = shape if isinstance(shape, list) else ()
    if masks and not isinstance(shape, dict) and not (polygons and all(len(polygon) >= 6 for polygon in polygons)):
        return "has no segmentation: polygons of three corners or more, or run lengths"
    return ""


def learnt(thing: dict) -> bool:
    return not thing.get("iscrowd") and min(thing["bbox"][2:]) >= 1


def example(images: CocoDetection, i: int, flip: bool, masks: bool) -> tuple[Tensor, dict]:
    """Image i in [0, 1]; its objects' boxes (n, 4), left, top, right, bottom, labels from 1 on, masks (n, H, W)."""
    try:
        image, things = images[i]
    except (OSError, SyntaxError) as error:  # PIL's
        name = Path(images.root) / images.coco.imgs[images.ids[i]]["file_name"]
        raise ValueError(f"{name} cannot be read ({error}); fetch it again, or leave it out.") from None
    x = tv.to_dtype(tv.pil_to_tensor(image.convert("RGB")), torch.float32, scale=True)
    things = list(filter(learnt, things))
    boxes = torch.tensor([thing["bbox"] for thing in things], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = sorted(images.coco.getCatIds())
    labels = [classes.index(thing["category_id"]) + 1 for thing in things]
    target = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.long)}
    if masks:
        found = [torch.from_numpy(images.coco.annToMask(thing)) for thing in things]
        target["masks"] = torch.stack(found) if found else torch.zeros(0, *x.shape[1:], dtype=torch.uint8)
    if flip:
        x, width = x.flip(-1), x.shape[-1]
        target["boxes"] = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        target |= {"masks": target["masks"].flip(-1)} if masks else {}
    return x, target


# ---- training and evaluation


def rate_at(step: int, recipe: dict) -> float:
    """Linear warm-up over a tenth of all steps, 1,000 at most; a tenth of the rate after 2/3 and again after 8/9."""
    steps = recipe["steps"]
    warm = min(1.0, (step + 1) / min(1000, max(1, steps // 10)))
    return recipe["rate"] * warm * 0.1 ** ((3 * step >= 2 * steps) + (9 * step >= 8 * steps))


def train(model: nn.Module, images: CocoDetection, recipe: dict, seed: int, masks: bool) -> list[float]:
    """The loss of every step."""
    device, rng, order, losses = next(model.parameters()).device, torch.Generator().manual_seed(seed), [], []
    weights = [p for p in model.parameters() if p.requires_grad]
    if recipe.get("adamw"):
        optimizer = torch.optim.AdamW(weights, recipe["rate"])
    else:
        optimizer = torch.optim.SGD(weights, recipe["rate"], momentum=0.9, weight_decay=1e-4)
    model.train()
    for step in range(recipe["steps"]):
        while len(order) < recipe["batch"]:
            order += torch.randperm(len(images), generator=rng).tolist()
        own, order = order[: recipe["batch"]], order[recipe["batch"] :]
        flips = (torch.rand(len(own), generator=rng) < 0.5).tolist()
        pairs = [example(images, i, flip, masks) for i, flip in zip(own, flips, strict=True)]
        x = [image.to(device) for image, _ in pairs]
        loss = sum(model(x, [{k: v.to(device) for k, v in target.items()} for _, target in pairs]).values())
        if not loss.isfinite():
            loss = float(loss.detach())
            raise ValueError(f"The loss of step {step} is {loss}; give a smaller --rate than {recipe['rate']:g}.")
        optimizer.param_groups[0]["lr"] = rate_at(step, recipe)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def found_in(model: nn.Module, images: CocoDetection, recipe: dict) -> list[dict]:
    """What the model finds, as COCO's results."""
    from pycocotools import mask

    model.eval()
    model.transform.min_size = (recipe["side"],)
    device, classes, rows = next(model.parameters()).device, sorted(images.coco.getCatIds()), []
    for i, image_id in enumerate(images.ids):
        (out,) = model([example(images, i, flip=False, masks=False)[0].to(device)])
        out = {name: value.cpu() for name, value in out.items()}
        out["boxes"][:, 2:] -= out["boxes"][:, :2]
        for k, box in enumerate(out["boxes"].tolist()):
            row = {"image_id": image_id, "category_id": classes[int(out["labels"][k]) - 1], "bbox": box}
            if "masks" in out:
                pixels = (out["masks"][k, 0] > 0.5).numpy().astype("uint8", order="F")
                row["segmentation"] = mask.encode(pixels)
            rows.append(row | {"score": float(out["scores"][k])})
    return rows


def average_precision(images: CocoDetection, rows: list[dict], kind: str) -> dict:
    """COCO's {"AP", "AP50", "AP75", "APs", "APm", "APl"} of boxes (kind "bbox") or masks ("segm"); -1: none to find."""
    from pycocotools.cocoeval import COCOeval

    if not rows:
        return dict.fromkeys(NAMES, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        scored = COCOeval(images.coco, images.coco.loadRes(rows), kind)
        scored.evaluate(), scored.accumulate(), scored.summarize()
    return dict(zip(NAMES, map(float, scored.stats), strict=False))  # then recalls


def detect(run: s.Run, root, recipe: dict, frozen=False, masks=False, seed: int = 0) -> dict:
    """Train a detector around the run's encoder, and measure it: {"bbox": {"AP", ...}, "segm", "loss"}."""
    train_images, val_images = (opened(Path(root), part, masks) for part in ("train", "val"))
    told, asked = (sorted(images.coco.getCatIds()) for images in (train_images, val_images))
    if told != asked:
        odd = sorted({*told} ^ {*asked})[0]
        raise ValueError(f"{root} has category {odd} in one of its two parts only; tell the same ones in both.")
    torch.manual_seed(seed)
    classes = len(train_images.coco.getCatIds())
    model = detector(run, recipe, classes, frozen, masks).to(device_of(run.config))
    losses = train(model, train_images, recipe, seed, masks)
    rows = found_in(model, val_images, recipe)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    few = max(1, len(losses) // 10)
    ends = {"first": sum(losses[:few]) / few, "last": sum(losses[-few:]) / few}
    return {kind: average_precision(val_images, rows, kind) for kind in kinds} | {"loss": ends}


def new(seed: int = 0, **fields) -> s.Run:
    """An encoder that has learnt nothing, ResNet-18 with ImageNet's stem."""
    config = s.Config().replace(**{"backbone": "resnet18", "stem": "imagenet", "device": "cpu", **fields})
    torch.manual_seed(seed)
    method = nn.Module()
    method.encoder = ENCODERS[config.backbone](config)
    return s.Run(config, method, data="nothing")


def main() -> None:
    parser, start = Parser(__doc__), time.time()
    parser.add_argument("run", help="the folder of a run, one of its checkpoints or exports; or random")
    parser.add_argument("--data", type=Path, required=True, help="a folder in COCO's layout")
    parser.add_argument("--name", required=True, help="of the JSON file")
    parser.add_argument("--recipe", choices=RECIPES, default="moco")
    parser.add_argument("--masks", action="store_true", help="Mask R-CNN")
    parser.add_argument("--freeze", action="store_true", help="leave the encoder as it is")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--batch", type=int, help="likewise; the rate changes with it")
    parser.add_argument("--rate", type=float, help="likewise, at this batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="where to compute (default: as the run)")
    parser.add_argument("--out", type=Path, help="folder of the JSON file (default: that of the runs)")
    args = parser.parse_args()
    parser.whole("--steps", args.steps, 1), parser.whole("--batch", args.batch, 1), parser.whole("--seed", args.seed, 0)
    check_file_name(parser, args.name)
    if args.rate is not None and not 0 < args.rate < 1e6:
        parser.error(f"--rate {args.rate} is no positive number; give 0.02 for example")
    if importlib.util.find_spec("pycocotools") is None:
        parser.error("COCO's average precision needs pycocotools; pip install 'semppl-mini[doors]' adds it")
    recipe = RECIPES[args.recipe]
    batch = args.batch or recipe["batch"]
    rate = args.rate or recipe["rate"] * batch / recipe["batch"]
    own = {"batch": batch, "rate": rate, "steps": args.steps or recipe["steps"]}
    run = new(args.seed) if args.run == "random" else encoders.load(args.run)[0]
    run.config = run.config.replace(device=args.device or run.config.device)
    out = make_folder(args.out or runs_dir())  # before hours of work, not after
    result = {"name": args.name, "trained_on": run.data, "data": str(args.data), "hardware": hardware(run.config),
              "command": shlex.join(["python", "scale/detect.py", *sys.argv[1:]]), "recipe": recipe | own}  # fmt: skip
    result["results"] = detect(run, args.data, recipe | own, args.freeze, args.masks, args.seed)
    write_json(out / f"{args.name}.json", result | {"wall_seconds": time.time() - start})
    print(json.dumps(result["results"], indent=1))


if __name__ == "__main__":
    command(main, "scale/detect.py")
