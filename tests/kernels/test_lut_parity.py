"""LUT quantization against coreai-opt, bit for bit."""

from itertools import product

import ml_dtypes
import numpy as np
import pytest
import torch
from coreai_opt.config.spec import CompressionTargetTensor
from coreai_opt.quantization.spec import (
    PerChannelGranularity,
    QuantizationComponentFactory,
    QuantizationSpec,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from palettery.kernels.lut import FloatRange, dequantize_lut, quantize_lut
from tests.spanning import spanning

INTEGER = list(product(["int8", "uint8"], ["symmetric", "symmetric_with_clipping", "asymmetric"]))
FLOAT8 = [("float8_e4m3fn", "symmetric"), ("float8_e5m2", "symmetric")]
CASES = [(*case, None) for case in INTEGER + FLOAT8] + [(*c, "float8_e8m0fnu") for c in FLOAT8]
RANGES: list[FloatRange] = [(None, None), (None, 0.7), (-0.3, None), (-0.3, 0.7), (0.0, 1.5)]
TORCH_DTYPE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def oracle(
    lut: NDArray[np.float32], dtype: str, case: tuple[str, str, str | None], ends: FloatRange
) -> tuple[torch.Tensor, NDArray[np.float32], NDArray[np.int32] | None, NDArray[np.float32]]:
    """What coreai-opt makes of `lut`, one quantization block per group."""
    lut_dtype, scheme, scale_dtype = case
    quantizer = QuantizationComponentFactory.create_fake_quantizer(
        spec=QuantizationSpec(
            dtype=lut_dtype,
            qscheme=scheme,
            float_range=list(ends),
            scale_dtype=scale_dtype,
            granularity=PerChannelGranularity(axis=0),
        ),
        quantization_target=CompressionTargetTensor.LUT,
    )
    tensor = torch.from_numpy(lut).to(TORCH_DTYPE[dtype])
    quantizer(tensor)
    scale, zero_point, minval = quantizer.calculate_qparams()
    entries = quantizer.quantize(tensor, scale, zero_point, minval)
    dense = quantizer.dequantize(entries, scale, zero_point, minval)
    return entries, scale.numpy(), None if zero_point is None else zero_point.numpy(), dense.numpy()


def assert_parity(
    lut: NDArray[np.float32], dtype: str, case: tuple[str, str, str | None], ends: FloatRange
) -> None:
    expected, expected_scale, expected_zero_point, expected_dense = oracle(lut, dtype, case, ends)
    ours = lut.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    lut_dtype, scheme, scale_dtype = case
    entries, scale, zero_point = quantize_lut(ours[:, None], lut_dtype, scheme, ends, scale_dtype)
    assert_array_equal(
        entries[:, 0].view(np.uint8), expected.view(torch.uint8).numpy(), strict=True
    )
    assert_array_equal(scale.ravel(), expected_scale.ravel(), strict=True)
    assert (zero_point is None) == (expected_zero_point is None)
    if zero_point is not None and expected_zero_point is not None:
        assert_array_equal(zero_point.ravel(), expected_zero_point.ravel())
        assert zero_point.dtype == entries.dtype
    assert_array_equal(dequantize_lut(entries, scale, zero_point)[:, 0], expected_dense)


@pytest.mark.parametrize(
    ("dtype", "case", "ends"), spanning(list(TORCH_DTYPE), CASES, RANGES), ids=str
)
def test_every_setting(dtype: str, case: tuple[str, str, str | None], ends: FloatRange) -> None:
    rng = np.random.default_rng(0)
    magnitudes = np.float32(10.0) ** rng.integers(-9, 4, size=(64, 1, 1))
    lut = (rng.normal(size=(64, 16, 2)) * magnitudes).astype(np.float32)
    lut[0], lut[1], lut[2] = 0, np.abs(lut[1]), -np.abs(lut[2])
    assert_parity(lut, dtype, case, ends)


@given(
    entries=st.lists(st.floats(-32752, 32752, width=16), min_size=4, max_size=4),
    dtype=st.sampled_from(list(TORCH_DTYPE)),
    case=st.sampled_from(CASES),
    ends=st.sampled_from(RANGES),
)
@settings(deadline=None, max_examples=100)
def test_any_palette(
    entries: list[float], dtype: str, case: tuple[str, str, str | None], ends: FloatRange
) -> None:
    assert_parity(np.array(entries, np.float32).reshape(1, 4, 1), dtype, case, ends)
