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
from palettery.schemas.evaluation import Goals
from palettery.schemas.job_options import JobOptions

Keywords = ParamSpec("Keywords")
Arguments = TypeVar("Arguments", bound=JobOptions)
Client = TypeVar("Client")
Result = TypeVar("Result")


class EvaluateArguments(Goals):
    """The option `evaluate`, whose inputs may be files."""

    inputs_id: SkipValidation[Source]
    """Inputs: files to upload, or the id of an upload."""


class PlanArguments(JobOptions):
    """Keyword arguments of `plan`: options of a job, and arguments that only the client has."""

    config: SkipValidation[Config | None] = None
    """Config as text, a file, a mapping or an object."""
    evaluate: EvaluateArguments | None = None  # type: ignore[assignment]
    """Run the model before and after on inputs, and fail the job unless the outputs have the
    quality `at_least`; `inputs_id` may be files, which are uploaded."""
    sensitivities: SkipValidation[Source | None] = None
    """Model whose tensors weight the error of each weight."""
    advance: SkipValidation[Advance] = lambda *_: None
    """Progress callback of the upload of files, as in `upload`."""

    def body(self) -> dict[str, object]:
        """Return the members of the request that are neither models nor inputs."""
        dumped = self.model_dump(
            mode="json",
            include=set(JobOptions.model_fields),
            exclude={"evaluate": {"inputs_id"}},
        )
        options = {
            name: value
            for name, value in dumped.items()
            if getattr(self, name) != JobOptions.model_fields[name].default
        }
        return options if self.config is None else options | {"config": document_of(self.config)}


class SubmitArguments(PlanArguments):
    """Keyword arguments of `submit`."""

    idempotency_key: str | None = None
    """Key of the request; with the same key it makes one job, however often it is sent."""


def takes_keywords(
    arguments: Callable[Keywords, Arguments],
) -> Callable[
    [Callable[[Client, Source, Arguments], Result]],
    Callable[Concatenate[Client, Source, Keywords], Result],
]:
    """Decorator that makes a method take the fields of an arguments model as keyword arguments.

    The method raises BadInput if an argument is unknown or invalid, before anything is sent.
    """

    def decorate(
        method: Callable[[Client, Source, Arguments], Result],
    ) -> Callable[Concatenate[Client, Source, Keywords], Result]:
        @wraps(method)
        def call(
            client: Client, model: Source, /, *args: Keywords.args, **keyword_args: Keywords.kwargs
        ) -> Result:
            return method(client, model, _validate(arguments, *args, **keyword_args))

        positional = list(inspect.signature(method).parameters.values())[:2]
        keywords = inspect.signature(arguments).parameters.values()
        call.__signature__ = inspect.Signature([*positional, *keywords])  # type: ignore[attr-defined]
        return call

    return decorate


def _validate(arguments: Callable[..., Arguments], *args: Any, **keyword_args: Any) -> Arguments:
    """Return the arguments as one object; those that are None have their defaults."""
    try:
        return arguments(
            *args, **{name: value for name, value in keyword_args.items() if value is not None}
        )
    except ValidationError as error:
        errors = describe_errors(error, JobOptions)
        raise BadInput("; ".join(item.detail for item in errors), errors) from error
