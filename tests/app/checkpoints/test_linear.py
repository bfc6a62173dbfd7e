"""Time and memory for hostile files, which must be proportional to their size."""

import sys
import tracemalloc
from contextlib import suppress

import pytest

from benchmarks import attacks
from benchmarks.parsers import PARSERS, stored
from palettery.app.checkpoints.json_scanner import unique_keys
from palettery.app.checkpoints.reader import read_checkpoint
from palettery.app.errors import BadInput, TooLarge
from palettery.app.settings import Limits
from palettery.app.storage.open import open_storage

BYTES = 24_000
LINEAR = 1.3
"""Most steps a byte at twice the size, of those at the size; a square would have 2."""
STEPS = 16
"""Most steps a byte. An honest file takes 2 of a pickle, each of which does far more than one of an
opcode: `benchmarks.parsers` compares seconds."""
MEMORY = 200
"""Most bytes of memory a byte; an empty dict takes 64 for a byte in a pickle."""
CASES = [(parser, attack) for parser, (_, hostile) in PARSERS.items() for attack in hostile]


@pytest.fixture
def reads(tmp_path):
    """Return a function from a parser and content to a function that reads it, accepted or not."""

    def prepare(parser, content):
        files = {"model": attacks.honest_safetensors(100)} if parser == "index" else {}
        upload = stored(tmp_path, **files, file=content)
        storage = open_storage(tmp_path.as_uri())

        def read():
            with suppress(BadInput):
                read_checkpoint(storage, upload, Limits())

        return read

    return prepare


def steps(read):
    """Return the number of Python and C calls that a function makes."""
    made = 0

    def count(_frame, event, _argument):
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        read()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize(("parser", "attack"), CASES)
def test_steps_are_in_proportion_to_bytes(reads, parser, attack):
    def per_byte(size):
        content = PARSERS[parser][1][attack](size)
        return steps(reads(parser, content)) / len(content)

    once, twice = per_byte(BYTES), per_byte(2 * BYTES)
    assert twice <= LINEAR * once
    assert twice <= STEPS


@pytest.mark.parametrize(("parser", "attack"), CASES)
def test_memory_is_in_proportion_to_bytes(reads, parser, attack):
    content = PARSERS[parser][1][attack](2 * BYTES)
    read = reads(parser, content)
    read()  # what is imported or compiled at first is not the file's
    tracemalloc.start()
    try:
        read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= MEMORY * len(content) + (1 << 20)


@pytest.mark.parametrize("parser", sorted({*PARSERS} - {"index"}))
def test_honest_files_are_read(tmp_path, parser):
    upload = stored(tmp_path, file=PARSERS[parser][0](BYTES))
    assert read_checkpoint(open_storage(tmp_path.as_uri()), upload, Limits()).tensors


class Compared(str):
    """A string that counts comparisons."""

    __slots__ = ()
    count = 0

    def __eq__(self, other):
        Compared.count += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_key_that_is_there_twice_is_found_in_one_pass():
    keys = [Compared(f"k{n}") for n in range(5_000)]
    with pytest.raises(ValueError, match="'k4999' occurs twice"):
        unique_keys([(key, 0) for key in (*keys, Compared("k4999"))])
    assert Compared.count < 50


@pytest.mark.parametrize("parser", ["legacy", "safetensors", "zip", "index", "graph"])
def test_a_limit_is_named_with_its_setting(tmp_path, parser):
    content = PARSERS[parser][0](8_000)
    files = {"model": attacks.honest_safetensors(100)} if parser == "index" else {}
    upload = stored(tmp_path, **files, file=content)
    storage = open_storage(tmp_path.as_uri())
    with pytest.raises(TooLarge, match=r"1,000 are allowed \(PALETTERY_LIMIT_HEADER_BYTES\)"):
        read_checkpoint(storage, upload, Limits(header_bytes=1_000))
    if parser != "graph":
        with pytest.raises(TooLarge, match=r"2 are allowed \(PALETTERY_LIMIT_TENSORS\)"):
            read_checkpoint(storage, upload, Limits(tensors=2))
