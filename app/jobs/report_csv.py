"""A report as CSV, a row per tensor, read and written piece by piece.

A spreadsheet runs what begins with = + - or @ as a formula, full-width or behind spaces too, and
names of tensors are a stranger's: such texts get an apostrophe in front, as OWASP advises. Numbers
stay numbers.
Source: RFC 4180; https://owasp.org/www-community/attacks/CSV_Injection.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from palettery.app.storage.base import Storage

COLUMNS = (
    "name",
    "aliases",
    "module",
    "module_type",
    "dtype",
    "shape",
    "action",
    "rule",
    "reason",
    "notes",
    "n_bits",
    "cluster_dim",
    "axis",
    "group_size",
    "groups",
    "weighted",
    "size_before_bytes",
    "size_after_bytes",
    "bits_per_weight",
    "sse",
    "snr_db",
    "max_error",
    "seconds",
    "reused",
)
"""Fields of `TensorReport`, of its spec and of its clustering."""
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
"""How a text begins that a spreadsheet may run."""
ROWS_AT_ONCE = 1_000
PIECE_BYTES = 1 << 20
_BEFORE = '"tensors":['
_DECODER = json.JSONDecoder()


def report_csv(store: Storage, path: str) -> Iterator[bytes]:
    """The lines of a stored report as CSV, in pieces."""
    size = store.size_bytes(path)
    pieces = (
        store.read(path, start, min(PIECE_BYTES, size - start))
        for start in range(0, size, PIECE_BYTES)
    )
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, tensor in enumerate(tensors(pieces), 1):
        writer.writerow(row(tensor))
        if number % ROWS_AT_ONCE == 0:
            yield _taken(text)
    yield _taken(text)


def tensors(pieces: Iterable[bytes | memoryview]) -> Iterator[dict[str, Any]]:
    """The entries of a report's `tensors`, each as soon as it is complete.

    The report is one that `Report.model_dump_json` wrote.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, at = "", -1
    for piece in pieces:
        held = held[max(at, 0) :] + decoder.decode(bytes(piece))
        if at < 0:
            found = held.find(_BEFORE)
            if found < 0:
                continue
            at = found + len(_BEFORE)
        else:
            at = 0
        while held[at : at + 1] not in ("", "]"):
            try:
                tensor, end = _DECODER.raw_decode(held, at + (held[at] == ","))
            except json.JSONDecodeError:
                break  # its end is in the next piece
            yield tensor
            at = end
        if held[at : at + 1] == "]":
            return


def row(tensor: dict[str, Any]) -> list[object]:
    """The cells of an entry."""
    known = (tensor.get("clustering") or {}) | (tensor.get("spec") or {}) | tensor
    return [_cell(known.get(column)) for column in COLUMNS]


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and FORMULA.match(value):
        return f"'{value}"
    return value


def _taken(text: io.StringIO) -> bytes:
    """What was written so far, which is gone from there."""
    written = text.getvalue().encode()
    text.seek(0)
    text.truncate()
    return written
