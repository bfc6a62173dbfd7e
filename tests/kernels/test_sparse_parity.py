"""On sparse weights, our error is at most coreai-opt 0.4's, and zeros are exactly zero."""

import logging
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pytest

from palettery.kernels import PaletteSettings, palettize, reconstruct

torch = pytest.importorskip("torch")
coreai = pytest.importorskip("coreai_opt.palettization")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(version("coreai-opt") < "0.4", reason="sparse weights came with 0.4"),
]

CASES, FAST_CASES = 150, 16
KINDS = ("random", "2:4", "rows", "columns", "clustered", "constant", "one row", "tiny")
SCALAR_SLACK, VECTOR_SLACK = 1e-5, 1e-3


@dataclass(frozen=True)
class Case:
    """A weight and a spec, drawn by number."""

    weight: np.ndarray
    spec: dict
    fast: bool
    threshold: float

    @classmethod
    def draw(cls, number):
        rng = np.random.default_rng(number)
        kind, dim = KINDS[number % len(KINDS)], int(rng.choice([1, 1, 2, 4]))
        group = rng.choice([0, 4, 8]) if kind != "one row" else 0
        axis = int(rng.integers(2)) if dim == 1 else 0
        granularity = {"type": "per_tensor"}
        if group:
            granularity = {"type": "per_grouped_channel", "group_size": int(group), "axis": axis}
        rows = 1 if kind == "one row" else int(rng.choice([8, 16, 32]))
        if kind == "one row":
            dim = 1
        spec = {
            "n_bits": int(rng.choice([1, 2, 3, 4, 6])),
            "granularity": granularity,
            "cluster_dim": dim,
            "enable_per_channel_scale": bool(rng.integers(2)),
        }
        weight = zeroed(rng, kind, rng.normal(0, 0.05, (rows, int(rng.choice([16, 40, 64])))))
        if kind == "clustered":
            fill_vectors(weight, int(group) or rows, dim)
        return cls(weight, spec, dim == 1 and bool(rng.integers(2)), float(rng.choice([0, 0.2])))

    def settings(self):
        granularity = self.spec["granularity"]
        return PaletteSettings(
            self.spec["n_bits"],
            axis=granularity.get("axis", 0),
            group_size=granularity.get("group_size"),
            cluster_dim=self.spec["cluster_dim"],
            per_channel_scale=self.spec["enable_per_channel_scale"],
            rounding_precision=4 if self.fast else None,
            sparsity_threshold=self.threshold,
        )

    def theirs(self):
        """The weight as coreai-opt reconstructs it."""
        model = torch.nn.Sequential(torch.nn.Linear(*self.weight.shape[::-1], bias=False)).eval()
        model[0].weight = torch.nn.Parameter(torch.from_numpy(self.weight.copy()))
        spec = self.spec | {"sparsity_detection_threshold": self.threshold}
        module = {"op_state_spec": {"weight": spec}, "enable_fast_kmeans_mode": self.fast}
        config = coreai.KMeansPalettizerConfig.from_dict(
            {"kmeans_palettization_config": {"global_config": module}}
        )
        prepared = coreai.KMeansPalettizer(model, config).prepare(
            (torch.zeros(1, self.weight.shape[1]),)
        )
        return prepared[0].weight.detach().numpy()


def zeroed(rng, kind, weight):
    """A weight with zeros of some kind."""
    if kind == "2:4":
        quads = weight.reshape(-1, 4)
        np.put_along_axis(quads, np.argsort(np.abs(quads), axis=1)[:, :2], 0, axis=1)
    elif kind == "rows":
        weight[rng.random(len(weight)) < 0.5] = 0
        weight[0] = 0
    elif kind == "columns":
        weight[:, rng.random(weight.shape[1]) < 0.5] = 0
        weight[:, 0] = 0
    else:
        weight[rng.random(weight.shape) < rng.uniform(0.2, 0.9)] = 0
        weight[0, 0] = -0.0
    if kind == "clustered":
        weight = np.round(weight * 40) / 40
    elif kind == "constant":
        weight = np.where(weight != 0, 0.3, 0)
    elif kind == "tiny":
        weight *= 1e-4
    return weight.astype(np.float32)


def fill_vectors(weight, group_size, dim):
    """Clear weights of each group until vectors are whole: which of equal ones is dropped, a sort
    decides there, and all later vectors depend on it.
    """
    for first in range(0, len(weight), group_size):
        group = weight[first : first + group_size].reshape(-1)
        places = np.flatnonzero(group)
        group[places[places.size - places.size % dim :]] = 0


def squared_error(one, other):
    return float((np.subtract(one, other, dtype=np.float64) ** 2).sum())


@pytest.fixture(autouse=True)
def quiet_and_alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def compare(number):
    """Our squared error and theirs, and the case."""
    case = Case.draw(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = case.theirs()
    palette = palettize(case.weight, case.settings())
    ours = reconstruct(palette)
    assert (
        palette.mask is not None or np.count_nonzero(case.weight == 0) < case.threshold * ours.size
    )
    if palette.mask is not None:
        assert not ours[case.weight == 0].any()
    return squared_error(case.weight, ours), squared_error(case.weight, theirs), case


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, marks=() if number < FAST_CASES else pytest.mark.heavy)
        for number in range(CASES)
    ],
)
def test_error_is_at_most_the_peers(number):
    ours, theirs, case = compare(number)
    slack = SCALAR_SLACK if case.spec["cluster_dim"] == 1 else VECTOR_SLACK
    noise = 1e-14 * float((case.weight.astype(np.float64) ** 2).sum())  # of float32 values
    assert ours <= theirs * (1 + slack) + noise, case
