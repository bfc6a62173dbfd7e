"""Role of a process: the whole service, the API only, or a controller."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from palettery.app.errors import BadInput
from palettery.app.execution.fanout import Workers
from palettery.app.keys.repository import KeyRepository
from palettery.app.keys.service import KeyService
from palettery.app.observability.tracing import Tracing
from palettery.app.roles.api import ServiceState, api_services
from palettery.app.roles.controller import run_controller
from palettery.app.roles.shared_services import Role, migrate, shared_services
from palettery.app.sandbox import log_missing_protections
from palettery.app.settings import Settings

__all__ = ["Role", "ServiceState", "check_role_settings", "migrate", "run_role"]


def check_role_settings(settings: Settings, role: Role) -> None:
    """Check that the settings suffice for a role.

    Raises:
        BadInput: a setting is missing; names it.
    """
    if role == "all":
        return
    required = {
        "PALETTERY_DATABASE_URL": settings.database_url,
        "PALETTERY_STORAGE_URL": settings.storage_url,
    }
    if role == "controller":
        required["PALETTERY_SCHEDULER_URL"] = settings.scheduler_url
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise BadInput(f"--role {role} works together with other processes; set {missing[0]}")
    if (settings.database_url or "").startswith("sqlite"):
        raise BadInput(f"--role {role} needs Postgres, but PALETTERY_DATABASE_URL is SQLite")


@asynccontextmanager
async def run_role(
    settings: Settings, role: Role, traces: Tracing, stop: Callable[[], None]
) -> AsyncIterator[ServiceState]:
    """Run a role; `stop` ends the process, such as after its lease is lost.

    Raises:
        BadInput: the database has another version, another process has the same executor id, or
            there are no keys and the address is not loopback.
    """
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(shared_services(settings, role))
        keys = KeyService(settings, KeyRepository(shared.database))
        if role != "controller":  # it serves health checks only
            await asyncio.to_thread(keys.check_address)
        needs_sandbox = role != "all" or await asyncio.to_thread(keys.is_key_required)
        shared = replace(shared, settings=settings.with_sandbox(required=needs_sandbox))
        log_missing_protections(shared.settings.limits.sandbox)
        workers: Workers | None = None
        if role != "api":
            control = run_controller(shared, traces, stop, is_alone=role == "all")
            workers = await stack.enter_async_context(control)
        yield await stack.enter_async_context(api_services(shared, role, keys, workers))
