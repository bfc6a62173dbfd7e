"""Secrets of keys: what callers send, and what of it is kept."""

import hashlib
import re
import secrets

PREFIX = "plt_"
"""So that a secret is known for one wherever it turns up."""
SECRET_BYTES = 32
PREFIX_CHARACTERS = 12
"""First characters that lists of keys show: enough to tell keys apart, far too few to guess one."""
PATTERN = re.compile(r"plt_[\w-]{43}", re.ASCII)


def new_secret() -> str:
    """A secret that nobody can guess: 256 bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def secret_sha256(secret: str) -> str:
    """What is kept of a secret. It is random as a whole, so that no salt or slow hash is needed."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
