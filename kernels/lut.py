"""Quantization of lookup tables: int8, uint8 or float8 entries with one scale per group.

`q = clamp(round(x / scale) + zero_point)` and `x ~ (q - zero_point) * scale`. Scale, zero point
and entries are bit-equal to coreai-opt 0.4.0, so the order of the roundings below matters: the
range and the scale are computed in the LUT's own dtype, the entries in float32.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from palettery.kernels.errors import NonFiniteError
from palettery.kernels.settings import PaletteSettings

FloatRange = tuple[float | None, float | None]
EncodedLut = tuple[NDArray[Any], NDArray[np.float32] | None, NDArray[Any] | None]
"""Entries, scale and zero point, as an artifact stores them."""

_ENTRY_DTYPES: dict[str, np.dtype[np.generic]] = {
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
_ENTRY_RANGES = {
    "int8": (-128.0, 127.0),
    "uint8": (0.0, 255.0),
    "float8_e4m3fn": (-448.0, 448.0),
    "float8_e5m2": (-57344.0, 57344.0),
}
# Exponent of the largest power of two that each float8 format can represent.
_MAX_EXPONENTS = {"float8_e4m3fn": 8, "float8_e5m2": 15}
_SMALLEST_SCALE = float(np.finfo(np.float32).eps)


def encode_lut(
    centroids: NDArray[np.float64], dtype: np.dtype[Any], settings: PaletteSettings
) -> EncodedLut:
    """Return centroids rounded to the weight's dtype and, if the settings say so, quantized.

    Shapes: as in `Palette`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # `build_lut` rejects the result
        lut = centroids.astype(dtype)
        if settings.lut_dtype is None:
            return lut, None, None
        return quantize_lut(
            lut,
            settings.lut_dtype,
            settings.lut_scheme,
            settings.lut_float_range,
            settings.lut_scale_dtype,
        )


def build_lut(
    centroids: NDArray[np.float64], dtype: np.dtype[Any], settings: PaletteSettings
) -> tuple[EncodedLut, NDArray[Any]]:
    """Return the encoded LUT, and its values decoded to the weight's dtype.

    Raises:
        NonFiniteError: differences of the values overflow float32, or float64 for a float64 weight.
    """
    encoded = encode_lut(centroids, dtype, settings)
    lut = dense_lut(encoded[0], dtype, *encoded[1:])
    values = lut if lut.dtype == np.float64 else lut.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        span = values.max() - values.min()
    if not np.isfinite(span):
        raise NonFiniteError
    return encoded, lut


def zeroed_palette_notes(
    centroids: NDArray[np.float64], lut: NDArray[Any], settings: PaletteSettings
) -> tuple[str, ...]:
    """Return a note if rounding or quantization turned whole palettes into zeros.

    Shapes: both [..., K, cluster_dim], with any number of axes before them.
    """
    lost = (centroids != 0).any(axis=(-2, -1)) & ~(lut != 0).any(axis=(-2, -1))
    if not lost.any():
        return ()
    peak = np.abs(centroids[lost]).max()
    return (
        f"the palettes of {int(lost.sum())} of {lost.size} groups became zeros: their entries, up "
        f"to {peak:.3g}, are too small for {settings.lut_dtype or 'the dtype of the weight'} with "
        "the smallest scale; leave lut_qspec out for this tensor",
    )


def dense_lut(
    lut: NDArray[Any],
    dtype: np.dtype[Any],
    scale: NDArray[np.float32] | None,
    zero_point: NDArray[Any] | None,
) -> NDArray[Any]:
    """Return the values of an encoded LUT in the weight's dtype."""
    if scale is None:
        return lut
    with np.errstate(over="ignore", invalid="ignore"):
        return dequantize_lut(lut, scale, zero_point).astype(dtype)


def quantize_lut(
    lut: NDArray[np.floating],
    lut_dtype: str,
    scheme: str,
    float_range: FloatRange | None,
    scale_dtype: str | None,
) -> tuple[NDArray[np.generic], NDArray[np.float32], NDArray[np.integer] | None]:
    """Return entries, scale and zero point of every group's palette; float8 has no zero point.

    `float_range` fixes either end of the range instead of taking it from the entries;
    `scale_dtype` "float8_e8m0fnu" rounds float8 scales to powers of two. The arguments are not
    checked here, since `PaletteSettings` checks them.

    Shapes: lut [..., K, cluster_dim] in the weight's dtype -> entries like lut,
        scale and zero point [..., 1, 1].
    Source: coreai-opt 0.4.0 `QuantizationSpec`; for e8m0, OCP Microscaling Formats 1.0, 6.3.
    """
    low, high = _ENTRY_RANGES[lut_dtype]
    if scheme == "symmetric_with_clipping" and lut_dtype == "int8":
        low = -high
    minimum, maximum = _value_range(lut, float_range or (None, None))
    if scale_dtype is not None:
        scale = _power_of_two_scale(np.maximum(-minimum, maximum), _MAX_EXPONENTS[lut_dtype])
    else:
        scale, zero_point = _affine_parameters(
            minimum, maximum, low, high, asymmetric=scheme == "asymmetric"
        )
    with np.errstate(over="ignore"):  # entries far outside a fixed range are clipped below
        entries = lut.astype(np.float32) / scale
    dtype = _ENTRY_DTYPES[lut_dtype]
    if lut_dtype in _MAX_EXPONENTS:
        return np.clip(entries, low, high).astype(dtype), scale, None
    entries = np.clip(np.rint(entries) + zero_point, low, high)
    return entries.astype(dtype), scale, zero_point.astype(dtype)


def dequantize_lut(
    entries: NDArray[np.generic],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.integer] | None,
) -> NDArray[np.float32]:
    """Return the float32 values of quantized entries.

    Shapes: entries [..., K, cluster_dim], scale and zero point one per group
        -> like entries.
    """
    values = entries.astype(np.float32)
    if zero_point is not None:
        values -= zero_point.astype(np.float32)
    return values * scale


def _value_range(
    lut: NDArray[np.floating], float_range: FloatRange
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return minimum and maximum of 0 and each group's entries, unless `float_range` fixes them."""
    minimum = np.minimum(lut.min(axis=(-2, -1), keepdims=True), 0)
    maximum = np.maximum(lut.max(axis=(-2, -1), keepdims=True), 0)
    # With both ends fixed the range stays float32; with one it takes the LUT's dtype.
    dtype = lut.dtype if None in float_range else np.float32
    fixed_minimum, fixed_maximum = float_range
    if fixed_minimum is not None:
        minimum = np.full_like(minimum, fixed_minimum, dtype=dtype)
    if fixed_maximum is not None:
        maximum = np.full_like(maximum, fixed_maximum, dtype=dtype)
    return minimum, maximum


def _affine_parameters(
    minimum: NDArray[np.floating],
    maximum: NDArray[np.floating],
    low: float,
    high: float,
    *,
    asymmetric: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return scale and zero point that map [minimum, maximum] to [low, high].

    A symmetric range extends the interval to equal magnitudes on both sides of 0.
    """
    lut_type = minimum.dtype.type  # so that arithmetic stays in float16 or bfloat16
    if asymmetric:
        steps = lut_type(high - low)
        with np.errstate(over="ignore"):
            scale = (maximum - minimum) / steps
        # Where the span overflows the dtype, coreai-opt's scale is infinite and its LUT NaN.
        scale = np.where(np.isfinite(scale), scale, maximum / steps - minimum / steps)
        scale = np.maximum(scale, lut_type(_SMALLEST_SCALE))
        zero_point = np.clip(
            lut_type(low) - np.rint(minimum / scale), lut_type(low), lut_type(high)
        )
    else:
        scale = np.maximum(-minimum, maximum) / lut_type((high - low) / 2)
        scale = np.maximum(scale, lut_type(_SMALLEST_SCALE))
        zero_point = np.full_like(scale, np.trunc((high + low + 1) / 2))
    return scale.astype(np.float32), zero_point.astype(np.float32)


def _power_of_two_scale(magnitude: NDArray[np.floating], max_exponent: int) -> NDArray[np.float32]:
    """Return 2**(floor(log2 magnitude) - max_exponent), at least 2**-126, by exponent bits."""
    exponent = (magnitude.astype(np.float32).view(np.int32) >> 23) - max_exponent
    scale: NDArray[np.float32] = (np.maximum(exponent, 1) << 23).view(np.float32)
    return scale
