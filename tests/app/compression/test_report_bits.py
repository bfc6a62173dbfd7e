"""Bits per weight are what coreai-opt counts on the same model."""

import logging
import operator

import pytest
import torch
from coreai_opt.inspection import bits_per_weight
from coreai_opt.palettization import KMeansPalettizer
from coreai_opt.palettization import KMeansPalettizerConfig as PeerConfig
from safetensors.torch import save_file

from palettery.app.cli.offline import compress
from palettery.schemas.config import KMeansPalettizerConfig
from tests.spanning import every_value

pytestmark = pytest.mark.filterwarnings("ignore")

GROUPS = {"type": "per_grouped_channel", "group_size": 8, "axis": 0}
COLUMNS = {"type": "per_grouped_channel", "group_size": 4, "axis": 1}
INTEGER, FLOAT8 = {"dtype": "int8"}, {"dtype": "float8_e4m3fn"}
SPECS = {
    "per tensor": {"n_bits": 4},
    "rows": {"n_bits": 3, "granularity": GROUPS},
    "columns": {"n_bits": 2, "granularity": COLUMNS},
    "scaled": {"n_bits": 4, "granularity": GROUPS, "enable_per_channel_scale": True},
    "vectors": {"n_bits": 2, "granularity": GROUPS, "cluster_dim": 2},
    "int8 LUT": {"n_bits": 4, "lut_qspec": INTEGER},
    "asymmetric LUT": {
        "n_bits": 4,
        "granularity": GROUPS,
        "lut_qspec": {"dtype": "uint8", "qscheme": "asymmetric"},
    },
    "float8 LUT": {"n_bits": 4, "granularity": GROUPS, "lut_qspec": FLOAT8},
    "all of it": {
        "n_bits": 3,
        "granularity": GROUPS,
        "cluster_dim": 4,
        "enable_per_channel_scale": True,
        "lut_qspec": {"dtype": "int8", "qscheme": "asymmetric"},
    },
}


class Small(torch.nn.Module):
    """Layers that are palettized, and some that are not."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(16, 24)
        self.norm = torch.nn.BatchNorm1d(24)
        self.block = torch.nn.Sequential(torch.nn.Linear(24, 32, bias=False), torch.nn.ReLU())
        self.head = torch.nn.Linear(32, 8)
        self.twin = self.head

    def forward(self, rows):
        return self.twin(self.block(self.norm(self.first(rows))))


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("name", "dtype"), every_value(list(SPECS), [torch.float32, torch.float16]), ids=str
)
def test_bits_per_weight_are_the_peers(name, dtype, tmp_path):
    spec = SPECS[name]
    torch.manual_seed(0)
    model = Small().to(dtype).eval()
    save_file(
        {name: value for name, value in model.state_dict().items() if "twin" not in name},
        tmp_path / "model.safetensors",
    )
    module = {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": False}
    document = {"kmeans_palettization_config": {"global_config": module}}
    peer = KMeansPalettizer(model, PeerConfig.from_dict(document))
    theirs = bits_per_weight(peer.prepare((torch.zeros(2, 16, dtype=dtype),)))

    report = compress(
        [tmp_path / "model.safetensors"],
        KMeansPalettizerConfig.from_dict(document),
        tmp_path / "out.safetensors",
        operator.add,
    )
    ours = {module.name: module.bits_per_weight for module in report.modules}
    assert ours == pytest.approx(theirs.per_module_map, rel=1e-12)
    assert report.bits_per_weight == pytest.approx(theirs.bpw, rel=1e-12)
    assert sum(module.weights for module in report.modules) == theirs.total_weights
