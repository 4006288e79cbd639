"""Compiling ahead of time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from joblib import Parallel, delayed

from fastbp import kernels
from fastbp.kernels import jit, objects
from fastbp.training import usable_threads
from fastbp.workspace import SMALL_WIDTH

One: TypeAlias = tuple[jit.Kernel, str, int]  # with its types and the bytes of its vectors


def kernels_for(dtypes: Sequence[str]) -> list[One]:
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
            if kernel.module == "wide":  # which reads sparse matrices
                types += [f"{dtype}-{indices}" for indices in ("int32", "int64")]
            result += [(kernel, one, bytes_) for one in types for bytes_ in widths]
        result += [(kernel, dtype, width) for kernel in (*kernels.MANY, kernels.SPIN, kernels.APPLY)]
    untyped = kernels.pool.LEAD, kernels.pool.FOLLOW, kernels.SHUFFLE, kernels.count_marks
    result += [(kernel, "", width) for kernel in untyped]
    return [*result, (kernels.READ, "float32", width)]


def warm(some: Sequence[One], progress: Callable[[int], Any] | None = None) -> int:
    """Compile what is not on disk yet, on all processors.

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
    missing = [one for one in some if objects.read_object(one[0].file(*one[1:]), jit.digest()) is None]
    for number, ((kernel, *types), code, seconds) in enumerate(compiled(missing), 1):
        objects.write_object(kernel.file(*types), jit.digest(), code, seconds)
        if progress is not None:
            progress(len(some) - len(missing) + number)
    return len(missing)


def compiled(some: Sequence[One]) -> Iterator[tuple[One, bytes, float]]:
    """Each of these kernels with its object code and the seconds of compiling, in the order in which they are ready."""
    workers = Parallel(n_jobs=min(usable_threads(-1), max(1, len(some))), return_as="generator_unordered")
    return workers(delayed(compile_one)(one) for one in some)


def compile_one(one: One) -> tuple[One, bytes, float]:
    """A kernel with its object code and the seconds of compiling."""
    kernel, types, width = one
    return one, *kernel.compile(types, width)


def ship(folder: str) -> None:
    """Put every kernel's object file for the level into a folder, as it comes with the package."""
    for (kernel, *types), code, seconds in compiled(kernels_for(("float32", "float64"))):
        name = kernel.file(*types)
        Path(folder, f"{name}.o").write_bytes(objects.packed(name, jit.digest(), code, seconds))
