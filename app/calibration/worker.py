"""Sandboxed process that runs a model on inputs, and sums over squared gradients and inputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from palettery.app.artifacts.writer import TensorEntry, sort_entries, stream
from palettery.app.calibration.calibrate import (
    MEANS_FOLDER,
    SECOND_MOMENTS,
    SENSITIVITIES,
    CalibrationRequest,
)
from palettery.app.calibration.output_directions import (
    OutputScales,
    random_directions,
    select_outputs,
)
from palettery.app.calibration.recorders import LayerFinder, LayerRecorder
from palettery.app.calibration.sample_sums import Sums
from palettery.app.errors import BadInput
from palettery.app.inference.inputs import Batch, InputFile, input_warnings
from palettery.app.inference.model import LiveModel
from palettery.app.inference.model_files import write_progress
from palettery.app.inference.model_source import ModelSource
from palettery.schemas.calibration import CalibrationOptions, CalibrationResult

PROBE_SAMPLES = 32
"""Minimum number of samples from which layers and the scales of outputs are determined."""


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: calibrate in the current folder; return a `CalibrationResult`."""
    calibration, folder = CalibrationRequest.model_validate_json(request), Path.cwd()
    source = ModelSource(calibration.files, folder, calibration.limits)
    model = source.open(source.state())
    files = source.inputs(model.signature)
    result = _Calibration(model, files, calibration.options, folder).run()
    return result.model_dump_json().encode()


class _Calibration:
    """One calibration: a first pass that finds the layers, then a pass over all samples."""

    def __init__(
        self,
        model: LiveModel,
        files: Sequence[InputFile],
        options: CalibrationOptions,
        folder: Path,
    ) -> None:
        self._model, self._files, self._options = model, files, options
        self._folder = folder
        self._weights = {name: weight for name, weight in model.weights.items() if weight.dim() > 1}
        self._finder = LayerFinder(self._weights)
        self._scales = self._probe()
        self._shared = self._finder.shared_inputs()
        self._sums = Sums(
            folder,
            {name: tuple(self._weights[name].shape) for name in self._finder.read_weights},
            {name: self._finder.shapes[name] for name in self._shared.values()},
        )

    def run(self) -> CalibrationResult:
        """Run the batches that the saved sums do not include, and write the means."""
        for name in self._finder.autograd_weights:
            weight = self._weights[name]
            weight.requires_grad_()
            hook = self._autograd_hook(name)
            weight.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        progress, num_samples = self._sums.progress, sum(file.count for file in self._files)
        for number, batch in enumerate(self._batches()):
            if number < progress.batches:
                continue
            row_counts = dict(progress.rows)
            self._add_batch(batch, row_counts)
            samples = progress.samples + len(batch.samples)
            progress = progress.model_copy(
                update={"batches": number + 1, "samples": samples, "rows": row_counts}
            )
            self._sums.save(progress)
            write_progress(self._folder, samples, num_samples)
        return self._write_means(num_samples)

    def _batches(self) -> Iterator[Batch]:
        for file in self._files:
            yield from file.batches(self._options.batch)

    def _probe(self) -> dict[str, float]:
        """Run the first samples to find the layers; return the scales of the outputs."""
        scales, samples = OutputScales(), 0
        with torch.no_grad():
            for batch in self._batches():
                with self._finder:
                    outputs = self._model.run(batch, self._files)
                scales.add(select_outputs(outputs, self._options), batch)
                samples += len(batch.samples)
                if samples >= PROBE_SAMPLES:
                    break
        return scales.scales()

    def _autograd_hook(self, name: str) -> Callable[[torch.Tensor], None]:
        """Return a function that moves the gradient of a weight into its sum of squares."""

        def add(weight: torch.Tensor) -> None:
            gradient, weight.grad = weight.grad, None
            if gradient is not None:
                gradient = gradient.float()
                self._sums.sensitivities[name].addcmul_(gradient, gradient)

        return add

    def _add_batch(self, batch: Batch, row_counts: dict[str, int]) -> None:
        recorder = LayerRecorder(
            self._weights, self._finder.autograd_weights, batch, self._sums, row_counts
        )
        with recorder:
            outputs = select_outputs(self._model.run(batch, self._files), self._options)
        outputs = {name: value for name, value in outputs.items() if value.requires_grad}
        for draw in range(self._options.draws):
            vectors = random_directions(outputs, batch, self._scales, self._options, draw)
            if outputs:
                is_last = draw + 1 == self._options.draws
                torch.autograd.backward(
                    list(outputs.values()), list(vectors.values()), retain_graph=not is_last
                )
            with torch.no_grad():
                recorder.finish()

    def _write_means(self, num_samples: int) -> CalibrationResult:
        sums, rows = self._sums, self._sums.progress.rows
        nonzero = {}
        for name, values in sums.sensitivities.items():
            mean = values.div_(num_samples * self._options.draws)
            if not bool(mean.isfinite().all()):
                raise BadInput(
                    f"the sensitivities of {name} are not finite: its gradients overflow"
                )
            if bool(mean.any()):
                nonzero[name] = mean
        moments = {
            name: values.div_(max(1, rows.get(name, 0))) for name, values in sums.moments.items()
        }
        (self._folder / MEANS_FOLDER).mkdir(exist_ok=True)
        _write_tensors(self._folder / MEANS_FOLDER / SENSITIVITIES, nonzero)
        _write_tensors(self._folder / MEANS_FOLDER / SECOND_MOMENTS, moments)
        return CalibrationResult(
            samples=num_samples,
            sample_sha256=tuple(digest for file in self._files for digest in file.digests()),
            outputs=self._scales,
            second_moments=self._shared,
            unreached=tuple(name for name in self._weights if name not in nonzero),
            warnings=tuple(input_warnings(self._files)),
        )


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    entries = sort_entries(
        TensorEntry(
            name, "F32", tuple(tensor.shape), 4 * tensor.numel(), partial(_tensor_bytes, tensor)
        )
        for name, tensor in tensors.items()
    )
    with path.open("wb") as file:
        file.writelines(stream(entries, {}))


def _tensor_bytes(tensor: torch.Tensor) -> Iterator[memoryview]:
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
