"""Keyword arguments of the methods that submit jobs."""

import inspect
from pathlib import Path

import pytest

from palettery.app.client import Client
from palettery.app.client.job_arguments import PlanArguments, SubmitArguments, takes_keywords
from palettery.app.errors import BadInput
from palettery.schemas.config import w4
from palettery.schemas.job_options import JobOptions
from palettery.schemas.targets import Choices, Target


@takes_keywords(SubmitArguments)
def submit(client, model, arguments):
    """Return what was received."""
    return client, model, arguments


def test_keywords_become_one_object():
    client, model, arguments = submit("client", "model", strict=True, idempotency_key="k")
    assert (client, model) == ("client", "model")
    assert arguments == SubmitArguments(strict=True, idempotency_key="k")


def test_none_is_the_default():
    assert submit("client", "model", priority=None, formats=None)[2].body() == {}


def test_body_holds_what_is_not_the_default():
    config = w4()
    arguments = PlanArguments(
        config=config, strict=True, formats=["dense"], sensitivities=Path("s")
    )
    body = arguments.body()
    assert body.pop("config") == config.model_dump(mode="json")
    assert body == {"strict": True, "formats": ["dense"]}


def test_unknown_and_invalid_arguments_are_refused_before_anything_is_sent():
    with pytest.raises(BadInput) as caught:
        Client("http://127.0.0.1:1").submit("0" * 64, presett="w4", priority=10)
    assert caught.value.detail == (
        "priority must be at most 9; got 10; unknown key 'presett'; did you mean 'preset'?"
    )


def test_signature_shows_every_argument():
    parameters = inspect.signature(Client.submit).parameters
    expected = ["self", "model", *JobOptions.model_fields]
    expected += ["config", "sensitivities", "advance", "idempotency_key"]
    assert list(parameters) == expected


def test_targets_and_choices_are_sent_as_they_are_checked():
    body = PlanArguments(target="0.25x", choices={"n_bits": [4]}).body()
    assert Target.model_validate(body["target"]) == Target(size_ratio=0.25)
    assert Choices.model_validate(body["choices"]) == Choices(n_bits=(4,))
    with pytest.raises(BadInput, match="unknown unit 'apples'; write it like 16MB"):
        Client("http://127.0.0.1:1").plan("0" * 64, target="16 apples")


def test_a_quality_that_is_none_is_refused_before_anything_is_sent():
    evaluate = {"inputs_id": Path("inputs"), "at_least": {"cosine": 2}}
    with pytest.raises(BadInput, match="cosine must be at most"):
        Client("http://127.0.0.1:1").submit("0" * 64, preset="w4", evaluate=evaluate)
