"""The socket that the service listens on, and servers that must not start."""

import asyncio
import signal
import socket
import sys

import pytest

from palettery.app.errors import BadInput
from palettery.app.main import _listen
from palettery.app.settings import Settings
from tests.ports import free_port


def test_small_answers_are_sent_at_once(monkeypatch):
    """asyncio switches Nagle's algorithm off, but only on sockets that say they are TCP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PALETTERY_PORT", str(probe.getsockname()[1]))

    async def accepted() -> int:
        result = asyncio.get_running_loop().create_future()
        server = await asyncio.start_server(
            lambda _, writer: result.set_result(writer), sock=_listen(Settings())
        )
        async with server:
            _, ours = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            theirs = await result
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


@pytest.fixture
def serve(palettery, tmp_path):
    """Run `palettery serve` in this process; gives its exit code and lines of errors."""

    def run(*words):
        code, _, errors = palettery("serve", "--data-dir", tmp_path / "data", *words)
        return code, errors.splitlines()

    handler, interval = signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    yield run
    signal.signal(signal.SIGTERM, handler)
    sys.setswitchinterval(interval)


def test_server_on_a_port_in_use_says_so(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, [line] = serve("--port", taken.getsockname()[1])
    assert (code, "choose another --port" in line) == (2, True)


def test_server_without_keys_that_others_could_reach_does_not_start(serve):
    code, [line] = serve("--port", free_port(), "--host", "0.0.0.0")  # noqa: S104 - refused
    assert (code, "there are no keys" in line) == (2, True)
