"""Exports of a plan: which weights each format can express, known before any work."""

from collections.abc import Collection, Iterator, Sequence

from palettery.app.artifacts.export.formats import (
    FORMATS,
    Source,
    check_installed,
    check_source,
    inexpressible_error,
)
from palettery.schemas.artifact import PalettizedWeight
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.exports import ExportFormat, PlannedExport
from palettery.schemas.plan import Plan, PlannedTensor


def plan_exports(
    plan: Plan, formats: Sequence[ExportFormat], sources: Collection[Source] = ()
) -> Plan:
    """Return a plan with exports to these formats.

    Raises:
        ExtraMissing: a format needs packages that are not installed.
        UnsupportedFormat: a format needs what is not among the sources.
    """
    for format_ in formats:
        check_installed(format_)
        check_source(format_, sources)
    planned = tuple(_plan_export(plan, format_) for format_ in dict.fromkeys(formats))
    return plan.model_copy(update={"exports": planned})


def export_sources(checkpoint: Checkpoint) -> Iterator[Source]:
    """Yield what a checkpoint has beside weights; a config.json only if a model of it has them."""
    if checkpoint.format == "pt2":
        yield "graph"
    if any(module.type_source == "hf_config" for module in checkpoint.modules):
        yield "config"


def check_expressible(plan: Plan) -> None:
    """Check that each format can express every palettized weight.

    Raises:
        Inexpressible: a format cannot; names the tensors.
    """
    for export in plan.exports:
        if export.inexpressible:
            raise inexpressible_error(export.format, export.inexpressible)


def palettized_weight(planned: PlannedTensor, num_stored: int | None = None) -> PalettizedWeight:
    """Return the description of a palettized tensor in the artifact's metadata.

    `num_stored` is the number of weights that have an index if the tensor is sparse; else None.
    """
    assert planned.spec is not None  # noqa: S101 - a palettized tensor has both
    assert planned.clustering is not None  # noqa: S101
    return PalettizedWeight(
        n_bits=planned.spec.n_bits,
        cluster_dim=planned.spec.cluster_dim,
        axis=planned.clustering.axis,
        group_size=planned.clustering.group_size,
        shape=planned.shape,
        dtype=planned.dtype,
        stored=num_stored,
    )


def _plan_export(plan: Plan, to: ExportFormat) -> PlannedExport:
    unsupported = {tensor.name: _unsupported_feature(tensor, to) for tensor in plan.palettized()}
    return PlannedExport(
        format=to,
        inexpressible={name: feature for name, feature in unsupported.items() if feature},
    )


def _unsupported_feature(tensor: PlannedTensor, to: ExportFormat) -> str | None:
    """Return the feature that a tensor needs, or needs if it is sparse, and the format lacks."""
    assert tensor.spec is not None  # noqa: S101 - a palettized tensor has one
    find, is_scaled = FORMATS[to].unsupported_feature, tensor.spec.enable_per_channel_scale
    feature = find(palettized_weight(tensor), is_scaled)
    if feature is None and tensor.spec.sparsity_detection_threshold is not None:
        # Any number of stored weights makes the description that of a sparse tensor.
        feature = find(palettized_weight(tensor, tensor.spec.cluster_dim), is_scaled)
        return feature and f"{feature} if it is sparse"
    return feature
