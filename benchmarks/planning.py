"""Time of planning: `python -m benchmarks.planning`.

Prints a table, and writes JSON on request.
"""

import argparse
import json
import time
from pathlib import Path

from palettery.app.checkpoints.module_types import infer_modules
from palettery.app.checkpoints.op_types import derive_ops
from palettery.app.planning.resolve import resolve
from palettery.app.planning.tasks import cut_tasks
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor
from palettery.schemas.config import KMeansPalettizerConfig, ModuleKMeansPalettizerConfig

GOAL_S = {1_000: 0.1, 100_000: 5.0}
KEYS = 50


def checkpoint(count: int) -> Checkpoint:
    """Return a decoder of `count` tensors: seven weights, their biases and a norm per layer."""
    linears = [f"self_attn.{part}_proj" for part in "qkvo"]
    linears += [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (1024, 1024) for name in linears}
    shapes |= {f"{name}.bias": (1024,) for name in linears} | {"norm.weight": (1024,)}
    names = (
        (f"model.layers.{layer}.{name}", shape)
        for layer in range(count)
        for name, shape in shapes.items()
    )
    tensors = []
    for number, (name, shape) in zip(range(count), names, strict=False):
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors.append(
            StoredTensor(
                name=name, dtype="F32", shape=shape, file=0, offset=number * size, size_bytes=size
            )
        )
    modules = infer_modules(tensors, Limits())
    return Checkpoint(
        format="safetensors",
        files=(StoredFile(name="model.safetensors", path="m", size_bytes=0),),
        tensors=tuple(tensors),
        modules=modules,
        ops=derive_ops(modules, (tensor.name for tensor in tensors)),
    )


def config() -> KMeansPalettizerConfig:
    """Return a config of fifty keys as users write them: names, patterns, types, an op."""
    rule = ModuleKMeansPalettizerConfig.model_validate(
        {
            "op_state_spec": {"weight": {"n_bits": 6}},
            "op_name_config": {r".*o_proj\.linear": None},
        }
    )
    names = [rf"model\.layers\.{layer}\..*" for layer in range(20)]
    names += [f"model.layers.{layer}.mlp.down_proj" for layer in range(10)]
    names += [rf".*\.{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    names += [rf"model\.layers\.(1|2|3){digit}\..*attn.*" for digit in range(10)]
    types = ["torch.nn.modules.linear.Linear", "torch.nn.modules.conv.Conv2d", "torch.nn.Linear"]
    assert len(names) + len(types) == KEYS  # noqa: S101 - the table says so
    return KMeansPalettizerConfig(
        module_name_configs=dict.fromkeys(names, rule),
        module_type_configs=dict.fromkeys(types, rule),
    )


def seconds(count: int, repeats: int) -> tuple[float, float]:
    """Return the least seconds of `resolve` and of `cut_tasks`."""
    model, rules = checkpoint(count), config()
    planning, cutting = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        plan = resolve(rules, model, Limits())
        planned = time.perf_counter()
        cut_tasks(
            plan,
            model,
            source_url="file:///in",
            store_url="file:///out",
            parts_prefix="p",
            task_bytes=64 << 20,
        )
        planning.append(planned - started)
        cutting.append(time.perf_counter() - planned)
    return min(planning), min(cutting)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    rows = []
    print(f"{'tensors':>9}  {'plan s':>8}  {'goal s':>7}  {'cut s':>7}   ({KEYS} config keys)")
    for count, goal in GOAL_S.items():
        plan_s, cut_s = seconds(count, options.repeats)
        rows.append({"tensors": count, "plan_s": plan_s, "goal_s": goal, "cut_s": cut_s})
        print(f"{count:>9,}  {plan_s:>8.3f}  {goal:>7.1f}  {cut_s:>7.3f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
