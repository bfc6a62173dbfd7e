"""A stranger's patterns: as `re.fullmatch`, but never for long."""

import re
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palettery.app.errors import InvalidConfig
from palettery.app.planning.patterns import Patterns

TEXTS = sorted(
    ["", "a", "b", "aa", "ab", "ab.b", "a.b", "a{1}", "a{e<=1}", "[:a", "a\n", "A", "encoder.0.fc"]
)
PIECES = ["\\.", ".*", "(?:", "(?i)", "{2}", "{,2}", "{e<=1}", "[:", *"ab.*+?|()[]{}^$,\\1:-"]


def expected(pattern):
    with warnings.catch_warnings(action="ignore"):
        return {text for text in TEXTS if re.fullmatch(pattern, text)}


def matching_texts(pattern):
    patterns = Patterns(5.0)
    patterns.check(pattern, "/p")
    return patterns.matching(pattern, TEXTS, "/p")


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
def test_same_as_re_fullmatch(pattern):
    try:
        wanted = expected(pattern)
    except (re.error, OverflowError):
        with pytest.raises(InvalidConfig):
            matching_texts(pattern)
    else:
        assert matching_texts(pattern) == wanted


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "a", "a.b", r"a\.b", "ab*", "ab?", "a|b", "(a|b)+", r"(?i)A", r"(a)\1", "(?=a).*"),
        *("(a){1,2}", "(?:a){e<=1}", "(?:a|b){,2}", "([[:a]|x)+", r"(a\n|b)+", "(?x) a # b"),
        *("a{1}", "a{e<=1}", "a{,}", r"(encoder\.\d\.)+fc", r"encoder\..*", ".*c", "(a+)+", "a$"),
    ],
)
def test_same_as_re_fullmatch_on_what_differs_in_other_engines(pattern):
    assert matching_texts(pattern) == expected(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(", "*", "[a", "a{2}{3}", r"\q", "(?P<x", "a{99999999999999}", "a{" + "9" * 5_000 + "}"],
)
def test_a_bad_pattern_is_told_with_its_place(pattern):
    with pytest.raises(InvalidConfig) as caught:
        Patterns(5.0).check(pattern, "/module_name_configs/x")
    assert [error.pointer for error in caught.value.errors] == ["/module_name_configs/x"]
    assert repr(pattern) in caught.value.errors[0].detail


def test_an_endless_pattern_is_told_with_its_length():
    with pytest.raises(InvalidConfig) as caught:
        Patterns(5.0).check("a" * 10_001, "/p")
    assert "10,001" in caught.value.errors[0].detail


HOSTILE = ["(a|aa)+b", "(?:a|a)*b", "(a|b|ab)*b", "(a+)+b", "(a*)*b", "(.*)*b", r"(\w+\.?)+b"]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_hostile_pattern_ends(pattern):
    """`re` needs ages for each of these; `regex` sees through some and is stopped on others."""
    with suppress(InvalidConfig):
        assert Patterns(0.2).matching(pattern, ["a" * 500 + "bc"], "/p") == set()


def test_a_pattern_is_stopped_at_the_limit():
    with pytest.raises(InvalidConfig) as caught:
        Patterns(0.2).matching(HOSTILE[0], ["a" * 500 + "bc"], "/module_name_configs/x")
    assert caught.value.errors[0].pointer == "/module_name_configs/x"
    assert repr(HOSTILE[0]) in caught.value.errors[0].detail


def test_all_patterns_share_one_limit():
    patterns, texts = Patterns(0.1), ["a" * n for n in range(1, 400)]

    def match_many():
        for number in range(10_000):
            patterns.matching(f"(?:a|b{number})*.*.*.*c", texts, "/p")

    with pytest.raises(InvalidConfig):
        match_many()


BOMBS = {
    "nested": "((((a{99}){99}){99}){99}){99}",
    "at least": "(?:x{9999,}){9999}",
    "one after another": "(?:a|b){65000}" * 50,
    "at once": "(?:ab){100000000}",
    "with spaces": "(?x)((a{999}) {999}) {999}",
    "with comments": "(?x)((a{999}) #\n {999})",
    "without a group": "a{99999999}" + "b*" * 20,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_takes_gigabytes_to_compile_is_refused(kind):
    with pytest.raises(InvalidConfig) as caught:
        Patterns(5.0).matching(BOMBS[kind], ["a" * 300], "/module_name_configs/x")
    assert "smaller numbers" in caught.value.errors[0].detail


def test_compiling_counts_towards_the_time():
    patterns = Patterns(0.01)

    def match_many():
        for number in range(10_000):
            patterns.matching(f"(?:a?){{{500 + number}}}", ["b"], "/p")

    with pytest.raises(InvalidConfig) as caught:
        match_many()
    assert "took over 0.01 s" in caught.value.errors[0].detail
