"""What feeds a step, and read-outs: workers that have room, processes that each decode their share."""

import os
import shutil
import socket
from collections import namedtuple
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from core_checks import tiny, tiny_data
from processes import by_two
from torch.testing import assert_close

from semppl_mini import ImageSet, evaluate, fit, parallel, supervised
from semppl_mini.method import encode
from semppl_mini.parallel import step
from semppl_mini.readout import classifier_accuracy, untrained_encoder
from semppl_mini.relatives.ifnd import IFND

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


# ---- read-outs by several processes


def read_out(workers=0):
    """Features of 30 images and of 7, keys of all training images, and the read-outs, by all processes there are."""
    config, data = tiny(precision="fp64", lr=0.1), tiny_data()
    run = fit(config, data, progress=False, steps=2)
    encoder, reading = run.method.encoder, {"workers": workers, "together": True}
    seen = [encode(encoder, images, config, 4, **reading) for images in (data.test, data.test.images[:7])]
    method = IFND(config.replace(method="ifnd"), 10, 64).double()
    keys = method.embed(data.train, **reading)
    found = evaluate(encoder, config, data, tune_steps=2, all_labels=True, **reading)
    model = supervised(config, data, 2)
    return seen, keys, found, classifier_accuracy(model, data.test, config, **reading)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_read_out_what_one_does(workers, tmp_path):
    two, one = by_two(partial(read_out, workers), tmp_path), read_out()
    assert len(one[0][1]) == 7 and len(one[1]) == 64  # 7 are no even share
    assert_close(two[:2], one[:2], rtol=1e-5, atol=1e-6)
    assert {"fine_tuned", "knn20", "linear_all", "knn20_all"} < set(one[2])
    assert two[2].pop("split") == one[2].pop("split") == "test"
    assert two[2] == pytest.approx(one[2]) and two[3] == one[3]


def shares_seen():
    """How many images this process and the other one decode."""
    counts, right = [], ImageSet.whole
    ImageSet.whole = lambda self, index, size: counts.append(len(index)) or right(self, index, size)
    config, data = tiny(), tiny_data()
    encoder = untrained_encoder(config, data)
    found = evaluate(encoder, config, data, all_labels=True, together=True)
    ImageSet.whole = right
    assert (found == {}) == (parallel.rank() > 0)  # the others fit nothing
    return parallel.gather(torch.tensor([sum(counts)]))


def test_each_process_decodes_its_share(tmp_path):
    n = 20 + 30 + 64  # labelled, test, training
    assert by_two(shares_seen, tmp_path).tolist() == [n // 2, n // 2] and shares_seen().tolist() == [n]


def test_workers_change_no_feature():
    config, data = tiny(), tiny_data()
    encoder = untrained_encoder(config, data)
    one, other = (encode(encoder, data.test, config, 4, workers) for workers in (0, 2))
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match="workers = -1 is no whole number"):
        encode(encoder, data.test, config, workers=-1)


# ---- waiting


def started(rank, port, out):
    """Two processes as torchrun starts them; how long they would wait for each other, on their hosts and else."""
    for name, value in dict(RANK=rank, WORLD_SIZE=2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port).items():
        os.environ[name] = str(value)
    parallel.start()
    hosts = parallel.world._hosts
    waits = [group._get_backend(torch.device("cpu")).options._timeout for group in (hosts, dist.group.WORLD)]
    (Path(out) / str(rank)).touch()
    parallel.wait()
    assert len(list(Path(out).iterdir())) == 2  # none goes on before the other is here
    assert dist.get_backend(hosts) == "gloo" and waits[0].days >= 7 and waits[1] == parallel.world.PATIENCE
    parallel.stop()


def test_hosts_wait_for_days_and_devices_do_not(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(started, (port, str(tmp_path)), nprocs=2)
    parallel.wait()  # alone: at once


@pytest.mark.skipif(not step.SHARED.is_dir(), reason="elsewhere workers start as Python starts processes")
def test_workers_take_what_cannot_be_sent():
    """Also where Python would start them afresh, as from 3.14 on."""
    usual = mp.get_start_method()
    mp.set_start_method("forkserver", force=True)
    try:
        assert [int(x) for x in step.ahead(lambda i: torch.tensor(i), 0, 4, workers=1)] == [0, 1, 2, 3]
    finally:
        mp.set_start_method(usual, force=True)
