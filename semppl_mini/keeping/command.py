"""The frame of every command: an expected error is one line on stderr, never a traceback."""

import argparse
import ast
import sys
import warnings

import torch

from ..parallel import world
from .signals import Interrupted


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line and ends with status 2."""

    def __init__(self, doc: str, epilog: str = ""):
        super().__init__(description=doc, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        # here, since from Python 3.14 on no one method is called by both parse_args and parse_intermixed_args
        for before, text in zip(["an argument", *sys.argv[1:]], sys.argv[1:], strict=False):
            if not text or (text.startswith("--") and text.endswith("=")):
                self.error(f"{text.rstrip('=') or before} is given an empty value; give one, or leave it out")

    def error(self, message: str):
        words = f"{self.prog}: {message} (see --help).\n"
        self.exit(2, words if world.first_to_say(words) else None)

    def whole(self, name: str, value, least: int) -> None:
        """A whole number's lower limit; None passes."""
        if value is not None and value < least:
            self.error(f"{name} {value} is too small; give {least} or more")


def override(text: str) -> tuple[str, object]:
    """'field=value' -> (field, value): Python literals, anything else is a string."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not of the form field=value; write for example epochs=8.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value
    except (RecursionError, MemoryError):
        raise ValueError(f"{name} = {value[:20]}... is nested too deeply; give a number, string or tuple.") from None


def command(main, name: str) -> None:
    """Call main(); bad input and what a machine refuses (disk, memory) end with 1, signals with 128 + it, said once."""
    usual = warnings.formatwarning  # with the line of code that warned, which tells a user nothing

    def shown(message, category, *where):
        words = f"{name}: {message}\n" if category is UserWarning else usual(message, category, *where)
        return words if world.first_to_say(words) else ""

    warnings.formatwarning = shown
    try:
        main()
    except Interrupted as stop:
        words = str(stop) if stop.run.folder else f"{str(stop).partition('; fit(')[0].rstrip('.')}."
        if world.first_to_say(words):
            print(words, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, ArithmeticError, MemoryError, torch.OutOfMemoryError) as error:
        sys.exit(f"{name}: {error}" if world.first_to_say(str(error)) else 1)
    except RuntimeError as error:
        if world.size() == 1 or "onnection" not in str(error):
            raise
        sys.exit(f"{name}: process {world.rank()} has lost another one, whose own message says why.")
    finally:
        world.stop()  # not before: who has lost another one asks for its number
        warnings.formatwarning = usual
