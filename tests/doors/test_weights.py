"""What a run may start from beside another run: encoders of torchvision, of timm, and files of them."""

import sys
from collections import OrderedDict

import pytest
import torch
import torchvision
from core_checks import random, tiny, tiny_data
from torch import nn

from semppl_mini import SemPPL, fit
from semppl_mini.files import checkpoint
from semppl_mini.keeping import start_from
from semppl_mini.recipes.resnets import by_our_names
from semppl_mini.relatives.classifier import LinearEvaluation

CONFIG = tiny(backbone="resnet18", width=64, stem="imagenet")


def moved(model):
    """With other norms than a new one's."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(3)
    return moved(torchvision.models.resnet18())


def features(model, x):
    """Of a torchvision or timm ResNet: what goes into its classifier."""
    seen = []
    hook = model.fc.register_forward_hook(lambda layer, inputs, out: seen.append(inputs[0]))
    model(x)
    hook.remove()
    return seen[0]


def assert_starts_from(weights, model, config=CONFIG):
    method, x = SemPPL(config, 10), random(2, 3, 40, 33)
    assert len(start_from(weights, method)) == 64
    method.eval()
    with torch.no_grad():
        for network in (method.online, method.target):
            assert torch.equal(network["encoder"](x), features(model, x))


@pytest.mark.parametrize("how", ["module", "tensors", "zip.pth", "parameters.pt", "without counts.pt", "x.safetensors"])
def test_a_run_starts_from_torchvisions_resnet18(how, theirs, tmp_path):
    tensors, weights = theirs.state_dict(), tmp_path / how
    if how == "x.safetensors":
        pytest.importorskip("safetensors.torch", reason="this is for `make test-doors`").save_file(tensors, weights)
    elif how == "parameters.pt":  # as in older files
        torch.save(OrderedDict((n, nn.Parameter(x)) if x.is_floating_point() else (n, x) for n, x in tensors.items()), weights)
    elif how == "without counts.pt":
        torch.save({name: x for name, x in tensors.items() if not name.endswith("num_batches_tracked")}, weights)
    elif how == "zip.pth":
        torch.save(tensors, weights)
    assert_starts_from({"module": theirs, "tensors": tensors}.get(how, weights), theirs)


def test_a_run_starts_from_torchvisions_resnet50():
    torch.manual_seed(4)
    model = moved(torchvision.models.resnet50())
    assert_starts_from(model.state_dict(), model, CONFIG.replace(backbone="resnet50"))


def test_a_run_starts_from_timms_resnet18():
    timm = pytest.importorskip("timm", reason="this is for `make test-doors`")
    torch.manual_seed(5)
    model = moved(timm.create_model("resnet18"))
    assert_starts_from(model, model)


def test_stages_are_counted_through_all_layers():
    """An order of its own, ten blocks and more in a layer, and names that are not a ResNet's."""
    names = [f"layer{layer}.{block}.conv1.weight" for layer in (2, 1) for block in (10, 2, 0, 1, *range(3, 10))]
    ours = by_our_names(dict.fromkeys([*names, "conv1.weight", "fc.bias", "layer.x", "head.weight"]))
    assert ours["stages.21.conv1.weight"] is None and set(ours) == {
        "stem.0.weight", "layer.x", "head.weight", *(f"stages.{i}.conv1.weight" for i in range(22))}  # fmt: skip


def test_our_encoder_file_is_a_start(tmp_path):
    run = fit(tiny(), tiny_data(), tmp_path, progress=False)
    again = fit(tiny(seed=1), tiny_data(), tmp_path / "again", progress=False, weights=tmp_path / "encoder.pt", steps=1)
    fit(tiny(seed=1), tiny_data(), tmp_path / "again", progress=False, weights=tmp_path / "encoder.pt")  # it goes on
    method = LinearEvaluation(tiny(method="linear"), 10)
    assert start_from(tmp_path / "encoder.pt", method) == start_from(run.method.encoder, method)
    assert all(map(torch.equal, method.encoder.parameters(), run.method.encoder.parameters()))
    assert again.history


def test_a_classifiers_run_gives_its_encoder_alone(tmp_path):
    run = fit(tiny(method="linear"), tiny_data(), tmp_path, progress=False)
    method = SemPPL(tiny(seed=4), 10)
    start_from(tmp_path, method)
    for network in (method.online, method.target):
        assert all(map(torch.equal, network["encoder"].parameters(), run.method.encoder.parameters()))


# ---- what is refused

def test_weights_that_are_not_finite_are_refused_before_the_first_step(theirs, tmp_path):
    tensors = dict(theirs.state_dict())
    tensors["layer2.0.bn1.running_var"] = tensors["layer2.0.bn1.running_var"].clone().index_fill_(0, torch.tensor(3), torch.inf)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth is of no use: online.encoder.stages.2.bn1.running_var has numbers that"):
        start_from(tmp_path / "x.pth", SemPPL(CONFIG, 10))


def without(tensors, name):
    return {other: x for other, x in tensors.items() if other != name}


REFUSED = {
    "a layer is missing": (lambda t: without(t, "layer2.1.conv2.weight"), "stages.3.conv2.weight has shape none there and"),
    "a block is missing": (lambda t: {n: x for n, x in t.items() if "layer2.1" not in n}, "stages.3.conv1.weight has shape (256,"),
    "a layer more": (lambda t: t | {"layer2.1.conv3.weight": t["conv1.weight"]}, "stages.3.conv3.weight has shape (64, 3, 7, 7)"),
    "another shape": (lambda t: t | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, "stem.0.weight has shape (64, 3, 3, 3) there"),
    "another name": (lambda t: t | {"head.weight": torch.zeros(3)}, "head.weight has shape (3,) there and none here"),
    "more than tensors": (lambda t: {"state_dict": t, "epoch": 3}, "holds more than tensors ('state_dict'); give"),
    "a name that is no text": (lambda t: {7: t["conv1.weight"]}, "holds more than tensors (7); give an encoder's state_dict"),
    "nothing": (lambda t: {}, "does not fit: online.encoder.stem.0.weight has shape none there and (64,"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_weights_that_are_no_resnet_of_the_config_are_refused(name, theirs, tmp_path):
    change, says = REFUSED[name]
    given = change(theirs.state_dict())
    torch.save(given, tmp_path / "x.pt")
    for weights, called in ((given, "The encoder"), (tmp_path / "x.pt", str(tmp_path / "x.pt"))):
        with pytest.raises(ValueError) as error:
            start_from(weights, SemPPL(CONFIG, 10))
        said = str(error.value)
        assert said.startswith(called) and says in said and said.endswith(".") and len(said) < 400 + len(called)


def test_hostile_files_of_weights_are_refused(tmp_path, theirs):
    class Code:
        def __reduce__(self):
            return open, (str(tmp_path / "it ran"), "w")

    method, few = SemPPL(CONFIG, 10), {"conv1.weight": torch.zeros(2)}
    torch.save({**few, "x": Code()}, tmp_path / "code.pth")
    torch.save(few, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({**few, "config": {}}, tmp_path / "half a run.pth")
    checkpoint.save(tmp_path / "flipped.pt", few)
    blob = bytearray((tmp_path / "flipped.pt").read_bytes())
    blob[500] ^= 1
    (tmp_path / "flipped.pt").write_bytes(blob)
    give = "give a run, or what torch.save makes of a state_dict."
    for name, says in {
        "code.pth": f"is no whole checkpoint (it holds more than plain tensors); {give}",
        "old.pth": f"is no whole checkpoint (BadZipFile on reading it); {give}",
        "flipped.pt": f"is no whole checkpoint (its checksum is missing or wrong); {give}",
        "list.pth": "holds more than tensors ('list'); give an encoder's state_dict alone.",
        "half a run.pth": "is no checkpoint of a run (without data); give one that fit() wrote.",
    }.items():
        with pytest.raises(ValueError) as error:
            start_from(tmp_path / name, method)
        assert str(error.value).endswith(says)
    assert not (tmp_path / "it ran").exists()


def test_hostile_safetensors_are_refused(tmp_path, monkeypatch):
    method, path, said = SemPPL(CONFIG, 10), tmp_path / "x.safetensors", set()
    for blob in (b"", b"text", (2**60).to_bytes(8, "little"), (2).to_bytes(8, "little") + b"{", b"not installed"):
        if blob == b"not installed":
            monkeypatch.setitem(sys.modules, "safetensors.torch", None)
        path.write_bytes(blob)
        with pytest.raises(ValueError) as error:
            start_from(path, method)
        assert str(error.value).startswith(f"{path} cannot be read (")
        assert str(error.value).endswith("); pip install safetensors, or fetch it again.")
        said.add(str(error.value).split(": ")[0].split("(")[1])
    assert "ModuleNotFoundError" in said
