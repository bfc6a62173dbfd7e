"""Quantization of the entries of lookup tables."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from palettery.schemas.base import Schema
from palettery.schemas.config.granularity import PerTensor

DERIVED_KEYS = frozenset({"n_bits", "target_dtype", "quant_min", "quant_max", "_quant_range"})
"""Derived keys in dumps of coreai-opt, which are ignored."""

_ALIASES = {"float8_e4m3": "float8_e4m3fn", "float8_e8m0": "float8_e8m0fnu"}
_CLASSES = {
    "_DefaultFakeQuantizeImpl": "default",
    "_DefaultQParamsCalculator": "default",
    "StaticQParamsCalculator": "static",
    "DynamicQParamsCalculator": "dynamic",
    "MovingAverageQParamsCalculator": "moving_average",
    "GlobalMinMaxQParamsCalculator": "global_minmax",
    "MinMaxRangeCalculator": "minmax",
}
"""Registered names of coreai-opt's classes, by class name."""

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]


def _dtype_name(value: object) -> object:
    """Return the name of a dtype, such as `float8_e4m3fn`, from a torch dtype, text or alias."""
    text = str(value)
    name = text.removeprefix("torch.")
    return _ALIASES.get(name, name) if isinstance(value, str) or name != text else value


def _registered_name(value: object) -> object:
    """Return the registered name of a class, such as `static`, from the class or text."""
    path = value.__name__ if isinstance(value, type) else value
    if not isinstance(path, str):
        return value
    return _CLASSES.get(path.removesuffix("'>").rpartition(".")[2], path)


class QuantizationSpec(Schema):
    """Quantization of a palette's entries, one scale and zero point per palette."""

    dtype: Annotated[
        Literal["int8", "uint8", "float8_e4m3fn", "float8_e5m2"],
        BeforeValidator(_dtype_name, json_schema_input_type=str),
    ] = "int8"
    """Dtype of the stored entries: int8, uint8, float8_e4m3fn or float8_e5m2; `torch.int8` and so
    on, and `float8_e4m3`, are accepted, too."""
    qscheme: Literal["symmetric", "symmetric_with_clipping", "asymmetric"] = "symmetric"
    """Quantization scheme: how range and zero point are chosen; `symmetric` for float8."""
    qformulation: Literal["zp"] = "zp"
    """Quantization formula: value = (stored - zero point) * scale."""
    granularity: PerTensor = PerTensor()
    """Always per tensor, which means per palette."""
    fake_quantize_cls: Annotated[Literal["default"], BeforeValidator(_registered_name)] = "default"
    """Training option of coreai-opt, without effect here."""
    qparam_calculator_cls: Annotated[
        Literal["default", "static", "dynamic", "moving_average", "global_minmax"],
        BeforeValidator(_registered_name),
    ] = "default"
    """Training option of coreai-opt, without effect here."""
    range_calculator_cls: Annotated[Literal["minmax"], BeforeValidator(_registered_name)] = "minmax"
    """Method that determines the range of a palette."""
    float_range: tuple[Finite | None, Finite | None] = (None, None)
    """Fixed ends of the range, which includes 0; null for the palette's own."""
    scale_dtype: Annotated[
        Literal["float8_e8m0fnu"] | None,
        BeforeValidator(_dtype_name, json_schema_input_type=str | None),
    ] = None
    """`float8_e8m0fnu` for power-of-two scales, with float8 entries only; null for float32."""

    @model_validator(mode="before")
    @classmethod
    def _drop_computed(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in DERIVED_KEYS}

    @field_validator("qscheme")
    @classmethod
    def _check_qscheme(cls, value: str, info: ValidationInfo) -> str:
        dtype = info.data.get("dtype", "")
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
        dtype = info.data.get("dtype", "float8")
        if value is not None and not dtype.startswith("float8"):
            raise ValueError(f"scale_dtype must be null with dtype {dtype}; got {value!r}")
        return value
