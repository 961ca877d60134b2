"""What feeds a step: workers that have room, by the shared memory of this machine."""

import shutil
from collections import namedtuple

import pytest
import torch
from core_checks import tiny, tiny_data

from semppl_mini import fit
from semppl_mini.parallel import step

ITEM = 3 * 1000 * 4  # bytes
Disk = namedtuple("Disk", "total used free")


def item(i):
    return {"x": torch.full((2, 1000), float(i)), "name": "y", "more": [torch.zeros(1000)]}


def machine(monkeypatch, free, total=None):
    """A shared memory of so many bytes."""
    monkeypatch.setattr(step, "SHARED", step.Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(total or free, 0, free))


def test_workers_start_where_their_items_have_room_and_not_where_they_have_none(monkeypatch):
    started, right = [], step.DataLoader
    monkeypatch.setattr(step, "DataLoader", lambda *given, **more: started.append(more) or right(*given, **more))
    need = (2 * 2 + 2) * ITEM  # two ready a worker, one in use and one being placed
    machine(monkeypatch, need)
    assert [float(x["x"][0, 0]) for x in step.ahead(item, 0, 9, 2)] == list(range(9))
    assert started.pop()["prefetch_factor"] == 2
    machine(monkeypatch, need - 1)
    with pytest.raises(ValueError) as error:
        list(step.ahead(item, 0, 9, 2))
    assert not started
    assert str(error.value).startswith(f"workers = 2 keep up to {need:,} bytes in / and {need - 1:,} are free")
    assert "; give fewer workers, or a larger /" in str(error.value)
    assert len(list(step.ahead(item, 0, 9, 1))) == 9  # one worker fewer has room
    assert len(list(step.ahead(item, 0, 9, 0))) == 9  # none needs any


def test_processes_of_a_machine_share_its_memory(monkeypatch):
    """Also when a sibling has filled its part, which does not count twice."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    need = (2 * 2 + 2) * ITEM
    machine(monkeypatch, need, 2 * need)
    step.check_room(item(0), 2)
    machine(monkeypatch, need, 2 * need - 2)
    with pytest.raises(ValueError, match="are free for this process"):
        step.check_room(item(0), 2)


@pytest.mark.skipif(not step.SHARED.is_dir(), reason="has no /dev/shm")
def test_a_run_says_it_before_its_first_step(tmp_path, monkeypatch):
    free = shutil.disk_usage(step.SHARED).free
    monkeypatch.setattr(step, "AHEAD", free // 1000)  # more than there is, of this machine
    with pytest.raises(ValueError, match=r"workers = 1 keep up to [\d,]+ bytes in /dev/shm and [\d,]+ are free"):
        fit(tiny(epochs=1), tiny_data(), tmp_path, progress=False, workers=1)
    assert not list(tmp_path.glob("*.part")) and "step" not in (tmp_path / "log.jsonl").read_text()
