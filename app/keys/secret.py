"""Secrets of API keys, and their digests for storage."""

import hashlib
import re
import secrets

PREFIX = "plt_"
"""Prefix of every secret, so that secret scanners recognize it."""
SECRET_BYTES = 32
"""Random bytes of a secret."""
PREFIX_CHARACTERS = 12
"""First characters that lists of keys show: enough to tell keys apart, too few to guess one."""
PATTERN = re.compile(r"plt_[\w-]{43}", re.ASCII)


def new_secret() -> str:
    """Return a random secret of 256 bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def secret_sha256(secret: str) -> str:
    """Return the digest of a secret; secrets are random, so it needs no salt or slow hash."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
