"""Operators that trust their arguments: honest calls compute the same, others are never run."""

import pytest
import torch
from torch import nn

from palettery.app.artifacts.export.live_model import call
from palettery.app.artifacts.export.operator_checks import CheckedOperators

ATEN = torch.ops.aten
X = torch.ones(2, 4, 6)
IMAGE = torch.ones(1, 2, 4, 4)


def lstm(**changes):
    layer = nn.LSTM(6, 3, 2, bidirectional=True, batch_first=True)
    weights = [weight for group in layer.all_weights for weight in group]
    states = [torch.zeros(4, 2, 3), torch.zeros(4, 2, 3)]
    given = {"input": X, "hx": states, "params": weights, "has_biases": True, "num_layers": 2}
    given |= {"dropout": 0.0, "train": False, "bidirectional": True, "batch_first": True}
    return (ATEN.lstm.input, given | changes)


def gru(**changes):
    weights = [torch.ones(9, 6), torch.ones(9, 3), torch.ones(9), torch.ones(9)]
    given = {"input": X, "hx": torch.zeros(1, 2, 3), "params": weights, "has_biases": True}
    given |= {"num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False}
    return (ATEN.gru.input, given | {"batch_first": True} | changes)


def norm(**changes):
    given = {name: torch.ones(4) for name in ("weight", "bias", "running_mean", "running_var")}
    given |= {"input": X, "momentum": 0.1, "eps": 1e-5}
    return (ATEN._native_batch_norm_legit_no_training.default, given | changes)


def attention(**changes):
    return (
        ATEN.scaled_dot_product_attention.default,
        dict.fromkeys(("query", "key", "value"), X) | changes,
    )


def resized(**changes):
    given = {"self": IMAGE, "output_size": [8, 8], "align_corners": False}
    return (ATEN._upsample_bicubic2d_aa.default, given | changes)


def folded(**changes):
    given = {"self": torch.ones(1, 8, 9), "output_size": [4, 4], "kernel_size": [2, 2]}
    given |= {"dilation": [1, 1], "padding": [0, 0], "stride": [1, 1]}
    return (ATEN.col2im.default, given | changes)


def pooled(**changes):
    return (ATEN.max_pool1d.default, {"self": X, "kernel_size": [2]} | changes)


def weight_norm(**changes):
    return (ATEN._weight_norm.default, {"v": X, "g": torch.ones(2, 1, 1)} | changes)


def transformed(**changes):
    given = {"self": X, "dim": [1, 2], "normalization": 0, "onesided": True}
    return (ATEN._fft_r2c.default, given | changes)


def inverted(**changes):
    given = {"self": X.to(torch.complex64), "dim": [2], "normalization": 0, "last_dim_size": 10}
    return (ATEN._fft_c2r.default, given | changes)


HONEST = (
    *(lstm, gru, norm, attention, resized, folded, pooled, weight_norm, transformed, inverted),
)


@pytest.mark.parametrize("make", HONEST, ids=lambda make: make.__name__)
def test_an_honest_call_computes_the_same(make):
    operator, given = make()
    with torch.no_grad():
        expected = operator(**given)
        with CheckedOperators():
            result = operator(**given)
    torch.testing.assert_close(result, expected)


LONG = torch.ones(4, 9, 3)
HOSTILE = {
    "fewer cells than states": lstm(hx=[torch.zeros(4, 2, 3), torch.zeros(2, 2, 3)]),
    "cells of another batch": lstm(hx=[torch.zeros(4, 2, 3), LONG]),
    "no cells": lstm(hx=[torch.zeros(4, 2, 3)]),
    "weights read as biases": lstm(has_biases=False),
    "more layers than weights": lstm(num_layers=9),
    "layers without an end": lstm(num_layers=1 << 62),
    "no layers": lstm(num_layers=0),
    "a batch that is the length": lstm(batch_first=False),
    "a short weight": lstm(params=[torch.ones(12, 6)[:, :2], *lstm()[1]["params"][1:]]),
    "a weight of another dtype": gru(params=[torch.ones(9, 6).half(), *gru()[1]["params"][1:]]),
    "states of a GRU of another batch": gru(hx=torch.zeros(1, 7, 3)),
    "a short weight of a norm": norm(weight=torch.ones(2)),
    "a short mean": norm(running_mean=torch.ones(1)),
    "an empty variance": norm(running_var=torch.ones(0)),
    "a norm of one dimension": norm(input=torch.ones(4)),
    "statistics that are none": (
        ATEN._native_batch_norm_legit.no_stats,
        {"input": X, "weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5},
    ),
    "more values than keys": attention(value=torch.ones(2, 9, 6)),
    "fewer values than keys": attention(value=torch.ones(2, 1, 6)),
    "keys of another width": attention(key=torch.ones(2, 4, 3)),
    "a scale that does not fit": resized(scales_w=1.0),
    "a scale that is no number": resized(scales_h=float("nan")),
    "a tiny scale": resized(scales_h=1e-300),
    "padding beyond 32 bits": folded(padding=[0, 1 << 31]),
    "a negative stride": folded(stride=[-1, 1]),
    "a kernel without an end": pooled(kernel_size=[(1 << 63) - 1]),
    "a kernel of four billion": pooled(kernel_size=[1 << 32]),
    "a kernel that is too long": pooled(kernel_size=[7]),
    "one g for all": weight_norm(g=torch.ones(1, 1)),
    "no g": weight_norm(g=torch.ones(0, 3)),
    "a dim beyond a weight": weight_norm(dim=3),
    "the same dim twice": transformed(dim=[2, 2]),
    "a dim that is not there": transformed(dim=[8]),
    "no dims": transformed(dim=[]),
    "a negative dim": transformed(dim=[-1]),
    "more than there was": inverted(last_dim_size=12),
}


@pytest.mark.parametrize(("operator", "given"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_call_is_not_run(operator, given):
    with CheckedOperators(), pytest.raises(ValueError, match=f"{operator} was called with"):
        operator(**given)


def test_a_graph_is_run_with_checks():
    model = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 3, 2)).eval()
    program = torch.export.export(model, (X,))
    assert call(program, {"input": X}).shape == (2, 3, 5)
    for name, weight in program.state_dict.items():
        if weight.shape == (3, 1, 1):
            program.state_dict[name] = nn.Parameter(torch.ones(1, 1, 1), requires_grad=False)
    with pytest.raises(ValueError, match=r"aten._weight_norm.default was called with g of shape"):
        call(program, {"input": X})


def test_a_graph_within_a_graph_is_run_with_checks():
    class Inner(nn.Module):
        def forward(self, query, value):
            with torch.no_grad():
                return nn.functional.scaled_dot_product_attention(query, query, value)

    program = torch.export.export(Inner(), (X, X.clone()))
    assert call(program, {"query": X, "value": X}).shape == X.shape
    graph = program.graph_module
    assert "wrap_with_set_grad_enabled" in str(graph.graph)
    refused = pytest.raises(ValueError, match="was called with value of shape")
    with torch.enable_grad(), CheckedOperators(), refused:  # the graph leaves it off when it fails
        graph(X, torch.ones(2, 9, 6))
