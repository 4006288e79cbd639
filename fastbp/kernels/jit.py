"""How machine code is found, loaded and called.

A `Kernel` is an entry point: a function of one of the kernel modules. Its first call looks for machine code that came with
the package or is kept in a folder, and only if there is none imports numba and the module, compiles the function
(`fastbp.kernels.building`) and keeps the object file. A file is loaded through llvmlite, without numba, whose import would
take several times as long as everything else that a short training needs.
"""

import ctypes
import functools
import hashlib
import importlib.resources
import logging  # noqa: F401, see at `register_at_fork`
import operator
import os
import re
import struct
import sys
import time

import numpy as np

from fastbp.kernels.levels import BUILDING, lacking, level, load_llvm
from fastbp.kernels.objects import SYMBOL, read_object, write_object

# Numba's own switch: the kernels run as plain Python on numpy arrays.
PLAIN_PYTHON = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
# Bytes of a vector in the vocabulary of `fastbp.kernels.vectors`, while a kernel is compiled or run as plain Python.
vector_bytes = 64
# Whether marks count time meanwhile (`fastbp.kernels.phases`); otherwise they are no instructions at all.
marks = False
# A fork goes on after so long where whoever compiles waits for the one that forks.
FORK_SECONDS = 60
engines: list = []  # what owns machine code, and lives as long as the process
listeners: list = []  # functions that are told "compiling" when it begins, and "" when it is over
# Symbols under which kernels call the system's function that gives the rest of a time slice away, and Python's for locks,
# which need no interpreter.
YIELD, ACQUIRE, RELEASE = "fastbp_yield", "fastbp_acquire", "fastbp_release"
# Kernels for vectors of so many bytes and so many registers of them, as in "16x32", instead of the processor's own. Every
# processor can run all of them, if slowly: so tests see here what would happen elsewhere.
OTHER_VECTORS = os.environ.get("FASTBP_VECTORS")


def other_vectors():
    """Bytes and registers of OTHER_VECTORS."""
    if not re.fullmatch("(16|32|64)x(16|32)", OTHER_VECTORS or ""):
        raise ValueError(f"FASTBP_VECTORS must be bytes and registers, as in '16x32', got {OTHER_VECTORS!r}")
    return tuple(map(int, OTHER_VECTORS.split("x")))


def registers():
    """Vector registers of the level."""
    if OTHER_VECTORS:
        return other_vectors()[1]
    return 32 if PLAIN_PYTHON else level().registers


def native_width():
    """Bytes of a vector register."""
    if OTHER_VECTORS:
        return other_vectors()[0]
    return 64 if PLAIN_PYTHON else level().vector_bytes


def level_name():
    """Of the level whose code runs here; None for plain Python."""
    return None if PLAIN_PYTHON else level().name


def has_avx512():
    """Whether lanes pick numbers from a table in registers: with AVX-512."""
    return native_width() == 64 and (PLAIN_PYTHON or level().vector_bytes == 64)


def tile_shape():
    """Rows and columns of the largest register tile: as many sums as leave room for their factors."""
    return (6, 4) if registers() == 32 else (4, 3)


@functools.cache
def digest():
    """Hex digest of all that decides the machine code but the kernel and its types; None if not all of it is known."""
    try:
        facts = sys.platform, level().name, OTHER_VECTORS, sources()
    except Exception:  # loaders of all kinds fail in all kinds of ways
        return None
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def sources():
    """Names and digests of the files that are compiled, which may stand in a zip file, and may be bytecode."""
    package = importlib.resources.files("fastbp")
    files = [file for file in (package / "kernels").iterdir() if file.name.endswith((".py", ".pyc"))]
    files += [file for file in package.iterdir() if file.name.split(".")[0] in ("layout", "rule")]
    if not {"jit", "layout", "rule"} <= {file.name.split(".")[0] for file in files}:
        raise FileNotFoundError(f"no sources in {package}")
    return sorted((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)


def link(code):
    """Address of the kernel of an object file, made executable; a RuntimeError where there is none.

    Each file has a linker of its own, so that no two of them can be taken for each other.
    """
    with BUILDING:
        llvm = load_llvm()
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        add_symbols()
        machine = llvm.Target.from_default_triple().create_target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        engines.append(engine)
        address = engine.get_function_address(SYMBOL)
        if not address:  # calling it would end the process
            raise RuntimeError(f"no {SYMBOL} was found in machine code")
        return address


@functools.cache
def add_symbols():
    """Let machine code find what it calls."""
    llvm = load_llvm()
    give_way = ctypes.WinDLL("kernel32").SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
    locks = ctypes.pythonapi.PyThread_acquire_lock, ctypes.pythonapi.PyThread_release_lock
    for name, function in zip((YIELD, ACQUIRE, RELEASE), (give_way, *locks), strict=True):
        llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)


def with_vectors_of(width, marked, work):
    """Do some work while the vector vocabulary speaks of vectors of `width` bytes, and of marks that count, if `marked`."""
    global vector_bytes, marks
    with BUILDING:
        before, (vector_bytes, marks) = (vector_bytes, marks), (width, marked)
        try:
            return work()
        finally:
            vector_bytes, marks = before


held: list = []  # what lets go of numba's lock after a fork


def numba_lock():
    """The lock of whoever compiles with numba, if that is loaded."""
    numba_s = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    return getattr(numba_s, "_lock", None)


def hold_numba():
    """Wait for the threads that compile functions of their own."""
    held.clear()
    lock = numba_lock()
    if lock is not None and not lock._is_owned():
        held.append(lock.release)  # first: a signal's handler may raise once it is taken
        lock.acquire()


def after_fork_in_child():
    """Let the new process go on, whatever became of the locks: nobody but the thread that has forked is here."""
    for lock, taken in ((numba_lock(), bool(held)), (BUILDING, True)):
        if lock is not None and not lock._is_owned():
            lock._at_fork_reinit()
        elif lock is not None and taken:
            lock.release()


if hasattr(os, "register_at_fork"):
    # Sorting calls what is held, and is no function of Python's, either.
    os.register_at_fork(before=hold_numba, after_in_parent=functools.partial(held.sort, key=operator.call))
    # A fork waits for the threads that compile: what they are changing would stay half changed in the new process, and
    # locked. These are no functions of Python's, in which a signal's handler could raise once the lock is taken. Before a
    # fork, what was registered last is called first: logging takes its lock, which numba's imports need, later.
    os.register_at_fork(
        before=functools.partial(BUILDING.acquire, timeout=FORK_SECONDS),
        after_in_parent=BUILDING.release,
        after_in_child=after_fork_in_child,
    )


addressof, from_buffer = ctypes.addressof, ctypes.c_char.from_buffer
leading = ctypes.create_string_buffer(8)  # room for what numba's functions return and raise, which kernels do not


def address_of(array):
    """Where an array begins; what is none is a number."""
    if not isinstance(array, np.ndarray):
        return array
    if not array.size:
        return 0  # which nobody reads
    if array.flags.writeable:
        return addressof(from_buffer(array))  # a quarter of the other's time
    return array.ctypes.data


class Kernel:
    """A compiled entry point: a function of one argument, a job, whose attributes are what it works on.

    Parameters
    ----------
    module, name : str
        The function: a module of this package and its attribute.
    fields : str
        The job's attributes, as words: "n" is an int, "x:T*" a pointer to the float type of the call, "x:I*" to the type of
        its indices, "x:double*" and "x:int*" (int64) to others. There also are `rank` and `size`, of the thread.
    marked : bool, default False
        Whether its marks count time.

    It is called with the fields' values in their order, C-contiguous arrays for pointers, and the bytes of a vector, by
    default the level's; nothing is checked here. The types of a call are named together, as in "float64" or "float64-int32".
    An array that a call has no use for may be None; indices then have type T.

    Attributes
    ----------
    compile_seconds : dict
        By types and vector width: how long compiling took, now or when the file on disk was made.
    """

    def __init__(self, module, name, fields, marked=False):
        self.module, self.name, self.fields, self.marked = module, name, fields, marked
        self.kinds = {name: kind for name, _, kind in (field.partition(":") for field in fields.split())}
        kinds = list(self.kinds.values())
        self.typed_by = [kinds.index(kind) for kind in ("T*", "I*") if kind in kinds]
        self._pack = struct.Struct(f"{len(kinds)}q").pack
        self._calls, self._prepared, self.compile_seconds = {}, {}, {}

    def __reduce__(self):  # so that another process may compile it
        return Kernel, (self.module, self.name, self.fields, self.marked)

    def __call__(self, *args, rank=0, size=1, width=None):
        width = width or native_width()
        if PLAIN_PYTHON:
            from fastbp.kernels.tracing import Names

            plain = [arg.reshape(-1) if isinstance(arg, np.ndarray) else arg for arg in args]
            job = Names(**dict(zip(self.kinds, plain, strict=True)), rank=rank, size=size)
            with np.errstate(all="ignore"):
                with_vectors_of(width, self.marked, lambda: self.function()(job))
            return
        self.prepare(args, width)(self.packed(*args), rank, size)

    def packed(self, *args):
        """The job as machine code reads it: an int64 for each field, addresses of arrays, which have to stay; None is 0."""
        return self._pack(*[arg if type(arg) is int else 0 if arg is None else address_of(arg) for arg in args])

    def prepare(self, args, width):
        """What is called with such arguments, compiled if need be."""
        key = width, *[args[place].dtype.char for place in self.typed_by if args[place] is not None]
        if key not in self._prepared:  # a name of a type takes numpy longer than a small step takes
            names = dict.fromkeys(args[place].dtype.name for place in self.typed_by if args[place] is not None)
            self._prepared[key] = self.loaded("-".join(names), width)
        return self._prepared[key]

    def with_marks(self):
        """The same function, compiled to count time."""
        return Kernel(self.module, self.name, self.fields, marked=True)

    def function(self):
        # tools that freeze programs follow import statements
        from fastbp.kernels import ceilings, many, narrow, online, orders, phases, pointwise, threads, wide

        modules = ceilings, many, narrow, online, orders, phases, pointwise, threads, wide
        return getattr({module.__name__.rpartition(".")[2]: module for module in modules}[self.module], self.name)

    def loaded(self, dtype, width):
        """The C function for the types of a call and a vector width: from disk, or compiled and then kept on disk."""
        with BUILDING:
            if (dtype, width) not in self._calls:
                if what := lacking(level()):
                    raise ValueError(f"code for {level().name} cannot run here: this processor {what}")
                address, seconds = self.found(dtype, width) or self.built(dtype, width)
                self.compile_seconds[dtype, width] = seconds
                self._calls[dtype, width] = self.prototype(address)
            return self._calls[dtype, width]

    def found(self, dtype, width):
        """The address of the function, and what compiling it took, from disk; None if there is none that is sound."""
        stored = read_object(self.file(dtype, width), digest())
        try:
            return stored and (link(stored[0]), stored[1])
        except RuntimeError:  # it is no object file, or another one's
            return None

    def built(self, dtype, width):
        """The same, compiled and kept on disk."""
        for tell in listeners:
            tell("compiling")
        code, seconds = self.compile(dtype, width)
        for tell in listeners:
            tell("")
        address = link(code)
        write_object(self.file(dtype, width), digest(), code, seconds)
        return address, seconds

    def load_seconds(self, dtype, width):
        """How long loading from disk takes; None where nothing is there."""
        start = time.perf_counter()
        found = self.found(dtype, width)
        return found and time.perf_counter() - start

    def file(self, dtype, width):
        """Name of the object file, without what tells one version from another."""
        return f"{self.module}.{self.name}{'.marked' * self.marked}.{dtype}.{width}.{level().name}"

    def compile(self, dtype, width):
        """Object code for the level, whatever the processor, and the seconds that it took."""
        start = time.perf_counter()
        module, target = self.optimised(dtype, width)
        return target.emit_object(module), time.perf_counter() - start

    def optimised(self, dtype, width):
        """LLVM's module of the function, and what makes code for the level of it."""
        from fastbp.kernels import building

        def work():
            return building.optimised(building.traced(self.function(), self.kinds, dtype.split("-")), level())

        return with_vectors_of(width, self.marked, work)

    def prototype(self, address):
        """A Python callable that releases the GIL. Numba's functions take two leading pointers: result and exception."""
        kinds = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
        call = functools.partial(function, addressof(leading), addressof(leading))
        call.address = address
        return call

    def assembly(self, dtype, width=64):
        """The machine code for the types of a call and a vector width, as text."""
        module, target = self.optimised(dtype, width)
        return target.emit_assembly(module)
