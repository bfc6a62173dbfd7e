"""Loading of artifacts by `from_pretrained` of transformers, and saving by `save_pretrained`.

Source: the quantizers of transformers 5 (`transformers.quantizers.base.HfQuantizer`): the module's
parameters are replaced before weights are loaded, and names of stored tensors map to its buffers.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from palettery.app.artifacts.export.model_folder import FORMAT_VERSION, METHOD
from palettery.app.artifacts.files import open_files
from palettery.app.artifacts.packed_weights import SUFFIX, PackedWeight, replace_weight
from palettery.app.artifacts.reader import Artifact
from palettery.app.checkpoints.dtypes import DTYPES
from palettery.app.errors import InvalidArtifact, UnsupportedFormat
from palettery.schemas.artifact import METADATA_KEY, PALETTE_KEYS, ArtifactMetadata


@register_quantization_config(METHOD)
class PaletteryConfig(QuantizationConfigMixin):
    """The `quantization_config` in config.json of a folder with a packed model."""

    def __init__(self, format_version: int = FORMAT_VERSION, **_: Any) -> None:
        self.quant_method = cast(QuantizationMethod, METHOD)
        self.format_version = format_version


@register_quantizer(METHOD)
class PaletteryQuantizer(HfQuantizer):
    """Loads a packed model: its weights stay packed in memory, and are decoded when used.

    Errors are raised while loading: InvalidArtifact if the files are not an artifact, or are of
    another model or version; UnsupportedFormat if transformers merges packed weights.
    """

    quantization_config: PaletteryConfig
    requires_calibration = True  # palettization happens elsewhere, `palettery compress`

    def validate_environment(self, *_: Any, device_map: Any = None, **__: Any) -> None:
        """Check the format's version, and that the device exists."""
        if (version := self.quantization_config.format_version) != FORMAT_VERSION:
            raise InvalidArtifact(
                f"the folder has format version {version!r}, and this Palettery reads version "
                f"{FORMAT_VERSION}: upgrade it (pip install -U palettery)"
            )
        devices = device_map.values() if isinstance(device_map, dict) else [device_map]
        wants_cuda = any(str(device).startswith("cuda") for device in devices)
        if wants_cuda and not torch.cuda.is_available():
            raise UnsupportedFormat(
                f"device_map is {device_map!r}, and torch finds no CUDA device here; leave "
                "device_map out for the CPU"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Keep the dtype of the model, which weights are decoded to."""
        self._dtype = dtype
        return dtype

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        artifact = open_files([Path(file) for file in kwargs["checkpoint_files"]])
        self._metadata = _merged(artifact)
        self._names = dict(_places(model, artifact, strict=False))
        if artifact.weights and not self._names:
            raise InvalidArtifact(
                f"{type(model).__name__} has none of the palettized weights, such as "
                f"{next(iter(artifact.weights))}; is the artifact of another model?"
            )
        for name, first in self._names.items():
            replace_weight(model, name, _empty(artifact, first, self._dtype))
        _tie(model, self._names)

    def get_weight_conversions(self) -> list[WeightRenaming]:
        """Return the renamings of stored arrays, `weight.lut`, to buffers, `weight_palette.lut`."""
        locals_ = {name.rpartition(".")[2] for name in self._names}
        keys = "|".join(PALETTE_KEYS)
        return [
            WeightRenaming(rf"\.{re.escape(local)}\.({keys})$", rf".{local}{SUFFIX}.\1")
            for local in sorted(locals_)
        ]

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        """Return what `save_pretrained` writes: the arrays by their names in an artifact."""
        state = {}
        for name, tensor in model.state_dict().items():
            owner, _, key = name.rpartition(".")
            is_packed = owner.endswith(SUFFIX) and key in PALETTE_KEYS
            state[f"{owner.removesuffix(SUFFIX)}.{key}" if is_packed else name] = tensor
        weights = {
            _saved_name(model, name): self._metadata.weights[first]
            for name, first in self._names.items()
        }
        metadata = self._metadata.model_copy(update={"weights": weights, "tied": {}})
        return state, {METADATA_KEY: metadata.model_dump_json()}

    def is_serializable(self) -> bool:
        """Return True: a loaded model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """False: packed weights have no gradients."""
        return False


def _merged(artifact: Artifact) -> ArtifactMetadata:
    """Return the metadata of all shards as that of one file."""
    first = artifact.metadata[0]
    weights = {name: each for file in artifact.metadata for name, each in file.weights.items()}
    return first.model_copy(update={"weights": weights})


def _saved_name(model: PreTrainedModel, name: str) -> str:
    """Return the name by which transformers saves a packed weight."""
    (saved,) = revert_weight_conversion(model, {f"{name}.indices": torch.empty(0)})
    return str(saved).removesuffix(".indices")


def _places(
    model: PreTrainedModel, artifact: Artifact, *, strict: bool
) -> Iterator[tuple[str, str]]:
    """Yield each name in the model of a packed weight, with its name in the artifact.

    Names change as transformers changes them while loading: with the versions of a model, and by
    the prefix of the base model. Without `strict`, weights that the model lacks are left out, as
    transformers does with those of another head.

    Raises:
        InvalidArtifact: the model has no such weight, or of another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    mapping = get_model_conversion_mapping(model)
    renamings = [each for each in mapping if isinstance(each, WeightRenaming)]
    converters = [each for each in mapping if isinstance(each, WeightConverter)]
    for name, weight in artifact.weights.items():
        place, converter = rename_source_key(
            name, renamings, converters, model.base_model_prefix, parameters
        )
        if converter is not None or (place not in parameters and strict):
            raise InvalidArtifact(
                f"{name} is palettized, and {type(model).__name__} has no such weight; is the "
                "artifact of another model, or does transformers merge it with others? `palettery "
                "export --to dense` writes a model that loads everywhere"
            )
        if place not in parameters:
            continue
        if (shape := tuple(parameters[place].shape)) != weight.shape:
            raise InvalidArtifact(
                f"{name} has the shape {list(weight.shape)} in the artifact and {list(shape)} in "
                f"{type(model).__name__}; is it of another model?"
            )
        yield place, name


def _empty(artifact: Artifact, name: str, dtype: torch.dtype) -> PackedWeight:
    """Return a packed weight without values, whose float LUT has the model's dtype."""
    weight, arrays = artifact.weights[name], {}
    for key, part in artifact.palettes[name].items():
        own = getattr(torch, str(DTYPES[part.tensor.dtype].torch))
        is_lut = key == "lut" and part.tensor.dtype == weight.dtype
        arrays[key] = torch.empty(part.tensor.shape, dtype=dtype if is_lut else own, device="meta")
    return PackedWeight(weight, arrays, dtype)


def _tie(model: PreTrainedModel, names: dict[str, str]) -> None:
    """Share a packed weight with the parameters that the model ties to it."""
    tied = cast("dict[str, str]", model.all_tied_weights_keys)
    for target, source in list(tied.items()):
        packed, other = (source, target) if source in names else (target, source)
        if packed not in names:
            continue
        del tied[target]
        if other not in names:
            path, _, local = packed.rpartition(".")
            shared = model.get_submodule(path).get_submodule(local + SUFFIX)
            replace_weight(model, other, cast("PackedWeight", shared), is_tied=True)


def check_places(config: dict[str, Any], artifact: Artifact) -> None:
    """Check that the model of a config.json has a place for every packed weight.

    Raises:
        UnsupportedFormat: transformers has no class of it.
        InvalidArtifact: the model has no such weight, or of another shape.
    """
    (architecture, *_) = config["architectures"]
    kind = getattr(transformers, str(architecture), None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise UnsupportedFormat(
            f"transformers {transformers.__version__} has no class {architecture}; upgrade it, or "
            "load the artifact with palettery.load_into"
        )
    with torch.device("meta"):
        model = kind(AutoConfig.for_model(**config))
    dict(_places(model, artifact, strict=True))
