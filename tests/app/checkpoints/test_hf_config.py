"""Modules from a config.json, compared with the live models of transformers."""

import io
import json
import re
from pathlib import Path

import psutil
import pytest
import torch
import transformers
from safetensors.torch import save

from palettery.app.checkpoints import hf_config
from palettery.app.planning.resolve import resolve
from palettery.app.settings import Limits
from palettery.schemas.config import PRESETS

MINILM = Path(__file__).parents[3] / ".cache/minilm"
LINEAR = "torch.nn.modules.linear.Linear"
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 50, **TOWER}
CONFIGS = {
    "BertForMaskedLM": {"vocab_size": 50, **TOWER},
    "GPT2LMHeadModel": {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50},
    "ViTForImageClassification": {"image_size": 8, "patch_size": 4, **TOWER},
    "CLIPModel": {
        "text_config": {"vocab_size": 50, **TOWER},
        "vision_config": {"image_size": 8, "patch_size": 4, **TOWER},
    },
    "T5ForConditionalGeneration": {
        **{"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    },
}


def live(architecture, **config):
    """Return a model with weights."""
    model_class = getattr(transformers, architecture)
    return model_class(model_class.config_class(**config))


def described(model):
    """Return the config.json that transformers writes."""
    return json.dumps(
        {**model.config.to_dict(), "architectures": [type(model).__name__]}, default=str
    ).encode()


def weights(model, rename=lambda name: name):
    """Return the state dict as transformers saves it, without tied tensors."""
    tied = model.all_tied_weights_keys
    return {rename(name): value for name, value in model.state_dict().items() if name not in tied}


def types(modules):
    return {module.name: module.type for module in modules}


def live_types(model):
    return {
        name: f"{type(module).__module__}.{type(module).__qualname__}"
        for name, module in model.named_modules()
    }


def some_heavy(names, fast):
    """The fast cases start a process that imports torch and transformers, which takes seconds."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.heavy) for name in names]


@pytest.fixture
def here_if_heavy(request):
    """Of each test, the fast cases have a worker."""
    if request.node.get_closest_marker("heavy"):
        request.getfixturevalue("configs_in_this_process")


@pytest.mark.usefixtures("here_if_heavy")
@pytest.mark.parametrize("architecture", some_heavy(CONFIGS, {"BertForMaskedLM"}))
def test_modules_are_those_of_the_live_model(read, architecture):
    model = live(architecture, **CONFIGS[architecture])
    checkpoint = read({"m": save(weights(model)), "config.json": described(model)})
    assert checkpoint.warnings == ()
    assert types(checkpoint.modules) == live_types(model)
    assert {module.type_source for module in checkpoint.modules} == {"hf_config"}
    tied = {alias for tensor in checkpoint.tensors for alias in tensor.aliases}
    assert tied == set(model.all_tied_weights_keys)
    linear = {
        f"{name}.linear"
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear
    }
    assert {op.name for op in checkpoint.ops if op.type == "linear"} == linear


@pytest.mark.heavy
@pytest.mark.usefixtures("configs_in_this_process")
def test_tied_heads_are_read_by_their_op_and_conv1d_by_none(read):
    model = live("GPT2LMHeadModel", **CONFIGS["GPT2LMHeadModel"])
    checkpoint = read({"m": save(weights(model)), "config.json": described(model)})
    plan = resolve(PRESETS["w8"](), checkpoint, Limits())
    assert [(tensor.name, tensor.op) for tensor in plan.palettized()] == [
        ("transformer.wte.weight", "lm_head.linear")
    ]
    kept = next(t for t in plan.tensors if t.name == "transformer.h.0.attn.c_attn.weight")
    assert kept.module_type == "transformers.pytorch_utils.Conv1D"


@pytest.mark.heavy
@pytest.mark.usefixtures("configs_in_this_process")
def test_a_base_model_under_the_config_of_one_with_a_head(read):
    model = live("BertModel", **CONFIGS["BertForMaskedLM"], add_pooling_layer=False)
    whole = live("BertForMaskedLM", **CONFIGS["BertForMaskedLM"])
    state = {name: value for name, value in weights(model).items() if "pooler" not in name}
    checkpoint = read({"m": save(state), "config.json": described(whole)})
    expected = {
        name.removeprefix("bert").removeprefix("."): kind
        for name, kind in live_types(whole).items()
        if name.startswith("bert")
    }
    assert types(checkpoint.modules) == expected | {
        "": "transformers.models.bert.modeling_bert.BertForMaskedLM"
    }
    assert {op.name for op in checkpoint.ops if not op.states} == set()
    assert all(tensor.aliases == () for tensor in checkpoint.tensors)


@pytest.mark.heavy
@pytest.mark.usefixtures("configs_in_this_process")
def test_a_checkpoint_of_pretraining_under_the_config_of_one_of_its_heads(read):
    """Like bert-base-uncased: with a pooler, a second head and old names."""
    model = live("BertForPreTraining", **CONFIGS["BertForMaskedLM"])

    def old(name):
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        return name.replace("LayerNorm.bias", "LayerNorm.beta")

    state = {
        **weights(model, old),
        "bert.embeddings.position_ids": torch.arange(512).expand(1, -1).clone(),
    }
    checkpoint = read({"m": save(state), "config.json": json.dumps(BERT).encode()})
    assert checkpoint.warnings == ()
    assert types(checkpoint.modules) == live_types(model)


@pytest.mark.heavy
@pytest.mark.usefixtures("configs_in_this_process")
def test_a_wrapped_model_in_a_pytorch_zip(read):
    model = live("BertForMaskedLM", **CONFIGS["BertForMaskedLM"])
    buffer = io.BytesIO()
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, buffer)
    checkpoint = read({"m.bin": buffer.getvalue(), "config.json": described(model)})
    wrapped = {f"module.{name}".removesuffix("."): kind for name, kind in live_types(model).items()}
    assert types(checkpoint.modules) == {"": None} | wrapped


@pytest.mark.heavy
@pytest.mark.usefixtures("configs_in_this_process")
def test_fused_experts_fall_back_with_numbers(read, tmp_path):
    config = {**TOWER, "vocab_size": 50, "num_key_value_heads": 2, "num_local_experts": 2}
    live("MixtralForCausalLM", **config).save_pretrained(tmp_path / "saved")
    names = ("model.safetensors", "config.json")
    checkpoint = read({name: (tmp_path / "saved" / name).read_bytes() for name in names})
    [warning] = checkpoint.warnings
    assert "MixtralForCausalLM has 6 of the checkpoint's 13 weights" in warning
    assert "'model.layers.0.block_sparse_moe." in warning
    assert {module.type_source for module in checkpoint.modules} == {"inferred"}
    assert warning in resolve(PRESETS["w4"](), checkpoint, Limits()).warnings


def nested(depth):
    return f'{{"model_type": "bert", "x": {"[" * depth}{"]" * depth}}}'


UNUSABLE = {
    "another size": (BERT | {"intermediate_size": 64}, r"of shape \[32, 16\], which it has in"),
    "huge widths": (BERT | {"hidden_size": 10**12, "num_attention_heads": 1}, "no model from it"),
    "endless layers": (BERT | {"num_hidden_layers": 10**9}, "far larger model"),
    "a type that is a path": (BERT | {"model_type": "../../x"}, r"does not know .* '\.\./\.\./x'"),
    "a type that is a list": (BERT | {"model_type": ["bert"]}, "does not know"),
    "code from outside": ({"model_type": "x", "auto_map": {"AutoModel": "a--b.C"}}, "never run"),
    "a class that is no model": ({"architectures": ["Trainer", "__import__"]}, "does not know"),
    "a number that is text": (BERT | {"vocab_size": "many"}, "no model from it"),
    "a backbone from a folder": (
        {"model_type": "dpt", "backbone": "/etc", "use_pretrained_backbone": True, "is_hybrid": 1},
        "was not used",
    ),
    "nesting too deep for us": (nested(100_000), "RecursionError"),
    "nesting too deep for transformers": (nested(900), "RecursionError"),
    "a number of many digits": (f'{{"model_type": "bert", "x": {"9" * 5000}}}', "ValueError"),
}


FAST = {"nesting too deep for us"}
OUTSIDE = {"a backbone from a folder", "code from outside"}
"""Of what is not in the config: a worker that may not reach it answers."""


@pytest.mark.parametrize("fault", some_heavy(UNUSABLE, FAST))
def test_a_config_of_no_use_costs_a_warning_and_nothing_else(read, fault, request):
    if fault not in FAST | OUTSIDE:
        request.getfixturevalue("configs_in_this_process")
    config, message = UNUSABLE[fault]
    model = live("BertForMaskedLM", **CONFIGS["BertForMaskedLM"])
    text = config if isinstance(config, str) else json.dumps(config)
    plain = read({"m": save(weights(model))})
    checkpoint = read({"m": save(weights(model)), "config.json": text.encode()})
    [warning] = checkpoint.warnings
    assert re.search(message, warning)
    assert "Traceback" not in warning
    assert warning.endswith("; module types are inferred from names and shapes")
    assert (checkpoint.modules, checkpoint.tensors, checkpoint.ops) == (
        plain.modules,
        plain.tensors,
        plain.ops,
    )


@pytest.mark.heavy
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(BERT | {"num_labels": 10**9}, id="memory"),
        pytest.param({"model_type": "swin", "depths": [10**10]}, id="processor time"),
    ],
)
def test_limits_end_what_transformers_does_not(read, config, monkeypatch):
    monkeypatch.setattr(hf_config, "MEMORY_BYTES", 1 << 30)
    files = {"m": save({"fc.weight": torch.ones(2, 2)}), "config.json": json.dumps(config).encode()}
    [warning] = read(files, Limits(hf_timeout_s=15)).warnings
    assert "MemoryError" in warning or "exceeded the limit" in warning


@pytest.fixture
def shim(tmp_path, monkeypatch):
    """Return a function that sets the source of the module that the worker imports as `torch`."""
    folder = tmp_path / "shim"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return (folder / "torch.py").write_text


MATRIX = save({"fc.weight": torch.ones(2, 2)})


def test_without_the_extra_the_warning_names_it(read, shim):
    shim("raise ImportError")
    [warning] = read({"m": MATRIX, "config.json": json.dumps(BERT).encode()}).warnings
    assert "install palettery[hf]" in warning


def test_the_worker_sees_nothing_of_ours(read, shim, monkeypatch):
    monkeypatch.setenv("PALETTERY_DATABASE_URL", "postgresql://user:secret@host/")
    shim(
        "import os, resource\n"
        "values = [key for key, value in os.environ.items() if 'secret' in value], \\\n"
        "    [os.environ[key] for key in ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE')], \\\n"
        "    os.environ['HOME'] == os.getcwd(), sorted(os.listdir()), \\\n"
        "    resource.getrlimit(resource.RLIMIT_CPU)[0]\n"
        "class nn:\n"
        "    def __getattr__(self, _): raise ValueError(values)\n"
        "nn = nn()"
    )
    files = {"m": MATRIX, "config.json": json.dumps(BERT).encode()}
    [warning] = read(files, Limits(hf_timeout_s=30)).warnings
    assert "([], ['1', '1'], True, ['request'], 30)" in warning


@pytest.mark.heavy
def test_a_worker_that_does_not_end_is_killed(read, shim):
    shim("import signal\nsignal.pause()")
    files = {"m": MATRIX, "config.json": json.dumps(BERT).encode()}
    before = {child.pid for child in psutil.Process().children()}
    [warning] = read(files, Limits(hf_timeout_s=3)).warnings
    assert "exceeded the limit of 3 s (PALETTERY_LIMIT_HF_TIMEOUT_S)" in warning
    assert {child.pid for child in psutil.Process().children()} <= before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import os\nos._exit(0)", "ended without an answer (exit code 0)"),
        ("import ctypes\nctypes.string_at(8)", "crashed (signal 11, SIGSEGV)"),
        ("import os\nos.abort()", "crashed (signal 6, SIGABRT)"),
        ("import os\nos.kill(os.getpid(), 9)", "was killed (SIGKILL)"),
        ("raise ValueError('no')", "failed (ValueError: no)"),
    ],
)
def test_a_worker_that_ends_without_an_answer_costs_a_warning(read, shim, source, message):
    shim(source)
    [warning] = read({"m": MATRIX, "config.json": json.dumps(BERT).encode()}).warnings
    assert f"building the model {message}" in warning
    assert "memory" not in warning or "SIGKILL" in message


def test_an_answer_that_breaks_off_is_none(read, shim):
    shim(
        "import os, pathlib\n"
        "pathlib.Path('answer').write_text('{')\n"
        "pathlib.Path('outcome').write_text('{}')\n"
        "os._exit(0)"
    )
    [warning] = read({"m": MATRIX, "config.json": json.dumps(BERT).encode()}).warnings
    assert "transformers' answer cannot be read" in warning


def test_vectors_alone_start_no_worker(read, shim):
    shim("raise ImportError")  # which a worker would report
    files = {"m": save({"w": torch.ones(2)}), "config.json": json.dumps(BERT).encode()}
    [warning] = read(files).warnings
    assert "no weight matrix" in warning


def test_of_two_configs_none_is_used(read):
    config = json.dumps(BERT).encode()
    [warning] = read({"m": MATRIX, "a.json": config, "b.json": config}).warnings
    assert "2 configs of models" in warning


@pytest.mark.heavy
def test_minilm_has_the_37_linears_of_its_live_model(read):
    names = ("model.safetensors", "config.json")
    checkpoint = read({name: (MINILM / name).read_bytes() for name in names})
    assert checkpoint.warnings == ()
    config = json.loads((MINILM / "config.json").read_text())
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig.from_dict(config))
    assert types(checkpoint.modules) == live_types(model)
    plan = resolve(PRESETS["w4"](), checkpoint, Limits())
    linear = {name for name, kind in live_types(model).items() if kind == LINEAR}
    assert len(linear) == 37
    assert {tensor.name for tensor in plan.palettized()} == {f"{name}.weight" for name in linear}
