"""Quantization of the entries of lookup tables."""

from enum import Enum, StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import PerTensorGranularity

DERIVED_KEYS = frozenset({"n_bits", "target_dtype", "quant_min", "quant_max", "_quant_range"})
"""Keys in coreai-opt's dumps that it computes from the others; they are ignored."""

_DTYPE_ALIASES = {"float8_e4m3": "float8_e4m3fn", "float8_e8m0": "float8_e8m0fnu"}
_REGISTERED_NAMES = {
    "_DefaultFakeQuantizeImpl": "default",
    "_DefaultQParamsCalculator": "default",
    "StaticQParamsCalculator": "static",
    "DynamicQParamsCalculator": "dynamic",
    "MovingAverageQParamsCalculator": "moving_average",
    "GlobalMinMaxQParamsCalculator": "global_minmax",
    "MinMaxRangeCalculator": "minmax",
}
"""Name of a class of coreai-opt -> the name that configs use for it."""

_ENUM_PREFIXES = ("QuantizationScheme.", "QuantizationFormulation.")
"""Prefixes of enumeration members as text, such as `QuantizationScheme.SYMMETRIC`."""

FiniteFloat = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _dtype_name(value: object) -> object:
    """Return the name of a dtype, such as `float8_e4m3fn`, from a torch dtype, text or alias."""
    text = str(value)
    name = text.removeprefix("torch.")
    return _DTYPE_ALIASES.get(name, name) if isinstance(value, str) or name != text else value


def _enum_value(value: object) -> object:
    """Return the value of an enumeration member, such as `symmetric`, from it or its text."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str) and value.startswith(_ENUM_PREFIXES):
        return value.partition(".")[2].lower()
    return value


def _registered_name(value: object) -> object:
    """Return the name that configs use for a class, such as `static`, from the class or its text.

    The text may be a name, a dotted path, or the `repr` of a class.
    """
    class_name = value.__name__ if isinstance(value, type) else value
    if not isinstance(class_name, str):
        return value
    return _REGISTERED_NAMES.get(class_name.removesuffix("'>").rpartition(".")[2], class_name)


class QuantizationScheme(StrEnum):
    """Values of `QuantizationSpec.qscheme`, with coreai-opt's names."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"
    SYMMETRIC_WITH_CLIPPING = "symmetric_with_clipping"


class QuantizationFormulation(StrEnum):
    """Values of `QuantizationSpec.qformulation`; palettes support only `zp`."""

    ZP = "zp"
    MINVAL = "minval"


class QuantizationSpec(Schema):
    """Quantization of palette entries, with one scale and zero point per palette."""

    dtype: Annotated[
        Literal["int8", "uint8", "float8_e4m3fn", "float8_e5m2"],
        BeforeValidator(_dtype_name, json_schema_input_type=str),
    ] = "int8"
    """Dtype of the stored entries: int8, uint8, float8_e4m3fn or float8_e5m2. Names such as
    `torch.int8`, and `float8_e4m3`, are accepted, too."""
    qscheme: Annotated[
        Literal["symmetric", "symmetric_with_clipping", "asymmetric"],
        BeforeValidator(_enum_value),
    ] = "symmetric"
    """Quantization scheme, which determines range and zero point; `symmetric` for float8."""
    qformulation: Annotated[Literal["zp"], BeforeValidator(_enum_value)] = "zp"
    """Quantization formula: value = (stored - zero point) * scale."""
    granularity: PerTensorGranularity = PerTensorGranularity()
    """Always `per_tensor`, which means one scale and zero point per palette."""
    fake_quantize_cls: Annotated[Literal["default"], BeforeValidator(_registered_name)] = "default"
    """Training option of coreai-opt, without effect here."""
    qparam_calculator_cls: Annotated[
        Literal["default", "static", "dynamic", "moving_average", "global_minmax"],
        BeforeValidator(_registered_name),
    ] = "default"
    """Training option of coreai-opt, without effect here."""
    range_calculator_cls: Annotated[Literal["minmax"], BeforeValidator(_registered_name)] = "minmax"
    """Method that determines the range of a palette: always from its minimum and maximum."""
    float_range: tuple[FiniteFloat | None, FiniteFloat | None] = (None, None)
    """Fixed minimum and maximum of the range, which must include 0; null for the palette's."""
    scale_dtype: Annotated[
        Literal["float8_e8m0fnu"] | None,
        BeforeValidator(_dtype_name, json_schema_input_type=str | None),
    ] = None
    """`float8_e8m0fnu` for power-of-two scales, with float8 entries only; null for float32."""

    @model_validator(mode="before")
    @classmethod
    def _drop_derived_keys(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in DERIVED_KEYS}

    @field_validator("qscheme")
    @classmethod
    def _check_qscheme(cls, value: str, info: ValidationInfo) -> str:
        dtype = info.data.get("dtype", "")  # missing if it is invalid itself
        if dtype.startswith("float8") and value != "symmetric":
            raise ValueError(f"qscheme must be symmetric with dtype {dtype}; got {value!r}")
        return value

    @field_validator("qparam_calculator_cls")
    @classmethod
    def _check_calculator(cls, value: str, info: ValidationInfo) -> str:
        if value == "dynamic" and info.data.get("qscheme") == "symmetric_with_clipping":
            raise ValueError(
                "qparam_calculator_cls must not be dynamic with qscheme symmetric_with_clipping"
            )
        return value

    @field_validator("float_range")
    @classmethod
    def _check_float_range(
        cls, value: tuple[float | None, float | None]
    ) -> tuple[float | None, float | None]:
        low, high = value
        if (low is not None and low > 0) or (high is not None and high < 0) or low == high == 0:
            raise ValueError(
                "float_range must be [min, max] with min <= 0 <= max and min < max; "
                f"got {list(value)}"
            )
        return value

    @field_validator("scale_dtype")
    @classmethod
    def _check_scale_dtype(cls, value: str | None, info: ValidationInfo) -> str | None:
        dtype = info.data.get("dtype", "float8")  # missing if it is invalid itself
        if value is not None and not dtype.startswith("float8"):
            raise ValueError(f"scale_dtype must be null with dtype {dtype}; got {value!r}")
        return value
