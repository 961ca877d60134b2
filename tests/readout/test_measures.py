"""The further read-outs against slow, independent computations, and on cases whose answer is known."""

import colorsys
import importlib
import io
import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import measures
import numpy as np
import pytest
import torch
from core_checks import CLASSES, parts, pictures, random, tiny, tiny_data, units
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from semppl_mini import fit, load_data, load_run
from semppl_mini.files import write_pack
from semppl_mini.readout import untrained_encoder
from semppl_mini.rng import EVALUATION, generator


def test_scikit_learn_is_imported_by_who_asks_for_it():
    """It takes seconds, and training needs none of it."""
    code = "import sys, semppl_mini.readout; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_clustering_knows_equal_and_unrelated_partitions():
    centres, truth = units(4, 8, seed=3), torch.arange(80) % 4
    blobs = centres[truth] + 0.01 * units(80, 8, seed=4)
    assert measures.clustering(blobs, truth, 4) == {"nmi": pytest.approx(1), "ari": pytest.approx(1)}
    noise = measures.clustering(units(80, 8, seed=5), truth, 4)
    assert noise["nmi"] < 0.2 and abs(noise["ari"]) < 0.1


def test_retrieval_is_the_mean_average_precision_of_scikit_learn():
    x, truth = units(40, 5, seed=1), (random(40, seed=2) * 4).long()
    truth[0] = 9  # alone in its class: it does not ask
    cosine, expected = (x @ x.T).numpy(), []
    for i in range(1, 40):
        others = np.arange(40) != i
        expected.append(average_precision_score((truth == truth[i]).numpy()[others], cosine[i, others]))
    assert measures.retrieval(3 * x, truth) == pytest.approx(np.mean(expected), abs=1e-6)


def test_retrieval_of_perfect_features_is_one():
    truth = torch.arange(30) % 3
    assert measures.retrieval(torch.eye(3)[truth] + 1e-3 * random(30, 3), truth) == pytest.approx(1)


def test_few_shot_takes_as_many_of_each_class_and_their_labels_only(monkeypatch):
    seen = []
    fit = LinearSVC.fit
    monkeypatch.setattr(LinearSVC, "fit", lambda self, x, y: seen.append(y) or fit(self, x, y))
    truth = torch.arange(60) % 3
    x = torch.eye(3)[truth] + 0.1 * random(60, 3)
    result = measures.few_shot(x, truth, x, truth, shots=2, draws=3)
    assert result == {"mean": 1.0, "std": 0.0}
    assert [np.bincount(y).tolist() for y in seen] == [[2, 2, 2]] * 3
    with pytest.raises(ValueError, match="shots = 21 images a class asked, and one class has 20; give at most that."):
        measures.few_shot(x, truth, x, truth, shots=21)


def test_copies_are_found_by_pixels_and_not_by_noise():
    images, config = tiny_data().test.images, tiny(mean=(0.5,) * 3, std=(0.5,) * 3)
    by_pixels = measures.copies(measures.Pixels(), config, images)
    assert 1 / 30 < by_pixels["first"] <= by_pixels["mrr"] <= 1
    again = measures.copies(measures.Pixels(), config, images)
    assert again == by_pixels != measures.copies(measures.Pixels(), config, images, seed=1)


def test_copies_of_a_transformation_that_changes_nothing_come_first(monkeypatch):
    monkeypatch.setattr(measures, "transformed", lambda x, rng: x)
    images = tiny_data().test.images
    assert measures.copies(measures.Pixels(), tiny(), images) == {"mrr": 1.0, "first": 1.0}
    monkeypatch.setattr(measures, "transformed", lambda x, rng: 255 - x)
    assert measures.copies(measures.Pixels(), tiny(), images)["first"] < 0.5


@pytest.mark.parametrize("name", measures.CORRUPTIONS)
def test_corruption_grows_with_its_severity_and_is_repeatable(name):
    images = tiny_data().test.images[:8]
    change = []
    for severity in range(1, 6):
        worse = measures.corrupted(images, name, severity)
        assert worse.dtype == torch.uint8 and worse.shape == images.shape
        assert torch.equal(worse, measures.corrupted(images, name, severity))
        change.append(float((worse.float() - images.float()).abs().mean()))
    assert 0 < min(change) and max(change) < 80
    assert change == sorted(change) or name == "saturate"  # which takes colour away before it adds any


# The definitions of github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py, pixel by pixel, by Pillow and
# SciPy (what scikit-image's Gaussian calls): x uint8 (H, W, 3) -> numbers up to 255.


def in_hsv(change):
    """A change of (h, s, v), each in [0, 1], of each pixel; Python's own HSV has scikit-image's definition."""

    def of_image(x, c):
        rows = [[colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel), c)) for pixel in row] for row in x / 255]
        return np.array(rows) * 255

    return of_image


def boxes(x, c):
    small = Image.fromarray(x).resize((int(x.shape[1] * c), int(x.shape[0] * c)), Image.Resampling.BOX)
    return np.asarray(small.resize((x.shape[1], x.shape[0]), Image.Resampling.BOX))


def compressed(x, c):
    Image.fromarray(x).save(file := io.BytesIO(), "JPEG", quality=c)
    return np.asarray(Image.open(file))


PUBLISHED = {
    "blur": (lambda x, c: gaussian_filter(x / 255, (c, c, 0), mode="nearest", truncate=4) * 255,
             [0.4, 0.6, 0.7, 0.8, 1]),
    "pixelate": (boxes, [0.95, 0.9, 0.85, 0.75, 0.65]),
    "brightness": (in_hsv(lambda h, s, v, c: (h, s, min(v + c, 1))), [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": (lambda x, c: ((x / 255 - (x / 255).mean((0, 1))) * c + (x / 255).mean((0, 1))) * 255,
                 [0.75, 0.5, 0.4, 0.3, 0.15]),
    "saturate": (in_hsv(lambda h, s, v, c: (h, min(s * c[0] + c[1], 1), v)),
                 [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)]),
    "jpeg": (compressed, [80, 65, 58, 50, 40]),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("height, width", [(32, 32), (20, 27)])
def test_corruptions_are_the_published_ones(name, height, width):
    """CIFAR-C's: within one of 255, since it rounds down, and equal in all but a few pixels."""
    x = (pictures(2, height, width) * 255).round().byte()  # with greys, black, white and primary colours
    corrupt, strengths = PUBLISHED[name]
    for severity, strength in enumerate(strengths, 1):
        ours = measures.corrupted(x, name, severity).permute(0, 2, 3, 1).numpy().astype(int)
        for one, image in zip(ours, x.permute(0, 2, 3, 1).numpy(), strict=True):
            theirs = np.uint8(np.clip(corrupt(image, strength), 0, 255)).astype(int)
            assert abs(one - theirs).max() <= 1 and (one != theirs).mean() < 0.03, severity


def test_noise_is_the_published_one():
    grey = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    noise = measures.corrupted(grey, "gaussian_noise", 5).double() / 255
    assert float(noise.std()) == pytest.approx(0.10, abs=0.003)
    shot = measures.corrupted(grey, "shot_noise", 1).double() / 255
    assert float(shot.std()) == pytest.approx(math.sqrt(128 / 255 / 500), rel=0.05)
    hit = measures.corrupted(grey, "impulse_noise", 3)
    assert float((hit != 128).float().mean()) == pytest.approx(0.03, abs=0.004)
    assert set(hit.unique().tolist()) == {0, 128, 255}


@pytest.mark.parametrize("n, count", [(10, 3), (10, 5), (10, 20), (7, 2), (2000, 1000)])
def test_spread_covers_a_sorted_set(n, count):
    index = measures.spread(n, count)
    assert 0 < len(index) <= count and index[0] == 0 and len(index.unique()) == len(index)
    assert int(index[-1]) >= n - 1 - (n - 1) // len(index)


def test_measure_reads_everything_of_a_split():
    data, config = tiny_data(), tiny()
    result = measures.measure(untrained_encoder(config, data), config, data, "val", shots=(1, 2, 3), n=10)
    assert set(result["few_shot"]) == {1, 2} and set(result["robustness"]) == {*measures.CORRUPTIONS, "mean"}
    assert result["robustness"]["mean"] == pytest.approx(
        np.mean([x for name, x in result["robustness"].items() if name != "mean"])
    )
    shares = [*result["clustering"].values(), result["retrieval"], *result["copies"].values(), result["clean"]]
    assert all(-0.5 <= x <= 1 for x in shares)


def test_labels_that_the_run_did_not_see_are_told(tmp_path, monkeypatch):
    """A run of a list of labels, read out by as many that a seed draws, would have twice the labels it says."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "scale")
    compare, names = importlib.import_module("evaluate").compare, [f"train/{i}.png" for i in range(60)]
    pack = write_pack(tmp_path / "zoo.npz", parts(), CLASSES, "here", {"train": names, "test": names[:12]})
    (tmp_path / "list.txt").write_text("\n".join(names[:9]))
    listed = load_data(pack, label_list=tmp_path / "list.txt")
    config = tiny(labels=9, batch_size=8, large_size=8, small_views=0, epochs=1)
    fit(config, listed, tmp_path / "run", progress=False)
    run = load_run(tmp_path / "run")
    for other in (load_data(pack, 9), load_data(pack, label_list=tmp_path / "list.txt", val=0)):
        with pytest.warns(UserWarning, match="was trained with other labels or images of here than it is read out"):
            compare(run, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(run, listed), compare(run, tiny_data())  # the same; another set


def test_transfer_to_a_folder_of_images_unseen_in_training(tmp_path, monkeypatch):
    """data/prepare.py packs the folder, scale/evaluate.py reads a run trained on other images out on it."""
    for folder in ("data", "scale"):
        monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / folder)
    prepare, command = (importlib.import_module(name) for name in ("prepare", "evaluate"))
    full = load_data("digits")
    for split, images in (("train", full.train), ("test", full.test)):
        for c, name in enumerate(("three", "eight")):  # two of its classes, pixels upside down, of another size
            index = (images.truth == (3, 8)[c]).nonzero()[:20, 0]
            (tmp_path / "folder" / split / name).mkdir(parents=True)
            for i, image in enumerate(images.images[index].flip(2).permute(0, 2, 3, 1).numpy()):
                Image.fromarray(image[:28, :30]).save(tmp_path / "folder" / split / name / f"{i}.png")
    asked = ["folder", "--from", str(tmp_path / "folder"), "--name", "other", "--size", "24", "--out", str(tmp_path)]
    assert prepare.main(asked) == 0
    run = fit(tiny(), tiny_data(), tmp_path / "run", progress=False)
    for name, source in (("moved", str(run.folder)), ("pixels", "pixels")):
        arguments = [source, "--data", str(tmp_path / "other.npz"), "--labels", "8", "--name", name]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "--out", str(tmp_path)])
        command.main()
        result = json.loads((tmp_path / f"{name}.json").read_text())
        assert result["results"]["bank"] == 8 and result["data"] == "other (folder)"
        assert result["trained_on"] == ("nothing" if name == "pixels" else "a slice of the digits")
        assert result["results"]["linear"] * 40 == pytest.approx(round(result["results"]["linear"] * 40))
        assert result["measures"]["clustering"]["nmi"] >= 0


# ---- what is drawn, how often, from which images


def test_few_shot_draws_anew_each_time():
    x, truth = units(60, 4), torch.arange(60) % 3
    assert measures.few_shot(x, truth, x, truth, shots=1)["std"] > 0.01


def test_robustness_is_the_mean_over_all_five_severities(monkeypatch):
    asked = []
    monkeypatch.setattr(measures, "corrupted", lambda images, name, severity: asked.append((name, severity)) or images)
    probe = SimpleNamespace(score=lambda x, truth: asked[-1][1] / 10)
    result = measures.robustness(measures.Pixels(), tiny(), probe, tiny_data().test.images[:3], None)
    assert asked == list(itertools.product(measures.CORRUPTIONS, range(1, 6)))
    assert result == {name: pytest.approx(0.3) for name in [*measures.CORRUPTIONS, "mean"]}


def test_clustering_is_by_direction():
    centres, truth = units(4, 8, seed=3), torch.arange(80) % 4
    blobs = (centres[truth] + 0.01 * units(80, 8, seed=4)) * (1 + 99 * random(80, 1))  # of any length
    assert measures.clustering(blobs, truth, 4) == {"nmi": pytest.approx(1), "ari": pytest.approx(1)}


def test_corrupted_images_are_spread_evenly(monkeypatch):
    seen, data = [], tiny_data()
    monkeypatch.setattr(measures, "robustness", lambda *given: seen.append(given[3:]) or {})
    measures.measure(measures.Pixels(), tiny(), data, n=10)
    assert torch.equal(seen[0][0], data.test.images[::3]) and torch.equal(seen[0][1], data.test.truth[::3])


def test_copies_are_crops_of_half_to_nine_tenths_of_a_side_at_quality_30(monkeypatch):
    boxes, qualities = [], set()
    monkeypatch.setattr(measures.tv, "resized_crop", lambda x, *box, **more: boxes.append(box[:4]) or x)
    monkeypatch.setattr(measures, "jpeg", lambda x, quality: qualities.add(quality) or x)
    for i in range(500):
        measures.transformed(torch.zeros(3, 40, 60, dtype=torch.uint8), generator(0, i, EVALUATION))
    height, width = torch.tensor(boxes).T[2:]
    assert qualities == {30} and (height.min(), height.max(), width.min(), width.max()) == (20, 36, 30, 54)


def test_each_copy_is_transformed_in_a_way_of_its_own(monkeypatch):
    seeds = []
    monkeypatch.setattr(measures, "transformed", lambda x, rng: seeds.append(rng.initial_seed()) or x)
    measures.copies(measures.Pixels(), tiny(), tiny_data().test.images)
    assert len(set(seeds)) == 30
