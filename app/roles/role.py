"""What a process of the service consists of: everything, the API alone, or a controller."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from palettery.app.errors import BadInput
from palettery.app.execution.fanout import Workers
from palettery.app.keys.repository import KeyRepository
from palettery.app.keys.service import KeyService
from palettery.app.observability.tracing import Tracing
from palettery.app.roles.api import ServiceState, answering
from palettery.app.roles.controller import controlling
from palettery.app.roles.services import Role, migrate, shared
from palettery.app.sandbox import log_missing_protections
from palettery.app.settings import Settings

__all__ = ["Role", "ServiceState", "check", "migrate", "running"]


def check(settings: Settings, role: Role) -> None:
    """See that a role's settings fit together.

    Raises:
        BadInput: names the one that is missing.
    """
    if role == "all":
        return
    given = {
        "PALETTERY_DATABASE_URL": settings.database_url,
        "PALETTERY_STORAGE_URL": settings.storage_url,
    }
    if role == "controller":
        given["PALETTERY_SCHEDULER_URL"] = settings.scheduler_url
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise BadInput(f"--role {role} shares its work with other processes; set {missing[0]}")
    if (settings.database_url or "").startswith("sqlite"):
        raise BadInput(f"--role {role} needs Postgres; PALETTERY_DATABASE_URL is of SQLite")


@asynccontextmanager
async def running(
    settings: Settings, role: Role, traces: Tracing, stop: Callable[[], None]
) -> AsyncIterator[ServiceState]:
    """A role at work; `stop` ends the process when it must not go on.

    Raises:
        BadInput: the database is not at this version, another process has our executor id, or the
            address is not loopback and there are no keys.
    """
    async with AsyncExitStack() as stack:
        common = await stack.enter_async_context(shared(settings, role))
        keys = KeyService(settings, KeyRepository(common.database))
        if role != "controller":  # which says nothing but how it is
            await asyncio.to_thread(keys.check_address)
        others = role != "all" or await asyncio.to_thread(keys.are_asked_for)
        common = replace(common, settings=settings.with_sandbox(required=others))
        log_missing_protections(common.settings.limits.sandbox)
        workers: Workers | None = None
        if role != "api":
            control = controlling(common, traces, stop, is_alone=role == "all")
            workers = await stack.enter_async_context(control)
        yield await stack.enter_async_context(answering(common, role, keys, workers))
