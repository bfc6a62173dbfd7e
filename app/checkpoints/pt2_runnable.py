"""Validation of a graph before it is passed to torch: no unknown fields, and none that names code.

`torch.export.load` evaluates expressions, imports the classes that a pytree names, and looks up
functions by path. So a graph is parsed into closed models without metadata, dead nodes are removed,
the calls of the others are checked, and the graph is serialized again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.pt2 import Pt2Archive
from palettery.app.checkpoints.pt2_dead_nodes import remove_dead_nodes
from palettery.app.checkpoints.pt2_numbers import check_numbers
from palettery.app.checkpoints.pt2_operators import find_problems
from palettery.app.checkpoints.pt2_program import RunnableProgram
from palettery.app.errors import UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile, StoredTensor


@dataclass(frozen=True)
class Runnable:
    """A model that may be run, without its weights."""

    program: RunnableProgram
    constants: Sequence[StoredTensor]

    def user_inputs(self) -> list[str]:
        """Return the names of the tensors that the model takes from its caller."""
        module = self.program.graph_module
        pairs = zip(module.graph.inputs, module.signature.input_specs, strict=False)
        return [name for argument, spec in pairs if spec.user_input for name in argument.names()]


def read_runnable(storage: Storage, file: StoredFile, limits: Limits) -> Runnable:
    """Return the validated graph of a `.pt2` and its constants.

    Raises:
        InvalidModel, TooLarge: see `read_pt2`.
        UnsupportedFormat: it contains something that must not be passed to torch; the message
            names it.
    """
    archive = Pt2Archive(storage, file, limits)
    model = archive.model_name()
    constants = archive.constants(model)
    what = f"{file.name}, models/{model}.json"
    document = pt2_json.parse(archive.document(model), what, limits)
    try:
        program = _parse_program(document, what)
        program = program.with_graph(remove_dead_nodes(program.graph_module.graph))
        _check_calls(program, what)
    except RecursionError as error:
        raise UnsupportedFormat(
            f"{what} cannot be passed to torch: its containers are nested too deep"
        ) from error
    return Runnable(program, constants)


def _parse_program(document: object, what: str) -> RunnableProgram:
    try:
        return RunnableProgram.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        location = ".".join(map(str, first["loc"]))
        problem = first["msg"].removeprefix("Value error, ")
        raise UnsupportedFormat(
            f"{what} cannot be passed to torch: {problem} (at {location[:200]}); export the model "
            "with plain tensors as inputs and outputs, and without functions of its own"
        ) from error


def _check_calls(program: RunnableProgram, what: str) -> None:
    graph = program.graph_module.graph
    problem = next(find_problems(graph, program.fixed_values()), None)
    if problem is not None:
        raise UnsupportedFormat(
            f"{what} cannot be passed to torch, and nothing of it was run: {problem}; export the "
            "model without it (before run_decompositions, which adds internal operators of torch), "
            "or open an issue that names the operator and the model"
        )
    check_numbers(graph, what)
