"""Keyword arguments of the methods that submit jobs."""

import inspect
from pathlib import Path

import pytest

from palettery.app.client import Client
from palettery.app.client.job_arguments import PlanArguments, SubmitArguments, takes
from palettery.app.errors import BadInput
from palettery.schemas.config import w4
from palettery.schemas.job_options import JobOptions


@takes(SubmitArguments)
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
