"""Sandboxed process that runs a model before palettization, and writes its outputs."""

from pathlib import Path

import torch

from palettery.app.evaluation.compare import OutputComparison, logits_outputs
from palettery.app.evaluation.dense_outputs import (
    OUTPUTS,
    DenseOutputs,
)
from palettery.app.evaluation.outputs_file import OutputsWriter
from palettery.app.evaluation.worker import BATCH
from palettery.app.inference.inputs import Batch
from palettery.app.inference.model_files import write_progress
from palettery.app.inference.model_source import ModelSource
from palettery.app.inference.run_model import ModelRequest
from palettery.schemas.evaluation import ComparedOutput


def answer(request: bytes) -> bytes:
    """Entry point in the sandbox: write the outputs of a model into the current folder."""
    options, folder = ModelRequest.model_validate_json(request), Path.cwd()
    source = ModelSource(options.files, folder, options.limits)
    model = source.open(source.state())
    files = source.inputs(model.signature)
    total, samples = sum(file.count for file in files), 0
    first: tuple[ComparedOutput, ...] | None = None
    with OutputsWriter(folder / OUTPUTS, options.limits.output_bytes) as writer, torch.no_grad():
        for batch in (batch for file in files for batch in file.batches(BATCH)):
            outputs = model.run(batch, files)
            first = first or _compare_with_itself(outputs, batch)
            if not writer.add(outputs):
                result = DenseOutputs(samples=total, is_stored=False, outputs=first)
                return result.model_dump_json().encode()
            samples += len(batch.samples)
            write_progress(folder, samples, total)
    result = DenseOutputs(samples=total, is_stored=True, outputs=first or ())
    return result.model_dump_json().encode()


def _compare_with_itself(
    outputs: dict[str, torch.Tensor], batch: Batch
) -> tuple[ComparedOutput, ...]:
    logits = logits_outputs(outputs, batch)
    comparisons = []
    for name, output in outputs.items():
        comparison = OutputComparison(name, name in logits)
        comparison.add(output, output, batch)
        comparisons.append(comparison.result(per_sample=False))
    return tuple(comparisons)
