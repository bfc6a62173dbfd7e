"""A graph that may be handed to torch: every field of it is known, and none of them names code.

`torch.export.load` evaluates expressions, imports what a pytree names, and looks functions up by
their paths. So a graph is read into these closed models, which leave out what only people look at,
and is written anew from them.

Source: torch 2.13, `torch/_export/serde/schema.py` (version 8) and `serialize.py`.
"""

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from app.checkpoints import pt2_json
from app.checkpoints.pt2 import Archive
from app.errors import UnsupportedFormat
from app.settings import Limits
from app.storage import Storage
from schemas.checkpoint import StoredFile, StoredTensor

EXPRESSION_CHARACTERS = 1_000
POWERS = 16
"""Highest exponent in an expression of sizes; a tower of them would never be worked out."""
FUNCTIONS = frozenset(
    (
        *("Add", "Mul", "Pow", "Integer", "Max", "Min", "And", "Or", "Not"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge"),
        *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt"),
        *("FloorToInt", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "TruncToFloat", "TruncToInt"),
        *("RoundToInt", "ToFloat", "Identity", "floor", "ceiling"),
    )
)
"""That expressions of sizes are made of."""
SYMBOL = re.compile(r"(s|u|zuf|zf)\d{1,9}")
ASSUMPTIONS = frozenset(("integer", "positive", "nonnegative", "real"))
"""That a symbol may be made with."""
TARGETS = re.compile(
    r"torch\.ops\.aten\.[a-z0-9_]+\.[A-Za-z0-9_]+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(max|min|not|float|int|ite|sum)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
"""Functions that a node may call: those that compute, and nothing else."""
OTHER = re.compile(
    r"torch\.ops\.aten\.((from_file|_?save|load)[._]|__(?!i?(and|x?or|[lr]shift)__)|_?sparse_|"
    r"_nested_|_test_|_print|set_|_?resize|_?index_put_impl|_?to_sparse|_coalesce|_?mkldnn|"
    r"_weight_int|record_stream).*"
)
"""Among them, those that open files, or take addresses and sizes at their word."""
TREES = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))
"""Containers that inputs and outputs may lie in."""
DEPTH = 64
"""Of containers in each other."""


def _check_expression(text: str) -> str:
    """Refuse anything but sums, products and the like of numbers and of sizes left open."""
    if len(text) > EXPRESSION_CHARACTERS:
        raise ValueError(f"an expression has over {EXPRESSION_CHARACTERS:,} characters")
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"no expression of sizes: {text[:80]!r}") from error
    for node in ast.walk(body):
        if not _is_plain(node):
            raise ValueError(f"an expression with more than sizes in it: {text[:80]!r}")
        if _is_power(node) and sum(map(_is_power, ast.walk(node))) > 1:
            raise ValueError(f"an expression with a power of a power: {text[:80]!r}")
    return text


def _is_power(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Pow")) | ast.BinOp(op=ast.Pow()):
            return True
    return False


def _is_plain(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=value):
            if isinstance(value, str):
                return SYMBOL.fullmatch(value) is not None
            return isinstance(value, int | float) and abs(value) < 1 << 63
        case ast.Name(id=name):
            return SYMBOL.fullmatch(name) is not None or name in FUNCTIONS or name == "Symbol"
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return SYMBOL.fullmatch(name) is not None
        case ast.Call(
            func=ast.Name(id="Pow"), args=[_, ast.Call(args=[ast.Constant(value=power)])]
        ):
            return power in range(POWERS + 1)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in FUNCTIONS - {"Pow"}
        case ast.keyword(arg=name, value=ast.Constant(value=value)):
            return name in ASSUMPTIONS and type(value) is bool
        case ast.BinOp(op=ast.Pow(), right=power):
            return isinstance(power, ast.Constant) and power.value in range(POWERS + 1)
        case ast.BinOp(op=operator):
            return isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv)
        case ast.UnaryOp(op=operator):
            return isinstance(operator, ast.USub | ast.UAdd)
        case ast.Compare() | ast.operator() | ast.unaryop() | ast.cmpop() | ast.Load():
            return True
    return False


def _check_target(text: str) -> str:
    if TARGETS.fullmatch(text) is None or OTHER.fullmatch(text):
        raise ValueError(f"the graph calls {text[:100]!r}; operators of torch.ops.aten are read")
    return text


def _check_tree(text: str) -> str:
    """Refuse containers that would be made by code from elsewhere; the others are written anew."""
    try:
        version, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("no description of inputs or outputs") from error
    if version != 1:
        raise ValueError(f"a description of inputs of version {str(version)[:20]}; 1 is read")
    return json.dumps([1, _tree(tree, DEPTH)])


def _tree(tree: Any, room: int) -> dict[str, object]:
    if not room or not isinstance(tree, dict):
        raise ValueError("no description of inputs or outputs")
    kind, context = tree.get("type"), tree.get("context")
    held = tree.get("children_spec")
    if not isinstance(held, list) or (kind is None and (held or context is not None)):
        raise ValueError("no description of inputs or outputs")
    if kind is not None and (not isinstance(kind, str) or kind not in TREES):
        raise ValueError(f"inputs or outputs lie in a {str(kind)[:80]!r}; use tuples and dicts")
    children = [_tree(child, room - 1) for child in held]
    return {"type": kind, "context": _context(context), "children_spec": children}


def _context(text: object) -> object:
    """The keys of a dict, as JSON in a text."""
    if text is None:
        return None
    try:
        keys = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise ValueError("a description of inputs or outputs whose keys are no JSON") from error
    is_plain = keys is None or (
        isinstance(keys, list) and all(isinstance(key, str | int | bool) for key in keys)
    )
    if not isinstance(text, str) or not is_plain:
        raise ValueError("a description of inputs or outputs with more than keys in it")
    return json.dumps(keys)


_Int = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _OneOf(_Closed):
    """An object with a single field, whose name says what it holds."""

    @model_validator(mode="after")
    def _check_one(self) -> "_OneOf":
        if len(self.model_fields_set) != 1:
            raise ValueError("must have a single field")
        return self


Expression = Annotated[str, AfterValidator(_check_expression)]
Tree = Annotated[str, AfterValidator(_check_tree)]
Value = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]+$", max_length=1000)]
"""Name of what a node gives."""
State = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=1000)]
"""Name of a parameter, a buffer or a constant."""
Word = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]*$", max_length=1000)]
"""An option of an operator, such as `tanh`, an equation, what an assertion says; no file."""
Number = Annotated[float, Field(strict=False)]
_Nothing = Annotated[dict[str, object], BeforeValidator(lambda _: {})]
"""What is left out of a graph that is written anew."""


class _Device(_Closed):
    """All is computed here, wherever the model was."""

    type: Annotated[Literal["cpu"], BeforeValidator(lambda _: "cpu")]
    index: Annotated[None, BeforeValidator(lambda _: None)] = None


class _Hint(_OneOf):
    as_int: _Int | None = None
    as_bool: bool | None = None
    as_float: Number | None = None


class _SymExpr(_Closed):
    expr_str: Expression
    hint: _Hint | None = None


class _SymInt(_OneOf):
    as_expr: _SymExpr | None = None
    as_int: _Int | None = None


class _SymFloat(_OneOf):
    as_expr: _SymExpr | None = None
    as_float: Number | None = None


class _SymBool(_OneOf):
    as_expr: _SymExpr | None = None
    as_bool: bool | None = None


class _TensorMeta(_Closed):
    dtype: _Int
    sizes: list[_SymInt]
    requires_grad: bool
    device: _Device
    strides: list[_SymInt]
    storage_offset: _SymInt
    layout: Literal[7]


class _Named(_Closed):
    name: Value


class _SymIntArgument(_OneOf):
    as_name: Value | None = None
    as_int: _Int | None = None


class _SymFloatArgument(_OneOf):
    as_name: Value | None = None
    as_float: Number | None = None


class _SymBoolArgument(_OneOf):
    as_name: Value | None = None
    as_bool: bool | None = None


class _OptionalTensor(_OneOf):
    as_tensor: _Named | None = None
    as_none: bool | None = None


class _Complex(_Closed):
    real: Number
    imag: Number


class _GraphArgument(_Closed):
    name: Value
    graph: "_Graph"


class _Argument(_OneOf):
    as_none: bool | None = None
    as_tensor: _Named | None = None
    as_tensors: list[_Named] | None = None
    as_int: _Int | None = None
    as_ints: list[_Int] | None = None
    as_float: Number | None = None
    as_floats: list[Number] | None = None
    as_string: Word | None = None
    as_strings: list[Word] | None = None
    as_sym_int: _SymIntArgument | None = None
    as_sym_ints: list[_SymIntArgument] | None = None
    as_scalar_type: _Int | None = None
    as_memory_format: _Int | None = None
    as_layout: Literal[7] | None = None
    as_device: _Device | None = None
    as_bool: bool | None = None
    as_bools: list[bool] | None = None
    as_sym_bool: _SymBoolArgument | None = None
    as_sym_bools: list[_SymBoolArgument] | None = None
    as_graph: _GraphArgument | None = None
    as_optional_tensors: list[_OptionalTensor] | None = None
    as_optional_tensor: _OptionalTensor | None = None
    as_sym_float: _SymFloatArgument | None = None
    as_sym_floats: list[_SymFloatArgument] | None = None
    as_complex: _Complex | None = None
    as_nested_tensors: list[list[_Named]] | None = None
    as_int_lists: list[list[_Int]] | None = None
    as_float_lists: list[list[Number]] | None = None


class _NamedArgument(_Closed):
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]*$", max_length=100)]
    arg: _Argument
    kind: Literal[0, 1, 2] | None = None


class _Node(_Closed):
    target: Annotated[str, AfterValidator(_check_target)]
    inputs: list[_NamedArgument]
    outputs: list[_Argument]
    metadata: _Nothing = Field(default_factory=dict)
    is_hop_single_tensor_return: bool | None = None
    name: Value | None = None


class _Graph(_Closed):
    inputs: list[_Argument]
    outputs: list[_Argument]
    nodes: list[_Node]
    tensor_values: dict[Value, _TensorMeta]
    sym_int_values: dict[Value, _SymInt]
    sym_bool_values: dict[Value, _SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, object], Field(max_length=0)] = Field(
        default_factory=dict
    )
    sym_float_values: dict[Value, _SymFloat] = Field(default_factory=dict)


class _UserInput(_Closed):
    arg: _Argument


class _Parameter(_Closed):
    arg: _Named
    parameter_name: State


class _Buffer(_Closed):
    arg: _Named
    buffer_name: State
    persistent: bool


class _TensorConstant(_Closed):
    arg: _Named
    tensor_constant_name: State


class _Constant(_OneOf):
    as_none: bool | None = None
    as_int: _Int | None = None
    as_float: Number | None = None
    as_string: Word | None = None
    as_bool: bool | None = None


class _ConstantInput(_Closed):
    name: Value
    value: _Constant


class _InputSpec(_OneOf):
    user_input: _UserInput | None = None
    parameter: _Parameter | None = None
    buffer: _Buffer | None = None
    tensor_constant: _TensorConstant | None = None
    constant_input: _ConstantInput | None = None


class _BufferMutation(_Closed):
    arg: _Named
    buffer_name: State


class _OutputSpec(_OneOf):
    user_output: _UserInput | None = None
    buffer_mutation: _BufferMutation | None = None


class _Signature(_Closed):
    input_specs: list[_InputSpec]
    output_specs: list[_OutputSpec]


class _Range(_Closed):
    min_val: _Int | None
    max_val: _Int | None


class _CallSignature(_Closed):
    inputs: list[_Argument]
    outputs: list[_Argument]
    in_spec: Tree
    out_spec: Tree
    forward_arg_names: list[Value] | None = None


class _Call(_Closed):
    fqn: Literal[""]
    signature: _CallSignature | None = None


def _root_alone(calls: object) -> object:
    """How the model itself is called; its modules are of no use to who runs it."""
    if not isinstance(calls, list):
        return calls
    return [call for call in calls if isinstance(call, dict) and call.get("fqn") == ""]


class _GraphModule(_Closed):
    graph: _Graph
    signature: _Signature
    module_call_graph: Annotated[
        list[_Call], BeforeValidator(_root_alone), Field(min_length=1, max_length=1)
    ]
    metadata: _Nothing = Field(default_factory=dict)
    treespec_namedtuple_fields: _Nothing = Field(default_factory=dict)


class _Version(_Closed):
    major: Literal[8]
    minor: _Int


class RunnableProgram(_Closed):
    """A whole exported program, without its weights."""

    graph_module: _GraphModule
    opset_version: dict[Literal["aten"], int]
    range_constraints: dict[Expression, _Range]
    schema_version: _Version
    verifiers: list[Literal["TRAINING", "ATEN", "EDGE"]]
    torch_version: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.+<=-]*$", max_length=50)]
    guards_code: Annotated[list[str], BeforeValidator(lambda _: [])] = Field(default_factory=list)

    def parameters(self) -> frozenset[str]:
        """Names of the states that are parameters; the others are buffers."""
        specs = self.graph_module.signature.input_specs
        return frozenset(spec.parameter.parameter_name for spec in specs if spec.parameter)

    def document(self) -> str:
        """The JSON of a models/*.json."""
        return json.dumps(self.model_dump(mode="python", exclude_unset=True))


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
    archive = Archive(storage, file, limits)
    model = archive.model_name()
    constants = archive.constants(model)
    what = f"{file.name}, models/{model}.json"
    said = pt2_json.parse(archive.document(model), what, limits)
    return Runnable(_checked(said, what), constants)


def _checked(said: object, what: str) -> RunnableProgram:
    try:
        return RunnableProgram.model_validate(said)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        told = fault["msg"].removeprefix("Value error, ")
        raise UnsupportedFormat(
            f"{what} cannot be handed to torch: {told} (at {place[:200]}); export the model with "
            "plain tensors in and out, and without functions of its own"
        ) from error
    except RecursionError as error:
        raise UnsupportedFormat(
            f"{what} cannot be handed to torch: containers lie too deep in each other"
        ) from error
