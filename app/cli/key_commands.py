"""Commands that look after keys, on the database itself: for whoever runs the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palettery.app.cli.options import Json, settings_of

if TYPE_CHECKING:
    from palettery.app.keys.service import KeyService
    from palettery.schemas.keys import Key

keys = typer.Typer(help="Make, list and revoke keys, on the machine of the database.")

DataDir = Annotated[Path | None, typer.Option(help="Folder for database and store.")]
PAGE = 1_000


class Scope(StrEnum):
    """What a key may do."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


DEFAULT = (Scope.READ, Scope.WRITE)


@keys.command()
def create(
    owner: Annotated[
        str, typer.Option(help="Whose rows it sees; `local` had them before there were keys.")
    ],
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What it may do; again for more. Read and write, unless given."),
    ] = None,
    days: Annotated[
        float | None, typer.Option(min=0, max=36_500, help="Days until it expires.")
    ] = None,
    queued_jobs: Annotated[int | None, typer.Option(min=0, help="The most at once.")] = None,
    stored_bytes: Annotated[int | None, typer.Option(min=0, help="The most altogether.")] = None,
    upload_bytes: Annotated[int | None, typer.Option(min=0, help="The most in one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print it, this once. From the first one on, the server asks for keys."""
    from pydantic import ValidationError

    from palettery.app.errors import BadInput
    from palettery.schemas.keys import NewKey
    from palettery.schemas.problem import InvalidField

    try:
        new = NewKey(
            owner=owner,
            name=name,
            scopes=tuple(dict.fromkeys(each.value for each in scope or DEFAULT)),
            expires_at=None if days is None else datetime.now(UTC) + timedelta(days=days),
            queued_jobs=queued_jobs,
            stored_bytes=stored_bytes,
            upload_bytes=upload_bytes,
        )
    except ValidationError as error:
        faults = [
            InvalidField(pointer=f"/{fault['loc'][0]}", detail=fault["msg"])
            for fault in error.errors()
        ]
        raise BadInput("there can be no such key", faults) from error
    with _keys(data_dir) as found:
        made = found.create(new)
    typer.echo(f"{made.key.id}: give it to {owner}, it is not shown again", err=True)
    typer.echo(made.secret)


@keys.command("list")
def list_(data_dir: DataDir = None, as_json: Json = False) -> None:
    """List keys of every owner, newest first; revoked ones too."""
    from palettery.app.cli.tables import print_keys

    found: list[Key] = []
    cursor: str | None = None
    with _keys(data_dir) as known:
        while True:
            page = known.page(PAGE, cursor)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
    if as_json:
        typer.echo("[" + ",\n".join(key.model_dump_json() for key in found) + "]")
    else:
        print_keys(found)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")],
    data_dir: DataDir = None,
) -> None:
    """Have a key not be valid any more, from the next request on."""
    with _keys(data_dir) as found:
        found.revoke(key_id)
        if not found.exist():
            typer.echo(
                "that was the last key: without one, a server on loopback serves all of this "
                "machine, and any other serves nobody",
                err=True,
            )


@contextmanager
def _keys(data_dir: Path | None) -> Iterator["KeyService"]:
    """The keys of the service whose settings these are."""
    from palettery.app.database.engine import open_database
    from palettery.app.database.migrations import check_migrated
    from palettery.app.errors import BadInput
    from palettery.app.keys.repository import KeyRepository
    from palettery.app.keys.service import KeyService
    from palettery.app.storage.data_folder import prepare

    settings = settings_of(data_dir=data_dir)
    if settings.database_url is None and not (settings.data_dir / "palettery.db").exists():
        raise BadInput(
            f"there is no service at {settings.data_dir.resolve()}; say where with --data-dir, or "
            "with PALETTERY_DATABASE_URL"
        )
    if settings.database_url is None:
        prepare(settings)
    database = open_database(settings.resolved_database_url())
    try:
        check_migrated(database)
        yield KeyService(settings, KeyRepository(database))
    finally:
        database.close()
