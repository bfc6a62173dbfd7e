"""Expressions of sizes that torch may evaluate, and what must never reach it."""

import pytest

from palettery.app.checkpoints.pt2_expressions import EXPRESSION_CHARACTERS, check_expression


@pytest.mark.parametrize(
    "text",
    [
        "s0", "-s77 + 1", "2*s0*(s1 - 3)", "s0**2", "zuf3 // 4", "u0 >= 0",
        "Symbol('s0', integer=True, positive=True)",
        "Add(Integer(-1), Symbol('s0', integer=True))",
        "Pow(Symbol('s0', integer=True), Integer(2))",
        "Max(1, FloorDiv(s0, 2))", "Eq(Mod(s0, 8), 0)",
    ],
)  # fmt: skip
def test_sizes(text):
    assert check_expression(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os').system('x')", "more than sizes"),
        ("s0.__class__", "more than sizes"),
        ("print(s0)", "more than sizes"),
        ("Symbol('x')", "more than sizes"),
        ("Symbol('s0', evil=True)", "more than sizes"),
        ("[s0]", "more than sizes"),
        ("lambda: 1", "more than sizes"),
        ("s0 if s0 else 1", "more than sizes"),
        ("'a' * 9", "more than sizes"),
        ("9223372036854775808", "more than sizes"),
        ("s0**17", "more than sizes"),
        ("s0**s1", "more than sizes"),
        ("(s0**16)**16", "power of a power"),
        ("Pow(Pow(s0, Integer(2)), Integer(2))", "power of a power"),
        ("s0 +", "not an expression"),
        ("(" * 500, "not an expression"),
        ("1+" * EXPRESSION_CHARACTERS, "over 1,000 characters"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_expression(text)
