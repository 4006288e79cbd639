"""What this machine is, and what it can do at best: the ceilings that the speed of a training is a fraction of.

Every ceiling is the best of many short repeats: whatever else runs on a machine only ever adds time. How far the median of
the repeats lies below the best says how much was going on meanwhile.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import background
from fastbp.kernels import APPLY, READ, SPIN, jit, objects
from fastbp.kernels.ceilings import STREAMS, SUMS
from fastbp.kernels.levels import level
from fastbp.kernels.pointwise import FUNCTIONS
from fastbp.layout import ALIGNMENT_BYTES, aligned_zeros
from fastbp.training import usable_threads

# Of one repeat: far longer than starting it, on one core or on several together, and far shorter than a time slice.
REPEAT_SECONDS, REPEAT_SECONDS_TOGETHER = 1.5e-4, 2e-3
ARRIVAL_SECONDS = 1.0  # for which a thread waits for the others: where there are too few, they work one after the other
REPEATS, REPEATS_TOGETHER = 100, 12
MEMORY_REPEATS = 3
CALIBRATIONS = 3
ELEMENTS = 2048  # of an activation's input: with its output within the L1 cache
# Where the system does not say how large its caches are.
USUAL_L2, USUAL_L3 = 512 * 1024, 32 * 1024**2
MOST_BYTES = 192 * 1024**2  # read from memory


@dataclass(frozen=True)
class Ceiling:
    """The best of some repeats, and by which part of it their median was lower."""

    best: float
    spread: float


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at best, by float type or level of memory, and by number of cores or function."""

    peak_gflops: dict[str, dict[int, Ceiling]]  # fused multiply-adds of vectors in registers, two operations each
    # loaded and added up: half of each core's L2 cache, arrays that only the L3 cache holds, and some that no cache does
    read_gbs: dict[str, dict[int, Ceiling]]
    pointwise_ns: dict[str, dict[str, Ceiling]]  # of an element on one core, from and to the L1 cache
    seconds: float  # that measuring took

    def best(self, what: str, threads: int) -> float:
        """GFLOP/s in a float type, or GB/s from a level, of so many threads, as far as there are cores for them."""
        by_cores = (self.peak_gflops | self.read_gbs)[what]
        return max(ceiling.best for cores, ceiling in by_cores.items() if cores <= max(threads, min(by_cores)))


def ceilings(dtypes: Sequence[str], cores: Sequence[int]) -> Ceilings:
    """Measure on these numbers of cores; about half a second, the first time compiling apart."""
    if not jit.PLAIN_PYTHON:
        for kernel, dtype in ((READ, "float32"), *[(kernel, dtype) for dtype in dtypes for kernel in (SPIN, APPLY)]):
            kernel.loaded(dtype, jit.native_width())
    start = time.perf_counter()
    peak = {dtype: {count: peak_gflops(dtype, count) for count in cores} for dtype in dtypes}
    large = aligned_zeros(bytes_beyond_caches() // 4 // ALIGNMENT_BYTES * ALIGNMENT_BYTES, np.float32)
    large[:] = 1  # pages of zeros may all be one in memory
    l2, l3 = cache_bytes(2), cache_bytes(3)
    reads: dict[str, dict[int, Ceiling]] = {"L2": {}, "L3": {}, "memory": {}}
    for count in cores:
        # a core reads its own part of the L2 caches, and of what they all do not hold together
        for memory, size in (("L2", l2 // 2 * count), ("L3", min(4 * l2 * count, max(l3 // 2, l2 * count)))):
            reads[memory][count] = read_gbs(large[: size // large.itemsize], count, REPEATS)
        reads["memory"][count] = read_gbs(large, count, MEMORY_REPEATS)
    pointwise = {dtype: pointwise_ns(dtype) for dtype in dtypes}
    return Ceilings(peak, reads, pointwise, time.perf_counter() - start)


def peak_gflops(dtype: str, cores: int) -> Ceiling:
    """Fused multiply-adds on some cores at the same time."""
    lanes = jit.native_width() // np.dtype(dtype).itemsize
    memories = [aligned_zeros(SUMS * lanes, dtype) for _ in range(cores)]
    for memory in memories:
        memory[:] = np.linspace(1e-3, 2e-3, memory.size)
    return best([ready(SPIN, memory) for memory in memories], 2e-9 * SUMS * lanes, REPEATS)


def read_gbs(array: np.ndarray, cores: int, repeats: int) -> Ceiling:
    """Adding up an array of float32, of which each core has a part of its own."""
    group = jit.native_width() * STREAMS // array.itemsize
    groups = max(1, len(array) // cores // group)
    parts = [array[rank * groups * group :][: groups * group] for rank in range(cores)]
    calls = [ready(READ, part, groups, aligned_zeros(group, array.dtype)) for part in parts]
    return best(calls, 1e-9 * groups * group * array.itemsize, repeats)


def pointwise_ns(dtype: str) -> dict[str, Ceiling]:
    """Every activation, derivative, exponential and logarithm."""
    lanes = jit.native_width() // np.dtype(dtype).itemsize
    # not a multiple of 4 KiB apart, where a load is taken for one that depends on an earlier store
    both = aligned_zeros(2 * ELEMENTS + 8 * lanes, dtype)
    x, out = both[:ELEMENTS], both[ELEMENTS + 8 * lanes :]
    x[:] = np.linspace(0.01, 0.99, ELEMENTS)
    calls = [ready(APPLY, code, x, ELEMENTS, out) for code in range(len(FUNCTIONS))]
    per_ns = [best([call], 1e-9 * ELEMENTS, REPEATS // 4) for call in calls]
    return {function.__name__: Ceiling(1 / one.best, one.spread) for function, one in zip(FUNCTIONS, per_ns, strict=True)}


def ready(kernel: jit.Kernel, *args: Any) -> Callable[[int], Any]:
    """A function of the kernel's last argument, which is called with nothing looked up on the way."""
    width = jit.native_width()
    if jit.PLAIN_PYTHON:
        return lambda amount: kernel(*args, amount, width=width)
    call = kernel.prepare((*args, 1), width)
    return lambda amount: call(kernel.packed(*args, amount), 0, 1)


def best(calls: list[Callable[[int], Any]], unit: float, repeats: int) -> Ceiling:
    """What call(amount) does of `unit` per second, in sum over a core for each call."""
    amount, seconds = repeated(calls, repeats)
    return Ceiling(unit * amount * len(calls) / min(seconds), 1 - min(seconds) / statistics.median(seconds))


def repeated(calls: list[Callable[[int], Any]], repeats: int, least: float | None = None) -> tuple[int, list[float]]:
    """Call each on a core of its own at the same time; the amount that takes about `least` seconds, and all times."""
    amount = 1
    if least is None:
        least = REPEAT_SECONDS if len(calls) == 1 else REPEAT_SECONDS_TOGETHER
        repeats = repeats if len(calls) == 1 else min(repeats, REPEATS_TOGETHER)
    # the fastest of a few: one that was interrupted says nothing about how much is enough
    while (seconds := min(once(calls[:1], amount) for _ in range(CALIBRATIONS))) < least / 2:
        amount = max(amount * 2, int(amount * 0.7 * least / max(seconds, 1e-9)))
    return amount, [once(calls, amount) for _ in range(repeats)]


def once(calls: list[Callable[[int], Any]], amount: int) -> float:
    """Seconds from the first core's start to the last one's end."""
    if len(calls) == 1:
        start = time.perf_counter()
        calls[0](amount)
        return time.perf_counter() - start
    arrived: list[Any] = []
    halt: list[int] = []
    latest = time.perf_counter() + ARRIVAL_SECONDS

    def run(call: Callable[[int], Any]) -> tuple[float, float]:
        arrived.append(call)
        while len(arrived) < len(calls) and not halt and time.perf_counter() < latest:
            time.sleep(0)
        start = time.perf_counter()
        call(amount)
        return start, time.perf_counter()

    starts, ends = zip(*background.each(run, calls, len(calls), halt), strict=True)
    return max(ends) - min(starts)


# ---- what it is ------------------------------------------------------------------------------------------------------


def cache_bytes(level: int) -> int:
    """Size of the cache of one level as the first core sees it, or a usual one where the system does not say."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            if int((index / "level").read_text()) == level:
                size = (index / "size").read_text().strip()
                return int(size[:-1]) * {"K": 1024, "M": 1024**2, "G": 1024**3}[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return USUAL_L2 if level == 2 else USUAL_L3


def bytes_beyond_caches() -> int:
    """A size that is read from memory for the most part, and that leaves enough of it to others."""
    free = MOST_BYTES * 8
    if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(cache_bytes(2) * 4, min(2 * cache_bytes(3), MOST_BYTES, free // 8))


def processor_name() -> str:
    """What the processor calls itself."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, where they are installed."""
    from fastbp import __version__

    found = {"fastbp": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "scikit-learn", "scipy", "torch", "jax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cache_contents() -> dict[str, Any]:
    """The folder of the kernels' machine code, and what is in all folders that are looked at."""
    folders = objects.cache_folders()
    files = [file for folder in folders for file in folder.glob("*.o")]
    current = [file for file in files if str(jit.digest()) in file.name]
    used = next((folder for folder in folders if jit.digest() and writable(folder)), None)
    return {
        "folder": None if used is None else str(used),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "current_files": len(current),
        "came_compiled": sum(name.endswith(f".{level().name}.o") for name in objects.shipped()),
    }


def writable(folder: Path) -> bool:
    """Whether machine code can be kept in a folder, or the folder itself can be made."""
    exists = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        return exists.is_dir() and os.access(objects.trusted(folder) if exists == folder else exists, os.W_OK)
    except OSError:
        return False


def facts() -> dict[str, Any]:
    """What fastbp runs on, for bug reports and for reading figures."""
    import llvmlite.binding as llvm
    import scipy.linalg  # noqa: F401  threadpoolctl sees only what is loaded
    from threadpoolctl import threadpool_info

    blas = {
        f"{Path(pool['filepath']).parent.name.removesuffix('.libs')}: {pool['internal_api']} {pool.get('version')}, "
        f"{pool.get('architecture', 'unknown kernel')}"
        for pool in threadpool_info() if pool["user_api"] == "blas"
    }  # fmt: skip
    return {
        "versions": versions(),
        "processor": processor_name(),
        "processors": usable_threads(-1),
        "level": level().name,
        "target": llvm.get_host_cpu_name(),
        "vector_bytes": jit.native_width(),
        "threads": "its own, which wait for each other in the kernels; 1 unless n_jobs asks for more",
        "caches": {"L2": cache_bytes(2), "L3": cache_bytes(3)},
        "cache": cache_contents(),
        "blas": sorted(blas),  # libraries of numpy and scipy, and for which processor each picked its code
    }
