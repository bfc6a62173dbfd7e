"""The graph of an exported program as closed models: every field is known, and none names code.

Which operators its nodes may call is another matter, see `palettery.app.checkpoints.pt2_operators`.

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


class ClosedModel(BaseModel):
    """A model that knows all its fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SingleFieldModel(ClosedModel):
    """An object with a single field, whose name says what it holds."""

    @model_validator(mode="after")
    def _check_one(self) -> "SingleFieldModel":
        if len(self.model_fields_set) != 1:
            raise ValueError("must have a single field")
        return self

    def kind(self) -> str:
        """The field."""
        return next(iter(self.model_fields_set))

    def value(self) -> object:
        """What is in it."""
        return getattr(self, self.kind())


Expression = Annotated[str, AfterValidator(check_expression)]
ValueName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=1000)]
"""Name of what a node gives."""
OptionText = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]*$", max_length=1000)]
"""An option of an operator, such as `tanh`, an equation, what an assertion says; no file."""
Target = Annotated[str, StringConstraints(pattern=r"^[ -~]+$", max_length=1000)]
"""What a node calls."""
Number = Annotated[float, Field(strict=False)]
OmittedFields = Annotated[dict[str, object], BeforeValidator(lambda _: {})]
"""What is left out of a graph that is written anew."""


class Device(ClosedModel):
    """All is computed here, wherever the model was."""

    type: Annotated[Literal["cpu"], BeforeValidator(lambda _: "cpu")]
    index: Annotated[None, BeforeValidator(lambda _: None)] = None


class Hint(SingleFieldModel):
    """What an expression came to when the model was exported."""

    as_int: Int | None = None
    as_bool: bool | None = None
    as_float: Number | None = None


class SymExpr(ClosedModel):
    """An expression of sizes."""

    expr_str: Expression
    hint: Hint | None = None


class SymInt(SingleFieldModel):
    """A whole number, or an expression."""

    as_expr: SymExpr | None = None
    as_int: Int | None = None


class SymFloat(SingleFieldModel):
    """A number, or an expression."""

    as_expr: SymExpr | None = None
    as_float: Number | None = None


class SymBool(SingleFieldModel):
    """True, false, or an expression."""

    as_expr: SymExpr | None = None
    as_bool: bool | None = None


class TensorMeta(ClosedModel):
    """Type, sizes and layout of a tensor."""

    dtype: Int
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Literal[7]


class TensorArgument(ClosedModel):
    """A value, by its name."""

    name: ValueName


class SymIntArgument(SingleFieldModel):
    """A whole number, or the name of one."""

    as_name: ValueName | None = None
    as_int: Int | None = None


class SymFloatArgument(SingleFieldModel):
    """A number, or the name of one."""

    as_name: ValueName | None = None
    as_float: Number | None = None


class SymBoolArgument(SingleFieldModel):
    """True, false, or the name of a value."""

    as_name: ValueName | None = None
    as_bool: bool | None = None


class OptionalTensorArgument(SingleFieldModel):
    """A tensor, or none."""

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
        """The values that it stands for; none if it is a constant."""
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
            for each in value:
                yield from _names(each)


class NamedArgument(ClosedModel):
    """An argument with the name that its operator knows it by."""

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

    def reads(self) -> Iterator[str]:
        """The values that it computes with."""
        return (name for given in self.inputs for name in given.arg.names())

    def gives(self) -> Iterator[str]:
        """The values that it computes."""
        if self.name is not None:
            yield self.name
        for argument in self.outputs:
            yield from argument.names()

    def graphs(self) -> Iterator["Graph"]:
        """The graphs that it calls."""
        return (given.arg.as_graph.graph for given in self.inputs if given.arg.as_graph)

    def label(self) -> str:
        """What people know it by."""
        return next(self.gives(), "without a name")


class Graph(ClosedModel):
    """Inputs, calls and outputs."""

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
