"""Exports that are folders: a name that ends as one gets the folder itself, any other a zip."""

import zipfile
from pathlib import Path

from palettery.app.errors import BadInput
from palettery.schemas.exports import ExportFormat

SUFFIXES: dict[str, ExportFormat] = {".mlpackage": "coreml", ".aimodel": "coreai"}
MARKS = {".mlpackage": ("Manifest.json",), ".aimodel": ("main.mlirb", "metadata.json")}
"""A file of each kind of package, by which one is told from other folders."""


def is_package(out: Path) -> bool:
    """Whether a name asks for a folder."""
    return out.suffix in SUFFIXES


def check_package(out: Path, to: ExportFormat) -> None:
    """See that a folder may be written, before any work.

    Raises:
        BadInput: another format has that suffix, or something else is there.
    """
    if not is_package(out):
        return
    if SUFFIXES[out.suffix] != to:
        raise BadInput(
            f"{out.name} is the name of a {SUFFIXES[out.suffix]} package, and the export is {to}; "
            "give it another name"
        )
    if not out.is_symlink() and (not out.exists() or _is_replaceable(out)):
        return
    raise BadInput(
        f"{out} exists and is no {out.suffix} package, so it is not replaced; "
        "move it away or name another"
    )


def put_package(archive: Path, out: Path, aside: Path) -> None:
    """Unpack an export in a folder of the same disk, and put it in its place.

    A package that was there is moved aside first, so that there is never half of one.
    """
    unpacked, before = aside / "unpacked", aside / "before"
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    (made,) = unpacked.iterdir()
    if out.exists():
        out.rename(before)
    try:
        made.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise


def _is_replaceable(out: Path) -> bool:
    if not out.is_dir():
        return False
    files = {path.name for path in out.iterdir()}
    return not files or bool(files.intersection(MARKS[out.suffix]))
