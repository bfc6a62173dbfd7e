"""Talk to a server from Python; needs neither torch nor the server's code."""

from palettery.app.client.asynchronous import AsyncClient
from palettery.app.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
