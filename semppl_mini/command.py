"""The frame of every command: an expected error is one line on stderr, never a traceback."""

import sys

import torch

from .interrupt import Interrupted

EXPECTED = (ValueError, OSError, ArithmeticError, MemoryError, torch.OutOfMemoryError)


def command(main, name: str) -> None:
    """Call main(); bad input and what a machine refuses (disk, memory) end with status 1, a signal with 128 + it."""
    try:
        main()
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        sys.exit(130)
    except EXPECTED as error:
        sys.exit(f"{name}: {error}")
