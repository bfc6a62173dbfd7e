"""What other forms can express of a plan, told before any work."""

from collections.abc import Sequence

from palettery.app.artifacts.export.formats import (
    FORMATS,
    check_graph,
    check_installed,
    inexpressible,
)
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.exports import ExportFormat, PlannedExport
from palettery.schemas.plan import Plan, PlannedTensor


def with_exports(plan: Plan, formats: Sequence[ExportFormat], *, has_graph: bool = False) -> Plan:
    """The plan of a job that is to make these forms, too.

    Raises:
        ExtraMissing: packages are not installed that one of them needs.
        UnsupportedFormat: one of them takes the model's graph, which is not there.
    """
    for each in formats:
        check_installed(each)
        check_graph(each, has_graph=has_graph)
    planned = tuple(_planned(plan, each) for each in dict.fromkeys(formats))
    return plan.model_copy(update={"exports": planned})


def check_expressible(plan: Plan) -> None:
    """See that each form can express all that is palettized.

    Raises:
        Inexpressible: one cannot; names the tensors.
    """
    for each in plan.exports:
        if each.inexpressible:
            raise inexpressible(each.format, each.inexpressible)


def palettized_weight(planned: PlannedTensor) -> PalettizedWeight:
    """How a tensor that is palettized will have to be read."""
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
    lacks = {
        tensor.name: FORMATS[to].lacks(
            palettized_weight(tensor), tensor.spec.enable_per_channel_scale
        )
        for tensor in plan.palettized()
        if tensor.spec is not None
    }
    return PlannedExport(
        format=to, inexpressible={name: lack for name, lack in lacks.items() if lack}
    )
