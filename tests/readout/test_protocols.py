"""scale/evaluate.py --on linear and finetune: the grid is tried on held-out images, the test images are read once."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from core_checks import random, tiny, tiny_data

import semppl_mini as s
from semppl_mini.data import pick
from semppl_mini.files import write_pack
from semppl_mini.keeping.command import command
from semppl_mini.keeping.run import facts
from semppl_mini.method import encode
from semppl_mini.networks import ENCODERS

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
encoders, protocols = map(importlib.import_module, ("encoders", "protocols"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trained"
    return s.fit(tiny(epochs=1), tiny_data(), folder, progress=False).folder


def evaluate(runs, run, *arguments, processes=0):
    """The real command -> its JSON file, or the end of stderr if it failed."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes] if processes else []
    command = [sys.executable, *start, "scale/evaluate.py", run, "--name", "out", *arguments]
    environment = os.environ | {"SEMPPL_RUNS": str(runs), "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    return json.loads((runs / "out.json").read_text()) if done.returncode == 0 else done.stderr


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """300 of the digits, whose reading takes less time than that of all."""
    full = s.load_data("digits").train
    own = [full.take(pick(full.truth, n, 10, seed=n)) for n in (300, 100)]
    parts = {name: (part.images.numpy(), part.truth.numpy()) for name, part in zip(("train", "test"), own, strict=True)}
    return write_pack(tmp_path_factory.mktemp("packs") / "few.npz", parts, list("0123456789"), "some digits")


LABELS = ("--labels", 100, "--val", 100, "--batch", 50)


@pytest.fixture(scope="module")
def linear(trained, pack, tmp_path_factory):
    runs, grid = tmp_path_factory.mktemp("linear"), ("--rates", "0.00001,0.5", "--epochs", "2,4")
    return evaluate(runs, trained, "--on", "linear", "--data", pack, *LABELS, *grid)


def test_the_best_on_held_out_images_is_read_on_the_test_images(linear, pack, trained):
    tried, chosen = linear["results"]["tried"], linear["results"]["chosen"]
    assert [(row["rate"], row["epochs"]) for row in tried] == [(1e-5, 2), (1e-5, 4), (0.5, 2), (0.5, 4)]
    assert chosen == max(tried, key=lambda row: row["val"]) and len({row["val"] for row in tried}) > 2
    run, data = s.load_run(chosen["classifier"]), s.load_data(pack, 100, val=100)
    for images, share in ((data.val, chosen["val"]), (data.test, linear["results"]["test"]["top1"])):
        found = run.method.model(s.views.normalise(images.images / 255, run.config.mean, run.config.std)).argmax(1)
        assert share == pytest.approx(float((found == images.truth).float().mean()))
    first = s.load_run(trained).method.encoder.state_dict()
    assert all(torch.equal(x, first[name]) for name, x in run.method.encoder.state_dict().items())
    assert run.config.lr * run.config.batch_size / 256 == pytest.approx(chosen["rate"])  # what the optimizer took
    assert (run.config.optimizer, run.config.weight_decay, run.config.jitter_p) == ("sgd", 0, 0)


def test_two_processes_say_the_same_as_one(linear, pack, trained, tmp_path):
    grid = ("--rates", "0.5", "--epochs", "2,4")
    said = evaluate(tmp_path, trained, "--on", "linear", "--data", pack, *LABELS, *grid, processes=2)
    one, two = linear["results"], said["results"]
    assert said["hardware"]["processes"] == 2
    assert [row["val"] for row in two["tried"]] == pytest.approx([row["val"] for row in one["tried"][2:]], abs=0.011)
    assert two["test"] == pytest.approx(one["test"], abs=0.011)  # rounding may turn one image


def test_fine_tuning_moves_the_encoder(pack, trained, tmp_path):
    grid = ("--rates", "1", "--epochs", "2")
    said = evaluate(tmp_path, trained, "--on", "finetune", "--data", pack, *LABELS, *grid)["results"]
    run, first = s.load_run(said["chosen"]["classifier"]), s.load_run(trained).method.encoder.state_dict()
    assert not torch.equal(run.method.encoder.state_dict()["stem.0.weight"], first["stem.0.weight"])
    assert (said["labelled"], said["held_out"], said["batch"]) == (100, 100, 50)


def test_every_protocol_makes_a_config(trained):
    run, told = encoders.load(trained)
    for (on, _), protocol in protocols.PROTOCOLS.items():
        config = protocols.config_of(run, told, on, protocol, tiny_data())
        assert config.batch_size == 20 and config.backbone == "narrow" and config.large_size == told["size"][0]


@pytest.mark.parametrize("to, weights", [("torchvision", "encoder.pth"), ("safetensors", "encoder.safetensors")])
def test_an_export_is_an_encoder_too(to, weights, tmp_path):
    if to == "safetensors":
        pytest.importorskip("safetensors", reason="this is for `make test-doors`")
    export, config = importlib.import_module("export"), tiny(backbone="resnet18", width=64, stem="imagenet")
    encoder = ENCODERS["resnet18"](config).eval()
    for norm in (part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.running_var.uniform_(0.5, 1.5)
    export.export(encoder, facts(config, "random numbers", (40, 40)), to, tmp_path)
    run, told = encoders.load(tmp_path)
    assert (tmp_path / weights).is_file() and told["size"] == [40, 40] and run.data == "random numbers"
    assert torch.equal(encode(run.method.encoder, random(3, 3, 40, 40), run.config),
                       encode(encoder, random(3, 3, 40, 40), config))  # fmt: skip


def test_a_program_without_weights_gets_one_sentence(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "encoder.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds a program \(encoder.onnx\); give the run's own folder, or export it"):
        encoders.load(tmp_path)
    (tmp_path / "encoder.pth").write_bytes(b"")
    for text, words in (("{}", "architecture = None is a NoneType; give dict"), ("[]", "is no JSON file of a run"),
                        ('{"architecture": {"width": 7}}', "width = 7 lies outside")):  # fmt: skip
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            encoders.load(tmp_path)


@pytest.mark.parametrize("arguments, words", [
    (("--on", "linear", "--data", "digits", "--split", "val"), "--split is not used with --on linear; leave it out"),
    (("--data", "digits", "--rates", "1"), "--rates is not used without --on; leave it out"),
    (("--on", "linear", "--data", "digits", "--rates", "1,x"), "'1,x' is no list of positive numbers; write for"),
    (("--on", "linear", "--data", "digits", "--rates", "-1"), "is no list of positive numbers"),
    (("--on", "finetune", "--data", "digits", "--protocol", "carp"), "--protocol carp has no finetune evaluation of "
     "its own; give one of semppl."),
    (("--on", "linear", "--data", "digits", "--batch", "1"), "--batch 1 is too small; give 2 or more"),
])  # fmt: skip
def test_what_cannot_be_gets_one_sentence(arguments, words, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(trained), "--name", "out", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as end:
        command(importlib.import_module("evaluate").main, "scale/evaluate.py")
    said = end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err
    assert words in said and len(said.splitlines()) == 1
