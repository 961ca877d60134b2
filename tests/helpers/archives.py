"""Folders, tars and archives of images as data/prepare.py reads them, built in a test; and that script as a module."""

import gzip
import importlib.util
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "data" / "prepare.py"
spec = importlib.util.spec_from_file_location("prepare", SCRIPT)
prepare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(prepare)


def encode(array, kind="PNG", **options):
    """An (H, W, 3) or (H, W) uint8 array as the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def images(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def flowers():
    """{member: PNG bytes} of three classes, and what the pack must hold: {split: (images, labels)}."""
    pixels, files, expected, i = images(18), {}, {}, 0
    for split, each in (("train", 4), ("test", 2)):
        for name in ("aster", "daisy", "tulip"):
            for k in range(each):
                files[f"{split}/{name}/{k:04d}.png"] = encode(pixels[i])
                i += 1
    expected["train"] = pixels[:12].transpose(0, 3, 1, 2), np.repeat([0, 1, 2], 4)
    expected["test"] = pixels[12:].transpose(0, 3, 1, 2), np.repeat([0, 1, 2], 2)
    return files, expected


def write_tar(path, files, mode=None, members=()):
    """A tar of {name: bytes}, then of ready-made TarInfo members."""
    mode = mode or ("w" if path.suffix == ".tar" else "w:gz")
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:
        for name, blob in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
        for info in members:
            tar.addfile(info)
    return path


def special(name, kind, target=""):
    """A tar member that is no file: a folder, a link, a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def write_folder(root, files):
    for name, blob in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(blob)
    return root


def python2_pickle(entry):
    """What Python 2's cPickle wrote: byte strings (opcode T), arrays by numpy.core.multiarray."""

    def write(value):
        if isinstance(value, str):
            return b"T" + struct.pack("<i", len(value)) + value.encode("latin1")
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(write, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(write(k) + write(v) for k, v in value.items()) + b"u"
        raw = write(value.tobytes().decode("latin1"))
        dtype = b"cnumpy\ndtype\n" + write("u1") + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + write("|") + b"NNN" + write(-1) * 2 + b"K\x00tb"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + write("b") + b"\x87R"
        shape = b"".join(write(n) for n in value.shape) + b"\x86"
        return array + b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"

    return b"\x80\x02" + write(entry) + b"."


def python3_pickle(entry):
    return pickle.dumps(entry, protocol=4)


def cifar_files(name, write=python3_pickle, n=6, **changes):
    """{member: bytes} of a tiny CIFAR archive, {split: (images, labels)}, classes; changes[file] edits it."""
    dataset, expected, files = prepare.OFFICIAL[name][1], {}, {}
    classes = [f"class {i:03d}" for i in range(100 if name == "cifar100" else 10)]
    key = "fine_labels" if name == "cifar100" else "labels"
    for split, batches in (("train", dataset.train_list), ("test", dataset.test_list)):
        parts = []
        for file, _ in batches:
            rng = np.random.default_rng(len(files))
            data, labels = rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, len(classes), n)
            entry = {"data": data, key: labels.tolist(), "coarse_labels": [0] * n, **changes.get(file, {})}
            files[f"{dataset.base_folder}/{file}"] = write(entry)
            parts.append((data.reshape(n, 3, 32, 32), labels))
        expected[split] = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    files[f"{dataset.base_folder}/{dataset.meta['filename']}"] = write({dataset.meta["key"]: classes})
    return files, expected, classes


def idx(array, magic=None):
    header = struct.pack(f">{1 + array.ndim}I", magic or 0x0800 + array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def fashion_files():
    rng = np.random.default_rng(0)
    files, expected = {}, {}
    for split, prefix, n in (("train", "train", 7), ("test", "t10k", 3)):
        x, y = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n)
        files[f"{prefix}-images-idx3-ubyte.gz"], files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(x), idx(y)
        expected[split] = np.stack([x, x, x], axis=1), y
    return files, expected
