"""Selection of the files that make up a model, by an index of shards or by shard numbers.

File names in an index are only compared with those of the upload.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from palettery.app.checkpoints.json_scanner import JsonScanner
from palettery.app.checkpoints.quoting import quote_text
from palettery.app.errors import InvalidModel, TooLarge
from palettery.app.settings import Limits
from palettery.schemas.checkpoint import StoredFile, StoredTensor

_NUMBERED_SHARD = re.compile(
    r"(?P<stem>.*?)(?P<number>\d{1,6})-of-(?P<total>\d{1,6})(?P<rest>\D.*|)"
)
_MAX_LISTED = 5
"""Maximum number of files or shards that a message lists."""


@dataclass(frozen=True)
class ShardIndex:
    """A `*.index.json`."""

    name: str
    """Name of its file."""
    weight_map: Mapping[str, str]
    """Tensor name -> the shard that contains it."""


@dataclass(frozen=True)
class ShardSelection:
    """The files that make up the model."""

    files: Sequence[int]
    """Their numbers in the upload."""
    index: ShardIndex | None
    shards: Mapping[str, int]
    """Name of a shard in the index -> number of the file."""
    warnings: tuple[str, ...]


def read_index(text: str, name: str, limits: Limits) -> ShardIndex | None:
    """Return the index in a JSON document, or None if it has no `weight_map`.

    Raises:
        InvalidModel: invalid JSON, or a map of anything but strings.
        TooLarge: over a limit.
    """
    scanner = JsonScanner(text, name, limits)
    weight_map: dict[str, str] | None = None
    for key in scanner.object_keys():
        if key != "weight_map":
            scanner.read_value()
            continue
        weight_map = {}
        for tensor in scanner.object_keys():
            if len(weight_map) == limits.tensors:
                raise TooLarge(
                    f"{name} names over {limits.tensors:,} tensors; {limits.allowed('tensors')}"
                )
            weight_map[tensor] = scanner.read_string()
    scanner.expect_end()
    if weight_map is None:
        return None
    if not weight_map:
        raise InvalidModel(f"{name} is an index that names no tensor; leave it out, or correct it")
    return ShardIndex(name, weight_map)


def select_files(
    files: Sequence[StoredFile], numbers: Sequence[int], indexes: Sequence[ShardIndex]
) -> ShardSelection:
    """Return the files of the model; `numbers` are those of the files with tensors.

    Raises:
        InvalidModel: shards are missing, or not exactly one of several indexes matches.
    """
    if not indexes:
        names = [files[number].name for number in numbers]
        return ShardSelection(numbers, None, {}, tuple(_check_shard_numbers(names)))
    candidates = [(index, _locate_shards(index, files, numbers)) for index in indexes]
    complete = [(index, shards) for index, shards in candidates if None not in shards.values()]
    if len(indexes) > 1 and len(complete) != 1:
        listed = _join_names(index.name for index in indexes)
        raise InvalidModel(
            f"the upload holds more than one index ({listed}); send the one of these shards"
        )
    index, shards = (complete or candidates)[0]
    resolved = {shard: number for shard, number in shards.items() if number is not None}
    if len(resolved) < len(shards):
        missing = next(shard for shard in shards if shard not in resolved)
        raise InvalidModel(
            f"the index names the shard {quote_text(missing)}, which the upload lacks; send it too"
        )
    chosen = sorted(set(resolved.values()))
    others = [files[number].name for number in numbers if number not in resolved.values()]
    others += [other.name for other, _ in candidates if other is not index]
    warning = f"ignored, because {index.name} does not name it: {_join_names(others)}"
    return ShardSelection(chosen, index, resolved, (warning,) if others else ())


def check_index(
    selection: ShardSelection, files: Sequence[StoredFile], tensors: Iterable[StoredTensor]
) -> None:
    """Check that every tensor is in the shard that the index names.

    Raises:
        InvalidModel: a tensor is in another shard, or is missing.
    """
    if selection.index is None:
        return
    file_of = {name: tensor.file for tensor in tensors for name in (tensor.name, *tensor.aliases)}
    for name, shard in selection.index.weight_map.items():
        number = selection.shards[shard]
        if file_of.get(name) != number:
            raise InvalidModel(
                f"the index says that tensor {quote_text(name)} is in {files[number].name}, but it "
                "is not; send shards and index of the same model"
            )


def _locate_shards(
    index: ShardIndex, files: Sequence[StoredFile], numbers: Sequence[int]
) -> dict[str, int | None]:
    """Map each shard of an index to the number of its file, up to the first missing one (None)."""
    by_path = {_path_parts(files[number].name): number for number in numbers}
    by_name: dict[str, int | None] = {}
    for parts, number in by_path.items():
        by_name[parts[-1]] = None if parts[-1] in by_name else number  # None: ambiguous
    shards: dict[str, int | None] = {}
    for shard in dict.fromkeys(index.weight_map.values()):
        parts = _path_parts(shard)
        is_inside = bool(parts) and ".." not in parts and not shard.startswith("/")
        shards[shard] = by_path.get(parts, by_name.get(parts[-1])) if is_inside else None
        if shards[shard] is None:
            break
    return shards


def _path_parts(path: str) -> tuple[str, ...]:
    """Return the parts of a path without empty ones and dots; the whole path if none is left."""
    return tuple(part for part in path.split("/") if part not in ("", ".")) or (path,)


def _check_shard_numbers(names: Sequence[str]) -> Iterable[str]:
    """Check that numbered shards are complete; yield a warning if there are other files."""
    shards: dict[tuple[str, int, str], set[int]] = defaultdict(set)
    others = []
    for name in names:
        if (match := _NUMBERED_SHARD.fullmatch(name)) is None:
            others.append(name)
        else:
            shards[match["stem"], int(match["total"]), match["rest"]].add(int(match["number"]))
    for (stem, total, rest), numbers in shards.items():
        first = 0 if 0 in numbers else 1
        missing = [
            *islice((n for n in range(first, first + total) if n not in numbers), _MAX_LISTED)
        ]
        if missing:
            raise InvalidModel(
                f"the upload holds {len(numbers):,} of the {total:,} shards {stem}…-of-{total}"
                f"{rest}; it lacks number {', '.join(map(str, missing))}"
                f"{' and more' if len(missing) == _MAX_LISTED else ''}: send all of them"
            )
    if shards and len(shards) + len(others) > 1:
        sets = [f"{stem}…-of-{total}{rest}" for stem, total, rest in shards]
        yield (
            f"{_join_names([*sets, *others])} are read as one model; if they are not, send the "
            "files of one, or the index of its shards"
        )


def _join_names(names: Iterable[str]) -> str:
    listed = [*names]
    more = f" and {len(listed) - _MAX_LISTED:,} more" if len(listed) > _MAX_LISTED else ""
    return ", ".join(listed[:_MAX_LISTED]) + more
