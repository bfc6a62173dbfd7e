"""Context managers around a run of a model that find its layers, and sum over their gradients.

Gradients of linear layers, embeddings and convolutions are computed here from their inputs and
output gradients, sample by sample, although samples run in batches. Weights that anything else
reads have one gradient per batch, from autograd: as directions are random and independent, the
expectation of its square is the sum over samples.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from palettery.app.calibration.layer_calls import LayerCall, parse_call
from palettery.app.calibration.sample_sums import Sums
from palettery.app.errors import BadInput
from palettery.app.inference.inputs import Batch
from palettery.app.inference.model import TensorKey, key_of, names_by_key, tensors_in


class LayerFinder(TorchFunctionMode):
    """Records which weights are read, by which layers, and which layers have the same input."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self._names = names_by_key(weights)
        self._name_by_storage = {
            tensor.untyped_storage().data_ptr(): name for name, tensor in weights.items()
        }
        self._inputs: dict[str, list[tuple[torch.Tensor, int]]] = defaultdict(list)
        self.autograd_weights: set[str] = set()
        """Weights that something other than a layer reads; their gradients are autograd's."""
        self.read_weights: dict[str, None] = {}
        """Weights that anything reads, in order."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Weight -> shape of its layer's second moments."""
        self._without_moments: set[str] = set()
        """Weights that an embedding, or another layer without second moments, reads."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        layer = parse_call(func, args, kwargs)
        for tensor in tensors_in((args, kwargs)):
            name = self._names.get(key_of(tensor))  # else the tensor may be a view of a weight
            name = name or self._name_by_storage.get(tensor.untyped_storage().data_ptr())
            if name is None or not any(True for _ in tensors_in(result)):
                continue
            self.read_weights[name] = None
            if layer is None or key_of(layer.weight) != key_of(tensor):
                self.autograd_weights.add(name)
            else:
                self._inputs[name].append((layer.input, layer.input._version))
                if (shape := layer.moments_shape()) is not None:
                    self.shapes[name] = shape
                else:
                    self._without_moments.add(name)
        return result

    def shared_inputs(self) -> dict[str, str]:
        """Return name of a weight -> that of the first weight whose layer has the same inputs."""
        firsts: dict[object, str] = {}
        return {
            name: firsts.setdefault(self._inputs_identity(name), name)
            for name in self.read_weights
            if name in self.shapes and name not in self.autograd_weights | self._without_moments
        }

    def _inputs_identity(self, name: str) -> object:
        inputs = tuple((*key_of(x), version) for x, version in self._inputs[name])
        return inputs, self.shapes[name]


class LayerRecorder(TorchFunctionMode):
    """Adds up the squared gradients of weights, and the second moments of layers' inputs."""

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        autograd_weights: set[str],
        batch: Batch,
        sums: Sums,
        row_counts: dict[str, int],
    ) -> None:
        super().__init__()
        self._names: dict[TensorKey, str] = {
            key: name for key, name in names_by_key(weights).items() if name not in autograd_weights
        }
        self._batch, self._sums, self._row_counts = batch, sums, row_counts
        self._call_counts: dict[str, int] = defaultdict(int)
        self._output_gradients: dict[str, list[tuple[LayerCall, torch.Tensor]]] = defaultdict(list)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        layer = parse_call(func, args, kwargs)
        name = None if layer is None else self._names.get(key_of(layer.weight))
        if layer is None or name is None:
            return result
        with torch.no_grad():
            self._add_moments(name, layer)
        if name in self._sums.sensitivities and torch.is_grad_enabled():
            leaf = result if result.requires_grad else result.detach().requires_grad_()
            self._call_counts[name] += 1
            leaf.register_hook(
                partial(self._add_output_gradient, name, layer, layer.input._version)
            )
            result = leaf.clone()  # a change in place would bypass the hook
        return result

    def finish(self) -> None:
        """Add gradients that are left after a backward pass: of layers with calls that had none."""
        for name in [*self._output_gradients]:
            self._add_gradients(name)

    def _add_output_gradient(
        self, name: str, layer: LayerCall, version: int, output_gradient: torch.Tensor
    ) -> None:
        if layer.input._version != version:
            raise BadInput(f"the model changes the input of {name} in place, so it has no gradient")
        self._output_gradients[name].append((layer, output_gradient.detach()))
        if len(self._output_gradients[name]) == self._call_counts[name]:
            with torch.no_grad():
                self._add_gradients(name)

    def _add_gradients(self, name: str) -> None:
        calls, total = self._output_gradients.pop(name), self._sums.sensitivities[name]
        count = len(self._batch.samples)
        is_batched = all(layer.input.dim() and len(layer.input) == count for layer, _ in calls)
        for row in range(count) if is_batched else (None,):
            if len(calls) == 1 and calls[0][0].kind == "embedding":
                rows, gradients = calls[0][0].embedding_gradient(calls[0][1], row)
                total.index_add_(0, rows, gradients.square_())
                continue
            gradient = calls[0][0].gradient(calls[0][1], row)
            for layer, output_gradient in calls[1:]:
                gradient += layer.gradient(output_gradient, row)
            total.addcmul_(gradient, gradient)

    def _add_moments(self, name: str, layer: LayerCall) -> None:
        total = self._sums.moments.get(name)
        rows = None if total is None else layer.input_rows(self._batch.mask())
        if total is None or rows is None:
            return
        self._row_counts[name] = self._row_counts.get(name, 0) + rows.shape[1]
        for group, values in zip(total.view(-1, *total.shape[-2:]), rows, strict=True):
            group.addmm_(values.T, values)
