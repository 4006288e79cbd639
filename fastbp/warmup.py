"""Compiling ahead of time."""

from collections.abc import Callable, Sequence
from typing import Any

from fastbp import kernels, machine
from fastbp.kernels import jit
from fastbp.workspace import SMALL_WIDTH

INDICES = "int32"  # scipy's, unless a matrix is very large


def kernels_for(dtypes: Sequence[str]) -> list[tuple[jit.Kernel, str, int]]:
    """Every kernel with its types and the bytes of its vectors, for training, predicting and profiling.

    Parameters
    ----------
    dtypes : sequence of str

    Returns
    -------
    list of (Kernel, str, int)
    """
    width = jit.native_width()
    result = []
    for dtype in dtypes:
        for narrow, wide in (kernels.TRAIN, kernels.FORWARD, kernels.MARKED):
            result += [(narrow, dtype, one) for one in dict.fromkeys((width, min(width, SMALL_WIDTH)))]
            result += [(wide, types, width) for types in (dtype, f"{dtype}-{INDICES}")[: 1 if wide.marked else 2]]
        result += [(kernel, dtype, width) for kernel in (machine.SPIN, machine.APPLY)]
    return [*result, (machine.READ, "float32", width)]


def warm(some: Sequence[tuple[jit.Kernel, str, int]], progress: Callable[[int], Any] | None = None) -> int:
    """Compile what is not on disk yet.

    Parameters
    ----------
    some : sequence of (Kernel, str, int)
    progress : callable, optional
        Called with the number of kernels that are done.

    Returns
    -------
    int
        How many were compiled.
    """
    compiled = 0
    for number, (kernel, types, width) in enumerate(some, 1):
        compiled += jit.read_object(kernel.file(types, width)) is None
        kernel.loaded(types, width)
        if progress is not None:
            progress(number)
    return compiled
