"""Decorators that compile kernels with numba."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

from palettery.kernels import kernel_cache

Kernel = TypeVar("Kernel", bound=Callable[..., object])

kernel_cache.configure()


def compiled(kernel: Kernel) -> Kernel:
    """Compile on first call, cache the machine code on disk, run without the GIL.

    Kernels run side by side in a thread pool rather than in numba's own threads: numba's default
    threading layer aborts the process when two Python threads enter it, as Dask workers do.
    """
    return cast(Kernel, njit(cache=True, nogil=True, error_model="numpy")(kernel))


def compiled_for_sums(kernel: Kernel) -> Kernel:
    """Compile like `compiled`, but let the compiler reorder sums to use vector instructions.

    The order is fixed at compile time, so results do not depend on the number of threads.
    """
    flags = {"reassoc", "contract", "nsz"}
    fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)
    return cast(Kernel, fast(kernel))


def compiled_for_maxima(kernel: Kernel) -> Kernel:
    """Compile like `compiled_for_sums`, and let maxima ignore NaN."""
    flags = {"reassoc", "contract", "nsz", "nnan"}
    fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)
    return cast(Kernel, fast(kernel))


def compiled_inline(kernel: Kernel) -> Kernel:
    """Compile like `compiled`, but inline the function into the kernels that call it."""
    inline = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
    return cast(Kernel, inline(kernel))
