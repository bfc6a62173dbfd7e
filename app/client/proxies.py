"""Hints about proxies from the environment, which httpx uses."""

import os
from urllib.request import getproxies, proxy_bypass

import httpx

NAMES = ("http_proxy", "https_proxy", "all_proxy")


def proxy_hint(url: httpx.URL) -> str:
    """Return a hint about the proxy of a URL and how to bypass it; empty without a proxy."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if not proxy or proxy_bypass(host):
        return ""
    return (
        f"; the request went through the proxy {_without_password(proxy)} from the environment: "
        f"add {url.host} to NO_PROXY to bypass it"
    )


def proxies_set() -> str:
    """Return the names of the environment variables that set proxies."""
    return ", ".join(name for name in os.environ if name.lower() in NAMES)


def _without_password(proxy: str) -> str:
    """Return a URL without user and password."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
