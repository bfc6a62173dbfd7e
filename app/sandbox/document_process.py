"""The process that reads documents of users: one after the other, within limits, for the server.

It is forked from a process that has imported what it needs. It ends when the server closes the
connection, and the kernel kills it when its parent is gone, busy or not.
"""

import gc
import os
import pickle
import resource
import signal
import struct
import threading
import traceback
from socket import socket

from palettery.app.errors import PaletteryError
from palettery.app.sandbox import end_with_parent, limit, limit_memory
from palettery.app.sandbox.process_memory import limit_arenas, resident_bytes

HEADER = struct.Struct(">c?Q")
"""Before each answer: its kind, whether the process ends now, and bytes that follow."""
VALUE, DOCUMENT, ERROR, OUT_OF_MEMORY, FAULT = b"v", b"d", b"e", b"m", b"f"
"""Answers: a pickled value, bytes as they are, a pickled `PaletteryError`, nothing, a traceback."""
FIRST_FILE = 3
"""Behind standard input, output and errors."""
STACK_BYTES = 512 << 10
"""Of each thread that a task starts."""
NO_THREAD = "can't start new thread"
"""What Python raises, as a RuntimeError, where memory for one is lacking."""
RECYCLE_BYTES = 32 << 20
"""A process that has grown by more than this ends, so that its memory goes back."""


def serve(connection: socket, memory_bytes: int, niceness: int) -> None:
    """Run functions and send what they return, until the connection ends."""
    end_with_parent(os.getppid())
    # Among them the one by which the parent sees that the server is gone: it ends, and so do we.
    os.closerange(FIRST_FILE, connection.fileno())
    os.closerange(connection.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's, which ends this one
    os.nice(niceness)
    gc.freeze()
    limit(resource.RLIMIT_CORE, 0)
    limit_arenas()  # each would reserve 64 MiB of the address space
    threading.stack_size(STACK_BYTES)
    limit_memory(memory_bytes, soft=True)
    most = resident_bytes() + RECYCLE_BYTES
    with connection, connection.makefile("rwb") as stream:
        is_last = False
        while not is_last:
            try:
                task = pickle.load(stream)  # noqa: S301 - the server wrote it
            except EOFError:
                return
            kind, answer = _run(*task)
            del task
            is_last = kind == OUT_OF_MEMORY or resident_bytes() > most
            stream.write(HEADER.pack(kind, is_last, len(answer)))
            stream.write(answer)
            stream.flush()
            del answer


def _run(
    function: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[bytes, bytes]:
    try:
        value = function(*args, **kwargs)  # type: ignore[operator] # checked where it was passed
        return (DOCUMENT, value) if isinstance(value, bytes) else (VALUE, pickle.dumps(value))
    except PaletteryError as error:
        return ERROR, pickle.dumps(error)
    except MemoryError:
        return OUT_OF_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - the task ends here
        if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
            return OUT_OF_MEMORY, b""
        return FAULT, traceback.format_exc().encode(errors="replace")
