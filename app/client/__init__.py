"""Talk to a server from Python; needs neither torch nor the server's code."""

from app.client.asynchronous import AsyncClient
from app.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
