"""Draws a tiny detection set in COCO's layout: discs, squares and triangles of one texture on another.

    python scale/shapes.py build/shapes --train 240 --val 80

Shapes differ in form alone: colours and textures are drawn alike for all, and for the ground. For scale/detect.py.
"""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from semppl_mini.files import make_folder, write_json
from semppl_mini.keeping.command import Parser, command

FORMS = {"disc": 24, "square": 4, "triangle": 3}  # corners


def texture(side: int, rng) -> np.ndarray:
    """uint8 (side, side, 3): a wave of two colours, and noise."""
    y, x = np.mgrid[:side, :side]
    angle, length, colours = rng.uniform(0, math.pi), rng.uniform(4, 20), rng.uniform(0, 255, (2, 3))
    wave = 0.5 + 0.5 * np.sin((x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / length)[..., None]
    image = colours[0] * wave + colours[1] * (1 - wave) + rng.normal(0, 10, (side, side, 3))
    return image.clip(0, 255).astype(np.uint8)


def corners(form: str, x: float, y: float, radius: float, rng) -> list[float]:
    """x, y, x, y, ... of a regular polygon, turned at random."""
    turn, n = rng.uniform(0, 2 * math.pi), FORMS[form]
    angles = [turn + 2 * math.pi * k / n for k in range(n)]
    return [v for a in angles for v in (x + radius * math.cos(a), y + radius * math.sin(a))]


def picture(side: int, rng) -> tuple[Image.Image, list[tuple[str, list[float]]]]:
    """An image, and the form and corners of each of its one to three shapes, which keep apart."""
    image, things, taken = Image.fromarray(texture(side, rng)), [], []
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(side / 9, side / 5)
        x, y = rng.uniform(radius, side - radius, 2)
        if all(math.hypot(x - u, y - v) > radius + r for u, v, r in taken):
            form = str(rng.choice(list(FORMS)))
            polygon, mask = corners(form, x, y, radius, rng), Image.new("L", (side, side))
            ImageDraw.Draw(mask).polygon(polygon, fill=255)
            image.paste(Image.fromarray(texture(side, rng)), mask=mask)
            taken.append((x, y, radius)), things.append((form, polygon))
    return image, things


def draw(root, n: dict[str, int], side: int = 96, seed: int = 0) -> Path:
    """n: how many images a part, {"train": 240, "val": 80}."""
    rng, root = np.random.default_rng(seed), Path(root)
    for part, count in n.items():
        folder, images, things = make_folder(root / f"{part}2017"), [], []
        for i in range(1, count + 1):
            image, found = picture(side, rng)
            image.save(folder / f"{i:012d}.png")
            images.append({"id": i, "file_name": f"{i:012d}.png", "width": side, "height": side})
            things += [told(form, polygon, i, len(things) + k) for k, (form, polygon) in enumerate(found, 1)]
        kinds = [{"id": k, "name": form} for k, form in enumerate(FORMS, 1)]
        about = {"images": images, "annotations": things, "categories": kinds}
        write_json(make_folder(root / "annotations") / f"instances_{part}2017.json", about)
    return root


def told(form: str, polygon: list[float], image: int, number: int) -> dict:
    """An annotation of COCO's: box of left, top, width, height, and the polygon itself."""
    xs, ys = polygon[::2], polygon[1::2]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    area = abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2
    return {"id": number, "image_id": image, "category_id": list(FORMS).index(form) + 1, "bbox": box, "area": area,
            "iscrowd": 0, "segmentation": [polygon]}  # fmt: skip


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("out", type=Path, help="a new folder")
    for part, count in (("train", 240), ("val", 80)):
        parser.add_argument(f"--{part}", type=int, default=count, help="images")
    parser.add_argument("--side", type=int, default=96, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, least in (("train", 1), ("val", 1), ("side", 32), ("seed", 0)):
        parser.whole(f"--{name}", getattr(args, name), least)
    if args.out.exists():
        parser.error(f"{args.out} is there already; give a new folder")
    print(f"{draw(args.out, {'train': args.train, 'val': args.val}, args.side, args.seed)} is drawn.")


if __name__ == "__main__":
    command(main, "scale/shapes.py")
