"""The socket that the service listens on."""

import asyncio
import socket

import pytest

from palettery.app.errors import BadInput
from palettery.app.main import _listen
from palettery.app.settings import Settings


def test_small_answers_are_sent_at_once(monkeypatch):
    """asyncio switches Nagle's algorithm off, but only on sockets that say they are TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PALETTERY_PORT", str(probe.getsockname()[1]))

    async def accepted() -> int:
        found = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(
            lambda _, writer: found.set_result(writer), sock=_listen(Settings())
        )
        async with server:
            _, ours = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            theirs = await found
            option = theirs.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY
            )
            for writer in (ours, theirs):
                writer.close()
                await writer.wait_closed()
            return option

    assert asyncio.run(accepted())


def test_an_address_that_cannot_be_had_says_which_option_to_change():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="in use; choose another --port"):
            _listen(Settings(port=taken.getsockname()[1]))
        for host in ("203.0.113.1", "nowhere.invalid", "[2001:db8::1]", "127.0.0.1.5"):
            with pytest.raises(BadInput, match="; choose another --host"):
                _listen(Settings(host=host, port=taken.getsockname()[1]))
