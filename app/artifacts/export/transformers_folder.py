"""A folder that `from_pretrained` of transformers loads: config.json and the packed artifact."""

import importlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from palettery.app.artifacts.export.model_folder import (
    CONFIG,
    INDEX,
    QUANTIZATION_CONFIG,
    SINGLE,
)
from palettery.app.artifacts.files import open_files
from palettery.app.checkpoints.local_files import expand_path
from palettery.app.errors import BadInput, ExtraMissing
from palettery.app.storage.input_files import displayable

WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".pt2",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".whl",
)
"""Suffixes of files that are not carried along: they hold the weights before."""


def check_folder(out: Path) -> None:
    """Check that the folder can be made, before any work.

    Raises:
        BadInput: something that is not an empty folder is at that path.
    """
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise BadInput(
            f"{displayable(out)} exists, so it is not replaced; move it away or name a new folder"
        )


def write_transformers_folder(artifact_paths: Sequence[Path], model: Path, folder: Path) -> None:
    """Write an artifact, the model's config.json, and its tokenizer and other small files.

    Raises:
        BadInput: the model is no folder of transformers, or a file cannot be read.
        InvalidArtifact: the artifact is damaged, or of another model.
        ExtraMissing: transformers is not installed.
    """
    config = _read_config(model)
    artifact = open_files(artifact_paths)
    quantizer = _quantizer()
    quantizer.check_places(config, artifact)
    folder.mkdir(parents=True)
    for path in _carried_along(model):
        shutil.copyfile(path, folder / path.name)
    for path, name in _weights(artifact_paths):
        shutil.copyfile(path, folder / name)
    config["quantization_config"] = QUANTIZATION_CONFIG
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _quantizer() -> ModuleType:
    """Import our part of transformers; what the libraries log meanwhile helps nobody.

    Raises:
        ExtraMissing: transformers is not installed.
    """
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("palettery.app.artifacts.transformers_quantizer")
    except ImportError as error:
        raise ExtraMissing(
            "the format transformers needs transformers 5, which is not installed here; "
            "pip install 'palettery[hf]'"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


def _read_config(model: Path) -> dict[str, Any]:
    """Return the config.json of a model's folder.

    Raises:
        BadInput: there is none, or it is not one of a model that is not quantized.
    """
    path = model if model.is_file() else model / CONFIG
    where = displayable(path)
    try:
        config = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise BadInput(
            f"cannot read {where}: {error.strerror}; --model takes the folder of the model, with "
            "its config.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("architectures"), list):
        raise BadInput(f"{where} names no `architectures`, so it is not the config of a model")
    if "quantization_config" in config:
        raise BadInput(
            f"{where} has a quantization_config, so it is of a quantized model; give the folder of "
            "the model that was palettized"
        )
    return config


def _carried_along(model: Path) -> Iterator[Path]:
    """Yield the small files of a model's folder: of its tokenizer, for generation and the like."""
    for path in sorted(model.iterdir() if model.is_dir() else ()):
        is_weights = path.name.endswith((*WEIGHTS, ".index.json"))
        if path.is_file() and not path.name.startswith(".") and not is_weights:
            yield path


def _weights(artifact_paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the artifact's files, with the names by which transformers finds them."""
    files = [file for path in artifact_paths for file in expand_path(path)]
    shards = [file for file in files if file.name.endswith((".safetensors", INDEX))]
    if len(files) == 1:
        yield files[0], SINGLE
        return
    yield from ((file, file.name) for file in shards)
