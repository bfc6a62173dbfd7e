"""Calls operators with hostile arguments, in a process that may die of it.

`python -m tests.operator_fuzz SEED CALLS [TARGET...]` calls each of them so often, in turn, and
writes as JSON how often, how often they took the arguments, and what they died of. With the library
of `guarded_memory.c` preloaded, they die of every access beyond a tensor.
"""

import contextlib
import json
import mmap
import os
import resource
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload

from palettery.app.artifacts.export.operator_checks import CheckedOperators
from palettery.app.checkpoints.pt2_operators import operators
from tests.hostile_arguments import Hostile, Value

CALLS = Path(__file__).with_name("operator_calls.json")
"""Target -> honest calls of it, as exported programs of architectures make them."""
MEMORY_BYTES = 4 << 30
MAX_DEATHS = 3
"""Times that an operator may die before it is left alone."""
CALLS_OF_A_CHILD = 20_000
SLOW_S = 60
"""A call that takes longer counts as one that never ends."""
CHANGED, OPENED, ACTED = 91, 92, 93
"""Exit statuses: it changed what it may not, left a file open, or went for files or the network."""
FORBIDDEN = frozenset(("socket.__new__", "socket.connect", "subprocess.Popen", "os.system"))


def overload(target: str) -> OpOverload:
    """The operator of a target such as `torch.ops.aten.add.Tensor`."""
    _, _, _, name, kind = target.split(".")
    found = getattr(getattr(torch.ops.aten, name), kind)
    assert isinstance(found, OpOverload)
    return found


def make(
    target: str, seed: int, calls: Mapping[str, Any]
) -> tuple[OpOverload, dict[str, Value], bool]:
    """The call that a seed stands for, and whether it is for tensors without memory."""
    hostile = Hostile(seed)
    on_meta = hostile.random.random() < 0.1
    given = hostile.call(calls[target], operators()[target].types)
    return overload(target), given, on_meta


def call(target: OpOverload, given: Mapping[str, Value], *, on_meta: bool = False) -> bool:
    """Call an operator as torch's graphs do; whether it took the arguments.

    Raises:
        AssertionError: it changed what it may not, or gave a tensor that is none.
    """
    mutated = operators()[f"torch.ops.{target}"].mutated
    if on_meta:
        given = {name: _on_meta(value) for name, value in given.items()}
    writable = {
        each.untyped_storage().data_ptr() for name in mutated for each in _tensors(given.get(name))
    }
    before = [
        (tensor, _bytes(tensor))
        for tensor in _tensors([*given.values()])
        if not on_meta and tensor.untyped_storage().data_ptr() not in writable
    ]
    try:
        with contextlib.nullcontext() if on_meta else CheckedOperators():
            result = target(**given)
    except Exception:  # noqa: BLE001 - whatever it raises, it lives
        took = False
    else:
        took = True
        results = result if isinstance(result, list | tuple) else [result]
        assert not target._schema.returns or None not in [
            each if each is None else 0 for each in results
        ]
    assert all(_bytes(tensor) == was for tensor, was in before)
    return took


def _tensors(value: Value) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _tensors(each)


def _bytes(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return flat.numpy().tobytes()


def _on_meta(value: Value) -> Value:
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    return [_on_meta(each) for each in value] if isinstance(value, list) else value


class Canaries:
    """Tensors that no call may change."""

    def __init__(self) -> None:
        self._tensors = [torch.full((1 << size,), 77, dtype=torch.uint8) for size in range(4, 12)]

    def check(self) -> None:
        """Fail if one was changed."""
        assert all(bool((tensor == 77).all()) for tensor in self._tensors)


class Fuzz:
    """Calls operators in turn; what a child counted, its parent knows after its death."""

    def __init__(self, seed: int, calls: int, targets: Sequence[str]) -> None:
        self.seed, self.targets, self.end = seed, targets, calls * len(targets)
        self.calls = json.loads(CALLS.read_text())
        self.deaths: list[tuple[str, int, int]] = []
        shared = mmap.mmap(-1, 8 * (1 + 2 * len(targets)))
        self.numbers = memoryview(shared).cast("q")
        self.made = self.numbers[1 : 1 + len(targets)]
        self.took = self.numbers[1 + len(targets) :]

    def import_everything(self) -> None:
        """Have torch import what it imports when it is first used."""
        for target in self.targets[:: len(self.targets) // 20 or 1]:
            given = {
                name: Hostile(0).honest(value) for name, value in self.calls[target][0].items()
            }
            call(overload(target), given, on_meta=True)

    def run(self) -> None:
        """Fork children that call operators to the end; go on behind what one died of."""
        while self.numbers[0] < self.end:
            child = os.fork()
            if not child:
                self._child()
            _, status = os.waitpid(child, 0)
            if status:
                number = self.numbers[0]
                code = os.waitstatus_to_exitcode(status)
                self.deaths.append(
                    (self.targets[number % len(self.targets)], self.seed + number, code)
                )
                self.numbers[0] += 1

    def _child(self) -> None:
        try:
            _limit()
            self._calls()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the parent counts it as a death
            os._exit(CHANGED)

    def _calls(self) -> None:
        canaries, opened = Canaries(), _open_files()
        deaths = Counter(target for target, _, _ in self.deaths)
        for _ in range(CALLS_OF_A_CHILD):
            number = self.numbers[0]
            at = number % len(self.targets)
            if deaths[self.targets[at]] < MAX_DEATHS:
                signal.alarm(SLOW_S)
                function, given, on_meta = make(self.targets[at], self.seed + number, self.calls)
                self.made[at] += 1
                self.took[at] += call(function, given, on_meta=on_meta)
                del given
            if not number % 10:
                canaries.check()
            if not number % 500 and _open_files() > opened:
                os._exit(OPENED)
            self.numbers[0] = number + 1
            if number + 1 == self.end:
                break
        signal.alarm(0)


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _limit() -> None:
    """Much memory is an error; files, the network and other programs are the end."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.addaudithook(_watch)


def _watch(event: str, details: tuple[Any, ...]) -> None:
    if event in FORBIDDEN or (event == "open" and set(str(details[1])) & set("wax+")):
        os._exit(ACTED)


def main() -> None:
    """Call operators."""
    seed, calls, *targets = sys.argv[1:]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    fuzz = Fuzz(int(seed), int(calls), targets or sorted(operators()))
    fuzz.import_everything()
    fuzz.run()
    counted = {
        "made": dict(zip(fuzz.targets, fuzz.made, strict=True)),
        "took": dict(zip(fuzz.targets, fuzz.took, strict=True)),
        "deaths": fuzz.deaths,
    }
    sys.stdout.write(json.dumps(counted))


if __name__ == "__main__":
    main()
