"""Each kernel is compiled once for all tests, which would else spend most of their time on it.

Processes that run tests side by side wait for each other's compiling, and the machine code's text is kept beside the object
file, for the tests that read it.
"""

import contextlib
import os
import pathlib

from fastbp.kernels import jit

FOLDER = os.environ.get("NUMBA_CACHE_DIR")
COMPILE, LOADED, ASSEMBLY = jit.Kernel.compile, jit.Kernel.loaded, jit.Kernel.assembly


def is_shared(kernel):
    """Whether it is one of the package's, and not in a test that has a cache of its own."""
    return FOLDER and type(kernel) is jit.Kernel and os.environ.get("NUMBA_CACHE_DIR") == FOLDER


def beside(kernel, dtype, width, suffix):
    folder = pathlib.Path(FOLDER) / "fastbp-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (kernel.file(dtype, width) + suffix)


@contextlib.contextmanager
def alone(path):
    """Be the only process that is here."""
    try:
        import fcntl
    except ImportError:  # then some kernels are compiled twice
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compile_and_keep_text(kernel, dtype, width):
    library, symbol = COMPILE(kernel, dtype, width)
    if is_shared(kernel) and "-" not in dtype:  # no test reads the others'
        path = beside(kernel, dtype, width, ".s")
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(library.get_asm_str(), encoding="utf-8")
        whole.replace(path)
    return library, symbol


def loaded(kernel, dtype, width):
    if not is_shared(kernel) or (dtype, width) in kernel._calls:
        return LOADED(kernel, dtype, width)
    with alone(beside(kernel, dtype, width, ".lock")):
        return LOADED(kernel, dtype, width)


def assembly(kernel, dtype, width=64):
    if not is_shared(kernel):
        return ASSEMBLY(kernel, dtype, width)
    kernel.loaded(dtype, width)  # compiles for those who call it, too
    path = beside(kernel, dtype, width, ".s")
    if not path.exists():
        compile_and_keep_text(kernel, dtype, width)
    return path.read_text(encoding="utf-8")


def share():
    """Let all kernels of this process do so."""
    jit.Kernel.compile, jit.Kernel.loaded, jit.Kernel.assembly = compile_and_keep_text, loaded, assembly
