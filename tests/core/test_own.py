"""Parts of one's own: an encoder, an augmentation, a callback that stops."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from core_checks import differing, random, tiny, tiny_data, weights
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from semppl_mini import Data, ImageSet, SemPPL, StopTraining, evaluate, fit, load_run, own, presets
from semppl_mini.batches import Batches, steps_per_epoch
from semppl_mini.networks import ENCODERS
from semppl_mini.readout import untrained_encoder

DOCS = Path(__file__).resolve().parents[2] / "docs"


def small(seed=0):
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)


crop = v2.Compose([v2.RandomResizedCrop(8, (0.4, 1.0)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4)])


def augment(image, view):
    return crop(image) if view else v2.functional.to_dtype(crop(image), torch.float32, scale=True)


class Made(nn.Module):
    """Means of the channels (B, 3), and what a function makes of them."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        return self.made(x.mean((2, 3)))


# ---- encoders


def test_a_network_of_ones_own_is_trained_kept_and_read_out(tmp_path):
    network = small()
    config = tiny(backbone=own.backbone(network), small_size=8)
    run = fit(config, tiny_data(), tmp_path, progress=False)
    before = dict(network.state_dict())
    after = run.method.encoder.state_dict()
    assert before.keys() == after.keys() and not torch.equal(before["0.weight"], after["0.weight"])
    assert torch.equal(small().state_dict()["0.weight"], before["0.weight"])  # the one that was given stays
    assert torch.equal(untrained_encoder(config, tiny_data()).state_dict()["0.weight"], before["0.weight"])
    loaded = load_run(tmp_path)
    assert not differing(weights(loaded), weights(run)) and run.method.encoder.dim == 8
    assert 0 <= evaluate(loaded.method.encoder, config, tiny_data())["linear"] <= 1


def test_a_run_goes_on_with_the_same_network_only(tmp_path):
    config = tiny(backbone=own.backbone(small()), small_size=8)
    whole = fit(config, tiny_data(), progress=False)
    fit(config, tiny_data(), tmp_path, progress=False, steps=3)
    assert not differing(weights(fit(config, tiny_data(), tmp_path, progress=False)), weights(whole))
    other = config.replace(backbone=own.backbone(small(1)))
    with pytest.raises(ValueError, match=r"backbone \(torch.nn.modules.container.Sequential \w{12} there, .* now\)"):
        fit(other, tiny_data(), tmp_path, progress=False)


def test_load_run_wants_the_network_made_known(tmp_path, monkeypatch):
    config = tiny(backbone=own.backbone(small(3)), small_size=8)
    fit(config, tiny_data(), tmp_path, progress=False, steps=1)
    monkeypatch.delitem(ENCODERS, config.backbone)
    with pytest.raises(ValueError, match="^backbone = 'torch.nn.modules.container.Sequential .* is not known"):
        load_run(tmp_path)
    own.backbone(small(3))
    assert load_run(tmp_path).method.encoder.dim == 8


@pytest.mark.parametrize("network, words", [
    (lambda x: x, "^network = .* is a function; give Module"),
    (nn.Conv2d(3, 8, 3), r"^What the network makes of 2 images is torch.float32 \(2, 8, 30, 30\).*give .* \(2, dim\)"),
    (Made(lambda x: x[:1]), r"is torch.float32 \(1, 3\) on cpu; give torch.float32 \(2, dim\)"),
    (Made(lambda x: x.long()), r"is torch.int64 \(2, 3\)"),
    (Made(lambda x: x[:, :0]), r"is torch.float32 \(2, 0\)"),
    (Made(lambda x: (x, x)), r"is a tuple; give torch.float32 \(2, dim\)"),
    (nn.Conv2d(1, 8, 3), r"^The network takes no images \(2, 3, 32, 32\): .* 1 channels"),
    (nn.Sequential(nn.Flatten(), nn.Linear(48, 8)), r"^The network takes no images.*: .*; give another size="),
    (small().double(), r"^The network takes no images.*: .*; give another size="),
])  # fmt: skip
def test_what_makes_no_features_is_refused(network, words):
    with pytest.raises(ValueError, match=words):
        own.backbone(network)


def test_torchvisions_network_trains():
    network = resnet18(num_classes=4)
    network.fc = nn.Identity()
    config = tiny(backbone=own.backbone(network), batch_size=20)
    run = fit(config, tiny_data(), progress=False, steps=1)
    assert run.method.encoder.dim == 512 and run.unfinished[0]["terms"]["loss"] > 0


# ---- augmentations


def test_an_augmentation_makes_the_views():
    data = own.augmented(tiny_data(), lambda image, view: image[:1, :1, :1].expand(3, 8, 8) + view)
    config = tiny(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batches = Batches(config, data.train, SemPPL.draw)
    views, batch, _ = batches.place(batches[0])
    first = data.train.images[:, 0, 0, 0].float()
    of = {int(i): x for i, x in zip(data.train.ids, first, strict=True)}
    wanted = torch.stack([of[int(i)] for i in batch.ids])
    assert len(views) == config.large_views + config.small_views
    for v, x in enumerate(views):
        assert x.shape == (config.batch_size, 3, 8, 8)
        torch.testing.assert_close(x[:, 0, 0, 0] * 255, (wanted + v) % 256)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_with_an_augmentation_goes_on_to_the_bit(workers, tmp_path):
    data = own.augmented(tiny_data(), augment)
    torch.manual_seed(7)
    whole = fit(tiny(), data, progress=False)
    torch.manual_seed(8)  # what the process draws elsewhere plays no part
    fit(tiny(), data, tmp_path, progress=False, steps=3)
    assert not differing(weights(fit(tiny(), data, tmp_path, progress=False, workers=workers)), weights(whole))
    assert differing(weights(fit(tiny(), tiny_data(), progress=False)), weights(whole))


def test_each_view_image_and_step_draws_anew():
    data = own.augmented(tiny_data(), lambda image, view: torch.rand(3, 8, 8))
    batches = Batches(tiny(), data.train, SemPPL.draw)
    noise = torch.cat([torch.cat(batches[step].pixels) for step in (0, 1)])[:, 0, 0, 0]
    assert len(noise.unique()) == len(noise)


def test_a_run_goes_on_with_the_same_augmentation_only(tmp_path):
    fit(tiny(), own.augmented(tiny_data(), augment), tmp_path, progress=False, steps=3)
    with pytest.raises(ValueError, match=r"images \(\w+ augmented by test_own.augment there, \w+ now\)"):
        fit(tiny(), tiny_data(), tmp_path, progress=False)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="^images goes from -?[0-9.]+ to"):
        fit(tiny(), own.augmented(tiny_data(), lambda image, view: torch.randn(3, 8, 8)), progress=False)
    with pytest.raises(ValueError, match="^augment = 3 is a int; give Callable"):
        own.augmented(tiny_data(), 3)


@pytest.mark.parametrize("made, words", [
    (lambda x: None, r"augment\(image, 0\) is a NoneType; give numbers \(3, S, S\)"),
    (lambda x: x.numpy(), r"augment\(image, 0\) is a ndarray"),
    (lambda x: x[0], r"augment\(image, 0\) is torch.uint8 \(32, 32\) on cpu; give numbers \(3, S, S\)"),
    (lambda x: x[:1], r"augment\(image, 0\) is torch.uint8 \(1, 32, 32\)"),
    (lambda x: x[:, : 4 + int(torch.randint(3, ()))], r"augment\(image, 0\) is .*; give numbers \(3, \d, 32\)"),
])  # fmt: skip
def test_what_an_augmentation_makes_is_checked_image_by_image(made, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        fit(tiny(), own.augmented(tiny_data(), lambda image, view: made(image)), progress=False)


def test_an_augmentation_may_write_into_its_image_and_give_any_fractions():
    """Each view is of the image itself, and float64, as NumPy makes it, trains like float32."""
    def darker(image, view):
        return image.mul_(0).add_(9) if view else image.double() / 255

    def plain(image, view):
        return image * 0 + 9 if view else image.float() / 255

    views = [Batches(tiny(), own.augmented(tiny_data(), f).train, SemPPL.draw) for f in (darker, plain)]
    for a, b in zip(*(batches.place(batches[0])[0] for batches in views), strict=True):
        torch.testing.assert_close(a, b)
    assert fit(tiny(), own.augmented(tiny_data(), darker), progress=False, steps=1).unfinished


def test_an_augmentation_gives_what_the_network_counts_in():
    data = own.augmented(tiny_data(), lambda image, view: crop(image) / 255)
    run = fit(tiny(precision="fp64"), data, progress=False, steps=1)
    assert run.unfinished[0]["terms"]["loss"] > 0 and next(run.method.encoder.parameters()).dtype == torch.float64


def test_images_of_files_are_refused():
    data = tiny_data()
    files = replace(data, train=SimpleNamespace(**{x: getattr(data.train, x) for x in ("ids", "labels", "truth")}))
    with pytest.raises(ValueError, match=r"augmented\(\) needs images in memory, not SimpleNamespace; give those of a"):
        own.augmented(files, augment)


# ---- batch, epochs, labels


def some(n, known, side=16):
    """n random images of three classes, the first `known` of them with a class."""
    images = (random(n, 3, side, side + 4) * torch.tensor([255, 99, 9]).view(3, 1, 1)).byte()
    labels = torch.where(torch.arange(n) < known, torch.arange(n) % 3, -1)
    train = ImageSet(images, labels, torch.arange(n), labels)
    none = train.take(torch.arange(0))
    return Data("some", "random", ["ant", "bee", "cow"], train, none, none)


@pytest.mark.parametrize("n, known, B, labels", [
    (16, 16, 16, 16), (127, 20, 16, 20), (162, 162, 16, 30), (702, 162, 64, 30), (1024, 1000, 128, 30),
    (9000, 5000, 128, 90), (9000, 40, 128, 40),
])  # fmt: skip
def test_a_proposal_goes_by_the_number_of_images(n, known, B, labels):
    data = some(n, known, side=11)
    config = own.sized(presets.cifar10_cpu(), data)
    each, steps = steps_per_epoch(config, n), 400 + n / 12
    assert (config.batch_size, config.labels, config.negatives, config.queue) == (B, labels, B - 1, 10 * B)
    assert each >= 8 or B == 16
    assert steps <= each * config.epochs < steps + each and abs(config.warmup_epochs - config.epochs / 12) < 0.06
    assert config.labelled_share == (None if labels == n else 0.25)


def test_a_proposal_describes_the_images_and_trains():
    data = some(90, 45)
    config = own.sized(tiny(small_size=8), data)
    x = data.train.images.double() / 255
    torch.testing.assert_close(torch.tensor(config.mean).double(), x.mean((0, 2, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.tensor(config.std).double().clamp(min=0.01), x.std((0, 2, 3)).clamp(min=0.01),
                               atol=1e-3, rtol=0)  # fmt: skip
    assert config.large_size == 12 and config.labels == 30
    fewer = torch.where(torch.arange(90) < 30, data.train.labels, -1)
    run = fit(config, replace(data, train=replace(data.train, labels=fewer)), progress=False, steps=1)
    assert run.unfinished[0]["terms"]["loss"] > 0


def test_too_few_images_for_a_proposal_are_refused():
    with pytest.raises(ValueError, match="images to train on = 15 .*; give 16 or more"):
        own.sized(tiny(), some(15, 15))
    data = some(20, 20)
    files = replace(data, train=SimpleNamespace(**{x: getattr(data.train, x) for x in ("ids", "labels", "truth")}))
    with pytest.raises(ValueError, match=r"sized\(\) needs images in memory, not SimpleNamespace; give those"):
        own.sized(tiny(), files)


@pytest.mark.parametrize("B, says", [(64, "1 step an epoch, 2 in all"), (32, "2 steps an epoch, 4 in all"),
                                     (16, "4 steps an epoch, 8 in all")])  # fmt: skip
def test_a_forecast_counts_the_steps(B, says):
    said = own.forecast(tiny(batch_size=B), tiny_data())
    assert re.fullmatch(rf"64 images, {B} a step: {says}, of [\d.e-]+ s here, about [\d.]+ minutes\.", said)


# ---- a callback that stops


@pytest.mark.parametrize("at", [0, 1])
def test_a_callback_stops_a_training_and_the_same_call_goes_on(at, tmp_path):
    def enough(run, record):
        if record["epoch"] == at:
            raise StopTraining

    whole = fit(tiny(), tiny_data(), progress=False)
    run = fit(tiny(), tiny_data(), tmp_path, [enough], progress=False)
    assert len(run.history) == at + 1 and not run.finished and not (tmp_path / "encoder.pt").exists()
    assert not differing(weights(load_run(tmp_path)), weights(run))
    assert not differing(weights(fit(tiny(), tiny_data(), tmp_path, progress=False)), weights(whole))
    run = fit(tiny(), tiny_data(), None, [enough], progress=False)
    assert not differing(weights(fit(tiny(), tiny_data(), progress=False, resume=run)), weights(whole))


def test_a_callback_that_stops_after_the_last_epoch_stops_nothing(tmp_path):
    def enough(run, record):
        if run.finished:
            raise StopTraining

    assert fit(tiny(), tiny_data(), tmp_path, [enough], progress=False).finished
    assert (tmp_path / "encoder.pt").exists()


# ---- the page


def test_the_page_runs(tmp_path, monkeypatch):
    """Its Python, one block after the other, on a smaller training."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(presets, "digits", tiny)
    monkeypatch.setattr("semppl_mini.data_for", lambda config: tiny_data())
    given = {}
    exec("".join(re.findall(r"```python\n(.*?)```", (DOCS / "your_parts.md").read_text(), re.DOTALL)), given)
    assert len(given["run"].history) == 3 and given["run"].method.encoder.dim == 576
    assert (tmp_path / "runs" / "own.csv").read_text().count("\n") == 4


def test_what_an_augmentation_draws_does_not_depend_on_the_images_beside():
    batches = Batches(tiny(), own.augmented(tiny_data(), lambda image, view: torch.rand(3, 8, 8)).train, SemPPL.draw)
    whole = batches[0].pixels
    batches.own = slice(8, 16)  # as of the second of two processes
    assert all(torch.equal(x[8:], mine) for x, mine in zip(whole, batches[0].pixels, strict=True))


def test_a_proposal_looks_at_images_from_first_to_last():
    data = some(2000, 2000, side=11)
    data.train.images[:1000], data.train.images[1000:] = 0, 255  # as sorted
    config = own.sized(presets.cifar10_cpu(), data)
    assert config.mean == pytest.approx([0.5] * 3) and config.std == pytest.approx([0.5] * 3)


def test_a_proposal_has_a_queue_of_a_batch_or_more():
    assert own.sized(tiny(queue=8), some(20, 20)).queue == 16
