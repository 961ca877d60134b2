"""scale/imagenet.py on real images and the official label lists; both lie outside the repository, in ../shared/data.

The environment variable SEMPPL_SHARED names another folder than ../shared. Without it only the tests of damaged and
hostile input run, on images made here.
"""

import dataclasses
import importlib
import io
import json
import multiprocessing
import os
import pickle
import sys
import tarfile
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from core_checks import CLASSES, parts, tiny
from PIL import Image
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from semppl_mini import Config, SemPPL, evaluate, fit, views
from semppl_mini.batches import Batches, epoch_order
from semppl_mini.files import write_pack
from semppl_mini.parallel.step import ahead
from semppl_mini.rng import VIEWS, generator

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SEMPPL_SHARED") or ROOT.parent / "shared") / "data"
TAR, LISTS = SHARED / "imagenet-sample" / "train.tar", SHARED / "imagenet-splits"
sys.path.append(str(ROOT / "scale"))
imagenet = importlib.import_module("imagenet")
load_imagenet = imagenet.load_imagenet

real_images = pytest.mark.skipif(not TAR.is_file(), reason=f"there is no {TAR}: 1,000 images as train/SYNSET/*.JPEG")
real_lists = pytest.mark.skipif(not (LISTS / "10percent.txt").is_file(), reason=f"there are no lists in {LISTS}")
pytestmark = pytest.mark.filterwarnings("ignore:.*validation images cannot be measured")

N = 40
CONFIG = Config(
    large_views=2, small_views=1, large_size=64, small_size=32, mask_p=0.3, interpolation="bicubic", batch_size=8,
    negatives=1,
)


# ---- sets


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Indices of shards go to a folder of this run."""
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path_factory.getbasetemp() / "packs"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The first N images of the sample in class folders; half of them again as val/."""
    root = tmp_path_factory.mktemp("imagenet")
    with tarfile.open(TAR) as tar:
        members = [member for member in tar if member.isreg()][:N]
        for k, member in enumerate(members):
            for split in ("train", "val"):
                path = root / member.name.replace("train", split, 1)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(members[k]).read())
    return root


@pytest.fixture(scope="session")
def shards(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("shards")
    imagenet.write_shards(folder, target, 15)
    return target


def names_of(data_set):
    return [key.decode().partition("/")[2] for key in data_set.files.keys]


def draw(config=CONFIG, step=0):
    return views.draw_views(config, config.batch_size, generator(config.seed, step, VIEWS))


def only(drawn, rows):
    return [{name: value[rows] for name, value in d.items()} for d in drawn]


def equal(one, other):
    return len(one) == len(other) and all(map(torch.equal, one, other))


# ---- label lists


@real_lists
@pytest.mark.parametrize("name, count", [("1percent.txt", 12_811), ("10percent.txt", 128_116)])
def test_official_lists(name, count):
    keys = imagenet.read_list(LISTS / name)
    lines = (LISTS / name).read_text().split()
    assert len(keys) == len(lines) == count
    assert [f"{key.partition('/')[2]}.JPEG" for key in keys] == lines
    assert {key.split("/")[0] for key in keys} == {line.split("_")[0] for line in lines}
    assert len({key.split("/")[0] for key in keys}) == 1000


@real_lists
def test_the_short_list_is_part_of_the_long_one():
    short, long = (set(imagenet.read_list(LISTS / name)) for name in ("1percent.txt", "10percent.txt"))
    assert short <= long


@real_lists
@real_images
@pytest.mark.parametrize("name", ["1percent.txt", "10percent.txt"])
def test_an_official_list_is_refused_on_the_sample(folder, name):
    lines = (LISTS / name).read_text().split()
    have = {path.name for path in folder.glob("train/*/*")}
    missing = [line for line in lines if line not in have]
    with pytest.raises(ValueError) as error:
        load_imagenet(folder, label_list=LISTS / name)
    first = ", ".join(line.removesuffix(".JPEG") for line in missing[:3])
    assert f"{len(missing)} of the {len(lines)} images" in str(error.value) and first in str(error.value)


@real_images
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_exactly_the_listed_images_keep_their_label(kind, request, tmp_path):
    root = request.getfixturevalue(kind)
    names = names_of(load_imagenet(root).train)
    listed = names[3:30:4]
    (tmp_path / "list.txt").write_text("".join(f"{name}.JPEG\n" for name in reversed(listed)) + "\n")
    train = load_imagenet(root, label_list=tmp_path / "list.txt").train
    assert [name for name, label in zip(names, train.labels.tolist(), strict=True) if label >= 0] == listed
    known = train.labels >= 0
    assert torch.equal(train.labels[known], train.truth[known]) and len(train) == N
    assert names_of(train.labelled()) == names and train.labelled().ids.tolist() == [names.index(x) for x in listed]


GOOD = "n01440764_10026.JPEG\n"


@pytest.mark.parametrize("text, words", [
    ("", "names no image"),
    ("\n \n", "names no image"),
    (GOOD + "cat.jpg\n", "line 2: 'cat.jpg' is no file name of ImageNet"),
    (GOOD + "n0144_1.JPEG\n", "line 2: 'n0144_1.JPEG' is no file name"),
    (GOOD + "n01440764_10027\n", "is no file name"),
    (GOOD + "n01440764_10027.JPEG 3\n", "is no file name"),
    ("\n" + GOOD + GOOD, "line 3: 'n01440764_10026.JPEG' stands already in line 2"),
    (GOOD + "n01440764_10026.jpg\n", "stands already in line 1"),
    ("/data/" + GOOD, "is a path; give bare file names"),
    ("n01440764/" + GOOD, "is a path; give bare file names"),
    ("../" + GOOD, "is a path; give bare file names"),
    ("n01440764_..\\1.JPEG\n", "is a path; give bare file names"),
    ("\xff\x00" + GOOD, "is no file name of ImageNet"),
])  # fmt: skip
def test_a_bad_list_gets_one_sentence(text, words, tmp_path):
    (tmp_path / "list.txt").write_text(text, encoding="latin1")
    with pytest.raises(ValueError) as error:
        imagenet.read_list(tmp_path / "list.txt")
    assert words in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_or_huge_list_gets_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="There is no label list .*none.txt"):
        imagenet.read_list(tmp_path / "none.txt")
    monkeypatch.setattr(imagenet, "MAX_LIST_BYTES", 10)
    (tmp_path / "list.txt").write_text(GOOD)
    with pytest.raises(ValueError, match="over the limit of 10 bytes"):
        imagenet.read_list(tmp_path / "list.txt")


# ---- folders and shards


@real_images
def test_folder_and_shards_are_the_same_set(folder, shards):
    one, other = load_imagenet(folder), load_imagenet(shards)
    assert one.classes == other.classes == sorted(path.name for path in (folder / "train").iterdir())
    assert one.provenance == other.provenance
    assert sorted(path.name for path in shards.iterdir()) == [
        f"{split}-0000{i}.tar" for split in ("train", "val") for i in range(3)
    ]
    index = torch.tensor([3, 39, 0, 3, 17, 25, 8, 30])
    for split, first in (("train", 0), ("test", N)):
        a, b = getattr(one, split), getattr(other, split)
        assert a.digest() == b.digest() and len(a) == len(b) == N
        assert names_of(a) == names_of(b) == sorted(path.stem for path in folder.glob("train/*/*"))
        for name in ("labels", "ids", "truth"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert a.ids.tolist() == list(range(first, first + N))
        assert [one.classes[y] for y in a.truth.tolist()] == [name.split("_")[0] for name in names_of(a)]
        assert equal(a.crops(index, draw(), CONFIG), b.crops(index, draw(), CONFIG))
        assert torch.equal(a.whole(index, 48), b.whole(index, 48))


@real_images
def test_the_digest_tells_sets_apart(folder):
    train = load_imagenet(folder).train
    some = train.take(torch.arange(10))
    digests = {train.digest(), some.digest(), some.take(torch.arange(10).flip(0)).digest()}
    digests.add(load_imagenet(folder, labels=40, label_seed=1).train.digest())
    assert len(digests) == 3  # labels=40 keeps all
    hidden = imagenet.dataclasses.replace(some, labels=torch.full((10,), -1))
    grown = some.files.size.copy()
    grown[4] += 1
    larger = imagenet.dataclasses.replace(some, files=imagenet.dataclasses.replace(some.files, size=grown))
    assert len({*digests, hidden.digest(), larger.digest()}) == 5


@real_images
def test_the_official_shard_is_read_as_it_is(folder, tmp_path):
    (tmp_path / "train.tar").symlink_to(TAR)
    data = load_imagenet(tmp_path)
    assert len(data.train) == len(data.classes) == 1000 and len(data.test) == len(data.val) == 0
    assert "1000 images, 1000 classes" in data.provenance
    part = load_imagenet(folder).train
    places = [names_of(data.train).index(name) for name in names_of(part)]
    index = torch.tensor([places[5], places[11]])
    assert torch.equal(data.train.whole(index, 32), part.whole(torch.tensor([5, 11]), 32))


@real_images
def test_without_validation_images_a_warning_says_what_is_lost(folder, tmp_path):
    (tmp_path / "train").symlink_to(folder / "train")
    with pytest.warns(UserWarning, match="accuracy on the official validation images cannot be measured"):
        assert len(load_imagenet(tmp_path).test) == 0


@real_images
def test_webdataset_reads_our_shards(folder, shards):
    wds = pytest.importorskip("webdataset")
    paths = sorted(map(str, shards.glob("train-*.tar")))
    samples = list(wds.WebDataset(paths, shardshuffle=False, empty_check=False))
    wanted = sorted(folder.glob("train/*/*"))
    assert [sample["__key__"] for sample in samples] == [f"{path.parent.name}/{path.stem}" for path in wanted]
    assert [sample["jpeg"] for sample in samples] == [path.read_bytes() for path in wanted]


@real_images
def test_keys_of_webdataset_are_read(folder, tmp_path):
    """Shards as others write them: no folder, the suffix jpg, a label file beside each image."""
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for path in sorted(folder.glob("train/*/*"), reverse=True):
            for name, blob in ((f"{path.stem}.jpg", path.read_bytes()), (f"{path.stem}.cls", b"7")):
                member = tarfile.TarInfo(name)
                member.size = len(blob)
                tar.addfile(member, io.BytesIO(blob))
    assert load_imagenet(tmp_path).train.digest() == load_imagenet(folder).train.digest()


# ---- the index of a shard


@real_images
def test_a_shard_is_indexed_once(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path))
    first = load_imagenet(shards).train.digest()
    kept = sorted((tmp_path / "shards").iterdir())
    assert len(kept) == 6
    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "index_tar", lambda path: pytest.fail(f"{path} was read again"))
        assert load_imagenet(shards).train.digest() == first
    for damage in (lambda text: text[:-9], lambda text: text.replace("offset", "offsat"), lambda text: "[[[",
                   lambda text: text.replace("512", "513", 1)):  # fmt: skip
        kept[0].write_text(damage(kept[0].read_text()))
        assert load_imagenet(shards).train.digest() == first
        json.loads(kept[0].read_text())


@real_images
def test_a_changed_shard_is_indexed_anew(shards, tmp_path):
    for path in shards.glob("train-*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(load_imagenet(tmp_path).train) == N
    (tmp_path / "train-00002.tar").write_bytes((shards / "val-00001.tar").read_bytes())
    with pytest.raises(ValueError, match="comes again in .*train-00002.tar"):
        load_imagenet(tmp_path)
    (tmp_path / "train-00002.tar").unlink()
    assert len(load_imagenet(tmp_path).train) == 30


@real_images
def test_a_cache_that_cannot_be_written_costs_only_time(shards, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path / "file"))
    assert len(load_imagenet(shards).train) == N


# ---- crops


def crop_one(path, drawn, row, v, config):
    """One crop of an image by PIL (mask by a second way), uint8 (3, S, S)."""
    image = Image.open(path).convert("RGB")
    size, scale = (config.large_size, config.large_scale) if v < 2 else (config.small_size, config.small_scale)
    u = drawn[v]["u"][row : row + 1]
    top, left, h, w = map(int, views.boxes(u, image.height, image.width, scale, config.ratio)[0])
    if drawn[v]["mask"][row]:
        x = TF.pil_to_tensor(image)
        mask = imagenet.foreground(x)[0]
        pixels = np.array(image)
        pixels[~mask.numpy()] = 128
        image = Image.fromarray(pixels)
    kind = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[config.interpolation]
    image = image.crop((left, top, left + w, top + h)).resize((size, size), kind)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if drawn[v]["flip"][row] else image
    return TF.pil_to_tensor(image)


def check_crops(folder, interpolation="bicubic"):
    config = CONFIG.replace(interpolation=interpolation)
    paths, train, index = sorted(folder.glob("train/*/*")), load_imagenet(folder).train, torch.arange(12, 20)
    drawn = draw(config)
    assert 0 < sum(int(d["mask"].sum()) for d in drawn) < 16 and not drawn[2]["mask"].any()
    made = train.crops(index, drawn, config)
    assert [tuple(x.shape) for x in made] == [(8, 3, 64, 64)] * 2 + [(8, 3, 32, 32)]
    for v, crops in enumerate(made):
        assert crops.dtype == torch.uint8
        for row in range(8):
            wanted = crop_one(paths[12 + row], drawn, row, v, config).int()
            assert (crops[row].int() - wanted).abs().max() <= 1, (v, row)


@real_images
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_equal_pil_image_by_image(folder, interpolation):
    check_crops(folder, interpolation)


PLANTED = {
    "sides swapped": ("boxes", lambda right: lambda u, h, w, *rest: right(u, w, h, *rest)),
    "one box for all": ("boxes", lambda right: lambda u, *rest: right(u[:1].expand_as(u), *rest)),
    "masked in black": ("GREY", lambda right: 0),
    "not antialiased": ("tv", lambda right: type("tv", (), {
        "resize": right.resize,
        "resized_crop": lambda *given, antialias: right.resized_crop(*given, antialias=False)})),
}  # fmt: skip


@real_images
@pytest.mark.parametrize("name, make", PLANTED.values(), ids=PLANTED)
def test_planted_bug_is_found(name, make, folder, monkeypatch):
    check_crops(folder)
    monkeypatch.setattr(imagenet, name, make(getattr(imagenet, name)))
    with pytest.raises(AssertionError):
        check_crops(folder)


@real_images
def test_the_mask_is_the_saliency_of_the_image(folder):
    image = TF.pil_to_tensor(Image.open(sorted(folder.glob("train/*/*"))[7]))
    mask = imagenet.foreground(image)
    full = views.saliency(image[None] / 255)[0] > 0.5
    assert mask.shape == full.shape == (1, *image.shape[1:])
    assert 0.05 < mask.float().mean() < 0.95 and (mask == full).float().mean() > 0.85


@real_images
def test_whole_images_are_resized_and_cut_in_the_centre(folder):
    paths, train = sorted(folder.glob("train/*/*")), load_imagenet(folder).train
    protocol = v2.Compose([
        v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor()])  # fmt: skip
    for given in ((224,), (224, 256)):
        made = train.whole(torch.tensor([2, 33]), *given)
        wanted = torch.stack([protocol(Image.open(paths[i])) for i in (2, 33)])
        assert made.dtype == torch.uint8 and (made.int() - wanted.int()).abs().max() <= 1
    assert train.whole(torch.tensor([], dtype=torch.long), 32).shape == (0, 3, 32, 32)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_grey_cmyk_png_and_palette_images_become_rgb(tmp_path):
    grey = Image.fromarray(np.linspace(0, 255, 48 * 40).reshape(40, 48).astype(np.uint8))
    colour = Image.merge("RGB", [grey, grey.transpose(Image.Transpose.ROTATE_180), grey])
    files = {
        "n00000001_0": encoded(grey, "JPEG"), "n00000001_1": encoded(colour.convert("CMYK"), "JPEG", quality=95),
        "n00000001_2": encoded(colour, "PNG"), "n00000002_0": encoded(colour.quantize(256), "PNG"),
        "n00000002_1": encoded(colour, "JPEG", quality=95, progressive=True),
    }  # fmt: skip
    for name, blob in files.items():
        path = tmp_path / "train" / name[:9] / f"{name}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    made = load_imagenet(tmp_path).train.whole(torch.arange(5), 40, 40).int()
    wanted = TF.center_crop(TF.pil_to_tensor(colour), [40, 40]).int()
    assert (made[0] - made[0][:1]).abs().max() == 0
    assert torch.equal(made[2], wanted)
    for i, most in ((1, 12), (3, 60), (4, 12)):
        assert (made[i] - wanted).abs().float().mean() < 4 and (made[i] - wanted).abs().max() <= most, i


# ---- processes, workers, resuming


class Steps(Dataset):
    """What a trainer's loader yields at a step: crops of this process's rows, and the labels."""

    def __init__(self, images, config, order, rows=slice(None)):
        self.images, self.config, self.order, self.rows = images, config, order, rows

    def __len__(self):
        return len(self.order)

    def __getitem__(self, step):
        index = self.order[step][self.rows]
        crops = self.images.crops(index, only(draw(self.config, step), self.rows), self.config)
        return [*crops, self.images.labels[index], self.images.ids[index]]


def steps_of(root, rows=slice(None)):
    train = load_imagenet(root, labels=None).train
    return Steps(train, CONFIG, epoch_order(CONFIG, train.labels, 0), rows)


def spied(monkeypatch, reads):
    right = imagenet.Files.read

    def read(self, i):
        reads.append(self.keys[i].decode())
        return right(self, i)

    monkeypatch.setattr(imagenet.Files, "read", read)


@real_images
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_each_process_reads_only_its_rows(kind, request, monkeypatch):
    root, reads = request.getfixturevalue(kind), []
    whole = steps_of(root)
    everything = [whole[step] for step in range(2)]
    spied(monkeypatch, reads)
    for rank in range(2):
        rows = slice(rank * 4, rank * 4 + 4)
        part = steps_of(root, rows)
        assert not reads  # loading the set reads no image
        for step in range(2):
            made = part[step]
            keys = part.images.files.keys[part.order[step][rows].numpy()]
            assert reads == [key.decode() for key in keys]
            assert equal(made, [x[rows] for x in everything[step]])
            reads.clear()


@real_images
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_workers_change_nothing(kind, request):
    steps = steps_of(request.getfixturevalue(kind))
    wanted = [steps[i] for i in range(len(steps))]
    for workers in (1, 2):
        made = list(DataLoader(steps, batch_size=None, num_workers=workers))
        assert len(made) == len(wanted) == 5 and all(map(equal, made, wanted))
    sent = pickle.loads(pickle.dumps(steps))  # as to a worker that is not forked
    assert equal(sent[1], wanted[1])


@real_images
def test_threads_change_nothing(folder):
    steps, before, made = steps_of(folder), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        made.append(steps[1])
    torch.set_num_threads(before)
    assert equal(*made)


@real_images
def test_a_resume_inside_an_epoch_sees_the_same_rest(folder, shards):
    """Stopped after two steps and gone on with from the other storage, with other workers."""
    steps, again = steps_of(folder), steps_of(shards)
    wanted = [steps[i] for i in range(len(steps))][2:]
    rest = DataLoader(again, batch_size=None, sampler=range(2, len(again)), num_workers=1)
    assert len(wanted) == 3 and all(map(equal, rest, wanted))
    assert not equal(wanted[0], wanted[1])


@real_images
def test_a_set_is_cheap_to_send_to_a_worker(folder):
    """Arrays, no objects an image: bytes an image stay few, and the number of objects does not grow."""
    train = load_imagenet(folder).train
    double = imagenet.dataclasses.replace(train.files, **{
        name: np.tile(getattr(train.files, name), 100) for name in ("paths", "keys", "part", "offset", "size")})
    assert len(pickle.dumps(double)) < 100 * N * 200
    assert all(isinstance(value, (str, np.ndarray)) for value in vars(double).values())
    assert not any(value.dtype.hasobject for value in vars(double).values() if isinstance(value, np.ndarray))


# ---- damaged and hostile input: images made here


def tiny_set(root, images=2, classes=("n00000001", "n00000002"), split="train"):
    for c, name in enumerate(classes):
        for k in range(images):
            path = root / split / name / f"{name}_{k}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(Image.new("RGB", (20, 16), (c * 40, k * 30, 9)), "JPEG"))
    return root


def first(root):
    return root / "train" / "n00000001" / "n00000001_0.JPEG"


def batches_of(n, root):
    """The steps of a run on n listed images, whose bytes are all those of one file."""
    blob = encoded(Image.new("RGB", (40, 30), (9, 99, 200)), "JPEG")
    (root / "x.JPEG").write_bytes(blob)
    keys, rows = np.array([f"n{i % 10:08}/n{i % 10:08}_{i}".encode() for i in range(n)]), torch.arange(n)
    zeros = np.zeros(n, np.int64)
    files = imagenet.Files(str(root), np.array([b"x.JPEG"]), keys, zeros, zeros, zeros + len(blob))
    train = imagenet.ImageFiles(rows % 10, rows, rows % 10, rows, files)
    return Batches(tiny(labels=None, large_size=64, small_size=32), train, SemPPL.draw)


def crossed(monkeypatch, items):
    """Bytes through the pipes to the workers, and from them, while these items come; and the items."""
    sent, here, right = [multiprocessing.Value("q", 0) for _ in range(2)], os.getpid(), Connection._send_bytes

    def counted(self, buffer):
        with (count := sent[os.getpid() != here]).get_lock():
            count.value += len(buffer)
        return right(self, buffer)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "_send_bytes", counted)
        found = list(items)
    return [count.value for count in sent], found


def test_numbers_go_to_workers_and_tensors_come_back_whatever_the_size_of_the_set(tmp_path, monkeypatch):
    few, many = (batches_of(n, tmp_path) for n in (100, 100_000))
    (to, back), items = crossed(monkeypatch, few.ahead(0, 5, 1))
    tensors = [x for x in tree_leaves(items[-1]) if isinstance(x, torch.Tensor)]
    assert all(0 < way < 4 * 300 * len(tensors) for way in (to, back))  # names of shared memory, four of five items
    (to_more, back_more), _ = crossed(monkeypatch, many.ahead(0, 5, 1))
    assert to_more < 2 * to and back_more < 1.1 * back
    (_, all_files), _ = crossed(monkeypatch, ahead(lambda i: (many[i], many.train.files.keys), 0, 5, 1))
    assert all_files > 4 * many.train.files.keys.nbytes > 100 * back  # the count does see a list


def test_a_worker_sends_no_other_processs_rows(tmp_path, monkeypatch):
    batches, config = batches_of(100, tmp_path), tiny(large_size=64, small_size=32)
    batches.own = slice(4, 8)
    item = batches[0]
    assert len(item.labels) == 4 and item.draws.negatives.shape == (4, config.negatives)
    for x in tree_leaves(item):
        assert not isinstance(x, torch.Tensor) or x.untyped_storage().nbytes() <= 3 * x.nbytes, x.shape  # 3: the views


def bomb():
    """A PNG header of 60,000 x 60,000 pixels."""
    blob = bytearray(encoded(Image.new("RGB", (1, 1)), "PNG"))
    blob[16:24] = (60_000).to_bytes(4, "big") * 2
    return bytes(blob)


@pytest.mark.parametrize("blob", [
    b"", b"\xff\xd8\xff", b"no image at all", encoded(Image.new("RGB", (64, 64)), "JPEG")[:-200],
    encoded(Image.new("RGB", (8, 8)), "GIF"), bomb(), encoded(Image.new("I;16", (8, 8)), "PNG"),
    encoded(Image.effect_noise((64, 64), 90), "JPEG")[:1200],
], ids=["empty", "start", "text", "cut", "gif", "bomb", "16 bits", "cut in half"])  # fmt: skip
@pytest.mark.parametrize("how", ["crops", "whole"])
def test_a_broken_image_is_named(blob, how, tmp_path):
    first(tiny_set(tmp_path)).write_bytes(blob)
    train = load_imagenet(tmp_path).train
    config = CONFIG.replace(batch_size=2, negatives=1)
    with pytest.raises(ValueError, match="n00000001_0.* is not a readable JPEG or PNG image") as error:
        train.crops(torch.tensor([1, 0]), draw(config), config) if how == "crops" else train.whole(torch.arange(2), 8)
    assert "\n" not in str(error.value)
    good = train.crops(torch.tensor([1, 2]), draw(config), config)
    assert len(good) == 3


def test_a_broken_image_is_named_by_a_worker(tmp_path):
    first(tiny_set(tmp_path, 8)).write_bytes(b"broken")
    with pytest.raises(ValueError, match="n00000001_0.* is not a readable"):
        list(DataLoader(steps_of(tmp_path), batch_size=None, num_workers=1))


def test_an_image_that_shrank_or_went_is_named(tmp_path):
    train = load_imagenet(tiny_set(tmp_path)).train
    first(tmp_path).write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"n00000001_0.*it is shorter now.*restore it"):
        train.whole(torch.arange(1), 8)
    first(tmp_path).unlink()
    with pytest.raises(ValueError, match="n00000001_0.*No such file"):
        train.whole(torch.arange(1), 8)


def tar_of(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            blob = encoded(Image.new("RGB", (20, 16)), "JPEG") if kind == tarfile.REGTYPE else b""
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))


JPEG = "n00000001/n00000001_0.JPEG"


@pytest.mark.parametrize("members, words", [
    ([(JPEG, tarfile.SYMTYPE)], "is a link or a device"),
    ([(JPEG, tarfile.LNKTYPE)], "is a link or a device"),
    ([(JPEG, tarfile.CHRTYPE)], "is a link or a device"),
    ([("../" + JPEG, tarfile.REGTYPE)], "has an absolute path or '..'"),
    ([("/" + JPEG, tarfile.REGTYPE)], "has an absolute path or '..'"),
    ([("cats/felix.JPEG", tarfile.REGTYPE)], "tell no class"),
    ([("n00000001/n00000001_0.webp", tarfile.REGTYPE)], "is an image, but no JPEG or PNG"),
    ([("n00000001/notes.txt", tarfile.REGTYPE)], "hold no JPEG or PNG image"),
    ([(JPEG, tarfile.REGTYPE), ("train/" + JPEG, tarfile.REGTYPE)], "comes again in"),
    ([(JPEG, tarfile.REGTYPE), ("n00000001/n00000001_0.png", tarfile.REGTYPE)], "comes again in"),
    ([(JPEG, tarfile.REGTYPE)], "has 1 class"),
])  # fmt: skip
def test_a_hostile_shard_gets_one_sentence(members, words, tmp_path):
    tar_of(tmp_path / "train-0.tar", *members)
    with pytest.raises(ValueError) as error:
        load_imagenet(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-0.tar"]  # nothing was extracted


@pytest.mark.parametrize("damage", [
    lambda blob: blob[: len(blob) // 2], lambda blob: blob[:700], lambda blob: b"", lambda blob: b"tar?" * 400,
    lambda blob: blob[:100] + b"zz" + blob[102:],
    lambda blob: __import__("gzip").compress(blob),
], ids=["half", "first", "empty", "text", "header", "gzip"])  # fmt: skip
def test_a_damaged_shard_gets_one_sentence(damage, tmp_path):
    path = tmp_path / "train-0.tar"
    tar_of(path, *((f"n0000000{k}/n0000000{k}_{i}.JPEG", tarfile.REGTYPE) for k in (1, 2) for i in range(3)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="train-0.tar is no whole, uncompressed tar"):
        load_imagenet(tmp_path)


def stray(root):
    (root / "train" / "cats").mkdir()


def empty(root):
    (root / "train" / "n00000003").mkdir()


def broken_link(root):
    (first(root).parent / "n00000001_9.JPEG").symlink_to("nowhere")


def deeper(root):
    (first(root).parent / "n00000001_9.JPEG").mkdir()


def webp(root):
    (first(root).parent / "n00000001_9.webp").touch()


def both(root):
    tar_of(root / "train-0.tar", (JPEG, tarfile.REGTYPE))


def other_classes(root):
    tiny_set(root, 1, ("n00000001", "n00000003"), "val")


def fewer_classes(root):
    tiny_set(root, 1, ("n00000001",), "val")


def twice(root):
    first(root).with_suffix(".png").write_bytes(first(root).read_bytes())


@pytest.mark.parametrize("change, words", [
    (stray, "is no class folder; name the folders by synset"),
    (empty, "holds no JPEG or PNG image"),
    (broken_link, "is a folder, a broken link or a device"),
    (deeper, "is a folder, a broken link or a device"),
    (webp, "is an image, but no JPEG or PNG"),
    (both, "keep one of them"),
    (other_classes, "train and val have different classes, n00000002, n00000003"),
    (fewer_classes, "train and val have different classes, n00000002"),
    (twice, "comes again in"),
])  # fmt: skip
def test_a_folder_that_is_not_right_gets_one_sentence(change, words, tmp_path):
    load_imagenet(tiny_set(tmp_path))
    change(tmp_path)
    with pytest.raises(ValueError) as error:
        load_imagenet(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("options, words", [
    (dict(labels=2, label_list="list.txt"), "both choose labels"),
    (dict(labels=0.0), "neither a share"),
    (dict(labels=1), "keeps 1 labels"),
    (dict(val=-1), "val = -1 images cannot be held out"),
    (dict(val=9), "val = 9 images cannot be held out of 4"),
    (dict(val=3), "leaves no training image of class"),
])  # fmt: skip
def test_bad_options_get_one_sentence(options, words, tmp_path):
    with pytest.raises(ValueError) as error:
        load_imagenet(tiny_set(tmp_path), **options)
    assert words in str(error.value)


def test_a_folder_without_images_gets_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match="holds no ImageNet; give a folder with train/SYNSET"):
            load_imagenet(path)


# ---- validation images held out of training


def test_listed_images_are_never_held_out(tmp_path):
    tiny_set(tmp_path, 6)
    (tmp_path / "list.txt").write_text("n00000001_2.JPEG\nn00000002_0.JPEG\nn00000002_5.JPEG\n")
    for val in range(10):
        data = load_imagenet(tmp_path, label_list=tmp_path / "list.txt", val=val)
        assert len(data.val) == val and len(data.train) == 12 - val and int((data.train.labels >= 0).sum()) == 3
        assert not set(data.val.ids.tolist()) & set(data.train.ids.tolist())
        assert sorted(data.val.ids.tolist() + data.train.ids.tolist()) == list(range(12))
        assert torch.equal(data.val.labels, data.val.truth)
        again = load_imagenet(tmp_path, label_list=tmp_path / "list.txt", val=val)
        assert again.val.digest() == data.val.digest()


def test_val_is_ten_a_class_where_there_is_plenty(tmp_path, monkeypatch):
    assert len(load_imagenet(tiny_set(tmp_path / "few", 20)).val) == 0
    blob = encoded(Image.new("RGB", (4, 4)), "JPEG")
    for name in ("n00000001", "n00000002"):
        (tmp_path / "many/train" / name).mkdir(parents=True)
        for k in range(100):
            (tmp_path / "many/train" / name / f"{name}_{k}.JPEG").write_bytes(blob)
    data = load_imagenet(tmp_path / "many", labels=0.1)
    assert data.val.truth.bincount().tolist() == [10, 10] and len(data.train) == 180
    assert data.train.labelled().truth.bincount().tolist() == [9, 9]


# ---- the command


def shards_command(monkeypatch, *given):
    monkeypatch.setattr(sys, "argv", ["imagenet.py", "shards", *map(str, given)])
    imagenet.command(imagenet.main, "scale/imagenet.py")


def test_the_command_writes_shards_and_refuses_bad_targets(tmp_path, monkeypatch, capsys):
    source, target = tiny_set(tmp_path / "set", 3), tmp_path / "shards"
    shards_command(monkeypatch, "--from", source, "--to", target, "--size", 4)
    assert "2 shards" in capsys.readouterr().out
    assert load_imagenet(target).train.digest() == load_imagenet(source).train.digest()
    with pytest.raises(SystemExit, match="scale/imagenet.py: .*holds the source, or shards already"):
        shards_command(monkeypatch, "--from", source, "--to", target)
    for given, words in (((source, target), "shards already"), ((source, source), "holds the source"),
                         ((target, tmp_path / "b"), "holds no class folders"),
                         ((tmp_path, tmp_path / "b"), "holds no class folders")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            imagenet.write_shards(*given, 4)
    with pytest.raises(ValueError, match="--size 0 images a shard is too small"):
        imagenet.write_shards(source, tmp_path / "b", 0)


@real_images
def test_resized_shards_hold_the_same_images_with_a_short_side(folder, shards, tmp_path, monkeypatch, capsys):
    shards_command(monkeypatch, "--from", folder, "--to", tmp_path / "small", "--resize", 128)
    capsys.readouterr()
    small, before = (load_imagenet(root) for root in (tmp_path / "small", shards))
    assert small.classes == before.classes
    for name in ("train", "test"):
        one, other = getattr(small, name), getattr(before, name)
        assert (one.files.keys == other.files.keys).all() and torch.equal(one.labels, other.labels)
        for i in range(N):
            blob = one.files.read(i)
            image, old = (Image.open(io.BytesIO(file.files.read(i))) for file in (one, other))
            if min(old.size) <= 128:
                assert blob == other.files.read(i)
                continue
            assert min(image.size) == 128 and image.format == "JPEG"
            wanted = TF.pil_to_tensor(old.convert("RGB").resize(image.size, Image.Resampling.BICUBIC)).int()
            error = (TF.pil_to_tensor(image.convert("RGB")).int() - wanted).abs().float()
            assert error.mean() < 3 and error.mean() < 0.2 * wanted.float().std(), one.files.name(i)
    centre, asked = (data.train.whole(torch.arange(N), 112).int() for data in (small, before))  # read out: 128 / 112
    assert (centre - asked).abs().float().mean() < 3
    assert small.train.digest() != before.train.digest()  # another set: no run goes on from one with the other


@real_images
def test_images_that_are_small_enough_keep_their_bytes(folder, tmp_path):
    imagenet.write_shards(folder, tmp_path / "same", 15, 5000)
    assert load_imagenet(tmp_path / "same").train.digest() == load_imagenet(folder).train.digest()


def test_resized_shards_of_bad_input_get_one_sentence(tmp_path):
    source = tiny_set(tmp_path / "set", 3)
    with pytest.raises(ValueError, match="--resize 8 pixels are too few for crops; give 256, say, or 32 or more"):
        imagenet.write_shards(source, tmp_path / "a", 4, 8)
    grey = Image.fromarray(np.linspace(0, 255, 90 * 120).reshape(90, 120).astype(np.uint8))
    for k, blob in enumerate((encoded(grey, "PNG"), encoded(grey.convert("CMYK"), "JPEG"))):
        (source / "train" / "n00000001" / f"n00000001_{k}.JPEG").write_bytes(blob)
    imagenet.write_shards(source, tmp_path / "b", 4, 40)
    files = load_imagenet(tmp_path / "b").train.files
    for i in (0, 1):
        image = Image.open(io.BytesIO(files.read(i)))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (53, 40))
    first(source).write_bytes(encoded(grey, "PNG")[:-200])
    with pytest.raises(ValueError, match="n00000001_0.* is not a readable JPEG or PNG image"):
        imagenet.write_shards(source, tmp_path / "c", 4, 40)
    assert not list((tmp_path / "c").iterdir())  # whole or not at all


# ---- whole runs


@pytest.fixture(scope="module")
def few_classes(tmp_path_factory):
    """36 images of the sample as 3 classes, in class folders; the same again as val/."""
    root = tmp_path_factory.mktemp("few")
    with tarfile.open(TAR) as tar:
        for k, member in enumerate([member for member in tar if member.isreg()][:36]):
            for split in ("train", "val"):
                path = root / split / f"n0000000{k % 3}" / f"n0000000{k % 3}_{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
    return root


@real_images
@pytest.mark.parametrize("changes", [{}, {"method": "ifnd", "clusters": (2,), "recluster": 1}], ids=["semppl", "ifnd"])
def test_a_run_on_files_trains_ends_and_is_read_out(changes, few_classes, tmp_path):
    """fit, with a loader process, and every read-out; these need no validation images."""
    data = load_imagenet(few_classes, labels=12, val=6)
    config = tiny(batch_size=10, labels=12, large_size=32, small_size=16, mask_p=0.5, lr=0.1, **changes)
    run = fit(config, data, tmp_path, progress=False, workers=1)
    assert run.finished and len(run.history) == 3
    alone = fit(config, data, progress=False)  # views are finished here, not in a worker
    same = zip(run.method.state_dict().items(), alone.method.state_dict().values(), strict=True)
    assert not [name for (name, x), y in same if not torch.equal(x, y)]
    result = evaluate(run.method.encoder, config, data, tune_steps=2, all_labels=True)
    assert {"linear", "fine_tuned", "linear_all", "knn20_all"} <= set(result)
    assert result["linear"] * 36 == pytest.approx(round(result["linear"] * 36))  # a share of the 36 test images
    none = data.val.take(torch.arange(0))  # read-outs choose within the labelled images
    assert evaluate(run.method.encoder, config, dataclasses.replace(data, val=none))["linear"] == result["linear"]


@real_images
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_ends_a_run_in_one_sentence(workers, few_classes, tmp_path):
    """The same from a worker process, and what was trained before it is kept."""
    data = load_imagenet(few_classes, labels=12, val=6)
    config = tiny(batch_size=10, labels=12, large_size=32, small_size=16)
    order = torch.cat([epoch_order(config, data.train.labels, epoch) for epoch in range(2)])
    late = next(i for i in order[2].tolist() if i not in order[:2])  # first seen by step 2
    path = data.train.files.path(data.train.rows[late])
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"x"))
        with pytest.raises(ValueError, match=f"{path.name}.* is not a readable JPEG") as caught:
            fit(config, data, tmp_path / "run", progress=False, workers=workers, save_every=1)
    finally:
        path.write_bytes(whole)
    assert "Traceback" not in str(caught.value)
    assert fit(config, data, tmp_path / "run", progress=False).finished


@real_images
def test_a_set_without_images_to_read_out_on_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMPPL_DATA", str(tmp_path / "index"))
    monkeypatch.setenv("SEMPPL_RUNS", str(tmp_path / "runs"))
    (tmp_path / "train.tar").symlink_to(TAR)
    with tarfile.open(TAR) as tar:
        names = [Path(member.name).name for member in tar if member.isreg()][:20]
    (tmp_path / "list.txt").write_text("\n".join(names))
    more = ["--data", tmp_path, "--label-list", tmp_path / "list.txt", "--out", tmp_path, "batch_size=8", "negatives=7"]
    command = ["train.py", "imagenet_finetune_1pct", "--name", "x", *more]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    with pytest.warns(UserWarning, match="no val"), pytest.raises(ValueError, match="no test images to read out on"):
        importlib.import_module("launch").main("a run", "scale/train.py")
    assert not (tmp_path / "runs").exists()


# ---- what published results do, and packs do not


def test_orientation_is_ignored_and_depth_is_not(tmp_path):
    """As torchvision and TensorFlow read ImageNet; data/prepare.py turns photographs."""
    image, exif = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)), Image.Exif()
    exif[274] = 6
    for synset, blob in (("n00000001", encoded(image, "JPEG", exif=exif)), ("n00000002", encoded(image, "JPEG"))):
        (tmp_path / "train" / synset).mkdir(parents=True)
        (tmp_path / "train" / synset / f"{synset}_0.JPEG").write_bytes(blob)
    one, other = load_imagenet(tmp_path).train.whole(torch.arange(2), 16)
    assert torch.equal(one, other)
    deep = Image.fromarray(np.full((24, 32), 40_000, np.uint16))
    (tmp_path / "train" / "n00000002" / "n00000002_0.JPEG").write_bytes(encoded(deep, "PNG"))
    with pytest.raises(ValueError, match="more than 8 bits a channel: save it with 8"):
        load_imagenet(tmp_path).train.whole(torch.arange(2), 16)


def test_the_launcher_takes_a_label_list_of_a_pack(tmp_path):
    launch, names = importlib.import_module("launch"), [f"train/a/{i}.png" for i in range(60)]
    path = write_pack(tmp_path / "zoo.npz", parts(), CLASSES, "here", {"train": names, "test": names[:12]})
    (tmp_path / "list.txt").write_text("a/3.png\na/10.png\n")
    args = SimpleNamespace(data=str(path), preset="digits", label_list=tmp_path / "list.txt")
    config, data = launch.load(args, tiny())
    assert config.labels == 2 and data.train.labelled().ids.tolist() == [3, 10]


def test_a_folder_named_like_the_presets_pack_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    args = SimpleNamespace(data=None, preset="digits", label_list=None)
    assert importlib.import_module("launch").load(args, tiny())[1].name == "digits"
