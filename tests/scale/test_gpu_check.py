"""scale/gpu_check.py whole, on what there is; what it makes of warnings and events of CUDA; a part that fails."""

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from core_checks import tiny, tiny_data

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scale"))

import gpu_check  # noqa: E402
import gpu_step  # noqa: E402

from semppl_mini import monitor  # noqa: E402
from semppl_mini.files import checkpoint  # noqa: E402

TESTS = """
import pytest
def test_right(): pass
def test_wrong(): assert 1 == 2, "as planned"
@pytest.mark.skip(reason="no time")
def test_left_out(): pass
"""


def test_the_tiny_check_is_whole(tmp_path, monkeypatch):
    """Every part ends without an error; what only a GPU can say, a CPU does not claim."""
    (tmp_path / "test_three.py").write_text(TESTS)
    monkeypatch.setattr(gpu_check, "TESTS", {"device": [str(tmp_path / "test_three.py"), f"--rootdir={tmp_path}"]})
    out, encoder = tmp_path / "found.json", tmp_path / "encoder.pt"
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--tiny", "--out", str(out), "--encoder", str(encoder),
                                      "--changes", "lr=0.5"])  # fmt: skip
    gpu_check.main()
    found = json.loads(out.read_text())
    parts = [f"{part} {preset}" for preset in gpu_check.PRESETS for part in ("parity", "waits", "speed")]
    assert list(found) == ["where", "command", *parts, "tests", "train"]
    assert not [name for name in ("tests", *parts, "train") if "error" in found[name]], found
    three = found["tests"]["device"]
    assert three["tests"] == 3 and three["skipped"] == 1 and three["skipped for"] == ["no time"]
    assert [message.split("\n")[0] for message in three["failed"].values()] == ["AssertionError: as planned"]
    said = [found["parity cifar10"]["fp64"], found["waits cifar10"]["kernels"]]
    assert said == 2 * ["needs a GPU"] or gpu_step.GPU
    assert all(ms > 0 for ms in found["speed cifar10"]["cudnn benchmark=True"]["ms"].values())
    train = found["train"]
    assert train["config"]["lr"] == 0.5 and len(train["history"]) == train["config"]["epochs"] + 1
    assert {"fine_tuned", "linear"} <= set(train["test"]) and "knn20_all" in train["test, all labels"]
    assert set(train["supervised"]) == {"val", "test"} and "semppl" not in train
    assert checkpoint.load(encoder)["stem.0.weight"].dtype == torch.float16


def test_host_waits_are_counted_a_step_and_name_the_packages_line(monkeypatch):
    """A warning as CUDA's, three times a step, raised by what `SemPPL.count` calls."""
    right = monitor.count

    def slow(*given):
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        return right(*given)

    warnings.simplefilter("ignore")  # outside of the steps that are looked at

    monkeypatch.setattr(monitor, "count", slow)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    lines = gpu_step.Steps()
    data = gpu_step.few(tiny_data(), 44)
    gpu_step.watch(tiny(epochs=3, labels=None, batch_size=8), data, gpu_step.host_waits(lines))
    ((line, count),) = lines.each().items()
    assert count == 3
    name, number = line.split(":")
    assert name == "semppl_mini/semppl.py"
    assert "monitor.count(" in (ROOT / name).read_text().split("\n")[int(number) - 1]


def test_kernels_are_told_from_copies_and_calls():
    def event(name, device, us):
        return SimpleNamespace(name=name, device_type=SimpleNamespace(name=device),
                               time_range=SimpleNamespace(elapsed_us=lambda: us))  # fmt: skip

    events = [event("gemm", "CUDA", 2000)] * 8 + [event("Memcpy HtoD", "CUDA", 1000)] * 4
    found = gpu_step.kernels_in([*events, *[event("cudaLaunchKernel", "CPU", 5)] * 8, event("aten::mm", "CPU", 9)])
    assert found["launched"] == 2 and found["copies"] == 1 and found["GPU ms"] == 5
    assert found["longest"]["gemm"] == {"ms": 4, "launched": 2} and found["calls"] == {"cudaLaunchKernel": 2}


def test_relative_differences_name_the_worst():
    one = {"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0])}
    found = gpu_check.difference(one, {"a": torch.tensor([1.0, 4.4]), "b": torch.tensor([1.0])})
    assert found["of"] == "b" and found["largest"] == 0.5 and found["median"] == pytest.approx(0.3)


def test_a_part_that_fails_is_told_and_the_others_go_on():
    def broken(found):
        found["so far"] = 1
        raise RuntimeError("CUDA error: as planned")

    result, kept = {}, []
    for name, part in (("one", broken), ("two", lambda found: found.update(fine=True))):
        gpu_check.attempt(result, name, lambda: kept.append(dict(result)), part)
    assert result["one"]["error"] == "RuntimeError: CUDA error: as planned" and result["one"]["so far"] == 1
    assert result["two"]["fine"] and [list(each) for each in kept] == [["one"], ["one", "two"]]


@pytest.mark.parametrize("line, words", [
    (["--tiny", "--data", "nowhere"], "There is no data pack .*nowhere.npz"),
    (["--tiny", "--changes", "lr"], "'lr' is not of the form field=value"),
    (["--tiny", "--changes", "rate=1"], "Config has no field 'rate'"),
])  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_starts(line, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *line, "--out", str(tmp_path / "found.json")])
    with pytest.raises(ValueError, match=words):
        gpu_check.main()
    assert not (tmp_path / "found.json").exists()
