"""The proxies that the environment names, which httpx uses: named where they are in the way."""

import os
from urllib.request import getproxies, proxy_bypass

import httpx

NAMES = ("http_proxy", "https_proxy", "all_proxy")


def proxy_hint(url: httpx.URL) -> str:
    """Which proxy a request went through, and how to go past it; empty if through none."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    where = url.host if url.port is None else f"{url.host}:{url.port}"
    if not proxy or proxy_bypass(where):
        return ""
    return (
        f"; it was asked through the proxy {_without_password(proxy)}, which the environment "
        f"names: add {url.host} to NO_PROXY to go past that"
    )


def proxies_set() -> str:
    """Names of the variables of the environment that name proxies."""
    return ", ".join(name for name in os.environ if name.lower() in NAMES)


def _without_password(proxy: str) -> str:
    """The address without the user and the password that may stand in it."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
