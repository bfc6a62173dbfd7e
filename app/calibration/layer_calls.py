"""Calls of linear layers, embeddings and convolutions, and the gradients of their weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

ATEN = torch.ops.aten
LayerKind = Literal["linear", "embedding", "convolution"]
_LINEAR: tuple[LayerKind, Sequence[str]] = ("linear", ("input", "weight", "bias"))
_CONVOLUTION: tuple[LayerKind, Sequence[str]] = (
    "convolution",
    ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
)
CALLS: Mapping[Any, tuple[LayerKind, Sequence[str]]] = {
    functional.linear: _LINEAR,
    ATEN.linear.default: _LINEAR,
    functional.embedding: ("embedding", ("input", "weight")),
    torch.embedding: ("embedding", ("weight", "input")),
    ATEN.embedding.default: ("embedding", ("weight", "input")),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), _CONVOLUTION),
    **dict.fromkeys((ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default), _CONVOLUTION),
}
"""Function whose gradients are computed here -> kind of layer, and names of its parameters."""
MAX_UNFOLD_AXES = 2
"""Maximum number of spatial axes that `unfold` supports."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer."""

    kind: LayerKind
    input: torch.Tensor
    weight: torch.Tensor
    arguments: Mapping[str, Any]
    """All arguments by name, such as `stride`."""

    def gradient(self, output_gradient: torch.Tensor, sample: int | None) -> torch.Tensor:
        """Return the gradient of the weight, for the sample of this index or for all (None).

        Shapes: output_gradient like the call's result -> like the weight.
        """
        selected = slice(None) if sample is None else slice(sample, sample + 1)
        x, output_gradient = self.input[selected], output_gradient[selected].float()
        if self.kind == "linear":
            output_gradient = output_gradient.reshape(-1, output_gradient.shape[-1])
            return output_gradient.T @ x.reshape(-1, x.shape[-1]).float()
        if self.kind == "embedding":
            output_gradient = output_gradient.reshape(-1, output_gradient.shape[-1])
            empty = torch.zeros(self.weight.shape)
            return empty.index_add_(0, x.reshape(-1), output_gradient)
        stride, padding, dilation, groups = self._window_parameters()
        gradient: torch.Tensor = ATEN.convolution_backward(
            *(output_gradient, x.float(), self.weight.detach().float(), None),
            *(stride, padding, dilation, False, [0] * len(stride), groups),
            (False, True, False),
        )[1]
        return gradient

    def embedding_gradient(
        self, output_gradient: torch.Tensor, sample: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the indices of the rows of an embedding that were read, and their gradients."""
        selected = slice(None) if sample is None else slice(sample, sample + 1)
        indices = self.input[selected].reshape(-1)
        rows, positions = indices.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        empty = torch.zeros(len(rows), output_gradient.shape[-1])
        return rows, empty.index_add_(
            0, positions, output_gradient[selected].reshape(-1, output_gradient.shape[-1]).float()
        )

    def input_rows(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Return the vectors that the weight is multiplied with, without those of padding.

        None if the layer has no such product, or one that is not supported.

        Shapes: mask (samples, positions), false for padding -> (groups, rows, inputs).
        """
        x = self.input
        if self.kind == "linear":
            if mask is not None and x.shape[:2] == mask.shape:
                x = x[mask]
            return x.reshape(1, -1, x.shape[-1]).float()
        spatial_axes = self.weight.dim() - 2
        if self.kind == "embedding" or spatial_axes > MAX_UNFOLD_AXES:
            return None
        stride, padding, dilation, groups = self._window_parameters()
        kernel = list(self.weight.shape[2:])
        if spatial_axes < MAX_UNFOLD_AXES:  # as an image of one line
            x = x.unsqueeze(-2)
            kernel, stride, dilation = [1, *kernel], [1, *stride], [1, *dilation]
            padding = [0, *padding]
        windows = map(tuple, (kernel, dilation, padding, stride))
        columns = functional.unfold(x.float(), *windows)
        samples, _, positions = columns.shape
        columns = columns.reshape(samples, groups, -1, positions).permute(1, 0, 3, 2)
        if mask is not None and (samples, positions) == mask.shape:
            return columns[:, mask]
        return columns.reshape(groups, samples * positions, -1)

    def moments_shape(self) -> tuple[int, ...] | None:
        """Return the shape of the second moments of `input_rows`; None if it returns None."""
        if self.kind == "linear":
            return (self.weight.shape[-1],) * 2
        if self.kind == "embedding" or self.weight.dim() - 2 > MAX_UNFOLD_AXES:
            return None
        size, groups = self.weight[0].numel(), self.arguments.get("groups", 1)
        return (size, size) if groups == 1 else (groups, size, size)

    def _window_parameters(self) -> tuple[list[int], list[int], list[int], int]:
        axes = self.weight.dim() - 2

        def per_axis(name: str, default: int) -> list[int]:
            value = self.arguments.get(name, default)
            value = list(value) if isinstance(value, list | tuple) else [value]
            return value * axes if len(value) == 1 else value

        return (
            per_axis("stride", 1),
            per_axis("padding", 0),
            per_axis("dilation", 1),
            self._groups(),
        )

    def _groups(self) -> int:
        groups: int = self.arguments.get("groups", 1)
        return groups


def parse_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> LayerCall | None:
    """Return a call of a layer; None for any other call, and for one that is not supported."""
    kind, names = CALLS.get(function, (None, ()))
    if kind is None:
        return None
    arguments = dict(zip(names, args, strict=False)) | {  # the last ones may be omitted
        "input" if name == "indices" else name: value for name, value in kwargs.items()
    }
    x, weight = arguments.get("input"), arguments.get("weight")
    if not isinstance(x, torch.Tensor) or not isinstance(weight, torch.Tensor):
        return None
    if kind == "convolution" and (
        isinstance(arguments.get("padding"), str) or x.dim() < weight.dim()
    ):
        return None  # `same` padding, or no axis of samples
    return LayerCall(kind, x.detach(), weight, arguments)
