"""Each kernel is compiled once for all tests, which would else spend most of their time on it.

Two processes compile what most tests need before tests begin side by side, and the machine code's text is kept beside the
object file, for the tests that read it.
"""

import os
import pathlib
import subprocess
import sys
import time

from fastbp.kernels import jit

FOLDER = os.environ.get("NUMBA_CACHE_DIR")
ASSEMBLY = jit.Kernel.assembly


def text_of(kernel, dtype, width):
    """Where the text of a kernel is kept; None for one that is not the package's, or of a test with a cache of its own."""
    if not FOLDER or type(kernel) is not jit.Kernel or os.environ.get("NUMBA_CACHE_DIR") != FOLDER:
        return None
    return pathlib.Path(FOLDER) / "fastbp-tests" / f"{kernel.file(dtype, width)}.{jit.digest()}.s"


def compile_and_keep_text(kernel, dtype, width):
    start = time.perf_counter()
    module, target = kernel.optimised(dtype, width)
    path = text_of(kernel, dtype, width)
    if path and "-" not in dtype:  # no test reads the others'
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_text(target.emit_assembly(module), encoding="utf-8")
        whole.replace(path)
    return target.emit_object(module), time.perf_counter() - start


def assembly(kernel, dtype, width=64):
    path = text_of(kernel, dtype, width)
    if not path:
        return ASSEMBLY(kernel, dtype, width)
    if not path.exists():
        compile_and_keep_text(kernel, dtype, width)
    return path.read_text(encoding="utf-8")


def share():
    """Let all kernels of this process do so."""
    jit.Kernel.compile, jit.Kernel.assembly = compile_and_keep_text, assembly


def compile_all():
    """Compile the kernels of each float type in a process; what cannot be compiled is for the tests to say."""
    if FOLDER:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
        command = [sys.executable, "-m", "once"]
        for running in [subprocess.Popen([*command, dtype], env=environment) for dtype in ("float32", "float64")]:
            running.wait()


if __name__ == "__main__":
    from fastbp.warmup import kernels_for

    share()
    for kernel, types, width in kernels_for(sys.argv[1:]):
        if "int64" not in types and not (kernel.marked and "int32" in types):  # which few tests need
            kernel.loaded(types, width)
