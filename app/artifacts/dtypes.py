"""safetensors dtype names as numpy dtypes."""

import numpy as np

from palettery.app.checkpoints.dtypes import DTYPES

NUMPY: dict[str, np.dtype[np.generic]] = {
    name: dtype.numpy for name, dtype in DTYPES.items() if dtype.numpy is not None
}
NAMES: dict[np.dtype[np.generic], str] = {dtype: name for name, dtype in NUMPY.items()}
