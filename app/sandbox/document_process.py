"""The process that reads documents of users for the server, one at a time and within limits.

It is forked from a process that has imported the code. It ends when the server closes the
connection, and the kernel kills it when its parent ends.
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
"""Header of each response: its kind, whether the process ends now, and its size."""
VALUE, DOCUMENT, ERROR, OUT_OF_MEMORY, FAULT = b"v", b"d", b"e", b"m", b"f"
"""Kinds of responses: pickled value, raw bytes, pickled `PaletteryError`, empty, traceback."""
FIRST_FILE = 3
"""First descriptor after standard input, output and error."""
STACK_BYTES = 512 << 10
"""Stack size of threads that a task starts."""
NO_THREAD = "can't start new thread"
"""Message of Python's RuntimeError when memory for a thread is lacking."""
RECYCLE_BYTES = 32 << 20
"""A process that has grown by more than this ends, to free its memory."""


def serve(connection: socket, memory_bytes: int, niceness: int) -> None:
    """Run functions and send their results, until the connection is closed."""
    end_with_parent(os.getppid())
    # The fork server ends once all copies of one of these descriptors are closed.
    os.closerange(FIRST_FILE, connection.fileno())
    os.closerange(connection.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # Ctrl-C is for the server, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(niceness)
    gc.freeze()
    limit(resource.RLIMIT_CORE, 0)
    limit_arenas()  # each reserves 64 MiB of address space
    threading.stack_size(STACK_BYTES)
    limit_memory(memory_bytes, soft=True)
    limit_bytes = resident_bytes() + RECYCLE_BYTES
    with connection, connection.makefile("rwb") as stream:
        is_last = False
        while not is_last:
            try:
                task = pickle.load(stream)  # noqa: S301 - the server wrote it
            except EOFError:
                return
            kind, response = _run(*task)
            del task
            is_last = kind == OUT_OF_MEMORY or resident_bytes() > limit_bytes
            stream.write(HEADER.pack(kind, is_last, len(response)))
            stream.write(response)
            stream.flush()
            del response


def _run(
    function: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[bytes, bytes]:
    try:
        value = function(*args, **kwargs)  # type: ignore[operator] # typed by the caller
        return (DOCUMENT, value) if isinstance(value, bytes) else (VALUE, pickle.dumps(value))
    except PaletteryError as error:
        return ERROR, pickle.dumps(error)
    except MemoryError:
        return OUT_OF_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - the task ends here
        if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
            return OUT_OF_MEMORY, b""
        return FAULT, traceback.format_exc().encode(errors="replace")
