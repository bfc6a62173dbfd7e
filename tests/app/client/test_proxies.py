"""A proxy that the environment names, and that is in the way, is named."""

import pytest
from tenacity import wait_none

from palettery.app.client import Client, retries
from palettery.app.errors import BadInput, PaletteryError, Unavailable
from tests.app.client.conftest import Answer
from tests.ports import free_port

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxies but those of the test, and no waiting."""
    monkeypatch.setattr(retries, "WAIT", wait_none())
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def refusal(url: str) -> str:
    with Client(url) as client, pytest.raises(PaletteryError) as raised:
        client.me()
    return raised.value.detail


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "palettery.example"])
def test_a_proxy_that_does_not_answer_is_named(environment, name, host):
    if name == "HTTP_PROXY":  # which Python reads only where it cannot be a request's header
        environment.delenv("REQUEST_METHOD", raising=False)
    proxy = f"127.0.0.1:{free_port()}"
    environment.setenv(name, f"http://user:secret@{proxy}")
    message = refusal(f"http://{host}:8400")
    assert f"no response from http://{host}:8400" in message
    assert f"through the proxy http://{proxy} from the environment" in message
    assert f"add {host} to NO_PROXY" in message
    assert "secret" not in message


def test_a_tunnel_that_the_proxy_does_not_make_is_named(environment, scripted):
    environment.setenv("https_proxy", scripted.url)
    scripted.answers = [Answer(403, b"no")]
    message = refusal("https://127.0.0.1:8400")
    assert f"through the proxy {scripted.url} from the environment" in message


@pytest.mark.parametrize(
    "answer",
    [
        Answer(502, b"<html>cannot connect to 127.0.0.1</html>"),
        Answer(403, b"<html>forbidden</html>"),
        Answer(407, b""),
        Answer(200, b"<html>please log in</html>"),
        Answer(lost=True),
    ],
    ids=["bad gateway", "forbidden", "wants a password", "a page", "lost"],
)
def test_a_proxy_that_answers_in_the_servers_place_is_named(environment, scripted, answer):
    environment.setenv("http_proxy", scripted.url)
    scripted.answers = [answer]
    message = refusal("http://127.0.0.1:8400")
    assert f"through the proxy {scripted.url} from the environment" in message
    assert scripted.request_lines()[0] == "GET http://127.0.0.1:8400/v1/me"


@pytest.mark.parametrize("bypassed", ["127.0.0.1", "example.com,127.0.0.1", "*"])
def test_a_proxy_that_is_not_used_is_not_named(environment, bypassed):
    environment.setenv("http_proxy", "http://127.0.0.1:9")
    environment.setenv("no_proxy", bypassed)
    with pytest.raises(Unavailable) as raised, Client(f"http://127.0.0.1:{free_port()}") as client:
        client.me()
    assert "proxy" not in raised.value.detail
    assert "is `palettery serve` running there?" in raised.value.detail


@pytest.mark.parametrize("proxy", ["socks4://127.0.0.1:1080", "ftp://h:21", "http://h:port"])
def test_a_proxy_that_cannot_be_used_is_bad_input(environment, proxy):
    environment.setenv("all_proxy", proxy)
    with pytest.raises(BadInput, match=r"correct or unset all_proxy"):
        Client("http://127.0.0.1:8400")
