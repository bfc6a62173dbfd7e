"""The same documents are valid in coreai-opt 0.4, bar what docs/compatibility.md lists."""

import copy
import json

import pytest

from palettery.schemas.config import KMeansPalettizerConfig, parse_config
from tests.config_documents import KEY, Documents, meaning

Peer = pytest.importorskip("coreai_opt.palettization").KMeansPalettizerConfig

pytestmark = pytest.mark.filterwarnings("ignore")


def peer_of(config):
    return Peer.from_dict(config.to_dict())


def loaded(load, document):
    """What a document loads as; None when it is refused."""
    try:
        return load(copy.deepcopy(document))
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError):
        return None


@pytest.mark.parametrize("documents", [400, pytest.param(3000, marks=pytest.mark.heavy)])
def test_the_same_documents_are_accepted_and_mean_the_same(documents):
    made = Documents(seed=7)
    accepted = 0
    for _ in range(documents):
        document = made.document()
        ours = loaded(KMeansPalettizerConfig.from_dict, document)
        theirs = loaded(Peer.from_dict, document)
        assert (ours is None) == (theirs is None), document
        if ours is not None:
            accepted += 1
            assert meaning(peer_of(ours).to_dict()) == meaning(theirs.to_dict()), document
            assert parse_config(json.dumps(document)) == ours
            assert meaning(
                peer_of(KMeansPalettizerConfig.from_dict(theirs.to_dict())).to_dict()
            ) == (meaning(theirs.to_dict()))
    assert 0.3 < accepted / documents < 0.7, "both kinds must be well represented"


def spec(**fields):
    return {KEY: {"global_config": {"op_state_spec": {"weight": fields}}}}


def global_config(**fields):
    return {KEY: {"global_config": fields}}


def vectors(**settings):
    return global_config(
        op_state_spec={"*": {"cluster_dim": 2}},
        enable_fast_kmeans_mode=False,
        vector_kmeans_config=settings,
    )


REFUSED_HERE = [
    spec(lut_qspec={"qschem": "asymmetric"}),
    spec(lut_qspec={"float_range": [float("nan"), None]}),
    spec(lut_qspec={"float_range": [None, float("inf")]}),
    spec(granularity={"type": "per_grouped_channel", "group_size": 2**63}),
    spec(granularity={"type": "per_grouped_channel", "group_size": 4, "axis": "1"}),
    global_config(pat_schedule={"enable_fake_palettise": 3}),
    global_config(rounding_precision=2**63),
    vectors(n_init=2**63),
]
REFUSED_THERE = [
    spec(lut_qspec={"dtype": "torch.int8"}),
    spec(lut_qspec={"qparam_calculator_cls": "StaticQParamsCalculator"}),
    spec(lut_qspec={"scale_dtype": None, "granularity": {}}),
    spec(lut_qspec={"granularity": {"axis": None}}),
    spec(training_strategy_spec={}),
    global_config(module_input_spec={"*": None}),
    global_config(op_input_spec={"1": None, 1: None}),
]


@pytest.mark.parametrize(
    ("document", "here"),
    [(document, False) for document in REFUSED_HERE]
    + [(document, True) for document in REFUSED_THERE],
)
def test_intended_differences(document, here):
    """As listed in docs/compatibility.md."""
    assert (loaded(KMeansPalettizerConfig.from_dict, document) is not None) == here
    assert (loaded(Peer.from_dict, document) is not None) != here
