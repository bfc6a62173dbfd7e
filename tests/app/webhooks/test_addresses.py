"""Addresses of webhooks, literal ones and those of host names."""

import asyncio
import ipaddress
import socket

import httpcore
import pytest

from palettery.app.errors import InvalidWebhook
from palettery.app.webhooks.addresses import (
    CheckedNetwork,
    PrivateAddressError,
    is_public,
    parse_webhook_url,
)
from tests.receiver import receiving

PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    str(ipaddress.IPv4Address(0)), "127.0.0.1", "127.9.9.9",
    "0.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "192.0.0.8", "3fff::1", "192.0.2.1", "198.18.0.1", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1",
    "ff0e::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::", "2001:0:7f00:1::", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "http://example.com:8080/a?b=c#d",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://bücher.example/",
        "HTTPS://EXAMPLE.COM",
        "https://localhost/",  # a name: what it stands for is judged when it is called
    ],
)
def test_urls_that_are_taken(url):
    assert parse_webhook_url(url, private=False).host


@pytest.mark.parametrize(
    "url",
    [
        "", "x", "example.com/hook", "//example.com", "ftp://example.com", "file:///etc/passwd",
        "https://", "https:///x", "https://a b/", "https://example.com\r\nHost: x", "https://\x00/",
        "https://example.com:99999/", "https://example.com:0/", "https://me:secret@example.com/", "https://me@example.com/",
        "javascript:alert(1)", "https://" + "a" * 3_000, "https://[::1", "https://xn--\ud800/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("private", [True, False])
def test_urls_that_are_none(url, private):
    with pytest.raises(InvalidWebhook) as caught:
        parse_webhook_url(url, private=private)
    assert [field.pointer for field in caught.value.errors] == ["/webhook_url"]


@pytest.mark.parametrize("host", [*PRIVATE, "2130706433", "0x7f000001", "127.1", "017700000001"])
def test_literal_addresses_that_are_not_public(host):
    host = f"[{host}]" if ":" in host else host
    with pytest.raises(InvalidWebhook):
        parse_webhook_url(f"http://{host}:80/", private=False)
    if "%" not in host:
        assert parse_webhook_url(f"http://{host}:80/", private=True)


def connect(host, port, *, private):
    async def connected():
        stream = await CheckedNetwork(private=private).connect_tcp(host, port, timeout=10)
        peer = stream.get_extra_info("server_addr")
        await stream.aclose()
        return peer[0]

    return asyncio.run(connected())


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "::ffff:127.0.0.1"])
def test_names_of_this_machine_are_refused_when_called(host):
    with receiving() as receiver:
        with pytest.raises(PrivateAddressError):
            connect(host, receiver.port, private=False)
        if ":" not in host:
            assert connect(host, receiver.port, private=True) == "127.0.0.1"


def answer(monkeypatch, *rounds):
    """Make names resolve to these addresses, one list per resolution."""
    left = [list(addresses) for addresses in rounds]
    looked_up = []

    def getaddrinfo(host, port, *_, **__):
        looked_up.append(host)
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up


def test_one_private_address_among_many_is_enough(monkeypatch):
    answer(monkeypatch, ["8.8.8.8", "10.0.0.1"])
    with pytest.raises(PrivateAddressError):
        connect("mixed.example", 80, private=False)


def test_connection_goes_to_the_address_that_was_judged(monkeypatch):
    """A name that is public at the first look and private at the second is looked up once."""
    with receiving() as receiver:
        looked_up = answer(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
        assert connect("rebinding.example", receiver.port, private=True) == "127.0.0.1"
        assert looked_up == ["rebinding.example"]


def test_second_address_is_tried_where_the_first_takes_none(monkeypatch):
    with receiving() as receiver:
        answer(monkeypatch, ["127.0.0.2", "127.0.0.1"])
        assert connect("two.example", receiver.port, private=True) == "127.0.0.1"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 300, "." * 5])
def test_names_without_an_address(host):
    with pytest.raises(httpcore.ConnectError):
        connect(host, 80, private=True)
