"""scale/evaluate.py on others' image sets: read from their own layouts, measured by their own metrics.

The sets are drawn here, tiny, in the layout in which torchvision.datasets finds the real ones.
"""

import importlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as XML

import numpy as np
import pytest
import scipy.io
import torch
from core_checks import tiny, tiny_data
from PIL import Image
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

import semppl_mini as s

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
encoders, evaluate, frozen, image_sets = map(importlib.import_module, ("encoders", "evaluate", "frozen", "image_sets"))

COLOURS = np.array([(220, 40, 40), (40, 200, 60), (50, 60, 220), (220, 210, 40)])


def draw(path, colour, seed):
    """An image of noise about a colour, of a shape of its own."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 30, (20 + seed % 9, 24 + seed % 7, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((COLOURS[colour] + noise).clip(0, 255).astype(np.uint8)).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def flowers(root, n):
    """Numbered files, their labels and the three splits in MATLAB's format."""
    base, labels = root / "flowers-102", np.arange(3 * n) % 3
    for i, c in enumerate(labels):
        draw(base / "jpg" / f"image_{i + 1:05d}.jpg", c, i)
    parts = dict(zip(("trnid", "valid", "tstid"), np.split(np.arange(3 * n) + 1, 3), strict=True))
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels + 1})
    scipy.io.savemat(base / "setid.mat", parts)


def pets(root, n):
    base, names = root / "oxford-iiit-pet", ("Bengal", "beagle", "pug")
    rows = {"trainval": range(2 * n), "test": range(2 * n, 3 * n)}
    for part, own in rows.items():
        write(base / "annotations" / f"{part}.txt", "".join(f"{names[i % 3]}_{i} {i % 3 + 1} 1 1\n" for i in own))
        for i in own:
            draw(base / "images" / f"{names[i % 3]}_{i}.jpg", i % 3, i)


def dtd(root, n):
    base = root / "dtd" / "dtd"
    for part, own in zip(("train", "val", "test"), np.split(np.arange(3 * n), 3), strict=True):
        names = [f"kind{i % 3}/kind{i % 3}_{i:04d}.jpg" for i in own]
        write(base / "labels" / f"{part}1.txt", "\n".join(names) + "\n")
        for i, name in zip(own, names, strict=True):
            draw(base / "images" / name, i % 3, i)


def aircraft(root, n):
    base = root / "fgvc-aircraft-2013b" / "data"
    write(base / "variants.txt", "707-320\nA300\nF-16\n")
    for part, own in zip(("train", "val", "test"), np.split(np.arange(3 * n), 3), strict=True):
        rows = [f"{i:07d} {('707-320', 'A300', 'F-16')[i % 3]}" for i in own]
        write(base / f"images_variant_{part}.txt", "\n".join(rows) + "\n")
        for i in own:
            draw(base / "images" / f"{i:07d}.jpg", i % 3, i)


def caltech101(root, n):
    draw(root / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google" / "image_0001.jpg", 0, 0)  # no class of it
    for c, i in itertools.product(range(3), range(1, 32 + n // 3)):
        name = f"caltech101/101_ObjectCategories/{('ant', 'bee', 'cow')[c]}/image_{i:04d}.jpg"
        draw(root / name, c, 3 * i + c)


def sun397(root, n):
    for part, own in (("Training", range(2 * n)), ("Testing", range(2 * n, 3 * n))):
        names = [f"/{'abc'[i % 3]}/{('abbey', 'bar/indoor', 'car')[i % 3]}/sun_{i}.jpg" for i in own]
        write(root / f"{part}_01.txt", "\n".join(names) + "\n")
        for i, name in zip(own, names, strict=True):
            draw(root / "SUN397" / name[1:], i % 3, i)


def folders(root, n):
    for part, own in (("train", range(2 * n)), ("val", range(2 * n, 3 * n))):
        for i in own:
            draw(root / part / ("attic", "beach", "cave")[i % 3] / f"{i}.jpg", i % 3, i)


def birdsnap(root, n):
    folders(root, n)
    (root / "val").rename(root / "test")


def food(root, n):
    base, names = root / "food-101", ("apple_pie", "beet_salad", "cannoli")
    for part, own in (("train", range(2 * n)), ("test", range(2 * n, 3 * n))):
        rows = {name: [f"{name}/{i}" for i in own if i % 3 == c] for c, name in enumerate(names)}
        write(base / "meta" / f"{part}.json", json.dumps(rows))
        for i in own:
            draw(base / "images" / names[i % 3] / f"{i}.jpg", i % 3, i)


def cars(root, n):
    base, fields = root / "stanford_cars", [("fname", object), ("class", int)]
    (base / "devkit").mkdir(parents=True)
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Acura", "BMW", "Fiat"], object)})
    for part, file, own in (("train", "devkit/cars_train_annos.mat", range(2 * n)),
                            ("test", "cars_test_annos_withlabels.mat", range(2 * n, 3 * n))):  # fmt: skip
        rows = np.array([(f"{i:05d}.jpg", i % 3 + 1) for i in own], fields)
        scipy.io.savemat(base / file, {"annotations": rows})
        for i in own:
            draw(base / f"cars_{part}" / f"{i:05d}.jpg", i % 3, i)


def cifar10(root, n):
    """Five batches of training images and one to test, as rows of red, green, blue pixels."""
    base, rng = root / "cifar-10-batches-py", np.random.default_rng(0)
    base.mkdir(parents=True)
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog", "ship"]}))
    for name, count in [*((f"data_batch_{i}", 2 * n // 4 if i < 5 else 0) for i in range(1, 6)), ("test_batch", n)]:
        y = np.arange(count) % 3
        x = np.repeat(COLOURS[y], 1024, 1) + rng.normal(0, 30, (count, 3072))
        rows = {"data": x.clip(0, 255).astype(np.uint8), "labels": y.tolist()}
        (base / name).write_bytes(pickle.dumps(rows))


def voc2007(root, n):
    """Image i has class i % 3; every seventh a difficult cow, too; the fifth a second car beside a difficult one."""
    base = root / "VOCdevkit" / "VOC2007"
    for part, own in zip(("train", "val", "test"), np.split(np.arange(3 * n), 3), strict=True):
        write(base / "ImageSets" / "Main" / f"{part}.txt", "".join(f"{i:06d}\n" for i in own))
        for i in own:
            draw(base / "JPEGImages" / f"{i:06d}.jpg", i % 3, i)
            things = [(("car", "cat", "dog")[i % 3], 0)] + [("cow", 1)] * int(i % 7 == 0) + [("car", 1)] * int(i == 5)
            tree = XML.Element("annotation")
            for name, difficult in things:
                thing = XML.SubElement(tree, "object")
                XML.SubElement(thing, "name").text, XML.SubElement(thing, "difficult").text = name, str(difficult)
            write(base / "Annotations" / f"{i:06d}.xml", XML.tostring(tree, encoding="unicode"))


LAYOUTS = {make.__name__: make for make in (
    flowers, pets, dtd, aircraft, caltech101, sun397, folders, voc2007, birdsnap, food, cars, cifar10)}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return s.fit(tiny(epochs=1), tiny_data(), folder, progress=False, steps=1).folder


def read(run, on, root, out, *more, monkeypatch):
    """The command, in this process -> its JSON file."""
    arguments = [run, "--on", on, "--data", root, "--name", on, "--out", out, *more]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    evaluate.main()
    return json.loads((out / f"{on}.json").read_text())


SPLITS = {"flowers": (12, 12, 12), "dtd": (12, 12, 12), "aircraft": (12, 12, 12), "voc2007": (12, 12, 12),
          "pets": (19, 5, 12), "sun397": (19, 5, 12), "folders": (22, 2, 12), "caltech101": (75, 15, 15),
          "birdsnap": (22, 2, 12), "food": (22, 2, 12), "cars": (19, 5, 12), "cifar10": (22, 2, 12)}  # fmt: skip


@pytest.mark.parametrize("on", LAYOUTS)
def test_a_set_in_its_own_layout_is_read_and_measured(on, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets.datasets.Flowers102, "_check_integrity", lambda self: True)  # of the real
    monkeypatch.setattr(image_sets.datasets.cifar, "check_integrity", lambda *_: True)
    LAYOUTS[on](tmp_path / "set", 12)
    monkeypatch.setattr(frozen, "PENALTIES", [1e-3, 1.0, 1e5])
    said = read(trained, on, tmp_path / "set", tmp_path, monkeypatch=monkeypatch)["results"]
    assert (said["images"]["train"], said["images"]["val"], said["images"]["test"]) == SPLITS[on]
    assert said["metric"] == image_sets.SETS[on].metric
    assert said["logistic"][said["metric"]] > 0.9 and said["logistic"]["penalty"] < 1e5  # colours are easily told apart
    assert said["size"] == 32  # as the digits are
    assert pickle.dumps(image_sets.opened(on, tmp_path / "set", encoders.whole(32, 32)))  # for workers


def test_what_torchvision_does_not_find_gets_one_sentence(trained, tmp_path, monkeypatch):
    for on in image_sets.SETS:
        with pytest.raises(ValueError, match=f"holds no {on} in its own layout .*; unpack it there") as error:
            read(trained, on, tmp_path / "none", tmp_path, monkeypatch=monkeypatch)
        assert "\n" not in str(error.value)
    folders(tmp_path / "set", 3)
    draw(tmp_path / "set" / "train" / "den" / "1.jpg", 0, 0)
    with pytest.raises(ValueError, match="class 'den' is in one of the two parts only"):
        read(trained, "folders", tmp_path / "set", tmp_path, monkeypatch=monkeypatch)
    sun397(tmp_path / "sun", 3)
    write(tmp_path / "sun" / "Testing_01.txt", "/a/../../x.jpg\n")
    with pytest.raises(ValueError, match="outside the set"):
        read(trained, "sun397", tmp_path / "sun", tmp_path, monkeypatch=monkeypatch)


def test_difficult_objects_count_for_nothing(tmp_path):
    voc2007(tmp_path, 12)
    labels = torch.stack([y for _, y in image_sets.opened("voc2007", tmp_path, lambda image: image)["train"]])
    names = dict(zip(image_sets.VOC, labels.T.tolist(), strict=True))
    assert names["cow"] == [0 if i % 7 == 0 else -1 for i in range(12)]
    assert names["dog"] == [1 if i % 3 == 2 else -1 for i in range(12)]
    assert names["car"] == [1 if i % 3 == 0 else 0 if i == 5 else -1 for i in range(12)]
    assert len(image_sets.VOC) == 20 and image_sets.VOC == sorted(image_sets.VOC)


# ---- features, written once


def test_features_are_written_once_and_then_read(trained, tmp_path, monkeypatch):
    folders(tmp_path / "set", 12)
    file, more = tmp_path / "f.npz", ("--features", tmp_path / "f.npz")
    first = read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    with np.load(file) as there:
        assert there["train_x"].shape == (22, 32) and there["test_y"].tolist() == 4 * [0] + 4 * [1] + 4 * [2]
    again = read(trained, "folders", tmp_path / "gone", tmp_path, *more, monkeypatch=monkeypatch)
    assert again["results"] == first["results"]
    with pytest.raises(ValueError, match="f.npz holds features of another on; name another, or remove it"):
        read(trained, "birdsnap", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    other = s.fit(tiny(epochs=1, seed=1), tiny_data(), tmp_path / "other", progress=False, steps=1).folder
    with pytest.raises(ValueError, match="features of another encoder"):
        read(other, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    with pytest.raises(ValueError, match="features of another size"):
        read(trained, "folders", tmp_path / "set", tmp_path, *more, "--size", 16, monkeypatch=monkeypatch)
    for blob in (b"", b"PK", file.read_bytes()[:900]):
        file.write_bytes(blob)
        with pytest.raises(ValueError, match="holds no features"):
            read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)


def test_packed_or_unfitting_arrays_are_no_features(trained, tmp_path, monkeypatch):
    folders(tmp_path / "set", 12)
    file, more = tmp_path / "f.npz", ("--features", tmp_path / "f.npz")
    read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    with np.load(file) as there:
        arrays = dict(there)
    np.savez_compressed(file, **arrays | {"train_x": np.zeros((2**20, 32), np.float32)})  # 134 MB in some 100 KB
    with pytest.raises(ValueError, match=r"holds no features \(ValueError: 134,.* bytes are packed into it\)"):
        read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    for odd in ({"train_y": arrays["train_y"][1:]}, {"test_x": arrays["test_x"][0]}, {"val_x": arrays["val_x"] > 0}):
        np.savez(file, **arrays | odd)
        with pytest.raises(ValueError, match="its arrays do not fit each other"):
            read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)


@pytest.mark.parametrize("more, said", [
    (("--size", 1025), "--size 1025 is too large; give 1024 or less"),
    (("--features", "."), "--features . can be no file; name one in a folder that is there"),
    (("--features", "nowhere/f.npz"), "--features nowhere/f.npz can be no file; name one in a folder that is there"),
    (("--name", "../x"), "--name '../x' cannot name a file or folder"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_any_image_is_read(more, said, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as end:
        read("none", "folders", tmp_path / "none", tmp_path, *more, monkeypatch=monkeypatch)
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_what_cannot_be_read_out_is_said_in_one_sentence(trained, tmp_path, monkeypatch):
    folders(tmp_path / "set", 12)
    (broken := tmp_path / "set" / "train" / "attic" / "zz.jpg").write_bytes(b"no picture")
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^An image cannot be read \(.*zz.jpg.*\); fetch it again, or") as error:
            read(trained, "folders", tmp_path / "set", tmp_path, "--workers", workers, monkeypatch=monkeypatch)
        assert "\n" not in str(error.value)
    broken.unlink()
    run = s.load_run(trained)
    run.method.encoder.stem[0].weight.data[0] = float("nan")
    parts = frozen.features(run, "folders", tmp_path / "set", 32, 0)
    with pytest.raises(ValueError, match="features of the train images that are not finite; give a sound encoder"):
        frozen.check(parts, "runs/mine")
    for name in ("beach", "cave"):
        for part in ("train", "val"):
            shutil.rmtree(tmp_path / "set" / part / name)
    with pytest.raises(ValueError, match="All 7 training images are of one class; a read-out needs two or more"):
        read(trained, "folders", tmp_path / "set", tmp_path, monkeypatch=monkeypatch)


def test_an_image_is_seen_from_its_short_side_and_centre():
    image = Image.fromarray((np.random.default_rng(0).random((30, 45, 3)) * 255).astype(np.uint8))
    seen = encoders.whole(15, 15)(image)
    wanted = np.asarray(image.resize((22, 15), Image.Resampling.BICUBIC))[:, 4:19]
    assert seen.shape == (3, 15, 15) and np.abs(seen.permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 1
    centre = torch.from_numpy(np.array(image)[8:23, 15:30]).permute(2, 0, 1)
    assert torch.equal(encoders.whole(15, None)(image), centre)


# ---- metrics and read-outs, against scikit-learn and loops


def numbers(seed, n=40, classes=3, dim=5):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    y[:classes] = range(classes)
    return rng.normal(size=(n, dim)) + 1.5 * np.eye(classes, dim)[y], y


def test_metrics_are_those_of_scikit_learn_and_of_loops():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(60, 4)), rng.integers(4, size=60)
    assert frozen.top1(scores, y) == metrics.accuracy_score(y, scores.argmax(1))
    assert frozen.mean_per_class(scores, y) == pytest.approx(metrics.balanced_accuracy_score(y, scores.argmax(1)))
    one, sign = scores[:, 0], np.where(y == 0, 1, -1)
    sign[:7] = 0  # difficult: as if these images were not there
    precision, recall = (x[:-1] for x in metrics.precision_recall_curve(sign[7:] > 0, one[7:])[:2])
    wanted = [max(p for p, r in zip(precision, recall, strict=True) if r >= t - 1e-9) for t in np.arange(11) / 10]
    assert frozen.ap11(one, sign) == pytest.approx(np.mean(wanted))
    steps, least = np.unique(recall), 0.0
    for low, high in zip([0, *steps[:-1]], steps, strict=True):
        least += (high - low) * max(p for p, r in zip(precision, recall, strict=True) if r >= high)
    assert frozen.area(one, sign) == pytest.approx(least)
    # by hand: right, wrong, right: precision 1 up to recall 0.5, then 2/3
    assert frozen.ap11(np.array([3.0, 2, 1]), np.array([1, -1, 1])) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    assert frozen.area(np.array([3.0, 2, 1]), np.array([1, -1, 1])) == pytest.approx(0.5 + 0.5 * 2 / 3)


def parts_of(*several):
    names = ("train", "val", "test")
    return {name: tuple(map(torch.from_numpy, pair)) for name, pair in zip(names, several, strict=True)}


def test_logistic_chooses_on_val_and_fits_again_on_both():
    (x, y), (qx, qy), (tx, ty) = several = [numbers(seed) for seed in (1, 2, 3)]
    said = frozen.logistic(parts_of(*several), "top1", [1e-4, 1.0, 1e3])
    by = {p: LogisticRegression(C=1 / p, max_iter=1000).fit(x, y).score(qx, qy) for p in (1e-4, 1.0, 1e3)}
    assert said["val"] == max(by.values()) == by[said["penalty"]] > min(by.values())
    both = LogisticRegression(C=1 / said["penalty"], max_iter=1000).fit(np.r_[x, qx], np.r_[y, qy])
    assert said["top1"] == both.score(tx, ty)


def test_svms_and_low_shot_curves_tell_what_is_there():
    several = [numbers(seed, n=60) for seed in (4, 5, 6)]
    said = frozen.svm(parts_of(*several), "top1", [1e-4, 1.0])
    curve = frozen.low_shot(parts_of(*several), "top1", shots=(1, 8, 1000), draws=3)
    assert list(curve) == [1, 8] and len(said["costs"]) == 3
    assert 1 / 3 < curve[1]["mean"] < curve[8]["mean"] < said["top1"] + 0.1 and curve[1]["std"] > 0
    several = [(x, np.where(y[:, None] == range(3), 1, -1)) for x, y in several]
    assert frozen.svm(parts_of(*several), "map11", [1.0])["map"] > 0.7
    assert frozen.low_shot(parts_of(*several), "map11", shots=(4,))[4]["mean"] > 0.5


def test_the_split_is_the_same_for_every_encoder_and_keeps_images_apart():
    y = torch.arange(100) % 4
    for name in ("pets", "caltech101"):
        n = 200 if name == "caltech101" else 100
        x, y = torch.arange(n)[:, None], torch.arange(n) % 4
        parts = {"train": (x, y)} | ({} if name == "caltech101" else {"test": (x + n, y)})
        one, two = image_sets.split(name, parts), image_sets.split(name, parts)
        rows = [set(one[part][0].flatten().tolist()) for part in ("train", "val", "test")]
        assert all(torch.equal(one[part][0], two[part][0]) for part in one)
        assert not (rows[0] & rows[1] or rows[0] & rows[2] or rows[1] & rows[2])
    assert [one[part][1].bincount().tolist() for part in ("train", "val", "test")] == [4 * [25], 4 * [5], 4 * [20]]
    with pytest.raises(ValueError, match="a class of 25 images; 30 are to train on"):
        image_sets.split("caltech101", {"train": (x[:100], y[:100])})


def test_two_processes_see_what_one_sees(trained, tmp_path, monkeypatch):
    """Of 9 training and 5 test images, neither of which can be shared out evenly; each with a worker."""
    folders(tmp_path / "set", 5)
    draw(tmp_path / "set" / "train" / "cave" / "odd.jpg", 2, 99)
    more = ("--features", tmp_path / "1.npz")
    one = read(trained, "folders", tmp_path / "set", tmp_path, *more, monkeypatch=monkeypatch)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [trained, "--on", "folders", "--data", tmp_path / "set", "--name", "two", "--out", tmp_path]
    command = [*start, "scale/evaluate.py", *arguments, "--features", tmp_path / "2.npz", "--workers", 1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["hardware"]["processes"] == 2 and two["results"]["images"] == one["results"]["images"]
    with np.load(tmp_path / "1.npz") as first, np.load(tmp_path / "2.npz") as second:
        assert all(np.allclose(first[name], second[name], atol=1e-5) for name in first if name != "about")


# ---- SVMs and grids


def svms(C):
    return LinearSVC(C=C, class_weight={1: 2, -1: 1}, max_iter=2000, random_state=0)


def test_svms_are_scikit_learns_on_unit_features_with_positives_twice():
    several = [(5 * np.abs(x[:, :1]) * x, np.where(y[:, None] == range(3), 1, -1)) for x, y in map(numbers, (4, 5, 6))]
    said = frozen.svm(parts_of(*several), "map11", costs := [1e-4, 1e-2, 1.0, 100.0])
    (x, y), (tx, ty) = (np.concatenate(parts) for parts in zip(*several[:2], strict=True)), several[2]
    x, tx = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, tx))
    chosen, scores = [], []
    for own in y.T:
        ap = [cross_val_score(svms(C), x, own, cv=3, scoring="average_precision").mean() for C in costs]
        chosen.append(costs[int(np.argmax(ap))])
        scores.append(svms(chosen[-1]).fit(x, own).decision_function(tx))
    assert said["costs"] == chosen
    assert said["map"] == pytest.approx(np.mean([frozen.area(*pair) for pair in zip(scores, ty.T, strict=True)]))


def test_low_shot_svms_have_a_cost_of_a_half():
    several = [numbers(seed, n=60) for seed in (4, 5, 6)]
    said = frozen.low_shot(parts_of(*several), "top1", shots=(4,), draws=3)[4]
    (x, y), (tx, ty), found = (np.concatenate(parts) for parts in zip(*several[:2], strict=True)), several[2], []
    x, tx = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, tx))
    for draw in range(3):
        rng = np.random.default_rng([draw, 4])
        own = np.unique([rng.choice(np.flatnonzero(y == c), 4, replace=False) for c in range(3)])
        each = [svms(0.5).fit(x[own], np.where(y[own] == c, 1, -1)).decision_function(tx) for c in range(3)]
        found.append((np.argmax(each, 0) == ty).mean())
    assert said == {"mean": pytest.approx(np.mean(found)), "std": pytest.approx(np.std(found))}


def test_grids_are_those_of_the_papers():
    assert frozen.PENALTIES == pytest.approx([10 ** (-6 + 11 * i / 44) for i in range(45)])
    assert sorted(frozen.COSTS) == sorted([10.0**i for i in range(-7, 3)] + [2.0**-i for i in range(4, 20)])
