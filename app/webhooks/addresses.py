"""Where webhooks may go: nowhere that this server reaches and strangers do not.

A name is resolved, and its addresses judged, when a connection is made, which is then made to the
address that was judged: a name that changes its mind in between gains nothing.
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

MOST_CHARACTERS = 2_048
NAME = re.compile(rb"[\w.-]{1,255}", re.ASCII)
POINTER = "/webhook_url"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
RESERVED = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20"))
)
"""For special purposes, of which not every version of Python knows.

Source: IANA's registries of special-purpose addresses.
"""
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as NAT64 shows them.

Source: RFC 6052.
"""


class AddressRefused(Exception):
    """A host is not public, in part or as a whole."""


def checked_url(text: str, *, private: bool) -> httpx.URL:
    """A webhook's URL; `private` lets it be one of this network.

    Raises:
        InvalidWebhook: it is no http or https URL, holds credentials, or a literal address that is
            not public. What a name stands for is looked at when it is called.
    """
    if len(text) > MOST_CHARACTERS:
        raise _invalid(f"it has {len(text):,} characters; {MOST_CHARACTERS:,} are allowed")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise _invalid(f"it is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _invalid("send an absolute URL that begins with https:// or http://")
    address = _literal(url.host)
    if address is None and not NAME.fullmatch(url.raw_host):
        raise _invalid(f"{url.host[:64]!r} is neither the name of a host nor an address")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise _invalid(f"{url.port} is no port; there are those from 1 to 65,535")
    if url.userinfo:
        raise _invalid("it holds credentials; leave them out, and verify the signature instead")
    if address is not None and not private and not is_public(address):
        raise _invalid(f"{url.host} is not a public address; send one that anybody could reach")
    return url


def is_public(address: Address) -> bool:
    """Whether an address is one of the whole internet's, and of a single machine."""
    if any(address in network for network in RESERVED):
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in TRANSLATED:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    is_tunnel = address.sixtofour is not None or address.teredo is not None
    return address in GLOBAL_UNICAST and address.is_global and not is_tunnel


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public hosts only; to any if `private`."""

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
        """A connection to the first address of a host that takes one.

        Raises:
            AddressRefused: one of its addresses is not public.
        """
        addresses = await _resolved(host, port)
        if not self._private and not all(map(is_public, addresses)):
            raise AddressRefused(host)
        failed: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


async def _resolved(host: str, port: int) -> Sequence[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [ipaddress.ip_address(str(address[0])) for *_, address in found]
    except (OSError, ValueError) as error:
        raise httpcore.ConnectError(f"{host} has no address: {error}") from error


def _literal(host: str) -> Address | None:
    """The address that a host is in itself, in one of the forms that resolvers take."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # such as 2130706433 or 0x7f.1
        except (OSError, ValueError):
            return None


def _invalid(why: str) -> InvalidWebhook:
    detail = f"the webhook cannot be called: {why}"
    return InvalidWebhook(detail, [InvalidField(pointer=POINTER, detail=why)])
