"""Scores of one tensor: error and size for every candidate spec."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from palettery import kernels
from palettery.app.compression.palettize import HUGE_BYTES, SliceRows, as_array, kernel_settings
from palettery.app.errors import InvalidSensitivities
from palettery.app.storage.base import ObjectReader
from palettery.kernels import PaletteSettings
from palettery.kernels.errors import NonFiniteError, SensitivityError
from palettery.schemas.config import PalettizationSpec
from palettery.schemas.plan import Clustering
from palettery.schemas.targets import ScoredChoice, TensorScores
from palettery.schemas.tasks import StoredRows

Specs = Sequence[tuple[PalettizationSpec, Clustering]]


def score_tensor(
    name: str,
    rows: StoredRows,
    source: ObjectReader,
    sensitivity: StoredRows | None,
    sensitivities: ObjectReader,
    specs: Specs,
    threads: int | None = None,
) -> TensorScores:
    """Return the scores of a tensor; a huge one is read in blocks.

    Raises:
        InvalidSensitivities: some are negative or not finite.
    """
    scored: dict[PalettizationSpec, ScoredChoice] = {}
    signal = 0.0
    try:
        for settings, specs_by_choice in _by_settings(specs).items():
            scores = _scores(
                rows, source, sensitivity, sensitivities, settings, specs_by_choice, threads
            )
            signal = scores.signal
            for choice in scores.choices:
                if (spec := specs_by_choice.get((choice.n_bits, choice.group_size))) is not None:
                    scored[spec] = ScoredChoice(
                        spec=spec, error=choice.error, size_bytes=choice.size_bytes
                    )
    except NonFiniteError as error:
        return TensorScores(reason=str(error))
    except SensitivityError as error:
        raise InvalidSensitivities(
            f"{name}: {error}; correct its sensitivities, or leave them all out"
        ) from error
    return TensorScores(choices=tuple(scored[spec] for spec, _ in specs), signal=signal)


_SpecsByChoice = Mapping[tuple[int, int | None], PalettizationSpec]
"""Bits and group size -> spec."""


def _by_settings(specs: Specs) -> dict[PaletteSettings, _SpecsByChoice]:
    """Return the specs, grouped by kernel settings without number of bits and group size."""
    choices: dict[PaletteSettings, dict[tuple[int, int | None], PalettizationSpec]] = defaultdict(
        dict
    )
    for spec, clustering in specs:
        settings = replace(kernel_settings(spec, clustering), n_bits=1, group_size=None)
        choices[settings][spec.n_bits, clustering.group_size] = spec
    return dict(choices)


def _scores(
    rows: StoredRows,
    source: ObjectReader,
    sensitivity: StoredRows | None,
    sensitivities: ObjectReader,
    settings: PaletteSettings,
    specs_by_choice: _SpecsByChoice,
    threads: int | None,
) -> kernels.Scores:
    n_bits = tuple(dict.fromkeys(bits for bits, _ in specs_by_choice))
    group_sizes = tuple(dict.fromkeys(size for _, size in specs_by_choice))
    choices = settings, n_bits, group_sizes
    is_row_major = rows.strides is None and (sensitivity is None or sensitivity.strides is None)
    if is_row_major and rows.size_bytes > HUGE_BYTES:
        sensitivity_rows = SliceRows(sensitivities, sensitivity) if sensitivity else None
        return kernels.palette_scores_rows(
            SliceRows(source, rows), *choices, sensitivity_rows, threads
        )
    weight = as_array(source.read(rows.path, rows.offset, rows.size_bytes), rows)
    importance = None
    if sensitivity is not None:
        data = sensitivities.read(sensitivity.path, sensitivity.offset, sensitivity.size_bytes)
        importance = as_array(data, sensitivity)
    return kernels.palette_scores(weight, *choices, importance, threads)
