"""What the command line shows: tables, and how jobs end."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from palettery.app.client import Client
from palettery.app.client.progress import CONSOLE
from palettery.schemas.artifact import ArtifactSummary
from palettery.schemas.config.spec import PalettizationSpec
from palettery.schemas.configs import ConfigSummary
from palettery.schemas.evaluation import ComparedOutput
from palettery.schemas.jobs import Job
from palettery.schemas.keys import Key
from palettery.schemas.models import ModelSummary
from palettery.schemas.plan import Clustering, Plan, PlannedTensor, UnmatchedKey
from palettery.schemas.report import Report

OUT = Console(width=max(100, Console().width))
WIDEST = 10_000
SHARE = 0.01
"""Of the kept bytes, from which a kept tensor has a line of its own."""
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
"""A part of a dotted name that is a number."""


def follow(client: Client, job_id: str) -> Job:
    """Show a job's progress until it ends, and how it ended."""
    ended = client.wait(job_id)
    if ended.error:
        CONSOLE.print(f"[red]{ended.state}[/]: {escape(ended.error.detail)}")
    else:
        CONSOLE.print(ended.state)
    return ended


def print_report(report: Report) -> None:
    """What happened to every tensor, and the sums."""
    table = _table("palettized", "as", "after", "bits", "SNR dB")
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
        )
    _show(table)
    _print_kept(kept)
    for tensor in report.tensors:
        for note in tensor.notes:
            OUT.print(f"[yellow]note[/]: {escape(f'{tensor.name}: {note}')}")
    _print_unmatched(report.unmatched)
    before, after = report.palettized_size_before_bytes, report.palettized_size_after_bytes
    _print_ratio("palettized tensors", before, after)
    _print_ratio("whole model", report.size_before_bytes, report.size_after_bytes)
    OUT.print(f"{report.bits_per_weight:.2f} bits per weight over the whole model")


def print_plan(plan: Plan, *, every: bool = False) -> None:
    """What would happen to tensors, most bytes first; alike ones share a line unless `every`."""
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


def print_artifact(summary: ArtifactSummary) -> None:
    """What an artifact holds."""
    table = _table("tensor", "bits", "palette", "dtype", "shape", "bytes")
    for stored in summary.palettized:
        weight = stored.weight
        clustering = Clustering(
            axis=weight.axis, group_size=weight.group_size, rounding_precision=None
        )
        table.add_row(
            escape(stored.name),
            str(weight.n_bits),
            _per_palette(clustering),
            weight.dtype,
            "x".join(map(str, weight.shape)),
            decimal(stored.size_bytes),
        )
    _show(table)
    OUT.print(f"and {len(summary.kept)} untouched tensors, {decimal(sum(summary.kept.values()))}")


def print_outputs(outputs: Iterable[ComparedOutput]) -> None:
    """One line an output."""
    table = _table("output", "shape", "SNR dB", "cosine", "largest error")
    for output in outputs:
        table.add_row(
            escape(output.name),
            "x".join(map(str, output.shape)),
            "equal" if output.snr_db is None else f"{output.snr_db:.1f}",
            f"{output.cosine:.6f}",
            f"{output.max_error:.3g}",
        )
    _show(table)


def print_jobs(jobs: Iterable[Job]) -> None:
    """One line a job."""
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


def print_models(models: Iterable[ModelSummary]) -> None:
    """One line a model."""
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
    """One line a named config."""
    table = _table("config", "stored")
    for config in configs:
        table.add_row(escape(config.reference), config.created_at.isoformat(timespec="seconds"))
    _show(table)


def print_keys(keys: Sequence[Key]) -> None:
    """One line a key."""
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
    """Print a table with nothing cut, however narrow the terminal: half a name is no name."""
    whole = OUT.measure(table, options=OUT.options.update(max_width=WIDEST)).maximum
    Console(width=max(OUT.width, whole)).print(table, soft_wrap=True)


def _print_kept(kept: Mapping[str, Sequence[tuple[str, int]]], *, every: bool = False) -> None:
    """Untouched tensors below the reason they share; small ones are counted by their last name."""
    large = SHARE * sum(size_bytes for tensors in kept.values() for _, size_bytes in tensors)
    for reason, tensors in kept.items():
        OUT.print(f"[bold]kept[/], since {escape(reason)}:")
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
    """Tensors that differ in the numbers of their names alone, under `*` in place of these.

    Those of most bytes come first.
    """
    groups: dict[object, tuple[str, list[PlannedTensor]]] = {}
    for tensor in tensors:
        name = tensor.name if every else NUMBER.sub("*", tensor.name)
        what = (name, tensor.module_type, tensor.spec, tensor.clustering, tensor.rule)
        groups.setdefault(what, (name, []))[1].append(tensor)
    lines: dict[str, Sequence[PlannedTensor]] = {}
    for name, alike in sorted(groups.values(), key=lambda group: -_bytes(group[1])):
        is_shared = len(alike) > 1 and name not in lines
        lines[name if is_shared else alike[0].name] = alike
    return lines


def _bytes(tensors: Iterable[PlannedTensor]) -> int:
    return sum(tensor.size_bytes for tensor in tensors)


def _type(tensor: PlannedTensor) -> str:
    """Class name of the module, and whether it is known or guessed."""
    name = (tensor.module_type or "").rpartition(".")[2]
    return escape(f"{name}, inferred") if tensor.type_source == "inferred" else escape(name)


def _as(spec: PalettizationSpec | None, clustering: Clustering | None) -> str:
    """Bits, then channels per palette: `4 bit /16`, and `4 bit` alone for one palette."""
    if spec is None or clustering is None:
        return ""
    vector = f" x{spec.cluster_dim}" if spec.cluster_dim > 1 else ""
    scale = " scaled" if spec.enable_per_channel_scale else ""
    return f"{spec.n_bits} bit{vector}{_per_palette(clustering)}{scale}"


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
