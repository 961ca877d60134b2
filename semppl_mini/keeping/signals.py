"""Ctrl-C, a notebook's stop button and SIGTERM end a training between two steps, not within one."""

import signal
import threading

ENOUGH = signal.NSIG  # above the numbers of signals: a callback has had enough


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, and did, between two steps; `run` is what there is of it, `signal` who asked.

    An error, so that of *Run All* no later cell runs; in a notebook it is one line, not a traceback."""

    def __init__(self, message: str, run, number: int):
        super().__init__(message)
        self.run, self.signal = run, number

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [str(self)]


class StopTraining(Exception):
    """For a callback to raise: `fit` saves and returns the run as it is after this epoch; the same call goes on."""


class Listen:
    """Until `end` the first SIGINT or SIGTERM only sets `signal`; a second one acts at once."""

    signal = 0

    def __init__(self):
        self.old = {}
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self.old[number] = signal.signal(number, self._note) or signal.SIG_DFL

    def _note(self, number: int, frame) -> None:
        self.signal = number
        self.end()

    def end(self) -> None:
        while self.old:
            signal.signal(*self.old.popitem())
