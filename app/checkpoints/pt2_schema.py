"""Closed models of the graph of an exported program; no field of them names code.

`pt2_operators` decides which operators the nodes may call.

Source: torch 2.13, `torch/_export/serde/schema.py` (version 8) and `serialize.py`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from palettery.app.checkpoints.pt2_expressions import check_expression

Int = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
"""An integer that fits int64 or uint64."""


class ClosedModel(BaseModel):
    """A strict, frozen model without extra fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SingleFieldModel(ClosedModel):
    """A tagged union: an object with a single field, whose name is the tag."""

    @model_validator(mode="after")
    def _check_single_field(self) -> "SingleFieldModel":
        if len(self.model_fields_set) != 1:
            raise ValueError("must have a single field")
        return self

    def field(self) -> str:
        """Return the name of the field."""
        return next(iter(self.model_fields_set))

    def value(self) -> object:
        """Return the value of the field."""
        return getattr(self, self.field())


Expression = Annotated[str, AfterValidator(check_expression)]
ValueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=1000)]
"""Name of a value in the graph."""
OptionText = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]*$", max_length=1000)]
"""A string argument, such as `tanh`, an equation or the message of an assertion; never a path."""
Target = Annotated[str, StringConstraints(pattern=r"^[ -~]+$", max_length=1000)]
"""Name of the function that a node calls."""
Number = Annotated[float, Field(strict=False)]
"""A float, which may be written as an integer."""
OmittedFields = Annotated[dict[str, object], BeforeValidator(lambda _: {})]
"""Metadata, which is dropped."""


class Device(ClosedModel):
    """A device, which is replaced with the CPU."""

    type: Annotated[Literal["cpu"], BeforeValidator(lambda _: "cpu")]
    index: Annotated[None, BeforeValidator(lambda _: None)] = None


class Hint(SingleFieldModel):
    """The value of an expression at the time of export."""

    as_int: Int | None = None
    as_bool: bool | None = None
    as_float: Number | None = None


class SymExpr(ClosedModel):
    """An expression of sizes."""

    expr_str: Expression
    hint: Hint | None = None


class SymInt(SingleFieldModel):
    """An integer, or an expression."""

    as_expr: SymExpr | None = None
    as_int: Int | None = None


class SymFloat(SingleFieldModel):
    """A float, or an expression."""

    as_expr: SymExpr | None = None
    as_float: Number | None = None


class SymBool(SingleFieldModel):
    """A boolean, or an expression."""

    as_expr: SymExpr | None = None
    as_bool: bool | None = None


class TensorMeta(ClosedModel):
    """Dtype, sizes and layout of a tensor."""

    dtype: Int
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Literal[7]


class TensorArgument(ClosedModel):
    """A tensor, by the name of its value."""

    name: ValueName


class SymIntArgument(SingleFieldModel):
    """An integer, or the name of a value."""

    as_name: ValueName | None = None
    as_int: Int | None = None


class SymFloatArgument(SingleFieldModel):
    """A float, or the name of a value."""

    as_name: ValueName | None = None
    as_float: Number | None = None


class SymBoolArgument(SingleFieldModel):
    """A boolean, or the name of a value."""

    as_name: ValueName | None = None
    as_bool: bool | None = None


class OptionalTensorArgument(SingleFieldModel):
    """A tensor, or None."""

    as_tensor: TensorArgument | None = None
    as_none: bool | None = None


class Complex(ClosedModel):
    """A complex number."""

    real: Number
    imag: Number


class GraphArgument(ClosedModel):
    """A graph that a node calls."""

    name: ValueName
    graph: "Graph"


class Argument(SingleFieldModel):
    """One argument of a node, or one of its results."""

    as_none: bool | None = None
    as_tensor: TensorArgument | None = None
    as_tensors: list[TensorArgument] | None = None
    as_int: Int | None = None
    as_ints: list[Int] | None = None
    as_float: Number | None = None
    as_floats: list[Number] | None = None
    as_string: OptionText | None = None
    as_strings: list[OptionText] | None = None
    as_sym_int: SymIntArgument | None = None
    as_sym_ints: list[SymIntArgument] | None = None
    as_scalar_type: Int | None = None
    as_memory_format: Int | None = None
    as_layout: Literal[7] | None = None
    as_device: Device | None = None
    as_bool: bool | None = None
    as_bools: list[bool] | None = None
    as_sym_bool: SymBoolArgument | None = None
    as_sym_bools: list[SymBoolArgument] | None = None
    as_graph: GraphArgument | None = None
    as_optional_tensors: list[OptionalTensorArgument] | None = None
    as_optional_tensor: OptionalTensorArgument | None = None
    as_sym_float: SymFloatArgument | None = None
    as_sym_floats: list[SymFloatArgument] | None = None
    as_complex: Complex | None = None
    as_nested_tensors: list[list[TensorArgument]] | None = None
    as_int_lists: list[list[Int]] | None = None
    as_float_lists: list[list[Number]] | None = None

    def names(self) -> Iterator[str]:
        """Yield the names of its values; a constant has none."""
        return _names(self.value())


def _names(value: object) -> Iterator[str]:
    match value:
        case TensorArgument():
            yield value.name
        case OptionalTensorArgument():
            yield from _names(value.as_tensor)
        case SymIntArgument() | SymFloatArgument() | SymBoolArgument() if value.as_name is not None:
            yield value.as_name
        case list():
            for item in value:
                yield from _names(item)


class NamedArgument(ClosedModel):
    """An argument with its name in the signature of the operator."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]*$", max_length=100)]
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(ClosedModel):
    """A call of an operator."""

    target: Target
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: OmittedFields = Field(default_factory=dict)
    is_hop_single_tensor_return: bool | None = None
    name: ValueName | None = None

    def input_names(self) -> Iterator[str]:
        """Return the names of the values that it reads."""
        return (name for input_ in self.inputs for name in input_.arg.names())

    def output_names(self) -> Iterator[str]:
        """Yield the names of the values that it computes."""
        if self.name is not None:
            yield self.name
        for argument in self.outputs:
            yield from argument.names()

    def subgraphs(self) -> Iterator["Graph"]:
        """Return the graphs that it calls."""
        return (input_.arg.as_graph.graph for input_ in self.inputs if input_.arg.as_graph)

    def label(self) -> str:
        """Return its name for messages."""
        return next(self.output_names(), "without a name")


class Graph(ClosedModel):
    """A graph: inputs, nodes and outputs."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[ValueName, TensorMeta]
    sym_int_values: dict[ValueName, SymInt]
    sym_bool_values: dict[ValueName, SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, object], Field(max_length=0)] = Field(
        default_factory=dict
    )
    sym_float_values: dict[ValueName, SymFloat] = Field(default_factory=dict)
