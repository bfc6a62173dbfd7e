"""The one way kernels are compiled."""

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

from palettery.kernels import machine_code

Kernel = TypeVar("Kernel", bound=Callable[..., object])

machine_code.prepare()


def compiled(kernel: Kernel) -> Kernel:
    """Compile on first call, keep the machine code on disk, run without the GIL.

    Kernels run side by side in a thread pool rather than in numba's own threads: numba's default
    threading layer aborts the process when two Python threads enter it, as Dask workers do.
    """
    return cast(Kernel, njit(cache=True, nogil=True, error_model="numpy")(kernel))


def compiled_for_sums(kernel: Kernel) -> Kernel:
    """Like `compiled`, and the compiler may reorder sums, which lets it use vector instructions.

    The order is fixed at compile time, so results still do not depend on the thread count.
    """
    reordered = {"reassoc", "contract", "nsz"}
    fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=reordered)
    return cast(Kernel, fast(kernel))


def compiled_for_maxima(kernel: Kernel) -> Kernel:
    """Like `compiled_for_sums`, for maxima of numbers: NaN among them may be overlooked."""
    reordered = {"reassoc", "contract", "nsz", "nnan"}
    fast = njit(cache=True, nogil=True, error_model="numpy", fastmath=reordered)
    return cast(Kernel, fast(kernel))


def compiled_inline(kernel: Kernel) -> Kernel:
    """Like `compiled`, for the small functions that other kernels call in their inner loops."""
    inline = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
    return cast(Kernel, inline(kernel))
