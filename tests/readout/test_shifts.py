"""scale/evaluate.py on ImageNet-V2, -R, -Sketch and -C: drawn here, tiny, in their layouts; of six classes."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from core_checks import tiny
from PIL import Image

import semppl_mini as s
from semppl_mini.data import Data, ImageSet

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
encoders, evaluate, shifts = map(importlib.import_module, ("encoders", "evaluate", "shifts"))

OWN = [0, 1, 2, 3, 10, 999]  # classes of the classifier, by their place among the 1,000; -R has 1 and 2 of them
SYNSETS = [shifts.IMAGENET[i] for i in OWN]
COLOURS = torch.tensor([(220, 40, 40), (40, 200, 60), (50, 60, 220), (220, 210, 40), (30, 220, 220), (240, 240, 240)])


def images(colours, side=32, seed=0):
    noise = torch.randn(len(colours), 3, side, side, generator=torch.Generator().manual_seed(seed))
    return (COLOURS[colours].float()[:, :, None, None] + 25 * noise).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Fine-tuned to tell six colours apart, under the names of six synsets."""
    y = torch.arange(96) % 6
    train = ImageSet(images(y), y, torch.arange(96), y)
    rest = ImageSet(images(y[:12], seed=1), y[:12], 96 + torch.arange(12), y[:12])
    data = Data("drawn", "colours", SYNSETS, train, rest.take(torch.arange(0)), rest)
    config = tiny(method="finetune", labels=None, large_views=1, small_views=0, jitter_p=0.0, grey_p=0.0, blur_p=(0.0,),
                  solarize_p=(0.0,), mask_p=0.0, large_scale=(0.5, 1.0), epochs=20, warmup_epochs=0, optimizer="adamw",
                  lr=0.1)  # fmt: skip
    run = s.fit(config, data, tmp_path_factory.mktemp("runs") / "classifier", progress=False)
    assert s.readout.classifier_accuracy(run.method.model, rest, config) == 1
    return run.folder


def write(folder, colours, side=40):
    """An image of each colour, of PNG, which does not lose any of it."""
    folder.mkdir(parents=True)
    for k, image in enumerate(images(torch.tensor(colours), side, seed=len(colours))):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{k}.png")


def read(run, on, root, out, monkeypatch):
    arguments = map(str, (run, "--on", on, "--data", root, "--name", on, "--out", out))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    evaluate.main()
    return json.loads((out / f"{on}.json").read_text())["results"]


def test_v2_is_sorted_by_number_not_by_name(classifier, tmp_path, monkeypatch):
    for own, i in enumerate(OWN):
        write(tmp_path / "v2" / str(i), [own])
    said = read(classifier, "imagenet-v2", tmp_path / "v2", tmp_path, monkeypatch)
    assert said == {"top1": 1.0, "top5": 1.0, "classes": 6, "images": 6, "complete": False}


def test_sketch_is_by_synset(classifier, tmp_path, monkeypatch):
    for own, synset in enumerate(SYNSETS):
        write(tmp_path / "sketch" / synset, [own, own, (own + 1) % 6])
    said = read(classifier, "imagenet-sketch", tmp_path / "sketch", tmp_path, monkeypatch)
    assert said["top1"] == pytest.approx(2 / 3) and said["images"] == 18


def test_r_takes_the_answer_among_its_own_classes(classifier, tmp_path, monkeypatch):
    """Colours of classes that -R does not have are answered by one that it has: all in one of two folders are right."""
    assert [synset in shifts.RENDITIONS for synset in SYNSETS] == [False, True, True, False, False, False]
    for synset in SYNSETS[1:3]:
        write(tmp_path / "r" / synset, [0, 1, 2, 3, 4, 5])
    said = read(classifier, "imagenet-r", tmp_path / "r", tmp_path, monkeypatch)
    run, told = encoders.load(classifier)
    logits, y = encoders.see(run.method.model, shifts.ImageFolder(tmp_path / "r", encoders.whole(32, 37)), run.config)
    assert said["top1"] == float((logits[:, 1:3].argmax(1) == y).float().mean()) == 0.5
    assert (logits.argmax(1) == y + 1).float().mean() < 0.5


def test_c_is_the_mean_of_errors_over_alexnets(classifier, tmp_path, monkeypatch):
    wrong = {}
    for i, corruption in enumerate(shifts.ALEXNET):
        for severity in range(1, 6):
            for own in (0, 1):
                colours = 4 * [own]
                colours[: (i + severity) % 3] = ((i + severity) % 3) * [5]  # so many of four are of another class
                write(tmp_path / "c" / corruption / str(severity) / SYNSETS[own], colours, side=32)
            wrong[corruption, severity] = (i + severity) % 3 / 4
    said = read(classifier, "imagenet-c", tmp_path / "c", tmp_path, monkeypatch)
    for corruption, alexnet in shifts.ALEXNET.items():
        error = np.mean([wrong[corruption, severity] for severity in range(1, 6)])
        assert said["error"][corruption] == pytest.approx(error)
        assert said["ce"][corruption] == pytest.approx(5 * error / (5 * alexnet))
    assert said["mce"] == pytest.approx(np.mean([said["ce"][name] for name in shifts.ALEXNET]))
    (tmp_path / "c" / "fog").rename(tmp_path / "fog")
    with pytest.raises(ValueError, match=r"fog/1 is missing, as are 4 others of 75 folders; unpack all of them"):
        read(classifier, "imagenet-c", tmp_path / "c", tmp_path, monkeypatch)


def test_alexnet_is_at_one():
    """Its own errors give an mCE of 1; two of them by severity, as github.com/hendrycks/robustness has them."""
    same = {(c, severity): error for c, error in shifts.ALEXNET.items() for severity in range(1, 6)}
    assert shifts.corruption_error(same)["mce"] == pytest.approx(1) and len(shifts.ALEXNET) == 15
    by_severity = {"gaussian_noise": (0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
                   "shot_noise": (0.71224, 0.85108, 0.93574, 0.98182, 0.99146)}  # fmt: skip
    for corruption, errors in by_severity.items():
        assert shifts.ALEXNET[corruption] == pytest.approx(np.mean(errors))


def test_the_lists_of_classes():
    assert len(shifts.IMAGENET) == 1000 and shifts.IMAGENET == sorted({*shifts.IMAGENET})
    assert len(shifts.RENDITIONS) == 200 and set(shifts.RENDITIONS) < set(shifts.IMAGENET)
    assert (shifts.IMAGENET[0], shifts.IMAGENET[207], shifts.IMAGENET[999]) == ("n01440764", "n02099601", "n15075141")


def test_what_is_no_such_set_gets_one_sentence(classifier, tmp_path, monkeypatch):
    for on, name, words in (
        ("imagenet-v2", "1000", "v2/1000 is no class of imagenet-v2; its folders are called 0 to 999"),
        ("imagenet-v2", "n01440764", "is no class of imagenet-v2"),
        ("imagenet-v2", "4", f"does not know {shifts.IMAGENET[4]}, which .* has, nor 0 others of its 1 classes"),
        ("imagenet-r", SYNSETS[0], "is no class of imagenet-r; its folders are called like n01443537"),
        ("imagenet-sketch", "tench", "is no class of imagenet-sketch; its folders are called like n01440764"),
    ):
        write(tmp_path / f"{on}-{name}" / on[9:] / name, [0])
        with pytest.raises(ValueError, match=words):
            read(classifier, on, tmp_path / f"{on}-{name}" / on[9:], tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="none holds no imagenet-sketch in its own layout"):
        read(classifier, "imagenet-sketch", tmp_path / "none", tmp_path, monkeypatch)


def test_an_encoder_alone_tells_no_classes_apart(classifier, tmp_path, monkeypatch):
    config = tiny(epochs=1, large_size=32)
    y = torch.arange(96) % 6
    train = ImageSet(images(y), y, torch.arange(96), y)
    data = Data("drawn", "colours", SYNSETS, train, train.take(y[:0]), train.take(y[:0]))
    run = s.fit(config.replace(labels=None), data, tmp_path / "run", progress=False, steps=1)
    with pytest.raises(ValueError, match="run tells no synsets apart; give the folder of a classifier"):
        read(run.folder, "imagenet-sketch", tmp_path, tmp_path, monkeypatch)


def test_images_are_resized_to_256_of_224(classifier, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shifts, "whole", lambda *sizes: asked.append(sizes) or encoders.whole(*sizes))
    write(tmp_path / "sketch" / SYNSETS[0], [0])
    read(classifier, "imagenet-sketch", tmp_path / "sketch", tmp_path, monkeypatch)
    assert asked == [(32, 37)]


@pytest.mark.parametrize("images, complete", [(6, True), (7, False)])
def test_a_set_is_complete_with_all_its_images(images, complete, classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(shifts.SETS, "imagenet-sketch", (6, images))
    for own, synset in enumerate(SYNSETS):
        write(tmp_path / "sketch" / synset, [own])
    said = read(classifier, "imagenet-sketch", tmp_path / "sketch", tmp_path, monkeypatch)
    assert said["complete"] is complete
