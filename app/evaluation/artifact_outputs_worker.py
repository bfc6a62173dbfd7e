"""Sandboxed process that runs a model with an artifact's weights, and writes its outputs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from palettery.app.artifacts.export.live_model import artifact_state_dict
from palettery.app.artifacts.export.sandbox_files import open_artifact_files
from palettery.app.errors import BadInput, TooLarge
from palettery.app.evaluation.artifact_outputs import OUTPUTS, OutputsRequest, WrittenOutputs
from palettery.app.evaluation.worker import BATCH, check_same_shapes
from palettery.app.inference.inputs import InputFile, Tensors
from palettery.app.inference.model import LiveModel
from palettery.app.inference.model_files import write_progress
from palettery.app.inference.model_source import ModelSource

ONLY_OUTPUT = "output"
"""Name in the file of an output without a name."""


def answer(request: bytes) -> bytes:
    """Write the outputs of a model with an artifact's weights into the current folder."""
    options, folder = OutputsRequest.model_validate_json(request), Path.cwd()
    source = ModelSource(options.files, folder, options.limits)
    state = artifact_state_dict(open_artifact_files(options.artifact, folder))
    check_same_shapes(source.state(), state)
    model = source.open(state)
    files = source.inputs(model.signature)
    total, by_name, size_bytes = sum(file.count for file in files), dict[str, list[_Batch]](), 0
    for samples, outputs in _run(model, files):
        for name, output in outputs.items():
            by_name.setdefault(name or ONLY_OUTPUT, []).append((samples, output))
            size_bytes += output.nbytes
        if size_bytes > options.limits.output_bytes:
            raise TooLarge(
                f"the outputs are over the limit of {options.limits.output_bytes:,} bytes; run "
                "fewer samples at a time, or raise PALETTERY_LIMIT_OUTPUT_BYTES"
            )
        write_progress(folder, samples.stop, total)
    is_single = any(file.is_single for file in files)
    merged = {name: _merged(name, each, is_single) for name, each in by_name.items()}
    save_file(merged, folder / OUTPUTS)
    shapes = {name: tuple(output.shape) for name, output in merged.items()}
    return WrittenOutputs(samples=total, shapes=shapes).model_dump_json().encode()


_Batch = tuple[range, torch.Tensor]
"""Numbers of samples, and an output of theirs."""


def _run(model: LiveModel, files: Sequence[InputFile]) -> Iterator[tuple[range, Tensors]]:
    """Yield the outputs of each batch, in the order of the samples."""
    for batch in (batch for file in files for batch in file.batches_in_order(BATCH)):
        with torch.no_grad():
            outputs = model.run(batch, files)
        copies = {name: each.detach().clone().contiguous() for name, each in outputs.items()}
        yield range(batch.samples[0], batch.samples[-1] + 1), copies


def _merged(name: str, batches: Sequence[_Batch], is_single: bool) -> torch.Tensor:
    """Return an output of all samples; one that has no axis of them must be alike in all batches.

    Raises:
        BadInput: the batches do not fit together.
    """
    outputs = [output for _, output in batches]
    if outputs[0].dtype == torch.complex128:
        raise BadInput(f"the output {name} is complex128, which safetensors cannot hold")
    has_samples = all(output.dim() and len(output) == len(samples) for samples, output in batches)
    try:
        if is_single:
            return torch.stack(outputs)
        if has_samples:
            return torch.cat(outputs)
    except RuntimeError as error:
        shapes = " and ".join(sorted({str(list(output.shape)) for output in outputs})[:2])
        raise BadInput(
            f"the output {name} has the shapes {shapes}, which are not one tensor; run the files "
            "of inputs one by one"
        ) from error
    if all(torch.equal(output, outputs[0]) for output in outputs):
        return outputs[0]
    raise BadInput(
        f"the output {name} of shape {list(outputs[0].shape)} has no axis of samples, and differs "
        f"between batches; run at most {len(batches[0][0]):,} samples at a time"
    )
