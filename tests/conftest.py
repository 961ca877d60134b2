"""Fixtures of all tests."""
import os

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # figures need no display
pytest.register_assert_rewrite("core_checks", "ifnd_checks", "carp_checks", "parity")  # what fails shows its values

DEVICES = ["cpu"]
if torch.cuda.is_available():
    DEVICES.append("cuda")
if torch.backends.mps.is_available():
    DEVICES.append("mps")


def pytest_sessionfinish(session, exitstatus):
    """With NO_SKIPS set, as `make test-doors` sets it, a test that is left out is a failure."""
    if os.environ.get("NO_SKIPS") and not exitstatus:
        if session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(params=DEVICES)
def device(request):
    """Each device of this machine in turn: cpu always, cuda and mps where there is one."""
    return torch.device(request.param)
