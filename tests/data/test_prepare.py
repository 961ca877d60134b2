"""data/prepare.py on real archives built here: exact pixels on good paths, one sentence on bad ones."""

import gzip
import hashlib
import io
import pickle
import runpy
import struct
import sys
import tarfile
import threading
import zlib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
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
    special,
    write_folder,
    write_tar,
)
from PIL import Image
from torchvision import datasets
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from semppl_mini.files import read_pack

# ---------------------------------------------------------------- helpers


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The address of a web server on this machine that serves tmp_path/host."""
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(QuietHandler, directory=tmp_path / "host")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def pack(tmp_path, capsys):
    """pack(*arguments) runs the program on a fresh out folder and returns what it packed."""

    def run(*arguments, name="flowers"):
        code = prepare.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        assert code == 0, capsys.readouterr().err
        return read_pack(tmp_path / "out" / f"{name}.npz")

    return run


@pytest.fixture
def refused(tmp_path, capsys):
    """refused(*arguments, says=...) asserts status 2, one sentence with these words, no file left."""

    def run(*arguments, says):
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        try:
            code = prepare.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:  # argparse
            code = stop.code
        error = capsys.readouterr().err
        assert code == 2
        assert error.startswith("prepare: ") and error.endswith(".\n") and error.count("\n") == 1, error
        assert says in error
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == before

    return run


def assert_pack(found, expected, classes):
    splits, meta = found
    assert meta["classes"] == list(classes)
    for split, (pixels, labels) in expected.items():
        np.testing.assert_array_equal(splits[split][0].numpy(), pixels)
        np.testing.assert_array_equal(splits[split][1].numpy(), labels)


# ---------------------------------------------------------------- class folders


@pytest.mark.parametrize("kind", ["folder", "flowers.tar", "flowers.tar.gz", "flowers.tgz", "folder of tars"])
def test_folder_sources_pack_the_same_exact_pixels(kind, tmp_path, pack):
    files, expected = flowers()
    shuffled = dict(sorted(files.items(), key=lambda item: item[1]))  # its order must not matter
    if kind == "folder":
        source = write_folder(tmp_path / "flowers", shuffled)
    elif kind == "folder of tars":
        source = write_folder(tmp_path / "flowers", {"README.md": b"about"})
        for split in expected:
            write_tar(source / f"{split}.tar.gz", {k: v for k, v in shuffled.items() if k.startswith(split)})
    else:
        source = write_tar(tmp_path / kind, {f"./{k}": v for k, v in shuffled.items()})
    found = pack("folder", "--from", source, "--name", "flowers")
    assert_pack(found, expected, ["aster", "daisy", "tulip"])
    assert found[1]["name"] == "flowers" and found[1]["provenance"] == "flowers (folder)"


def test_jpeg_is_named_in_the_provenance_of_a_known_set(tmp_path, pack):
    pixels = images(2)
    jpeg = {f"{s}/cat/1.jpg": encode(x, "JPEG") for s, x in zip(("train", "test"), pixels, strict=True)}
    source = write_folder(tmp_path / "jpeg", jpeg)
    splits, meta = pack("folder", "--from", source, "--name", "cifar10", name="cifar10")
    assert meta["provenance"] == "CIFAR-10 (JPEG)"
    decoded = np.asarray(Image.open(source / "train/cat/1.jpg")).transpose(2, 0, 1)
    np.testing.assert_array_equal(splits["train"][0][0].numpy(), decoded)
    assert (decoded != pixels[0].transpose(2, 0, 1)).any()  # JPEG did change the pixels


@pytest.mark.parametrize(
    "arguments, provenance",
    [
        (["--name", "fashion_mnist"], "Fashion-MNIST (PNG)"),
        (["--name", "mine", "--provenance", "My own photographs"], "My own photographs"),
    ],
)
def test_provenance_of_lossless_and_of_named_sources(arguments, provenance, tmp_path, pack):
    source = write_folder(tmp_path / "png", flowers()[0])
    _, meta = pack("folder", "--from", source, *arguments, name=arguments[1])
    assert meta["provenance"] == provenance


def test_size_is_a_short_side_resize_and_a_centre_crop(tmp_path, pack):
    rng = np.random.default_rng(0)
    tall, wide = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in [(60, 40, 3), (40, 80, 3)])
    source = write_folder(tmp_path / "s", {"train/a/1.png": encode(tall), "test/a/1.png": encode(wide)})
    splits, _ = pack("folder", "--from", source, "--name", "flowers", "--size", 20)
    for split, array in (("train", tall), ("test", wide)):
        oracle = tv.resize(Image.fromarray(array), 20, InterpolationMode.BICUBIC)
        oracle = np.asarray(tv.center_crop(oracle, [20, 20])).transpose(2, 0, 1)
        assert abs(splits[split][0][0].numpy().astype(int) - oracle).max() <= 1  # rounding between the passes


def test_grey_images_become_rgb(tmp_path, pack):
    grey = images(1)[0, :, :, 0]
    source = write_folder(tmp_path / "s", {"train/a/1.png": encode(grey), "test/a/1.PNG": encode(grey.T)})
    splits, _ = pack("folder", "--from", source, "--name", "flowers")
    np.testing.assert_array_equal(splits["train"][0][0].numpy(), np.stack([grey] * 3))
    np.testing.assert_array_equal(splits["test"][0][0].numpy(), np.stack([grey.T] * 3))


def test_what_is_transparent_is_white_not_its_hidden_colour(tmp_path, pack):
    colour, share = images(1)[0], np.array([0, 255, 7, 128] * 16, np.uint8).reshape(8, 8)
    flat = (colour // 128 * 128)[..., 0]  # grey, of two tones; the darker is declared transparent
    file = io.BytesIO()
    Image.fromarray(flat).save(file, "PNG", transparency=0)
    files = {"train/a/1.png": encode(np.dstack([colour, share])), "train/a/2.png": encode(np.dstack([flat, share])),
             "test/a/1.png": file.getvalue()}  # fmt: skip
    splits, _ = pack("folder", "--from", write_folder(tmp_path / "s", files), "--name", "flowers")
    a = share / 255
    for found, of in zip(splits["train"][0].numpy(), (colour.transpose(2, 0, 1), np.stack([flat] * 3)), strict=True):
        assert abs(found - (a * of + (1 - a) * 255)).max() <= 1
        assert (found[:, share == 0] == 255).all() and (found[:, share == 255] == of[:, share == 255]).all()
    np.testing.assert_array_equal(splits["test"][0][0].numpy(), np.stack([np.where(flat == 0, 255, 128)] * 3))


UPRIGHT = {  # EXIF 2.3, tag 274: where the stored first row and first column belong
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_photographs_are_turned_as_their_camera_was_held(kind, tmp_path, pack):
    files, expected = {}, []
    for tag, turn in UPRIGHT.items():
        stored = np.random.default_rng(tag).integers(0, 256, (16, 24, 3) if tag < 5 else (24, 16, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[274] = tag
        files[f"train/a/{tag}.{kind}"] = encode(stored, kind, exif=exif)
        stored = np.asarray(Image.open(io.BytesIO(encode(stored, kind))))  # as the JPEG has it
        expected.append(turn(stored).transpose(2, 0, 1))
    files[f"test/a/1.{kind}"] = files[f"train/a/1.{kind}"]
    splits, _ = pack("folder", "--from", write_folder(tmp_path / "s", files), "--name", "flowers")
    np.testing.assert_array_equal(splits["train"][0].numpy(), expected)


def test_hidden_files_and_other_files_are_left_out(tmp_path, pack):
    files, expected = flowers()
    names = "train/daisy/._0000.png", "train/daisy/notes.txt", "__MACOSX/train/a/1.png", "README.md"
    extra = dict.fromkeys(names, b"no image")
    folders = [special(name, tarfile.DIRTYPE) for name in ("./", "./train", "train/daisy", "__MACOSX/train")]
    source = write_tar(tmp_path / "flowers.tar.gz", {**files, **extra}, members=folders)
    assert_pack(pack("folder", "--from", source, "--name", "flowers"), expected, ["aster", "daisy", "tulip"])


def test_what_is_left_out_is_told(tmp_path, pack, capsys):
    files, expected = flowers()
    odd = {f"train/daisy/{name}": b"x" for name in ("IMG_1", "notes.txt", ".DS_Store")}
    odd |= {name: b"x" for name in ("README.md", "more.tar", ".DS_Store")}
    pack("folder", "--from", write_folder(tmp_path / "f", files | odd), "--name", "flowers")
    told = "README.md, more.tar, train/daisy/IMG_1, train/daisy/notes.txt"
    assert capsys.readouterr().err == f"left out files whose names are no image's, 4: {told}\n"


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPEG"])
def test_every_name_of_a_jpeg_is_read(suffix, tmp_path, pack):
    files = flowers()[0] | {f"train/daisy/9.{suffix}": encode(images(1)[0], "JPEG")}
    splits, meta = pack("folder", "--from", write_folder(tmp_path / "f", files), "--name", "flowers")
    assert len(splits["train"][0]) == 13 and f"train/daisy/9.{suffix}" in meta["files"]


def test_both_spellings_of_an_accent_are_one_class(tmp_path, pack):
    names = "train/cafe\u0301/1.png", "train/caf\u00e9/2.png", "test/cafe\u0301/1.png"
    files = dict(zip(names, map(encode, images(3)), strict=True))
    splits, meta = pack("folder", "--from", write_tar(tmp_path / "f.tar", files), "--name", "flowers")
    assert meta["classes"] == ["caf\u00e9"] and len(splits["train"][0]) == 2


def test_all_broken_images_are_named_or_left_out(tmp_path, pack, refused, capsys):
    files, expected = flowers()
    broken = {f"train/tulip/{i:02d}.png": b"no image" for i in range(23)}
    source = write_folder(tmp_path / "f", files | broken)
    listed = ", ".join(list(broken)[:20])
    says = "tulip/00.png is not a readable JPEG or PNG image (unknown format), one of 23: "
    says += f"{listed}, ...; mend or remove it, or give --skip-broken."
    refused("folder", "--from", source, "--name", "flowers", says=says)
    found = pack("folder", "--from", source, "--name", "flowers", "--skip-broken")
    assert_pack(found, expected, ["aster", "daisy", "tulip"])
    assert capsys.readouterr().err == f"left out broken images, 23: {listed}, ...\n"


def test_all_images_of_other_formats_are_named(tmp_path, refused):
    files = flowers()[0] | {f"train/{name}": b"x" for name in ("daisy/a.heic", "daisy/b.webp", "tulip/IMG 1.HEIC")}
    says = "train/daisy/a.heic is an image, but no JPEG or PNG, one of 3: train/daisy/a.heic, train/daisy/b.webp, "
    says += "train/tulip/IMG 1.HEIC; convert it, or remove it."
    source = write_folder(tmp_path / "f", files)
    refused("folder", "--from", source, "--name", "flowers", "--skip-broken", says=says)


def test_unlabelled_images_join_training_without_a_class(tmp_path, pack, refused, capsys):
    files, (train, _) = flowers()[0], flowers()[1]["train"]
    more = images(5, seed=7)
    extra = {f"train/unlabelled/{i}.png": encode(image) for i, image in enumerate(more)}
    source = write_folder(tmp_path / "f", files | extra)
    splits, meta = pack("folder", "--from", source, "--name", "flowers")
    assert meta["classes"] == ["aster", "daisy", "tulip"] and "5 of them without a class" in capsys.readouterr().out
    pixels, labels, _ = splits["train"]
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [-1] * 5
    np.testing.assert_array_equal(pixels.numpy(), np.concatenate([train, more.transpose(0, 3, 1, 2)]))
    assert meta["files"][:17] == sorted(name for name in files | extra if name.startswith("train"))
    (source / "test" / "unlabelled").mkdir()
    (source / "test" / "unlabelled" / "1.png").write_bytes(encode(images(1)[0]))
    refused("folder", "--from", source, "--name", "flowers", says="has test/unlabelled, but test images need a class")


def test_the_script_runs_from_another_folder(tmp_path, monkeypatch, capsys):
    source = write_folder(tmp_path / "flowers", flowers()[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEMPPL_DATA", "packs")
    monkeypatch.setattr(sys, "argv", ["prepare.py", "folder", "--from", source.name, "--name", "flowers"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    assert "3 classes, train (12, 3, 8, 8), test (6, 3, 8, 8)" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["flowers.npz"]


def without(files, start):
    return {name: blob for name, blob in files.items() if not name.startswith(start)}


def gif():
    return encode(images(1)[0], "GIF")


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda f: without(f, "test"), "has no split 'test'"),
        (lambda f: without(f, "train"), "has no split 'train': give train/CLASS/*.jpg or .png, and train/all/* if"),
        (lambda f: {**without(f, "train/daisy"), "train/daisy/a.txt": b""}, "train/daisy holds no JPEG"),
        (lambda f: without(f, "test/daisy"), "train and test have different classes: daisy"),
        (lambda f: {**f, "train/daisy/0009.png": b"no image"}, "0009.png is not a read"),
        (lambda f: {**f, "train/daisy/0009.png": gif()}, "0009.png is not a read"),
        (lambda f: {**f, "train/daisy/0009.png": f["train/daisy/0000.png"][:-30]}, "0009.png is not a read"),
        (lambda f: {**f, "test/daisy/9.png": encode(images(1, 9)[0])}, "is 9 x 9 but"),
        (lambda f: {**f, "val/daisy/1.png": b""}, "val/daisy/1.png is in no known split"),
        (lambda f: {**f, "train/1.png": b""}, "train/1.png is out of place"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_bad_sets_are_refused_in_one_sentence(kind, change, says, tmp_path, refused):
    files = change(flowers()[0])
    if kind == "folder":
        source = write_folder(tmp_path / "flowers", files)
        if "val/daisy/1.png" in files:
            says = "val/daisy is in no known split"
    else:
        names = sorted({str(Path(name).parent) for name in files})
        folders = [special(name, tarfile.DIRTYPE) for name in names]
        source = write_tar(tmp_path / "flowers.tar.gz", files, members=folders)
    refused("folder", "--from", source, "--name", "flowers", says=says)


def test_an_image_in_a_deeper_folder_is_refused(tmp_path, refused):
    source = write_folder(tmp_path / "f", {**flowers()[0], "train/daisy/deep/1.png": b""})
    refused("folder", "--from", source, "--name", "flowers", says="train/daisy/deep is out of place")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_images_are_refused_not_clipped(channels, tmp_path, refused):
    """Values 0 to 4095, of which the upper eight bits are 0 to 15; written here, as Pillow writes no such colours."""
    rows = np.arange(8 * 8 * channels).reshape(8, -1) * 4096 // (64 * channels)
    head = struct.pack(">IIBBBBB", 8, 8, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    chunks = [(b"IHDR", head), (b"IDAT", pixels), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(body)) + k + body + struct.pack(">I", zlib.crc32(k + body)) for k, body in chunks]
    deep = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    assert Image.open(io.BytesIO(deep)).load()  # a whole PNG
    source = write_folder(tmp_path / "f", {**flowers()[0], "train/daisy/9.png": deep})
    refused("folder", "--from", source, "--name", "flowers", says="more than 8 bits a channel: save it with 8")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["cifar11"], "invalid choice: 'cifar11'"),
        (["folder", "--name", "x"], "--from"),
        (["folder", "--from", "nowhere", "--name", "x"], "nowhere does not exist"),
        (["cifar10", "--from", "nowhere.tar.gz"], "nowhere.tar.gz does not exist"),
        (["folder", "--from", ".", "--name", "../x"], "'../x' cannot name a pack"),
        (["folder", "--from", ".", "--name", "digits"], "'digits' cannot name a pack"),
        (["folder", "--from", ".", "--name", "n" * 101], "100 at most"),
        (["folder", "--from", ".", "--name", "x", "--size", "0"], "--size 0 is out of the range"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, says, refused):
    refused(*arguments, says=says)


# ---------------------------------------------------------------- official archives


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
@pytest.mark.parametrize("name, title", [("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100")])
def test_cifar_archive(name, title, write, tmp_path, monkeypatch, pack):
    files, expected, classes = cifar_files(name, write)
    dataset = prepare.OFFICIAL[name][1]
    test_batch = pickle.loads(files[f"{dataset.base_folder}/{dataset.test_list[0][0]}"], encoding="latin1")
    np.testing.assert_array_equal(test_batch["data"].reshape(-1, 3, 32, 32), expected["test"][0])
    archive = write_tar(tmp_path / dataset.filename, files)
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive))
    for source in (archive, tmp_path):  # the archive, or the folder that holds it
        found = pack(name, "--from", source, name=name)
        assert_pack(found, expected, classes)
        assert found[1]["provenance"] == title


def test_arrays_in_column_order_keep_their_pixels(tmp_path, pack):
    data = np.asfortranarray(np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8))
    files, _, _ = cifar_files("cifar100", train={"data": data})
    source = write_tar(tmp_path / "c.tar.gz", files)
    splits, _ = pack("cifar100", "--any-hash", "--from", source, name="cifar100")
    np.testing.assert_array_equal(splits["train"][0].numpy().reshape(6, 3072), data)


def test_cifar_folder_of_a_torchvision_root(tmp_path, monkeypatch, pack):
    files, expected, classes = cifar_files("cifar100")
    root = write_folder(tmp_path / "root", files)
    base = root / "cifar-100-python"
    for split in ("train", "test"):
        monkeypatch.setattr(datasets.CIFAR100, f"{split}_list", [[split, md5(base / split)]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5(base / "meta")})
    for source in (root, base):
        found = pack("cifar100", "--from", source, name="cifar100")
        assert_pack(found, expected, classes)
        assert found[1]["provenance"] == "CIFAR-100"


def test_fashion_folder(tmp_path, monkeypatch, pack):
    files, expected = fashion_files()
    source = write_folder(tmp_path / "fashion", files)
    monkeypatch.setattr(datasets.FashionMNIST, "resources", [(name, md5(source / name)) for name in files])
    found = pack("fashion_mnist", "--from", source, name="fashion_mnist")
    assert_pack(found, expected, datasets.FashionMNIST.classes)
    assert found[1]["provenance"] == "Fashion-MNIST"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_another_hash_is_refused_and_with_any_hash_said(name, tmp_path, pack, refused):
    if name == "fashion_mnist":
        source = write_folder(tmp_path / "fashion", fashion_files()[0])
    else:
        source = write_tar(tmp_path / "archive.tar.gz", cifar_files(name)[0])
    refused(name, "--from", source, says="has md5 ")
    _, meta = pack(name, "--from", source, "--any-hash", name=name)
    assert meta["provenance"].endswith(" (unverified archive)")


def test_download_checks_the_hash_and_keeps_no_half(tmp_path, monkeypatch, host, pack, refused):
    files, expected, classes = cifar_files("cifar100")
    (tmp_path / "host").mkdir()
    archive = write_tar(tmp_path / "host" / "c.tar.gz", files)
    monkeypatch.setattr(datasets.CIFAR100, "url", f"{host}/c.tar.gz")
    monkeypatch.setattr(datasets.utils, "tqdm", partial(datasets.utils.tqdm, disable=True))
    refused("cifar100", says="File not found or corrupted")
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(archive))
    assert_pack(pack("cifar100", name="cifar100"), expected, classes)
    archive.unlink()
    assert_pack(pack("cifar100", name="cifar100"), expected, classes)  # the checked download is kept


@pytest.mark.parametrize(
    "file, entry, says",
    [
        ("train", {"fine_labels": [0, 1, 2, 3, 4, 100]}, "train holds label 100, out of the range 0 to 99"),
        ("test", {"fine_labels": [0, 1, -1, 3, 4, 5]}, "test holds label -1, out of the range 0 to 99"),
        ("train", {"fine_labels": [0, 1]}, "train has 6 images but labels of shape (2,)"),
        ("train", {"fine_labels": ["a"] * 6}, "train has 6 images but labels"),
        ("train", {"fine_labels": None}, "train has 6 images but labels"),
        ("train", {"data": [1, 2]}, "train is not a CIFAR batch"),
        ("train", {"data": np.zeros((6, 10), np.uint8)}, "train is not a CIFAR batch"),
        ("test", {"data": np.zeros((6, 3072))}, "its array has type f8, not uint8"),
        ("test", {"data": np.array([None] * 6)}, "its array has type O8, not uint8"),
    ],
)
def test_bad_cifar_batches_are_refused(file, entry, says, tmp_path, refused):
    files, _, _ = cifar_files("cifar100", **{file: entry})
    source = write_tar(tmp_path / "c.tar.gz", files)
    refused("cifar100", "--any-hash", "--from", source, says=says)


@pytest.mark.parametrize("cut", [0.3, 0.999])
def test_truncated_or_partial_cifar_archives_are_refused(cut, tmp_path, refused):
    files, _, _ = cifar_files("cifar100")
    source = write_tar(tmp_path / "c.tar.gz", files)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(cut * len(whole))])
    refused("cifar100", "--from", source, says="has md5 ")
    refused("cifar100", "--any-hash", "--from", source, says="is not a whole")
    del files["cifar-100-python/test"]
    refused("cifar100", "--any-hash", "--from", write_tar(tmp_path / "d.tar.gz", files), says="lacks test")
    files["cifar-100-python/test"] = files["cifar-100-python/train"][:99]
    source = write_tar(tmp_path / "e.tar.gz", files)
    refused("cifar100", "--any-hash", "--from", source, says="test is not a CIFAR batch")


@pytest.mark.parametrize(
    "file, blob, says",
    [
        ("train-labels-idx1-ubyte.gz", idx(np.arange(7) + 4), "holds label 10, out of the"),
        ("train-labels-idx1-ubyte.gz", idx(np.arange(6)), "has 7 images but labels of shape (6,)"),
        ("t10k-images-idx3-ubyte.gz", idx(np.zeros((3, 28, 28)))[:-5], "is not a whole gzipped idx"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(b"\x00\x00\x08\x03\x00", mtime=0), "is not a whole gzipped idx"),
        ("t10k-images-idx3-ubyte.gz", idx(np.zeros((3, 28, 28)), magic=0x0D03), "is not a whole gzipped idx"),
        ("t10k-images-idx3-ubyte.gz", b"plain", "is not a whole gzipped idx"),
        ("t10k-images-idx3-ubyte.gz", None, "lacks t10k-images-idx3-ubyte.gz"),
    ],
)
def test_bad_fashion_files_are_refused(file, blob, says, tmp_path, refused):
    files = fashion_files()[0]
    files.pop(file)
    source = write_folder(tmp_path / "fashion", {**files, **({file: blob} if blob else {})})
    refused("fashion_mnist", "--any-hash", "--from", source, says=says)


def test_class_folders_given_to_an_official_set_point_to_folder(tmp_path, refused):
    source = write_folder(tmp_path / "flowers", flowers()[0])
    refused("cifar10", "--from", source, says="(else: `folder`)")
