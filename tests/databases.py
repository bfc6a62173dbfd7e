"""A fresh, empty database of each kind that is claimed."""

import uuid

import pytest
from sqlalchemy import create_engine, make_url, text

KINDS = ["sqlite", "postgresql"]


def fresh_url(kind: str, request: pytest.FixtureRequest) -> str:
    """Of a database that nobody else uses."""
    if kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path') / 'palettery.db'}"
    name = f"test_{uuid.uuid4().hex}"
    server = make_url(request.getfixturevalue("postgres").url)
    engine = create_engine(
        server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} STRATEGY FILE_COPY"))
    engine.dispose()
    return server.set(database=name).render_as_string(hide_password=False)
