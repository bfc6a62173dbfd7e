"""The machine that reads pickles, opcode by opcode."""

import pickle

import pytest

from benchmarks import attacks
from palettery.app.checkpoints.pickle_machine import PickleMachine
from palettery.app.checkpoints.torch_records import MalformedPickleError, NonTextKey
from palettery.app.settings import Limits

PLAIN = {"a": [1, -2, 2**70, 1.5, None, True], "b": ("x" * 300, b"y"), "c": {}, "d": ()}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_any_protocol(protocol):
    data = pickle.dumps(PLAIN, protocol) + b"rest"
    machine = PickleMachine(data, Limits())
    assert machine.run() == PLAIN


@pytest.mark.parametrize("data", [b"\x80\x02.", b"\x80\x02N", b"\x80\x02h\0."])
def test_what_no_pickler_writes_is_damage(data):
    with pytest.raises(MalformedPickleError):
        PickleMachine(data, Limits()).run()


def test_keys_that_a_stranger_chose_hash_as_none_can_foresee():
    numbers = b"\x80\x02}(" + b"".join(attacks.number(n << 20) + b"N" for n in range(9)) + b"u."
    pairs = PickleMachine(numbers, Limits()).run()
    assert len(pairs) == 9
    for key in pairs:
        assert isinstance(key, NonTextKey)
        assert hash(key) == object.__hash__(key)


def test_equal_texts_of_a_pickle_are_one():
    one = attacks.text("long" * 100)
    first, second = PickleMachine(b"\x80\x02" + one + one + b"\x86.", Limits()).run()
    assert first is second


def test_the_memo_is_no_larger_than_its_pickle():
    with pytest.raises(Exception, match="memo"):
        PickleMachine(b"\x80\x02N" + attacks.put(1 << 30) + b".", Limits()).run()
