"""Exports of a plan: which weights each format can express, known before any work."""

from collections.abc import Sequence

from palettery.app.artifacts.export.formats import (
    FORMATS,
    check_graph,
    check_installed,
    inexpressible_error,
)
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.exports import ExportFormat, PlannedExport
from palettery.schemas.plan import Plan, PlannedTensor


def plan_exports(plan: Plan, formats: Sequence[ExportFormat], *, has_graph: bool = False) -> Plan:
    """Return a plan with exports to these formats.

    Raises:
        ExtraMissing: a format needs packages that are not installed.
        UnsupportedFormat: a format needs the model's graph, and there is none.
    """
    for each in formats:
        check_installed(each)
        check_graph(each, has_graph=has_graph)
    planned = tuple(_planned(plan, each) for each in dict.fromkeys(formats))
    return plan.model_copy(update={"exports": planned})


def check_expressible(plan: Plan) -> None:
    """Check that each format can express every palettized weight.

    Raises:
        Inexpressible: a format cannot; names the tensors.
    """
    for each in plan.exports:
        if each.inexpressible:
            raise inexpressible_error(each.format, each.inexpressible)


def palettized_weight(planned: PlannedTensor) -> PalettizedWeight:
    """Return what the artifact's metadata says about a palettized tensor."""
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    return PalettizedWeight(
        n_bits=planned.spec.n_bits,
        cluster_dim=planned.spec.cluster_dim,
        axis=planned.clustering.axis,
        group_size=planned.clustering.group_size,
        shape=planned.shape,
        dtype=planned.dtype,
    )


def _planned(plan: Plan, to: ExportFormat) -> PlannedExport:
    unsupported = {
        tensor.name: FORMATS[to].unsupported_feature(
            palettized_weight(tensor), tensor.spec.enable_per_channel_scale
        )
        for tensor in plan.palettized()
        if tensor.spec is not None
    }
    return PlannedExport(
        format=to,
        inexpressible={name: feature for name, feature in unsupported.items() if feature},
    )
