"""Errors of the kernels.

PaletteError (ValueError)
├── SettingsError          a setting outside its set
├── WeightError            shape or dtype that cannot be palettized
│   ├── DivisibilityError  group_size or cluster_dim does not divide
│   └── NonFiniteError     NaN or Inf among the weights
├── SensitivityError       wrong shape, negative or NaN
└── DeviceError            a device that is not there
"""


class PaletteError(ValueError):
    """Root of what `palettize` raises on bad input."""


class SettingsError(PaletteError):
    """A setting is outside its allowed set."""


class WeightError(PaletteError):
    """The weight's shape or dtype cannot be palettized."""


class DivisibilityError(WeightError):
    """`group_size` or `cluster_dim` does not divide its axis."""


class NonFiniteError(WeightError):
    """The weight holds NaN or Inf."""


class SensitivityError(PaletteError):
    """The sensitivity has a wrong shape or a value that is negative or not finite."""


class DeviceError(PaletteError):
    """The device asked for is not there."""
