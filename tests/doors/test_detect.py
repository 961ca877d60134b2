"""scale/detect.py: boxes and masks go through torchvision's detectors to COCO's average precision and back."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from core_checks import tiny, tiny_data
from PIL import Image

import semppl_mini as s
from semppl_mini.keeping.command import command
from semppl_mini.networks import ENCODERS

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
detect, shapes = map(importlib.import_module, ("detect", "shapes"))
pytest.importorskip("pycocotools", reason="this is for `make test-doors`")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
FEW = detect.RECIPES["tiny"] | {"steps": 3, "batch": 2}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return shapes.draw(tmp_path_factory.mktemp("sets") / "shapes", {"train": 6, "val": 4}, side=64)


def truth(images, kind, shift=0.0):
    """What is there, as if it had been found, perhaps a little beside."""
    rows = []
    for thing in images.coco.loadAnns(images.coco.getAnnIds()):
        x, y, w, h = thing["bbox"]
        row = {"image_id": thing["image_id"], "category_id": thing["category_id"], "bbox": [x + shift * w, y, w, h], "score": 0.9}
        rows.append(row | ({"segmentation": images.coco.annToRLE(thing)} if kind == "segm" else {}))
    return rows


def test_what_is_drawn_is_there(drawn):
    """Boxes hold the polygons, masks have their area, a disc, a square and a triangle as much of their box as they must."""
    images = detect.opened(drawn, "train")
    for i in range(len(images)):
        x, target = detect.example(images, i, flip=False, masks=True)
        assert x.shape == (3, 64, 64) and 1 <= len(target["boxes"]) <= 3
        for box, mask, label in zip(target["boxes"], target["masks"], target["labels"], strict=True):
            rows, columns = (mask.any(axis).nonzero().flatten() for axis in (1, 0))
            assert (torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) - box).abs().max() <= 1.5
            share = mask.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
            assert {1: 0.7, 2: 0.45, 3: 0.35}[int(label)] < share < {1: 0.9, 2: 1.05, 3: 0.62}[int(label)]
        assert (target["masks"].sum(0) <= 1).all()  # they keep apart


def test_a_flip_takes_boxes_and_masks_along(drawn):
    images = detect.opened(drawn, "val")
    (x, one), (y, two) = (detect.example(images, 0, flip, masks=True) for flip in (False, True))
    assert torch.equal(x.flip(-1), y) and torch.equal(one["masks"].flip(-1), two["masks"])
    assert torch.allclose(64 - one["boxes"][:, [2, 0]], two["boxes"][:, [0, 2]])
    assert torch.equal(one["boxes"][:, [1, 3]], two["boxes"][:, [1, 3]])


def test_average_precision_is_one_for_the_truth_and_falls_with_every_step_aside(drawn):
    images = detect.opened(drawn, "val")
    assert detect.average_precision(images, truth(images, "bbox"), "bbox")["AP"] == pytest.approx(1)
    assert detect.average_precision(images, truth(images, "segm"), "segm")["AP"] == pytest.approx(1)
    beside = detect.average_precision(images, truth(images, "bbox", shift=0.2), "bbox")  # boxes share 2 / 3
    assert beside["AP50"] == pytest.approx(1) and beside["AP75"] == 0 and beside["AP"] == pytest.approx(0.4)
    wrong = [row | {"category_id": row["category_id"] % 3 + 1} for row in truth(images, "bbox")]
    assert detect.average_precision(images, wrong, "bbox")["AP"] < 0.2
    assert detect.average_precision(images, [], "bbox") == dict.fromkeys(("AP", "AP50", "AP75", "APs", "APm", "APl"), 0.0)


@pytest.mark.parametrize("fields, last, widths", [
    ({"backbone": "narrow", "width": 8, "stem": "cifar"}, [0, 1, 2], [8, 16, 32]),
    ({"backbone": "resnet18", "width": 8}, [1, 3, 5, 7], [8, 16, 32, 64]),
    ({"backbone": "resnet50", "width": 8, "padding": "same"}, [2, 6, 12, 15], [32, 64, 128, 256]),
])  # fmt: skip
def test_fpn_takes_the_last_block_of_every_stage(fields, last, widths):
    run = detect.new(**fields)
    body = detect.Body(run.method.encoder, False, 16, torch.zeros(1, 3, 64, 64)).eval()
    assert body.last == last
    assert [layer[0].in_channels for layer in body.fpn.inner_blocks] == widths
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(body.maps(x)[-1].mean((2, 3)), run.method.encoder(x))  # nothing of the encoder is left out
        maps = body(x)
    assert [x.shape[1] for x in maps.values()] == (len(last) + 1) * [16]
    for k in range(1, len(last)):
        assert maps[str(k)].shape[2] == maps[str(k - 1)].shape[2] // 2


@pytest.mark.parametrize("frozen", [True, False])
def test_training_moves_the_encoder_unless_it_is_frozen(frozen, drawn):
    run = detect.new(width=8)
    before = {name: x.clone() for name, x in run.method.encoder.state_dict().items()}
    detect.detect(run, drawn, FEW, frozen=frozen)
    moved = [name for name, x in run.method.encoder.state_dict().items() if not torch.equal(x, before[name])]
    assert bool(moved) != frozen and ("stem.1.running_mean" in moved) != frozen


def test_the_command_takes_an_export_and_writes_boxes_and_masks(drawn, tmp_path, monkeypatch):
    export = importlib.import_module("export")
    run = s.fit(tiny(epochs=1), tiny_data(), tmp_path / "run", progress=False, steps=1)
    run = s.load_run(run.folder)
    export.export(run.method.encoder, export.told_of(run), "safetensors", tmp_path / "out")
    arguments = [tmp_path / "out", "--data", drawn, "--recipe", "tiny", "--masks", "--steps", 2, "--batch", 2]
    monkeypatch.setattr(sys, "argv", ["detect.py", *map(str, arguments), "--name", "x", "--out", str(tmp_path)])
    detect.main()
    said = json.loads((tmp_path / "x.json").read_text())
    assert set(said["results"]) == {"bbox", "segm", "loss"} and said["trained_on"] == "a slice of the digits"
    assert said["recipe"]["rate"] == pytest.approx(detect.RECIPES["tiny"]["rate"] * 2 / detect.RECIPES["tiny"]["batch"])


def test_the_rate_warms_up_and_falls_twice():
    recipe = detect.RECIPES["moco"]
    rates = [detect.rate_at(step, recipe) for step in (0, 999, 1000, 59_999, 60_000, 79_999, 80_000, 89_999)]
    assert rates == pytest.approx([0.02 / 1000, 0.02, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002])


def test_what_cannot_be_gets_one_sentence(drawn, tmp_path, monkeypatch):
    (tmp_path / "val2017").mkdir()
    (tmp_path / "train2017").mkdir()
    (tmp_path / "annotations").mkdir()
    told = tmp_path / "annotations" / "instances_train2017.json"
    for text in (None, "{}", "[]", '{"images": [], "annotations": [], "categories": []}', "x"):
        if text is not None:
            told.write_text(text)
        monkeypatch.setattr(sys, "argv", ["detect.py", "random", "--data", str(tmp_path), "--name", "x", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as end:
            command(detect.main, "scale/detect.py")
        assert "holds no train part in COCO's layout" in end.value.code and "\n" not in end.value.code
        assert "put train2017/ and annotations/instances_train2017.json there" in end.value.code
    run = detect.new()
    run.method.encoder = ENCODERS["airbench"](s.Config(backbone="airbench", width=8))
    with pytest.raises(ValueError, match="has not the stages that FPN takes; give a run of a ResNet"):
        detect.detect(run, drawn, FEW)
    with pytest.raises(ValueError, match=r"The loss of step \d is (nan|inf); give a smaller"):
        detect.detect(detect.new(width=8), drawn, FEW | {"rate": 1e12, "adamw": False})


@pytest.mark.parametrize("odd, reason", [
    ({"category_id": 99}, "annotation 1 is of category_id 99, which is not told"),
    ({"image_id": "1"}, "annotation 1 is of image_id 1, which is not told"),
    ({"area": None}, "annotation 1 has area None, not a number of pixels"),
    ({"id": 2}, r"\d annotations share \d ids"),
    ({"bbox": [1, 2, 3]}, r"annotation 1 has bbox \[1, 2, 3\], not left, top, width, height"),
    ({"bbox": [1, 2, float("nan"), 4]}, "annotation 1 has bbox .*nan"),
    (None, "000000000001.png is not there"),
])  # fmt: skip
def test_a_false_annotation_is_refused_before_training(odd, reason, tmp_path):
    shapes.draw(tmp_path, {"train": 2, "val": 1}, side=64)
    told = tmp_path / "annotations" / "instances_train2017.json"
    about = json.loads(told.read_text())
    about["annotations"][0] |= {"id": 1} | (odd or {})
    told.write_text(json.dumps(about))
    if odd is None:
        (tmp_path / "train2017" / "000000000001.png").unlink()
    with pytest.raises(ValueError, match=f"holds no train part in COCO's layout .*{reason}.*; put train2017/"):
        detect.opened(tmp_path, "train")


def test_an_image_without_objects_and_a_crowd_are_taken(tmp_path):
    shapes.draw(tmp_path / "set", {"train": 3, "val": 2}, side=64)
    told = tmp_path / "set" / "annotations" / "instances_train2017.json"
    about = json.loads(told.read_text())
    about["annotations"] = [thing | {"iscrowd": int(thing["image_id"] == 1)} for thing in about["annotations"]
                            if thing["image_id"] != 2]  # fmt: skip
    told.write_text(json.dumps(about))
    assert np.asarray(Image.open(tmp_path / "set" / "train2017" / "000000000001.png")).shape == (64, 64, 3)
    for i in range(2):
        assert detect.example(detect.opened(tmp_path / "set", "train"), i, True, True)[1]["boxes"].shape == (0, 4)
    assert np.isfinite(detect.detect(detect.new(width=8), tmp_path / "set", FEW)["loss"]["last"])


def changed(folder, part, change):
    """A drawn set, one part of which tells something else of all its annotations."""
    shapes.draw(folder, {"train": 2, "val": 2}, side=64)
    told = folder / "annotations" / f"instances_{part}2017.json"
    about = json.loads(told.read_text())
    about["annotations"] = [thing | change for thing in about["annotations"]]
    told.write_text(json.dumps(about))
    return folder, about, told


@pytest.mark.parametrize("change", [{"iscrowd": 1}, {"bbox": [3, 3, 0, 0]}])
def test_a_part_with_nothing_to_learn_is_refused(change, tmp_path):
    with pytest.raises(ValueError, match=r"none of \d annotations has a box of a pixel or more that is no crowd"):
        detect.opened(changed(tmp_path, "train", change)[0], "train")


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2]]])
def test_masks_need_segmentations(segmentation, tmp_path):
    root, _, _ = changed(tmp_path, "val", {"segmentation": segmentation})
    assert len(detect.opened(root, "val")) == 2
    with pytest.raises(ValueError, match="annotation 1 has no segmentation: polygons of three corners or more, or run"):
        detect.opened(root, "val", masks=True)


def test_both_parts_have_the_same_classes(tmp_path):
    root, about, told = changed(tmp_path, "val", {"category_id": 7})
    told.write_text(json.dumps(about | {"categories": [{"id": 7, "name": "ring"}]}))
    with pytest.raises(ValueError, match="has category 1 in one of its two parts only; tell the same ones in both"):
        detect.detect(detect.new(width=8), root, FEW)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    root, _, _ = changed(tmp_path, "train", {})
    image = root / "train2017" / "000000000002.png"
    image.write_bytes(image.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"train2017/000000000002.png cannot be read \(.*\); fetch it again"):
        detect.example(detect.opened(root, "train"), 1, flip=False, masks=False)


def test_the_name_of_the_file_is_checked_before_training(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["detect.py", "random", "--data", "none", "--name", "../x"])
    with pytest.raises(SystemExit) as end:
        detect.main()
    assert end.value.code == 2 and "--name '../x' cannot name a file" in capsys.readouterr().err
