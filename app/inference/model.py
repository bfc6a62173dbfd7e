"""A model in memory that can be run, from a `.pt2` or from a Hugging Face folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from palettery.app.artifacts.export.live_model import library_errors
from palettery.app.errors import BadInput
from palettery.app.inference.inputs import Batch, InputFile, Signature, Tensors

PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
"""Types of tensors that own values; subclasses may only stand for other tensors."""
TensorKey = tuple[int, torch.Size]
"""Address and shape, which identify a tensor."""


@dataclass(frozen=True)
class LiveModel:
    """A model in memory."""

    call: Callable[[Tensors], Mapping[str, torch.Tensor]]
    """Run it on inputs by name; return its outputs by name."""
    weights: Mapping[str, torch.Tensor]
    """Its floating-point tensors, by their canonical names in the checkpoint."""
    signature: Signature

    def run(self, batch: Batch, files: Sequence[InputFile]) -> dict[str, torch.Tensor]:
        """Return the outputs of a batch; outputs that are not tensors are left out.

        Raises:
            BadInput: the model cannot run on these inputs, or an output is not finite.
        """
        with library_errors(partial(_cannot_run, batch, files)):
            outputs = dict(self.call(batch.tensors))
        for name, output in outputs.items():
            if output.is_floating_point() and not bool(output.isfinite().all()):
                raise BadInput(self._non_finite(name, batch))
        return outputs

    def _non_finite(self, name: str, batch: Batch) -> str:
        with torch.no_grad(), NonFiniteFinder(self.weights) as finder:
            self.call(batch.tensors)
        where = f"first in {finder.first}" if finder.first else "though no call gave such values"
        label = f"output {name}" if name else "output"
        return (
            f"the {label} has values that are not finite (NaN or infinite), {where}; "
            f"in samples {', '.join(map(str, batch.samples[:3]))} or others of their batch"
        )


class NonFiniteFinder(TorchFunctionMode):
    """Context manager that records the first call of torch whose result is not finite."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = names_by_key(weights)
        self._last = ""
        self.first = ""
        """The call in words; empty if there is none."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in((args, kwargs)):
            self._last = self._names.get(key_of(tensor), self._last)
        finite = all(
            bool(tensor.isfinite().all())
            for tensor in tensors_in(result)
            if tensor.is_floating_point() and tensor.numel()
        )
        if not finite and not self.first and not _is_mask(result):
            module = self._last.rpartition(".")[0] or self._last
            name = getattr(func, "__name__", str(func))
            self.first = f"{name} of or after module {module or 'the root'}"
        return result


class UnreadWeights(TorchFunctionMode):
    """Context manager that records which weights no call of torch within it reads."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._unread = {name: key_of(weight) for name, weight in weights.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        if self._unread and getattr(func, "__name__", "") != "__get__":  # of a shape or dtype
            keys = {key_of(tensor) for tensor in tensors_in((args, kwargs))}
            for name in [name for name, key in self._unread.items() if key in keys]:
                del self._unread[name]
        return func(*args, **(kwargs or {}))

    def unreached(self) -> tuple[str, ...]:
        """Return the weights that no call has read."""
        return tuple(self._unread)


def names_by_key(weights: Mapping[str, torch.Tensor]) -> dict[TensorKey, str]:
    """Return key -> name of the tensors."""
    return {key_of(tensor): name for name, tensor in weights.items()}


def key_of(tensor: torch.Tensor) -> TensorKey:
    """Return the key of a tensor."""
    return tensor.data_ptr(), tensor.shape


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of `PLAIN_TYPES` in nested lists, tuples and dicts."""
    if type(value) in PLAIN_TYPES:
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def _is_mask(result: Any) -> bool:
    """Return whether a result has only finite values and minus infinity, as masks have."""
    return all(
        bool((tensor.isfinite() | tensor.isneginf()).all())
        for tensor in tensors_in(result)
        if tensor.is_floating_point()
    )


def _cannot_run(batch: Batch, files: Sequence[InputFile], error: Exception) -> BadInput:
    """Return the error for a batch that fails, with the file and the shapes of its inputs."""
    text = str(error).partition("\nException raised from")[0]  # without the C++ stack
    message = text.strip().rpartition("\n")[2] or type(error).__name__
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.tensors.items())
    name = next(file.name for file in reversed(files) if file.first <= batch.samples[0])
    return BadInput(f"the model cannot run on {name} ({shapes}): {message}")
