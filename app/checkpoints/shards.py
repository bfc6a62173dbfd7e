"""Which files of an upload are the model: by the index beside them, or by the numbers of shards.

An index's file names are compared with those of the upload and used for nothing else.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from palettery.app.checkpoints.json_scanner import JsonScanner, quote_text
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import StoredFile, StoredTensor

_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<rest>\D.*|)")
_LISTED = 5
"""Files or shards that a message names."""


@dataclass(frozen=True)
class ShardIndex:
    """What a `*.index.json` says."""

    name: str
    """Of its file."""
    weight_map: Mapping[str, str]
    """Tensor name -> the shard that holds it."""


@dataclass(frozen=True)
class ShardSelection:
    """The files that are the model."""

    files: Sequence[int]
    """Their numbers in the upload."""
    index: ShardIndex | None
    shards: Mapping[str, int]
    """Shard, as the index names it -> number of the file."""
    warnings: tuple[str, ...]


def read_index(text: str, name: str, limits: Limits) -> ShardIndex | None:
    """The index in a JSON document, None if it has no `weight_map`; the rest is left alone.

    Raises:
        InvalidModel: no sound JSON, or no map of texts.
        TooLarge: over a limit.
    """
    scanner = JsonScanner(text, name, limits)
    weight_map: dict[str, str] | None = None
    for key in scanner.members():
        if key != "weight_map":
            scanner.value()
            continue
        weight_map = {}
        for tensor in scanner.members():
            if len(weight_map) == limits.tensors:
                raise TooLarge(
                    f"{name} names over {limits.tensors:,} tensors; {limits.allowed('tensors')}"
                )
            weight_map[tensor] = scanner.string()
    scanner.end()
    if weight_map is None:
        return None
    if not weight_map:
        raise InvalidModel(f"{name} is an index that names no tensor; leave it out, or mend it")
    return ShardIndex(name, weight_map)


def select_files(
    files: Sequence[StoredFile], numbers: Sequence[int], indexes: Sequence[ShardIndex]
) -> ShardSelection:
    """The model among the files that hold tensors, whose numbers are given.

    Raises:
        InvalidModel: shards are missing, or more than one index fits.
    """
    if not indexes:
        names = [files[number].name for number in numbers]
        return ShardSelection(numbers, None, {}, tuple(_check_numbers(names)))
    found = [(index, _shards(index, files, numbers)) for index in indexes]
    fitting = [(index, shards) for index, shards in found if None not in shards.values()]
    if len(indexes) > 1 and len(fitting) != 1:
        raise InvalidModel(
            f"the upload holds more than one index ({_listed(index.name for index in indexes)}); "
            "send the one of these shards"
        )
    index, shards = (fitting or found)[0]
    resolved = {shard: number for shard, number in shards.items() if number is not None}
    if len(resolved) < len(shards):
        missing = next(shard for shard in shards if shard not in resolved)
        raise InvalidModel(
            f"the index names the shard {quote_text(missing)}, which the upload lacks; send it too"
        )
    chosen = sorted(set(resolved.values()))
    others = [files[number].name for number in numbers if number not in resolved.values()]
    others += [other.name for other, _ in found if other is not index]
    warning = f"left out, for {index.name} does not name it: {_listed(others)}"
    return ShardSelection(chosen, index, resolved, (warning,) if others else ())


def check_index(
    selection: ShardSelection, files: Sequence[StoredFile], tensors: Iterable[StoredTensor]
) -> None:
    """That every shard holds the tensors that the index says.

    Raises:
        InvalidModel: one does not.
    """
    if selection.index is None:
        return
    lies_in = {name: tensor.file for tensor in tensors for name in (tensor.name, *tensor.aliases)}
    for name, shard in selection.index.weight_map.items():
        number = selection.shards[shard]
        if lies_in.get(name) != number:
            raise InvalidModel(
                f"the index says that tensor {quote_text(name)} lies in {files[number].name}, and it "
                "does not; send shards and index of the same model"
            )


def _shards(
    index: ShardIndex, files: Sequence[StoredFile], numbers: Sequence[int]
) -> dict[str, int | None]:
    """Each shard that an index names -> the number of its file, up to the first not sent."""
    whole = {_parts(files[number].name): number for number in numbers}
    last: dict[str, int | None] = {}
    for parts, number in whole.items():
        last[parts[-1]] = None if parts[-1] in last else number
    found: dict[str, int | None] = {}
    for shard in dict.fromkeys(index.weight_map.values()):
        parts = _parts(shard)
        is_inside = bool(parts) and ".." not in parts and not shard.startswith("/")
        found[shard] = whole.get(parts, last.get(parts[-1])) if is_inside else None
        if found[shard] is None:
            break
    return found


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path, those without a meaning left out; the whole of one that has none."""
    return tuple(part for part in path.split("/") if part not in ("", ".")) or (path,)


def _check_numbers(names: Sequence[str]) -> Iterable[str]:
    """Refuse numbered shards of which some are missing; warn of other files beside them."""
    shards: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    others = []
    for name in names:
        if (match := _NUMBERED.fullmatch(name)) is None:
            others.append(name)
        else:
            shards[match["stem"], int(match["total"]), match["rest"]].add(int(match["number"]))
    for (stem, total, rest), numbers in shards.items():
        first = 0 if 0 in numbers else 1
        missing = [*islice((n for n in range(first, first + total) if n not in numbers), _LISTED)]
        if missing:
            raise InvalidModel(
                f"the upload holds {len(numbers):,} of the {total:,} shards {stem}…-of-{total}"
                f"{rest}; it lacks number {', '.join(map(str, missing))}"
                f"{' and more' if len(missing) == _LISTED else ''}: send all of them"
            )
    if shards and len(shards) + len(others) > 1:
        sets = [f"{stem}…-of-{total}{rest}" for stem, total, rest in shards]
        yield (
            f"{_listed([*sets, *others])} are read as one model; if they are not, send the files "
            "of one, or the index of its shards"
        )


def _listed(names: Iterable[str]) -> str:
    listed = [*names]
    more = f" and {len(listed) - _LISTED:,} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more
