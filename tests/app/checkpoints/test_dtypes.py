"""Dtypes against torch's and its graph schema's."""

import torch
from torch._export.serde.schema import ScalarType

from palettery.app.checkpoints.dtypes import DTYPE_BITS, DTYPES, NAME_OF_TORCH_DTYPE


def test_sizes_are_numpys_and_torchs():
    for name, dtype in DTYPES.items():
        assert DTYPE_BITS[name] == dtype.bits
        if dtype.numpy is not None:
            assert dtype.numpy.itemsize * 8 == dtype.bits
        if dtype.torch is not None:
            assert getattr(torch, dtype.torch).itemsize * 8 == max(dtype.bits, 8)


def test_torch_names_lead_back():
    for torch_name, name in NAME_OF_TORCH_DTYPE.items():
        assert DTYPES[name].torch == torch_name
    assert "float4_e2m1fn_x2" not in NAME_OF_TORCH_DTYPE


def test_numbers_are_those_of_the_graph_schema():
    known = {
        "BOOL": "BOOL", "U8": "BYTE", "I8": "CHAR", "I16": "SHORT", "I32": "INT", "I64": "LONG",
        "F16": "HALF", "F32": "FLOAT", "F64": "DOUBLE", "C64": "COMPLEXFLOAT", "BF16": "BFLOAT16",
        "U16": "UINT16", "F8_E4M3": "FLOAT8E4M3FN", "F8_E5M2": "FLOAT8E5M2",
        "F8_E4M3FNUZ": "FLOAT8E4M3FNUZ", "F8_E5M2FNUZ": "FLOAT8E5M2FNUZ",
    }  # fmt: skip
    for name, theirs in known.items():
        assert DTYPES[name].number == ScalarType[theirs]
    numbers = [dtype.number for dtype in DTYPES.values() if dtype.number is not None]
    assert len(numbers) == len(set(numbers))
