"""Whole numbers that a graph works out of sizes: none may grow without an end.

Python's numbers have as many digits as they need: forty squares in a row fill any memory.
"""

from collections.abc import Mapping, Sequence

from palettery.app.checkpoints.pt2_expressions import POWERS
from palettery.app.checkpoints.pt2_operators import NUMERIC
from palettery.app.checkpoints.pt2_schema import Argument, Graph, Node
from palettery.app.errors import UnsupportedFormat

WORD_BITS, FLOAT_BITS = 64, 1_024
"""Of a size, and of the largest float as a whole number."""
MOST_BITS = 65_536


def check_numbers(graph: Graph, what: str) -> None:
    """Refuse a graph whose numbers could have over `MOST_BITS` bits.

    Raises:
        UnsupportedFormat: such a graph, or one with a power that is no small constant.
    """
    bits: dict[str, int] = {}
    for node in graph.nodes:
        for inner in node.graphs():
            check_numbers(inner, what)
        if node.target not in NUMERIC:
            continue
        needed = _bits(node, bits)
        if needed > MOST_BITS:
            raise UnsupportedFormat(
                f"{what} cannot be handed to torch, and nothing of it was run: its node "
                f"{node.label()[:100]!r} ({node.target}) makes a number of up to {needed:,} bits; "
                f"{MOST_BITS:,} are allowed, and powers up to {POWERS}: export the model with "
                "smaller computations of sizes"
            )
        bits |= dict.fromkeys(node.gives(), needed)


def _bits(node: Node, known: Mapping[str, int]) -> int:
    """The most bits that the result of a function of numbers can have."""
    widths = [_width(given.arg, known) for given in node.inputs] or [WORD_BITS]
    match node.target.rpartition(".")[2]:
        case "mul":
            return sum(widths)
        case "pow":
            return widths[0] * _power([given.arg for given in node.inputs])
        case "add" | "sub" | "sym_sum":
            count = sum(max(1, len(list(given.arg.names()))) for given in node.inputs)
            return max(widths) + count.bit_length()
        case "truediv" | "sqrt" | "sym_float" | "sym_int" | "trunc" | "ceil" | "floor":
            return max(FLOAT_BITS, *widths)
    return max(widths)


def _power(arguments: Sequence[Argument]) -> int:
    """The exponent; one too high to be allowed where it is not a small constant."""
    exponent = arguments[1].value() if len(arguments) == 2 else None
    if isinstance(exponent, int | float) and abs(exponent) <= POWERS:
        return max(1, round(abs(exponent)))
    return MOST_BITS + 1


def _width(argument: Argument, known: Mapping[str, int]) -> int:
    return max((known.get(name, WORD_BITS) for name in argument.names()), default=WORD_BITS)
