"""Our error is at most coreai-opt's, for every spec both can express."""

import logging

import pytest

from palettery.kernels import PaletteSettings, palettize, reconstruct
from tests.spanning import spanning

torch = pytest.importorskip("torch")
coreai = pytest.importorskip("coreai_opt.palettization")
granularity = pytest.importorskip("coreai_opt.palettization.spec")

pytestmark = pytest.mark.filterwarnings("ignore")

SLACK = 1e-5
DECIMALS = 4
GRANULARITIES = [(None, 0), (4, 0), (16, 0), (4, 1), (16, 1)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CASES = spanning([1, 2, 3, 4, 6, 8], GRANULARITIES, [False, True], [True, False], DTYPES)


def layers(dtype):
    """A linear and a convolution with weights as networks have them."""
    generator = torch.Generator().manual_seed(3)
    linear, conv = torch.nn.Linear(32, 48, bias=False), torch.nn.Conv2d(16, 16, 3, bias=False)
    for layer in (linear, conv):
        weight = 0.05 * torch.randn(layer.weight.shape, generator=generator)
        layer.weight = torch.nn.Parameter(weight)
    return torch.nn.ModuleDict({"linear": linear, "conv": conv}).to(dtype).eval()


class Once(torch.nn.Module):
    """Runs each layer once, so that coreai-opt sees its op."""

    def __init__(self, dtype):
        super().__init__()
        self.layers = layers(dtype)

    def forward(self, rows, images):
        return self.layers["linear"](rows), self.layers["conv"](images)


def peer_config(n_bits, group_size, axis, scaled, fast):
    each = {"type": "per_tensor"}
    if group_size is not None:
        each = {"type": "per_grouped_channel", "group_size": group_size, "axis": axis}
    spec = {"n_bits": n_bits, "granularity": each, "enable_per_channel_scale": scaled}
    module = {
        "op_state_spec": {"weight": spec},
        "enable_fast_kmeans_mode": fast,
        "rounding_precision": DECIMALS,
    }
    return coreai.KMeansPalettizerConfig.from_dict(
        {"kmeans_palettization_config": {"global_config": module}}
    )


def squared_error(weight, dense):
    return float(((weight.double() - dense.double()) ** 2).sum())


@pytest.fixture(scope="module", autouse=True)
def quiet_and_alone():
    """The peer on one thread is many times as fast on layers this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("n_bits", "groups", "scaled", "fast", "dtype"), CASES, ids=str)
def test_error_is_at_most_the_peers(n_bits, groups, scaled, fast, dtype):
    group_size, axis = groups
    model = Once(dtype)
    originals = {name: layer.weight.detach().clone() for name, layer in model.layers.items()}
    inputs = (torch.zeros(1, 32, dtype=dtype), torch.zeros(1, 16, 4, 4, dtype=dtype))
    config = peer_config(n_bits, group_size, axis, scaled, fast)
    prepared = coreai.KMeansPalettizer(model, config).prepare(inputs)
    for name, weight in originals.items():
        palette = palettize(
            weight,
            PaletteSettings(
                n_bits,
                axis=axis,
                group_size=group_size,
                per_channel_scale=scaled,
                rounding_precision=DECIMALS if fast else None,
            ),
        )
        ours = squared_error(weight, reconstruct(palette))
        theirs = squared_error(weight, prepared.layers[name].weight.detach())
        assert ours <= theirs * (1 + SLACK), name
