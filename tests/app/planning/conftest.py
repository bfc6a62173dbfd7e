"""Live torch models as checkpoints, so that plans can be compared with what coreai-opt does."""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode, get_overridable_functions, resolve_name

from schemas.checkpoint import Checkpoint, Module, Op, StoredFile, StoredTensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.float64: "F64"}


class _Recorder(TorchFunctionMode):
    """Notes which function reads which parameter in which module, the first time each runs."""

    def __init__(self, model, tensor_names):
        super().__init__()
        self._names, self._stack, self._finished = tensor_names, [""], set()
        self._counts, self.ops = Counter(), []
        listed = get_overridable_functions().items()
        known = [functions for owner, functions in listed if isinstance(owner, type | type(torch))]
        self._known = {function for functions in known for function in functions}
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name))
                module.register_forward_hook(lambda *_: self._finished.add(self._stack.pop()))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        module = self._stack[-1]
        if func in self._known and module not in self._finished:
            name = (resolve_name(func) or func.__name__).rpartition(".")[2]
            count = self._counts[module, name]
            self._counts[module, name] += 1
            read = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            names = [self._names[id(value)] for value in read if id(value) in self._names]
            dotted = f"{module}.{name}" if module else name
            if names:
                self.ops.append(
                    Op(
                        name=f"{dotted}_{count}" if count else dotted,
                        type=name,
                        module=module,
                        states={str(number): found for number, found in enumerate(names)},
                    )
                )
        return func(*args, **kwargs)


def _by_identity(named):
    found = {}
    for name, thing in named:
        found.setdefault(id(thing), (thing, []))[1].append(name)
    return list(found.values())


@pytest.fixture(scope="session")
def checkpoint_of():
    """A function: (model, example inputs) -> its Checkpoint, ops traced, bytes imagined."""

    def build(model, inputs):
        states = [
            (f"{path}.{name}" if path else name, tensor)
            for path, module in model.named_modules()
            for name, tensor in (
                *module.named_parameters(recurse=False, remove_duplicate=False),
                *module.named_buffers(recurse=False, remove_duplicate=False),
            )
        ]
        tensors = [
            StoredTensor(
                name=names[0],
                aliases=tuple(names[1:]),
                dtype=DTYPES[tensor.dtype],
                shape=tuple(tensor.shape),
                file=0,
                offset=0,
                size_bytes=tensor.nbytes,
            )
            for tensor, names in _by_identity(states)
        ]
        modules = [
            Module(
                name=names[0],
                aliases=tuple(names[1:]),
                type=f"{type(module).__module__}.{type(module).__qualname__}",
                type_source="graph",
            )
            for module, names in _by_identity(model.named_modules(remove_duplicate=False))
        ]
        names = {id(tensor): names[0] for tensor, names in _by_identity(states)}
        recorder = _Recorder(model, names)
        with recorder, torch.no_grad():
            model(*inputs)
        return Checkpoint(
            format="pt2",
            files=(StoredFile(name="model.pt2", path="model.pt2", size_bytes=0),),
            tensors=tuple(tensors),
            modules=tuple(modules),
            ops=tuple(recorder.ops),
        )

    return build
