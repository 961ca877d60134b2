"""Pack an image set once, so that every run starts from one checked file: DATA_DIR/NAME.npz.

    python data/prepare.py cifar10 | cifar100 | fashion_mnist [--from ARCHIVE_OR_FOLDER]
    python data/prepare.py folder --from PATH --name NAME [--size S]

A source is read in three steps: its files (a folder, or a tar read through without extracting it), the
images and labels in them, and the pack (`semppl_mini.data.write_pack`, atomic). Nothing is trusted: tar
members are counted, weighed and refused when they are not plain files; an official archive must have the
hash that torchvision publishes before it is opened; pickles are read by an unpickler that can build
nothing but numbers, strings, lists, dictionaries and arrays; and what a header claims is compared with a
limit before memory is taken for it. Bad input ends in one sentence, status 2, and no pack.

n images, H x W pixels, C classes; images are uint8 (n, 3, H, W), labels int64 (n,) in 0..C-1, or -1 in
train/unlabelled, whose images belong to no class or one that is not known.
"""

import argparse
import gzip
import io
import math
import pickle
import pickletools
import re
import struct
import sys
import tarfile
import time
import unicodedata
import warnings
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision import datasets
from torchvision.datasets.utils import calculate_md5, download_url
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs where the package is not installed
from semppl_mini.files import data_dir, write_pack  # noqa: E402

SPLITS = ("train", "test")
UNLABELLED = "unlabelled"  # the folder of train whose images have no class
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png")
OTHER_SUFFIXES = (  # images, but not read: never skipped
    *(".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".psd", ".exr", ".svg", ".dng", ".cr2", ".nef", ".arw", ".raw"),
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MAX_MEMBERS = 2_000_000  # files and folders in one source
MAX_CLASSES = 25_000  # class folders of a split (ImageNet-21k has 21,841 classes)
MAX_NAME = 200  # characters of a class name
MAX_PATH = 600  # characters of a path in a tar
MAX_FILE_BYTES = 160_000_000  # one file of a source, unpacked (the largest official one has 155 million)
MAX_OFFICIAL_BYTES = 200_000_000  # all files of an official set, unpacked (at most 186 million)
MAX_IDX_BYTES = 2**26  # one idx file, unpacked: 64 MiB (the largest official one has 47 million bytes)
MAX_HEADER_BYTES = 2**20  # all headers of one member of a tar: 1 MiB
MAX_TAR_BYTES = 2**35  # one tar, unpacked: 32 GiB
MAX_OPCODES = 2**20  # of one pickle (an official one has about 200,000)
MAX_PIXELS = 50_000_000  # one image, before --size (a decompression bomb has more)
MAX_SCANS = 100  # of one JPEG: each passes over all pixels (a progressive one has about 10)
MAX_PACK_BYTES = 2**33  # the decoded images, which are held in memory: 8 GiB

# ---------------------------------------------------------------- the files of a source


class HeaderReader:
    """The bytes of a tar as tarfile sees them: `left` more to read, so that no header can ask for all memory."""

    def __init__(self, stream):
        self.stream, self.left = stream, MAX_HEADER_BYTES
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size):
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header asks for {size} bytes, over the limit of {MAX_HEADER_BYTES}")
        self.left -= size
        return self.stream.read(size)


def open_tar_stream(path):
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_gzip else open(path, "rb")


def check_member(member, count, path, most):
    """The member's relative path; ValueError for a link, a device, a way out or a breach of a limit."""
    name, where = PurePosixPath(member.name), f"{path}: member {member.name[:MAX_PATH]!r}"
    if len(member.name) > MAX_PATH:
        raise ValueError(f"{where}... has {len(member.name)} characters, over the limit of {MAX_PATH}: rename it.")
    if not (member.isreg() or member.isdir()):
        raise ValueError(f"{where} is a link or a device: pack regular files only.")
    if member.issparse():
        raise ValueError(f"{where} is a sparse file: pack regular files only.")
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{where} has an absolute path or '..': pack relative paths only.")
    if not 0 <= member.size <= MAX_FILE_BYTES:
        raise ValueError(f"{where} claims {member.size} bytes, over the limit of {MAX_FILE_BYTES} a file.")
    if count > MAX_MEMBERS:
        raise ValueError(f"{path} has more than {MAX_MEMBERS} members, the limit: split the set.")
    if member.offset_data + member.size > most:
        raise ValueError(f"{path} unpacks to more than {most} bytes, the limit: split the set.")
    return name


def check_tar_end(stream, offset, most):
    """tarfile ends quietly at a damaged header: ask for the end marker, then for the gzip checksum."""
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it stops before its end marker")
    while stream.read(2**20):
        if stream.tell() > most:
            raise EOFError("it does not stop after its end marker")


def tar_members(stream, most):
    """Yield the members of a tar; ReadError, one of tarfile's, for all that its parser trips over."""
    reader = HeaderReader(stream)
    try:
        tar = tarfile.open(fileobj=reader, mode="r:")
        while member := tar.next():
            yield member
            tar.members.clear()  # tarfile would keep them all, and every global header
            tar.pax_headers.clear()
            reader.left = MAX_HEADER_BYTES
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise tarfile.ReadError(f"a header cannot be read: {error}") from None
    check_tar_end(stream, tar.offset, most)


def read_pieces(stream, size):
    """Up to `size` bytes: memory grows with what is there, not with what is claimed."""
    blob = io.BytesIO()
    while part := stream.read(min(2**20, size - blob.tell())):
        blob.write(part)
    return blob.getvalue()


def read_member(stream, member):
    """The bytes of a member whose size is checked (tarfile would count them as a header's)."""
    stream.seek(member.offset_data)
    blob = read_pieces(stream, member.size)
    if len(blob) < member.size:
        raise EOFError("it stops inside a file")
    return blob


def tar_files(path, wanted):
    """Yield (member path, bytes), or (member path, None) for a folder, in the order of the archive."""
    try:
        with open_tar_stream(path) as stream:
            for count, member in enumerate(tar_members(stream, MAX_TAR_BYTES), 1):
                name = check_member(member, count, path, MAX_TAR_BYTES)
                if member.isdir():
                    yield name, None
                elif wanted(name):
                    yield name, read_member(stream, member)
    except (tarfile.TarError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise ValueError(f"{path} is not a whole .tar, .tar.gz or .tgz archive ({error}).") from None


def folder_files(root, wanted):
    """Yield (path below root, bytes), or (path, None) for a folder, of SPLIT/CLASS, SPLIT/CLASS/*, and files beside."""
    beside = (path for path in root.glob("*") if not path.is_dir())
    for path in [*sorted(beside), *sorted(root.glob("*/*")), *sorted(root.glob("*/*/*"))]:
        name = PurePosixPath(path.relative_to(root).as_posix())
        if path.is_dir():
            yield name, None
        elif wanted(name):
            if not path.is_file():
                raise ValueError(f"{path} is a broken link or a device: put the file itself there.")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"{path} is over the limit of {MAX_FILE_BYTES} bytes a file.")
            yield name, path.read_bytes()


def source_files(source, wanted):
    """The files of a SPLIT/CLASS/* folder, of a tar, or of a folder of tars (if it has no split folder)."""
    if source.is_file():
        yield from tar_files(source, wanted)
    elif any((source / split).is_dir() for split in SPLITS):
        yield from folder_files(source, wanted)
    else:
        for tar in sorted(path for path in source.iterdir() if path.name.endswith(TAR_SUFFIXES) and path.is_file()):
            yield from tar_files(tar, wanted)


# ---------------------------------------------------------------- class folders


class Some:
    """How many names there are, and the first 20: enough for a message, and little memory."""

    def __init__(self):
        self.count, self.first = 0, []

    def add(self, name):
        self.count += 1
        if len(self.first) < 20:
            self.first.append(str(name) if len(str(name)) <= 60 else f"...{str(name)[-57:]}")

    def more(self):
        """What follows the first name in a message."""
        return f", one of {self.count}: {self}" if self.count > 1 else ""

    def __str__(self):
        return ", ".join(self.first) + ", ..." * (self.count > 20)


def is_hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def is_foreign(name):
    """Whether a file is an image, by its name, of a format that is not read."""
    return name.suffix.lower() in OTHER_SUFFIXES and not is_hidden(name)


def is_image(name):
    """Whether to read a file; ValueError if it is an image of a format that is not read."""
    if is_foreign(name):
        raise ValueError(f"{name} is an image, but no JPEG or PNG; convert it, or remove it.")
    return name.suffix.lower() in IMAGE_SUFFIXES


def to_rgb(image):
    """Turned as its EXIF orientation says, on white where it is transparent [ours]: 8 bits of red, green and blue."""
    image = ImageOps.exif_transpose(image)
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def fit_square(image, size):
    """Short side to `size`, then the centre square: one resize of that square (bicubic, antialiased)."""
    w, h = image.size
    s = min(w, h)
    box = ((w - s) / 2, (h - s) / 2, (w + s) / 2, (h + s) / 2)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def check_image(image, blob):
    """ValueError, before any pixel is decoded, for an image that is too large, too deep or a JPEG of endless scans."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} is over the limit of {MAX_PIXELS} pixels: scale it down")
    if image.mode.startswith(("I", "F")) or image.format == "PNG" and blob[24] > 8:  # of 16-bit colour PIL drops half
        raise ValueError("it has more than 8 bits a channel: save it with 8")
    scans = 0 if image.format == "PNG" else blob.count(b"\xff\xda\x00")  # the marker and its length's high byte
    if scans > MAX_SCANS:
        raise ValueError(f"its {scans} scans are over the limit of {MAX_SCANS}: save it as a plain JPEG")


def decode(blob, name, size=None):
    """One image file as (uint8 (3, H, W), "JPEG" or "PNG"); ValueError names a file that cannot be read."""
    try:
        with Image.open(io.BytesIO(blob), formats=("JPEG", "PNG")) as image:
            check_image(image, blob)
            rgb = fit_square(to_rgb(image), size) if size else to_rgb(image)
            return np.asarray(rgb).transpose(2, 0, 1), "PNG" if image.format == "PNG" else "JPEG"  # or MPO, a JPEG
    except Exception as error:  # PIL raises OSError, SyntaxError, struct.error, its bomb error, ...
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        if isinstance(error, Image.DecompressionBombError):  # on opening it
            reason = f"far over the limit of {MAX_PIXELS} pixels: scale it down"
        raise ValueError(f"{name} is not a readable JPEG or PNG image ({reason}).") from None


def check_place(name, is_folder):
    """ValueError unless the path is SPLIT/CLASS or SPLIT/CLASS/FILE with a split this program knows."""
    if name.parts[0] not in SPLITS:
        raise ValueError(f"{name} is in no known split: name the top folders {' and '.join(SPLITS)}.")
    if len(name.parts) > 1 and not (len(name.parts[1]) <= MAX_NAME and name.parts[1].isprintable()):
        start = repr(name.parts[1][:30])
        raise ValueError(f"class {start}... has no printable name of up to {MAX_NAME} characters: rename it.")
    if not (len(name.parts) <= 2 if is_folder else len(name.parts) == 3):
        raise ValueError(f"{name} is out of place: images lie in SPLIT/CLASS/FILE, no deeper and no higher; those "
                         f"without a class in train/{UNLABELLED}.")  # fmt: skip


def composed(files):
    """The files that are not hidden, names in Unicode's composed form (NFC): macOS writes accents in another way."""
    for name, blob in files:
        if name.parts and not is_hidden(name):
            yield PurePosixPath(unicodedata.normalize("NFC", str(name))), blob


def read_images(source, size, skip_broken):
    """Decode all: ({(split, class, file): uint8 (3, H, W)}, set of (split, class), set of formats, {what: left out}).

    ValueError for images of other formats and, unless skip_broken, files that cannot be read: all are named, of the
    first also why.
    """
    images, folders, formats, first, total = {}, set(), set(), None, 0
    foreign, broken, others, reason = Some(), Some(), Some(), None

    def wanted(name):
        if is_foreign(name):
            foreign.add(name)
        elif is_image(name):
            return True
        elif not is_hidden(name):
            others.add(name)
        return False

    for name, blob in composed(tqdm(source_files(source, wanted), desc="images", unit=" files", disable=None)):
        check_place(name, is_folder=blob is None)
        folders.update([name.parts[:2]] if len(name.parts) > 1 else [])
        if len(folders) > len(SPLITS) * MAX_CLASSES:
            raise ValueError(f"{source} has more than {MAX_CLASSES} classes, the limit: merge some.")
        if blob is None:
            continue
        if name.parts in images:
            raise ValueError(f"{name} comes twice in {source}: keep one.")
        try:
            image, kind = decode(blob, name, size)
        except ValueError as error:
            broken.add(name)
            reason = reason or error
            continue
        first, total = first or (name, image.shape), total + image.nbytes
        if image.shape != first[1]:
            (_, h, w), (_, h0, w0) = image.shape, first[1]
            raise ValueError(f"{name} is {w} x {h} but {first[0]} is {w0} x {h0}: give --size.")
        if total > MAX_PACK_BYTES:
            raise ValueError(f"the images exceed the limit {MAX_PACK_BYTES} bytes: give a smaller --size.")
        images[name.parts] = image
        formats.add(kind)
    if foreign.count:
        said = f"{foreign.first[0]} is an image, but no JPEG or PNG{foreign.more()}"
        raise ValueError(f"{said}; convert it, or remove it.")
    if broken.count and not skip_broken:
        raise ValueError(f"{str(reason).rstrip('.')}{broken.more()}; mend or remove it, or give --skip-broken.")
    return images, folders, formats, {"broken images": broken, "files whose names are no image's": others}


def check_classes(images, folders, source):
    """The class names, sorted; ValueError for a missing split, an empty class or classes that differ."""
    classes = {split: {key[1] for key in images if key[0] == split} for split in SPLITS}
    for split in SPLITS:
        if split not in {folder[0] for folder in folders}:
            raise ValueError(f"{source} has no split {split!r}: give {split}/CLASS/*.jpg or .png, and {split}/all/* if "
                             "there are no classes.")  # fmt: skip
    for split, name in sorted(folders):
        if name not in classes[split]:
            raise ValueError(f"class folder {split}/{name} holds no JPEG or PNG image: fill it or remove it.")
    if UNLABELLED in classes["test"]:
        raise ValueError(f"{source} has test/{UNLABELLED}, but test images need a class: move it to train.")
    odd = sorted((classes["train"] - {UNLABELLED}) ^ classes["test"])
    if odd:
        raise ValueError(f"train and test have different classes: {', '.join(odd)} in one of them only.")
    return sorted(classes["test"])


def read_folder(source, size=None, skip_broken=False):
    """A class-folder source as (splits, classes, formats, names of its files a split, what was left out).

    Images are sorted by class, then by file name.
    """
    images, folders, formats, left_out = read_images(source, size, skip_broken)
    classes = check_classes(images, folders, source)
    splits, files, label = {}, {}, {name: i for i, name in enumerate(classes)} | {UNLABELLED: -1}
    for split in SPLITS:
        keys = sorted(key for key in images if key[0] == split)
        labels = np.array([label[key[1]] for key in keys], dtype=np.int64)
        splits[split] = np.stack([images[key] for key in keys]), labels
        files[split] = [printable("/".join(key)) for key in keys]
    return splits, classes, formats, files, left_out


# ---------------------------------------------------------------- official archives

OFFICIAL = {  # name: (title, torchvision class that publishes the files and their md5, its folder in a root)
    "cifar10": ("CIFAR-10", datasets.CIFAR10, datasets.CIFAR10.base_folder),
    "cifar100": ("CIFAR-100", datasets.CIFAR100, datasets.CIFAR100.base_folder),
    "fashion_mnist": ("Fashion-MNIST", datasets.FashionMNIST, "FashionMNIST/raw"),
}


def published_files(dataset):
    """{file name: md5} of the files a set consists of, as torchvision publishes them."""
    if hasattr(dataset, "resources"):
        return dict(dataset.resources)
    return dict([*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])])


def check_official_size(size, source):
    if size > MAX_OFFICIAL_BYTES:
        raise ValueError(f"{source} holds {size} bytes, over the limit of {MAX_OFFICIAL_BYTES}: fetch the set again.")


def check_hash(path, md5, any_hash):
    """True if the file has the md5, False if it has another one and any_hash allows it; else ValueError."""
    check_official_size(path.stat().st_size, path)
    found = calculate_md5(path)
    if found != md5 and not any_hash:
        raise ValueError(f"{path} has md5 {found}, not {md5}: fetch it again (or --any-hash).")
    return found == md5


def check_present(needed, found, source):
    missing = sorted(set(needed) - set(found))
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}: the official set is needed (else: `folder`).")


def files_in_folder(source, md5s, any_hash):
    check_present(md5s, [file for file in md5s if (source / file).is_file()], source)
    check_official_size(sum((source / file).stat().st_size for file in md5s), source)
    official = all([check_hash(source / file, md5, any_hash) for file, md5 in md5s.items()])
    return {file: (source / file).read_bytes() for file in md5s}, official


def files_in_archive(source, dataset, md5s, any_hash):
    official = check_hash(source, dataset.tgz_md5, any_hash)
    members = tar_files(source, lambda path: path.parent.name == dataset.base_folder and path.name in md5s)
    blobs = {}
    for path, blob in members:
        blobs.update({path.name: blob} if blob is not None else {})
        check_official_size(sum(map(len, blobs.values())), source)
    check_present(md5s, blobs, source)
    return blobs, official


def official_files(name, source, any_hash=False):
    """The set's files as ({file name: bytes}, whether every hash is the published one).

    source: the archive, a folder that holds it or its files, or a torchvision root. Hashes come first.
    """
    _, dataset, folder = OFFICIAL[name]
    md5s, archive = published_files(dataset), getattr(dataset, "filename", None)
    if source.is_dir() and archive and (source / archive).is_file():
        source = source / archive
    if source.is_dir():
        return files_in_folder(source / folder if (source / folder).is_dir() else source, md5s, any_hash)
    if not archive:
        raise ValueError(f"{source} is a file: give the folder with {', '.join(md5s)}.")
    return files_in_archive(source, dataset, md5s, any_hash)


def download(name, folder):
    """Fetch the set's files into `folder` (kept there); nothing is unpacked. ValueError if a host fails."""
    _, dataset, _ = OFFICIAL[name]
    print(f"Downloading {name} into {folder}; the host can be slow: --from takes a copy you already have.")
    if hasattr(dataset, "resources"):
        wanted = [(dataset.mirrors[0] + file, file, md5) for file, md5 in dataset.resources]
    else:
        wanted = [(dataset.url, dataset.filename, dataset.tgz_md5)]
    for url, file, md5 in wanted:
        try:
            download_url(url, folder, file, md5)
        except Exception as error:  # URLError, RuntimeError (md5), http.client errors, ...
            (folder / file).unlink(missing_ok=True)
            reason = str(error).rstrip(".")
            raise ValueError(f"downloading {url} failed ({reason}): fetch it and give --from.") from None
    return folder


# -------- CIFAR: pickles of {"data": uint8 (n, 3072), "labels" or "fine_labels": list of n}


class Plain:
    """Stands in for numpy's classes while a pickle is read: keeps what it is given and runs nothing."""

    def __init__(self, *args):
        self.args = args

    def __setstate__(self, state):
        self.state = state


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists, dictionaries and numpy arrays (as Plain); refuses every other name."""

    ARRAY_NAMES = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "_reconstruct"),
                   ("numpy._core.multiarray", "_reconstruct")}  # fmt: skip

    def find_class(self, module, name):
        if (module, name) not in self.ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return Plain


OPCODES = {  # what numpy arrays and plain values need
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
}


def check_pickle(blob):
    """UnpicklingError for what may take far more memory or time than its bytes, such as place 2**32 of the memo."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(blob)):
        if opcode.name not in OPCODES or opcode.name.endswith("BINPUT") and argument > count:
            raise pickle.UnpicklingError(f"it uses {opcode.name}, or in a strange way")
        if count >= MAX_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {MAX_OPCODES} operations, the limit")


def plain_array(plain):
    """The uint8 array of a pickled numpy array, from its (version, shape, dtype, is_fortran, bytes)."""
    _, shape, dtype, is_fortran, raw = plain.state
    kind = dtype.args[0]
    if kind not in ("u1", "|u1"):  # a list in a list in a list ... would fill the memory if it were written out
        raise ValueError(f"its array has type {kind if isinstance(kind, str) else type(kind).__name__}, not uint8")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote the official files
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def read_pickle(blob, name, read):
    """read(dictionary) of one pickle; ValueError names the file if it is no such dictionary."""
    try:
        check_pickle(blob)
        return read(PlainUnpickler(io.BytesIO(blob), encoding="latin1").load())
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = f"{type(error).__name__}({str(error)[:100]!r})"
        raise ValueError(f"{name} is not a CIFAR batch ({reason}): fetch it again.") from None


def cifar_batch(entry):
    images = plain_array(entry["data"]).reshape(-1, 3, 32, 32)  # (n, 3072) -> (n, 3, H, W)
    labels = entry["labels" if "labels" in entry else "fine_labels"]
    labels = labels if isinstance(labels, list) else [labels]
    return images, np.array([label if isinstance(label, int) else None for label in labels])  # None: nothing nested


def cifar_classes(entry, key):
    if not (isinstance(entry[key], list) and all(isinstance(name, str) for name in entry[key])):
        raise ValueError(f"its {key} are no list of text")
    return entry[key]


def read_cifar(dataset, blobs):
    meta, key = dataset.meta["filename"], dataset.meta["key"]
    classes = read_pickle(blobs[meta], meta, lambda entry: cifar_classes(entry, key))
    splits = {}
    for split, files in zip(SPLITS, (dataset.train_list, dataset.test_list), strict=True):
        batches = []
        for file, _ in files:
            batches.append(read_pickle(blobs[file], file, cifar_batch))
            check_labels(*batches[-1], classes, file)
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        splits[split] = images, labels.astype(np.int64)
    return splits, classes


def check_labels(images, labels, classes, name):
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"{name} has {len(images)} images but labels of shape {labels.shape}: damaged.")
    bad = labels[(labels < 0) | (labels >= len(classes))]
    if len(bad):
        raise ValueError(f"{name} holds label {bad[0]}, out of the range 0 to {len(classes) - 1}.")


# -------- Fashion-MNIST: gzipped idx files, a big-endian header (magic, sizes) and then bytes


def read_idx(blob, name, ndim):
    """One idx file of uint8 as an array with ndim axes; ValueError if it is cut short or something else."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(blob)) as file:
            magic, *shape = struct.unpack(f">{1 + ndim}I", file.read(4 + 4 * ndim))
            if magic != 0x0800 + ndim or math.prod(shape) > MAX_IDX_BYTES:
                raise ValueError(f"magic number {magic}, shape {shape}, with a limit of {MAX_IDX_BYTES} bytes")
            raw = read_pieces(file, math.prod(shape) + 1)  # to the end, where the checksum stands
        return np.frombuffer(raw, np.uint8).reshape(shape)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{name} is not a whole gzipped idx file ({error}): fetch it again.") from None


def read_fashion(dataset, blobs):
    splits = {}
    for split, prefix in zip(SPLITS, ("train", "t10k"), strict=True):
        image_file, label_file = f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"
        images = read_idx(blobs[image_file], image_file, 3)  # (n, 28, 28)
        labels = read_idx(blobs[label_file], label_file, 1)
        check_labels(images, labels, dataset.classes, label_file)
        splits[split] = np.repeat(images[:, None], 3, axis=1), labels.astype(np.int64)  # grey -> (n, 3, H, W)
    return splits, list(dataset.classes)


def read_official(name, source, any_hash=False):
    """An official set as (splits, classes, provenance); a set with another hash is said to be unverified."""
    title, dataset, _ = OFFICIAL[name]
    blobs, official = official_files(name, source, any_hash)
    splits, classes = (read_fashion if name == "fashion_mnist" else read_cifar)(dataset, blobs)
    return splits, classes, title if official else f"{title} (unverified archive)"


# ---------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"prepare: {message} (see --help).\n")


def parse(argv=None):
    parser = Parser(description="Pack an image set into DATA_DIR/NAME.npz.")
    commands = parser.add_subparsers(dest="command", required=True)
    out = {"type": Path, "help": "folder of the packs (default: the data folder)"}
    for name, (title, _, _) in OFFICIAL.items():
        command = commands.add_parser(name, help=f"{title}, downloaded or from a local copy")
        command.add_argument("--from", dest="source", type=Path, help="the archive, or folder of its files")
        command.add_argument("--any-hash", action="store_true", help="accept an unofficial archive")
        command.add_argument("--out", **out)
    command = commands.add_parser("folder", help="SPLIT/CLASS/*.jpg|png: a folder, a tar, a folder of tars")
    command.add_argument("--from", dest="source", type=Path, required=True)
    command.add_argument("--name", required=True, help="the pack's name: NAME.npz")
    command.add_argument("--size", type=int, help="resize the short side to this and crop the centre square")
    command.add_argument("--skip-broken", action="store_true", help="leave out images that cannot be read")
    command.add_argument("--provenance", help="what results are labelled with (default: from the name)")
    command.add_argument("--out", **out)
    argv = sys.argv[1:] if argv is None else argv
    for before, text in zip(["", *argv], argv):  # noqa: B905, a longer one
        if not text or text.startswith("--") and text.endswith("="):
            name = text.rstrip("=") or (before if before.startswith("--") else "an argument")
            parser.error(f"{name} is given an empty value; give one, or leave it out")
    return parser.parse_args(argv)


def folder_provenance(name, formats):
    """JPEG changes pixels: a set known by name says which format it came in."""
    if name in OFFICIAL:
        return f"{OFFICIAL[name][0]} ({'JPEG' if 'JPEG' in formats else 'PNG'})"
    return f"{name} (folder)"


def prepare_folder(args, _):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", args.name) or args.name == "digits":
        allowed = "letters, digits, _ . -, 100 at most ('digits' is taken)"
        raise ValueError(f"{args.name!r} cannot name a pack: use {allowed}.")
    if args.size is not None and not 1 <= args.size <= 1024:
        raise ValueError(f"--size {args.size} is out of the range 1 to 1024 pixels.")
    splits, classes, formats, files, left_out = read_folder(args.source, args.size, args.skip_broken)
    for what, some in left_out.items():
        if some.count:
            print(printable(f"left out {what}, {some.count}: {some}"), file=sys.stderr)
    return args.name, splits, classes, args.provenance or folder_provenance(args.name, formats), files


def prepare_official(args, out):
    source = args.source or download(args.command, out / "downloads" / args.command)
    return args.command, *read_official(args.command, source, args.any_hash), None


def run(args):
    start, out = time.perf_counter(), args.out or data_dir()
    if args.source and not (args.source.is_file() or args.source.is_dir()):
        raise ValueError(f"{args.source} does not exist: give --from the path of the archive or folder.")
    prepare = prepare_folder if args.command == "folder" else prepare_official
    name, splits, classes, provenance, files = prepare(args, out)
    write_pack(out / f"{name}.npz", splits, classes, provenance, files)
    unlabelled = int((splits["train"][1] < 0).sum())
    sizes = ", ".join(f"{split} {tuple(images.shape)}" for split, (images, _) in splits.items())
    seconds = time.perf_counter() - start
    without = f", {unlabelled} of them without a class" if unlabelled else ""
    print(f"{out / name}.npz: {provenance}, {len(classes)} classes, {sizes}{without}; {seconds:.0f} s")


def printable(text):
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def sentence(error):
    """One line of bounded length and printable characters, whatever names and messages a hostile file put into it."""
    text = str(error) or f"not enough memory ({type(error).__name__}): give a smaller set or --size"
    text = text if len(text) <= 1600 else f"{text[:900]} ... {text[-600:]}"
    return printable(text).rstrip(".") + "."


def main(argv=None):
    args = parse(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # decode() has its own
            run(args)
    except (ValueError, OSError, MemoryError) as error:
        print(f"prepare: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
