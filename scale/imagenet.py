"""ImageNet from class folders or tar shards: decode and crop on the host, photometrics later, batched on the device.

    FOLDER/train/SYNSET/*.JPEG    and perhaps FOLDER/val/SYNSET/*.JPEG, or
    FOLDER/train*.tar             (or train/*.tar) with members .../SYNSET/NAME.JPEG or .../SYNSET_NUMBER.JPEG; val too

    python scale/imagenet.py shards --from FOLDER --to SHARDS --size 1000     (images a shard; `webdataset` reads them)
    python scale/imagenet.py shards --from FOLDER --to SHARDS --resize 256    (the short side; fewer pixels to decode)

An image is its key, SYNSET/NAME without suffix: keys, sorted, give ids, classes and order, however the bytes are kept.
Any image can be read at any time: of a shard, an index of (key, offset, bytes) is made once with `tarfile` and kept.
Pixels are decoded as published results have them: EXIF orientation and transparency are ignored, other than in packs.
Readers that stream shards (webdataset's, for one) are faster on object stores, but their order depends on shards,
workers and a shuffle buffer, and a stopped epoch cannot go on exactly where it was. Here the order stays a function
of (seed, epoch) and a view one of (seed, step, row); archives are never extracted, links and devices refused.

n images, C classes, b rows of one process, S pixels a side of a view.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))
from prepare import MAX_FILE_BYTES, check_image, check_member, is_hidden, is_image, tar_members  # noqa: E402

from semppl_mini.data import Data, hide_labels, hold_out  # noqa: E402
from semppl_mini.files import data_dir, make_folder, write_json, write_whole  # noqa: E402
from semppl_mini.keeping.command import Parser, command  # noqa: E402
from semppl_mini.parallel import device_of  # noqa: E402
from semppl_mini.views import Draw, beside, boxes, crop_of, fractions, normalise, passes, photometrics, saliency  # noqa: E402

SYNSET = r"n\d{8}"
LISTED = re.compile(rf"({SYNSET})_\w+\.(?:jpe?g|png)", re.IGNORECASE | re.ASCII)  # a line of a label list
MAX_SHARD_BYTES = 2**40  # one shard: 1 TiB (all of ImageNet has 150 GB)
MAX_LIST_BYTES = 2**26  # a label list: 64 MiB (the names of all training images have 28 MB)
MASK_SIDE = 64  # saliency is estimated on copies of this size [ours]
GREY = 128  # of a masked background: half of 255, rounded
JPEG = dict(format="JPEG", quality=95, subsampling=0)  # of resized images: little is lost, colours are as fine as grey
CACHE = 2**18  # numbers of a view at hand on each thread of a CPU: 1 MiB

# ---- where the bytes lie --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """Where N images lie, sorted by key: arrays, not N objects, so that worker processes share or copy them cheaply."""

    root: str
    paths: np.ndarray  # bytes, below root: one an image, or one a shard
    keys: np.ndarray  # (N,) bytes: SYNSET/NAME
    part: np.ndarray  # (N,) index into paths
    offset: np.ndarray  # (N,) of its first byte
    size: np.ndarray  # (N,) bytes

    def path(self, i: int) -> Path:
        return Path(self.root, os.fsdecode(bytes(self.paths[self.part[i]])))

    def name(self, i: int) -> str:
        """What messages call image i."""
        return f"{self.path(i)} ({self.keys[i].decode()})"

    def read(self, i: int) -> bytearray:
        """The bytes of image i. ValueError if they are no longer there."""
        blob = bytearray(int(self.size[i]))
        try:
            with open(self.path(i), "rb", buffering=0) as file:  # opened anew: nothing to share between processes
                file.seek(int(self.offset[i]))
                if file.readinto(blob) == len(blob):
                    return blob
            reason = "it is shorter now"
        except OSError as error:
            reason = error.strerror
        raise ValueError(f"{self.name(i)} cannot be read as it was listed ({reason}); restore it and load again.")


def key_of(name: PurePosixPath, where) -> str:
    """SYNSET/NAME: the class is the parent folder's name, or else the start of the file's."""
    own = re.match(rf"({SYNSET})_", name.name)
    synset = name.parent.name if re.fullmatch(SYNSET, name.parent.name) else own and own.group(1)
    if not synset:
        raise ValueError(f"{where} holds {str(name)!r}, whose folder and name tell no class; call it like n01440764.")
    return f"{synset}/{name.stem}"


def list_class(folder: Path) -> list[tuple]:
    """The images of one class folder: (file name, key, bytes), sorted."""
    rows = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = PurePosixPath(folder.name, entry.name)
        if is_hidden(name) or not is_image(name):
            continue
        if not entry.is_file():
            raise ValueError(f"{entry.path} is a folder, a broken link or a device; put the image itself there.")
        if (size := entry.stat().st_size) > MAX_FILE_BYTES:
            raise ValueError(f"{entry.path} has {size} bytes, over the limit of {MAX_FILE_BYTES}; remove it.")
        rows.append((os.fsencode(entry.name), key_of(name, folder).encode(), size))
    return rows


def list_folders(root: Path, folders: list[Path]) -> Files:
    parts = []  # (paths, keys, sizes) of each class
    for folder in folders:
        if not re.fullmatch(SYNSET, folder.name):
            raise ValueError(f"{folder} is no class folder; name the folders by synset, like n01440764.")
        if not (rows := list_class(folder)):
            raise ValueError(f"Class folder {folder} holds no JPEG or PNG image; fill it or remove it.")
        names, keys, sizes = zip(*rows, strict=True)
        start = os.fsencode(folder.relative_to(root)) + b"/"
        parts.append((np.array([start + name for name in names]), np.array(keys), np.array(sizes)))
    paths, keys, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return sort_files(Files(str(root), paths, keys, np.arange(len(keys)), np.zeros(len(keys), np.int64), sizes))


def list_shards(root: Path, shards: list[Path]) -> Files:
    indices = [shard_index(shard) for shard in shards]
    keys, offset, size = (np.concatenate(column) for column in zip(*indices, strict=True))
    part = np.repeat(np.arange(len(shards)), [len(index[0]) for index in indices])
    paths = np.array([os.fsencode(shard.relative_to(root)) for shard in shards])
    return sort_files(Files(str(root), paths, keys, part, offset, size))


def sort_files(files: Files) -> Files:
    """The same, sorted by key. ValueError for a key that comes twice, or no image at all."""
    if not len(files.keys):
        raise ValueError(f"The shards in {files.root} hold no JPEG or PNG image; give others.")
    order = files.keys.argsort(kind="stable")
    sorted_ = {name: getattr(files, name)[order] for name in ("keys", "part", "offset", "size")}
    files = dataclasses.replace(files, **sorted_)
    if len(twice := np.flatnonzero(files.keys[1:] == files.keys[:-1])):
        one, other = files.name(twice[0]), files.path(twice[0] + 1)
        raise ValueError(f"{one} comes again in {other}; an image counts once, so keep one.")
    return files


def find_images(root: Path, split: str) -> Files | None:
    """The images of a split, in class folders or in shards; None if there is neither."""
    inside = sorted((root / split).iterdir()) if (root / split).is_dir() else []
    folders = [path for path in inside if path.is_dir() and not path.name.startswith(".")]
    shards = sorted(root.glob(f"{split}*.tar")) + [path for path in inside if path.suffix == ".tar"]
    if folders and shards:
        raise ValueError(f"{root} holds {split} both as {folders[0].name}/ and as {shards[0].name}; keep one of them.")
    if shards:
        return list_shards(root, shards)
    return list_folders(root, folders) if folders else None


# ---- the index of a shard -------------------------------------------------------------------------------------------


def index_tar(path: Path) -> dict:
    """{"keys": [...], "offset": [...], "size": [...]} of a tar's images, from its headers alone."""
    rows = {"keys": [], "offset": [], "size": []}
    try:
        with open(path, "rb") as stream:
            for count, member in enumerate(tar_members(stream, MAX_SHARD_BYTES), 1):
                name = check_member(member, count, path, MAX_SHARD_BYTES)
                if member.isreg() and not is_hidden(name) and is_image(name):
                    rows["keys"].append(key_of(name, path))
                    rows["offset"].append(member.offset_data)
                    rows["size"].append(member.size)
    except (tarfile.TarError, EOFError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is no whole, uncompressed tar ({error}); fetch or make it again.") from None
    return rows


def shard_index(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """keys, offset, size of a shard's images, from the index kept in `data_dir()`/shards if it fits the shard.

    It is made again when the shard's size or time of change, or its own sha256, differ; a folder that cannot be
    written to only costs the time of making it.
    """
    stat, place = path.stat(), hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]
    kept, stamp = data_dir() / "shards" / f"{path.stem}-{place}.json", [1, stat.st_size, stat.st_mtime_ns]
    try:
        held = json.loads(kept.read_bytes())
        rows = held["rows"] if held["stamp"] == stamp and held["sha256"] == sha256_of(held["rows"]) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        rows = None
    if rows is None:
        rows = index_tar(path)
        try:
            write_json(make_folder(kept.parent) / kept.name, {"stamp": stamp, "sha256": sha256_of(rows), "rows": rows})
        except OSError:
            pass
    keys = np.array([key.encode() for key in rows["keys"]], "S")
    return keys, np.array(rows["offset"], np.int64), np.array(rows["size"], np.int64)


def sha256_of(rows: dict) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


# ---- label lists ----------------------------------------------------------------------------------------------------


def read_list(path) -> list[str]:
    """The keys of a list of file names, one a line (n01440764_10026.JPEG), as SimCLR's 1% and 10% of ImageNet.

    ValueError, in one sentence, for a missing or empty file, and for a line that is no such name or comes twice.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_LIST_BYTES + 1).decode("ascii", "replace")
    except OSError as error:
        raise ValueError(f"There is no label list {path} ({error.strerror}); give a file of file names.") from None
    if len(text) > MAX_LIST_BYTES:
        raise ValueError(f"{path} is over the limit of {MAX_LIST_BYTES} bytes for a label list; give one name a line.")
    keys = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()):
            continue
        where, found = f"{path}, line {number}: {line[:60]!r}", LISTED.fullmatch(line)
        if not found and ("/" in line or "\\" in line or ".." in line):
            raise ValueError(f"{where} is a path; give bare file names like n01440764_10026.JPEG.")
        if not found:
            raise ValueError(f"{where} is no file name of ImageNet; give one like n01440764_10026.JPEG a line.")
        if (key := f"{found.group(1)}/{line.rpartition('.')[0]}") in keys:
            raise ValueError(f"{where} stands already in line {keys[key]}; name each image once.")
        keys[key] = number
    if not keys:
        raise ValueError(f"{path} names no image; give one file name like n01440764_10026.JPEG a line.")
    return list(keys)


def find_listed(files: Files, path) -> Tensor:
    """Which images (N,) a label list names. ValueError counts those that the set lacks and names the first."""
    asked = np.array([key.encode() for key in read_list(path)])
    listed = np.isin(files.keys, asked)
    if len(missing := asked[~np.isin(asked, files.keys)]):
        first = ", ".join(key.decode().partition("/")[2] for key in missing[:3]) + ", ..." * (len(missing) > 3)
        raise ValueError(f"{len(missing)} of the {len(asked)} images that {path} names are missing from {files.root} "
                         f"({first}); complete the set, or give another list.")  # fmt: skip
    return torch.from_numpy(listed)


# ---- decoding and cropping ------------------------------------------------------------------------------------------


def unreadable(name: str, error) -> ValueError:
    reason = " ".join(str(error).split())[:150].rstrip(".")
    return ValueError(f"{name} is not a readable JPEG or PNG image ({reason}); replace it.")


def open_image(blob, name: str) -> Image.Image:
    """An image whose header alone has been read. ValueError if that is broken, or asks for too much."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_image has its own limit
            image = Image.open(io.BytesIO(blob), formats=("JPEG", "PNG"))
            check_image(image, blob)
            return image
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, its bomb error, ...
        raise unreadable(name, error) from None


def decode(image: Image.Image, name: str) -> Tensor:
    """uint8 (3, H, W). ImageNet also has grey and CMYK images, and a PNG; torchvision's decoders are deprecated."""
    try:
        return torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB"))).permute(2, 0, 1)
    except Exception as error:
        raise unreadable(name, error) from None


def foreground(image: Tensor) -> Tensor:
    """Boolean mask (1, H, W) of a uint8 image (3, H, W), estimated by `views.saliency` on a small copy.

    In float64, so that the number of threads, which changes the order of sums, cannot move a pixel over the edge.
    """
    small = tv.resize(image, [MASK_SIDE, MASK_SIDE], antialias=True)[None].double() / 255
    return F.interpolate(saliency(small), image.shape[1:])[0] > 0.5


@torch.no_grad()
def finish_views(crops: list[Tensor], draws: list[Draw], config) -> list[Tensor]:
    """`views.make_views` of views that were masked, cropped, resized, flipped before: uint8 (B, 3, S, S) each."""
    made = []
    for views, draw in passes(config, draws):
        crop = crops[views[0]] if len(views) == 1 else torch.cat([crops[v] for v in views])
        rows = len(crop)
        if crop.device.type == "cpu":  # so few at a time that they stay in the caches
            rows = max(1, torch.get_num_threads() * CACHE // crop[0].numel())
        parts = []
        for i in range(0, len(crop), rows):
            x = fractions(crop[i : i + rows], config)
            part = beside(x, {name: value[i : i + rows] for name, value in draw.items()})
            parts.append(normalise(photometrics(x, part, config), config.mean, config.std))
        made += torch.cat(parts).chunk(len(views))
    return made


@dataclass(frozen=True)
class ImageFiles:
    """n images on disk, with the attributes and methods of `data.ImageSet` but for the pixels."""

    labels: Tensor  # (n,), -1 where unlabelled
    ids: Tensor  # (n,), the place among all sorted keys of the split, wherever the bytes are kept
    truth: Tensor  # (n,)
    rows: Tensor  # (n,), index into files
    files: Files
    size = (None, None)  # of pixels: each has its own

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Tensor) -> "ImageFiles":
        """The images at `index`, in that order, with their ids."""
        return ImageFiles(self.labels[index], self.ids[index], self.truth[index], self.rows[index], self.files)

    def labelled(self) -> "ImageFiles":
        """Only the images whose label is visible."""
        return self.take((self.labels >= 0).nonzero().squeeze(1))

    def digest(self) -> str:
        """sha256 of keys, sizes, visible labels and ids: which images these are, without reading them."""
        rows = self.rows.numpy()
        sha = hashlib.sha256(b"\n".join(self.files.keys[rows].tolist()))
        for array in (self.files.size[rows].astype("<i8"), self.labels.numpy(), self.ids.numpy()):
            sha.update(array.tobytes())
        return sha.hexdigest()

    def prepare(self, index: Tensor, draws: list[Draw], config) -> list[Tensor]:
        """The CPU's part of a step's views, made ahead: uint8 crops; where the CPU computes, the whole views."""
        crops = self.crops(index, draws, config)
        return finish_views(crops, draws, config) if device_of(config).type == "cpu" else crops

    def finish(self, prepared: list[Tensor], draws: list[Draw], config) -> list[Tensor]:
        """The device's part: what `prepare` made and the draws of these b rows -> L + V views."""
        return finish_views(prepared, draws, config) if prepared[0].dtype == torch.uint8 else prepared

    def crops(self, index: Tensor, draws: list[Draw], config) -> list[Tensor]:
        """Masked, cropped, resized, flipped views of the images at `index` (b,): uint8 (b, 3, S, S), one a view.

        draws: those of these b rows, made without sizes (`views.draw_views`). Each image is read and decoded once,
        and nothing but these images is read. The rest of a view is `finish_views`. ValueError: a broken image.
        """
        rows = self.rows[index].tolist()
        images = [open_image(self.files.read(i), self.files.name(i)) for i in rows]
        width, height = torch.tensor([image.size for image in images]).reshape(-1, 2).unbind(1)
        plans, out = [], []
        for v, draw in enumerate(draws):
            side, scale = crop_of(config, v)
            box = boxes(draw["u"], height, width, scale, config.ratio).long()
            plans.append(list(zip(box.tolist(), draw["flip"].tolist(), draw["mask"].tolist(), strict=True)))
            out.append(torch.empty(len(rows), 3, side, side, dtype=torch.uint8))
        mode = InterpolationMode(config.interpolation)
        for row, i in enumerate(rows):
            image, masked = decode(images[row], self.files.name(i)), None  # (3, H, W)
            images[row] = None  # PIL keeps the pixels it has decoded
            for views, plan in zip(out, plans, strict=True):
                box, flip, mask = plan[row]
                if mask and masked is None:
                    masked = torch.where(foreground(image), image, torch.tensor(GREY, dtype=torch.uint8))
                crop = tv.resized_crop(masked if mask else image, *box, list(views.shape[2:]), mode, antialias=True)
                views[row] = crop.flip(-1) if flip else crop
        return out

    def whole(self, index: Tensor, size: int, resize: int | None = None) -> Tensor:
        """Evaluation's view of the images at `index` (b,): uint8 (b, 3, size, size).

        The short side to `resize` pixels (256 / 224 of `size` by default), bicubic, then the centre.
        """
        resize, out = resize or round(size * 256 / 224), torch.empty(len(index), 3, size, size, dtype=torch.uint8)
        for row, i in enumerate(self.rows[index].tolist()):
            image = decode(open_image(self.files.read(i), self.files.name(i)), self.files.name(i))
            image = tv.resize(image, [resize], InterpolationMode.BICUBIC, antialias=True)
            out[row] = tv.center_crop(image, [size, size])
        return out


# ---- the data set ---------------------------------------------------------------------------------------------------


def load_imagenet(path, labels=None, label_list=None, val: int | None = None, label_seed: int = 0) -> Data:
    """ImageNet in the folder `path`, as class folders or tar shards (see above); no pixel is read.

    labels, label_seed: how many training images keep their label, as in `load_data`; or label_list, a file of file
    names: exactly those keep it. val: how many training images are held out, never listed ones; by default ten a class
    if each class has 100 or more, else none [ours]. The test images are the official validation images, val/; without
    them `test` is empty, and accuracy on images never trained on can be measured on held-out ones only (a warning says
    so). Raises ValueError, in one sentence, for a set or a list that is missing, damaged, hostile or incomplete.
    """
    root = Path(path)
    if labels is not None and label_list is not None:
        raise ValueError(f"labels = {labels!r} and label_list = {str(label_list)!r} both choose labels; give one.")
    if (files := find_images(root, "train")) is None:
        raise ValueError(f"{root} holds no ImageNet; give a folder with train/SYNSET/*.JPEG or train*.tar.")
    classes, truth = np.unique(files.keys.astype("S9"), return_inverse=True)  # n and eight digits
    classes, truth = [name.decode() for name in classes], torch.from_numpy(truth)
    if len(classes) < 2:
        raise ValueError(f"{root} has 1 class; give a set of 2 or more.")
    ids = torch.arange(len(truth))
    listed = torch.zeros(len(truth), dtype=torch.bool) if label_list is None else find_listed(files, label_list)
    val = (10 * len(classes) if int(truth.bincount().min()) >= 100 else 0) if val is None else val
    kept, held = hold_out(truth, val, classes, listed)
    every = ImageFiles(truth, ids, truth, ids, files)
    train = hide_labels(every.take(kept), listed[kept] if label_list else labels, label_seed, len(classes))
    test = official_val(root, classes, len(truth)) or every.take(held[:0])
    n, C = len(truth), len(classes)
    provenance = "ImageNet-1k" if (n, C) == (1_281_167, 1000) else f"part of ImageNet ({n} images, {C} classes)"
    drawn = None if label_list else label_seed
    return Data("imagenet", provenance, classes, train, every.take(held), test, drawn)


def official_val(root: Path, classes: list[str], first_id: int) -> ImageFiles | None:
    """The official validation images; None, and a warning, if there are none. ValueError if their classes differ."""
    if (files := find_images(root, "val")) is None:
        warnings.warn(f"{root} has no val/SYNSET/*.JPEG or val*.tar: k-NN, linear and fine-tuned accuracy on the "
                      "official validation images cannot be measured.", stacklevel=3)  # fmt: skip
        return None
    names, truth = np.unique(files.keys.astype("S9"), return_inverse=True)
    if odd := sorted({name.decode() for name in names} ^ set(classes)):
        raise ValueError(f"{root}: train and val have different classes, {', '.join(odd[:3])} in one of them only.")
    truth, rows = torch.from_numpy(truth), torch.arange(len(truth))
    return ImageFiles(truth, first_id + rows, truth, rows, files)


# ---- writing shards -------------------------------------------------------------------------------------------------


def write_shards(source, target, size: int, resize: int | None = None) -> list[Path]:
    """Class folders -> `target`/train-00000.tar, ... (and val-), `size` images each, sorted; returns the paths.

    Members are SYNSET/NAME.SUFFIX, so `webdataset` yields {"__key__": "SYNSET/NAME", "jpeg": bytes}: the class is the
    key's folder. resize: the short side of larger images, see `resized`; smaller ones keep their bytes. A shard appears
    whole or not at all. ValueError if there are no class folders, or shards already, or an image is broken.
    """
    source, target, paths = Path(source), Path(target), []
    if size < 1:
        raise ValueError(f"--size {size} images a shard is too small; give 1 or more.")
    if resize is not None and resize < 32:
        raise ValueError(f"--resize {resize} pixels are too few for crops; give 256, say, or 32 or more.")
    if (target.is_dir() and any(target.glob("*.tar"))) or target.resolve() == source.resolve():
        raise ValueError(f"{target} holds the source, or shards already; give a new folder.")
    for split in ("train", "val"):
        files = find_images(source, split)
        if files is None and split == "train" or files is not None and files.path(0).suffix == ".tar":
            raise ValueError(f"{source} holds no class folders; give a folder with {split}/SYNSET/*.JPEG.")
        for start in range(0, 0 if files is None else len(files.keys), size):
            paths.append(make_folder(target) / f"{split}-{start // size:05d}.tar")
            stop = min(start + size, len(files.keys))
            write_whole(paths[-1], lambda file, f=files, own=range(start, stop): write_members(file, f, own, resize))
    return paths


def write_members(file, files: Files, images, resize: int | None) -> None:
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in images:
            blob, suffix = files.read(i), files.path(i).suffix
            if resize and (small := resized(blob, files.name(i), resize)):
                blob, suffix = small, ".JPEG"
            member = tarfile.TarInfo(files.keys[i].decode() + suffix)
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))


def resized(blob, name: str, side: int) -> bytes | None:
    """A JPEG of the same image, its short side `side` pixels, bicubic and antialiased; None if it is no larger."""
    if min((image := open_image(blob, name)).size) <= side:
        return None
    small = tv.resize(decode(image, name), [side], InterpolationMode.BICUBIC, antialias=True)
    file = io.BytesIO()
    tv.to_pil_image(small).save(file, **JPEG)
    return file.getvalue()


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("what", choices=["shards"], help="write tar shards of class folders")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder with train/SYNSET/*.JPEG")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="a new folder")
    parser.add_argument("--size", type=int, default=1000, help="images a shard")
    parser.add_argument("--resize", type=int, metavar="PIXELS", help="short side of larger images, as JPEG of quality "
                        "95 (default: the bytes as they are)")  # fmt: skip
    args = parser.parse_args()
    paths = write_shards(args.source, args.target, args.size, args.resize)
    print(f"{len(paths)} shards in {args.target}; read them with load_imagenet({str(args.target)!r}).")


if __name__ == "__main__":
    command(main, "scale/imagenet.py")
