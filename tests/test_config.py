"""Config and presets: bad values and unknown names stop with one sentence; everything survives JSON."""

import dataclasses
import json

import pytest

from semppl_mini import Config, presets
from semppl_mini.device import device_of

PRESETS = ("digits", "cifar10", "cifar10_cpu", "cifar100")


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="no field 'batchsize'; the nearest is 'batch_size'"):
        Config().replace(batchsize=3)
    with pytest.raises(ValueError, match="no field 'taux'.*'tau'"):
        Config.from_dict({"taux": 0.1})


@pytest.mark.parametrize("changes, words", [
    ({"backbone": "resnet19"}, "backbone = 'resnet19' .*resnet18"),
    ({"optimizer": "adam"}, "optimizer = 'adam' .*adamw"),
    ({"labelled_share": 1.5}, r"labelled_share = 1.5 .*\[0, 1\]"),
    ({"gamma": -0.1}, r"gamma = -0.1 .*\[0, 1\]"),
    ({"tau": 0}, "tau = 0 must be more than 0"),
    ({"epochs": 0}, "epochs = 0 must be more than 0"),
    ({"negatives": 8, "batch_size": 8}, "negatives = 8 .*batch_size - 1 = 7"),
    ({"k": 9, "queue": 8}, "k = 9 .*queue = 8"),
    ({"voting_views": 5}, "voting_views = 5 .*large_views = 4"),
    ({"voting_views": 0}, "voting_views = 0 .*large_views = 4"),
    ({"epochs": "8"}, "epochs = '8' is a str; give int"),
    ({"epochs": 8.5}, "epochs = 8.5 is a float; give int"),
    ({"tau": None}, "tau = None is a NoneType; give float"),
    ({"oracle": "no"}, "oracle = 'no' is a str; give bool"),
    ({"labels": True}, "labels = True is a bool"),
    ({"blur_p": 0.5}, "blur_p = 0.5 is a float; give tuple"),
    ({"seed": -1}, "seed = -1 must be 0 or more"),
    ({"semantic_positives": -1}, "semantic_positives = -1 must be 0 or more"),
    ({"stem_stride": 0}, "stem_stride = 0 must be more than 0"),
    ({"width": 4}, "width = 4 is under 8, .*; give 8 or more"),
    ({"blur_p": ()}, r"blur_p = \(\) has 0 entries; give 1 or more"),
    ({"blur_p": (0.1, 7.0)}, r"blur_p = \(0.1, 7.0\) lies outside \[0, 1\]"),
    ({"solarize_p": ("often",)}, "must be of finite numbers, not 'often'"),
    ({"mean": (0.5,)}, r"mean = \(0.5,\) has 1 entries; give 3"),
    ({"mean": (0.5, float("nan"), 0.5)}, "must be of finite numbers, not nan"),
    ({"std": (0.2, 0, 0.2)}, "std = .* must be more than 0"),
    ({"large_scale": (0.4,)}, "large_scale = .* has 1 entries; give 2"),
    ({"large_scale": [0.9, 0.4]}, r"large_scale = \(0.9, 0.4\) is no range; give the smaller number first"),
    ({"small_scale": (0.5, 2)}, r"small_scale = \(0.5, 2\) lies outside \[0, 1\]"),
    ({"ratio": (0, 1)}, r"ratio = \(0, 1\) must be more than 0"),
    ({"blur_sigma": (0.0, 0.0)}, "blur_sigma = .* must be more than 0"),
    ({"brightness": -1.0}, "brightness = -1.0 must be 0 or more"),
    ({"lr": float("inf")}, "lr = inf must be of finite numbers, not inf"),
    ({"labels": -3}, "labels = -3 must be more than 0"),
])  # fmt: skip
def test_bad_values_stop_with_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        Config().replace(**changes)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_an_unknown_device_stops_with_one_sentence():
    with pytest.raises(ValueError, match="device = 'gpu' is unknown to torch; give auto, cpu, cuda or mps"):
        device_of(Config(device="gpu"))


def test_whole_numbers_may_stand_where_fractions_may():
    assert Config(tau=1, labels=1, labelled_share=1).tau == 1


def test_presets_by_name():
    assert all(presets.named(preset) == getattr(presets, preset)() for preset in PRESETS)
    with pytest.raises(ValueError, match="no preset 'cifar'; choose one of digits, cifar10, "):
        presets.named("cifar")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_json(preset):
    config = getattr(presets, preset)()
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_uses_the_oracle(preset):
    assert getattr(presets, preset)().oracle is False


def test_paper_values_are_the_defaults():
    c = Config()
    assert (c.large_views, c.small_views, c.semantic_positives, c.negatives, c.k) == (4, 2, 3, 10, 1)
    assert (c.tau, c.gamma, c.queue, c.batch_size, c.epochs) == (0.2, 0.996, 20 * 4096, 4096, 300)
    assert (c.c, c.alpha, c.lam, c.optimizer) == (0.3, 0.2, 5, "lars")
    assert (c.lr, c.weight_decay, c.warmup_epochs, c.momentum, c.eta) == (0.3, 1e-6, 10, 0.9, 1e-3)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().tau = 1.0
