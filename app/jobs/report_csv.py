"""Reports as CSV, one row per tensor.

Spreadsheets run text that begins with = + - or @ as a formula, full-width or behind spaces too, and
names of tensors come from strangers: such text gets an apostrophe in front, as OWASP advises.
Numbers stay numbers.
Source: RFC 4180; https://owasp.org/www-community/attacks/CSV_Injection.
"""

import csv
import io
import json
import re
from typing import Any

from palettery.app.storage.open import shared_storage

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
    "method",
    "output_error",
    "output_error_without_feedback",
    "size_before_bytes",
    "size_after_bytes",
    "bits_per_weight",
    "zero_share",
    "mask_bytes",
    "coreai_opt_bits_per_weight",
    "sse",
    "snr_db",
    "max_error",
    "seconds",
    "reused",
)
"""Fields of `TensorReport`, of its spec and of its clustering."""
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
"""Beginning of text that a spreadsheet may run."""


def report_csv(store_url: str, path: str) -> bytes:
    """Return a stored report as CSV; the processes of `document_pool` run this."""
    report = json.loads(bytes(shared_storage(store_url).read(path)))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(map(_row, report["tensors"]))
    return text.getvalue().encode()


def _row(tensor: dict[str, Any]) -> list[object]:
    fields = (tensor.get("clustering") or {}) | (tensor.get("spec") or {}) | tensor
    return [_cell(fields.get(column)) for column in COLUMNS]


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if isinstance(value, str) and FORMULA.match(value):
        return f"'{value}"
    return value
