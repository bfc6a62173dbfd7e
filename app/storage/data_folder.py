"""The folder of the embedded database and store."""

import os

from palettery.app.errors import BadInput
from palettery.app.settings import Settings
from palettery.app.storage.input_files import displayable, may

USE = os.R_OK | os.W_OK


def prepare(settings: Settings) -> None:
    """Make the data folder if it is not there, and see that what lies in it may be written.

    Raises:
        BadInput: it cannot be made, or may not be written; names what stands in the way.
    """
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot make the data folder {displayable(folder)}: {error.strerror}; choose another "
            "--data-dir"
        ) from error
    for path, mode in (
        (folder, USE | os.X_OK),
        (folder / "server.lock", USE),
        (folder / "palettery.db", USE),
        (folder / "store", USE | os.X_OK),
    ):
        if path.exists() and not may(path, mode):
            raise BadInput(
                f"{displayable(path)} may not be read and written by this process; choose another "
                "--data-dir, or permit it"
            )
