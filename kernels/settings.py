"""Settings of the palettization of one tensor."""

from dataclasses import dataclass

from palettery.kernels.errors import SettingsError

N_BITS = (1, 2, 3, 4, 6, 8)
LUT_SCHEMES = {
    "int8": ("symmetric", "symmetric_with_clipping", "asymmetric"),
    "uint8": ("symmetric", "symmetric_with_clipping", "asymmetric"),
    "float8_e4m3fn": ("symmetric",),
    "float8_e5m2": ("symmetric",),
}


@dataclass(frozen=True)
class PaletteSettings:
    """Settings of `palettize`; every field except `n_bits` has a default.

    Raises:
        SettingsError: a field has a value that is not allowed.
    """

    n_bits: int
    """Bits per index; a palette has 2**n_bits entries."""
    axis: int = 0
    """Channel axis along which groups are cut: 0 or 1."""
    group_size: int | None = None
    """Channels that share one palette; None for one palette per tensor."""
    cluster_dim: int = 1
    """Weights per palette entry, taken along axis 0."""
    per_channel_scale: bool = False
    """Cluster `w / max|w|` of each output channel, and multiply back."""
    rounding_precision: int | None = None
    """Decimals to which fast mode rounds values before clustering; None turns fast mode off."""
    lut_dtype: str | None = None
    """Dtype of quantized palettes: "int8", "uint8", "float8_e4m3fn" or "float8_e5m2"; None for
    palettes in the weight's dtype."""
    lut_scheme: str = "symmetric"
    """Quantization scheme of integer palettes, one of `LUT_SCHEMES`."""
    lut_float_range: tuple[float | None, float | None] | None = None
    """Fixed ends of the quantized range; None for those of the entries."""
    lut_scale_dtype: str | None = None
    """None, or "float8_e8m0fnu" for power-of-two scales of float8 palettes."""
    seed: int = 0
    """Seed of the random starts of vector palettes."""

    def __post_init__(self) -> None:
        """Check that every field has an allowed value."""
        _check(self.n_bits in N_BITS, "n_bits", self.n_bits, f"one of {N_BITS}")
        _check(self.axis in (0, 1), "axis", self.axis, "0 or 1")
        size = self.group_size
        _check(size is None or size >= 1, "group_size", size, "None or at least 1")
        _check(self.cluster_dim >= 1, "cluster_dim", self.cluster_dim, "at least 1")
        decimals = self.rounding_precision
        _check(
            decimals is None or decimals >= 1, "rounding_precision", decimals, "None or at least 1"
        )
        fast_vectors = decimals is not None and self.cluster_dim > 1
        _check(not fast_vectors, "rounding_precision", decimals, "None when cluster_dim > 1")
        self._check_lut()

    def _check_lut(self) -> None:
        dtype, ends = self.lut_dtype, self.lut_float_range
        if dtype is None:
            return
        _check(dtype in LUT_SCHEMES, "lut_dtype", dtype, f"None or one of {tuple(LUT_SCHEMES)}")
        schemes = LUT_SCHEMES[dtype]
        _check(self.lut_scheme in schemes, "lut_scheme", self.lut_scheme, f"one of {schemes}")
        float8 = dtype.startswith("float8")
        scales = (None, "float8_e8m0fnu") if float8 else (None,)
        _check(
            self.lut_scale_dtype in scales, "lut_scale_dtype", self.lut_scale_dtype, f"in {scales}"
        )
        if ends is not None:
            low, high = (0.0 if end is None else end for end in ends)
            _check(low <= 0 <= high, "lut_float_range", ends, "[min <= 0, max >= 0]")
            _check(None in ends or low < high, "lut_float_range", ends, "min below max")


def _check(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise SettingsError(f"{field} is {value!r}; it must be {expected}")
