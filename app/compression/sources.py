"""Readers of the inputs of a slice: weights, sensitivities and second moments."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from palettery.app.storage.base import ObjectReader
from palettery.schemas.tasks import StoredRows, TensorSlice, TensorToScore


@dataclass(frozen=True)
class Sources:
    """Readers of the model, its sensitivities and its second moments."""

    model: ObjectReader
    sensitivities: ObjectReader
    second_moments: ObjectReader

    def content_sha256(self, item: TensorSlice | TensorToScore) -> str:
        """Return the SHA-256 of all bytes that a slice or score is computed from."""
        digest = hashlib.sha256()
        for store, rows in self._inputs(item):
            for chunk in store.chunks(rows.path, rows.offset, rows.size_bytes):
                digest.update(chunk)
        return digest.hexdigest()

    def _inputs(
        self, item: TensorSlice | TensorToScore
    ) -> Iterator[tuple[ObjectReader, StoredRows]]:
        yield self.model, item
        if item.sensitivity is not None:
            yield self.sensitivities, item.sensitivity
        if isinstance(item, TensorSlice) and item.second_moment is not None:
            yield self.second_moments, item.second_moment


def read_rows(store: ObjectReader, rows: StoredRows | None) -> memoryview:
    """Return the bytes of stored rows; no bytes for None."""
    return store.read(rows.path, rows.offset, rows.size_bytes) if rows else memoryview(b"")
