"""Allow list for the symbolic expressions of sizes in a graph.

torch evaluates them, so each is parsed, and rejected unless every part of it is allowed.
"""

import ast
import re

EXPRESSION_CHARACTERS = 1_000
MAX_EXPONENT = 16
"""Highest exponent; nested powers would take too long to evaluate."""
FUNCTIONS = frozenset(
    (
        *("Add", "Mul", "Pow", "Integer", "Max", "Min", "And", "Or", "Not"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality"),
        *("LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan"),
        *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt"),
        *("FloorToInt", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "TruncToFloat", "TruncToInt"),
        *("RoundToInt", "ToFloat", "Identity", "floor", "ceiling"),
    )
)
"""Functions that an expression may call."""
SYMBOL = re.compile(r"(s|u|zuf|zf)\d{1,9}")
ASSUMPTIONS = frozenset(("integer", "positive", "nonnegative", "real"))
"""Allowed keyword arguments of a symbol."""


def check_expression(text: str) -> str:
    """Return an expression unchanged if it consists of allowed functions, numbers and symbols.

    Raises:
        ValueError: anything else.
    """
    if len(text) > EXPRESSION_CHARACTERS:
        raise ValueError(f"an expression has over {EXPRESSION_CHARACTERS:,} characters")
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression of sizes: {text[:80]!r}") from error
    for node in ast.walk(body):
        if not _is_allowed(node):
            raise ValueError(f"an expression with more than sizes in it: {text[:80]!r}")
        if _is_power(node) and sum(map(_is_power, ast.walk(node))) > 1:
            raise ValueError(f"an expression with a power of a power: {text[:80]!r}")
    return text


def _is_power(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Pow")) | ast.BinOp(op=ast.Pow()):
            return True
    return False


def _is_allowed(node: ast.AST) -> bool:
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
            return power in range(MAX_EXPONENT + 1)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in FUNCTIONS - {"Pow"}
        case ast.keyword(arg=name, value=ast.Constant(value=value)):
            return name in ASSUMPTIONS and type(value) is bool
        case ast.BinOp(op=ast.Pow(), right=power):
            return isinstance(power, ast.Constant) and power.value in range(MAX_EXPONENT + 1)
        case ast.BinOp(op=operator):
            return isinstance(operator, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv)
        case ast.UnaryOp(op=operator):
            return isinstance(operator, ast.USub | ast.UAdd)
        case ast.Compare() | ast.operator() | ast.unaryop() | ast.cmpop() | ast.Load():
            return True
    return False
