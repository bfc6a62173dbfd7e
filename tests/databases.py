"""A fresh, empty database of each kind that is claimed."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, make_url, text

KINDS = ["sqlite", "postgresql"]


@contextmanager
def fresh_url(kind: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a database that nobody else uses."""
    if kind == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('tmp_path') / 'palettery.db'}"
        return
    server = make_url(request.getfixturevalue("postgres").url)
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(
        server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} STRATEGY FILE_COPY"))
            yield server.set(database=name).render_as_string(hide_password=False)
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()
