"""Compiling ahead of time."""

from collections.abc import Callable, Sequence
from typing import Any

from fastbp import kernels
from fastbp.kernels import jit, objects
from fastbp.profiling import machine
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
        for kernel in (*kernels.TRAIN, *kernels.FORWARD, *kernels.MARKED):
            types, widths = [dtype], [width]
            if kernel.module == "narrow":  # which has code for short batches, too
                widths = list(dict.fromkeys((width, min(width, SMALL_WIDTH))))
            if kernel.module == "wide" and not kernel.marked:
                types.append(f"{dtype}-{INDICES}")
            result += [(kernel, one, bytes_) for one in types for bytes_ in widths]
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
        compiled += objects.read_object(kernel.file(types, width)) is None
        kernel.loaded(types, width)
        if progress is not None:
            progress(number)
    return compiled
