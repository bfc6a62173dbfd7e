"""What must hold before a model is evaluated, as far as that is known without running it."""

from collections.abc import Sequence

from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.checkpoints.reader import is_model_config
from palettery.app.checkpoints.safetensors import read_header
from palettery.app.compression.job_folder import read_request
from palettery.app.errors import BadInput, InvalidModel, TooLarge
from palettery.app.inference.model_files import LABELS, input_names_error, missing_graph_error
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.app.storage.open import shared_storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile


def check_evaluation(
    store: Storage, model: Checkpoint, inputs: Sequence[StoredFile], limits: Limits
) -> None:
    """Check that a model may be run, and that its inputs have the names that it takes.

    Raises:
        UnsupportedFormat: the model has no graph, or one that cannot be run.
        BadInput: the inputs are no safetensors files, or have other names.
    """
    names = [(file.name, _input_names(store, file, limits)) for file in inputs]
    if model.format != "pt2":
        if not any(_is_config(store, file, limits) for file in model.files):
            raise missing_graph_error(model.files[0].name)
        return  # transformers knows the inputs
    takes = read_runnable(store, model.files[0], limits).user_inputs()
    for file, own in names:
        if set(own) != set(takes):
            raise input_names_error(", ".join(takes) or "none", file, own)


def check_job_evaluation(
    store_url: str, prefix: str, inputs: Sequence[StoredFile], limits: Limits
) -> tuple[StoredFile, ...]:
    """Check an evaluation of a job, and return the files of its model.

    The processes of `document_pool` run this.

    Raises:
        BadInput: see `check_evaluation`.
    """
    store = shared_storage(store_url)
    model = read_request(store, prefix).checkpoint
    check_evaluation(store, model, inputs, limits)
    return model.files


def _input_names(store: Storage, file: StoredFile, limits: Limits) -> list[str]:
    try:
        header = read_header(store, file.path, limits, name=file.name)
    except (InvalidModel, TooLarge) as error:
        raise BadInput(
            f"{file.name} holds no inputs: {error.detail}; send a safetensors file with a tensor "
            "for each input of the model"
        ) from error
    return [tensor.name for tensor in header.tensors if tensor.name != LABELS]


def _is_config(store: Storage, file: StoredFile, limits: Limits) -> bool:
    if not file.name.endswith(".json"):
        return False
    return is_model_config(str(store.read(file.path), "utf-8-sig", "replace"), limits)
