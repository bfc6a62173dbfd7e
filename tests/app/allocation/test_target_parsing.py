"""Targets as texts, and what they mean in bytes."""

import pytest
from pydantic import ValidationError

from palettery.app.allocation.target_parsing import parse_target, target_bytes
from palettery.app.errors import BadInput
from palettery.schemas.checkpoint import Checkpoint, StoredFile, StoredTensor
from palettery.schemas.evaluation import Quality
from palettery.schemas.targets import Target

CHECKPOINT = Checkpoint(
    format="safetensors",
    files=(StoredFile(name="m", path="m", size_bytes=4000),),
    tensors=(
        StoredTensor(name="a", dtype="F32", shape=(25, 40), file=0, offset=0, size_bytes=4000),
    ),
    modules=(),
    ops=(),
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("16MB", 16_000_000),
        ("1.5 kB", 1_500),
        ("2MiB", 2 << 20),
        ("1gb", 10**9),
        ("777B", 777),
        ("3.5bpw", 437),
        ("0.25x", 1_000),
    ],
)
def test_targets_in_bytes(text, size_bytes):
    assert target_bytes(parse_target([text]), CHECKPOINT) == size_bytes


@pytest.mark.parametrize(
    ("text", "quality"),
    [
        ("cosine>=0.98", {"cosine": 0.98}),
        ("cosine.p5 >= 0.9", {"cosine": 0.9, "percentile": 5}),
        ("cosine.min>=0", {"cosine": 0, "percentile": 0}),
        ("snr_db>=-3.5", {"snr_db": -3.5}),
        ("top1>=1", {"top1": 1}),
        ("accuracy>=0.75", {"accuracy": 0.75}),
    ],
)
def test_targets_of_a_quality(text, quality):
    target = parse_target([text])
    assert target == Target(quality=Quality.model_validate(quality))
    assert target_bytes(target, CHECKPOINT) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["16 apples"], "unknown unit 'apples'; write it like 16MB"),
        (["9000000x"], "'9000000x' is out of range: size_ratio must be at most 1000000"),
        (["999999999999GB"], "is out of range: size_bytes must be at most 9223372036854775807"),
        (["16"], "'16' is no number with a unit"),
        (["MB"], "no number with a unit"),
        (["-3MB"], "no number with a unit"),
        (["1e9MB"], "no number with a unit"),
        (["0x"], "'0x' is not above 0"),
        (["0.1B"], "not above 0"),
        (["cosine=0.98"], r"no number with a unit; write it like .* in quotes, 'cosine>=0.98'"),
        (["cosine"], "no number with a unit"),
        (["cosine>=98%"], "no number with a unit"),
        (["cosine>=98"], "'cosine>=98' is out of range: .*at most 1"),
        (["sharpness>=3"], "unknown measure 'sharpness'; name one of cosine, cosine.p5"),
        (["cosine>=0.9", "8MB"], "2 targets were given: cosine>=0.9, 8MB; give one"),
        (["16MB", "3bpw"], "2 targets were given: 16MB, 3bpw; give one"),
    ],
)
def test_texts_that_are_no_target(texts, message):
    with pytest.raises(BadInput, match=message):
        parse_target(texts)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size_bytes": 1, "error": 0.5},
        {"size_ratio": 0},
        {"quality": {}},
        {"quality": {"cosine": 0.9}, "size_bytes": 1},
    ],
)
def test_a_target_is_one_positive_number(fields):
    with pytest.raises(ValidationError):
        Target.model_validate(fields)
