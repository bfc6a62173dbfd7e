"""The allow list has the operators of known architectures, and none that is unsafe."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from palettery.app.checkpoints.pt2_operators import ATEN, OPERATORS_FILE, operators
from palettery.app.checkpoints.pt2_runnable import read_runnable
from palettery.app.errors import UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredFile
from tests.architectures import ARCHITECTURES, HAND_WRITTEN
from tests.examples import examples
from tests.exported_operators import programs
from tests.operator_fuzz import CALLS, overload

ROOT = Path(__file__).parents[3]
FUZZ_CALLS = examples(21)
"""Hostile calls of each operator: over 10,000 of all of them."""
FAST = ("MobileNet and EfficientNet",)
FEW = 4
"""Architectures of which torch exports programs anew; calls of all of them are in a file."""
UNSAFE = re.compile(
    r"backward|\.out\b|_out\b|as_strided|set_|resize|sparse|quant|nested|file|storage|foreach|"
    r"fused_|unsafe_(?!view)|unpool|mkldnn|csr|from_blob|segment_reduce|_print|_cudnn|record_stream"
)
IN_PLACE = re.compile(r"[a-z0-9]_\.")


def declared():
    return [
        line
        for line in OPERATORS_FILE.read_text().splitlines()
        if line and not line.startswith("#")
    ]


def test_operators_are_listed_as_torch_declares_them():
    def from_torch(name):
        schema = str(overload(ATEN + name)._schema).removeprefix("aten::")
        return f"{name}{schema[schema.index('(') :]}"

    lines = declared()
    assert lines
    assert lines == [from_torch(line.partition("(")[0]) for line in lines]


def test_no_operator_that_trusts_its_arguments_is_listed():
    assert [name for name in operators() if UNSAFE.search(name)] == []


def test_what_an_operator_changes_is_known():
    for name, operator in operators().items():
        schema = overload(name)._schema
        changed = {
            argument.name
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
        }
        assert changed <= operator.mutated, name
        assert bool(IN_PLACE.search(name)) <= bool(operator.mutated), name
        assert operator.mutated <= {"self", "running_mean", "running_var"}, name


def test_every_operator_has_an_honest_call():
    calls = json.loads(CALLS.read_text())
    assert calls.keys() == operators().keys()
    assert all(calls.values())


def refusals(program, folder):
    """Return why a program is rejected after it was saved and read."""
    path = folder / "model.pt2"
    torch.export.save(program, path)
    file = StoredFile(name="model.pt2", path="model.pt2", size_bytes=path.stat().st_size)
    try:
        read_runnable(open_storage(folder.as_uri()), file, Limits())
    except UnsupportedFormat as error:
        return [error.detail]
    return []


def check(name, folder, *, training):
    results = [
        refusals(program, folder) for program in programs(ARCHITECTURES[name], training=training)
    ]
    assert results == [[], [], []]


@pytest.mark.parametrize("name", FAST)
def test_small_networks_are_accepted(name, tmp_path):
    check(name, tmp_path, training=False)


def some(names):
    """Return a few architectures, or all of them in a long run."""
    return random.Random(1).sample(sorted(names), min(len(names), examples(FEW)))  # noqa: S311


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", some(ARCHITECTURES.keys() - FAST))
def test_a_known_architecture_is_accepted(name, tmp_path):
    check(name, tmp_path, training=False)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", some(HAND_WRITTEN))
def test_a_network_in_training_is_accepted(name, tmp_path):
    check(name, tmp_path, training=True)


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    """Return the environment of a process that crashes on out-of-bounds accesses."""
    compiler = shutil.which("cc")
    if compiler is None:
        return {}
    library = tmp_path_factory.mktemp("guard") / "guard.so"
    source = ROOT / "tests" / "guarded_memory.c"
    flags = ("-O2", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread")
    subprocess.run([compiler, *flags], check=True)
    return {"LD_PRELOAD": str(library)}


@pytest.mark.heavy
def test_the_guard_notices_a_write_beyond_a_tensor(guard):
    if not guard:
        pytest.skip("no C compiler is installed")
    code = (
        "import torch; i = torch.full((1, 1, 1, 1), {0}); one = torch.ones(1, 1, 1, 1);"
        "torch.ops.aten.max_pool2d_with_indices_backward"
        "(one, torch.zeros(1, 1, 2, 2), [2, 2], [2, 2], [0, 0], [1, 1], False, i)"
    )
    ends = [
        subprocess.run(
            [sys.executable, "-c", code.format(index)], env=os.environ | guard, capture_output=True
        ).returncode
        for index in (3, 2_000, 4)
    ]
    assert ends[0] == 0
    assert ends[1] < 0
    assert ends[2] < 0


@pytest.mark.heavy
def test_hostile_arguments_end_no_process_and_change_nothing(guard, tmp_path):
    """PALETTERY_TEST_EXAMPLES has it make more calls of each, OPERATOR_FUZZ_SEED others."""
    seed = os.environ.get("OPERATOR_FUZZ_SEED", "0")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.operator_fuzz", seed, str(FUZZ_CALLS)],
        cwd=ROOT,
        env=os.environ | guard | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2_000:]
    counted = json.loads(run.stdout.splitlines()[-1])  # MKL may print before
    assert counted["deaths"] == []
    assert set(counted["made"].values()) == {FUZZ_CALLS}
    assert [*tmp_path.iterdir()] == []
