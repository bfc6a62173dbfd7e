"""Tables that the command line prints."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import log10

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from palettery.app.client import Client
from palettery.app.client.progress import CONSOLE
from palettery.schemas.artifact import ArtifactSummary
from palettery.schemas.calibration import Calibration
from palettery.schemas.calibration_jobs import CalibrationJob
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.configs import ConfigSummary
from palettery.schemas.evaluation import Evaluation, LogitsComparison
from palettery.schemas.jobs import Job
from palettery.schemas.keys import Key
from palettery.schemas.models import ModelSummary
from palettery.schemas.plan import Clustering, Plan, PlannedTensor, UnmatchedKey
from palettery.schemas.report import Report, TensorReport
from palettery.schemas.targets import Allocation, ChosenTensor, MeasuredSize

OUT = Console(width=max(100, Console().width))
MAX_WIDTH = 10_000
MIN_SHARE = 0.01
"""Share of the kept bytes from which on a kept tensor has its own line."""
CURVE_ROWS = 8
"""Sizes of a curve that are printed, about."""
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A numeric part of a dotted name."""


def follow(client: Client, job_id: str) -> Job:
    """Wait for a job with a progress bar, and print its final state."""
    job = client.wait(job_id)
    if job.error:
        CONSOLE.print(f"[red]{job.state}[/]: {escape(job.error.detail)}")
    else:
        CONSOLE.print(job.state)
    return job


def print_report(report: Report) -> None:
    """Print the outcome of every tensor, and totals."""
    has_outputs = any(tensor.output_error is not None for tensor in report.tensors)
    columns = ("minimised", "outputs dB") if has_outputs else ()
    table = _table("palettized", "as", "after", "bits", "SNR dB", *columns)
    kept: dict[str, list[tuple[str, int]]] = {}
    for tensor in report.tensors:
        if tensor.action == "kept":
            kept.setdefault(tensor.reason or "", []).append((tensor.name, tensor.size_before_bytes))
            continue
        table.add_row(
            escape(tensor.name),
            _as(tensor.spec, tensor.clustering),
            decimal(tensor.size_after_bytes),
            f"{tensor.bits_per_weight:.2f}",
            "exact" if tensor.snr_db is None else f"{tensor.snr_db:.1f}",
            *([tensor.method or "", _output_db(tensor)] if has_outputs else []),
        )
    _show(table)
    if has_outputs:
        OUT.print(
            "SNR dB is of weights; outputs dB is expected of a layer's outputs, of this layer "
            "alone, on inputs like those of the calibration"
        )
    _print_kept(kept)
    for tensor in report.tensors:
        if tensor.zero_share is not None:
            OUT.print(
                f"[bold]sparse[/]: {escape(tensor.name)}: {tensor.zero_share:.0%} zeros, a mask of "
                f"{decimal(tensor.mask_bytes or 0)}; without it and as coreai-opt counts, "
                f"{tensor.coreai_opt_bits_per_weight:.2f} bits"
            )
        for note in tensor.notes:
            OUT.print(f"[yellow]note[/]: {escape(f'{tensor.name}: {note}')}")
    _print_unmatched(report.unmatched)
    before, after = report.palettized_size_before_bytes, report.palettized_size_after_bytes
    _print_ratio("palettized tensors", before, after)
    _print_ratio("whole model", report.size_before_bytes, report.size_after_bytes)
    OUT.print(f"{report.bits_per_weight:.2f} bits per weight over the whole model")


def _output_db(tensor: TensorReport) -> str:
    if not tensor.output_error:
        return "" if tensor.output_error is None else "exact"
    return f"{-10 * log10(tensor.output_error):.1f}"


def print_plan(plan: Plan, *, every: bool = False) -> None:
    """Print a plan, largest tensors first; similar ones share a line unless `every`."""
    palettized = _alike(plan.palettized(), every=every)
    table = _table("to palettize", "tensors", "type", "as", "before", "after", "rule")
    for name, tensors in palettized.items():
        first = tensors[0]
        table.add_row(
            escape(name),
            str(len(tensors)),
            _type(first),
            _as(first.spec, first.clustering),
            decimal(_bytes(tensors)),
            decimal(sum(tensor.predicted_bytes for tensor in tensors)),
            escape(first.rule or ""),
        )
    _show(table)
    kept: dict[str, list[tuple[str, int]]] = {}
    for tensor in plan.tensors:
        if tensor.action == "keep":
            kept.setdefault(tensor.reason or "", []).append((tensor.name, tensor.size_bytes))
    _print_kept(kept, every=every)
    _print_unmatched(plan.unmatched)
    for warning in plan.warnings:
        OUT.print(f"[yellow]warning[/]: {escape(warning)}")
    _print_ratio("whole model, predicted", plan.size_before_bytes, plan.predicted_size_bytes)


def describe_measured(size: MeasuredSize) -> str:
    """Return one size that was measured on the way to a quality."""
    values = ", ".join(f"{name} {value:.6f}" for name, value in size.reached.items())
    return f"{size.size_bytes:,} bytes, {values}: {'' if size.is_reached else 'not '}reached"


def print_allocation(allocation: Allocation) -> None:
    """Print what a target chose: how many tensors and bytes get which spec, and what to know."""
    if allocation.measured:
        _print_measured(allocation)
    bits: dict[int, list[ChosenTensor]] = {}
    for tensor in allocation.tensors:
        bits.setdefault(tensor.spec.n_bits if tensor.spec else 0, []).append(tensor)
    table = _table("chosen", "tensors", "bytes")
    for n_bits, tensors in sorted(bits.items()):
        size_bytes = sum(tensor.size_bytes for tensor in tensors)
        what = f"{n_bits} bit" if n_bits else "keep"
        table.add_row(what, f"{len(tensors):,}", f"{size_bytes:,}")
    _show(table)
    of = "" if allocation.target_bytes is None else f" of {allocation.target_bytes:,}"
    kind = "weighted" if allocation.weighted else "sum of relative errors"
    OUT.print(
        f"{allocation.size_bytes:,}{of} bytes; expected error {allocation.error:.6g} ({kind}), "
        f"at most {allocation.gap:.1e} above the least possible"
    )
    for note in allocation.notes:
        OUT.print(f"[yellow]note[/]: {escape(note)}")


def _print_measured(allocation: Allocation) -> None:
    """Print the sizes that were measured, in the order of their size."""
    table = _table("bytes", *allocation.measured[0].reached, "quality")
    for size in sorted(allocation.measured, key=lambda size: size.size_bytes):
        is_chosen = " (chosen)" if size.size_bytes == allocation.size_bytes else ""
        outcome = f"{'reached' if size.is_reached else 'not reached'}{is_chosen}"
        values = (f"{value:.6f}" for value in size.reached.values())
        table.add_row(f"{size.size_bytes:,}", *values, outcome)
    _show(table)


def print_curve(allocation: Allocation) -> None:
    """Print the least error at a few sizes, with what was chosen among them."""
    curve, step = allocation.curve, max(1, len(allocation.curve) // CURVE_ROWS)
    points = [(point.size_bytes, point.error, "") for point in (*curve[:-1:step], *curve[-1:])]
    table = _table("size", "least expected error", "")
    for point in sorted([*points, (allocation.size_bytes, allocation.error, "chosen")]):
        size_bytes, error, mark = point
        table.add_row(decimal(size_bytes), f"{error:.4g}", mark)
    _show(table)


def print_artifact(summary: ArtifactSummary) -> None:
    """Print the contents of an artifact."""
    table = _table("tensor", "bits", "palette", "dtype", "shape", "bytes")
    for stored in summary.palettized:
        weight = stored.weight
        clustering = Clustering(
            axis=weight.axis, group_size=weight.group_size, rounding_precision=None
        )
        table.add_row(
            escape(stored.name),
            str(weight.n_bits),
            _per_palette(clustering) + ("" if weight.stored is None else " sparse"),
            weight.dtype,
            "x".join(map(str, weight.shape)),
            decimal(stored.size_bytes),
        )
    _show(table)
    OUT.print(f"and {len(summary.kept)} untouched tensors, {decimal(sum(summary.kept.values()))}")


def print_calibration(calibration: Calibration) -> None:
    """Print what a calibration holds."""
    table = _table("output", "standard deviation")
    for name, scale in calibration.outputs.items():
        table.add_row(escape(name), f"{scale:.3g}")
    _show(table)
    moments = sum(tensor.second_moments is not None for tensor in calibration.tensors)
    OUT.print(
        f"{calibration.samples:,} samples; sensitivities of {len(calibration.tensors):,} weights, "
        f"second moments of the inputs of {moments:,}"
    )
    for name in calibration.unreached:
        OUT.print(
            f"[yellow]unreached[/]: {escape(name)}: no output that counts depends on it for these "
            "inputs",
            soft_wrap=True,
        )


def print_evaluation(evaluation: Evaluation) -> None:
    """Print one line per output, and one per sample and output if there are any."""
    table = _table("output", "shape", "SNR dB", "cosine", "5th pct.", "least", "largest error")
    for output in evaluation.outputs:
        cosines = output.sample_cosine
        table.add_row(
            escape(output.name),
            "x".join(map(str, output.shape)),
            _decibels(output.snr_db),
            *(f"{value:.6f}" for value in (cosines.mean, cosines.p5, cosines.min)),
            f"{output.max_error:.3g}",
        )
    _show(table)
    for output in evaluation.outputs:
        if output.logits is not None:
            OUT.print(escape(f"{output.name}: {_classes(output.logits)}"), soft_wrap=True)
    samples = _table("output", "sample", "SNR dB", "cosine")
    for output in evaluation.outputs:
        for number, sample in enumerate(output.samples or ()):
            row = (str(number), _decibels(sample.snr_db), f"{sample.cosine:.6f}")
            samples.add_row(escape(output.name), *row)
    if samples.rows:
        _show(samples)
    OUT.print(f"cosines are of each of {evaluation.samples:,} samples: their mean, and the worst")


def print_missed(evaluation: Evaluation) -> None:
    """Print warnings and the goals that were not reached, to stderr."""
    for warning in evaluation.warnings:
        typer.echo(f"warning: {warning}", err=True)
    for missed in evaluation.missed:
        reached = "nothing" if missed.reached is None else f"{missed.reached:.6g}"
        typer.echo(f"missed: {missed.goal}: output {missed.output!r} has {reached}", err=True)


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"


def _classes(logits: LogitsComparison) -> str:
    text = f"same top class {logits.top1_agreement:.2%}, KL divergence {logits.kl_divergence:.4g}"
    if logits.accuracy_before is None:
        return text
    return (
        f"{text}; accuracy {logits.accuracy_before:.2%} -> {logits.accuracy_after:.2%}, "
        f"loss {logits.loss_before:.4g} -> {logits.loss_after:.4g}"
    )


def print_jobs(jobs: Iterable[Job]) -> None:
    """Print one line per job."""
    table = _table("job", "state", "model", "label", "created", "before", "after")
    for job in jobs:
        table.add_row(
            job.id,
            job.state,
            escape(job.model_name),
            escape(job.label or ""),
            job.created_at.isoformat(timespec="seconds"),
            decimal(job.size_before_bytes),
            "" if job.size_after_bytes is None else decimal(job.size_after_bytes),
        )
    _show(table)


def print_calibrations(calibrations: Iterable[CalibrationJob]) -> None:
    """Print one line per calibration."""
    table = _table("calibration", "state", "model", "kind", "created", "samples", "weights")
    for each in calibrations:
        table.add_row(
            each.id,
            each.state,
            escape(each.model_name),
            each.options.kind,
            each.created_at.isoformat(timespec="seconds"),
            f"{each.result.samples:,}" if each.result else "",
            f"{each.result.tensors:,}" if each.result else "",
        )
    _show(table)


def print_models(models: Iterable[ModelSummary]) -> None:
    """Print one line per model."""
    table = _table("model", "size", "created", "name", "label")
    for model in models:
        created = model.created_at.isoformat(sep=" ", timespec="minutes")
        table.add_row(
            model.id,
            decimal(model.size_bytes),
            created[:16],
            escape(model.name),
            escape(model.label or ""),
        )
    _show(table)


def print_configs(configs: Iterable[ConfigSummary]) -> None:
    """Print one line per named config."""
    table = _table("config", "stored")
    for config in configs:
        table.add_row(escape(config.reference), config.created_at.isoformat(timespec="seconds"))
    _show(table)


def print_keys(keys: Sequence[Key]) -> None:
    """Print one line per key."""
    table = _table("key", "owner", "name", "begins", "scopes", "state")
    now = datetime.now(UTC)
    for key in keys:
        is_expired = key.expires_at is not None and key.expires_at <= now
        state = "revoked" if key.revoked_at else "expired" if is_expired else "valid"
        scopes = " ".join(key.scopes)
        table.add_row(key.id, key.owner, escape(key.name), key.prefix, scopes, state)
    _show(table)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _show(table: Table) -> None:
    """Print a table without truncation, however narrow the terminal."""
    width = OUT.measure(table, options=OUT.options.update(max_width=MAX_WIDTH)).maximum
    Console(width=max(OUT.width, width)).print(table, soft_wrap=True)


def _print_kept(kept: Mapping[str, Sequence[tuple[str, int]]], *, every: bool = False) -> None:
    """Print kept tensors by reason; small ones are counted by the last part of their name."""
    large = MIN_SHARE * sum(size_bytes for tensors in kept.values() for _, size_bytes in tensors)
    for reason, tensors in kept.items():
        OUT.print(f"[bold]kept[/]: {escape(reason)}")
        small: dict[str, list[tuple[str, int]]] = {}
        for name, size_bytes in sorted(tensors, key=lambda tensor: -tensor[1]):
            if every or size_bytes >= large:
                OUT.print(f"  {escape(name)} [dim]{decimal(size_bytes)}[/]", soft_wrap=True)
            else:
                small.setdefault(name.rpartition(".")[2], []).append((name, size_bytes))
        for last, few in small.items():
            what = few[0][0] if len(few) == 1 else f"{len(few):,} named {last}"
            size_bytes = sum(size_bytes for _, size_bytes in few)
            OUT.print(f"  {escape(what)} [dim]{decimal(size_bytes)}[/]", soft_wrap=True)
        OUT.print()


def _alike(
    tensors: Iterable[PlannedTensor], *, every: bool
) -> Mapping[str, Sequence[PlannedTensor]]:
    """Return groups of tensors whose names differ only in numbers, shown as `*`; largest first."""
    groups: dict[object, tuple[str, list[PlannedTensor]]] = {}
    for tensor in tensors:
        name = tensor.name if every else NUMBER.sub("*", tensor.name)
        key = (name, tensor.module_type, tensor.spec, tensor.clustering, tensor.rule)
        groups.setdefault(key, (name, []))[1].append(tensor)
    lines: dict[str, Sequence[PlannedTensor]] = {}
    for name, alike in sorted(groups.values(), key=lambda group: -_bytes(group[1])):
        is_shared = len(alike) > 1 and name not in lines
        lines[name if is_shared else alike[0].name] = alike
    return lines


def _bytes(tensors: Iterable[PlannedTensor]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)


def _type(tensor: PlannedTensor) -> str:
    """Return the class name of the module, and whether it is inferred."""
    name = (tensor.module_type or "").rpartition(".")[2]
    return escape(f"{name}, inferred") if tensor.type_source == "inferred" else escape(name)


def _as(spec: PalettizationSpec | None, clustering: Clustering | None) -> str:
    """Return bits, then channels per palette: `4 bit /16`, or `4 bit` for a single palette."""
    if spec is None or clustering is None:
        return ""
    vector = f" x{spec.cluster_dim}" if spec.cluster_dim > 1 else ""
    scale = " scaled" if spec.enable_per_channel_scale else ""
    threshold = spec.sparsity_detection_threshold
    sparse = "" if threshold is None else f" sparse from {threshold:g}"
    return f"{spec.n_bits} bit{vector}{_per_palette(clustering)}{scale}{sparse}"


def _per_palette(clustering: Clustering) -> str:
    if clustering.group_size is None:
        return ""
    return f" /{clustering.group_size}" + (" columns" if clustering.axis == 1 else "")


def _print_unmatched(unmatched: Sequence[UnmatchedKey]) -> None:
    for key in unmatched:
        hint = f"; did you mean {' or '.join(key.suggestions)}?" if key.suggestions else ""
        OUT.print(f"[yellow]unmatched[/]: {escape(key.path)}: {escape(key.reason + hint)}")


def _print_ratio(what: str, before: int, after: int) -> None:
    smaller = f", {before / after:.2f}x smaller" if after else ""
    OUT.print(f"{what}: {decimal(before)} -> {decimal(after)}{smaller}")
