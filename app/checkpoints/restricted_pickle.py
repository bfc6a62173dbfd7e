"""Pickles of strangers as plain data, with errors that name the file and the way out.

Python's unpicklers, restricted or not, run what a pickle says. `pickle_machine` reads it
instead, and refuses by name what is no plain data.
"""

from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.pickle_machine import PickleMachine, TruncatedPickleError
from palettery.app.checkpoints.torch_records import MalformedPickleError, UnsupportedPickleError
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits


def read_pickle(data: bytes, limits: Limits, *, name: str) -> object:
    """What a pickle describes: dicts, lists, tuples, plain values, and `torch_records`.

    It may contain itself, or be nested to any depth: walk it neither by recursion nor twice.

    Raises:
        UnsupportedFormat: it holds anything else, which is named, with the way out.
        InvalidModel: damaged.
        TooLarge: over a limit.
    """
    if len(data) > limits.header_bytes:
        raise TooLarge(
            f"{name}: its pickle has {len(data):,} bytes; {limits.allowed('header_bytes')}"
        )
    machine = PickleMachine(data, limits)
    try:
        found = run(machine, name)
    except TruncatedPickleError as error:
        raise damaged_pickle(name, str(error)) from error
    if machine.at != len(data):
        raise damaged_pickle(name, "bytes lie behind its end")
    return found


def run(machine: PickleMachine, name: str) -> object:
    """What a machine reads next; `name` is what messages call the file.

    Raises:
        Truncated: the bytes end before the pickle does; beside what `read_pickle` raises.
    """
    try:
        return machine.run()
    except UnsupportedPickleError as error:
        raise UnsupportedFormat(f"{name} holds {error.what}; {error.way_out}") from error
    except TooLarge as error:
        raise TooLarge(f"{name}: {error.detail}") from error
    except TruncatedPickleError:
        raise
    except (MalformedPickleError, ValueError, IndexError, KeyError) as error:
        raise damaged_pickle(name, str(error)) from error


def damaged_pickle(name: str, fault: str) -> InvalidModel:
    """The error of a pickle that no pickler wrote."""
    return InvalidModel(
        f"{name}: its pickle is damaged ({quote_text(fault)}); fetch or save the file again"
    )
