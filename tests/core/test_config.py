"""Config and presets: bad values and unknown names stop with one sentence; everything survives JSON."""

import dataclasses
import json

import pytest
from core_checks import tiny, tiny_data

from semppl_mini import Config, fit, presets
from semppl_mini.parallel.device import device_of

PRESETS = ("digits", "cifar10", "cifar10_cpu", "cifar100")


def test_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="no field 'temperature'; the nearest is 'tau'"):  # the paper's name
        Config().replace(temperature=0.1)
    with pytest.raises(ValueError, match="no field 'batchsize'; the nearest is 'batch_size'"):
        Config().replace(batchsize=3)
    with pytest.raises(ValueError, match="no field 'taux'.*'tau'"):
        Config.from_dict({"taux": 0.1})


def test_an_unknown_device_stops_with_one_sentence():
    with pytest.raises(ValueError, match="device = 'gpu' is unknown to torch; give auto, cpu, cuda or mps"):
        device_of(Config(device="gpu"))


def test_whole_numbers_may_stand_where_fractions_may():
    assert Config(tau=1, labels=1, labelled_share=1).tau == 1


def test_presets_by_name():
    assert all(presets.named(preset) == getattr(presets, preset)() for preset in PRESETS)
    with pytest.raises(ValueError, match="no preset 'cifar'; choose one of digits, cifar10_cpu, "):
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


def test_a_field_of_another_method_is_not_held_to_its_limits():
    few = {"batch_size": 8, "negatives": 10, "queue": 4, "k": 5, "prototypes": 4, "block": 8}
    Config(**few, method="ifnd"), Config(**few | {"block": 2}, method="carp")
    with pytest.raises(ValueError, match="block = 8 must lie between 2 and prototypes = 4"):
        fit(tiny(**few, method="carp"), tiny_data())
    with pytest.raises(ValueError, match="negatives = 10 must lie between 1 and batch_size - 1 = 7"):
        fit(tiny(**few), tiny_data())


def test_small_views_may_be_as_large_as_large_ones():
    assert Config(large_size=96).small_size == 96
    with pytest.raises(ValueError, match="small_size = 96 exceeds large_size = 95"):
        Config(large_size=95)


def test_a_share_is_rounded_to_images():
    assert Config(batch_size=8, labelled_share=0.08).labelled_share == 0.08  # 0.64 of an image
    with pytest.raises(ValueError, match="labelled_share = 0.05 of batch_size = 8 is less than one image"):
        Config(batch_size=8, labelled_share=0.05)
