"""Creation of inputs in a sandbox, since it parses untrusted files."""

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from palettery.app.errors import SandboxCrashed
from palettery.app.inference.model_files import ENVIRONMENT
from palettery.app.sandbox import Bounds, open_regular, run, working_folder
from palettery.app.settings import Sandbox
from palettery.schemas.base import Schema

FILES, OUT = "files", "out.safetensors"
"""Folder of the copies, and file of the result, in the sandbox's folder."""


def make_in_sandbox(
    worker: str, request: Schema, files: Sequence[Path], sandbox: Sandbox, out: Path, *, what: str
) -> None:
    """Run a worker module over copies of files, and write its result to `out`.

    Raises:
        PaletteryError: see `palettery.app.sandbox.run`.
    """
    with working_folder() as folder:
        (folder / FILES).mkdir()
        for file in files:
            shutil.copyfile(file, folder / FILES / file.name)
        bounds = Bounds(
            memory_bytes=sandbox.memory_bytes,
            cpu_s=math.ceil(sandbox.timeout_s) * (os.cpu_count() or 1),
            wall_s=sandbox.timeout_s,
            file_bytes=sandbox.memory_bytes,
        )
        run(
            f"palettery.app.inference.{worker}",
            request.model_dump_json().encode(),
            folder,
            bounds,
            what=what,
            required=sandbox.required,
            variables=ENVIRONMENT,
        )
        try:
            with open_regular(folder / OUT) as result, out.open("wb") as target:
                shutil.copyfileobj(result, target)
        except FileNotFoundError as error:
            raise SandboxCrashed(f"{what} wrote nothing") from error
