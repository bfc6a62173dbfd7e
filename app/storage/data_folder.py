"""The data folder, which contains the embedded database and store."""

import os

from palettery.app.errors import BadInput
from palettery.app.settings import Settings
from palettery.app.storage.input_files import displayable, has_access

READ_WRITE = os.R_OK | os.W_OK


def prepare(settings: Settings) -> None:
    """Create the data folder if missing, and check that its contents are writable.

    Raises:
        BadInput: it cannot be created, or something in it is not writable.
    """
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"cannot create the data folder {displayable(folder)}: {error.strerror}; choose "
            "another --data-dir"
        ) from error
    for path, mode in (
        (folder, READ_WRITE | os.X_OK),
        (folder / "server.lock", READ_WRITE),
        (folder / "palettery.db", READ_WRITE),
        (folder / "store", READ_WRITE | os.X_OK),
    ):
        if path.exists() and not has_access(path, mode):
            raise BadInput(
                f"this process may not read and write {displayable(path)}; choose "
                "another --data-dir, or grant it permission"
            )
