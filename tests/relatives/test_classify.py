"""Fine-tuning and linear evaluation under `fit`: what is trained, on which images, from which weights."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from core_checks import tiny, tiny_data
from torch.testing import assert_close

from semppl_mini import fit, load_run, relatives
from semppl_mini.method import Batch
from semppl_mini.readout import classifier_accuracy

KINDS = ("finetune", "linear")


def config_of(method, **changes):
    fields = {"large_views": 1, "small_views": 0, "optimizer": "sgd", "lr": 0.1, "warmup_epochs": 0} | changes
    return tiny(method=method, **fields)  # batches of 16 of the 20 labelled images


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a SemPPL run."""
    folder = tmp_path_factory.mktemp("pretrained")
    return fit(tiny(), tiny_data(), folder, progress=False).folder


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_starts_from_a_run_and_trains_what_it_should(kind, pretrained):
    before = load_run(pretrained).method.encoder
    run = fit(config_of(kind, epochs=30), tiny_data(), weights=pretrained, progress=False)
    assert run.finished and same(run.method.encoder, before) == (kind == "linear")
    assert run.method.online["head"].weight.abs().sum() > 0
    assert run.history[-1]["loss"] < run.history[0]["loss"] == pytest.approx(torch.log(torch.tensor(10.0)).item())
    assert 0 <= run.history[-1]["accuracy"] <= 1


def test_classifier_loss_and_accuracy_are_those_of_a_plain_one(pretrained):
    method = relatives.LinearEvaluation(config_of("linear", large_views=2), 10)
    torch.nn.init.normal_(method.online["head"].weight)
    views, labels = [torch.randn(8, 3, 16, 16) for _ in range(2)], torch.arange(8) % 10
    method.train()
    loss, seen = method(views, Batch(labels, torch.arange(8)), ())
    method.eval()
    with torch.no_grad():
        logits = [method.online["head"](method.encoder(x)) for x in views]
    assert_close(loss.detach(), (F.cross_entropy(logits[0], labels) + F.cross_entropy(logits[1], labels)) / 2)
    right, of = method.count(seen, Batch(labels, labels), None)["accuracy"]
    assert (int(right), int(of)) == (sum(int((x.argmax(1) == labels).sum()) for x in logits), 16)


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_sees_labelled_images_alone(kind):
    """Other pixels and classes of the unlabelled images change no weight."""
    data = tiny_data()
    hidden = data.train.labels < 0
    images, truth = data.train.images.clone(), data.train.truth.clone()
    images[hidden], truth[hidden] = 255 - images[hidden], 9 - truth[hidden]
    other = dataclasses.replace(data, train=dataclasses.replace(data.train, images=images, truth=truth))
    one, two = (fit(config_of(kind), d, progress=False).method for d in (data, other))
    assert same(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_classifier_resumes_to_the_bit(kind, pretrained, tmp_path):
    config, more = config_of(kind, epochs=3), {"weights": pretrained, "progress": False}
    whole = fit(config, tiny_data(), **more)
    assert not fit(config, tiny_data(), tmp_path, **more, steps=2).finished
    again = fit(config, tiny_data(), tmp_path, **more)
    assert same(whole.method, again.method)
    seconds = ("seconds", "images_per_second", "data_share")
    both = [[{k: v for k, v in r.items() if k not in seconds} for r in run.history] for run in (whole, again)]
    assert both[0] == both[1]


def test_classifier_accuracy_is_that_of_its_model(pretrained):
    data = tiny_data()
    run = fit(config_of("finetune", epochs=2), data, weights=pretrained, progress=False)
    accuracy = classifier_accuracy(run.method.model, data.test, run.config)
    assert accuracy * 30 == pytest.approx(round(accuracy * 30)) and accuracy > 0


def test_weights_of_another_network_are_refused(pretrained):
    with pytest.raises(ValueError, match="does not fit: online.encoder.*give the config"):
        fit(config_of("linear", width=16), tiny_data(), weights=pretrained, progress=False)


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """scale/train.py on the embedded digits, in this process: arguments -> the JSON it wrote."""
    scale = Path(__file__).resolve().parents[2] / "scale"
    monkeypatch.syspath_prepend(scale)
    launch = importlib.import_module("launch")
    monkeypatch.setenv("SEMPPL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    small = ["width=8", "projector_hidden=16", "predictor_hidden=16", "embedding_dim=8", "large_size=16", "epochs=1"]

    def run(name, *arguments):
        more = ["--name", name, "--out", str(tmp_path), *small, *arguments]
        monkeypatch.setattr(sys, "argv", ["train.py", "digits", *more])
        launch.main("a run", "scale/train.py")
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def test_launcher_trains_measures_and_reads_out_by_a_classifier(launched, tmp_path):
    first = launched("first", "--tune", "0", "--measures", "--split", "val")
    assert first["measures"]["split"] == "val" and 0 < first["measures"]["retrieval"] < 1
    changes = ["large_views=1", "batch_size=20", "negatives=4", "method=finetune", "labelled_share=None"]
    tuned = launched("tuned", "--weights", str(tmp_path / "runs" / "first"), *changes)
    assert set(tuned["results"]) == {"finetune", "val"} and len(tuned["history"]) == 2
    assert tuned["results"]["finetune"] * 1000 == pytest.approx(round(tuned["results"]["finetune"] * 1000))


def test_launcher_trains_supervised_only_and_keeps_the_number_of_labels(launched, tmp_path):
    alone = launched("alone", "--supervised", "3")
    assert set(alone["results"]) == {"supervised", "val"} and alone["config"]["method"] == "finetune"
    assert alone["config"]["labels"] == load_run(tmp_path / "runs" / "alone").config.labels == 100
