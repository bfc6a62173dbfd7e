"""Row-major bytes of tensors with any strides."""

import ml_dtypes
import numpy as np
import pytest

from palettery.app.checkpoints import dense
from palettery.app.storage.open import open_storage
from palettery.schemas.checkpoint import StoredTensor

WHOLE = np.arange(7 * 12, dtype=np.float32).reshape(7, 12)
VIEWS = {
    "as it is": WHOLE,
    "transposed": WHOLE.T,
    "gaps": WHOLE[::2, 1:9:3],
    "one row": WHOLE[2:3, ::4],
    "half": WHOLE.astype(np.float16).T,
    "bfloat16": WHOLE.astype(ml_dtypes.bfloat16).T,
    "complex": (WHOLE + 1j).astype(np.complex64).T,
    "bool": (WHOLE % 3 == 0).T,
    "folded": np.moveaxis(WHOLE.reshape(7, 3, 4), 0, 1),
}
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "bool": "BOOL"}


@pytest.mark.parametrize("chunk_bytes", [1, 50, 1 << 20])
@pytest.mark.parametrize("kind", VIEWS)
def test_bytes_are_row_major(tmp_path, monkeypatch, kind, chunk_bytes):
    monkeypatch.setattr(dense, "CHUNK_BYTES", chunk_bytes)
    view = VIEWS[kind]
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
    offset = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    strides = tuple(step // view.itemsize for step in view.strides)
    last = sum((n - 1) * s for n, s in zip(view.shape, strides, strict=True))
    (tmp_path / "m").write_bytes(b"head" + base.tobytes())
    tensor = StoredTensor(
        name="t",
        dtype=NAMES[view.dtype.name],
        shape=view.shape,
        strides=None if view.flags.c_contiguous else strides,
        file=0,
        offset=4 + offset,
        size_bytes=(last + 1) * view.itemsize,
    )
    data = b"".join(dense.dense_chunks(open_storage(tmp_path.as_uri()), "m", tensor))
    assert data == view.tobytes()
    assert len(data) == dense.dense_size_bytes(tensor)
