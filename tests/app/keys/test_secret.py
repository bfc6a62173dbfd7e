"""Secrets: random, recognizable, and stored as digests alone."""

import hashlib

from palettery.app.keys.secret import PATTERN, PREFIX, PREFIX_CHARACTERS, new_secret, secret_sha256


def test_secrets_differ_and_match_their_pattern():
    secrets = {new_secret() for _ in range(100)}
    assert len({secret[:PREFIX_CHARACTERS] for secret in secrets}) == 100
    assert all(PATTERN.fullmatch(secret) and secret.startswith(PREFIX) for secret in secrets)


def test_digest_is_that_of_the_bytes():
    assert secret_sha256("plt_x") == hashlib.sha256(b"plt_x").hexdigest()
    assert len(secret_sha256("\udcff")) == 64
