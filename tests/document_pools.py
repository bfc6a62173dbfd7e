"""Document pools for tests that run an event loop of their own for each call."""

import os

from palettery.app.sandbox.document_pool import DocumentPool
from palettery.app.settings import Limits


class PoolPerCall:
    """A real pool for each call, as processes belong to the event loop that they answer to.

    They see the environment of the test, and not that in which the first of them was started.
    """

    def __init__(self, limits=None):
        self._limits = limits or Limits()

    async def run(self, client, size_bytes, function, *args, **kwargs):
        pool, here = DocumentPool(self._limits), dict(os.environ)
        try:
            return await pool.run(client, size_bytes, within, here, function, *args, **kwargs)
        finally:
            await pool.close()

    document = run


def within(environment, function, *args, **kwargs):
    os.environ.update(environment)
    return function(*args, **kwargs)
