"""Keyword arguments of the client's methods that submit jobs, declared as models.

A method receives them as one object, so that an option of jobs is declared in `JobOptions` alone.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from pydantic import SkipValidation, ValidationError

from palettery.app.client.requests import Config, Source, document_of
from palettery.app.client.uploads import Advance
from palettery.app.errors import BadInput
from palettery.schemas.config.errors import describe_errors
from palettery.schemas.job_options import JobOptions

Keywords = ParamSpec("Keywords")
Arguments = TypeVar("Arguments", bound=JobOptions)
Client = TypeVar("Client")
Result = TypeVar("Result")


class PlanArguments(JobOptions):
    """Keyword arguments of `plan`: options of a job, and arguments that only the client has."""

    config: SkipValidation[Config | None] = None
    """Config as text, a file, a mapping or an object."""
    sensitivities: SkipValidation[Source | None] = None
    """Model whose tensors weight the error of each weight."""
    advance: SkipValidation[Advance] = lambda *_: None
    """Progress callback of the upload of files, as in `upload`."""

    def body(self) -> dict[str, object]:
        """Return the members of the request that are not models."""
        options = self.model_dump(
            mode="json", include=set(JobOptions.model_fields), exclude_defaults=True
        )
        return options if self.config is None else options | {"config": document_of(self.config)}


class SubmitArguments(PlanArguments):
    """Keyword arguments of `submit`."""

    idempotency_key: str | None = None
    """Key of the request; with the same key it makes one job, however often it is sent."""


def takes(
    arguments: Callable[Keywords, Arguments],
) -> Callable[
    [Callable[[Client, Source, Arguments], Result]],
    Callable[Concatenate[Client, Source, Keywords], Result],
]:
    """Decorate a method of a model and an object of arguments to take them as keywords.

    The method raises BadInput if an argument is unknown or invalid, before anything is sent.
    """

    def decorate(
        method: Callable[[Client, Source, Arguments], Result],
    ) -> Callable[Concatenate[Client, Source, Keywords], Result]:
        @wraps(method)
        def call(
            client: Client, model: Source, /, *args: Keywords.args, **named: Keywords.kwargs
        ) -> Result:
            return method(client, model, _validated(arguments, *args, **named))

        own = list(inspect.signature(method).parameters.values())[:2]
        keywords = inspect.signature(arguments).parameters.values()
        call.__signature__ = inspect.Signature([*own, *keywords])  # type: ignore[attr-defined]
        return call

    return decorate


def _validated(arguments: Callable[..., Arguments], *args: Any, **named: Any) -> Arguments:
    """Return the arguments as one object; None stands for the default of each."""
    try:
        return arguments(
            *args, **{name: value for name, value in named.items() if value is not None}
        )
    except ValidationError as error:
        faults = describe_errors(error, JobOptions)
        raise BadInput("; ".join(fault.detail for fault in faults), faults) from error
