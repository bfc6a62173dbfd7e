"""A graph that may be handed to torch: every field of it is known, and none of them names code.

`torch.export.load` evaluates expressions, imports what a pytree names, and looks functions up by
their paths. So a graph is read into closed models, which leave out what only people look at; nodes
without use are left out; what the others call is checked; and the graph is written anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from palettery.app.checkpoints import pt2_json
from palettery.app.checkpoints.pt2 import Pt2Archive
from palettery.app.checkpoints.pt2_dead_nodes import remove_dead_nodes
from palettery.app.checkpoints.pt2_numbers import check_numbers
from palettery.app.checkpoints.pt2_operators import problems
from palettery.app.checkpoints.pt2_program import RunnableProgram
from palettery.app.errors import UnsupportedFormat
from palettery.app.settings import Limits
from palettery.app.storage.base import Storage
from palettery.schemas.checkpoint import StoredFile, StoredTensor


@dataclass(frozen=True)
class Runnable:
    """What it takes to run a model, beside its weights."""

    program: RunnableProgram
    constants: Sequence[StoredTensor]


def read_runnable(storage: Storage, file: StoredFile, limits: Limits) -> Runnable:
    """The graph of a `.pt2`, as it may be handed to torch, and its constants.

    Raises:
        InvalidModel, TooLarge: see `read_pt2`.
        UnsupportedFormat: it holds something that cannot be handed to torch; says what and where.
    """
    archive = Pt2Archive(storage, file, limits)
    model = archive.model_name()
    constants = archive.constants(model)
    what = f"{file.name}, models/{model}.json"
    document = pt2_json.parse(archive.document(model), what, limits)
    try:
        program = _program(document, what)
        program = program.with_graph(remove_dead_nodes(program.graph_module.graph))
        _check_calls(program, what)
    except RecursionError as error:
        raise UnsupportedFormat(
            f"{what} cannot be handed to torch: containers lie too deep in each other"
        ) from error
    return Runnable(program, constants)


def _program(document: object, what: str) -> RunnableProgram:
    try:
        return RunnableProgram.model_validate(document)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        problem = fault["msg"].removeprefix("Value error, ")
        raise UnsupportedFormat(
            f"{what} cannot be handed to torch: {problem} (at {place[:200]}); export the model "
            "with plain tensors in and out, and without functions of its own"
        ) from error


def _check_calls(program: RunnableProgram, what: str) -> None:
    graph = program.graph_module.graph
    problem = next(problems(graph, program.fixed_values()), None)
    if problem is not None:
        raise UnsupportedFormat(
            f"{what} cannot be handed to torch, and nothing of it was run: {problem}; export the "
            "model without it (before run_decompositions, which brings in operators of torch's "
            "own), or open an issue that names the operator and the model"
        )
    check_numbers(graph, what)
