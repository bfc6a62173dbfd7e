"""Errors of the kernels.

PaletteError (ValueError)
├── SettingsError          a setting has a value that is not allowed
├── WeightError            shape or dtype that cannot be palettized
│   ├── DivisibilityError  group_size or cluster_dim does not divide
│   └── NonFiniteError     NaN or Inf among the weights
├── SensitivityError       wrong shape, negative or NaN
├── SecondMomentError      wrong shape, not symmetric, not finite or not positive semidefinite
└── DeviceError            a device that is not available
"""


class PaletteError(ValueError):
    """Base class of the errors that `palettize` raises on invalid input."""


class SettingsError(PaletteError):
    """A setting has a value that is not allowed."""


class WeightError(PaletteError):
    """The weight's shape or dtype cannot be palettized."""


class DivisibilityError(WeightError):
    """`group_size` or `cluster_dim` does not divide its axis."""


class NonFiniteError(WeightError):
    """The weight contains NaN or Inf."""


class SensitivityError(PaletteError):
    """The sensitivity has a wrong shape or a value that is negative or not finite."""


class SecondMomentError(PaletteError):
    """The second moment has a wrong shape, or is not finite, symmetric or positive semidefinite."""


class DeviceError(PaletteError):
    """The requested device is not available."""
