"""Closed models of a whole exported program, without its weights.

Source: torch 2.13, `torch/_export/serde/schema.py` (version 8) and `serialize.py`.
"""

import json
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from palettery.app.checkpoints.pt2_pytrees import check_pytree
from palettery.app.checkpoints.pt2_schema import (
    Argument,
    ClosedModel,
    Expression,
    Graph,
    Int,
    Number,
    OmittedFields,
    OptionText,
    SingleFieldModel,
    TensorArgument,
    ValueName,
)

Pytree = Annotated[str, AfterValidator(check_pytree)]
StateName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=1000)]
"""Name of a parameter, a buffer or a constant."""


class UserInput(ClosedModel):
    """An input that the model's caller passes, or an output that it receives."""

    arg: Argument


class Parameter(ClosedModel):
    """An input that is a parameter."""

    arg: TensorArgument
    parameter_name: StateName


class Buffer(ClosedModel):
    """An input that is a buffer."""

    arg: TensorArgument
    buffer_name: StateName
    persistent: bool


class TensorConstant(ClosedModel):
    """An input that is a constant tensor."""

    arg: TensorArgument
    tensor_constant_name: StateName


class Constant(SingleFieldModel):
    """A constant that is no tensor."""

    as_none: bool | None = None
    as_int: Int | None = None
    as_float: Number | None = None
    as_string: OptionText | None = None
    as_bool: bool | None = None


class ConstantInput(ClosedModel):
    """An input that is a constant other than a tensor."""

    name: ValueName
    value: Constant


class InputSpec(SingleFieldModel):
    """The role of an input of the graph."""

    user_input: UserInput | None = None
    parameter: Parameter | None = None
    buffer: Buffer | None = None
    tensor_constant: TensorConstant | None = None
    constant_input: ConstantInput | None = None


class BufferMutation(ClosedModel):
    """An output that is the new value of a buffer."""

    arg: TensorArgument
    buffer_name: StateName


class OutputSpec(SingleFieldModel):
    """The role of an output of the graph."""

    user_output: UserInput | None = None
    buffer_mutation: BufferMutation | None = None


class Signature(ClosedModel):
    """The roles of the inputs and outputs of the graph."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class SizeRange(ClosedModel):
    """Bounds of a symbolic size."""

    min_val: Int | None
    max_val: Int | None


class CallSignature(ClosedModel):
    """The inputs and outputs of a module."""

    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: Pytree
    out_spec: Pytree
    forward_arg_names: list[ValueName] | None = None


class ModuleCall(ClosedModel):
    """The call of the root module."""

    fqn: Literal[""]
    signature: CallSignature | None = None


def _root_call(calls: object) -> object:
    """Drop the calls of all modules but the root."""
    if not isinstance(calls, list):
        return calls
    return [call for call in calls if isinstance(call, dict) and call.get("fqn") == ""]


class GraphModule(ClosedModel):
    """The graph with its signature."""

    graph: Graph
    signature: Signature
    module_call_graph: Annotated[
        list[ModuleCall], BeforeValidator(_root_call), Field(min_length=1, max_length=1)
    ]
    metadata: OmittedFields = Field(default_factory=dict)
    treespec_namedtuple_fields: OmittedFields = Field(default_factory=dict)


class SchemaVersion(ClosedModel):
    """Version of the schema."""

    major: Literal[8]
    minor: Int


class RunnableProgram(ClosedModel):
    """A whole exported program, without its weights."""

    graph_module: GraphModule
    opset_version: dict[Literal["aten"], int]
    range_constraints: dict[Expression, SizeRange]
    schema_version: SchemaVersion
    verifiers: list[Literal["TRAINING", "ATEN", "EDGE"]]
    torch_version: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.+<=-]*$", max_length=50)]
    guards_code: Annotated[list[str], BeforeValidator(lambda _: [])] = Field(default_factory=list)

    def parameters(self) -> frozenset[str]:
        """Return the names of the states that are parameters; the others are buffers."""
        specs = self.graph_module.signature.input_specs
        return frozenset(spec.parameter.parameter_name for spec in specs if spec.parameter)

    def fixed_values(self) -> frozenset[str]:
        """Return the inputs that no node may change: all but buffers."""
        inputs, specs = self.graph_module.graph.inputs, self.graph_module.signature.input_specs
        pairs = zip(inputs, specs, strict=False)  # unvalidated: the numbers may differ
        return frozenset(name for arg, spec in pairs if not spec.buffer for name in arg.names())

    def with_graph(self, graph: Graph) -> "RunnableProgram":
        """Return the program with another graph."""
        module = self.graph_module.model_copy(update={"graph": graph})
        return self.model_copy(update={"graph_module": module})

    def document(self) -> str:
        """Return the JSON of a models/*.json."""
        return json.dumps(self.model_dump(mode="python", exclude_unset=True))
