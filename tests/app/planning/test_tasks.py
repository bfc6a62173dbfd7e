"""Tasks: whole, in reach of their size, and cut where pieces can be joined again."""

import math
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palettery.app.planning import tasks
from palettery.app.planning.resolve import resolve
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint, Module, Op, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig


def checkpoint(shapes, strides=None):
    """Linears of these shapes, one behind the other in one file."""
    tensors, offset = [], 100
    for number, shape in enumerate(shapes):
        size = 4 * math.prod(shape)
        tensors.append(
            StoredTensor(
                name=f"l{number}.weight",
                dtype="F32",
                shape=shape,
                strides=strides,
                file=0,
                offset=offset,
                size_bytes=size,
            )
        )
        offset += size
    linear = "torch.nn.modules.linear.Linear"
    names = [f"l{number}" for number in range(len(shapes))]
    return Checkpoint(
        format="pytorch_zip",
        files=(StoredFile(name="m", path="files/m", size_bytes=offset),),
        tensors=tuple(tensors),
        modules=(
            Module(name="", type=None, type_source="inferred"),
            *(Module(name=name, type=linear, type_source="inferred") for name in names),
        ),
        ops=tuple(
            Op(name=f"{n}.linear", type="linear", module=n, states={"weight": f"{n}.weight"})
            for n in names
        ),
    )


def cut(given, task_bytes, **spec):
    config = KMeansPalettizerConfig.model_validate(
        {
            "global_config": {
                "op_state_spec": {"weight": spec},
                "enable_fast_kmeans_mode": "cluster_dim" not in spec,
            }
        }
    )
    return tasks.cut_tasks(
        resolve(config, given, Limits()),
        given,
        source_url="file:///in",
        store_url="file:///out",
        parts_prefix="jobs/1/parts",
        task_bytes=task_bytes,
        cancel_path="jobs/1/cancel",
    )


def grouped(group_size, axis=0):
    return {"type": "per_grouped_channel", "group_size": group_size, "axis": axis}


def test_small_neighbours_share_a_task():
    result = cut(checkpoint([(4, 4)] * 6), 4 * 64, n_bits=2)
    assert [task.size_bytes for task in result] == [256, 128]
    assert [piece.name for piece in result[0].slices] == [f"l{n}.weight" for n in range(4)]
    assert [task.part_path for task in result] == [
        "jobs/1/parts/000000.safetensors",
        "jobs/1/parts/000001.safetensors",
    ]
    assert {task.cancel_path for task in result} == {"jobs/1/cancel"}


def test_largest_tasks_come_first():
    result = cut(checkpoint([(4, 4), (40, 40), (4, 4), (20, 20)]), 100, n_bits=1)
    sizes = [task.size_bytes for task in result]
    assert sizes == sorted(sizes, reverse=True)
    assert [task.index for task in result] == list(range(len(result)))


def test_a_small_model_still_makes_several_tasks(monkeypatch):
    monkeypatch.setattr(tasks, "SMALLEST_TASK_BYTES", 64)
    assert len(cut(checkpoint([(4, 4)] * 16), 1 << 30, n_bits=2)) == tasks.MIN_TASKS


def test_nothing_to_palettize_makes_no_task():
    assert cut(checkpoint([(4, 4)]), 1 << 20, n_bits=2, granularity=grouped(3)) == []


WHOLE = [
    {"n_bits": 4},
    {"n_bits": 4, "granularity": grouped(4, axis=1)},
    {"n_bits": 4, "cluster_dim": 2},
]


@pytest.mark.parametrize("spec", WHOLE)
def test_what_shares_a_palette_stays_whole(spec):
    (task,) = cut(checkpoint([(64, 64)]), 64, **spec)
    assert task.slices[0].shape == (64, 64)
    assert (task.slices[0].offset, task.slices[0].size_bytes) == (100, 64 * 64 * 4)


def test_a_strided_tensor_stays_whole():
    (task,) = cut(checkpoint([(64, 64)], strides=(1, 64)), 64, n_bits=4, granularity=grouped(4))
    assert task.slices[0].strides == (1, 64)
    assert task.slices[0].shape == (64, 64)


@given(
    groups=st.integers(1, 40),
    vectors=st.integers(1, 4),
    cluster_dim=st.integers(1, 4),
    columns=st.integers(2, 9),
    n_bits=st.sampled_from([1, 2, 3, 4, 6, 8]),
    task_bytes=st.integers(1, 5_000),
)
def test_slices_join_to_the_tensor(groups, vectors, cluster_dim, columns, n_bits, task_bytes):
    group_size = vectors * cluster_dim
    rows = groups * group_size
    given = checkpoint([(rows, columns), (group_size, 2)])
    spec = {"n_bits": n_bits, "granularity": grouped(group_size), "cluster_dim": cluster_dim}
    by_name = defaultdict(list)
    for task in cut(given, task_bytes, **spec):
        assert len(task.slices) == 1 or task.size_bytes <= task_bytes
        for piece in task.slices:
            by_name[piece.name].append(piece)
    pieces = sorted(by_name["l0.weight"], key=lambda piece: piece.first_row)
    row = bits = 0
    for piece in pieces:
        assert piece.first_row == row
        assert piece.shape[0] % group_size == 0
        assert bits % 8 == 0  # the packed indices before it end on a byte
        assert piece.offset == 100 + row * columns * 4
        assert piece.size_bytes == math.prod(piece.shape) * 4
        row += piece.shape[0]
        bits += math.prod(piece.shape) // cluster_dim * n_bits
    assert row == rows


def test_the_same_plan_gives_the_same_tasks():
    given = checkpoint([(64, 8), (8, 8), (128, 8)])
    spec = {"n_bits": 3, "granularity": grouped(4)}
    assert cut(given, 512, **spec) == cut(given, 512, **spec)
