"""Limit on the integers that a graph computes from sizes.

Python's integers have any number of digits: forty squares in a row fill any memory.
"""

from collections.abc import Mapping, Sequence

from palettery.app.checkpoints.pt2_expressions import MAX_EXPONENT
from palettery.app.checkpoints.pt2_operators import NUMERIC
from palettery.app.checkpoints.pt2_schema import Argument, Graph, Node
from palettery.app.errors import UnsupportedFormat

WORD_BITS, FLOAT_BITS = 64, 1_024
"""Bits of a size (int64), and of the largest float64 as an integer."""
MAX_BITS = 65_536


def check_numbers(graph: Graph, what: str) -> None:
    """Check that no number in a graph can have over `MAX_BITS` bits.

    Raises:
        UnsupportedFormat: a number can have more, or an exponent is no small constant.
    """
    bits: dict[str, int] = {}
    for node in graph.nodes:
        for subgraph in node.subgraphs():
            check_numbers(subgraph, what)
        if node.target not in NUMERIC:
            continue
        result_bits = _result_bits(node, bits)
        if result_bits > MAX_BITS:
            raise UnsupportedFormat(
                f"{what} cannot be passed to torch, and nothing of it was run: its node "
                f"{node.label()[:100]!r} ({node.target}) computes a number of up to "
                f"{result_bits:,} bits; {MAX_BITS:,} are allowed, and powers up to {MAX_EXPONENT}: "
                "export the model with smaller computations of sizes"
            )
        bits |= dict.fromkeys(node.output_names(), result_bits)


def _result_bits(node: Node, bits: Mapping[str, int]) -> int:
    """Return the maximum bits of the result of a function of numbers."""
    widths = [_argument_bits(argument.arg, bits) for argument in node.inputs] or [WORD_BITS]
    match node.target.rpartition(".")[2]:
        case "mul":
            return sum(widths)
        case "pow":
            return widths[0] * _exponent([argument.arg for argument in node.inputs])
        case "add" | "sub" | "sym_sum":
            count = sum(max(1, len(list(argument.arg.names()))) for argument in node.inputs)
            return max(widths) + count.bit_length()
        case "truediv" | "sqrt" | "sym_float" | "sym_int" | "trunc" | "ceil" | "floor":
            return max(FLOAT_BITS, *widths)
    return max(widths)


def _exponent(arguments: Sequence[Argument]) -> int:
    """Return the exponent; one over the limit if it is not a small constant."""
    exponent = arguments[1].value() if len(arguments) == 2 else None
    if isinstance(exponent, int | float) and abs(exponent) <= MAX_EXPONENT:
        return max(1, round(abs(exponent)))
    return MAX_BITS + 1


def _argument_bits(argument: Argument, bits: Mapping[str, int]) -> int:
    return max((bits.get(name, WORD_BITS) for name in argument.names()), default=WORD_BITS)
