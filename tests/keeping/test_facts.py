"""run.json: what a run's folder says of its encoder, and that nothing of a run hangs on it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from core_checks import tiny, tiny_data
from torch.testing import assert_close

from semppl_mini import fit, load_run, presets
from semppl_mini.keeping.run import facts
from semppl_mini.networks import ENCODERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
CONFIG = tiny(epochs=2)


def train(folder, steps=None, config=CONFIG):
    return fit(config, tiny_data(), folder, progress=False, steps=steps)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("runs") / "one")


def test_it_says_what_the_encoder_is_and_saw(run):
    told = json.loads((run.folder / "run.json").read_text())
    assert told["provenance"] == "a slice of the digits" and told["classes"] == list("0123456789")
    assert (told["mean"], told["std"]) == (list(CONFIG.mean), list(CONFIG.std)) and told["size"] == [32, 32]
    assert (told["method"], told["seed"]) == ("semppl", 0) and told["versions"]["torch"] == torch.__version__
    encoder = ENCODERS[told["architecture"]["backbone"]](presets.digits().replace(**told["architecture"]))
    encoder.load_state_dict(torch.load(run.folder / "encoder.pt", weights_only=True))
    x = tiny_data().test.images.float() / 255
    assert_close(encoder.eval()(x), run.method.encoder.eval()(x))
    run.method.encoder.train()


def test_the_lines_of_the_page_take_the_encoder_by_it(run, tmp_path, monkeypatch):
    shutil.copytree(run.folder, tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    code, *_ = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(code, seen := {})
    kept = torch.load(run.folder / "encoder.pt", weights_only=True)
    assert all(torch.equal(x, kept[name]) for name, x in seen["encoder"].state_dict().items())


def test_images_of_any_size_are_seen_in_that_of_large_crops():
    assert facts(tiny(large_size=24), "files")["size"] == [24, 24]


def test_it_is_there_from_the_first_step_and_no_run_needs_it(run, tmp_path):
    """Lost or spoilt it is written again, and the run goes on to the same bits."""
    train(tmp_path, steps=1)
    whole = (tmp_path / "run.json").read_bytes()
    assert whole == (run.folder / "run.json").read_bytes()
    (tmp_path / "run.json").write_text("{")
    half = tmp_path / ".run.json.1234.part"
    half.write_bytes(b"half a file")
    train(tmp_path, steps=3)
    assert (tmp_path / "run.json").read_bytes() == whole and not half.exists()
    (tmp_path / "run.json").unlink()
    ended, kept = train(tmp_path).method.state_dict(), load_run(run.folder).method.state_dict()
    assert all(torch.equal(ended[name], kept[name]) for name in kept) and (tmp_path / "run.json").read_bytes() == whole


def test_a_finished_run_and_a_refused_one_leave_it_alone(tmp_path):
    train(tmp_path, config=CONFIG.replace(epochs=1))
    (tmp_path / "run.json").write_text("mine now")
    train(tmp_path, config=CONFIG.replace(epochs=1))
    with pytest.raises(ValueError, match="is of a run with other settings: seed"):
        train(tmp_path, config=CONFIG.replace(epochs=1, seed=1))
    assert (tmp_path / "run.json").read_text() == "mine now"
