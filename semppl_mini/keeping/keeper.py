"""A run between two steps: its log, checkpoints, signals, progress bar, callbacks; for `fit`, two iterators."""

import copy
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only
from tqdm.auto import tqdm

from .. import monitor, parallel
from ..files import checkpoint, write_json
from .log import Log
from .run import COMPUTING, EXACT, Run, class_name, config_in, facts, fitting, software
from .signals import ENOUGH, Interrupted, Listen, StopTraining
from .undo import Undo


class Pace:
    """How long a training will take, by its steps 3 to 8 (the first ones warm up), and whether it waits for cores."""

    def __init__(self, device: torch.device):
        self.steps, self.on_cpu = 0, device.type == "cpu"

    def after_step(self, left: int) -> str | None:
        """After the 8th step a sentence, if minutes are left; a warning of a machine that is busy."""
        self.steps += 1
        if self.steps == 2:
            self.wall, self.cpu = time.perf_counter(), time.process_time()
        if self.steps != 8:
            return None
        wall, cpu = (time.perf_counter() - self.wall) / 6, (time.process_time() - self.cpu) / 6
        threads = torch.get_num_threads()
        if self.on_cpu and threads > 1 and wall > 3 * cpu:
            words = f"A step takes {wall:.2g} s, but {cpu:.2g} s of processor time: other work keeps the cores busy,"
            words += f" and {threads} threads wait for each other. One thread is often faster: OMP_NUM_THREADS=1 or "
            warnings.warn(f"{words}torch.set_num_threads(1).", stacklevel=2)
        minutes = left * wall / 60
        return f"{left} steps of {wall:.2g} s are left: about {minutes:.0f} minutes." if minutes > 1.5 else None


class Keeper:
    """Keeps a run. digests: {"images", "weights"} of what it trains on and starts from; last: stop after this step."""

    def __init__(self, run: Run, optimizer, batches, digests: dict, callbacks, progress, save_every, keep_last, last):
        run.folder = None if run.folder is None else Path(run.folder)
        self.run, self.optimizer, self.batches, self.callbacks = run, optimizer, batches, callbacks
        self.save_every, self.keep_last, self.each = save_every, keep_last, batches.each
        self.end_step = run.config.epochs * self.each
        self.last = min(self.end_step, last or self.end_step)
        kind = class_name(run.config, type(run.method))
        self.place = parallel.replayed(batches.place, run.config, batches.device)
        self.undo = Undo(run.method, optimizer, batches.device)
        self.same = {"class": kind, "data": run.data, **digests, "classes": run.method.num_classes}  # beside the config
        self.log, self.saved, self.signal, self.ready, self.bar = None, None, 0, None, None
        self.writer, self.writing = ThreadPoolExecutor(1), Future()  # the checkpoint that is on its way
        self.writing.set_result(None)
        self.software = {"device": str(batches.device), **software()}
        self.hidden = {} if progress and parallel.rank() == 0 else {"disable": True}  # no key: tqdm minds TQDM_DISABLE

    def __enter__(self) -> "Keeper":
        if self.run.folder and parallel.rank() == 0:  # nobody else writes, nor without a folder
            self.log = Log(self.run.folder)
        self.asked = Listen()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.asked.end()
        if self.bar is not None:  # a bar at its start counts as False
            self.bar.close()
        if self.ready:  # and with it the workers
            self.ready.close()
        self.writer.shutdown()  # it ends what it writes
        if self.log:
            self.log.close()
        if kind is parallel.NotFinite:
            self.undo.back()
            place = f"look at {self.saved}" if self.saved else "no checkpoint was kept"
            raise FloatingPointError(f"Step {self.done} (epoch {self.done // self.each + 1}): {error}; nothing has "
                                     f"seen it, {place}, try a lower lr or precision='fp32'.") from None  # fmt: skip

    @property
    def done(self) -> int:
        return max(0, len(self.run.history) - 1) * self.each + len(self.run.unfinished)

    def epochs(self, workers: int = 0) -> Iterator[int]:
        """The epochs that are left to run, from 0 on; each is closed when all of its steps are recorded."""
        title = self.run.method.title + " ORACLE" * self.run.config.oracle
        options = dict(total=self.end_step, initial=self.done, dynamic_ncols=True)  # its clock starts at the first step
        self.bar, self.pace = tqdm(desc=title, **options, **self.hidden), Pace(self.batches.device)
        self.ready = self.timed(self.batches.ahead(self.done, self.last, workers))
        while not self.run.finished and (self.done < self.last or len(self.run.unfinished) == self.each):
            if self.signal:
                return
            yield len(self.run.history) - 1
            if not self.signal and len(self.run.unfinished) == self.each:
                self.close_epoch()

    def steps(self) -> Iterator[tuple]:
        """(step, views, batch, draws) of what is left of this epoch; between two of them it saves, and may stop."""
        while not self.signal and len(self.run.unfinished) < self.each and self.done < self.last:
            yield self.done, *next(self.ready)
            self.bar.update()
            if (words := self.pace.after_step(self.last - self.done)) and not self.hidden:
                self.bar.write(words)
            if self.writing.done():
                self.writing.result()  # or its error
            self.signal = parallel.most(self.asked.signal, self.batches.device)  # of any of the processes
            due = self.save_every and self.done % self.save_every == 0 and len(self.run.unfinished) < self.each
            if self.signal or due:  # an epoch's end saves
                self.save(wait=bool(self.signal))

    def timed(self, prepared: Iterable) -> Iterator[tuple]:
        """Prepared steps, placed on the device; notes when each was asked for and when it was there."""
        asked = time.perf_counter()
        for ready in prepared:
            placed = self.place(ready)
            self.times = asked, time.perf_counter()
            self.settle()
            self.undo.keep()
            yield placed
            asked = time.perf_counter()

    def record(self, terms: Callable[[], dict], counts: dict, lr: float) -> None:
        """A step is done; what `terms` says, perhaps later, goes to the log, but for the untrained network."""
        parallel.run_pending(self.batches.device)
        (asked, there), now = self.times, time.perf_counter()
        times = {"data": there - asked, "all": now - asked}
        self.run.unfinished.append({"terms": terms, "lr": lr, "counts": counts, "times": times})

    def settle(self) -> None:
        """Before the next step, or a save, ask what the last one said. NotFinite: it is as if it had not been."""
        if self.run.unfinished and callable(self.run.unfinished[-1]["terms"]):
            step = self.run.unfinished.pop()
            terms = step["terms"]()
            if self.run.history:
                self.write({"step": self.done, **terms, "lr": step["lr"]})
            self.run.unfinished.append(step | {"terms": terms})

    def close_epoch(self) -> None:
        """The epoch's record: mean terms, shares over its images, speed; then a save, and the callbacks."""
        self.settle()
        run, steps = self.run, self.run.unfinished
        seconds, data = (sum(s["times"][name] for s in steps) for name in ("all", "data"))
        terms = {name: sum(s["terms"][name] for s in steps) / len(steps) for name in steps[0]["terms"]}
        shares, speed = monitor.shares([s["counts"] for s in steps]), len(steps) * run.config.batch_size / seconds
        record = {"epoch": len(run.history), **terms, "lr": steps[-1]["lr"], **shares, "images_per_second": speed}
        record |= {"data_share": data / seconds, "seconds": seconds} | ({"oracle": True} if run.config.oracle else {})
        run.history.append(record)
        run.unfinished = []
        self.write(record)
        if epoch := record["epoch"]:
            accuracy, std = record.get("pseudo_label_accuracy"), record["embedding_std"]
            pseudo = "-" if accuracy is None else f"{accuracy:.1%}"
            self.bar.set_postfix(epoch=epoch, loss=f"{record['loss']:.3f}", pseudo=pseudo)
            words = run.method.doubt(record)
            if std < monitor.COLLAPSED:
                words = f"collapse in epoch {epoch}: embedding_std = {std:.1e}, spread is 1"
                words += "; all images embed alike: try a lower lr, or other gamma and lam."
            if words:
                self.write({"warning": words.partition(";")[0]})
                warnings.warn(words, stacklevel=2)
        self.save()
        try:
            for callback in self.callbacks if parallel.rank() == 0 else ():
                callback(run, record)
        except StopTraining:
            self.signal = ENOUGH
        self.signal = parallel.most(self.signal, self.batches.device)  # all processes stop with the first

    def end(self) -> Run:
        """The run, or an Interrupted if a signal came; encoder.pt once it is finished."""
        run = self.run
        if self.signal == ENOUGH and not run.finished:
            run.state = None if run.folder else self.state()
            return run
        if self.signal in (0, ENOUGH):
            if not run.finished:
                self.save()
            elif self.log:
                checkpoint.save(run.folder / "encoder.pt", run.method.encoder.state_dict())
            self.signal = parallel.most(self.asked.signal, self.batches.device)
        how = f"the same call or command goes on from {parallel.tell(self.saved)}"
        if run.finished:
            how = "the run is complete"
        elif not run.folder:
            how = "nothing is on disk; fit(..., resume=sys.last_value.run) goes on, a folder would keep it"
            run.state = self.state()
        if self.signal:
            raise Interrupted(f"Stopped after step {self.done} of {self.end_step}: {how}.", run, self.signal)
        return run

    def write(self, line: dict) -> None:
        if self.log:
            self.log.write(line)

    def state(self) -> dict:
        """All that a run is, as plain types: what a checkpoint holds."""
        self.settle()
        run = self.run
        return tree_map_only(torch.Tensor, lambda x: x.detach().to("cpu", copy=True), {  # to be read anywhere
            "config": run.config.to_dict(), "position": {"epoch": len(run.history), "step": self.done},
            "method": run.method.state_dict(), "optimizer": self.optimizer.state_dict(), "history": run.history,
            "steps": run.unfinished, "log": self.log.file.tell() if self.log else 0, "software": self.software,
            **self.same,
        })  # fmt: skip

    def save(self, wait: bool = True) -> None:
        """One more checkpoint of what is now, whole before this returns, or else while training goes on.

        The oldest goes. Without a folder nothing is kept. An error of writing is raised after a step, or by a save."""
        self.settle()
        if self.log:
            self.writing.result()
            self.log.sync()  # the checkpoint knows how long it is
            self.writing = self.writer.submit(self._write, self.state())
        if wait:
            self.writing.result()

    def _write(self, state: dict) -> None:
        path = checkpoint.path_of(self.run.folder, state["position"]["step"])
        checkpoint.save(path, state)
        self.saved = path
        checkpoint.tidy(self.run.folder, path, self.keep_last)

    def resume(self, earlier: Run | None = None) -> None:
        """Go on where the folder's newest whole checkpoint (or the stopped run `earlier`) stood; start if none."""
        if earlier is not None:
            if earlier.state is None:
                raise ValueError("This run cannot be resumed; give one that was stopped, without a folder of its own.")
            self._restore("The run to resume", copy.deepcopy(earlier.state))
        elif self.run.folder:
            path, state = (checkpoint.newest(self.run.folder) if self.log else None) or (None, None)
            self.saved = parallel.tell(path)  # the others read the file that the first has found whole
            if self.saved:
                self._restore(self.saved, state or checkpoint.load(self.saved))
            if self.log:
                self.log.cut(state["log"] if path else 0)
                checkpoint.tidy(self.run.folder, path, self.keep_last)

    def describe(self, size: tuple, classes: list[str]) -> None:
        """Write run.json; size and classes are those of its images. A finished run was made with what it says."""
        if self.log and not self.run.finished:
            path = self.run.folder / "run.json"
            if not self.saved and path.exists() and '"architecture"' not in path.read_text():
                raise ValueError(f"{path} is there already and of something else; choose another folder.")
            write_json(path, facts(self.run.config, self.run.data, size, classes, self.software))

    def _restore(self, path, state: dict) -> None:
        config = config_in(path, state)
        old, here = {"class": config.method} | state | config.to_dict(), self.same | self.run.config.to_dict()
        unequal = {name: f"{name} ({old[name]} there, {now} now)" for name, now in here.items() if old[name] != now}
        if others := [words for name, words in unequal.items() if name not in COMPUTING]:
            longer = f"; there weights={str(self.run.folder)!r} starts a run of its own from these networks"
            raise ValueError(f"{path} is of a run with other settings: {', '.join(others)}; choose another folder"
                             f"{longer * bool('epochs' in unequal and self.run.folder)}.")  # fmt: skip
        depends = {name: name for name in ("torch", "device", "threads")
                   if state["software"].get(name) != self.software[name]} | unequal  # fmt: skip
        if depends:
            how = "to" if depends.keys() <= set(EXACT) else "but perhaps not to"
            warnings.warn(f"{path} was made with another {', '.join(depends.values())}: the run goes on, {how} the "
                          "bits of an uninterrupted one.", stacklevel=2)  # fmt: skip
        self.run.method.load_state_dict(fitting(path, state["method"], self.run.method))
        self.optimizer.load_state_dict(state["optimizer"])
        self.run.history, self.run.unfinished = state["history"], state["steps"]
