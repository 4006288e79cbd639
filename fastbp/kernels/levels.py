"""Levels: what a processor must be able to do to run the machine code that was made for it.

Machine code is made for a level and not for one processor, so that every processor of a level runs the same instructions and
gives the same bits. x86-64-v3 and x86-64-v4 are those of the x86-64 psABI; where a processor has none of the levels above
it, the base of its kind is left, which nothing comes compiled for.
"""

import functools
import importlib
import os
import platform
import sys
import threading
from typing import Any, NamedTuple

from fastbp.background import Ahead

# Whoever asks LLVM, compiles, links or speaks of vectors holds it: LLVM and the words of `fastbp.kernels.jit` are one for
# all threads. Whoever waits for numba's own lock holds this one already.
BUILDING = threading.RLock()


class Level(NamedTuple):
    """A kind of processor, as LLVM names it, with its vectors."""

    name: str
    machine: str  # as `machine` says it
    cpu: str = "generic"
    tuning: str = ""  # LLVM's features beyond those of the cpu
    needs: frozenset[str] = frozenset()  # features that a processor of this level has
    vector_bytes: int = 16
    registers: int = 32  # that hold a vector


AVX2 = frozenset({"avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# the highest ones first; LLVM would split vectors of 64 bytes of x86-64-v4 by itself
LEVELS = (
    Level("x86-64-v4", "x86_64", "x86-64-v4", "-prefer-256-bit", AVX512, 64),
    Level("x86-64-v3", "x86_64", "x86-64-v3", "", AVX2, 32, 16),
    Level("x86-64", "x86_64", "x86-64", registers=16),
    Level("aarch64", "aarch64", tuning="+neon"),
)


def machine() -> str:
    """The kind of this processor: "x86_64", "aarch64" or another word of the system's."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@functools.cache
def level() -> Level:
    """The level that kernels are compiled for: the one that FASTBP_LEVEL names, else the highest that this processor has.

    Raises
    ------
    ValueError
        If FASTBP_LEVEL is none of the levels.
    """
    chosen = os.environ.get("FASTBP_LEVEL")
    if chosen:
        for one in LEVELS:
            if one.name == chosen:
                return one
        raise ValueError(f"FASTBP_LEVEL must be one of {', '.join(one.name for one in LEVELS)}, got {chosen!r}")
    fitting = [one for one in LEVELS if not lacking(one)]
    return fitting[0] if fitting else Level(machine(), machine())


def lacking(one: Level) -> str:
    """What keeps this processor from running code of a level; "" if nothing does."""
    if one.machine != machine():
        return f"is {machine()} and not {one.machine}"
    missing = sorted(one.needs - host_features()) if one.needs else []
    return f"has no {', '.join(missing)}" if missing else ""


def load_llvm() -> Any:
    """LLVM's binding, imported in another thread: what a signal's handler breaks off cannot always be imported again."""
    spec = getattr(sys.modules.get("llvmlite.binding"), "__spec__", None)
    if getattr(spec, "_initializing", True):
        Ahead(importlib.import_module, "llvmlite.binding").result()
    return sys.modules["llvmlite.binding"]


def host_features() -> set[str]:
    """What this processor offers, in LLVM's words."""
    with BUILDING:
        return {name for name, has in load_llvm().get_host_cpu_features().items() if has}


@functools.cache
def halves_vectors() -> bool:
    """Whether this processor takes each operation on 64 bytes in two halves, as Zen 4 does."""
    if level().vector_bytes < 64:
        return False
    with BUILDING:
        return load_llvm().get_host_cpu_name() == "znver4"
