"""Packed weights in the forward pass, against the dense weights that they stand for."""

import pytest
import torch
from torch import nn

from palettery import kernels
from palettery.app.artifacts import packed_weights
from palettery.app.artifacts.packed_weights import PackedWeight, replace_weight
from palettery.kernels import Palette
from palettery.schemas.artifact import PalettizedWeight

ROWS, COLUMNS = 16, 48
BATCHES = [(COLUMNS,), (1, COLUMNS), (2, 3, COLUMNS), (20, COLUMNS), (0, COLUMNS)]
SPECS = {
    "rows": {"n_bits": 4, "group_size": 4},
    "columns": {"n_bits": 4, "group_size": 16, "axis": 1},
    "whole": {"n_bits": 8},
    "three bits": {"n_bits": 3, "group_size": 8},
    "six bits across": {"n_bits": 6, "group_size": 8, "axis": 1},
    "scaled": {"n_bits": 2, "group_size": 8, "scaled": True},
    "scaled across": {"n_bits": 2, "group_size": 8, "axis": 1, "scaled": True},
    "integers": {"n_bits": 1, "lut": torch.int8},
    "vectors": {"n_bits": 4, "cluster_dim": 2},
    "unaligned": {"n_bits": 3, "group_size": 2, "axis": 1},
}


def packed_weight(
    shape=(ROWS, COLUMNS),
    *,
    n_bits,
    group_size=None,
    axis=0,
    cluster_dim=1,
    scaled=False,
    lut=None,
    dtype=torch.float32,
):
    """A packed weight, and the dense weight by the reference decoder."""
    rng = torch.Generator().manual_seed(n_bits)
    groups = [1] * len(shape)
    if group_size is not None:
        groups[axis] = shape[axis] // group_size
    table = torch.randn(*groups, 2**n_bits, cluster_dim, generator=rng)
    cells = (shape[0] // cluster_dim, *shape[1:])
    indices = torch.randint(0, 2**n_bits, cells, generator=rng, dtype=torch.uint8)
    arrays = {"lut": table.to(dtype)}
    if lut is not None:
        arrays["lut"] = (table * 40).to(lut)
        arrays["lut_scale"] = torch.full((*groups, 1, 1), 0.03)
    if scaled:
        arrays["per_channel_scale"] = torch.rand(shape[0], *[1] * (len(shape) - 1), generator=rng)
    kernel_arrays = {key: array.float().numpy() for key, array in arrays.items()}
    if lut is not None:
        kernel_arrays["lut"] = arrays["lut"].numpy()
    palette = Palette(indices=indices.numpy(), shape=shape, dtype="float32", **kernel_arrays)
    dense = torch.from_numpy(kernels.reconstruct(palette)).to(dtype)
    arrays["indices"] = torch.from_numpy(kernels.pack(indices.numpy(), n_bits))
    weight = PalettizedWeight(
        n_bits=n_bits,
        cluster_dim=cluster_dim,
        axis=axis,
        group_size=group_size,
        shape=shape,
        dtype={torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype],
    )
    return PackedWeight(weight, arrays), dense


@pytest.fixture
def linear(monkeypatch):
    """A function of a spec: a Linear with a packed weight, and one with the dense weight."""
    monkeypatch.setattr(packed_weights, "LEAST_PRODUCT", 1)
    monkeypatch.setattr(packed_weights, "BLOCK", 5 * COLUMNS)

    def make(**spec):
        packed, dense = packed_weight(**spec)
        expected = nn.Linear(COLUMNS, ROWS).to(dense.dtype).requires_grad_(False)
        expected.weight.copy_(dense)
        layer = nn.Linear(COLUMNS, ROWS).to(dense.dtype).requires_grad_(False)
        layer.load_state_dict(expected.state_dict())
        replace_weight(layer, "weight", packed)
        return layer, expected

    return make


@pytest.mark.parametrize("shape", BATCHES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_linear(linear, spec, shape):
    layer, expected = linear(**SPECS[spec])
    vectors = torch.randn(shape)
    assert torch.equal(layer.weight, expected.weight)
    result = layer(vectors)
    assert result.shape == (*shape[:-1], ROWS)
    torch.testing.assert_close(result, expected(vectors), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 20])
def test_half_precision_is_summed_in_float32(linear, dtype, batch):
    layer, expected = linear(n_bits=4, group_size=4, dtype=dtype)
    vectors = torch.randn(batch, COLUMNS).to(dtype)
    exact = expected.float()(vectors.float())
    result = layer(vectors)
    assert result.dtype == dtype
    error = torch.finfo(dtype).eps * exact.abs().max()
    assert float((result.float() - exact).abs().max()) <= 2 * error


def test_inputs_have_gradients(linear):
    layer, expected = linear(n_bits=4, group_size=4)
    gradients = []
    for each in (layer, expected):
        vectors = torch.ones(2, COLUMNS, requires_grad=True)
        each(vectors).square().sum().backward()
        gradients.append(vectors.grad)
    assert torch.equal(*gradients)


def test_other_inputs_are_torchs_own_error(linear):
    layer, _ = linear(n_bits=4)
    with pytest.raises(RuntimeError, match="dtype"):
        layer(torch.ones(1, COLUMNS, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="shape"):
        layer(torch.ones(1, COLUMNS - 1))


def test_an_exported_linear(linear):
    """Kernels of numba are no operators of torch, so graphs decode the weight."""
    layer, expected = linear(n_bits=4)
    vectors = torch.randn(1, COLUMNS)
    program = torch.export.export(layer, (vectors,))
    torch.testing.assert_close(program.module()(vectors), expected(vectors))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_convolution_is_decoded_to_the_bit(axis):
    packed, dense = packed_weight((8, 8, 3, 3), n_bits=4, group_size=4, axis=axis)
    assert torch.equal(packed(), dense)
    layer = nn.Conv2d(8, 8, 3, bias=False).requires_grad_(False)
    replace_weight(layer, "weight", packed)
    image = torch.randn(1, 8, 6, 6)
    assert torch.equal(layer(image), nn.functional.conv2d(image, dense))
