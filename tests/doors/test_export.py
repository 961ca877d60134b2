"""scale/export.py: what other libraries read has the run's features, and what they cannot read is refused.

What needs a package of the extra `doors` is left out without it; `make test-doors` leaves nothing out.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from core_checks import random, tiny, tiny_data
from torch import nn

import semppl_mini as s
from semppl_mini.files import write_json
from semppl_mini.keeping.command import command
from semppl_mini.keeping.run import facts
from semppl_mini.networks import ENCODERS, ResNet
from semppl_mini.recipes import resnets

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scale"))
export = importlib.import_module("export")

pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters, on what they will change one day
SHAPES = (1, 3, 32, 32), (5, 3, 32, 32), (2, 3, 64, 48), (3, 3, 41, 33)


def trained(folder, **changes):
    return s.fit(tiny(epochs=1, **changes), tiny_data(), folder, progress=False).folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A ResNet-18 as peers have it for CIFAR."""
    return trained(tmp_path_factory.mktemp("runs") / "large", backbone="resnet18", width=64, stem_stride=1)


def exported(run, to, out, *more):
    before, sys.argv = sys.argv, ["export.py", str(run), "--to", to, "--out", str(out), *map(str, more)]
    try:
        export.main()
    finally:
        sys.argv = before
    return out


def made(**fields):
    """An encoder of a config whose norms are no longer those of the start, and what a run.json would say of it."""
    config = s.Config().replace(**fields)
    return settled(ENCODERS[config.backbone](config)), facts(config, "random numbers", (64, 64))


def settled(encoder):
    for i, norm in enumerate(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)):
        for j, x in enumerate((norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var)):
            x.copy_(0.5 + random(len(x), seed=4 * i + j)).mul_(0.2 if j in (1, 2) else 1.0)
    return encoder.eval()


@torch.no_grad()
def off(f, encoder, shapes=SHAPES):
    """The largest difference of features at some shapes, the largest feature being 1."""
    gaps = []
    for x in (2 * random(*shape, seed=shape[0]) - 1 for shape in shapes):
        wanted = encoder.eval()(x)
        gaps.append(float((torch.as_tensor(f(x)) - wanted).abs().max() / wanted.abs().max()))
    return max(gaps)


def of(run):
    return s.load_run(run).method.encoder


def by_card(folder, monkeypatch):
    """The function that the card's lines make, run beside it."""
    monkeypatch.chdir(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names = {"images": random(2, 3, 32, 32)}
    exec(code, names)
    assert len(names["features"]) == 2
    return names["f"]


# ---- what it writes over

KILLED = """
import os, signal, sys
sys.path.append("scale")
import export
def half(path, write, whole=export.write_whole):
    if path.name == "run.json":
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, write)
export.write_whole = half
export.main()
"""


def test_no_file_of_others_is_written_over(small, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    for folder, odd in ((small, "checkpoint"), (tmp_path / "notes", "README.md")):
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        with pytest.raises(ValueError, match=f"{folder} holds {odd}.*, which is no part of this export; give a new or"):
            exported(small, "torchscript", folder)
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_half_an_export_is_none_and_is_made_whole(small, tmp_path):
    out = exported(small, "pt2", tmp_path / "out")
    command = [sys.executable, "-c", KILLED, small, "--to", "pt2", "--out", out]
    killed = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == ["encoder.pt2"]  # no card, no run.json of the one before
    exported(small, "pt2", out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "encoder.pt2", "run.json"]


def test_features_that_are_not_finite_are_named_before_anything_is_made(tmp_path):
    encoder, told = made(backbone="narrow", width=8)
    encoder.stem[0].weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="Its features of random images are not finite; export a sound run"):
        export.export(encoder, told, "pt2", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- round trips


def cifar(model):
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def test_torchvision_takes_a_run(large, tmp_path, monkeypatch):
    out = exported(large, "torchvision", tmp_path / "out")
    theirs = cifar(torchvision.models.resnet18())
    theirs.fc = nn.Identity()
    theirs.load_state_dict(torch.load(out / "encoder.pth", weights_only=True))
    assert off(theirs.eval(), of(large)) == 0
    assert off(by_card(out, monkeypatch), of(large)) == 0


def test_torchvision_takes_resnet50_with_its_own_stem_to_the_bit(tmp_path):
    encoder, told = made(backbone="resnet50", stem="imagenet")
    export.export(encoder, told, "torchvision", tmp_path)
    theirs = torchvision.models.resnet50()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True))
    assert off(theirs.eval(), encoder) == 0


def test_resnet200_has_torchvisions_names_and_shapes():
    with torch.device("meta"):
        encoder, _ = made(backbone="resnet200", stem="imagenet")
        theirs = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [3, 24, 36, 3])
    theirs.fc = nn.Identity()
    ours = export.their_names(encoder.state_dict(), resnets.BLOCKS["resnet200"])
    assert {name: x.shape for name, x in ours.items()} == {name: x.shape for name, x in theirs.state_dict().items()}


def test_timm_takes_a_run(large, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    load_file = pytest.importorskip("safetensors.torch").load_file
    out = exported(large, "timm", tmp_path / "out")
    theirs = cifar(timm.create_model("resnet18", num_classes=0))
    theirs.load_state_dict(load_file(out / "model.safetensors"))
    assert off(theirs.eval(), of(large)) == 0
    assert off(by_card(out, monkeypatch), of(large)) == 0


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_timm_reads_the_folder_of_a_network_with_its_own_stem(backbone, tmp_path):
    timm, _ = pytest.importorskip("timm"), pytest.importorskip("safetensors")
    encoder, told = made(backbone=backbone, stem="imagenet")
    export.export(encoder, told, "timm", tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert off(theirs, encoder) == 0
    seen = timm.data.resolve_model_data_config(theirs)
    assert [tuple(seen[name]) for name in ("mean", "std", "input_size")] == [told["mean"], told["std"], (3, 64, 64)]


def test_safetensors_hold_weights_and_facts(small, tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors")
    out = exported(small, "safetensors", tmp_path / "out", "--licence", "CC0-1.0")
    with safetensors.safe_open(out / "encoder.safetensors", "pt") as file:
        facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    wanted = torch.load(small / "encoder.pt", weights_only=True)
    assert tensors.keys() == wanted.keys() and all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    told = json.loads((small / "run.json").read_text())
    read = {name: facts[name] if isinstance(told[name], str) else json.loads(facts[name]) for name in told}
    assert read == told and facts["licence"] == "CC0-1.0" and facts["name"] == "small"
    assert off(by_card(out, monkeypatch), of(small)) == 0


@pytest.mark.parametrize("to, file", [("torchscript", "encoder.torchscript.pt"), ("pt2", "encoder.pt2")])
def test_torch_alone_runs_it(to, file, small, tmp_path, monkeypatch):
    out, extra = exported(small, to, tmp_path / "out"), {"run.json": ""}
    if to == "pt2":
        f = torch.export.load(out / file, extra_files=extra).module()
    else:
        f = torch.jit.load(out / file, _extra_files=extra)
    assert off(f, of(small)) < 1e-5
    assert json.loads(extra["run.json"])["provenance"] == "a slice of the digits"
    assert off(by_card(out, monkeypatch), of(small)) < 1e-5


def session_of(folder):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    return session, lambda x: session.run(["features"], {"images": x.numpy()})[0]


def test_onnxruntime_runs_a_run_at_any_batch_and_size(small, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    session, f = session_of(exported(small, "onnx", tmp_path / "out"))
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 32]
    assert off(f, of(small)) < 1e-4
    model = onnx.load(tmp_path / "out" / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {x.key: x.value for x in model.metadata_props}["classes"] == json.dumps(list("0123456789"))
    assert off(by_card(tmp_path / "out", monkeypatch), of(small)) < 1e-4


def test_onnxruntime_runs_airbench_at_any_batch_and_size(tmp_path):
    pytest.importorskip("onnxscript")
    encoder, told = made(backbone="airbench", width=8)
    _, f = session_of(export.export(encoder, told, "onnx", tmp_path))
    assert off(f, encoder) < 1e-4


def test_selective_kernels_keep_their_size_in_onnx_and_others_are_refused(tmp_path):
    pytest.importorskip("onnxscript")
    _, told = made(backbone="resnet50", sk=True, width=8, stem="imagenet")
    encoder = settled(ResNet((1, 1), 8, stem=resnets.deep_stem, block=resnets.sk_bottleneck))
    _, f = session_of(export.export(encoder, told, "onnx", tmp_path))
    assert off(f, encoder, [(1, 3, 64, 64), (5, 3, 64, 64)]) < 1e-4
    with pytest.raises(Exception, match="Got: 48 Expected: 64"):
        f(random(1, 3, 64, 48))
    assert "height x width 64 x 64 alone" in (tmp_path / "README.md").read_text()


# ---- what cannot be, or must not be


class Means(nn.Module):
    """An encoder that counts its pixels in Python, where a tracer does not look."""

    def forward(self, x):
        return x.sum((2, 3)) / float(x.shape[2] * x.shape[3])


def test_a_trace_that_is_right_at_one_size_only_is_refused(tmp_path):
    told = facts(s.Config(), "random numbers", (32, 32))
    with pytest.raises(ValueError, match=r"images of \[32, 32\] pixels alone.*; export to onnx or pt2"):
        export.export(Means(), told, "torchscript", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export.export(Means(), told, "pt2", tmp_path / "out")
    f = torch.export.load(tmp_path / "out" / "encoder.pt2").module()
    assert off(f, Means(), SHAPES[:2]) < 1e-6
    with pytest.raises(AssertionError, match="Guard failed"):
        f(random(1, 3, 64, 32))
    assert "height x width 32 x 32 alone" in (tmp_path / "out" / "README.md").read_text()


def swapped(right):
    def names(tensors, blocks):
        new = right(tensors, blocks)
        new["layer1.0.conv1.weight"], new["layer1.0.conv2.weight"] = (
            new["layer1.0.conv2.weight"], new["layer1.0.conv1.weight"])  # fmt: skip
        return new

    return names


def test_weights_in_the_wrong_place_are_noticed_and_nothing_is_written(tmp_path, monkeypatch):
    encoder, told = made(backbone="resnet18")
    monkeypatch.setattr(export, "their_names", swapped(export.their_names))
    with pytest.raises(ValueError, match="What torchvision reads gives other features, by .*; nothing was written"):
        export.export(encoder, told, "torchvision", tmp_path / "out")
    assert not (tmp_path / "out").exists()


NOT_THEIRS = {
    "backbone = 'airbench'": {"backbone": "airbench"},
    "backbone = 'narrow'": {"backbone": "narrow"},
    "width = 128": {"width": 128},
    "stem_stride = 2": {"stem_stride": 2},
    "padding = 'same'": {"padding": "same"},
    "sk = True": {"backbone": "resnet50", "sk": True},
}


@pytest.mark.parametrize("to", ["torchvision", "timm"])
@pytest.mark.parametrize("words", NOT_THEIRS)
def test_what_a_target_cannot_express_gets_one_sentence(words, to):
    with pytest.raises(ValueError) as error:
        export.named(facts(s.Config().replace(**NOT_THEIRS[words]), "")["architecture"], to)
    text = str(error.value)
    assert text.startswith(f"{words} cannot be exported: ") and to in text and "\n" not in text
    assert text.endswith("; choose one of safetensors, onnx, torchscript, pt2.")


def test_the_imagenet_stem_has_its_own_stride():
    assert export.named(facts(s.Config(stem="imagenet", stem_stride=2), "")["architecture"], "timm") == ("resnet18", "")


def test_a_missing_package_gets_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(export.PACKAGES, "onnx", ["onnx_of_another_world"])
    with pytest.raises(ValueError, match=r"--to onnx needs onnx_of_another_world; pip install 'semppl-mini\[doors\]'"):
        export.export(Means(), facts(s.Config(), ""), "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text, words", [
    ("[]", "what it holds = [] is a list; give dict"),
    ("{", "is no JSON file of a run"),
    ("\xff", "is no JSON file of a run"),
    (10**5 * "[", "is no JSON file of a run"),
    (10**5 * "9", "is no JSON file of a run"),
    ('{"size": "32"}', "size = '32' is a str; give list"),
    ('{"size": [32]}', "size = [32] is no height and width from 8 to 1024"),
    ('{"size": [32, 1e9]}', "is no height and width"),
    ('{"size": [4, 4]}', "is no height and width"),
    ('{"size": [32, 9999999]}', "is no height and width"),
    ('{"classes": [1]}', "classes have 1 among them, which is no name"),
    ('{"versions": []}', "versions = [] is a list; give dict"),
])  # fmt: skip
def test_hostile_run_json_gets_one_sentence(text, words, small, tmp_path, capsys):
    run = copied(small, tmp_path / "run")
    (run / "run.json").write_bytes(text.encode("latin1"))
    with pytest.raises(SystemExit) as end:
        command(lambda: exported(run, "torchscript", tmp_path / "out"), "scale/export.py")
    assert words in end.value.code and "run.json" in end.value.code and "\n" not in end.value.code
    assert not (tmp_path / "out").exists()


def copied(run, folder):
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


# ---- the card


def test_the_card_tells_data_command_seed_figures_and_licence(small, tmp_path):
    run, results, line = s.load_run(small), tmp_path / "small.json", "python scale/train.py digits --name small"
    figures = {"command": line, "results": {"linear": 0.125}}
    write_json(results, {"config": run.config.to_dict(), "data": run.data, **figures})
    out = exported(small, "torchscript", tmp_path / "out", "--results", results, "--licence", "CC BY | 4.0")
    card = (out / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([\w ]+) \| (.*) \|$", card, re.MULTILINE))
    assert card.startswith("# small\n") and rows["data"] == "a slice of the digits" and rows["command"] == line
    assert rows["seed"] == "0" and rows["epochs"] == "1 of 1" and rows["classes"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert "linear 0.125" in rows["figures"] and f"loss {run.history[-1]['loss']:.4g}" in rows["figures"]
    assert rows["licence"] == r"CC BY \| 4.0" and torch.__version__ in rows["made with"]
    assert json.loads((out / "run.json").read_text())["licence"] == "CC BY | 4.0"


def test_figures_of_another_run_are_refused(small, tmp_path):
    run, results = s.load_run(small), tmp_path / "other.json"
    for changed, name in (({"config": run.config.replace(seed=1).to_dict()}, "seed"), ({"data": "photographs"}, "data"),
                          ({"config": {}}, "config")):  # fmt: skip
        write_json(results, {"config": run.config.to_dict(), "data": run.data, "results": {}, **changed})
        with pytest.raises(ValueError, match=f"other.json is of another run than .*: {name} differs; give its own"):
            exported(small, "torchscript", tmp_path / "out", "--results", results)
    with pytest.raises(ValueError, match="There is no file .*none.json"):
        exported(small, "torchscript", tmp_path / "out", "--results", tmp_path / "none.json")
    assert not (tmp_path / "out").exists()


def test_the_command_of_a_run_without_results_trains_it(small):
    """The call that the card gives has the run's config."""
    config = s.load_run(small).config
    (call,) = re.findall(r"`s\.fit\((.*), data\)`", export.recipe(config))
    assert eval(call).replace(device="cpu", precision="fp32") == config
    assert export.recipe(s.presets.cifar10_cpu()) == "`s.fit(s.presets.cifar10_cpu(), data)`"
    named = export.recipe(s.presets.cifar10_cpu().replace(labels=200, device="cpu"))
    assert named == "`s.fit(s.presets.cifar10_cpu().replace(labels=200), data)`"


def test_a_run_of_before_and_one_checkpoint_of_it_can_be_exported(small, tmp_path):
    run = copied(small, tmp_path / "run")
    (run / "run.json").unlink()
    (first, *_) = sorted(run.glob("checkpoint-*.pt"))
    out = exported(first, "torchscript", tmp_path / "out")
    assert "| classes | unknown |" in (out / "README.md").read_text()
    f = torch.jit.load(out / "encoder.torchscript.pt")
    assert off(f, of(first)) < 1e-5 < off(f, of(small))


def test_what_was_converted_says_from_what(small, tmp_path):
    run = copied(small, tmp_path / "run")
    write_json(run / "run.json", {"converted_from": {"file": "other.pkl", "sha256": "0123"}})
    card = (exported(run, "torchscript", tmp_path / "out") / "README.md").read_text()
    assert "\nAn encoder converted from other.pkl by semppl-mini, as torchscript reads it.\n" in card
