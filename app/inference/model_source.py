"""A model in a sandbox's folder, for the process that runs it there."""

from pathlib import Path

from palettery.app.artifacts.export.live_model import StateDict, uploaded_state_dict
from palettery.app.artifacts.export.request import ExportSource
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.reader import is_model_config, read_checkpoint
from palettery.app.inference.inputs import InputFile, Signature, read_inputs
from palettery.app.inference.model import LiveModel
from palettery.app.inference.model_files import INPUTS, ModelFiles, missing_graph_error
from palettery.app.inference.program_model import open_program
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile


class ModelSource:
    """A model in a sandbox's folder, which is read once and opened with one or more state dicts."""

    def __init__(self, files: ModelFiles, folder: Path, limits: Limits) -> None:
        self._folder, self._files = folder, files
        self._storage = open_storage(folder.as_uri())
        texts = {file: self._text(file) for file in files.files if file.name.endswith(".json")}
        configs = [text for text in texts.values() if is_model_config(text, limits)]
        self._config = configs[0] if configs else None
        weights = [file for file, text in texts.items() if text not in configs]
        weights += [file for file in files.files if file not in texts]
        self.checkpoint: Checkpoint = read_checkpoint(self._storage, weights, limits)
        self._limits = limits
        if self.checkpoint.format != "pt2" and self._config is None:
            raise missing_graph_error(files.files[0].name)

    def state(self) -> StateDict:
        """Return the tensors of the uploaded model."""
        return uploaded_state_dict(self.checkpoint, self._storage)

    def open(self, tensors: StateDict) -> LiveModel:
        """Return the model with these tensors.

        Raises:
            BadInput: it cannot be run.
        """
        if self.checkpoint.format != "pt2":
            assert self._config is not None  # noqa: S101 - checked above
            from palettery.app.inference.transformers_model import open_transformers  # slow

            return open_transformers(self._config, tensors)
        (file,) = self.checkpoint.files
        runnable = read_runnable(self._storage, file, self._limits)
        return open_program(runnable, tensors, ExportSource(self._storage, file), self._folder)

    def inputs(self, signature: Signature) -> list[InputFile]:
        """Return the inputs, checked against what the model takes.

        Raises:
            BadInput: see `read_inputs`.
        """
        names = self._files.inputs
        paths = {self._folder / INPUTS / str(number): name for number, name in enumerate(names)}
        return read_inputs(paths, signature)

    def _text(self, file: StoredFile) -> str:
        return (self._folder / file.path).read_text("utf-8-sig", errors="replace")
