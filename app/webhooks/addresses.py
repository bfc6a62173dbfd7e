"""Addresses of webhooks: public ones only, against server-side request forgery.

A host name is resolved and its addresses are checked when a connection is made, and the connection
goes to a checked address. So a name that resolves to another address later (DNS rebinding) gains
nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence

import httpcore
import httpx

from palettery.app.errors import InvalidWebhook
from palettery.schemas.problem import InvalidField

MAX_CHARACTERS = 2_048
HOST_NAME = re.compile(rb"[\w.-]{1,255}", re.ASCII)
POINTER = "/webhook_url"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
RESERVED = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20"))
)
"""Special-purpose networks that not every version of Python knows.

Source: IANA's registries of special-purpose addresses.
"""
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Network of NAT64, whose last 32 bits are an IPv4 address.

Source: RFC 6052.
"""


class PrivateAddressError(Exception):
    """An address of the host is not public."""


def parse_webhook_url(text: str, *, private: bool) -> httpx.URL:
    """Return a webhook's URL; `private` allows private addresses.

    Raises:
        InvalidWebhook: it is no http or https URL, has credentials, or an address that is not
            public. Host names are resolved and checked later, at each call.
    """
    if len(text) > MAX_CHARACTERS:
        raise _invalid_webhook(f"it has {len(text):,} characters; {MAX_CHARACTERS:,} are allowed")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise _invalid_webhook(f"it is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _invalid_webhook("send an absolute URL that begins with https:// or http://")
    address = _parse_address(url.host)
    if address is None and not HOST_NAME.fullmatch(url.raw_host):
        raise _invalid_webhook(f"{url.host[:64]!r} is neither the name of a host nor an address")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise _invalid_webhook(f"{url.port} is no port; ports are 1 to 65,535")
    if url.userinfo:
        raise _invalid_webhook(
            "it has credentials; leave them out, and verify the signature instead"
        )
    if address is not None and not private and not is_public(address):
        raise _invalid_webhook(f"{url.host} is not a public address; send a public one")
    return url


def is_public(address: Address) -> bool:
    """Return whether an address is public and unicast."""
    if any(address in network for network in RESERVED):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    is_tunnel = address.sixtofour is not None or address.teredo is not None
    return address in GLOBAL_UNICAST and address.is_global and not is_tunnel


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public hosts only, or to any if `private`."""

    def __init__(self, *, private: bool) -> None:
        self._private, self._network = private, httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that accepts the connection.

        Raises:
            PrivateAddressError: one of its addresses is not public.
        """
        addresses = await _resolve(host, port)
        if not self._private and not all(map(is_public, addresses)):
            raise PrivateAddressError(host)
        last_error: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last_error = error
        raise last_error


async def _resolve(host: str, port: int) -> Sequence[Address]:
    loop = asyncio.get_running_loop()
    try:
        entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(address[0])) for *_, address in entries]
    except (OSError, ValueError) as error:
        raise httpcore.ConnectError(f"{host} has no address: {error}") from error


def _parse_address(host: str) -> Address | None:
    """Return a host as an IP address, in any notation that resolvers accept; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # such as 2130706433 or 0x7f.1
        except (OSError, ValueError):
            return None


def _invalid_webhook(reason: str) -> InvalidWebhook:
    detail = f"the webhook cannot be called: {reason}"
    return InvalidWebhook(detail, [InvalidField(pointer=POINTER, detail=reason)])
