"""The database as it is while somebody else writes to it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

from tests.integration.service import DEADLINE_S


@contextmanager
def rows_held(database_url: str) -> Iterator[None]:
    """Nobody can write a job's row meanwhile; reading goes on."""
    if database_url.startswith("sqlite"):
        path = make_url(database_url).database
        connection = sqlite3.connect(path, isolation_level=None, timeout=DEADLINE_S)
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection = psycopg.connect(database_url)
        connection.execute("LOCK TABLE jobs IN SHARE MODE")
    try:
        yield
    finally:
        connection.close()
