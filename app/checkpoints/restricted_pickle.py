"""Untrusted pickles as plain data, with errors that name the file and give advice.

Python's unpicklers, even restricted ones, run code that a pickle names. `pickle_machine` interprets
pickles without any call, and rejects what is not plain data by name.
"""

from palettery.app.checkpoints.pickle_bytes import TruncatedPickleError
from palettery.app.checkpoints.pickle_machine import PickleMachine
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.checkpoints.torch_records import MalformedPickleError, UnsupportedPickleError
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits


def read_pickle(data: bytes, limits: Limits, *, name: str) -> object:
    """Return the value of a pickle: dicts, lists, tuples, plain values, and `torch_records`.

    It may contain itself, or be nested to any depth: do not walk it recursively or twice.

    Raises:
        UnsupportedFormat: it contains anything else; the message names it.
        InvalidModel: damaged.
        TooLarge: over a limit.
    """
    if len(data) > limits.header_bytes:
        raise TooLarge(
            f"{name}: its pickle has {len(data):,} bytes; {limits.allowed('header_bytes')}"
        )
    machine = PickleMachine(data, limits)
    try:
        value = run_machine(machine, name)
    except TruncatedPickleError as error:
        raise damaged_pickle(name, str(error)) from error
    if machine.source.position != len(data):
        raise damaged_pickle(name, "bytes follow its end")
    return value


def run_machine(machine: PickleMachine, name: str) -> object:
    """Return the value of a machine's next pickle; `name` names the file in messages.

    Raises:
        TruncatedPickleError: the bytes end before the pickle does.
        UnsupportedFormat, InvalidModel, TooLarge: see `read_pickle`.
    """
    try:
        return machine.run()
    except UnsupportedPickleError as error:
        raise UnsupportedFormat(f"{name} holds {error.what}; {error.advice}") from error
    except TooLarge as error:
        raise TooLarge(f"{name}: {error.detail}") from error
    except TruncatedPickleError:  # a MalformedPickleError that callers handle themselves
        raise
    except (MalformedPickleError, ValueError, IndexError, KeyError) as error:
        raise damaged_pickle(name, str(error)) from error


def damaged_pickle(name: str, problem: str) -> InvalidModel:
    """Return the error for a pickle that no pickler writes."""
    return InvalidModel(
        f"{name}: its pickle is damaged ({quote_text(problem)}); fetch or save the file again"
    )
