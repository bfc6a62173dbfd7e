"""A whole exported program, without its weights, as closed models.

Source: torch 2.13, `torch/_export/serde/schema.py` (version 8) and `serialize.py`.
"""

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from palettery.app.checkpoints.pt2_schema import (
    Argument,
    Closed,
    Expression,
    Graph,
    Int,
    Named,
    Nothing,
    Number,
    OneOf,
    Value,
    Word,
)
from palettery.app.checkpoints.pt2_trees import check_tree

Tree = Annotated[str, AfterValidator(check_tree)]
State = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=1000)]
"""Name of a parameter, a buffer or a constant."""


class UserInput(Closed):
    """An input that the caller gives."""

    arg: Argument


class Parameter(Closed):
    """An input that is a parameter."""

    arg: Named
    parameter_name: State


class Buffer(Closed):
    """An input that is a buffer."""

    arg: Named
    buffer_name: State
    persistent: bool


class TensorConstant(Closed):
    """An input that is a constant tensor."""

    arg: Named
    tensor_constant_name: State


class Constant(OneOf):
    """A constant that is no tensor."""

    as_none: bool | None = None
    as_int: Int | None = None
    as_float: Number | None = None
    as_string: Word | None = None
    as_bool: bool | None = None


class ConstantInput(Closed):
    """An input that is such a constant."""

    name: Value
    value: Constant


class InputSpec(OneOf):
    """What an input of the graph is."""

    user_input: UserInput | None = None
    parameter: Parameter | None = None
    buffer: Buffer | None = None
    tensor_constant: TensorConstant | None = None
    constant_input: ConstantInput | None = None


class BufferMutation(Closed):
    """An output that becomes a buffer's next value."""

    arg: Named
    buffer_name: State


class OutputSpec(OneOf):
    """What an output of the graph is."""

    user_output: UserInput | None = None
    buffer_mutation: BufferMutation | None = None


class Signature(Closed):
    """What the inputs and outputs of the graph are."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class Range(Closed):
    """Bounds of a size left open."""

    min_val: Int | None
    max_val: Int | None


class CallSignature(Closed):
    """How a module is called."""

    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: Tree
    out_spec: Tree
    forward_arg_names: list[Value] | None = None


class Call(Closed):
    """A module that can be called."""

    fqn: Literal[""]
    signature: CallSignature | None = None


def _root_alone(calls: object) -> object:
    """How the model itself is called; its modules are of no use to who runs it."""
    if not isinstance(calls, list):
        return calls
    return [call for call in calls if isinstance(call, dict) and call.get("fqn") == ""]


class GraphModule(Closed):
    """The graph, and how it is called."""

    graph: Graph
    signature: Signature
    module_call_graph: Annotated[
        list[Call], BeforeValidator(_root_alone), Field(min_length=1, max_length=1)
    ]
    metadata: Nothing = Field(default_factory=dict)
    treespec_namedtuple_fields: Nothing = Field(default_factory=dict)


class Version(Closed):
    """Of the schema."""

    major: Literal[8]
    minor: Int


class RunnableProgram(Closed):
    """A whole exported program, without its weights."""

    graph_module: GraphModule
    opset_version: dict[Literal["aten"], int]
    range_constraints: dict[Expression, Range]
    schema_version: Version
    verifiers: list[Literal["TRAINING", "ATEN", "EDGE"]]
    torch_version: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.+<=-]*$", max_length=50)]
    guards_code: Annotated[list[str], BeforeValidator(lambda _: [])] = Field(default_factory=list)

    def parameters(self) -> frozenset[str]:
        """Names of the states that are parameters; the others are buffers."""
        specs = self.graph_module.signature.input_specs
        return frozenset(spec.parameter.parameter_name for spec in specs if spec.parameter)

    def fixed_values(self) -> frozenset[str]:
        """Inputs of the graph that no node may change: the caller's, parameters and constants."""
        inputs, specs = self.graph_module.graph.inputs, self.graph_module.signature.input_specs
        pairs = zip(inputs, specs, strict=False)
        return frozenset(name for arg, spec in pairs if not spec.buffer for name in arg.names())

    def with_graph(self, graph: Graph) -> "RunnableProgram":
        """The program with another graph."""
        module = self.graph_module.model_copy(update={"graph": graph})
        return self.model_copy(update={"graph_module": module})

    def document(self) -> str:
        """The JSON of a models/*.json."""
        return json.dumps(self.model_dump(mode="python", exclude_unset=True))
