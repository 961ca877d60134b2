"""A run that was stopped anywhere ends with the bits of one that was not; what differs, or is damaged, is refused."""

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from core_checks import differing, tiny, tiny_data, weights, with_train
from processes import gone, running
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves
from torture import ended, unequal, untimed

from semppl_mini import Interrupted, SemPPL, evaluate, fit, load_run, losses, monitor, optim, supervised, train
from semppl_mini.batches import Batches
from semppl_mini.files import checkpoint
from semppl_mini.keeping import keeper
from semppl_mini.keeping.keeper import Keeper, Pace
from semppl_mini.parallel import ahead
from semppl_mini.parallel import step as parallel_step

ROOT = Path(__file__).resolve().parents[2]


class Stop(Exception):
    pass


def run_of(config, folder=None, data=None, **more):
    return fit(config, data or tiny_data(), folder, progress=False, **more)


def stop_at(step, monkeypatch):
    """Trainings stop in this step, after the weights have moved, before it is noted: as if the machine went down."""
    right = Keeper.record

    def stopping(self, *given):
        if self.run.history and self.done == step:
            raise Stop
        return right(self, *given)

    monkeypatch.setattr(Keeper, "record", stopping)


def stopped(config, folder, step, monkeypatch, **more):
    stop_at(step, monkeypatch)
    with pytest.raises(Stop):
        run_of(config, folder, **more)
    monkeypatch.undo()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One finished run of eight steps in its folder, which no test changes."""
    return run_of(tiny(labelled_share=0.25), tmp_path_factory.mktemp("run"), save_every=3)


def copy_of(run, tmp_path):
    """Its folder once more, to be damaged."""
    for path in run.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# ---- to the bit


@pytest.mark.parametrize("save_every", [1, 3, None])
@pytest.mark.parametrize("step, changes", [
    (0, {}),
    (3, {"optimizer": "sgd"}),
    (6, {}),
    (7, {"optimizer": "adamw", "lr": 0.01, "gamma_schedule": "cosine", "labelled_share": None}),
])  # fmt: skip
def test_resume_equals_the_uninterrupted_run_bit_for_bit(step, changes, save_every, tmp_path, monkeypatch):
    """Weights, queues, optimizer, history and log, wherever it stopped and however often it was saved."""
    config = tiny(**{"labelled_share": 0.25, **changes})
    stopped(config, tmp_path / "stopped", step, monkeypatch, save_every=save_every)
    run_of(config, tmp_path / "stopped", save_every=save_every)
    run_of(config, tmp_path / "whole")
    assert unequal(ended(tmp_path / "stopped"), ended(tmp_path / "whole")) == []


def test_resume_runs_again_only_what_was_not_saved(tmp_path, monkeypatch):
    config, seen, right = tiny(labelled_share=0.25), [], Keeper.record
    stopped(config, tmp_path, 6, monkeypatch, save_every=2)
    monkeypatch.setattr(Keeper, "record", lambda self, *given: seen.append(self.done) or right(self, *given))
    run_of(config, tmp_path)
    assert seen == [6, 7]


def test_resume_without_the_partial_epoch_is_noticed(tmp_path, monkeypatch, run):
    """A planted bug: the records of the half epoch are forgotten, so its steps run twice."""
    stopped(run.config, tmp_path, 7, monkeypatch, save_every=3)
    right = Keeper._restore
    monkeypatch.setattr(Keeper, "_restore", lambda self, *a: right(self, *a) or setattr(self.run, "unfinished", []))
    run_of(run.config, tmp_path)
    assert unequal(ended(tmp_path), ended(run.folder))


@pytest.mark.parametrize("forgotten", ["queue.all_keys", "queue.pointer", "target.encoder.stem.0.weight"])
def test_resume_without_a_part_of_the_method_is_noticed(forgotten, tmp_path, monkeypatch, run):
    """Planted bugs: the peers' lost queues and targets."""
    stopped(run.config, tmp_path, 7, monkeypatch, save_every=5)
    path, state = checkpoint.newest(tmp_path)
    state["method"][forgotten] = torch.zeros_like(state["method"][forgotten])
    checkpoint.save(path, state)
    run_of(run.config, tmp_path)
    assert unequal(ended(tmp_path), ended(run.folder))


@pytest.mark.parametrize("at", [5, 7])  # within the last epoch, and in its last step, before its record is made
def test_resume_without_a_folder_goes_on_from_the_run(at, run, monkeypatch):
    """As after a notebook's stop button."""
    def ask(self, *given, right=Keeper.record):
        if self.run.history and self.done == at:
            os.kill(os.getpid(), 2)
        return right(self, *given)

    monkeypatch.setattr(Keeper, "record", ask)
    words = f"Stopped after step {at + 1} of 8: nothing is on disk; fit.* resume=sys.last_value.run"
    with pytest.raises(Interrupted, match=words) as stop:
        run_of(run.config)
    monkeypatch.undo()
    assert len(stop.value.run.history) == 2 and not stop.value.run.finished
    again = run_of(run.config, resume=stop.value.run)
    assert again.finished and not differing(weights(again), weights(run))
    assert untimed(again.history) == untimed(run.history)


def test_resume_of_a_finished_folder_trains_nothing(run, monkeypatch):
    before = (run.folder / "log.jsonl").read_text()
    stop_at(0, monkeypatch)
    again = run_of(run.config, run.folder)
    assert again.history == run.history and not differing(weights(again), weights(run))
    assert (run.folder / "log.jsonl").read_text() == before


def test_two_processes_repeat_a_run_bit_for_bit(tmp_path):
    """The statement of the README: same seed, same machine, same number of threads."""
    code = "import sys; sys.path.insert(0, 'tests/helpers'); import torch, torture; torch.set_num_threads(2); "
    code += "torture.fit(torture.config_of(0), torture.tiny_data(), sys.argv[1], progress=False)"
    for name in ("one", "other"):
        subprocess.run([sys.executable, "-c", code, tmp_path / name], cwd=ROOT, check=True)
    assert unequal(ended(tmp_path / "one"), ended(tmp_path / "other")) == []


# ---- the folder


@pytest.mark.parametrize("keep", [1, 3])
def test_resume_keeps_the_last_checkpoints(keep, tmp_path):
    run_of(tiny(), tmp_path, save_every=1, keep_last=keep)
    kept = sorted(path.name for path in tmp_path.glob("*-0*.pt"))
    assert kept == [f"checkpoint-{step:08d}.pt" for step in range(9 - keep, 9)]


def test_a_checkpoint_holds_plain_types_and_says_where_it_comes_from(run):
    path, state = checkpoint.newest(run.folder)
    plain = torch.load(path, weights_only=True)  # any reader of torch files can
    assert plain.keys() == state.keys() and plain["position"] == {"epoch": 3, "step": 8}
    assert state["config"] == run.config.to_dict() and state["data"] == "a slice of the digits"
    assert state["software"]["torch"] == torch.__version__ and len(state["software"]["git"]) >= 40
    assert "queue.pointer" in state["method"] and state["optimizer"]["state"]


@pytest.mark.parametrize("changes, data, words", [
    ({"tau": 0.5}, {}, r"tau \(0.2 there, 0.5 now\)"),
    ({"tau": 0.5, "k": 3}, {}, r"k \(1 there, 3 now\), tau \(0.2 there, 0.5 now\)"),
    ({}, {"provenance": "another slice"}, r"data \(a slice of the digits there, another slice now\)"),
    ({}, {"classes": list("abcdefghijk")}, r"classes \(10 there, 11 now\)"),
    ({}, {"train": {"images": 1}}, "images"),
    ({}, {"train": {"labels": 1}}, "images"),
    ({}, {"train": {"ids": 1}}, "images"),
])  # fmt: skip
def test_resume_refuses_what_differs_and_names_it(changes, data, words, run):
    change = dict(data)
    for name in change.pop("train", {}):  # the same images, labels or ids in another order
        change["train"] = dataclasses.replace(tiny_data().train, **{name: getattr(tiny_data().train, name).flip(0)})
    with pytest.raises(ValueError, match=f"of a run with other settings: {words}.*; choose another folder") as error:
        run_of(run.config.replace(**changes), run.folder, dataclasses.replace(tiny_data(), **change))
    assert "\n" not in str(error.value)


def test_resume_is_not_hindered_by_hidden_labels(run):
    hidden = with_train(tiny_data(), truth=tiny_data().train.truth.flip(0))
    assert run_of(run.config, run.folder, hidden).history == run.history


def test_resume_says_when_the_bits_may_differ(run, tmp_path, monkeypatch):
    folder, right = copy_of(run, tmp_path), keeper.software()
    monkeypatch.setattr(keeper, "software", lambda: right | {"threads": 99})
    with pytest.warns(UserWarning, match="was made with another threads"):
        run_of(run.config, folder)


def test_a_folder_is_trained_by_one_process_at_a_time(tmp_path):
    refused = []

    def second(run, record):
        with pytest.raises(ValueError, match="is being trained by another process; wait for it, or choose") as error:
            run_of(run.config, run.folder)
        refused.append(error)

    run_of(tiny(epochs=1), tmp_path, callbacks=[second])
    assert len(refused) == 2


def test_an_interrupted_run_closes_its_log_and_frees_its_folder(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(Keeper, "write", lambda self, line: (opened.append(self.log), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        run_of(tiny(epochs=1), tmp_path)
    assert opened[0].file.closed
    monkeypatch.undo()
    assert run_of(tiny(epochs=1), tmp_path).finished  # not locked


def test_resume_with_a_log_that_lost_lines_says_so_and_pads_nothing(run, tmp_path):
    log = copy_of(run, tmp_path) / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(True)[:3]))
    with pytest.warns(UserWarning, match="has lost its last lines"):
        assert run_of(run.config, tmp_path).history == run.history
    assert len(log.read_text().splitlines()) == 3


def test_a_log_without_its_checkpoints_is_not_overwritten(run, tmp_path):
    log = (run.folder / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(log)
    with pytest.raises(ValueError, match="has a log of another run but no checkpoint; choose another folder"):
        run_of(run.config, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == log


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_forked_process_does_not_hold_the_folder(tmp_path):
    """As a worker that outlives a killed training: what is forked while a run trains leaves its lock to that run."""
    forked = []

    def fork(run, record):
        if not forked:
            forked.append(os.fork())
        if not forked[-1]:  # the child sleeps until it is killed, and never returns
            time.sleep(600)
            os._exit(0)

    run_of(tiny(epochs=1), tmp_path, callbacks=[fork])
    try:
        assert run_of(tiny(epochs=1), tmp_path).finished
    finally:
        os.kill(forked[0], signal.SIGKILL)
        os.waitpid(forked[0], 0)


@pytest.mark.parametrize("how", ["removed", "replaced", "cut"])
def test_a_log_that_is_taken_away_stops_the_run(how, tmp_path):
    """At the next save, before it: another process may have begun there. The same call goes on."""
    config, log = tiny(epochs=2, labelled_share=0.25), tmp_path / "log.jsonl"

    def take(run, record):
        if record["epoch"] == 1:
            os.truncate(log, 0) if how == "cut" else log.unlink()
            if how == "replaced":
                log.write_text("not the run's\n")

    with pytest.raises(OSError, match="log.jsonl was removed, replaced or cut while this run wrote it; .*the same"):
        run_of(config, tmp_path, callbacks=[take])
    assert checkpoint.newest(tmp_path)[1]["position"]["step"] == 4
    with pytest.warns(UserWarning, match="has lost its last lines"):
        assert run_of(config, tmp_path).finished


def test_a_log_that_is_no_file_is_refused(tmp_path):
    """A FIFO would be waited for, for ever."""
    (tmp_path / "one" / "log.jsonl").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    os.mkfifo(tmp_path / "two" / "log.jsonl")
    signal.alarm(60)
    try:
        for name in ("one", "two"):
            with pytest.raises(ValueError, match="log.jsonl is a folder, FIFO or device, not a file; move it"):
                run_of(tiny(), tmp_path / name)
    finally:
        signal.alarm(0)


def test_files_of_other_names_are_not_ours(run, tmp_path):
    """Copies of checkpoints, other downloads, folders: neither read, nor renamed, nor removed."""
    folder = copy_of(run, tmp_path)
    first = (folder / "checkpoint-00000006.pt").read_bytes()
    foreign = ["checkpoint-best.pt", "checkpoint-00000002-mine.pt", "checkpoint-9.pt", "checkpoint-000000009.pt",
               ".film.mp4.part", ".checkpoint-00000006.pt.part", "checkpoint-00000009.pt.bak"]  # fmt: skip
    for name in foreign:
        (folder / name).write_bytes(first)
    folders = [".x.part", ".checkpoint-00000007.pt.12.part", "checkpoint-00000099.pt"]
    for name in folders:
        (folder / name).mkdir()
    ours = folder / ".checkpoint-00000007.pt.1234.part"
    ours.write_bytes(b"half a save")
    assert checkpoint.newest(folder)[1]["position"]["step"] == 8
    assert len(load_run(folder).history) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_of(run.config, folder, keep_last=1).history == run.history
    assert all((folder / name).read_bytes() == first for name in foreign)
    assert all((folder / name).is_dir() for name in folders) and not ours.exists()
    assert checkpoint.kept(folder) == [folder / "checkpoint-00000008.pt"]


def test_a_run_json_that_is_not_ours_is_left(tmp_path):
    (tmp_path / "run.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=r"run\.json is there already and of something else; choose another folder\."):
        run_of(tiny(), tmp_path)
    assert (tmp_path / "run.json").read_text() == '{"mine": 1}'


def test_steps_beyond_eight_digits_are_in_order(tmp_path):
    steps = [99_999_999, 100_000_000, 1_000_000_000]
    for step in reversed(steps):
        checkpoint.save(checkpoint.path_of(tmp_path, step), {"step": step})
    assert checkpoint.newest(tmp_path)[1] == {"step": steps[-1]}
    checkpoint.tidy(tmp_path, checkpoint.path_of(tmp_path, steps[-1]), 2)
    assert checkpoint.kept(tmp_path) == [checkpoint.path_of(tmp_path, step) for step in steps[1:]]


@pytest.mark.parametrize("line", [b"my notes", b'{"loss": 1.0}\n'])
def test_a_log_of_something_else_is_not_overwritten(line, tmp_path):
    """A single line that does not begin as ours: not what is left of a run killed in its first save."""
    (tmp_path / "log.jsonl").write_bytes(line)
    with pytest.raises(ValueError, match="has a log of another run but no checkpoint; choose another folder"):
        run_of(tiny(), tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == line and os.listdir(tmp_path) == ["log.jsonl"]


@pytest.mark.parametrize("reader", [lambda path: run_of(tiny(), path), load_run])
def test_a_folder_of_another_format_says_so(reader, run, tmp_path):
    """Before steps stood in their names there was one checkpoint.pt."""
    (tmp_path / "log.jsonl").write_bytes((run.folder / "log.jsonl").read_bytes())
    (tmp_path / "checkpoint.pt").write_bytes((run.folder / "checkpoint-00000008.pt").read_bytes())
    with pytest.raises(ValueError, match=r"no checkpoint \(checkpoint.pt is of another version|"
                                         r"no checkpoint in .* \(checkpoint.pt is of another version"):  # fmt: skip
        reader(tmp_path)


COMPUTING = {
    "microbatches": 2, "recompute": True, "knn_chunk_mb": 8.0, "device": "auto", "precision": "fp64", "compile": True,
    "graph": True,
}  # fmt: skip


@pytest.mark.parametrize("field", COMPUTING)
def test_resume_with_another_way_to_compute_warns_and_goes_on(field, run, tmp_path, monkeypatch):
    """As after memory ran out. What changes no number ends with the bits of a run left alone."""
    stopped(run.config, tmp_path, 5, monkeypatch, save_every=1)
    config = run.config.replace(**{field: COMPUTING[field]})
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)  # it takes a minute
    how = "to" if field == "recompute" else "but perhaps not to"
    how += " the bits of an uninterrupted one"
    words = rf"another {field} \({getattr(run.config, field)} there, {COMPUTING[field]} now\): the run goes on, {how}\."
    with pytest.warns(UserWarning, match=words) as said:
        again = run_of(config, tmp_path)
    assert again.finished and len([w for w in said if "the run goes on" in str(w.message)]) == 1
    assert checkpoint.newest(tmp_path)[1]["config"] == config.to_dict()
    if field in ("recompute", "graph", "device"):  # the latter two mean the same here
        assert not differing(weights(again), weights(run))


def test_resume_for_more_epochs_is_refused_and_names_the_way_out(run, tmp_path):
    config = run.config.replace(epochs=3)
    with pytest.raises(ValueError, match=r"epochs \(2 there, 3 now\); choose another folder") as error:
        run_of(config, run.folder)
    assert f"there weights={str(run.folder)!r} starts a run of its own from these networks." in str(error.value)
    assert run_of(config, tmp_path, weights=run.folder).finished


# ---- damage


def damaged(path, how):
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = bytes([whole[middle] ^ 1])
    contents = {
        "empty": b"", "cut": whole[:middle], "text": b"no checkpoint", "cut by a byte": whole[:-1],
        "longer": whole + b"0", "a bit flipped": whole[:middle] + flipped + whole[middle + 1 :],
        "zeros": bytes(len(whole)),
        "checksum flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
    }  # fmt: skip
    path.write_bytes(contents[how])


DAMAGES = ["empty", "cut", "text", "cut by a byte", "longer", "a bit flipped", "zeros", "checksum flipped"]


@pytest.mark.parametrize("how", DAMAGES)
def test_corrupt_newest_checkpoint_is_named_and_the_one_before_it_used(how, run, tmp_path):
    folder = copy_of(run, tmp_path)
    damaged(folder / "checkpoint-00000008.pt", how)
    with pytest.warns(UserWarning, match="checkpoint-00000008.pt is no whole checkpoint .*The one before it is tried"):
        run_of(run.config, folder)
    assert unequal(ended(folder), ended(run.folder)) == []
    assert (folder / "checkpoint-00000008.damaged").exists()  # set aside; the run has made it anew
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert untimed(load_run(folder).history) == untimed(run.history)


@pytest.mark.parametrize("how", DAMAGES)
def test_corrupt_named_checkpoint_raises(how, run, tmp_path):
    path = copy_of(run, tmp_path) / "checkpoint-00000008.pt"
    damaged(path, how)
    for reader in (load_run, checkpoint.load, lambda path: run_of(run.config, weights=path)):
        with pytest.raises(ValueError, match="checkpoint-00000008.pt is no whole checkpoint") as error:
            reader(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", [load_run, lambda path: run_of(tiny(), path / "other", weights=path)])
def test_corrupt_everything_or_nothing_there_raises(reader, run, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint in .*; give the folder of a run, or train first"):
        reader(tmp_path)
    for path in copy_of(run, tmp_path).glob("checkpoint-*.pt"):
        damaged(path, "cut")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="None of the 2 checkpoints in .* is whole"):
        reader(tmp_path)


def test_corrupt_folder_is_not_trained_over(run, tmp_path):
    for path in copy_of(run, tmp_path).glob("checkpoint-*.pt"):
        damaged(path, "a bit flipped")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="choose another folder"):
        run_of(run.config, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("position", range(0, 1000, 37))
def test_corrupt_in_any_byte_is_noticed(position, run, tmp_path):
    path = tmp_path / "checkpoint.pt"
    whole = bytearray((run.folder / "checkpoint-00000008.pt").read_bytes())
    whole[position * len(whole) // 1000] ^= 1 << position % 8
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.load(path)


def test_a_failed_save_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    checkpoint.save(path, {"x": torch.arange(3)})

    def fail(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"state.pt could not be written \(No space left on device\).*make room"):
        checkpoint.save(path, {"x": torch.arange(4)})
    assert torch.equal(checkpoint.load(path)["x"], torch.arange(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


# ---- checkpoints that are written while training goes on


def slow_save(monkeypatch, until):
    """A checkpoint within an epoch is not written until the run has recorded so many steps, epoch 0 aside."""
    save, record, there, order = checkpoint.save, Keeper.record, threading.Event(), []

    def saved(path, state):
        if state["steps"]:
            order.append("waits")
            assert there.wait(300)
        order.append(path.name)
        save(path, state)

    def recorded(self, *given):
        record(self, *given)
        if self.run.history:
            order.append(self.done)
            if self.done == until:
                there.set()

    monkeypatch.setattr(checkpoint, "save", saved)
    monkeypatch.setattr(Keeper, "record", recorded)
    return order


def test_a_checkpoint_is_of_its_own_step_though_others_pass_while_it_is_written(tmp_path, monkeypatch):
    config = tiny(labelled_share=0.25, optimizer="sgd", lr=0.1)
    run_of(config, tmp_path / "until", steps=2)
    order = slow_save(monkeypatch, until=4)
    run_of(config, tmp_path / "on", steps=4, save_every=2, keep_last=5)
    monkeypatch.undo()
    assert order[order.index("waits") :][:3] == ["waits", 3, 4]  # while it waits to be written
    name = "checkpoint-00000002.pt"
    there, wanted = (checkpoint.load(tmp_path / folder / name) for folder in ("on", "until"))
    assert not differing(there["method"], wanted["method"]) and there["position"] == wanted["position"]
    ours, theirs = (tree_leaves(state["optimizer"]["state"]) for state in (there, wanted))
    assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(ours, theirs, strict=True))
    log = (tmp_path / "on" / "log.jsonl").read_bytes()[: there["log"]]  # of its own step, too
    assert len(there["steps"]) == log.count(b'"step"') == 2 and log.endswith(b"\n")
    part = tmp_path / "part"
    part.mkdir()
    for file in (name, "log.jsonl"):  # and a run that was killed now goes on from it
        (part / file).write_bytes((tmp_path / "on" / file).read_bytes())
    run_of(config, part)
    run_of(config, tmp_path / "until")
    assert unequal(ended(part), ended(tmp_path / "until")) == []


def test_an_error_of_writing_ends_the_training_in_one_sentence(tmp_path, monkeypatch):
    """What was saved before is whole and stays; nothing half-written is left; with room the run goes on."""
    config, save, tried = tiny(labelled_share=0.25), torch.save, []

    def full(state, file):
        if state.get("steps"):  # within an epoch
            tried.append(state["position"]["step"])
            raise OSError(28, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    words = r"checkpoint-00000005.pt could not be written \(No space left on device\); what was saved before is whole"
    with pytest.raises(OSError, match=words):
        run_of(config, tmp_path, save_every=5)
    monkeypatch.undo()
    assert tried == [5] and [path.name for path in checkpoint.kept(tmp_path)] == ["checkpoint-00000000.pt",
                                                                                  "checkpoint-00000004.pt"]  # fmt: skip
    assert not list(tmp_path.glob(".*.part")) and not [t for t in threading.enumerate() if "ThreadPool" in t.name]
    run_of(config, tmp_path, save_every=5)
    run_of(config, tmp_path / "whole")
    assert unequal(ended(tmp_path), ended(tmp_path / "whole")) == []


# ---- start from weights


def test_start_from_weights_takes_the_networks_and_nothing_else(run, tmp_path, monkeypatch):
    stop_at(0, monkeypatch)
    other = tiny(labelled_share=0.25, seed=5, epochs=4, tau=0.1, optimizer="adamw")
    kept = []
    with pytest.raises(Stop):
        now = lambda run, record: kept.append({name: x.clone() for name, x in weights(run).items()})  # noqa: E731
        run_of(other, tmp_path, weights=run.folder, callbacks=[now])
    old, (new,) = weights(run), kept
    same = set(new) - set(differing(old, new))
    assert {name for name in new if not name.startswith("queue.")} <= same
    assert (new["queue.all_labels"] == -1).all() and new["queue.pointer"] == 0
    state = checkpoint.newest(tmp_path)[1]
    assert not state["optimizer"]["state"] and len(state["history"]) == 1
    assert state["position"] == {"epoch": 1, "step": 0}


def test_start_from_weights_and_resume_are_two_verbs(run, tmp_path, monkeypatch):
    """A run that began from weights is resumed by the same call; another folder's run is not mixed into it."""
    config = run.config.replace(seed=5)
    stopped(config, tmp_path / "a", 6, monkeypatch, weights=run.folder)
    run_of(config, tmp_path / "a", weights=run.folder)
    run_of(config, tmp_path / "b", weights=run.folder / "checkpoint-00000008.pt")
    assert unequal(ended(tmp_path / "a"), ended(tmp_path / "b")) == []
    with pytest.raises(ValueError, match=r"weights \(\w{64} there,  now\)"):
        run_of(config, tmp_path / "a")
    with pytest.raises(ValueError, match=r"other settings: .*weights"):
        run_of(run.config, run.folder, weights=tmp_path / "a")


def test_start_from_weights_that_do_not_fit_names_the_first(run):
    words = r"does not fit: online.encoder.stem.0.weight has shape \(8, .* and \(16, .* here"
    with pytest.raises(ValueError, match=words):
        run_of(run.config.replace(width=16), weights=run.folder)


def test_a_checkpoint_with_a_lying_config_is_refused_before_it_is_built(run, tmp_path):
    """Its networks would need terabytes."""
    path, state = checkpoint.newest(run.folder)
    state["config"] |= {"projector_hidden": 2**20, "predictor_hidden": 2**20, "embedding_dim": 2**16}
    checkpoint.save(tmp_path / "lies.pt", state)
    with pytest.raises(ValueError, match="lies.pt does not fit: online.projector.0.weight has shape"):
        load_run(tmp_path / "lies.pt")


@pytest.mark.parametrize("state", [{"x": bytearray(9)}, {"x": torch.ones(2).to_sparse()}, {"x": torch.Size([1])}])
def test_a_checkpoint_of_more_than_plain_tensors_is_refused(state, tmp_path):
    """Its checksum is right; weights_only would build a bytearray of any length."""
    checkpoint.save(tmp_path / "odd.pt", state)
    with pytest.raises(ValueError, match="it holds more than plain tensors"):
        checkpoint.load(tmp_path / "odd.pt")


# ---- numbers that go wrong


@pytest.mark.parametrize("value, said", [(math.nan, "nan"), (math.inf, "inf")])
def test_a_loss_that_is_not_finite_stops_before_the_weights(value, said, tmp_path, monkeypatch):
    steps, right = [], losses.nce

    def wrong(logits, *valid):
        steps.append(1)
        broken = len(steps) == 2 * (4 + 5) + 2  # two a step, four steps in epoch 0: L_sempos of step 5
        return right(logits, *valid) * (value if broken else 1)

    monkeypatch.setattr(losses, "nce", wrong)
    kept = []
    with pytest.raises(FloatingPointError) as error:
        run_of(tiny(labelled_share=0.25), tmp_path, save_every=1, callbacks=[lambda run, record: kept.append(run)])
    words = f"Step 5 (epoch 2): the term L_sempos is {said}; nothing has seen it, look at "
    assert words in str(error.value) and f"{tmp_path}/checkpoint-00000005.pt, try a lower lr" in str(error.value)
    assert not differing(checkpoint.newest(tmp_path)[1]["method"], weights(kept[0]))
    monkeypatch.undo()
    assert run_of(tiny(labelled_share=0.25), tmp_path).finished  # from the checkpoint, without the fault


def test_a_gradient_that_is_not_finite_stops_before_the_weights(monkeypatch):
    """sqrt at 0: the loss is finite, its gradient is not."""
    right = losses.nce
    monkeypatch.setattr(losses, "nce", lambda logits, *valid: right(logits, *valid) + (logits.sum() * 0).abs().sqrt())
    with pytest.raises(FloatingPointError, match=r"Step 0 \(epoch 1\): the gradient of encoder.stem.0.weight is nan"):
        run_of(tiny(labelled_share=0.25))


UNDONE = {
    "lars": {}, "airbench, muon": {"backbone": "airbench", "small_size": 9, "optimizer": "muon", "lr": 0.02},
    "sgd": {"optimizer": "sgd", "lr": 0.1}, "ifnd, queue": {"method": "ifnd", "clusters": (4,), "key_queue": 40},
    "carp, adamw": {"method": "carp", "prototypes": 60, "block": 16, "optimizer": "adamw", "lr": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("step", [0, 3, 5])  # the first, the last of an epoch, and one within the next
@pytest.mark.parametrize("late", [False, True])  # asked before the optimizer's step, or, as on a GPU, at the next
@pytest.mark.parametrize("name", UNDONE)
def test_a_step_with_an_infinite_gradient_has_never_been(name, late, step, tmp_path, monkeypatch):
    """Networks, target, running statistics, queues and optimizer to the bit, and no checkpoint holds it."""
    config, made, kept = tiny(**UNDONE[name]), [], []
    until = tmp_path / "until" if step else tmp_path / "bad"
    run_of(config, until, steps=step) if step else None
    for place in (keeper.parallel, parallel_step) if late else ():
        monkeypatch.setattr(place, "far", lambda device: True)
    monkeypatch.setattr(train, "make_optimizer", lambda *given: made.append(optim.make_optimizer(*given)) or made[0])

    def spoil(run, record):
        kept.append(run)
        if record["epoch"] == 0:
            grads = itertools.count()
            one = next(p for p in run.method.online.parameters() if p.requires_grad)
            one.register_hook(lambda g: torch.full_like(g, math.inf) if next(grads) == step else None)

    words = rf"Step {step} \(epoch .*the gradient of .* is (inf|nan); nothing has seen it"
    with pytest.raises(FloatingPointError, match=words):
        run_of(config, tmp_path / "bad", save_every=1, callbacks=[spoil])
    before, last = (checkpoint.newest(folder)[1] for folder in (until, tmp_path / "bad"))
    assert before["position"]["step"] == last["position"]["step"] == step
    for state in (kept[0].method.state_dict(), last["method"]):
        assert not differing(before["method"], state)
    for state in (made[0].state_dict(), last["optimizer"]):
        ours, theirs = tree_leaves(state["state"]), tree_leaves(before["optimizer"]["state"])
        assert len(ours) == len(theirs) and all(torch.equal(torch.as_tensor(x), torch.as_tensor(y))
                                                for x, y in zip(ours, theirs, strict=True))  # fmt: skip
    logged = [json.loads(line) for line in (tmp_path / "bad" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "step" in line] == [*range(step)]


def test_collapse_is_a_warning_in_the_log(tmp_path, monkeypatch):
    """Embeddings that are all the same, but for a thousandth."""
    right = SemPPL._embed

    def alike(self, x, *networks):
        z = right(self, x, *networks)
        return torch.nn.functional.normalize(z.mean(0, keepdim=True).detach() + 1e-3 * z, dim=1)

    monkeypatch.setattr(SemPPL, "_embed", alike)
    with pytest.warns(UserWarning, match="collapse in epoch 1: embedding_std = .*all images embed alike"):
        run = run_of(tiny(epochs=1, labelled_share=0.25), tmp_path)
    assert run.history[-1]["embedding_std"] < monitor.COLLAPSED
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["warning"][:19] for line in lines if "warning" in line] == ["collapse in epoch 1"]


def test_embedding_std_is_one_on_the_sphere_and_zero_in_a_point():
    o = torch.nn.functional.normalize(torch.randn(3, 4000, 16, generator=torch.Generator().manual_seed(0)), dim=2)
    assert_close(monitor.embedding_std(o), torch.tensor(1.0), atol=0.01, rtol=0)
    assert monitor.embedding_std(o[:, :1].expand(3, 50, 16)) < 1e-6
    by_hand = o[:2].double().numpy().std(1) ** 2
    assert float(monitor.embedding_std(o[:2])) == pytest.approx(float((by_hand.mean() * 16) ** 0.5), rel=1e-5)


RELATIVES = [
    {"method": "ifnd", "clusters": (4, 8), "recluster": 1}, {"method": "ifnd", "clusters": (4,), "key_queue": 40},
    {"method": "carp", "prototypes": 60, "block": 16},
]  # fmt: skip


@pytest.mark.parametrize("changes", RELATIVES, ids=["ifnd", "ifnd with a queue", "carp"])
@pytest.mark.parametrize("step", [2, 5])
def test_resume_of_relatives_ends_with_the_same_bits(changes, step, tmp_path, monkeypatch):
    """Clusters, accepted labels and key queue are state, too."""
    config = tiny(lr=0.1, epochs=3, **changes)
    run_of(config, tmp_path / "whole")
    stopped(config, tmp_path / "broken", step, monkeypatch, save_every=2)
    run_of(config, tmp_path / "broken")
    assert unequal(ended(tmp_path / "broken"), ended(tmp_path / "whole")) == []


@pytest.mark.parametrize("changes", RELATIVES, ids=["ifnd", "ifnd with a queue", "carp"])
def test_a_relative_is_read_back(changes, tmp_path):
    run = run_of(tiny(epochs=1, **changes), tmp_path)
    again = load_run(tmp_path)
    assert not differing(run.method.state_dict(), again.method.state_dict()) and again.config == run.config


# ---- callbacks, workers, read-outs that train ----


def test_a_callback_may_train_from_epoch_zero_on():
    seen = []
    tune = lambda run, _: seen.append(evaluate(run.method.encoder, run.config, tiny_data(), "val", 1))  # noqa: E731
    run_of(tiny(epochs=1), callbacks=[tune])
    assert len(seen) == 2 and all("fine_tuned" in result for result in seen)


def test_an_error_of_a_callback_is_left_as_it_is():
    def fail(run, record):
        raise FloatingPointError("a plot of mine")

    with pytest.raises(FloatingPointError, match="^a plot of mine$"):
        run_of(tiny(epochs=1), callbacks=[fail])


@pytest.mark.parametrize("steps", [None, 3])
def test_no_worker_outlives_its_training(steps):
    assert run_of(tiny(epochs=1), workers=1, steps=steps).unfinished == [] or steps
    assert not multiprocessing.active_children()


BLOCKED = """
import os, sys
from semppl_mini.parallel import ahead

def large(i):
    return bytes(10**7)

if __name__ == "__main__":
    items = ahead(large, 0, 8, workers=2)
    next(items)
    print(*open(f"/proc/self/task/{os.getpid()}/children").read().split(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers through /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    """Though they wait to write into a pipe that nobody reads any more."""
    (tmp_path / "blocked.py").write_text(BLOCKED)
    main = subprocess.Popen([sys.executable, tmp_path / "blocked.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    time.sleep(0.5)  # until they are blocked
    main.kill()
    main.wait()
    try:
        assert len(workers) == 2 and gone(workers, seconds=20)
    finally:
        for pid in filter(running, workers):
            os.kill(pid, signal.SIGKILL)


def test_workers_are_no_more_than_the_steps_and_a_few_a_core(monkeypatch):
    asked = []
    loader = lambda items, **more: asked.append(more["num_workers"]) or map(more["collate_fn"], items)  # noqa: E731
    monkeypatch.setattr(parallel_step, "DataLoader", loader)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # few steps left are nobody's mistake
        assert [list(ahead(abs, 0, last, 12)) for last in (5, 40)] == [list(range(5)), list(range(40))]
    with pytest.warns(UserWarning, match="workers = 1000 are more than 4 for each of 3 cores; 12 are started"):
        list(ahead(abs, 0, 40, 1000))
    assert asked == [4, 12, 12]  # the first item is made here


def test_what_workers_run_can_be_sent_to_a_spawned_process():
    batches = Batches(tiny(), tiny_data().train, SemPPL.draw)
    again = pickle.loads(pickle.dumps(partial(parallel_step._attempt, batches.__getitem__)))
    assert torch.equal(again(3).ids, batches[3].ids) and torch.equal(again(3).pixels[0], batches[3].pixels[0])


def test_a_read_out_that_is_stopped_gives_no_half_trained_classifier(monkeypatch):
    def ask(self, *given, right=Keeper.record):
        if self.run.history and self.done == 2:
            os.kill(os.getpid(), 2)
        return right(self, *given)

    monkeypatch.setattr(Keeper, "record", ask)
    with pytest.raises(KeyboardInterrupt) as error:
        supervised(tiny(), tiny_data(), 9)
    assert not isinstance(error.value, Interrupted)


# ---- what it says of its pace


def test_the_bar_begins_where_the_run_stood(tmp_path, capsys, monkeypatch):
    """Not at 0 of 8 with the time of the untrained measurement, nor with a speed of steps made before."""
    monkeypatch.setattr(keeper, "tqdm", partial(keeper.tqdm, disable=False))  # whatever TQDM_DISABLE says
    fit(tiny(), tiny_data(), tmp_path, steps=5)
    first = capsys.readouterr().err
    fit(tiny(), tiny_data(), tmp_path)
    lines = capsys.readouterr().err.split("\r")
    assert "0/8 [00:00<?" in first and "5/8 [00:00<?" in "".join(lines[:2]) and "0/8" not in "".join(lines)


def steps_of(pace, seconds, left=60_000):
    """What the eight steps say that last so long."""
    said = []
    for _ in range(8):
        time.sleep(seconds)
        said.append(pace.after_step(left))
    assert said[:7] == 7 * [None]
    return said[7]


def test_a_long_training_says_how_long_it_takes():
    pace = partial(Pace, torch.device("cpu"))
    assert re.search(r"^60000 steps of \S+ s are left: about \d+ minutes\.$", steps_of(pace(), 0.02))
    assert steps_of(pace(), 0.02, left=3) is None
    seconds = float(re.search(r"of (\S+) s", steps_of(pace(), 0.02)).group(1))
    assert steps_of(pace(), 0.02, left=int(72 / seconds)) is None  # 1.2 minutes; no "about 1 minutes"


@pytest.mark.parametrize("threads, device, warned", [(2, "cpu", True), (1, "cpu", False), (2, "meta", False)])
def test_threads_that_wait_are_warned_of(threads, device, warned):
    """Steps that sleep, as those of threads on a busy machine, need hardly any processor time."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            steps_of(Pace(torch.device(device)), 0.02)
    finally:
        torch.set_num_threads(before)
    said = [str(w.message) for w in caught]
    assert warned == bool(said) and all("2 threads wait for each other. One thread is" in words for words in said)


@pytest.mark.parametrize("std, told", [(0.04, True), (0.06, False)])
@pytest.mark.filterwarnings("ignore:collapse")
def test_collapse_is_told_below_a_twentieth(std, told, tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "embedding_std", lambda o: torch.tensor(std))
    fit(tiny(epochs=1, labelled_share=0.25), tiny_data(), tmp_path, progress=False)
    assert ("collapse in epoch 1" in (tmp_path / "log.jsonl").read_text()) == told
