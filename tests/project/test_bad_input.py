"""The table of bad inputs: each gets one sentence that names the value, the limit and the remedy.

A row is (id, what to do in an empty folder, words that the sentence must hold). A command that ends well fails the
test, as does one that shows a traceback.
"""

import contextlib
import dataclasses
import functools
import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import papermill
import pytest
import torch
from archives import cifar_files, encode, flowers, images, special, write_folder, write_tar
from core_checks import CLASSES, parts, tiny, tiny_data, with_train
from measures import measure

import semppl_mini as s
from semppl_mini.batches import epoch_order
from semppl_mini.data import hide_labels
from semppl_mini.files import check_parameters, checkpoint, read_pack, write_pack
from semppl_mini.keeping import class_of, keep_encoders
from semppl_mini.keeping.command import override
from semppl_mini.readout import evaluate, fine_tune, inspect, raw_pixel_accuracy, supervised, untrained_encoder

ROOT = Path(__file__).resolve().parents[2]


def config(**changes):
    return lambda folder: s.Config().replace(**changes)


def small(**changes):
    return lambda folder: tiny(**changes)


def trained(**changes):
    return lambda folder: s.fit(tiny(**changes), tiny_data())


CONFIG = [
    # what the field is
    ("an unknown field", config(taux=0.1), "no field 'taux'; the nearest is 'tau'"),
    ("a word for a number", config(epochs="8"), "epochs = '8' is a str; give int"),
    ("a fraction for a count", config(epochs=8.5), "epochs = 8.5 is a float; give int"),
    ("nothing for a number", config(tau=None), "tau = None is a NoneType; give float"),
    ("a word for a switch", config(oracle="no"), "oracle = 'no' is a str; give bool"),
    ("a switch for a number", config(labels=True), "labels = True is a bool; give"),
    ("a number for a tuple", config(blur_p=0.5), "blur_p = 0.5 is a float; give tuple"),
    ("an empty tuple", config(blur_p=()), "blur_p = () has 0 entries; give 1 or more"),
    ("a word in a tuple", config(solarize_p=("often",)), "must be of finite numbers, not 'often'; give numbers"),
    ("one of three means", config(mean=(0.5,)), "mean = (0.5,) has 1 entries; give 3"),
    ("a mean that is nan", config(mean=(0.5, float("nan"), 0.5)), "finite numbers, not nan; give numbers"),
    ("an infinite rate", config(lr=float("inf")), "lr = inf must be of finite numbers, not inf; give numbers"),
    ("a mean of pixels to 255", config(mean=(125.3, 123.0, 113.9)), "mean = (125.3, 123.0, 113.9) lies outside [0, 1]"),
    ("a spread of pixels to 255", config(std=(63.0, 62.1, 66.7)), "std = (63.0, 62.1, 66.7) lies outside [0, 1]; give"),
    ("a scale of one number", config(large_scale=(0.4,)), "large_scale = (0.4,) has 1 entries; give 2"),
    ("an unknown network", trained(backbone="resnet19"), "backbone = 'resnet19' is not known; choose one of narrow"),
    ("an unknown optimizer", config(optimizer="adam"), "optimizer = 'adam' is not known; choose one of lars, sgd, adamw"),
    ("an unknown precision", config(precision="fp8"), "precision = 'fp8' is not known; choose one of auto, bf16"),
    ("an unknown schedule", config(gamma_schedule="linear"), "gamma_schedule = 'linear' is not known; choose one of"),
    ("an unknown detach", config(detach="both"), "detach = 'both' is not known; choose one of argument, entropy"),
    # how large it may be
    ("a share above one", config(labelled_share=1.5), "labelled_share = 1.5 lies outside [0, 1]; give a value"),
    ("a negative rate", config(gamma=-0.1), "gamma = -0.1 lies outside [0, 1]; give a value"),
    ("a temperature of zero", config(tau=0), "tau = 0 must be more than 0; give a positive number"),
    ("no epochs", config(epochs=0), "epochs = 0 lies outside [1, 1000000]; give a value"),
    ("a batch of one", config(batch_size=1), "batch_size = 1 lies outside [2, 1048576]; give a value"),
    ("a negative seed", config(seed=-1), "seed = -1 lies outside [0,"),
    ("a seed of 100 digits", config(label_seed=10**99), "lies outside [0, 9223372036854775807]; give a value"),
    ("a rate of 400 digits", config(lr=10**400), "lr = 1000000000000000000000000000000000000000... lies outside [0, 1000000.0]"),
    ("a share of nothing", config(labelled_share=0.0), "labelled_share = 0.0 must be more than 0; give a positive number"),
    ("nothing for a dict", lambda f: s.Config.from_dict(None), "fields = None is a NoneType; give dict"),
    ("fewer than no positives", config(semantic_positives=-1), "semantic_positives = -1 lies outside [0, 1000]"),
    ("a stem that stands still", config(stem_stride=0), "stem_stride = 0 lies outside [1, 4]"),
    ("networks too narrow", config(width=4), "width = 4 lies outside [8, 4096]"),
    ("networks too wide", config(width=10**6), "width = 1000000 lies outside [8, 4096]"),
    ("a queue without end", config(queue=10**12), "queue = 1000000000000 lies outside [1, 67108864]"),
    ("a head too wide", config(projector_hidden=10**9), "projector_hidden = 1000000000 lies outside [1, 1048576]"),
    ("crops too small", config(large_size=4, small_views=0), "large_size = 4 lies outside [8, 4096]"),
    ("crops too large", config(large_size=10**5), "large_size = 100000 lies outside [8, 4096]"),
    ("too many views", config(large_views=1000), "large_views = 1000 lies outside [1, 64]"),
    ("a chance of seven", config(blur_p=(0.1, 7.0)), "blur_p = (0.1, 7.0) lies outside [0, 1]"),
    ("a grey world of minus one", config(grey_p=-1), "grey_p = -1 lies outside [0, 1]"),
    ("no spread", config(std=(0.2, 0, 0.2)), "std = (0.2, 0, 0.2) must be more than 0; give a positive"),
    ("a range upside down", config(large_scale=[0.9, 0.4]), "large_scale = (0.9, 0.4) is no range; give the smaller"),
    ("a crop of twice the image", config(small_scale=(0.5, 2)), "small_scale = (0.5, 2) lies outside [0, 1]"),
    ("an aspect of zero", config(ratio=(0, 1)), "ratio = (0, 1) must be more than 0"),
    ("a blur of nothing", config(blur_sigma=(0.0, 0.0)), "blur_sigma = (0.0, 0.0) must be more than 0"),
    ("brightness below zero", config(brightness=-1.0), "brightness = -1.0 lies outside [0, 1000000.0]"),
    ("hue beyond the circle", config(hue=0.6), "hue = 0.6 lies outside [0, 0.5]"),
    ("a negative number of labels", config(labels=-3), "labels = -3 must be more than 0"),
    ("a negative decay", config(weight_decay=-1e-6), "weight_decay = -1e-06 lies outside [0,"),
    # what goes together
    ("negatives as many as the batch", trained(negatives=8, batch_size=8), "negatives = 8 must lie between 1 and "
     "batch_size - 1 = 7; change either"),
    ("no negatives", trained(negatives=0), "negatives = 0 must lie between 1 and batch_size - 1"),
    ("more neighbours than keys", trained(k=9, queue=8), "k = 9 must lie between 1 and queue = 8; change either"),
    ("more voting views than views", trained(voting_views=5), "voting_views = 5 must lie between 1 and large_views = 2"),
    ("no voting views", trained(voting_views=0), "voting_views = 0 must lie between 1 and large_views = 2"),
    ("small crops larger than large", config(large_size=32), "small_size = 96 exceeds large_size = 32; give less, or small_views=0"),
    ("a momentum without end", config(momentum=1.0), "momentum = 1.0 forgets no gradient; give less than 1, 0.9 for"),
    ("a share of less than an image", small(labelled_share=0.01), "labelled_share = 0.01 of batch_size = 16 is less than"),
    ("an unknown device", trained(device="gpu"), "device = 'gpu' is unknown to torch; give"),
    ("tensors without numbers", trained(device="meta"), "device = 'meta' is not there: of these this machine has 0, and"),
    ("a device of another machine", trained(device="xpu:99"), "device = 'xpu:99' is not there: of these this machine has"),
    ("a GPU too many", trained(device="cuda:99"), "device = 'cuda:99' is not there: of these this machine has"),
    ("XLA without its package", trained(device="xla"), "device = 'xla' is not there"),
    ("an unknown preset", lambda f: s.presets.named("cifar"), "no preset 'cifar'; choose one of digits, cifar10"),
]  # fmt: skip


# ---- data -----------------------------------------------------------------------------------------------------------


def pack_of(folder, change=lambda splits: splits, classes=CLASSES):
    return write_pack(folder / "zoo.npz", change(parts()), classes, "drawn at random")


def load(**arguments):
    return lambda folder: s.load_data(pack_of(folder), **arguments)


def train_part(change):
    """A pack whose training images and labels went through `change`."""
    return lambda folder: pack_of(folder, lambda p: p | {"train": change(*p["train"])})


def rare(splits):
    """The last two training images alone in their classes."""
    return splits | {"train": (splits["train"][0], np.clip(np.arange(60) - 57, 0, 2))}


def with_members(**members):
    def read(folder):
        path = pack_of(folder)
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez(path, **(arrays | members))
        return read_pack(path)

    return read


def with_meta(**changes):
    def read(folder):
        with np.load(pack_of(folder)) as file:
            meta = json.loads(str(file["meta"])) | changes
        return with_members(meta=np.array(json.dumps(meta)))(folder)

    return read


def damaged_pack(change):
    def read(folder):
        path = pack_of(folder)
        path.write_bytes(change(path.read_bytes()))
        return read_pack(path)

    return read


def bits_flipped(blob):
    at = blob.rindex(b"train_labels.npy", 0, len(blob) * 9 // 10) + 300  # in the labels' own bytes
    return blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]


def made(split="train", **fields):
    """The tiny data with other fields in a split, each a function of what was there."""
    def act(folder):
        data, old = tiny_data(), getattr(tiny_data(), split)
        changes = {name: change(getattr(old, name)) for name, change in fields.items()}
        return dataclasses.replace(data, **{split: dataclasses.replace(old, **changes)})

    return act


def renamed(**fields):
    return lambda folder: dataclasses.replace(tiny_data(), **fields)


MADE = [  # by hand
    ("fractions for pixels", made(images=lambda x: x / 255), "train.images is torch.float32 (64, 3, 32, 32) on cpu; give torch.uint8 (64, 3, H, W)"),
    ("int64 pixels", made(images=lambda x: x.long()), "train.images is torch.int64 (64, 3, 32, 32) on cpu; give torch.uint8"),
    ("one colour", made("test", images=lambda x: x[:, :1]), "test.images is torch.uint8 (30, 1, 32, 32) on cpu; give torch.uint8 (30, 3, 32, 32)"),
    ("four colours", made(images=lambda x: torch.cat([x, x[:, :1]], 1)), "train.images is torch.uint8 (64, 4, 32, 32) on cpu"),
    ("colours last", made("val", images=lambda x: x.permute(0, 2, 3, 1)), "val.images is torch.uint8 (30, 32, 32, 3) on cpu"),
    ("no pixels", made(images=lambda x: x[..., :0]), "train.images is torch.uint8 (64, 3, 32, 0) on cpu; give"),
    ("an image too few", made(images=lambda x: x[1:]), "train.images is torch.uint8 (63, 3, 32, 32) on cpu; give torch.uint8 (64, 3, H, W)"),
    ("pixels elsewhere", made(images=lambda x: x.to("meta")), "train.images is torch.uint8 (64, 3, 32, 32) on meta; give"),
    ("an array for pixels", made(images=lambda x: x.numpy()), "train.images is a ndarray; give torch.uint8 (64, 3, H, W) on the CPU"),
    ("a class nobody has", made(labels=lambda x: x.clone().fill_(99)), "train.labels of 10 classes goes from 99 to 99; give -1 to 9"),
    ("a label of -2", made(labels=lambda x: x - 1), "train.labels of 10 classes goes from -2 to 8; give -1 to 9"),
    ("a true class of 10", made("test", truth=lambda x: x.clone().fill_(10)), "test.truth of 10 classes goes from 10 to 10; give -1 to 9"),
    ("int32 labels", made(labels=lambda x: x.int()), "train.labels of 10 classes is torch.int32 (64,) on cpu; give torch.int64 (64)"),
    ("labels in a column", made(labels=lambda x: x[:, None]), "train.labels of 10 classes is torch.int64 (64, 1) on cpu; give"),
    ("a list of labels", made(labels=lambda x: x.tolist()), "train.labels of 10 classes is a list; give torch.int64 (64)"),
    ("a hand-made label too few", made(labels=lambda x: x[1:]), "train.labels of 10 classes is torch.int64 (63,) on cpu; give torch.int64 (64)"),
    ("no truth", made(truth=lambda x: None), "train.truth of 10 classes is a NoneType; give torch.int64 (64) on the CPU"),
    ("one id for all", made(ids=lambda x: x * 0), "train.ids has 63 that come again; give each image its own, as torch.arange(n)"),
    ("ids of another set", renamed(val=dataclasses.replace(tiny_data().val, ids=tiny_data().train.ids[:30])), "val.ids has 30 of another set; give each its own"),
    ("one set for two", renamed(val=tiny_data().test), "test.ids has 30 of another set; give each its own, as 9999 + torch.arange(n)"),
    ("sets of two sizes", made("test", images=lambda x: x[..., :20], masks=lambda x: None), "test.images is torch.uint8 (30, 3, 32, 20) on cpu; give torch.uint8 (30, 3, 32, 32)"),
    ("a negative id", made(ids=lambda x: x - 1 - x.min()), "train.ids goes from -1 to"),
    ("an id of 2 ** 45", made(ids=lambda x: x + 2**45), "give 0 to 2.68435e+08"),
    ("ids that are no numbers", made(ids=lambda x: x.float()), "train.ids is torch.float32 (64,) on cpu; give torch.int64 (n > 0)"),
    ("hand-made masks of 255", made(masks=lambda x: x * 255), "train.masks goes from 0 to 255; give 0 to 1"),
    ("masks of yes and no", made(masks=lambda x: x > 0), "train.masks is torch.bool (64, 1, 32, 32) on cpu; give torch.uint8"),
    ("masks of another size", made(masks=lambda x: x[..., 1:]), "train.masks is torch.uint8 (64, 1, 32, 31) on cpu; give torch.uint8 (64, 1, 32, 32)"),
    ("no classes", renamed(classes=[]), "classes = [] is no list of different names; give a name for each class"),
    ("numbers for class names", renamed(classes=list(range(10))), "classes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] is no list of different"),
    ("a class name twice", renamed(classes=["a"] * 10), "is no list of different names; give a name for each class"),
    ("a set that is none", renamed(val=None), "val = None is no image set; give an ImageSet, perhaps of 0 images"),
    ("nothing to train on", renamed(train=tiny_data().train.take(torch.arange(0))), "train.ids is torch.int64 (0,) on cpu; give torch.int64 (n > 0)"),
    ("a number for a provenance", renamed(provenance=3), "provenance = 3 is a int; give str"),
]  # fmt: skip

AGAIN = "make it again with data/prepare.py"
DATA = [
    ("a pack that is not there", lambda f: s.load_data(f / "none.npz"), "There is no data pack"),
    ("a name that is not there", lambda f: s.load_data("no-such-set"), "no data pack"),
    ("a pack cut in half", damaged_pack(lambda blob: blob[: len(blob) // 2]), AGAIN),
    ("an empty pack", damaged_pack(lambda blob: b""), AGAIN),
    ("a pack of text", damaged_pack(lambda blob: b"no pack at all"), AGAIN),
    ("a pack with another label", with_members(train_labels=np.zeros(60, np.int64)), "is damaged (sha256 differs); make"),
    ("a pack with a stranger", with_members(notes=np.zeros(3)), "a strange member 'notes.npy'"),
    ("a pack of fractions", with_members(train_labels=np.zeros(60)), "train_labels claims shape (60,) and type float64"),
    ("meta of a wrong type", with_meta(classes="abc"), "its meta data has wrong types"),
    ("a class that comes twice", with_meta(classes=["ant", "ant", "cow"]), "no list of different names of up to 200"),
    ("labels beyond the classes", train_part(lambda x, y: (x, y + 1)), "labels from 1 to 3; with 3 classes they must lie"),
    ("labels below zero", train_part(lambda x, y: (x, y - 2)), "labels from -2 to 0; with 3 classes they must lie in 0"),
    ("a label too few", train_part(lambda x, y: (x, y[1:])), "images (60, 3, 8, 8) for 59 labels; give one label"),
    ("grey images", train_part(lambda x, y: (x[:, :1], y)), "images (60, 1, 8, 8) for 60 labels; give one label"),
    ("no test split", lambda f: pack_of(f, lambda p: {"train": p["train"]}), "has no test split; a pack needs both"),
    ("a third split", lambda f: pack_of(f, lambda p: p | {"more": p["test"]}), "a strange part 'more_images'; give the"),
    ("masks of other images", train_part(lambda x, y: (x, y, np.ones((59, 1, 8, 8)))), "has masks (59, 1, 8, 8)"),
    ("masks of 255", train_part(lambda x, y: (x, y, np.full((60, 1, 8, 8), 255))), "up to 255; give 0 or 1"),
    ("one class", lambda f: s.fit(tiny(labels=None), s.load_data(pack_of(f, lambda p: {k: (x, y * 0) for k, (x, y) in
     p.items()}, ["ant"])), progress=False), "labelled images are of 1 class; load the data with labels of 2 or more, or"),
    ("pixels of fractions", train_part(lambda x, y: (x / 255, y)), "train images are not all whole numbers that are uint8; give such"),
    ("pixels to 510", train_part(lambda x, y: (x * np.int64(2), y)), "train images are not all whole numbers that are uint8; give such"),
    ("pixels below zero", train_part(lambda x, y: (x.astype(np.int8), y)), "train images are not all whole numbers that are uint8; give"),
    ("labels between two", train_part(lambda x, y: (x, y + 0.4)), "train labels are not all whole numbers that are int64; give"),
    ("labels in words", train_part(lambda x, y: (x, y.astype(str))), "train labels are not all whole numbers that are int64; give"),
    ("masks of fractions", train_part(lambda x, y: (x, y, np.full((60, 1, 8, 8), 0.5))), "train masks are not all whole numbers that are uint8; give"),
    ("a pack of two sizes", lambda f: s.load_data(pack_of(f, lambda p: p | {"test": (p["test"][0][..., :4], p["test"][1])})),
     "test.images is torch.uint8 (12, 3, 8, 4) on cpu; give torch.uint8 (12, 3, 8, 8)"),
    ("a file name for all", lambda f: write_pack(f / "x.npz", parts(), CLASSES, "x", {"train": ["a"] * 60, "test": ["b"] * 12}),
     "60 file names for 60 images; give each its own"),
    ("a number for a pack", lambda f: s.load_data(5), "name_or_path = 5 is a int; give str"),
    ("nothing for a pack", lambda f: s.load_data(None), "name_or_path = None is a NoneType; give str"),
    ("fewer labels than classes", load(labels=2), "labels = 2 keeps 2 labels; give at least one a class (3)"),
    ("more labels than images", load(labels=1000), "labels = 1000 keeps 1000 labels; give at least one a class (3), at"),
    ("a share above one", load(labels=1.5), "labels = 1.5 is neither a share in (0, 1] nor a count; give"),
    ("a share that is nan", load(labels=float("nan")), "labels = nan is neither a share in (0, 1] nor a count; give"),
    ("a word for labels", load(labels="all"), "labels = 'all' is neither a share in (0, 1] nor a count; give"),
    ("more labels than the rarest class has",
     lambda f: hide_labels(s.load_data(pack_of(f, rare)).train, 5, 0, 3), "leaves a class without; give 3 or fewer"),
    ("all images held out", load(val=60), "val = 60 images cannot be held out of 60; give 0 to 59"),
    ("a negative val", load(val=-1), "val = -1 images cannot be held out of 60; give 0 to 59"),
    ("a word for val", load(val="3"), "val = '3' images cannot be held out of 60; give 0 to 59"),
    ("a word for a label seed", load(labels=6, label_seed="x"), "label_seed = 'x' is no whole number above -1; give 0 or more"),
    ("a class all held out", load(val=59), "leaves no training image of class"),
]  # fmt: skip


# ---- data/prepare.py --------------------------------------------------------------------------------------------------


def run(script, *arguments):
    """A script's main, here: its status and what it said on stderr."""
    said = io.StringIO()
    before, sys.argv = sys.argv, [script, *map(str, arguments)]
    sys.path.insert(0, str((ROOT / script).parent))  # as python does
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(ROOT / script), run_name="__main__")
        return SimpleNamespace(returncode=0, stderr=said.getvalue())
    except SystemExit as end:
        text = end.code if isinstance(end.code, str) else ""
        return SimpleNamespace(returncode=1 if text else end.code, stderr=said.getvalue() + text)
    finally:
        sys.argv = before
        sys.path.pop(0)


def prepare(*arguments):
    return lambda folder: run("data/prepare.py", *arguments, "--out", folder / "out")


def prepared(change, *more):
    """The folder source of three flowers, gone through `change`."""
    def act(folder):
        source = write_folder(folder / "flowers", change(flowers()[0]))
        return prepare("folder", "--from", source, "--name", "flowers", *more)(folder)

    return act


def archive(members=(), change=lambda blob: blob):
    def act(folder):
        path = write_tar(folder / "flowers.tar", flowers()[0], members=members)
        path.write_bytes(change(path.read_bytes()))
        return prepare("folder", "--from", path, "--name", "flowers")(folder)

    return act


def cifar(change, *more):
    def act(folder):
        path = write_tar(folder / "cifar.tar.gz", change(cifar_files("cifar10")[0]))
        return prepare("cifar10", "--from", path, *more)(folder)

    return act


def without(start):
    return lambda files: {name: blob for name, blob in files.items() if not name.startswith(start)}


def added(name, blob):
    return lambda files: files | {name: blob}


PREPARE = [
    ("a source that is not there", prepare("folder", "--from", "nowhere", "--name", "x"), "nowhere does not exist: give"),
    ("no test folder", prepared(without("test")), "has no split 'test': give test/CLASS/*.jpg or .png"),
    ("a class missing in test", prepared(without("test/tulip")), "different classes: tulip in one of them only"),
    ("a class folder without images", prepared(lambda files: without("train/daisy")(files) | {"train/daisy/a.txt": b"x"}),
     "class folder train/daisy holds no JPEG or PNG image: fill it or remove it"),
    ("text named .png", prepared(added("train/daisy/x.png", b"text")), "train/daisy/x.png is not a readable JPEG or PNG"),
    ("an image beside the splits", prepared(added("x.png", encode(images(1)[0]))), "x.png is in no known split: name the top folders"),
    ("a photograph beside the splits", prepared(added("x.heic", b"x")), "x.heic is an image, but no JPEG or PNG; convert it"),
    ("an empty source", prepare("folder", "--from", "", "--name", "x"), "--from is given an empty value; give one, or"),
    ("an empty folder of packs", lambda f: run("data/prepare.py", "cifar10", "--out="), "--out is given an empty value; give one, or leave"),
    ("an empty provenance", prepared(lambda files: files, "--provenance", ""), "--provenance is given an empty value; give one"),
    ("an image cut short", prepared(added("train/daisy/x.png", encode(images(1)[0])[:80])), "train/daisy/x.png is not a"),
    ("a bitmap", prepared(added("train/daisy/x.bmp", b"BM")), "x.bmp is an image, but no JPEG or PNG; convert it"),
    ("images of two sizes", prepared(added("train/daisy/x.png", encode(images(1, 9)[0]))), "is 8 x 8: give --size"),
    ("a third split", prepared(added("val/daisy/x.png", b"")), "is in no known split: name the top folders train and test"),
    ("a class name without end", archive([special("train/" + "n" * 300, tarfile.DIRTYPE)]), "up to 200 characters: rename"),
    ("a size of zero", prepared(lambda files: files, "--size", "0"), "--size 0 is out of the range 1 to 1024 pixels"),
    ("a name with a slash", prepare("folder", "--from", ".", "--name", "../x"), "'../x' cannot name a pack: use letters"),
    ("an archive cut short", archive(change=lambda blob: blob[:5000]), "is not a whole .tar, .tar.gz or .tgz archive"),
    ("an archive of text", archive(change=lambda blob: b"text" * 500), "is not a whole .tar, .tar.gz or .tgz archive"),
    ("a link in an archive", archive([special("train/daisy/l.png", tarfile.SYMTYPE, "/etc/passwd")]),
     "is a link or a device: pack regular files only"),
    ("a device in an archive", archive([special("train/daisy/d.png", tarfile.CHRTYPE)]), "link or a device: pack regular"),
    ("a way out of an archive", archive([special("../../x", tarfile.DIRTYPE)]), "absolute path or '..': pack relative"),
    ("an absolute path in an archive", archive([special("/x", tarfile.DIRTYPE)]), "absolute path or '..': pack relative"),
    ("another hash", cifar(lambda files: files), "has md5"),
    ("an archive with a batch missing", cifar(without("cifar-10-batches-py/data_batch_3"), "--any-hash"), "lacks data_batch_3"),
    ("a batch that is no pickle", cifar(added("cifar-10-batches-py/data_batch_2", b"text"), "--any-hash"),
     "data_batch_2 is not a CIFAR batch"),
    ("no command", lambda f: run("data/prepare.py"), "required: command (see --help)"),
    ("an unknown set", lambda f: run("data/prepare.py", "cifar11"), "invalid choice: 'cifar11'"),
]  # fmt: skip


# ---- runs and checkpoints -------------------------------------------------------------------------------------------


def fitted(folder):
    fitted.runs = getattr(fitted, "runs", {})
    if not fitted.runs:  # one run for all rows; they copy its files
        place = folder / "first"
        s.fit(tiny(epochs=1), tiny_data(), place, progress=False)
        fitted.runs = {path.name: path.read_bytes() for path in place.iterdir()}
    for name, blob in fitted.runs.items():
        (folder / name).write_bytes(blob)
    return folder


def changed_checkpoint(change, reader=s.load_run):
    def act(folder):
        path = fitted(folder) / "checkpoint-00000004.pt"
        path.write_bytes(change(path.read_bytes()))
        return reader(path)

    return act


def other_state(**changes):
    def act(folder):
        path = fitted(folder) / "checkpoint-00000004.pt"
        checkpoint.save(path, {k: v for k, v in (checkpoint.load(path) | changes).items() if v is not None})
        return s.load_run(path)

    return act


def refit(config=None, data=None, **more):
    return lambda folder: s.fit(config or tiny(epochs=1), data or tiny_data(), fitted(folder), progress=False, **more)


def fit(config=None, data=None, **more):
    return lambda folder: s.fit(config or tiny(epochs=1), data or tiny_data(), progress=False, **more)


def knn(**changes):
    given = dict(bank=torch.eye(3), bank_labels=torch.arange(3), queries=torch.eye(3), query_labels=torch.arange(3), k=1)
    return lambda folder: s.knn_accuracy(**(given | changes))


def probe(**changes):
    given = dict(features=torch.rand(6, 3), labels=torch.arange(6) % 2, test_features=torch.rand(2, 3), test_labels=torch.arange(2))
    return lambda folder: s.linear_probe(**(given | changes))


@functools.cache
def done():
    return s.fit(tiny(epochs=1), tiny_data(), progress=False)


ONE_CLASS = with_train(tiny_data(), labels=torch.where(tiny_data().train.labels == 3, 3, -1))
UNLABELLED = with_train(tiny_data(), labels=torch.full((64,), -1))
RUNS = [
    ("a run that is not there", lambda f: s.load_run(f / "none"), "no checkpoint in"),
    ("a checkpoint that is not there", lambda f: s.load_run(f / "none.pt"), "There is no checkpoint"),
    ("an empty checkpoint", changed_checkpoint(lambda blob: b""), "is no whole checkpoint"),
    ("a checkpoint cut short", changed_checkpoint(lambda blob: blob[:-100]), "its checksum is missing or wrong); use an earlier"),
    ("a checkpoint of text", changed_checkpoint(lambda blob: b"text" * 100), "is no whole checkpoint"),
    ("a checkpoint with a bit flipped", changed_checkpoint(lambda b: b[:900] + bytes([b[900] ^ 4]) + b[901:]), "checksum is"),
    ("an encoder for a run", lambda f: s.load_run(fitted(f) / "encoder.pt"), "is no checkpoint of a run (without config)"),
    ("a checkpoint without queue", other_state(method={}), "does not fit: online.encoder.stem.0.weight has shape none there"),
    ("a checkpoint without history", other_state(history=None), "is no checkpoint of a run (without history); give one"),
    ("a checkpoint of another version", other_state(config={"tau": 0.2, "speed": 1}), "is of another version (Config has"),
    ("a folder of another config", refit(tiny(epochs=1, tau=0.5)), "tau (0.2 there, 0.5 now); choose another folder"),
    ("a folder of other images", refit(data=dataclasses.replace(tiny_data(), provenance="b")), "b now); choose another"),
    ("weights from nowhere", fit(weights="nowhere"), "no checkpoint in nowhere; give the folder of a run"),
    ("weights of another width", lambda f: s.fit(tiny(width=16), tiny_data(), weights=fitted(f)), "does not fit: online."),
    ("a run for weights", lambda f: fit(weights=done())(f), "Run(config=Config(labels=20, label_seed=... names no run; give its folder"),
    ("a run for its folder", lambda f: s.load_run(done()), "names no run; give its folder, or one of its checkpoints"),
    ("a run for a new folder", lambda f: fit(folder=done())(f), "folder = Run(config=Config(labels=20, label_seed=... names no folder"),
    ("a method for its class", lambda f: fit(method=done().method)(f), "method = SemPPL( (online): ModuleDict( (encoder):... is no class of"),
    ("a folder for a run to resume", fit(resume="runs/x"), "resume = 'runs/x' is a str; give semppl_mini.keeping.run.Run"),
    ("a yes to resume", fit(resume=True), "resume = True is a bool; give semppl_mini.keeping.run.Run"),
    ("encoders kept nowhere", fit(callbacks=[keep_encoders(1)]), "keep_encoders: the run's folder = None is a NoneType; give Path"),
    ("SemPPL without a label", fit(tiny(labels=None), UNLABELLED), "labelled images are of 0 class; load the data with labels of 2 or more, or give "
     "semantic_positives=0, which asks for none"),
    ("SemPPL with labels of one class", fit(tiny(labels=None), ONE_CLASS), "labelled images are of 1 class; load the data with labels of 2"),
    ("a classifier of one class", fit(tiny(labels=None, method="finetune", batch_size=2), ONE_CLASS), "labelled images are of 1 class; load"),
    ("no step between saves", fit(save_every=0), "save_every = 0 is no whole number above 0; give 1 or more"),
    ("no checkpoint kept", fit(keep_last=0), "keep_last = 0 is no whole number above 0; give 1 or more"),
    ("two ways to resume", lambda f: refit(resume=done())(f), "resume= is for runs without a folder; give fit folder="),
    ("an empty folder name", fit(folder=""), "folder = '' names no folder; give its path, or None to keep nothing"),
    ("a number for a folder", fit(folder=7), "folder = 7 names no folder; give its path, or None"),
    ("an empty name for weights", fit(weights=""), "'' names no run; give its folder, or one of its checkpoints"),
    ("a run without a name", lambda f: s.load_run(""), "'' names no run; give its folder, or one of its checkpoints"),
    ("a file for a folder", lambda f: s.fit(tiny(), tiny_data(), fitted(f) / "encoder.pt"), "is no folder to write to"),
    ("other labels than the data", fit(tiny(labels=30)), "asks for 30 of 64 images, but 20 have a label; give load_data"),
    ("another share than the data", fit(tiny(labels=0.5)), "labels = 0.5 asks for 32 of 64 images, but 20 have a label"),
    ("a batch beyond the images", fit(tiny(batch_size=65)), "batch_size = 65 exceeds the 64 training images; choose 64"),
    ("a share of no labels", fit(tiny(labels=None, labelled_share=0.5, semantic_positives=0), UNLABELLED), "asks for labelled images: there are"),
    ("a share of no unlabelled", lambda f: epoch_order(tiny(labelled_share=0.5), torch.zeros(64).long(), 0),
     "labelled_share = 0.5 asks for unlabelled images: there are none; change"),
    ("an evaluation without labels", lambda f: evaluate(None, tiny(), UNLABELLED), "labelled images are of 0 class; load"),
    ("an unknown split", lambda f: evaluate(None, tiny(), tiny_data(), "all"), "split = 'all' is unknown; give train, val"),
    ("pixels without labels", lambda f: raw_pixel_accuracy(UNLABELLED), "labelled images are of 0 class; load the data"),
    ("training of no step", lambda f: supervised(tiny(), tiny_data(), 0), "steps = 0 is no whole number above 0; give 1 or"),
    ("tuning of no label", lambda f: fine_tune(None, tiny(), UNLABELLED, 1, 0.1), "labelled images are of 0 class"),
    ("a dict for a config", fit({"epochs": 1}), "config = {'epochs': 1} is a dict; give Config"),
    ("a set for the data", fit(data=tiny_data().train), "is a ImageSet; give Data"),
    ("a callback that cannot be called", fit(callbacks=[3]), "callbacks = [3] is no list of functions of (run, record); give"),
    ("a function for callbacks", fit(callbacks=print), "callbacks = <built-in function print> is no list of functions"),
    ("labels of another seed", lambda f: fit(data=dataclasses.replace(tiny_data(), label_seed=5))(f), "config.label_seed = 0, but the data's labels "
     "were drawn by 5; give load_data the same `label_seed`"),
    ("an evaluation of a run", lambda f: evaluate(done(), tiny(), tiny_data()), "encoder = Run(config=Config(labels=20, label_seed=... is no network of images"),
    ("an evaluation of a method", lambda f: evaluate(done().method, tiny(), tiny_data()), "is no network of images with weights; give run.method.encoder"),
    ("an evaluation of nothing", lambda f: evaluate(torch.nn.Identity(), tiny(), tiny_data()), "encoder = Identity() is no network of images with"),
    ("measures of a method", lambda f: measure(done().method, tiny(), tiny_data()), "is no network of images with weights; give"),
    ("an evaluation on a set", lambda f: evaluate(None, tiny(), tiny_data().test), "is a ImageSet; give Data"),
    ("a set for a split", lambda f: evaluate(None, tiny(), tiny_data(), tiny_data().test), "split = <30 images of 32 x 32, 30 labelled> is unknown"),
    ("an untrained encoder of a set", lambda f: untrained_encoder(tiny(), tiny_data().test), "is a ImageSet; give Data"),
    ("a word for a rate of tuning", lambda f: fine_tune(None, tiny(), tiny_data(), 1, "0.1"), "lr = '0.1' is a str; give float"),
    ("measures of no image", lambda f: measure(done().method.encoder, tiny(), tiny_data(), n=0), "n, shots = 0 is no whole number above 0"),
    ("measures of one number of shots", lambda f: measure(done().method.encoder, tiny(), tiny_data(), shots=5), "shots = 5 is a int; give"),
    ("measures of no shot", lambda f: measure(done().method.encoder, tiny(), tiny_data(), shots=(0,)), "n, shots = 0 is no whole number above 0"),
    ("an evaluation of other labels", lambda f: evaluate(None, tiny(labels=30), tiny_data()), "asks for 30 of 64 images, but 20 have"),
    ("half a step of tuning", lambda f: evaluate(None, tiny(), tiny_data(), tune_steps=1.5), "tune_steps = 1.5 is no whole number"),
    ("an encoding by none at a time", lambda f: s.method.encode(torch.nn.Linear(1, 1), tiny_data().test, tiny(), 0), "batch = 0 is no whole"),
    ("an encoding of int64", lambda f: s.method.encode(torch.nn.Linear(1, 1), tiny_data().test.images.long(), tiny()),
     "images is torch.int64 (30, 3, 32, 32) on cpu; give torch.uint8 (n, 3, H, W)"),
    ("an encoding of fractions of 255", lambda f: s.method.encode(torch.nn.Linear(1, 1), tiny_data().test.images.float(), tiny()),
     "images goes from 1 to 254; give -0.001 to 1.001"),
    ("an encoding of an array", lambda f: s.method.encode(torch.nn.Linear(1, 1), tiny_data().test.images.numpy(), tiny()),
     "images is a ndarray; give torch.uint8 (n, 3, H, W)"),
    ("no encoder kept", lambda f: keep_encoders(0), "every = 0 is no whole number above 0; give 1 or more"),
    ("the votes of CARP", lambda f: inspect(class_of(c := tiny(method="carp", block=8, prototypes=8))(c, 10), tiny_data().test),
     "inspect shows the votes of SemPPL; CARP has none"),
    ("the votes on a tensor", lambda f: inspect(done().method, tiny_data().test.images), "ids of the images = None is a NoneType; give Tensor"),
    ("the votes on all data", lambda f: inspect(done().method, tiny_data()), "ids of the images = None is a NoneType; give Tensor"),
    ("votes of a negative seed", lambda f: inspect(done().method, tiny_data().test, -1), "seed = -1 is no whole number above -1"),
    ("a map of no features", lambda f: s.plots.umap_of(torch.rand(9, 0)), "UMAP cannot map features of shape (9, 0); give (n, dim)"),
    *((f"a probe, C of {grid!r}", probe(grid=grid), "give labels of 2 or more, and positive numbers")
      for grid in ((), (0,), (-1.0,), (0.1, float("nan")))),
    ("a probe of one class", probe(labels=torch.zeros(6).long()), "A probe of 1 classes, C of (0.001, 0.01, 0.1, 1.0); give labels of 2 or more"),
    ("a map of three images", lambda f: s.plots.umap_of(torch.rand(3, 8)), "shape (3, 8); give (n, dim) of 4 images or more"),
    ("pixels of no split", lambda f: raw_pixel_accuracy(tiny_data(), "all"), "split = 'all' is unknown; give train, val or"),
    ("pixels by no neighbour", lambda f: raw_pixel_accuracy(tiny_data(), k=0), "k = 0 is no whole number above 0"),
    *((f"k-NN, {name}", knn(**given), words) for name, given, words in (
        ("labels in a column", dict(query_labels=torch.arange(3)[:, None]), "labels of the queries is torch.int64 (3, 1) on cpu; give"),
        ("one label for all", dict(query_labels=torch.tensor(1)), "labels of the queries is torch.int64 () on cpu; give torch.int64 (3)"),
        ("labels for more", dict(bank_labels=torch.arange(4)), "labels of the bank is torch.int64 (4,) on cpu; give torch.int64 (3)"),
        ("a bank without labels", dict(bank_labels=torch.arange(3) - 1), "labels of the bank goes from -1 to 1; give 0 to"),
        ("nan", dict(queries=torch.eye(3) * float("nan")), "queries goes from nan to nan; give -1e+18 to 1e+18"),
        ("another width", dict(queries=torch.ones(3, 4)), "queries is torch.float32 (3, 4) on cpu; give numbers (n > 0, 3)"),
        ("no queries", dict(queries=torch.ones(0, 3), query_labels=torch.arange(0)), "queries is torch.float32 (0, 3) on cpu"),
        ("a yes for neighbours", dict(k=True), "k = True neighbours asked of a bank of 3"),
        ("features whose squares are infinite", dict(bank=torch.eye(3) * 1e30), "bank goes from 0 to 1e+30; give -1e+18 to 1e+18"),
        ("half a neighbour", dict(k=1.5), "k = 1.5 neighbours asked of a bank of 3"),
        ("no warmth", dict(temperature=0), "temperature = 0 is no number of 0.0125 or more; give 0.07"),
        ("frost", dict(temperature=-1.0), "temperature = -1.0 is no number of 0.0125 or more; give 0.07"),
        ("a temperature that is nan", dict(temperature=float("nan")), "temperature = nan is no number of 0.0125 or more"))),
    ("a probe of nan", lambda f: s.linear_probe(torch.eye(3) * float("nan"), torch.arange(3), torch.eye(3), torch.arange(3)),
     "bank goes from nan to nan; give -1e+18 to 1e+18"),
    ("too many neighbours", lambda f: s.knn_accuracy(torch.eye(3), torch.arange(3), torch.eye(3), torch.arange(3), k=4),
     "k = 4 neighbours asked of a bank of 3; choose k between 1 and its size"),
]  # fmt: skip


# ---- notebooks and commands -------------------------------------------------------------------------------------------


def parameters(**values):
    return lambda folder: check_parameters(values, dict(dataset=str, seed=int, epochs=int, share=float | None))


def notebook(name, **values):
    """A real kernel executes the notebook with these papermill parameters; the error of the cell that stops it."""
    def act(folder):
        with pytest.raises(papermill.PapermillExecutionError) as error:
            papermill.execute_notebook(str(ROOT / "notebooks" / name), str(folder / "out.ipynb"), values,
                                       kernel_name="python3", progress_bar=False)  # fmt: skip
        raise ValueError(error.value.evalue)

    return act


def train(*arguments):
    return lambda folder: run("scale/train.py", "digits", "--name", "x", "--out", folder, *arguments)


def launched(**environment):
    """scale/train.py in this environment, which would wait for other processes."""
    def act(folder):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("WORLD_SIZE", "RANK"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(torch.distributed, "init_process_group", lambda *_: pytest.fail("it would wait for ever"))
            return train()(folder)

    return act


def real(*arguments):
    """The command in a process of its own, as a user gives it."""
    def act(folder):
        command = [sys.executable, *map(str, arguments)]
        environment = os.environ | {"SEMPPL_RUNS": str(folder)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    return act


COMMANDS = [
    ("an unknown parameter", parameters(epoch=3), "no parameter 'epoch'; the nearest is 'epochs'"),
    ("a word for a parameter", parameters(seed="1"), "Parameter seed = '1' is a str; give int"),
    ("a switch for a parameter", parameters(epochs=True), "Parameter epochs = True is a bool; give int"),
    ("a word for one of two types", parameters(share="0.5"), "Parameter share = '0.5' is a str; give float | None"),
    ("notebook 00, a word for a seed", notebook("00_start_here.ipynb", seed="one"), "seed = 'one' is a str; give int"),
    ("notebook 03, an unknown question", notebook("03_ablations.ipynb", questions=["kk"]), "no question 'kk'; choose among k"),
    ("a field without a value", train("epochs"), "'epochs' is not of the form field=value; write for example epochs=8"),
    ("a field nobody knows", train("epoch=3"), "no field 'epoch'; the nearest is 'epochs'"),
    ("a word as a value", train("epochs=abc"), "epochs = 'abc' is a str; give int"),
    ("labels nobody has", train("labels=9"), "labels = 9 keeps 9 labels; give at least one a class (10)"),
    ("a pack that is not there", train("--data", "nowhere.npz"), "There is no data pack nowhere.npz; make it with"),
    ("no steps of supervision", train("--supervised", "0"), "--supervised 0 is too small; give 1 or more"),
    ("a negative tuning", train("--tune", "-1"), "--tune -1 is too small; give 0 or more"),
    ("a word for a number of steps", train("--save-every", "often"), "--save-every: invalid int value: 'often'"),
    ("a list and a number of labels", train("--label-list", "l.txt", "labels=50"), "--label-list and labels= both choose labels; give one"),
    ("supervision from weights", train("--supervised", "5", "--weights", "x"), "--supervised trains from scratch; leave out --weights"),
    ("weights that are not there", train("--weights", "nowhere"), "no checkpoint in nowhere; give the folder of a run"),
    ("a name that leaves the folder", train("--name", "../x"), "--name '../x' cannot name a file or folder; use up to 100"),
    ("an unknown split", train("--split", "all"), "invalid choice: 'all'"),
    ("a nest of brackets", train("mean=" + "(" * 10**5), "... is a str; give tuple"),
    ("a nest of signs", lambda f: override("seed=" + "-" * 10**6 + "1"), "seed = --------------------... is nested too"),
    ("a file for --out", lambda f: run("scale/train.py", "digits", "--name", "x", "--out", fitted(f) / "encoder.pt"),
     "is no folder to write to (File exists); give another"),
    ("an unknown preset", real("scale/train.py", "imagenet", "--name", "x"), "no preset 'imagenet'; choose one of digits"),
    ("a plan of a relative", lambda f: run("scale/plan.py", "imagenet_carp", "--devices", "8", "--chip", "h100"),
     "imagenet_carp has method = 'carp'; give a recipe of SemPPL"),
    ("pixels that should learn", lambda f: run("scale/evaluate.py", "pixels", "--data", "digits", "--name", "x",
                                               "--tune", "5"), "--tune 5 needs weights to tune, and pixels have none"),
    ("no name", lambda f: run("scale/train.py", "digits"), "the following arguments are required: --name (see --help)"),
    ("no seeds to sweep", lambda f: run("notebooks/sweep.py", "--seeds", "0"), "--seeds 0 is too small; give 1 or more"),
    ("a question nobody asks", real("notebooks/sweep.py", "--questions", "kk"), "no question 'kk'; choose among k, voting"),
    ("no seeds for the demo", real("notebooks/demo.py", "--seeds", "0"), "--seeds 0 is too small; give 1 or more"),
    ("a script for a notebook", lambda f: run("notebooks/execute.py", "README.md"), "README.md is no notebook; give paths"),
    ("no kills", lambda f: run("tests/helpers/torture.py", "--kills", "0"), "--kills 0 is too small; give 1 or more"),
    ("an empty pack name", train("--data", ""), "--data is given an empty value; give one, or leave it out"),
    ("an empty label list", train("--label-list="), "--label-list is given an empty value; give one, or leave it out"),
    ("an empty preset", lambda f: run("scale/train.py", "", "--name", "x"), "an argument is given an empty value; give one, or leave"),
    ("a GPU that is not there", train("device='cuda:99'"), "device = 'cuda:99' is not there"),
    ("a read-out on no device", lambda f: run("scale/evaluate.py", fitted(f), "--data", "digits", "--name", "x",
                                              "--device", "meta"), "device = 'meta' is not there"),
    ("no number of processes", launched(WORLD_SIZE="abc"), "WORLD_SIZE = 'abc' in the environment is no whole number from 1"),
    ("fewer than no processes", launched(WORLD_SIZE="-1"), "WORLD_SIZE = '-1' in the environment is no whole number from 1"),
    ("a rank nobody has", launched(WORLD_SIZE="2", RANK="7"), "RANK = '7' in the environment is no whole number from 0 to 1"),
    ("no rank", launched(WORLD_SIZE="2"), "RANK = '' in the environment is no whole number from 0 to 1; let torchrun set"),
    ("a rank that is a word", launched(RANK="one"), "RANK = 'one' in the environment is no whole number from 0 to 0"),
    ("a source that is not there", real("data/prepare.py", "folder", "--from", "nowhere", "--name", "x"), "does not exist"),
]  # fmt: skip

TABLE = {"config": CONFIG, "made": MADE, "data": DATA, "prepare": PREPARE, "runs": RUNS, "commands": COMMANDS}
ROWS = [pytest.param(act, words, id=f"{area}: {name}") for area, rows in TABLE.items() for name, act, words in rows]


@pytest.mark.parametrize("act, words", ROWS)
def test_bad_input(act, words, tmp_path):
    try:
        result = act(tmp_path)
        assert hasattr(result, "returncode"), "accepted"
        assert result.returncode not in (0, None)
        said = result.stderr.strip()
    except (ValueError, OSError) as error:
        said = str(error)
    assert words in said
    assert "\n" not in said and said.endswith(".") and len(said) <= 400 and "Traceback" not in said


def test_bad_input_has_at_least_sixty_rows_and_every_area():
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids)) >= 160 and all(len(rows) >= 20 for rows in TABLE.values())


WRONG = {int: "8", float: [0.1], tuple: 0.5, str: 7, bool: "no"}


@pytest.mark.parametrize("field", dataclasses.fields(s.Config), ids=lambda field: field.name)
def test_bad_input_of_a_wrong_type_in_every_field(field):
    kind = next(kind for kind in WRONG if isinstance(field.default, kind)) if field.default is not None else float
    with pytest.raises(ValueError, match=rf"^{field.name} = .* is a \w+; give .*\.$"):
        s.Config().replace(**{field.name: WRONG[kind]})
