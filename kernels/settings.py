"""Settings of the palettization of one tensor."""

from dataclasses import dataclass
from math import inf

from palettery.kernels.errors import SettingsError

N_BITS = (1, 2, 3, 4, 6, 8)
LUT_SCHEMES = {
    "int8": ("symmetric", "symmetric_with_clipping", "asymmetric"),
    "uint8": ("symmetric", "symmetric_with_clipping", "asymmetric"),
    "float8_e4m3fn": ("symmetric",),
    "float8_e5m2": ("symmetric",),
}


@dataclass(frozen=True)
class VectorKMeans:
    """Effort of the K-means of vector palettes; settings below the defaults have no effect.

    The names and defaults are those of coreai-opt's `VectorKMeansConfig`.

    Raises:
        SettingsError: a field has a value that is not allowed.
    """

    n_local_trials: int | None = None
    """Candidates for each seed of greedy k-means++, of which at most 256 are used; None for
    2 + log(palette entries)."""
    n_init: int = 5
    """Number of runs with different initial centroids, of which the best is used."""
    max_iter: int = 300
    """Largest number of Lloyd iterations of a run."""
    tol: float = 1e-4
    """Relative decrease of the error by an iteration below which a run has converged."""

    def __post_init__(self) -> None:
        """Check that every field has an allowed value."""
        trials = self.n_local_trials
        _require(trials is None or trials >= 1, "n_local_trials", trials, "None or at least 1")
        _require(self.n_init >= 1, "n_init", self.n_init, "at least 1")
        _require(self.max_iter >= 1, "max_iter", self.max_iter, "at least 1")
        _require(0 <= self.tol < inf, "tol", self.tol, "finite and at least 0")


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
    """Fixed minimum and maximum of the quantized range; None for those of the entries."""
    lut_scale_dtype: str | None = None
    """None, or "float8_e8m0fnu" for power-of-two scales of float8 palettes."""
    sparsity_threshold: float | None = None
    """Share of zeros, 0 to 1, at or above which a weight with zeros is sparse: a mask marks its
    nonzero weights, which alone have indices; vectors are then consecutive nonzero weights of a
    group, in row-major order. None for never."""
    seed: int = 0
    """Seed of the random starts of vector palettes."""
    vector_kmeans: VectorKMeans | None = None
    """Effort of the K-means of vector palettes beyond the default; None for the default alone."""

    def __post_init__(self) -> None:
        """Check that every field has an allowed value."""
        _require(self.n_bits in N_BITS, "n_bits", self.n_bits, f"one of {N_BITS}")
        _require(self.axis in (0, 1), "axis", self.axis, "0 or 1")
        size = self.group_size
        _require(size is None or size >= 1, "group_size", size, "None or at least 1")
        _require(self.cluster_dim >= 1, "cluster_dim", self.cluster_dim, "at least 1")
        decimals = self.rounding_precision
        _require(
            decimals is None or decimals >= 1, "rounding_precision", decimals, "None or at least 1"
        )
        fast_vectors = decimals is not None and self.cluster_dim > 1
        _require(not fast_vectors, "rounding_precision", decimals, "None when cluster_dim > 1")
        threshold = self.sparsity_threshold
        if threshold is not None:
            _require(0 <= threshold <= 1, "sparsity_threshold", threshold, "None or 0 to 1")
            has_groups_across = self.cluster_dim > 1 and self.axis == 1 and size is not None
            _require(
                not has_groups_across,
                "axis",
                1,
                "0 when sparsity_threshold is set and cluster_dim > 1",
            )
        self._check_lut()

    def _check_lut(self) -> None:
        dtype, float_range = self.lut_dtype, self.lut_float_range
        if dtype is None:
            return
        _require(dtype in LUT_SCHEMES, "lut_dtype", dtype, f"None or one of {tuple(LUT_SCHEMES)}")
        schemes = LUT_SCHEMES[dtype]
        _require(self.lut_scheme in schemes, "lut_scheme", self.lut_scheme, f"one of {schemes}")
        float8 = dtype.startswith("float8")
        scales = (None, "float8_e8m0fnu") if float8 else (None,)
        _require(
            self.lut_scale_dtype in scales, "lut_scale_dtype", self.lut_scale_dtype, f"in {scales}"
        )
        if float_range is not None:
            low, high = (0.0 if value is None else value for value in float_range)
            _require(low <= 0 <= high, "lut_float_range", float_range, "[min <= 0, max >= 0]")
            _require(
                None in float_range or low < high, "lut_float_range", float_range, "min below max"
            )


def _require(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise SettingsError(f"{field} is {value!r}; it must be {expected}")
