"""Commands for the operator that manage API keys, directly in the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palettery.app.cli.options import Json, print_json, settings_of

if TYPE_CHECKING:
    from palettery.app.keys.service import KeyService
    from palettery.schemas.keys import Key

keys = typer.Typer(help="Create, list and revoke API keys, on the machine of the database.")

DataDir = Annotated[Path | None, typer.Option(help="Folder of database and store.")]
PAGE = 1_000


class Scope(StrEnum):
    """Permission of a key."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


DEFAULT_SCOPES = (Scope.READ, Scope.WRITE)


@keys.command()
def create(
    owner: Annotated[
        str,
        typer.Option(
            help="Owner of the key; `local` owns what was created before there were keys."
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the key.")],
    scopes: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="What it may do; repeatable. Default: read and write."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Days until it expires.")
    ] = None,
    queued_jobs: Annotated[
        int | None, typer.Option(min=0, help="Most jobs queued at once.")
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(min=0, help="Most bytes stored in total.")
    ] = None,
    upload_bytes: Annotated[
        int | None, typer.Option(min=0, help="Most bytes of one upload.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Create a key and print it once. After the first one, the server requires keys."""
    from pydantic import ValidationError

    from palettery.app.errors import BadInput
    from palettery.schemas.keys import NewKey
    from palettery.schemas.problem import InvalidField

    try:
        request = NewKey(
            owner=owner,
            name=name,
            scopes=tuple(dict.fromkeys(scope.value for scope in scopes or DEFAULT_SCOPES)),
            expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
            queued_jobs=queued_jobs,
            stored_bytes=stored_bytes,
            upload_bytes=upload_bytes,
        )
    except ValidationError as error:
        fields = [
            InvalidField(pointer=f"/{each['loc'][0]}", detail=each["msg"])
            for each in error.errors()
        ]
        raise BadInput("the key is not valid", fields) from error
    with _key_service(data_dir) as service:
        created = service.create(request)
    typer.echo(f"{created.key.id}: give it to {owner}; it is not shown again", err=True)
    typer.echo(created.secret)


@keys.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List the keys of all owners, newest first, including revoked ones."""
    from palettery.app.cli.tables import print_keys

    items: list[Key] = []
    cursor: str | None = None
    with _key_service(data_dir) as service:
        while True:
            page = service.page(PAGE, cursor)
            items += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        print_json(items)
    else:
        print_keys(items)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a key, from the next request on."""
    with _key_service(data_dir) as service:
        service.revoke(key_id)
        if not service.exist():
            typer.echo(
                "that was the last key: without keys, a server on loopback serves every user of "
                "this machine, and any other server serves nobody",
                err=True,
            )


@contextmanager
def _key_service(data_dir: Path | None) -> Iterator["KeyService"]:
    """Open the database of the current settings."""
    from palettery.app.database.engine import open_database
    from palettery.app.database.migrations import check_migrated
    from palettery.app.errors import BadInput
    from palettery.app.keys.repository import KeyRepository
    from palettery.app.keys.service import KeyService
    from palettery.app.storage.data_folder import prepare

    settings = settings_of(data_dir=data_dir)
    if settings.database_url is None and not (settings.data_dir / "palettery.db").exists():
        raise BadInput(
            f"there is no service in {settings.data_dir.resolve()}; set --data-dir or "
            "PALETTERY_DATABASE_URL"
        )
    if settings.database_url is None:
        prepare(settings)
    database = open_database(settings.resolved_database_url())
    try:
        check_migrated(database)
        yield KeyService(settings, KeyRepository(database))
    finally:
        database.close()
