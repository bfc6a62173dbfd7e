"""The `.pt2` format of torch.export.save: a graph as JSON, weights as stored zip members.

Nothing is unpickled and no expression is evaluated: what only code could read is refused by name.

Source: torch 2.13, `torch/export/pt2_archive/_package.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.json_scanner import quote_text
from palettery.app.checkpoints.pt2_graph import GraphSummary, read_graph
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.pt2_modules import (
    build_modules,
    build_ops,
    canonical_paths,
    order_modules,
)
from palettery.app.checkpoints.pt2_weights import place
from palettery.app.checkpoints.safetensors import check_name
from palettery.app.checkpoints.state_dict import MAX_VIEW_RATIO
from palettery.app.checkpoints.zip_members import (
    ZipMember,
    read_member,
    read_members,
    strip_root_folder,
)
from palettery.app.errors import InvalidModel, TooLarge, UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor

MODEL_NAME_CHARACTERS = 100
"""Of the model in the archive; messages name it."""
_OLD = "serialized_exported_program.json"
_MARK_BYTES = 64
_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_MARKS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}


def read_pt2(storage: Storage, file: StoredFile, limits: Limits) -> Checkpoint:
    """What a `.pt2` holds, from its directory and its JSON members alone.

    Raises:
        InvalidModel: damaged, lying, or not what torch.export.save writes.
        UnsupportedFormat: written by another version, or with parts that only code can read.
        TooLarge: over a limit.
    """
    archive = Pt2Archive(storage, file, limits)
    model = archive.model_name()
    archive.check_constants(model)
    weights = _Weights(archive, model)
    program = archive.program(model)
    paths = order_modules(program, weights.by_name, limits)
    tensors = _merge_tied(_sort_tensors(weights.by_name, paths, program), file)
    states = {name: held.name for held in tensors for name in (held.name, *held.aliases)}
    canonical = canonical_paths(paths, program.types, states)
    return Checkpoint(
        format="pt2",
        files=(file,),
        tensors=tuple(tensors),
        modules=build_modules(paths, canonical, program.types),
        ops=build_ops(program, canonical, states),
    )


class Pt2Archive:
    """The members of the file, and those that hold its words."""

    def __init__(self, storage: Storage, file: StoredFile, limits: Limits) -> None:
        self._storage, self._path = storage, file.path
        self.name, self.limits = file.name, limits
        members = read_members(storage, file.path, limits, name=file.name)
        if _OLD in members:
            raise UnsupportedFormat(
                f"{file.name} is as torch 2.7 and older wrote it, with pickled weights, and "
                f"pickles are never opened; load it there and {EXPORT_AGAIN} of torch 2.13"
            )
        self.members = strip_root_folder(members, file.name)
        for mark, wanted in _MARKS.items():
            if (member := self.members.get(mark)) is None and mark == "archive_version":
                continue
            found = self._read(member)[:_MARK_BYTES] if member else b"nothing"
            if found.strip() != wanted:
                raise UnsupportedFormat(
                    f"{self.name}: {mark!r} says {quote_text(found.decode(errors='replace'))}, and "
                    f"must say {wanted.decode()!r}; {EXPORT_AGAIN} of torch 2.13"
                )

    def model_name(self) -> str:
        """The name of the one model in the archive, checked to hold no pickled weights."""
        found = [name for name in self.members if name.startswith("models/")]
        if len(found) != 1 or not found[0].endswith(".json"):
            raise UnsupportedFormat(
                f"{self.name} holds {len(found)} models ({_quote_names(found)}); one is read, as "
                "torch.export.save writes it: send one model per file"
            )
        name = found[0].removeprefix("models/").removesuffix(".json")
        if len(name) > MODEL_NAME_CHARACTERS:
            raise InvalidModel(
                f"{self.name} holds a model with a name of {len(name):,} characters; "
                f"{MODEL_NAME_CHARACTERS} are allowed: {EXPORT_AGAIN}"
            )
        for legacy in (f"{_WEIGHTS}{name}.pt", f"{_CONSTANTS}{name}.pt"):
            if legacy in self.members:
                raise UnsupportedFormat(
                    f"{self.name} holds {legacy!r}, a pickle as torch 2.8 wrote it, and pickles "
                    f"are never opened; load it there and {EXPORT_AGAIN} of torch 2.13"
                )
        return name

    def program(self, model: str) -> GraphSummary:
        """The graph."""
        what = f"{self.name}, models/{model}.json"
        said = pt2_json.parse(self.document(model), what, self.limits, graph=True)
        return read_graph(said, what)

    def config(self, name: str) -> Mapping[str, object]:
        """The one field of a config of weights or constants."""
        what = f"{self.name}, {name}"
        said = pt2_json.parse(self._text(name), what, self.limits)
        return pt2_json.field(said, "config", dict, what)

    def check_constants(self, model: str) -> None:
        """Refuse constants that are pickles; plain tensors are the graph's own, and left alone."""
        for _ in self._constants(model):
            pass

    def constants(self, model: str) -> list[StoredTensor]:
        """The tensors that the graph reads beside its states."""
        found = []
        for name, path, said in self._constants(model):
            what = f"{self.name}, constant {quote_text(name)}"
            member = self.members.get(_CONSTANTS + path)
            if member is None or "/" in path:
                raise InvalidModel(f"{what} lies in no member {quote_text(path)}; {EXPORT_AGAIN}")
            found.append(place(name, pt2_json.field(said, "tensor_meta", dict, what), member, what))
        return found

    def document(self, model: str) -> bytes:
        """The graph as it is written."""
        return self._text(f"models/{model}.json")

    def _constants(self, model: str) -> Iterator[tuple[str, str, object]]:
        """Name, member and description of each constant."""
        name = f"{_CONSTANTS}{model}_constants_config.json"
        for key, said in self.config(name).items() if name in self.members else ():
            what = f"{self.name}, constant {quote_text(key)}"
            path = pt2_json.field(said, "path_name", str, what)
            if pt2_json.field(said, "use_pickle", bool, what) or not path.startswith("tensor_"):
                raise UnsupportedFormat(
                    f"{what} is an object stored as a pickle ({quote_text(path)}), and pickles are "
                    "never opened; export the model with plain tensors for constants"
                )
            yield key, path, said

    def _text(self, name: str) -> bytes:
        if (member := self.members.get(name)) is None:
            raise InvalidModel(f"{self.name} lacks its member {quote_text(name)}; {EXPORT_AGAIN}")
        return self._read(member)

    def _read(self, member: ZipMember) -> bytes:
        return read_member(self._storage, self._path, member, self.limits, name=self.name)


class _Weights:
    """Every name in the state dict, and the byte range that it stands for."""

    def __init__(self, archive: Pt2Archive, model: str) -> None:
        self._archive = archive
        said = archive.config(f"{_WEIGHTS}{model}_weights_config.json")
        if len(said) > archive.limits.tensors:
            raise TooLarge(
                f"{archive.name} holds {len(said):,} tensors; {archive.limits.allowed('tensors')}"
            )
        if not said:
            raise InvalidModel(f"{archive.name} holds no weights; export the model with them")
        self.by_name = {
            name: self._weight(check_name(name, archive.name), held) for name, held in said.items()
        }

    def _weight(self, name: str, said: object) -> StoredTensor:
        what = f"{self._archive.name}, tensor {quote_text(name)}"
        path = pt2_json.field(said, "path_name", str, what)
        if pt2_json.field(said, "use_pickle", bool, what):
            raise UnsupportedFormat(
                f"{what} is stored as a pickle ({quote_text(path)}), as tensor subclasses are, and "
                "pickles are never opened; make it a plain tensor and export the model again"
            )
        member = self._archive.members.get(_WEIGHTS + path)
        if member is None or "/" in path or not path.startswith("weight_"):
            raise InvalidModel(
                f"{what} is said to lie in {quote_text(path)}, which must be a member weight_<number> "
                f"of {_WEIGHTS} and is none; {EXPORT_AGAIN}"
            )
        meta = pt2_json.field(said, "tensor_meta", dict, what)
        return place(name, meta, member, what)


def _sort_tensors(
    by_name: Mapping[str, StoredTensor], paths: Sequence[str], program: GraphSummary
) -> list[StoredTensor]:
    """Tensors in the order in which the modules of the live model list them."""
    module = {path: number for number, path in enumerate(paths)}
    state = {name: number for number, name in enumerate(program.states)}
    listed = [*by_name.values()]
    listed.sort(key=lambda held: state.get(held.name, len(state)))
    listed.sort(key=lambda held: module[held.name.rpartition(".")[0]])
    return listed


def _merge_tied(listed: Iterable[StoredTensor], file: StoredFile) -> list[StoredTensor]:
    """Tensors of the same bytes and shape as one, under the first name and with aliases.

    Raises:
        TooLarge: so many views of the same bytes that writing each would take far more.
    """
    found: dict[object, list[StoredTensor]] = {}
    for held in listed:
        place = (held.offset, held.shape, held.strides, held.dtype)
        found.setdefault(place if held.size_bytes else held.name, []).append(held)
    tensors = [
        same[0].model_copy(update={"aliases": tuple(other.name for other in same[1:])})
        for same in found.values()
    ]
    total = sum(held.size_bytes for held in tensors)
    if total > MAX_VIEW_RATIO * file.size_bytes:
        raise TooLarge(
            f"{file.name} of {file.size_bytes:,} bytes holds tensors of {total:,}, as views of "
            f"the same bytes; {MAX_VIEW_RATIO} times the file's size is allowed: clone them before export"
        )
    return tensors


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(quote_text(name) for name in names[:5]) or "none"
