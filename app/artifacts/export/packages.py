"""Packages: exports that are folders, written unzipped if the output's name has their suffix."""

import zipfile
from pathlib import Path

from palettery.app.errors import BadInput
from palettery.schemas.exports import ExportFormat

SUFFIXES: dict[str, ExportFormat] = {".mlpackage": "coreml", ".aimodel": "coreai"}
MARKER_FILES = {".mlpackage": ("Manifest.json",), ".aimodel": ("main.mlirb", "metadata.json")}
"""Files that identify each kind of package."""


def is_package(out: Path) -> bool:
    """Return whether an output's name is that of a package."""
    return out.suffix in SUFFIXES


def check_package(out: Path, to: ExportFormat) -> None:
    """Check that a package can be written, before any work.

    Raises:
        BadInput: another format has that suffix, or something else is at that path.
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


def unpack_package(archive: Path, out: Path, temporary: Path) -> None:
    """Unpack an export into a temporary folder of the same disk, and rename it.

    An existing package is moved away first, so that no half-written one is ever visible.
    """
    unpacked, before = temporary / "unpacked", temporary / "before"
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    (package,) = unpacked.iterdir()
    if out.exists():
        out.rename(before)
    try:
        package.rename(out)
    except OSError:
        if before.exists():
            before.rename(out)
        raise


def _is_replaceable(out: Path) -> bool:
    if not out.is_dir():
        return False
    files = {path.name for path in out.iterdir()}
    return not files or bool(files.intersection(MARKER_FILES[out.suffix]))
