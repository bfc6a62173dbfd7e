"""Plans beside what coreai-opt does: live models as checkpoints, random configs, both answers."""

import copy
import random
import warnings
from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode, get_overridable_functions, resolve_name

from palettery.app.planning.resolve import resolve
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint, Module, Op, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig

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
                        states={str(number): result for number, result in enumerate(names)},
                    )
                )
        return func(*args, **kwargs)


def _by_identity(named):
    results = {}
    for name, thing in named:
        results.setdefault(id(thing), (thing, []))[1].append(name)
    return list(results.values())


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


@pytest.fixture
def one_thread():
    """Tiny tensors on many threads spend their time waiting for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def documents_for():
    """A function: (checkpoint, seed) -> random config documents over its names, without end."""

    def make(checkpoint, *, seed):
        documents = _Documents(random.Random(seed), checkpoint)  # noqa: S311 - no secret here
        while True:
            yield documents.document()

    return make


@pytest.fixture(scope="session")
def ours():
    """A function: (document, checkpoint) -> tensor name -> how the plan palettizes it."""
    return _ours


@pytest.fixture(scope="session")
def theirs():
    """A function: (document, model, inputs) -> tensor name -> how coreai-opt palettizes it."""
    pytest.importorskip("coreai_opt.palettization")
    return _theirs


def _ours(document, checkpoint):
    plan = resolve(KMeansPalettizerConfig.model_validate(document), checkpoint, Limits())
    return {
        tensor.name: (
            tensor.spec.n_bits,
            tensor.clustering.group_size,
            tensor.clustering.axis,
            tensor.spec.cluster_dim,
            tensor.spec.enable_per_channel_scale,
            tensor.clustering.rounding_precision,
            _lut(tensor.spec.lut_qspec),
        )
        for tensor in plan.palettized()
    }


def _theirs(document, model, inputs):
    from coreai_opt import palettization as coreai

    model = copy.deepcopy(model)
    config = coreai.KMeansPalettizerConfig.from_dict(
        {"kmeans_palettization_config": copy.deepcopy(document)}
    )
    names = {
        id(tensor): name for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        palettizer = coreai.KMeansPalettizer(model, config)
        palettizer._handler.prepare(model, inputs)
    results = {}
    for info in palettizer._collect_fake_palett_info(to_cpu=False):
        original = info.module.parametrizations[info.attr_name].original
        fake, grouping = info.fp_module, info.fp_module.granularity
        if not _clusters(fake, info.weight):
            continue
        fast = fake.enable_fast_kmeans_mode and fake.cluster_dim == 1
        results[names[id(original)]] = (
            fake.n_bits,
            getattr(grouping, "group_size", None),
            grouping.axis or 0,
            fake.cluster_dim,
            fake.enable_per_channel_scale,
            fake.rounding_precision if fast else None,
            _lut(fake.lut_qspec),
        )
    return results


def _lut(qspec):
    if qspec is None:
        return None
    return str(qspec.dtype).removeprefix("torch."), getattr(qspec.qscheme, "value", qspec.qscheme)


def _clusters(fake, weight):
    """Whether coreai-opt palettizes the weight; it skips some and fails on others."""
    try:
        with warnings.catch_warnings(action="ignore"):
            fake.ensure_initialized(weight)
    except (IndexError, RuntimeError, ValueError):
        return False
    return not fake.is_disabled()


class _Documents:
    """Random config documents over the names that a model has, and some that it has not."""

    def __init__(self, rng, checkpoint):
        self._rng = rng
        modules = [name for module in checkpoint.modules for name in (module.name, *module.aliases)]
        self._modules = [name for name in modules if name]
        self._types = sorted({module.type for module in checkpoint.modules if module.type})
        tensors = [name for tensor in checkpoint.tensors for name in (tensor.name, *tensor.aliases)]
        self._states = ["*", "missing", *sorted({name.rpartition(".")[2] for name in tensors})]
        self._ops = [op.name for op in checkpoint.ops]
        run = {op.type for op in checkpoint.ops}
        self._op_types = sorted(run | {"linear", "multi_head_attention_forward", "Linear"})

    def document(self):
        rng, document = self._rng, {}
        if rng.random() < 0.6:
            document["global_config"] = self._module(module_state=False)
        types = rng.sample(self._types, k=rng.randint(0, min(3, len(self._types))))
        document["module_type_configs"] = {key: self._module() for key in types}
        names = {self._pattern(self._modules) for _ in range(rng.randint(0, 4))}
        document["module_name_configs"] = {key: self._module() for key in sorted(names)}
        return document

    def _module(self, *, module_state=True):
        rng = self._rng
        if rng.random() < 0.15:
            return None
        fast = rng.random() < 0.5
        document = {"enable_fast_kmeans_mode": fast, "rounding_precision": rng.randint(1, 9)}
        if rng.random() < 0.8:
            document["op_state_spec"] = self._specs(vectors=not fast)
        if rng.random() < 0.4:
            keys = rng.sample(self._op_types, k=2)
            document["op_type_config"] = {key: self._op() for key in keys}
        if rng.random() < 0.4:
            keys = {self._pattern(self._ops) for _ in range(2)}
            document["op_name_config"] = {key: self._op() for key in sorted(keys)}
        if module_state and rng.random() < 0.5:
            document["module_state_spec"] = self._specs(vectors=True)
        return document

    def _op(self):
        choice = self._rng.random()
        if choice < 0.2:
            return None
        return {} if choice < 0.3 else {"op_state_spec": self._specs(vectors=True)}

    def _specs(self, *, vectors):
        rng = self._rng
        if rng.random() < 0.1:
            return None
        keys = rng.sample(self._states, k=min(len(self._states), rng.randint(0, 3)))
        if rng.random() < 0.6:
            keys.append("weight")
        return {key: None if rng.random() < 0.2 else self._spec(vectors) for key in keys}

    def _spec(self, vectors):
        rng = self._rng
        spec = {"n_bits": rng.choice([1, 2, 3, 4, 6, 8])}
        if rng.random() < 0.5:
            spec["granularity"] = {
                "type": "per_grouped_channel",
                "group_size": rng.choice([1, 2, 3, 4, 8]),
                "axis": rng.choice([0, 1, None]),
            }
        if vectors and rng.random() < 0.3:
            spec["cluster_dim"] = rng.choice([2, 3, 4])
        spec["enable_per_channel_scale"] = rng.random() < 0.2
        if rng.random() < 0.2:
            dtype = rng.choice(["int8", "uint8", "float8_e4m3fn", "float8_e5m2"])
            schemes = ["symmetric"] if dtype.startswith("float8") else ["symmetric", "asymmetric"]
            spec["lut_qspec"] = {"dtype": dtype, "qscheme": rng.choice(schemes)}
        return spec

    def _pattern(self, names):
        name = self._rng.choice(names)
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        part = f"({first}|nothing)"
        exact = name.replace(".", r"\.")
        return self._rng.choice([name, exact, f"{first}.*", f".*{last}", ".*", part, "no"])
