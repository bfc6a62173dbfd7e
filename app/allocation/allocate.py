"""Choice of a spec for every tensor, from scores and a target; its result is a config."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from math import log
from typing import Final

import numpy as np

from palettery.app.allocation.candidates import Candidates
from palettery.app.allocation.chosen_config import ModuleChoice, config_document
from palettery.app.allocation.options import Option, Options, as_item
from palettery.app.allocation.solver import GAP, Item, Solution, Solver
from palettery.app.allocation.target_parsing import target_bytes
from palettery.app.compression.planned_size import planned_size_bytes
from palettery.app.errors import BadInput, PaletteryError
from palettery.app.planning.job_plan import JobPlan, plan_checkpoint
from palettery.app.planning.module_rules import ModuleTree
from palettery.app.planning.sensitivities import apply_sensitivities
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint
from palettery.schemas.config import KMeansPalettizerConfig, PalettizationSpec
from palettery.schemas.config.granularity import PerGroupedChannelGranularity
from palettery.schemas.targets import (
    Allocation,
    ChosenTensor,
    CurvePoint,
    ModelScores,
    Target,
    UniformPoint,
)
from palettery.schemas.tasks import JobRequest

CURVE_POINTS: Final = 200
"""Points of a curve, about."""
CURVE_TIME_LIMIT_S: Final = 1.0
"""Time for one point of a curve; one that takes longer is marked as not exact."""
NEAR: Final = 0.995
"""Share of a target that a size should reach."""
_LISTED: Final = 3
"""Kept tensors that a message names."""
_GUESS: Final = (
    "the quality is a guess: without sensitivities every tensor's error counts relative to its own "
    "energy, whatever the model's outputs make of it; calibrate, and give sensitivities, to "
    "choose by what the outputs lose"
)


class Allocator:
    """Choices for any number of targets, from the scores of one model."""

    def __init__(
        self,
        candidates: Candidates,
        checkpoint: Checkpoint,
        sensitivities: Checkpoint | None,
        scores: ModelScores,
        limits: Limits,
    ) -> None:
        if sensitivities is not None:  # their digests are in the header of every file
            plan = apply_sensitivities(candidates.plan, sensitivities)
            candidates = replace(candidates, plan=plan)
        self._candidates, self._checkpoint = candidates, checkpoint
        self._sensitivities, self._limits = sensitivities, limits
        self._all = Options(candidates, checkpoint, scores)
        self._options = self._all.of_groups

    @property
    def notes(self) -> tuple[str, ...]:
        """What the choices ask for in vain."""
        return self._candidates.notes

    @cached_property
    def _by_size(self) -> Solver:
        """Solver of the least error within a size."""
        return Solver([as_item(options) for options in self._options])

    def check(self, target: Target) -> None:
        """Check that a size can be reached, whatever the errors.

        Raises:
            BadInput: it cannot; says the least that can be reached, and what takes the bytes.
        """
        size_bytes = target_bytes(target, self._checkpoint)
        if size_bytes is None:
            return
        if self._by_size.least_weight > size_bytes - self._all.fixed_bytes:
            raise BadInput(self._too_small(size_bytes))

    def allocate(self, target: Target) -> tuple[Allocation, JobPlan]:
        """Return the choice that reaches a target, and its plan.

        Raises:
            BadInput: no choice reaches the target; says the least that can be reached, and what
                takes the bytes.
        """
        size_bytes = target_bytes(target, self._checkpoint)
        if size_bytes is None:
            assert target.error is not None  # noqa: S101 - a target has one field
            solution = self._within_error(target.error)
        else:
            solution = self._within_size(size_bytes)
        document = config_document(self._modules(solution), self._module_names)
        config = KMeansPalettizerConfig.from_dict(document)
        job = plan_checkpoint(
            config, self._checkpoint, self._sensitivities, self._limits, strict=False
        )
        chosen = self._chosen(solution)
        self._check_plan(job, {tensor.name: tensor.spec for tensor in chosen})
        size = planned_size_bytes(_request(job))
        notes = [*self.notes, *([] if self._all.weighted else [_GUESS])]
        if size_bytes is not None and size < NEAR * size_bytes:
            notes.append(self._why_smaller(solution, size, size_bytes))
        return Allocation(
            config=config,
            size_bytes=size,
            target_bytes=size_bytes,
            error=sum(tensor.error for tensor in chosen),
            gap=solution.gap,
            weighted=self._all.weighted,
            notes=tuple(notes),
            tensors=tuple(chosen),
        ), job

    def curve(self) -> tuple[CurvePoint, ...]:
        """Return the least errors at some 200 sizes, each some share larger than the one before.

        Corners of the convex hull are the best of their size. Between corners that are far apart,
        sizes are solved one by one.
        """
        solver, fixed = self._by_size, self._all.fixed_bytes
        corners = solver.curve()
        least, most = (corners[at].weight + fixed for at in (0, -1))
        step = log(most / least) / CURVE_POINTS
        points = _thinned(corners, fixed, step)
        for before, after in pairwise(points[:]):
            start, end = (each.weight + fixed for each in (before, after))
            count = int(log(end / start) / step) if step else 0
            for size in np.geomspace(start, end, count + 1)[1:-1]:
                if (solution := solver.solve(float(size) - fixed, CURVE_TIME_LIMIT_S)) is not None:
                    points.append(solution)
        by_weight = {point.weight: point for point in reversed(points)}
        return tuple(
            CurvePoint(
                size_bytes=int(weight) + fixed,
                error=by_weight[weight].cost,
                exact=by_weight[weight].gap <= GAP,
            )
            for weight in sorted(by_weight)
        )

    def uniform(self) -> tuple[UniformPoint, ...]:
        """Return what the same bits and groups for all tensors would give."""
        kinds = {
            (option.spec.n_bits, _group_size(option.spec))
            for options in self._options
            for option in options
            if option.spec is not None
        }
        points = []
        for n_bits, group_size in sorted(kinds, key=lambda kind: (kind[0], kind[1] or 0)):
            alike = [_alike(options, n_bits, group_size) for options in self._options]
            points.append(
                UniformPoint(
                    n_bits=n_bits,
                    group_size=group_size,
                    size_bytes=self._all.fixed_bytes + sum(each.size_bytes for each in alike),
                    error=sum(each.error for each in alike),
                )
            )
        return tuple(points)

    def _within_size(self, size_bytes: int) -> Solution:
        """Return the choice of least error; by what sizes were overestimated, it is improved."""
        limit = size_bytes - self._all.fixed_bytes
        solution = self._by_size.solve(limit)
        if solution is None:
            raise BadInput(self._too_small(size_bytes))
        over = self._all.fixed_bytes + solution.weight - self._exact_bytes(solution)
        for share in (1.0, 0.9, 0.5):
            other = self._by_size.solve(limit + share * over)
            if other is None or other.cost > solution.cost:
                break
            if self._exact_bytes(other) <= size_bytes:
                return other
        return solution

    def _exact_bytes(self, solution: Solution) -> int:
        """Return the size of the artifact's files."""
        specs = {tensor.name: tensor.spec for tensor in self._chosen(solution)}
        plan = self._candidates.plan
        tensors = tuple(
            self._all.planned(planned.name, specs[planned.name])
            if planned.name in specs
            else planned
            for planned in plan.tensors
        )
        plan = plan.model_copy(update={"tensors": tensors})
        return planned_size_bytes(
            _request(JobPlan(KMeansPalettizerConfig(), self._checkpoint, self._sensitivities, plan))
        )

    def _within_error(self, error: float) -> Solution:
        items = [Item(item.weights, item.costs) for item in map(as_item, self._options)]
        solution = Solver(items).solve(error)
        if solution is None:
            least = Solver(items).least_weight
            raise BadInput(
                f"the target is an error of at most {error:.6g}; the least that these choices "
                f"reach is {least:.6g}: allow more bits, or to keep tensors"
            )
        return Solution(solution.options, solution.weight, solution.cost, solution.gap)

    @cached_property
    def _module_names(self) -> list[str]:
        return ModuleTree(self._checkpoint.modules).names

    def _modules(self, solution: Solution) -> list[ModuleChoice]:
        """Return the specs of every module with palettized tensors, pinned ones included."""
        specs = {tensor.name: tensor.spec for tensor in self._candidates.plan.palettized()}
        specs |= {tensor.name: tensor.spec for tensor in self._chosen(solution)}
        configs = {}
        by_module: dict[str, dict[str, PalettizationSpec]] = {}
        for name, planned in self._all.before.items():
            if (spec := specs.get(name)) is None:
                continue
            by_module.setdefault(planned.module, {})[name.rpartition(".")[2]] = spec
            configs[planned.module] = self._candidates.configs[name]
        return [ModuleChoice(name, configs[name], choice) for name, choice in by_module.items()]

    def _chosen(self, solution: Solution) -> list[ChosenTensor]:
        specs = {
            name: options[at].spec
            for names, options, at in zip(
                self._candidates.alike, self._options, solution.options, strict=True
            )
            for name in names
        }
        return [
            ChosenTensor(
                name=name,
                spec=specs[name],
                size_bytes=self._all.planned(name, specs[name]).predicted_bytes,
                error=self._all.error(name, specs[name]),
            )
            for name in self._candidates.by_name
        ]

    def _check_plan(self, job: JobPlan, specs: Mapping[str, PalettizationSpec | None]) -> None:
        """Check that the config plans what was chosen, and the rest as before.

        Raises:
            PaletteryError: it does not; a fault of ours.
        """
        for planned in job.plan.tensors:
            before = self._all.before[planned.name]
            if planned.name in specs:
                before = self._all.planned(planned.name, specs[planned.name])
            if (planned.spec, planned.clustering) != (before.spec, before.clustering):
                raise PaletteryError(
                    f"the chosen config plans {planned.spec} for {planned.name}, not "
                    f"{before.spec}; please report this, with the model's tensor names"
                )

    def _too_small(self, size_bytes: int) -> str:
        least = int(self._by_size.least_weight) + self._all.fixed_bytes
        kept = {
            name: planned.predicted_bytes
            for name, planned in self._all.before.items()
            if name not in self._candidates.by_name
        }
        largest = sorted(kept, key=lambda name: -kept[name])[:_LISTED]
        named = ", ".join(f"{name} {kept[name]:,}" for name in largest)
        rest = f"; of these, {sum(kept.values()):,} are tensors that it may not change"
        return (
            f"the target is {size_bytes:,} bytes; the least that these choices reach is "
            f"{least:,} bytes{rest + f' ({named})' if kept else ''}: allow fewer bits, larger "
            "groups, or more tensors to be chosen"
        )

    def _why_smaller(self, solution: Solution, size: int, size_bytes: int) -> str:
        """Return why a size is well below its target."""
        steps = [
            added
            for options, at in zip(self._options, solution.options, strict=True)
            for other in options
            if other.error < options[at].error
            and (added := other.size_bytes - options[at].size_bytes) > 0
        ]
        below = f"the artifact has {size:,} of {size_bytes:,} bytes ({size / size_bytes:.1%})"
        if not steps:
            return f"{below}: every tensor has the best of its choices already"
        return (
            f"{below}: the smallest change that lowers the error adds {min(steps):,} bytes, more "
            "than are left; allow more bits or other group sizes for finer steps"
        )


def _request(job: JobPlan) -> JobRequest:
    return JobRequest(config=job.config, checkpoint=job.checkpoint, plan=job.plan)


def _group_size(spec: PalettizationSpec) -> int | None:
    granularity = spec.granularity
    return granularity.group_size if isinstance(granularity, PerGroupedChannelGranularity) else None


def _alike(options: Sequence[Option], n_bits: int, group_size: int | None) -> Option:
    """Return the option of these bits and groups; without one, the one of the least error."""
    for option in options:
        spec = option.spec
        if spec is not None and (spec.n_bits, _group_size(spec)) == (n_bits, group_size):
            return option
    return min(options, key=lambda option: option.error)


def _thinned(solutions: Sequence[Solution], fixed: int, step: float) -> list[Solution]:
    """Return the first and the last solution, and those between whose sizes' logs are apart."""
    kept = [solutions[0]]
    for solution in solutions[1:-1]:
        if log((solution.weight + fixed) / (kept[-1].weight + fixed)) >= step:
            kept.append(solution)
    return kept if len(solutions) == 1 else [*kept, solutions[-1]]
