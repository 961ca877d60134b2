"""Files that lie, blow up or carry code. Each gives what it honestly holds, or one sentence, and leaves nothing else.

Properties draw files by the hundred, always the same ones: damaged bytes, and archives of arbitrary members. Bombs are
the known tricks by name. Memory is what Python traces at its peak, and once that of a real process.
"""

import gzip
import hashlib
import io
import json
import math
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import unicodedata
import warnings
import zipfile
import zlib
from contextlib import redirect_stderr, redirect_stdout
from functools import partial

import numpy as np
import pytest
import torch
from archives import (
    SCRIPT,
    cifar_files,
    encode,
    fashion_files,
    flowers,
    idx,
    images,
    prepare,
    python2_pickle,
    python3_pickle,
    write_folder,
    write_tar,
)
from core_checks import CLASSES, parts
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st
from PIL import Image

from semppl_mini import Data, load_data
from semppl_mini.files import checkpoint, read_pack, write_pack

configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "hypothesis"))  # not into the checkout
MB = 2**20
GNU, PAX = tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
NEW = "train/aster/9.png"  # a file that the set of flowers does not have


def hostile(examples):
    """The same files in each run, however long one takes."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


# ---- what must hold of every file


def is_sentence(text):
    return text.isprintable() and text.endswith(".") and len(text) < 2000


def outcome(read, *arguments, most=4 * MB):
    """What read(...) gives, or the text of its ValueError; more than `most` bytes of memory is a failure."""
    tracemalloc.start()
    try:
        return read(*arguments)
    except ValueError as error:
        assert is_sentence(str(error)), str(error)
        return str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most, f"{peak / MB:.0f} MB"


def listing(folder):
    """All that lies in a folder: {path: bytes, None for a folder, or the target of a link}."""

    def content(path):
        return os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None

    return {path: content(path) for path in sorted(folder.rglob("*"))}


def run(*arguments):
    """The program's status, and what it said on stderr."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            return prepare.main(list(map(str, arguments))), said.getvalue()
        except SystemExit as stop:  # argparse
            return stop.code, said.getvalue()


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A folder to work in: below it, so that `..` is watched too."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def prepared(sandbox, *arguments, most=math.inf):
    """The pack that the program made, or its sentence; nothing else in the sandbox has changed."""
    before, out = listing(sandbox), sandbox / "out"
    code, said = outcome(run, *arguments, "--out", out, most=most)
    after = listing(sandbox)
    assert {path: content for path, content in after.items() if out not in (path, *path.parents)} == before
    if code != 0:
        assert code == 2 and said.startswith("prepare: ") and said.endswith("\n") and is_sentence(said[:-1]), said
        assert out not in after
        return said
    (path,) = (path for path in after if out in path.parents)
    pack = read_pack(path)
    shutil.rmtree(out)
    return pack


def folder_set(sandbox, source, **more):
    return prepared(sandbox, "folder", "--from", source, "--name", "zoo", **more)


EDITS = st.lists(
    st.tuples(st.sampled_from("flip set cut drop double zero".split()), st.integers(0, 2**31), st.integers(0, 255)),
    min_size=1, max_size=3,
)  # fmt: skip


def damaged(blob, edits):
    """The bytes after a few edits: a bit flipped, a byte set, the end cut off, a stretch dropped, doubled or zeroed."""
    for what, at, value in edits:
        at %= max(1, len(blob))
        before, stretch, after = blob[:at], blob[at : at + value + 1], blob[at + value + 1 :]
        if what == "flip" and stretch:
            stretch = bytes([stretch[0] ^ 1 << value % 8]) + stretch[1:]
        elif what == "set" and stretch:
            stretch = bytes([value]) + stretch[1:]
        else:
            after = b"" if what == "cut" else after
            stretch = {"drop": b"", "double": 2 * stretch, "zero": bytes(len(stretch))}.get(what, stretch)
        blob = before + stretch + after
    return blob


class Code:
    """A pickle of it makes a file when it is loaded: the canary."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_hostile_code_is_live(tmp_path):
    """What the canary needs: an ordinary unpickler does run it."""
    pickle.loads(pickle.dumps(Code(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


# ---- packs


@pytest.fixture
def pack(tmp_path):
    return write_pack(tmp_path / "zoo.npz", parts(), CLASSES, "drawn at random")


def same(found, other):
    """Whether two read packs are equal in every bit that counts."""
    tensors = [[part for split in ("train", "test") for part in splits[split]] for splits, _ in (found, other)]
    equal = all(torch.equal(a, b) if a is not None else b is None for a, b in zip(*tensors, strict=True))
    return equal and found[1] == other[1]


@hostile(70)
@given(edits=EDITS)
def test_corrupt_pack_is_refused_or_as_it_was(edits, sandbox):
    path = write_pack(sandbox / "zoo.npz", parts(), CLASSES, "drawn at random")
    whole = read_pack(path)
    path.write_bytes(damaged(path.read_bytes(), edits))
    before = listing(sandbox)
    found = outcome(read_pack, path)
    assert listing(sandbox) == before
    assert isinstance(found, str) or same(found, whole)  # a date in the zip may be another


@pytest.mark.parametrize("length", [0, 100, "half", -10])
def test_corrupt_pack_that_is_cut_is_refused(length, pack):
    whole = pack.read_bytes()
    pack.write_bytes(whole[: len(whole) // 2 if length == "half" else length])
    with pytest.raises(ValueError, match="no readable data pack .*make it again"):
        load_data(pack)


def rewritten(path, **changes):
    """The pack with some arrays exchanged (None: left out) and the rest, its checksums included, as it was."""
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_corrupt_pack_with_another_pixel_or_label_is_refused(pack):
    pixels, labels = parts()["train"]
    pixels, whole = pixels.copy(), pack.read_bytes()
    pixels[3, 1, 2, 2] ^= 1
    for changes in ({"train_images": pixels}, {"train_labels": labels[::-1]}, {"test_labels": None},
                    {"train_masks": np.ones((60, 1, 8, 8), np.uint8)}):  # fmt: skip
        pack.write_bytes(whole)
        rewritten(pack, **changes)
        with pytest.raises(ValueError, match="is damaged .sha256 differs.; make it again"):
            load_data(pack)


def test_hostile_pack_of_pickles_or_without_meta_is_refused(pack):
    whole = pack.read_bytes()
    pickled = np.array({"classes": CLASSES}, dtype=object)
    for meta in (None, pickled, np.array("{"), np.array(json.dumps({"name": "x"}))):
        pack.write_bytes(whole)
        rewritten(pack, meta=meta)
        with pytest.raises(ValueError, match="no readable data pack"):
            load_data(pack)
    with zipfile.ZipFile(pack, "w") as file:
        file.writestr("note.txt", "not an array")
    with pytest.raises(ValueError, match="no readable data pack"):
        load_data(pack)


def npy(descr, shape, payload, version=1, fortran=False):
    """An .npy file as it claims to be, whatever follows."""
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + payload


def zipped(members):
    """A zip of (name, bytes, compression), names twice included."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, blob, kind in members:
            archive.writestr(zipfile.ZipInfo(name), blob, kind)
    return file.getvalue()


def honest():
    """{name: (descr, shape, bytes)} of a small pack with masks, and its meta data without checksums."""
    rng, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 6), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 3, 4, 4), np.uint8)
        arrays[f"{split}_labels"] = np.arange(n) % 2
        arrays[f"{split}_masks"] = rng.integers(0, 2, (n, 1, 4, 4), np.uint8)
    meta = {"name": "zoo", "provenance": "drawn", "classes": ["a", "b"], "format": 1}
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}, meta


def packed(arrays, meta, kinds=None, more=()):
    """The bytes of a pack, each checksum right: what can be refused is only what it says."""
    digests = {name: hashlib.sha256(payload).hexdigest() for name, (_, _, payload) in arrays.items()}
    text = np.array(json.dumps({"sha256": digests, **meta}))
    members = [("meta.npy", npy(text.dtype.str, (), text.tobytes())), *more]
    members += [(f"{name}.npy", npy(*array)) for name, array in arrays.items()]
    return zipped([(name, blob, (kinds or {}).get(name, zipfile.ZIP_STORED)) for name, blob in members])


SHAPES = st.sampled_from([
    (), (0,), (6,), (4,), (6, 3, 4, 4), (4, 3, 4, 4), (6, 1, 4, 4), (6, 3, 0, 4), (0, 3, 4, 4), (6, 3, 16), (6, 1),
    (-6,), (-2, -3), (10**12,), (10**9, 10**9, 10**9), (10**12, 0), (2**63,), (True,), (1,) * 70, (6, 3, 4), "six",
])  # fmt: skip
TYPES = st.sampled_from(
    ["|u1", "<i8", ">i8", "<i4", "|i1", "<f8", "|b1", "|O", "<U3", "|V7", "<U999999999", [("a", "|u1")], "x"]
)
PAYLOADS = st.sampled_from([0, 1, 6, 32, 48, 64, 96, 288]).flatmap(lambda n: st.sampled_from([bytes(n), b"\xff" * n]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("n" * 300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=4,
)  # fmt: skip
NAMES = sorted(honest()[0])


@st.composite
def packs(draw):
    """An honest pack with up to two of its parts made arbitrary."""
    (arrays, meta), kinds, more = honest(), {}, []
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(NAMES))
        what = draw(st.sampled_from("honest honest honest array part drop meta member twice deflate version".split()))
        if what == "honest" and name in arrays:  # other bytes in the same place
            kind, shape, _ = honest()[0][name]
            values = {"images": range(256), "labels": [0, 0, 1, 1, 2, -1], "masks": [0, 1]}[name.split("_")[1]]
            size = math.prod(shape)
            values = draw(st.lists(st.sampled_from(values), min_size=size, max_size=size))
            arrays[name] = kind, shape, np.array(values, kind).tobytes()
        elif what == "array":
            arrays[name] = draw(TYPES), draw(SHAPES), draw(PAYLOADS)
        elif what == "part" and name in arrays:
            part = draw(st.integers(0, 2))
            arrays[name] = *arrays[name][:part], draw([TYPES, SHAPES, PAYLOADS][part]), *arrays[name][part + 1 :][:2]
        elif what == "drop":
            arrays.pop(name, None)
        elif what == "meta":
            meta[draw(st.sampled_from(["name", "provenance", "classes", "sha256"]))] = draw(VALUES)
        elif what == "member":
            more.append((draw(st.text(max_size=8) | st.sampled_from(["../x.npy", "/x.npy", "val_images.npy"])), b"x"))
        elif what == "twice" and name in arrays:
            more.append((f"{name}.npy", npy(*arrays[name])))
        elif what == "deflate":
            kinds[f"{name}.npy"] = zipfile.ZIP_DEFLATED
        elif what == "version" and name in arrays:
            more.append((f"{name}.npy", npy(*arrays.pop(name), version=draw(st.integers(2, 3)))))
    return packed(arrays, meta, kinds, more)


@hostile(110)
@given(blob=packs())
def test_hostile_pack_is_refused_or_as_it_says(blob, sandbox):
    path = sandbox / "zoo.npz"
    path.write_bytes(blob)
    before = listing(sandbox)
    found = outcome(read_pack, path)
    loaded = outcome(load_data, path)
    assert listing(sandbox) == before
    if isinstance(found, str):
        return
    assert isinstance(loaded, (Data, str))
    with np.load(path) as file:  # an independent reader, without pickles
        arrays = {name: file[name] for name in file.files}
    splits, meta = found
    assert len(set(meta["classes"])) == len(meta["classes"]) and all(type(name) is str for name in meta["classes"])
    for split, read in splits.items():
        for part, tensor in zip(("images", "labels", "masks"), read, strict=True):
            assert (tensor is None) == (f"{split}_{part}" not in arrays)
            assert tensor is None or np.array_equal(tensor.numpy(), arrays[f"{split}_{part}"])
        pixels, labels, masks = read
        n, three, h, w = pixels.shape
        assert pixels.dtype == torch.uint8 and three == 3 and min(n, h, w) > 0
        assert labels.dtype == torch.int64 and labels.shape == (n,)
        assert set(labels.tolist()) <= set(range(-(split == "train"), len(meta["classes"])))
        assert masks is None or masks.shape == (n, 1, h, w) and set(masks.unique().tolist()) <= {0, 1}


def test_hostile_packs_of_the_property_are_sometimes_honest(tmp_path):
    (tmp_path / "zoo.npz").write_bytes(packed(*honest()))
    assert len(load_data(tmp_path / "zoo.npz").train) == 6


def with_array(name, *array):
    arrays, meta = honest()
    return packed(arrays | {name: array}, meta)


def with_files(*array, other=("|S1", (4,), b"abcd")):
    arrays, meta = honest()
    return packed(arrays | {"train_files": array} | ({"test_files": other} if other else {}), meta)


def with_meta(**changes):
    arrays, meta = honest()
    return packed(arrays, meta | changes)


def deflated():
    """60 MB of zeros in 60 kB, honestly declared and with the right checksum."""
    arrays, meta = honest()
    arrays["train_images"] = "|u1", (6, 3, 1826, 1826), bytes(18 * 1826**2)
    return packed(arrays, meta, {"train_images.npy": zipfile.ZIP_DEFLATED})


def lying_table():
    """The zip's own table, too, says that two gigabytes of labels are there."""
    claimed = ("<i8", (2**28 - 16,), b"")
    blob = bytearray(with_array("train_labels", *claimed))
    at = blob.rindex(b"train_labels.npy") - 46 + 20  # in the table: two sizes
    blob[at : at + 8] = 2 * struct.pack("<I", 2**31 - 128 + len(npy(*claimed)))
    return bytes(blob)


def crowded_table():
    """60,000 members without a byte: their table alone takes 40 MB once it is read."""
    return zipped([(f"{i}", b"", zipfile.ZIP_STORED) for i in range(60_000)])


def long_header(version, size):
    """An array of honest bytes under a header of `size` letters, which are to be read as Python."""
    arrays, meta = honest()
    blob, start = npy("|u1", (6, 3, 4, 4), b"", version), 10 if version == 1 else 12
    length = struct.pack("<H" if version == 1 else "<I", size)
    blob = blob[:8] + length + blob[start:].ljust(size) + arrays.pop("train_images")[2]
    return packed(arrays, meta, more=[("train_images.npy", blob)])


def with_text(text):
    """A pack of nothing but meta data, as it stands here."""
    return zipped([("meta.npy", npy(f"<U{len(text)}", (), text.encode("utf-32-le")), zipfile.ZIP_STORED)])


def with_labels(*array):
    return lambda: with_array("train_labels", *array)


def with_masks(*array):
    return lambda: with_array("test_masks", "|u1", *array)


PACKS = {
    "a terabyte by its header": (with_labels("<i8", (10**12,), bytes(48)), "claims shape (1000"),
    "no bytes but a terabyte": (with_labels("<i8", (10**12,), b""), "claims shape (1000"),
    "a negative shape": (with_labels("<i8", (-2, -3), bytes(48)), "no readable data pack"),
    "pointers": (with_labels("|O", (6,), bytes(48)), "type object"),
    "fewer bits": (with_labels("<i4", (6,), bytes(24)), "type int32"),
    "labels in a row of rows": (with_labels("<i8", (6, 1), bytes(48)), "give one label to each"),
    "images of no height": (lambda: with_array("train_images", "|u1", (6, 3, 0, 4), b""), "give one label to each"),
    "an image without axes": (lambda: with_array("train_images", "|u1", (), b"x"), "give one label to each"),
    "masks of 255": (with_masks((4, 1, 4, 4), b"\xff" * 64), "up to 255; give 0 or 1"),
    "masks of other images": (with_masks((3, 1, 4, 4), bytes(48)), "masks (3, 1, 4, 4) up to 0; give"),
    "masks without images": (lambda: packed({"test_masks": honest()[0]["test_masks"]}, honest()[1]), "no train split"),
    "a deflated bomb": (deflated, "claims more than its"),
    "a deflated member": (lambda: packed(*honest(), {"test_masks.npy": zipfile.ZIP_DEFLATED}), "compressed or too"),
    "a table that lies": (lying_table, "claims more than its"),
    "a crowded table": (crowded_table, "bytes at once, over the limit of"),
    "a header of 8 megabytes": (lambda: long_header(2, 8 * MB), "no readable data pack"),
    "a header of 60,000 letters": (lambda: long_header(1, 60_000), "Header info length (60000) is large"),
    "a member outside": (lambda: packed(*honest(), more=[("../../x.npy", b"x")]), "strange member '../../x.npy'"),
    "a member twice": (
        lambda: packed(*honest(), more=[("test_labels.npy", npy(*honest()[0]["test_labels"]))]), "unknown, twice"),
    "meta that is a list": (lambda: with_text("[]"), "no readable data pack"),
    "meta without end": (lambda: with_text("[" * 900), "no readable data pack"),
    "meta of a number": (lambda: with_text("1" * 5000), "no readable data pack"),
    "a name that is a number": (lambda: with_meta(name=7), "wrong types"),
    "classes that are text": (lambda: with_meta(classes="ab"), "wrong types"),
    "classes that are numbers": (lambda: with_meta(classes=[1, 2]), "no list of different names"),
    "classes that are lists": (lambda: with_meta(classes=[[], []]), "no list of different names"),
    "a class twice": (lambda: with_meta(classes=["a", "a"]), "no list of different names"),
    "a class of 201 letters": (lambda: with_meta(classes=["a" * 201, "b"]), "of up to 200 printable characters"),
    "a class that clears the screen": (lambda: with_meta(classes=["a", "\x1b[2J"]), "printable"),
    "half a character": (lambda: with_meta(classes=["a", "\ud800"]), "printable"),
    "checksums that are a list": (lambda: with_meta(sha256=[]), "is damaged"),
    "more names of files than there are": (lambda: with_files("|S0", (10**12,), b""), "file names for"),
    "names of one split": (lambda: with_files("|S2", (6,), b"abacadaeafag", other=None), "test has 0 file names for 4"),
    "a name that clears the screen": (lambda: with_files("|S5", (2,), b"\x1b[2J0\x1b[2J1"), "printable UTF-8"),
    "a name that is no text": (lambda: with_files("|S2", (6,), b"\xff\xfe" * 6), "printable UTF-8"),
    "names that are pointers": (lambda: with_files("|O", (6,), bytes(48)), "type object"),
    "no class": (lambda: with_meta(classes=[]), "with 0 classes they must lie in"),
}  # fmt: skip


@pytest.mark.parametrize("name", PACKS)
def test_hostile_pack_by_name(name, sandbox):
    make, says = PACKS[name]
    path = sandbox / "zoo.npz"
    path.write_bytes(make())
    before = listing(sandbox)
    assert says in str(outcome(read_pack, path, most=3 * MB))
    assert listing(sandbox) == before


@pytest.mark.parametrize("limit, value", [("MAX_BYTES", 5000), ("MAX_META", 500)])
def test_hostile_pack_over_a_limit(limit, value, pack, monkeypatch):
    read_pack(pack)
    monkeypatch.setattr(f"semppl_mini.files.packs.{limit}", value)
    assert {"MAX_BYTES": "the limit of 5000", "MAX_META": "'meta.npy'"}[limit] in outcome(read_pack, pack)


def test_hostile_pack_with_code_does_not_run_it(pack, sandbox):
    with np.load(pack) as file:
        arrays = dict(file)
    for name in arrays:
        coded = np.array([Code(sandbox / "it ran")], dtype=object)
        np.savez(pack, **{**arrays, name: coded})
        assert "type object" in outcome(read_pack, pack)
    assert not (sandbox / "it ran").exists()


def test_hostile_pack_of_an_empty_class_is_not_loaded(tmp_path):
    path = write_pack(tmp_path / "empty.npz", parts(), [*CLASSES, "dog"], "here")
    for val in (None, 0):
        found = outcome(lambda: load_data(path, val=val))  # noqa: B023
        assert "no training image of class 'dog'; the set itself has none: pack it without this class" in found


@pytest.mark.parametrize("classes, provenance, masks, says", [
    (["ant", "bee", "n" * 201], "here", {}, "up to 200 printable characters; rename them"),
    (["ant", "bee", 3], "here", {}, "no list of different names"),
    (["ant", "bee", "bee"], "here", {}, "no list of different names"),
    (CLASSES, "two\nlines", {}, "printable"),
    (CLASSES, None, {}, "wrong types"),
    (CLASSES, "here", {"test": np.full((12, 1, 8, 8), 2)}, "up to 2; give 0 or 1"),
    (CLASSES, "here", {"train": np.ones((60, 8, 8))}, "masks (60, 8, 8)"),
])  # fmt: skip
def test_hostile_input_is_not_packed(classes, provenance, masks, says, sandbox):
    before = listing(sandbox)
    splits = {split: (*both, masks[split]) if split in masks else both for split, both in parts().items()}
    assert says in str(outcome(write_pack, sandbox / "zoo.npz", splits, classes, provenance))
    assert listing(sandbox) == before


# ---- archives


def member(name, kind=tarfile.REGTYPE, blob=b"", size=None, pax=None, link="", form=PAX):
    """The blocks of one member of a tar, whatever it claims."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(blob) if size is None else size, link
    info.pax_headers = pax or {}
    return info.tobuf(form, errors="surrogateescape") + blob + bytes(-len(blob) % 512)


def tar_of(members, end=bytes(1024)):
    return b"".join(members) + end


def flower_members():
    return [member(name, blob=blob) for name, blob in flowers()[0].items()]


OUT = "OUT"  # stands for an absolute path into the sandbox
GOOD = st.sampled_from([NEW, "test/aster/9.png", "train/aster", "train", "./test/daisy/9.png", "train/aster/notes.txt",
                        ".", "train/.hidden/1.png", "train/aster/\x1b[2J.png", "train/tulip/花 ünï.png"])  # fmt: skip
PATHS = GOOD | GOOD | st.text(max_size=12) | st.sampled_from([
    "", "../x.png", "../../x.png", "train/../../x.png", "train/../../../x.png", f"{OUT}/x.png", "//x.png",
    "/train/a/1.png", "train/" + "n" * 201 + "/1.png", "train/\udcff/1.png", "train/a\nb/1.png", "n" * 700 + ".png",
    "train/\x1b[2J/1.png", "val/x/1.png", "x.png", "train/aster/1.webp", "C:\\x.png", "..\\x.png",
    "train/aster/0000.png",
])  # fmt: skip
KINDS = st.sampled_from([tarfile.REGTYPE] * 25 + [tarfile.DIRTYPE] * 5 + [bytes([c]) for c in b"\0123467SLKxgXVDZ"])
SIZES = st.sampled_from([None] * 30 + [0, 1, 511, 513, 2**20, 2**27, 2**33 - 1, 2**33, 2**62, -1, -512, -(2**40)])
BLOBS = st.sampled_from([encode(images(1)[0]), encode(images(1, 9)[0], "JPEG"), b"", b"no image", bytes(600)])
SPARSE = [f"GNU.sparse.{key}" for key in "map size major minor realsize name numblocks".split()]
HEADERS = st.just({}) | st.dictionaries(
    st.sampled_from(["path", "size", "linkpath", "comment", "mtime", "hdrcharset", *SPARSE]),
    st.sampled_from(["0", "1", "-1", "-1024", "10", "1e9", "99999999999", "9" * 5000, "0,1,2", "nan", "BINARY",
                     "../x.png", "/x.png", f"{OUT}/x.png", NEW, "x" * 3000]), max_size=3,
)  # fmt: skip
MEMBERS = st.builds(dict, name=PATHS, kind=KINDS, blob=BLOBS, size=SIZES, pax=HEADERS, link=PATHS,
                    form=st.sampled_from([PAX, GNU]))  # fmt: skip


def placed(value, sandbox):
    if isinstance(value, dict):
        return {key: placed(entry, sandbox) for key, entry in value.items()}
    return value.replace(OUT, str(sandbox / "escaped")) if isinstance(value, str) else value


def small_limits(monkeypatch):
    """Limits that small files can breach, so that a breach shows in the memory."""
    for name, value in (("MAX_FILE_BYTES", MB), ("MAX_HEADER_BYTES", 2**16), ("MAX_TAR_BYTES", 2**24)):
        monkeypatch.setattr(prepare, name, value)


def assert_of_flowers(found):
    """A pack of the flower set with more in it: images of 8 x 8, the three classes and perhaps more."""
    splits, meta = found
    assert {"aster", "daisy", "tulip"} <= set(meta["classes"])
    for split, (pixels, _) in flowers()[1].items():
        have = {image.tobytes() for image in splits[split][0].numpy()}
        assert {image.tobytes() for image in pixels} <= have


@hostile(100)
@given(
    members=st.lists(MEMBERS, min_size=1, max_size=3), at=st.integers(0, 18), end=st.integers(0, 3), gz=st.booleans()
)
def test_hostile_archive_is_refused_or_packed(members, at, end, gz, sandbox, monkeypatch):
    small_limits(monkeypatch)
    try:
        blocks = [member(**placed(entry, sandbox)) for entry in members]
    except (ValueError, UnicodeError):  # not to be written as a tar at all
        return
    whole = flower_members()
    blob = tar_of(whole[:at] + blocks + whole[at:], bytes(1024) if end else b"")
    source = sandbox / "zoo.tar"
    source.write_bytes(gzip.compress(blob, 1) if gz else blob)
    found = folder_set(sandbox, source, most=5 * MB)
    if not isinstance(found, str):
        assert_of_flowers(found)


def rechecked(blob, at):
    """The tar with a right checksum in the header at `at`."""
    blob = bytearray(blob)
    blob[at + 148 : at + 156] = b" " * 8
    blob[at + 148 : at + 156] = b"%06o\0 " % sum(blob[at : at + 512])
    return bytes(blob)


def long_names():
    """A member with a header of its own for its name, in both dialects."""
    name, blob = "train/aster/" + "n" * 120, encode(images(1)[0])
    return [member(f"{name}1.png", blob=blob, form=GNU), member(f"{name}2.png", blob=blob, pax={"comment": "x"})]


@hostile(70)
@given(edits=EDITS, where=st.sampled_from(["tar", "tar in gz", "gz"]))
def test_corrupt_archive_is_refused_or_packed(edits, where, sandbox, monkeypatch):
    small_limits(monkeypatch)
    blob, source = tar_of([*long_names(), *flower_members()]), sandbox / "zoo.tar"
    blob = blob if where == "gz" else damaged(blob, edits)
    blob = blob if where == "tar" else gzip.compress(blob, 1)
    source.write_bytes(damaged(blob, edits) if where == "gz" else blob)
    found = folder_set(sandbox, source, most=5 * MB)
    assert isinstance(found, str) or {"aster", "daisy", "tulip"} & set(found[1]["classes"])


@hostile(60)
@given(
    edits=st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=4),
    start=st.sampled_from([0, 1024, 2048, 3072]),
)
def test_corrupt_headers_with_right_checksums_are_refused_or_packed(edits, start, sandbox, monkeypatch):
    """Bytes set in one block of a header, whose checksum is then set right, so that they are read."""
    small_limits(monkeypatch)
    first, source = bytearray(b"".join(long_names())), sandbox / "zoo.tar"
    for at, value in edits:
        first[start + at] = value
    source.write_bytes(tar_of([rechecked(first, start), *flower_members()]))
    found = folder_set(sandbox, source, most=5 * MB)
    if not isinstance(found, str):
        assert_of_flowers(found)


def raw_header(name, kind, size, **fields):
    """A header block with bytes set at offsets, as {offset: bytes}, and the right checksum."""
    block = bytearray(member(name, kind, size=size, form=GNU)[:512])
    for at, value in fields.items():
        block[int(at[1:]) : int(at[1:]) + len(value)] = value
    return rechecked(block, 0)


def sparse(blocks):
    """A GNU sparse file of a few bytes that claims 100 MB, and `blocks` blocks that go on listing its parts."""
    octal = b"%011o\0"
    entry = octal % 512 + octal % 1
    head = raw_header("train/aster/9.png", b"S", 0, _386=4 * entry, _482=b"\1" if blocks else b"\0", _483=octal % 10**8)
    more = (21 * entry).ljust(504, b"\0") + b"\1" + bytes(7)
    return head + more * (blocks - 1) + more[:504] + bytes(8) if blocks else head


def negative(kind):
    """A header of a header that claims -512 bytes, before 12 MB."""
    return raw_header("x", kind, 0, _124=b"\xff" * 10 + b"\xfe\0") + bytes(12 * MB)


def globals_and_folders():
    """200 global headers of 100 kB, each under another key, with a folder after each."""
    folder = member("train/aster", tarfile.DIRTYPE)
    return [member("x", b"g", blob=b"100022 k%09d=%s\n" % (i, b"x" * 100_003)) + folder for i in range(200)]


OVER = "over the limit of 1048576"
LINK = "is a link or a device: pack regular files only"
NEGATIVE = "is not a whole .tar" if sys.version_info >= (3, 14) else ""  # tarfile itself refuses it there
AWAY = "has an absolute path or '..': pack relative paths only"
TARS = {  # what comes behind the members of an honest set; no words: it does no harm
    "a long comment": (lambda: [member(NEW, pax={"comment": "x" * 12 * MB})], OVER),
    "a long name": (lambda: [member("train/" + "n" * 12 * MB, form=GNU)], OVER),
    "a global header": (lambda: [member("x", b"g", blob=b"x" * 12 * MB)], OVER),
    "many global headers": (globals_and_folders, ""),
    "headers of headers": (lambda: [member("x", b"x", blob=b"12 comment=x\n") * 3000], "is not a whole .tar"),
    "a negative header": (lambda: [negative(b"x")], NEGATIVE or "asks for -512 bytes, over the limit"),
    "a negative name": (lambda: [negative(b"L")], NEGATIVE or "asks for -512 bytes, over the limit"),
    "a sparse file": (lambda: [sparse(0)], f"'{NEW}' is a sparse file: pack regular files only"),
    "a long list of parts": (lambda: [sparse(8000)], OVER),
    "sparse by pax": (lambda: [member(NEW, pax={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9" * 8})], "is a sparse"),
    "a huge file": (lambda: [member(NEW, size=2**50, form=GNU)], f"claims {2**50} bytes, over the limit of 160000000"),
    "a huge file by pax": (lambda: [member(NEW, pax={"size": "9" * 18})], f"claims {'9' * 18} bytes, over the limit"),
    "a length of 5000 digits": (lambda: [member("x", b"x", blob=b"9" * 5000 + b" path=x\n")], "is not a whole"),
    "a negative file": (lambda: [member(NEW, size=-512, form=GNU)], NEGATIVE or "claims -512 bytes, over the limit"),
    "a file that is not there": (lambda: [member(NEW, size=10**8)], "is not a whole"),
    "a link": (lambda: [member(NEW, tarfile.SYMTYPE, link="../../x")], LINK),
    "a hard link": (lambda: [member(NEW, tarfile.LNKTYPE, link="/x")], LINK),
    "a device": (lambda: [member(NEW, tarfile.CHRTYPE)], LINK),
    "a block device": (lambda: [member(NEW, tarfile.BLKTYPE)], LINK),
    "a pipe": (lambda: [member(NEW, tarfile.FIFOTYPE)], LINK),
    "an absolute path": (lambda: [member("/train/daisy/9.png")], AWAY),
    "a way out": (lambda: [member("train/../../9.png")], AWAY),
    "a way out by pax": (lambda: [member("x", pax={"path": "../x.png"})], AWAY),
    "a file twice": (lambda: [member("train/daisy/0000.png", blob=encode(images(1)[0]))], "0000.png comes twice in"),
    "a path of 700 letters": (lambda: [member("train/aster/" + "n" * 700)], "over the limit of 600: rename it"),
    "a class of 201 letters": (lambda: [member("train/" + "n" * 201, tarfile.DIRTYPE)], "up to 200 characters: rename"),
    "a class of two lines": (lambda: [member("train/a\nb", tarfile.DIRTYPE)], r"class 'a\nb'... has no printable name"),
    "a class in no encoding": (lambda: [member("train/\udcff", tarfile.DIRTYPE, form=GNU)], "has no printable name"),
}  # fmt: skip


TAR_AND_GZ = [(name, gz) for name in TARS for gz in (False, True) if not gz or "header" in name or "long" in name]


@pytest.mark.parametrize("name, gz", TAR_AND_GZ)
def test_hostile_archive_by_name(name, gz, sandbox):
    make, says = TARS[name]
    source, blob = sandbox / "zoo.tar", tar_of([*flower_members(), *make()])
    source.write_bytes(gzip.compress(blob, 1) if gz else blob)
    del blob
    found = folder_set(sandbox, source, most=6 * MB)
    if says:
        assert says in found
    else:
        assert_of_flowers(found)


def test_hostile_number_of_members_takes_no_memory(sandbox):
    """tarfile keeps 440 bytes of each that it has seen; the limit of two million would be a gigabyte."""
    (sandbox / "zoo.tar").write_bytes(tar_of([*flower_members(), *[member("notes.txt")] * 10_000]))
    assert_of_flowers(folder_set(sandbox, sandbox / "zoo.tar", most=2 * MB))


def test_hostile_names_in_an_error_stay_one_short_line(sandbox):
    name = "train/aster/\x1b[2J\n" + "n" * 180 + ".png"
    source = sandbox / "zoo.tar"
    source.write_bytes(tar_of([*flower_members(), member(name, blob=b"no image")]))
    assert r"aster/\x1b[2J\nnnn" in folder_set(sandbox, source)
    assert is_sentence(prepare.sentence(ValueError("x" * 10**6)))
    assert prepare.sentence(MemoryError()) == "not enough memory (MemoryError): give a smaller set or --size."


@pytest.mark.parametrize("form", ["folder", GNU, PAX])
def test_hostile_looking_names_work(form, sandbox):
    """Names in any script, with spaces, quotes, emoji, dashes; of 200 characters; decomposed accents."""
    composed = partial(unicodedata.normalize, "NFC")
    names = ["花 ünï", 'it\'s "it"', "--help", "n" * 200, "e\u0301", "🌷", "a;rm -rf x", "NUL", "%s{0}"]
    classes = sorted(names, key=composed)
    pixels = images(2 * len(classes))
    files = {f"{split}/{name}/{'ß' * 60} {i}.PNG": encode(pixels[2 * i + (split == "test")])
             for i, name in enumerate(classes) for split in ("train", "test")}  # fmt: skip
    if form == "folder":
        source = write_folder(sandbox / "zoo", files)
    else:
        source = sandbox / "zoo.tar"
        source.write_bytes(tar_of([member(name, blob=blob, form=form) for name, blob in files.items()]))
    splits, meta = folder_set(sandbox, source)
    assert meta["classes"] == list(map(composed, classes))
    for k, split in enumerate(("train", "test")):
        np.testing.assert_array_equal(splits[split][0].numpy(), pixels[k::2].transpose(0, 3, 1, 2))
    path = write_pack(sandbox / "zoo.npz", {s: splits[s][:2] for s in splits}, classes, "花")
    assert load_data(path, val=0).classes == classes and load_data(path, val=0).provenance == "花"


def test_hostile_header_in_a_small_gzip_has_room_for_honest_ones(sandbox):
    """Up to a megabyte a member is read, for each member anew."""
    comments = [member("train/aster/notes.txt", pax={"comment": "x" * 900_000})] * 3
    (sandbox / "zoo.tar").write_bytes(tar_of([*flower_members(), *comments]))
    assert_of_flowers(folder_set(sandbox, sandbox / "zoo.tar"))


def test_hostile_zeros_after_the_end_are_not_read_for_ever(sandbox, monkeypatch):
    source = sandbox / "zoo.tar"
    source.write_bytes(gzip.compress(tar_of(flower_members(), bytes(5_000_000))))
    monkeypatch.setattr(prepare, "MAX_TAR_BYTES", 1_000_000)
    assert "does not stop after its end marker" in folder_set(sandbox, source)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
@pytest.mark.parametrize("cut", ["member", "between", "header", "end"])
def test_corrupt_archive_that_is_cut_is_refused(cut, suffix, sandbox):
    source = write_tar(sandbox / f"flowers{suffix}", flowers()[0])
    whole = source.read_bytes()
    if suffix == ".tar":
        with tarfile.open(source) as tar:
            last = tar.getmembers()[-1]
        end = {"member": last.offset_data + 100, "between": last.offset, "header": last.offset + 9}
        end = end.get(cut, last.offset_data + 512)  # every member whole, the end marker gone
    else:
        end = {"member": len(whole) // 2, "between": len(whole) - 60, "header": 5}
        end = end.get(cut, len(whole) - 4)  # every byte of the tar, the gzip checksum gone
    source.write_bytes(whole[:end])
    assert "is not a whole .tar, .tar.gz or .tgz" in folder_set(sandbox, source)


def test_corrupt_archive_in_the_middle_is_not_taken_for_the_end(sandbox):
    source = write_tar(sandbox / "flowers.tar", flowers()[0])
    with tarfile.open(source) as tar:
        last = tar.getmembers()[-1]
    blob = bytearray(source.read_bytes())
    blob[last.offset + 150] ^= 0xFF  # the last header's checksum: tarfile alone stops here, without a word
    source.write_bytes(blob)
    assert "is not a whole" in folder_set(sandbox, source)


def test_hostile_archive_that_is_no_tar_is_refused(sandbox):
    (sandbox / "flowers.zip").write_bytes(b"PK\x03\x04" + bytes(2000))
    assert "is not a whole" in folder_set(sandbox, sandbox / "flowers.zip")


@pytest.mark.parametrize("limit, value, says", [
    ("MAX_MEMBERS", 17, "more than 17 members"),
    ("MAX_FILE_BYTES", 150, "over the limit of 150 a file"),
    ("MAX_TAR_BYTES", 10_000, "unpacks to more than 10000 bytes"),
    ("MAX_PIXELS", 63, "over the limit of 63 pixels: scale it down"),
    ("MAX_PACK_BYTES", 3000, "exceed the limit 3000 bytes"),
    ("MAX_CLASSES", 1, "has more than 1 classes, the limit: merge some"),
])  # fmt: skip
def test_hostile_source_over_a_limit(limit, value, says, sandbox, monkeypatch):
    source = write_tar(sandbox / "flowers.tar", flowers()[0])
    monkeypatch.setattr(prepare, limit, value)
    assert says in folder_set(sandbox, source)


# ---- folders


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files of POSIX")
@pytest.mark.parametrize("what", ["pipe", "device", "broken link", "circle"])
def test_hostile_entry_of_a_folder_is_not_waited_for(what, sandbox):
    path = write_folder(sandbox / "zoo", flowers()[0]) / "train" / "aster" / "9.png"
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "broken link": "nowhere", "circle": "9.png"}[what])
    assert "9.png is a broken link or a device: put the file itself there" in folder_set(sandbox, sandbox / "zoo")
    assert "does not exist: give --from" in folder_set(sandbox, path)
    path.rename(sandbox / "zoo" / "a.tar")
    for split in ("train", "test"):
        shutil.rmtree(sandbox / "zoo" / split)
    assert "has no split 'train'" in folder_set(sandbox, sandbox / "zoo")


@pytest.mark.parametrize("kind", ["folder", "tar"])
@pytest.mark.parametrize("suffix", "webp WEBP bmp gif tif tiff avif heic jp2 jxl ppm dng".split())
def test_hostile_formats_are_named_and_not_skipped(suffix, kind, sandbox):
    files = flowers()[0] | {f"test/daisy/9.{suffix}": b"x"}
    hidden = flowers()[0] | {f"test/daisy/.9.{suffix}": b"x", f"__MACOSX/daisy/9.{suffix}": b"x"}
    make = write_folder if kind == "folder" else lambda path, files: write_tar(path.with_suffix(".tar"), files)
    says = f"test/daisy/9.{suffix} is an image, but no JPEG or PNG; convert it, or remove it"
    assert says in folder_set(sandbox, make(sandbox / "zoo", files))
    assert_of_flowers(folder_set(sandbox, make(sandbox / "hidden", hidden)))


# ---- images


@hostile(150)
@given(edits=EDITS, kind=st.sampled_from(["PNG", "JPEG", "progressive", "palette"]))
def test_corrupt_image_is_refused_or_decoded(edits, kind):
    square = images(1, 16)[0]
    blob = {"PNG": lambda: encode(square), "JPEG": lambda: encode(square, "JPEG"),
            "progressive": lambda: encode(square, "JPEG", progressive=True),
            "palette": lambda: encode(square[:, :, 0] % 4, "PNG", bits=2)}[kind]()  # fmt: skip
    blob = damaged(blob, edits)
    if kind in ("PNG", "palette"):  # right checksums, so that the damage is read
        blob = rechunked(blob)
    found = outcome(prepare.decode, blob, "x.png")
    if not isinstance(found, str):
        array, name = found
        assert array.dtype == np.uint8 and array.shape[0] == 3 and name == ("JPEG" if blob[:1] == b"\xff" else "PNG")


def rechunked(blob):
    """A PNG with the right checksum in each chunk that is whole."""
    at, blob = 8, bytearray(blob)
    while at + 12 <= len(blob):
        end = at + 8 + int.from_bytes(blob[at : at + 4], "big")
        if end + 4 > len(blob):
            break
        blob[end : end + 4] = struct.pack(">I", zlib.crc32(blob[at + 4 : end]))
        at = end + 4
    return bytes(blob)


def zeros(count):
    """That many bytes, deflated piece by piece."""
    squeeze = zlib.compressobj(1)
    pieces = [squeeze.compress(bytes(min(MB, count - at))) for at in range(0, count, MB)]
    return b"".join(pieces) + squeeze.flush()


def png(width, height, rows=b"", more=b"", colour=False):
    """A PNG that claims a size, of one bit a pixel or of colour; rows are deflated."""
    head = struct.pack(">IIBBBBB", width, height, *((8, 2) if colour else (1, 0)), 0, 0, 0)
    chunks = [(b"IHDR", head), (b"zTXt", more), (b"IDAT", rows), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(body)) + name + body + bytes(4) for name, body in chunks if body or name == b"IEND"]
    return rechunked(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def lying_jpeg(width, height):
    blob = bytearray(encode(images(1, 16)[0], "JPEG"))
    at = blob.index(b"\xff\xc0") + 5
    blob[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(blob)


def scanned(scans):
    """A progressive JPEG whose last scan comes again and again: each is a pass over all pixels."""
    blob = encode(images(1, 16)[0], "JPEG", progressive=True)
    at = blob.rindex(b"\xff\xda")
    return blob[:at] + (blob[at:-2]) * (scans - blob.count(b"\xff\xda") + 1) + blob[-2:]


IMAGES = {
    "a PNG of gigapixels": (lambda: png(60_000, 60_000), "over the limit of 50000000 pixels: scale it down"),
    "a PNG of 169 megapixels": (lambda: png(13_000, 13_000), "13000 x 13000 is over the limit of 50000000 pixels: sc"),
    "a PNG too wide": (lambda: png(2**31 - 1, 1), "over the limit of 50000000 pixels: scale it down"),
    "a PNG without pixels": (lambda: png(0, 5), "is not a readable"),
    "a JPEG of gigapixels": (lambda: lying_jpeg(65_000, 65_000), "over the limit of 50000000 pixels: scale it down"),
    "a JPEG that claims more": (lambda: lying_jpeg(9000, 9000), "9000 x 9000 is over the limit of 50000000 pixels: sc"),
    "a JPEG of 101 scans": (lambda: scanned(101), "its 101 scans are over the limit of 100: save it as a plain JPEG"),
    "a text that inflates": (lambda: png(8, 8, zeros(16), b"k\0\0" + zeros(30 * MB)), "too large"),
    "a bitmap named .png": (lambda: encode(images(1)[0], "BMP"), "(unknown format)"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_image_by_name(name, sandbox):
    make, says = IMAGES[name]
    source = write_folder(sandbox / "zoo", flowers()[0] | {"train/daisy/9.png": make()})
    found = folder_set(sandbox, source, most=6 * MB)
    assert "train/daisy/9.png is not a readable JPEG or PNG image" in found and says in found


def test_hostile_scans_within_the_limit_are_decoded():
    assert prepare.decode(scanned(100), "x.jpg")[0].shape == (3, 16, 16)


def test_a_jpeg_of_two_pictures_is_a_jpeg():
    """As phones and stereo cameras write them: the provenance names the format that changed the pixels."""
    file = io.BytesIO()
    first, second = (Image.fromarray(square) for square in images(2, 16))
    first.save(file, "MPO", save_all=True, append_images=[second])
    array, kind = prepare.decode(file.getvalue(), "x.jpg")
    assert kind == "JPEG" and array.shape == (3, 16, 16)


# ---- official archives


@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_hostile_code_in_a_cifar_archive_does_not_run(file, sandbox):
    files, _, _ = cifar_files("cifar10")
    files[f"cifar-10-batches-py/{file}"] = python3_pickle({"data": Code(sandbox / "it ran")})
    source = write_tar(sandbox / "c.tar.gz", files)
    assert "has md5 " in prepared(sandbox, "cifar10", "--from", source)
    found = prepared(sandbox, "cifar10", "--from", source, "--any-hash")
    assert f"{file} is not a CIFAR batch (UnpicklingError('it asks for " in found


PICKLE_PARTS = st.lists(st.sampled_from([
    b"\x80\x04", b"}", b"]", b"(", b")", b"N", b"K\x01", b"J\xff\xff\xff\x7f", b"\x8c\x04data", b"\x8c\x06labels", b"s",
    b"u", b"a", b"e", b"t", b"\x85", b"\x86", b"\x94", b"q\0", b"h\0", b"r\xff\xff\xff\x03", b"j\0\0\0\0", b"R", b"b",
    b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cos\nsystem\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"Q", b".",
    b"\x8c\x04open", b"\x8c\x02io", b"\x93", b"\x81", b"i__main__\nx\n", b"o", b"Pid\n", b"\x8b\1\0\0\0\1",
    b"I01\n", b"2", b"0", b"\x96\0\0\0\1\0\0\0\0", b"\x8a\1\1", b"\x88", b"C\1x", b"p99999999\n",
    b"\x95" + b"\xff" * 6 + bytes(2), b"1",
]), max_size=14).map(b"".join)  # fmt: skip


@hostile(250)
@given(edits=EDITS, kind=st.integers(0, 3), more=PICKLE_PARTS)
def test_hostile_pickle_gives_arrays_or_a_sentence(edits, kind, more, sandbox):
    entry = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    coded = pickle.dumps({**entry, "labels": Code(sandbox / "it ran")}, 2)
    blob = [python2_pickle(entry), python3_pickle(entry), coded, b"\x80\x04"][kind]
    blob = blob + more + b"." if kind == 3 else damaged(blob, edits)
    found = outcome(prepare.read_pickle, blob, "batch", prepare.cifar_batch)
    assert not (sandbox / "it ran").exists()
    if not isinstance(found, str):
        pixels, labels = found
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (3, 32, 32) and labels.ndim == 1


def laughs(depth, width):
    """The billion laughs: a list of the same list, of the same list, ... which grows when it is written out."""
    value = [0] * width
    for _ in range(depth):
        value = [value] * width
    return value


class Reduced:
    """Pickles as a call of numpy's, which an ordinary unpickler would make."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def strange_array(kind):
    """An array whose type is `kind`."""
    dtype = Reduced(np.dtype, (kind, False, True))
    return Reduced(*np.zeros(0).__reduce__()[:2], (1, (2, 3072), dtype, False, b""))


def batch(**changes):
    return python3_pickle({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], **changes})


PICKLES = {
    "a place in the memo": (lambda: b"\x80\x04}r\xff\xff\xff\x03.", "it uses LONG_BINPUT, or"),
    "a place in decimal": (lambda: b"\x80\x04}p67108863\n.", "it uses PUT, or"),
    "an array of bytes": (lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "is not a CIFAR batch"),
    "long numbers": (lambda: batch(labels=[2**70]), "it uses LONG1, or"),
    "a set": (lambda: batch(labels={1, 2}), "it uses EMPTY_SET, or"),
    "a type that grows": (lambda: batch(data=strange_array(laughs(24, 2))), "its array has type list, not uint8"),
    "a name that the machine has": (lambda: b"\x80\x02cos\nsystem\n(X\x01\0\0\0xtR.", "it asks for os.system"),
    "a name of megabytes": (lambda: b"\x80\x02c" + b"o" * MB + b"\ns\n.", "it asks for ooo"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickle_by_name(name):
    make, says = PICKLES[name]
    found = outcome(prepare.read_pickle, make(), "batch", prepare.cifar_batch, most=8 * MB)
    assert says in found and len(found) < 300


def test_hostile_labels_that_grow_are_refused():
    found = outcome(prepare.read_pickle, batch(labels=laughs(24, 2)), "batch", prepare.cifar_batch)
    assert found[1].tolist() == [None, None]  # nothing nested is left
    found = outcome(prepare.check_labels, *found, ["a", "b"], "batch")
    assert found == "batch has 2 images but labels of shape (2,): damaged."


def test_hostile_pickle_over_the_limit_of_operations(monkeypatch):
    blob = batch()
    prepare.read_pickle(blob, "batch", prepare.cifar_batch)
    monkeypatch.setattr(prepare, "MAX_OPCODES", 20)
    found = outcome(prepare.read_pickle, blob, "batch", prepare.cifar_batch)
    assert "it has more than 20 operations, the limit" in found


NO_TEXT, NO_NAMES = "its label_names are no list of text", "no list of different names"


@pytest.mark.parametrize("names, says", [
    (7, NO_TEXT), ("classes", NO_TEXT), ([1, 2], NO_TEXT), ([["a"]], NO_TEXT), (laughs(24, 2), NO_TEXT),
    (["a"] * 10, NO_NAMES), ([*"abcdefghi", "\x1b"], NO_NAMES), ([*"abcdefghi", "n" * 201], NO_NAMES),
])  # fmt: skip
def test_hostile_class_names_of_an_archive_are_refused(names, says, sandbox):
    files, _, _ = cifar_files("cifar10")
    files["cifar-10-batches-py/batches.meta"] = python3_pickle({"label_names": names})
    source = write_tar(sandbox / "c.tar.gz", files)
    assert says in prepared(sandbox, "cifar10", "--from", source, "--any-hash")


@pytest.mark.parametrize("kind", ["folder", "archive", "files in it"])
def test_hostile_official_set_over_the_limit(kind, sandbox, monkeypatch):
    files = cifar_files("cifar10")[0]
    source = write_folder(sandbox / "c", files) if kind == "folder" else write_tar(sandbox / "c.tar.gz", files)
    size = source.stat().st_size if kind == "archive" else sum(map(len, files.values()))
    for limit, words in ((size, None), (size - 1, f"holds {size} bytes, over the limit of {size - 1}: fetch the set")):
        monkeypatch.setattr(prepare, "MAX_OFFICIAL_BYTES", max(limit, 0))
        if kind == "files in it":
            monkeypatch.setattr(prepare, "check_hash", lambda *_: False)
        found = prepared(sandbox, "cifar10", "--from", source, "--any-hash")
        if kind == "archive":
            assert "over the limit" in found if words is None else words in found  # unpacked it is larger still
        else:
            assert words in found if words else not isinstance(found, str)


@hostile(150)
@given(edits=EDITS, inside=st.booleans(), ndim=st.integers(1, 3))
def test_corrupt_idx_is_refused_or_read(edits, inside, ndim):
    blob = idx(np.arange(5 * 4 ** (ndim - 1)).reshape(5, *[4] * (ndim - 1)))
    blob = gzip.compress(damaged(gzip.decompress(blob), edits)) if inside else damaged(blob, edits)
    found = outcome(prepare.read_idx, blob, "x.gz", ndim)
    assert isinstance(found, str) or found.dtype == np.uint8 and found.ndim == ndim


def bomb(shape, size):
    return gzip.compress(struct.pack(">4I", 0x0803, *shape) + bytes(size), 1)


@pytest.mark.parametrize("blob, says", [
    (lambda: bomb((3, 28, 28), 60 * MB), "is not a whole gzipped idx file"),
    (lambda: bomb((2**31, 28, 28), 100), f"shape [{2**31}, 28, 28], with a limit of {2**26} bytes"),
    (lambda: bomb((0, 0, 0), 60 * MB), "is not a whole gzipped idx file"),
    (lambda: bomb((60_000, 28, 28), 100), "is not a whole gzipped idx file"),
])  # fmt: skip
def test_hostile_idx_takes_what_it_holds(blob, says, sandbox):
    files = fashion_files()[0] | {"train-images-idx3-ubyte.gz": blob()}
    source = write_folder(sandbox / "fashion", files)
    assert says in prepared(sandbox, "fashion_mnist", "--any-hash", "--from", source, most=4 * MB)


# ---- checkpoints


STATE = {"step": 3, "weights": torch.arange(50.0), "names": ["a", "b"], "nested": {"x": torch.zeros(2, 2).byte()}}


def signed(blob):
    """A zip's bytes with the checksum of a checkpoint, which anyone can compute."""
    blob = blob[:-2] + (64).to_bytes(2, "little")
    return blob + hashlib.sha256(blob).hexdigest().encode()


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@hostile(150)
@given(edits=EDITS)
def test_corrupt_checkpoint_is_refused(edits, sandbox):
    path = sandbox / "x.pt"
    checkpoint.save(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, edits))
    found = outcome(checkpoint.load, path)
    assert "x.pt is no whole checkpoint" in found if path.read_bytes() != whole else found["step"] == 3


@hostile(100)
@given(blob=st.binary(max_size=300), sign=st.booleans())
def test_hostile_bytes_are_no_checkpoint(blob, sign, sandbox):
    path = sandbox / "x.pt"
    path.write_bytes(signed(blob) if sign else blob)
    assert "x.pt is no whole checkpoint" in outcome(checkpoint.load, path)


def entries(state):
    """{name: bytes} of what torch.save writes."""
    with zipfile.ZipFile(io.BytesIO(saved(state))) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@hostile(120)
@given(edits=EDITS, which=st.integers(0, 7), code=st.booleans())
def test_hostile_checkpoint_with_a_right_checksum_runs_nothing(edits, which, code, sandbox):
    """Edits before the checksum is taken: what can be read of it is plain data."""
    path, files = sandbox / "x.pt", entries({**STATE, "code": Code(sandbox / "it ran")} if code else STATE)
    name = [*files, next(name for name in files if name.endswith("data.pkl"))][which % (len(files) + 1)]
    files[name] = damaged(files[name], edits)
    path.write_bytes(signed(zipped([(name, blob, zipfile.ZIP_STORED) for name, blob in files.items()])))
    before = listing(sandbox)
    outcome(checkpoint.load, path, most=16 * MB)
    assert listing(sandbox) == before


def test_hostile_checkpoint_with_code_is_refused(sandbox):
    path = sandbox / "x.pt"
    path.write_bytes(signed(saved({**STATE, "code": Code(sandbox / "it ran")})))
    assert "is no whole checkpoint (it holds more than plain tensors); use an" in outcome(checkpoint.load, path)
    assert not (sandbox / "it ran").exists()


def test_hostile_checkpoint_that_inflates_is_refused(sandbox):
    files, path = entries({"x": torch.zeros(16 * MB, dtype=torch.uint8)}), sandbox / "x.pt"
    path.write_bytes(signed(zipped([(name, blob, zipfile.ZIP_DEFLATED) for name, blob in files.items()])))
    del files
    assert path.stat().st_size < 100_000
    assert len(torch.load(path, weights_only=True)["x"]) == 16 * MB  # torch alone inflates it
    assert "it holds more than plain tensors" in outcome(checkpoint.load, path)


def test_hostile_checkpoint_of_its_own_making_is_read(sandbox):
    """The builder above makes files that are refused for what is in them, not for how it wrote them."""
    files, path = entries(STATE), sandbox / "x.pt"
    path.write_bytes(signed(zipped([(name, blob, zipfile.ZIP_STORED) for name, blob in files.items()])))
    assert torch.equal(checkpoint.load(path)["weights"], STATE["weights"])


# ---- the memory of a real process

MEASURE = """
import resource, runpy, sys
script, out, *sources = sys.argv[1:]
for source in sources:
    sys.argv = [script, "folder", "--from", source, "--name", "zoo", "--out", out]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        print(end.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""  # the program on one source after the other: its status, and the peak memory so far
BETWEEN = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"  # a process inherits its parent's peak


@pytest.mark.skipif(os.name != "posix", reason="getrusage is a call of POSIX")
def test_hostile_bomb_takes_no_more_memory_than_an_honest_set(sandbox):
    """Pixels do not count as Python's memory, so a decompression bomb of an image goes to a process of its own."""
    image = png(9000, 9000, zeros(9000 * 27_001), colour=True)  # whole, black, 1 MB; 324 MB once it is decoded
    honest, bomb = sandbox / "honest.tar", sandbox / "bomb.tar"
    honest.write_bytes(tar_of(flower_members()))
    bomb.write_bytes(tar_of([*flower_members(), member(NEW, blob=image)]))
    command = [sys.executable, "-c", BETWEEN, sys.executable, "-c", MEASURE, SCRIPT, sandbox / "out", honest, bomb]
    done = subprocess.run(command, capture_output=True, text=True)
    (code, usual), (bad_code, peak) = (map(int, line.split()) for line in done.stdout.splitlines() if line[0] in "012")
    usual, peak = (use * (1 if sys.platform == "darwin" else 1024) for use in (usual, peak))
    assert (code, bad_code) == (0, 2) and "over the limit of 50000000 pixels" in done.stderr
    assert done.stderr.count("\n") == 1 and [path.name for path in (sandbox / "out").iterdir()] == ["zoo.npz"]
    assert peak < usual + 200 * MB, f"{peak / MB:.0f} MB, an honest set {usual / MB:.0f} MB"
