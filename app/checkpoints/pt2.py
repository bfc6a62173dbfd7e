"""Reader of `.pt2` files of torch.export.save: a graph as JSON, weights as zip members.

Nothing is unpickled and no expression is evaluated: parts that only code can read are rejected,
and named in the message.

Source: torch 2.13, `torch/export/pt2_archive/_package.py`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.pt2_graph import GraphSummary, read_graph
from palettery.app.checkpoints.pt2_json import EXPORT_AGAIN
from palettery.app.checkpoints.pt2_modules import (
    build_modules,
    build_ops,
    canonical_paths,
    order_modules,
)
from palettery.app.checkpoints.pt2_weights import locate_tensor
from palettery.app.checkpoints.quoting import quote_text
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
"""Maximum length of the model's name in the archive; messages contain it."""
_LEGACY_MEMBER = "serialized_exported_program.json"
_MARKER_BYTES = 64
_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_MARKERS = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
"""Name of a member -> its required contents; the version may be missing."""


def read_pt2(storage: Storage, file: StoredFile, limits: Limits) -> Checkpoint:
    """Return the checkpoint in a `.pt2`; only its directory and JSON members are read.

    Raises:
        InvalidModel: damaged, inconsistent, or not as torch.export.save writes it.
        UnsupportedFormat: written by another version, or with parts that only code can read.
        TooLarge: over a limit.
    """
    archive = Pt2Archive(storage, file, limits)
    model = archive.model_name()
    archive.check_constants(model)
    weights = archive.weights(model)
    graph = archive.graph(model)
    paths = order_modules(graph, weights, limits)
    tensors = _merge_tied(_sort_tensors(weights, paths, graph), file)
    names = {name: tensor.name for tensor in tensors for name in (tensor.name, *tensor.aliases)}
    canonical = canonical_paths(paths, graph.types, names)
    return Checkpoint(
        format="pt2",
        files=(file,),
        tensors=tuple(tensors),
        modules=build_modules(paths, canonical, graph.types),
        ops=build_ops(graph, canonical, names),
    )


class Pt2Archive:
    """The zip archive, with access to its documents, weights and constants."""

    def __init__(self, storage: Storage, file: StoredFile, limits: Limits) -> None:
        self._storage, self._path = storage, file.path
        self.name, self.limits = file.name, limits
        members = read_members(storage, file.path, limits, name=file.name)
        if _LEGACY_MEMBER in members:
            raise UnsupportedFormat(
                f"{file.name} has the format of torch 2.7 and older, with pickled weights, but "
                f"pickles are never opened; load it there and {EXPORT_AGAIN} of torch 2.13"
            )
        self.members = strip_root_folder(members, file.name)
        for marker, expected in _MARKERS.items():
            if (member := self.members.get(marker)) is None and marker == "archive_version":
                continue
            value = self._read(member)[:_MARKER_BYTES] if member else b"nothing"
            if value.strip() != expected:
                raise UnsupportedFormat(
                    f"{self.name}: {marker!r} is {quote_text(value.decode(errors='replace'))}, but "
                    f"must be {expected.decode()!r}; {EXPORT_AGAIN} of torch 2.13"
                )

    def model_name(self) -> str:
        """Return the name of the one model in the archive.

        Raises:
            UnsupportedFormat: there is not exactly one model, or its weights are pickled.
            InvalidModel: the name is too long.
        """
        models = [name for name in self.members if name.startswith("models/")]
        if len(models) != 1 or not models[0].endswith(".json"):
            raise UnsupportedFormat(
                f"{self.name} holds {len(models)} models ({_quote_names(models)}), but must hold "
                "one, as torch.export.save writes it: send one model per file"
            )
        name = models[0].removeprefix("models/").removesuffix(".json")
        if len(name) > MODEL_NAME_CHARACTERS:
            raise InvalidModel(
                f"{self.name} holds a model with a name of {len(name):,} characters; "
                f"{MODEL_NAME_CHARACTERS} are allowed: {EXPORT_AGAIN}"
            )
        for legacy in (f"{_WEIGHTS}{name}.pt", f"{_CONSTANTS}{name}.pt"):
            if legacy in self.members:
                raise UnsupportedFormat(
                    f"{self.name} holds {legacy!r}, a pickle in the format of torch 2.8, but "
                    f"pickles are never opened; load it there and {EXPORT_AGAIN} of torch 2.13"
                )
        return name

    def graph(self, model: str) -> GraphSummary:
        """Return the parsed graph, without what only running it needs."""
        what = f"{self.name}, models/{model}.json"
        document = pt2_json.parse(self.document(model), what, self.limits, graph=True)
        return read_graph(document, what)

    def document(self, model: str) -> bytes:
        """Return the JSON of the graph."""
        return self._read_by_name(f"models/{model}.json")

    def weights(self, model: str) -> dict[str, StoredTensor]:
        """Return the tensors of the state dict by name, before tied ones are merged."""
        config = self._config(f"{_WEIGHTS}{model}_weights_config.json")
        if len(config) > self.limits.tensors:
            raise TooLarge(
                f"{self.name} holds {len(config):,} tensors; {self.limits.allowed('tensors')}"
            )
        if not config:
            raise InvalidModel(f"{self.name} holds no weights; export the model with them")
        return {
            name: self._weight(check_name(name, self.name), entry) for name, entry in config.items()
        }

    def check_constants(self, model: str) -> None:
        """Check that no constant is a pickle."""
        for _ in self._constants(model):
            pass

    def constants(self, model: str) -> list[StoredTensor]:
        """Return the constant tensors of the graph."""
        tensors = []
        for name, path, entry in self._constants(model):
            what = f"{self.name}, constant {quote_text(name)}"
            member = self.members.get(_CONSTANTS + path)
            if member is None or "/" in path:
                raise InvalidModel(f"{what}: no member is named {quote_text(path)}; {EXPORT_AGAIN}")
            meta = pt2_json.field(entry, "tensor_meta", dict, what)
            tensors.append(locate_tensor(name, meta, member, what))
        return tensors

    def _weight(self, name: str, entry: object) -> StoredTensor:
        what = f"{self.name}, tensor {quote_text(name)}"
        path = pt2_json.field(entry, "path_name", str, what)
        if pt2_json.field(entry, "use_pickle", bool, what):
            raise UnsupportedFormat(
                f"{what} is stored as a pickle ({quote_text(path)}), like all tensor subclasses, "
                "but pickles are never opened; make it a plain tensor and export the model again"
            )
        member = self.members.get(_WEIGHTS + path)
        if member is None or "/" in path or not path.startswith("weight_"):
            raise InvalidModel(
                f"{what} has the path {quote_text(path)}, which must be a member weight_<number> "
                f"of {_WEIGHTS} and is none; {EXPORT_AGAIN}"
            )
        meta = pt2_json.field(entry, "tensor_meta", dict, what)
        return locate_tensor(name, meta, member, what)

    def _constants(self, model: str) -> Iterator[tuple[str, str, object]]:
        """Yield name, member and entry of each constant."""
        name = f"{_CONSTANTS}{model}_constants_config.json"
        for key, entry in self._config(name).items() if name in self.members else ():
            what = f"{self.name}, constant {quote_text(key)}"
            path = pt2_json.field(entry, "path_name", str, what)
            if pt2_json.field(entry, "use_pickle", bool, what) or not path.startswith("tensor_"):
                raise UnsupportedFormat(
                    f"{what} is an object stored as a pickle ({quote_text(path)}), but pickles are "
                    "never opened; export the model with plain tensors for constants"
                )
            yield key, path, entry

    def _config(self, name: str) -> Mapping[str, object]:
        """Return the entries of the weights or constants, by name, from their JSON member."""
        what = f"{self.name}, {name}"
        return pt2_json.field(
            pt2_json.parse(self._read_by_name(name), what, self.limits), "config", dict, what
        )

    def _read_by_name(self, name: str) -> bytes:
        if (member := self.members.get(name)) is None:
            raise InvalidModel(f"{self.name} lacks its member {quote_text(name)}; {EXPORT_AGAIN}")
        return self._read(member)

    def _read(self, member: ZipMember) -> bytes:
        return read_member(self._storage, self._path, member, self.limits, name=self.name)


def _sort_tensors(
    weights: Mapping[str, StoredTensor], paths: Sequence[str], graph: GraphSummary
) -> list[StoredTensor]:
    """Return the tensors in the order in which the modules of the live model list them."""
    module_order = {path: number for number, path in enumerate(paths)}
    state_order = {name: number for number, name in enumerate(graph.states)}
    return sorted(
        weights.values(),
        key=lambda tensor: (
            module_order[tensor.name.rpartition(".")[0]],
            state_order.get(tensor.name, len(state_order)),
        ),
    )


def _merge_tied(weights: Iterable[StoredTensor], file: StoredFile) -> list[StoredTensor]:
    """Return each tensor once: those with the same bytes and layout are aliases of the first.

    Raises:
        TooLarge: there are so many views of the same bytes that an artifact would be far larger.
    """
    groups: dict[object, list[StoredTensor]] = {}
    for tensor in weights:
        identity = (tensor.offset, tensor.shape, tensor.strides, tensor.dtype)
        groups.setdefault(identity if tensor.size_bytes else tensor.name, []).append(tensor)
    tensors = [
        first.model_copy(update={"aliases": tuple(other.name for other in others)})
        for first, *others in groups.values()
    ]
    total = sum(tensor.size_bytes for tensor in tensors)
    if total > MAX_VIEW_RATIO * file.size_bytes:
        raise TooLarge(
            f"{file.name} of {file.size_bytes:,} bytes holds tensors of {total:,}, as views of "
            f"the same bytes; {MAX_VIEW_RATIO} times the file's size is allowed: clone them before "
            "export"
        )
    return tensors


def _quote_names(names: Sequence[str]) -> str:
    return ", ".join(quote_text(name) for name in names[:5]) or "none"
