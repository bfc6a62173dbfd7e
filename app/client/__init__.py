"""The Python client of a server; it imports neither torch nor the server's code."""

from palettery.app.client.asynchronous import AsyncClient
from palettery.app.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
