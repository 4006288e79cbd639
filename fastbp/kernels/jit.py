"""How the kernels are compiled, and how machine code is called.

The only file that says ``numba.njit``. A `Kernel` is an entry point: a function of one of the kernel modules, whose body
numba sees as a single instruction (`fastbp.kernels.tracing`). Its first call looks for machine code on disk, and only if
there is none imports numba and the module, compiles the function and keeps the object file. A later process loads that file
through llvmlite and never imports numba, which would take several times as long as everything else a short training needs.

Compiler options, and why:

error_model   "numpy": a division by zero gives inf, and no kernel has a branch that raises.
fastmath      never: ``nnan`` and ``ninf`` would hide a diverging network, ``reassoc`` folds the rounding tricks of
              `fastbp.kernels.pointwise` away. Where a fused multiply-add is meant, the kernel says so.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.resources
import logging  # noqa: F401, see at `register_at_fork`
import os
import platform
import struct
import sys
import threading
import time

import numpy as np

from fastbp.kernels.objects import read_object, write_object

OPTIONS = {"error_model": "numpy"}

# Numba's own switch: the kernels run as plain Python on numpy arrays.
PLAIN_PYTHON = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
# Bytes of a vector in the vocabulary of `fastbp.kernels.vectors`, while a kernel is compiled or run as plain Python.
vector_bytes = 64
# Whether marks count time meanwhile (`fastbp.kernels.phases`); otherwise they are no instructions at all.
marks = False
# Whoever compiles, links or speaks of vectors holds it: LLVM and the two words above are one for all threads. Whoever waits
# for numba's own lock holds this one already.
BUILDING = threading.RLock()
# A fork goes on after so long where whoever compiles waits for the one that forks.
FORK_SECONDS = 60
engines: list = []  # what owns machine code, and lives as long as the process
listeners: list = []  # functions that are told "compiling" when it begins, and "" when it is over
# Symbol under which kernels call the system's function that gives the rest of a time slice away.
YIELD = "fastbp_yield"
# Kernels for vectors of so many bytes and so many registers of them, as in "16x32", instead of the processor's own. Every
# processor can run all of them, if slowly: so tests see here what would happen elsewhere.
OTHER_VECTORS = os.environ.get("FASTBP_VECTORS")
# Environment variables by which numba changes the machine code.
NUMBA_SETTINGS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT", "NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE")


@functools.cache
def features():
    """What the processor that is compiled for offers, as far as it is known."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if chosen is None:
        other = os.environ.get("NUMBA_CPU_NAME") not in (None, "", "host")
        chosen = "" if other else host_features()
    return {word[1:] for word in chosen.split(",") if word.startswith("+")}


def host_features():
    """What this processor offers, as LLVM writes it."""
    with BUILDING:
        import llvmlite.binding as llvm

        return llvm.get_host_cpu_features().flatten()


def x86():
    return platform.machine().lower() in ("x86_64", "amd64")


def arm():
    return platform.machine().lower() in ("arm64", "aarch64")


def registers():
    """Vector registers: 16 on x86 without AVX-512, else 32."""
    if OTHER_VECTORS:
        return int(OTHER_VECTORS.split("x")[1])
    return 16 if x86() and "avx512f" not in features() and not PLAIN_PYTHON else 32


def native_width():
    """Bytes of a vector register."""
    if OTHER_VECTORS:
        return int(OTHER_VECTORS.split("x")[0])
    if PLAIN_PYTHON or "avx512f" in features():
        return 64
    return 32 if x86() else 16


def tile_shape():
    """Rows and columns of the largest register tile: as many sums as leave room for their factors."""
    return (6, 4) if registers() == 32 else (4, 3)


@functools.cache
def digest():
    """Hex digest of all that decides the machine code but the kernel and its types; None if not all of it is known."""
    import llvmlite.binding as llvm

    try:
        facts = [
            OPTIONS,
            importlib.metadata.version("numba"),
            importlib.metadata.version("llvmlite"),
            sys.platform,
            llvm.get_host_cpu_name(),
            llvm.get_host_cpu_features().flatten(),
            [os.environ.get(name) for name in NUMBA_SETTINGS],
            OTHER_VECTORS,
            sources(),
        ]
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


def link(code, symbol):
    """Address of a symbol of an object file, made executable; a RuntimeError where there is none.

    Each file has a linker of its own, so that no two of them can be taken for each other.
    """
    with BUILDING:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        add_yield()
        machine = llvm.Target.from_default_triple().create_target_machine()
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        engines.append(engine)
        return sound(engine.get_function_address(symbol), symbol)


def sound(address, symbol):
    """The address, which is never 0: calling that would end the process."""
    if not address:
        raise RuntimeError(f"no machine code was found for {symbol}")
    return address


@functools.cache
def add_yield():
    """Let machine code find YIELD."""
    import llvmlite.binding as llvm

    system = ctypes.WinDLL("kernel32").SwitchToThread if sys.platform == "win32" else ctypes.CDLL(None).sched_yield
    llvm.add_symbol(YIELD, ctypes.cast(system, ctypes.c_void_p).value)


def with_vectors_of(width, marked, work):
    """Do some work while the vector vocabulary speaks of vectors of `width` bytes, and of marks that count, if `marked`."""
    global vector_bytes, marks
    with BUILDING:
        before, (vector_bytes, marks) = (vector_bytes, marks), (width, marked)
        try:
            return work()
        finally:
            vector_bytes, marks = before


held: list = []  # what a fork holds


def before_fork():
    """Wait for the threads that compile: what they are changing would stay half changed in the new process, and locked."""
    numba_s = getattr(sys.modules.get("numba.core.compiler_lock"), "global_compiler_lock", None)
    if BUILDING.acquire(timeout=FORK_SECONDS):
        held.append(BUILDING)
        if numba_s is not None:
            numba_s.acquire()
            held.append(numba_s)


def after_fork():
    """Let both processes go on."""
    locks = held[::-1]
    held.clear()  # before another thread that forks may come here
    for lock in locks:
        lock.release()


def after_fork_in_child():
    """The same, whatever became of the lock: nobody else is here."""
    global BUILDING
    after_fork()
    BUILDING = threading.RLock()


if hasattr(os, "register_at_fork"):
    # Before a fork, what was registered last is called first: logging takes its lock, which numba's imports need, later.
    os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork_in_child)


def address_of(array):
    """Where an array begins."""
    if array.size and array.flags.writeable:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # a third of the other's time
    return array.ctypes.data


@functools.cache
def compiler():
    """Numba's compiler, which optimises the code once.

    By itself it optimises every function alone, the module a little, for counters of references, of which kernels have none,
    and then the module in earnest, which makes the same code without the first two. The names for it are private: where a
    version of numba has others, nothing is lost but time.
    """
    import numba.core.compiler

    class Once(numba.core.compiler.Compiler):
        def compile_extra(self, function):
            with contextlib.suppress(AttributeError):
                self.state.library = self.library_of(function.__qualname__)
            return super().compile_extra(function)

        def library_of(self, name):
            codegen = self.state.targetctx.codegen()
            library = codegen.create_library(name)
            library.enable_object_caching()
            data_layout, passes = codegen._data_layout, codegen._module_pass_manager

            def lay_out(module):
                module.data_layout = data_layout

            def optimise():
                manager, builder = passes()
                manager.run(library._final_module, builder)

            library._optimize_functions, library._optimize_final_module = lay_out, optimise
            return library

    return Once


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

    It is called with the fields' values in their order, C-contiguous arrays for pointers, and the bytes of a vector; nothing
    is checked here. The types of a call are named together, as in "float64" or "float64-int32". An array that a call has no
    use for may be None; indices then have type T.

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

    def __call__(self, *args, rank=0, size=1, width=64):
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
        return self._pack(*[address_of(arg) if isinstance(arg, np.ndarray) else arg or 0 for arg in args])

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
        from fastbp.kernels import ceilings, narrow, online, phases, pointwise, wide

        modules = {"ceilings": ceilings, "narrow": narrow, "online": online, "phases": phases, "pointwise": pointwise,
                   "wide": wide}  # fmt: skip
        return getattr(modules[self.module], self.name)

    def loaded(self, dtype, width):
        """The C function for the types of a call and a vector width: from disk, or compiled and then kept on disk."""
        with BUILDING:
            if (dtype, width) not in self._calls:
                address, seconds = self.found(dtype, width) or self.built(dtype, width)
                self.compile_seconds[dtype, width] = seconds
                self._calls[dtype, width] = self.prototype(address)
            return self._calls[dtype, width]

    def found(self, dtype, width):
        """The address of the function, and what compiling it took, from disk; None if there is none that is sound."""
        stored = read_object(self.file(dtype, width))
        if stored is None:
            return None
        code, symbol, seconds = stored
        try:
            return link(code, symbol), seconds
        except RuntimeError:  # it is no object file, or another one's
            return None

    def built(self, dtype, width):
        """The same, compiled and kept on disk."""
        start = time.perf_counter()
        for tell in listeners:
            tell("compiling")
        library, symbol = self.compile(dtype, width)
        for tell in listeners:
            tell("")
        address = sound(library.get_pointer_to_function(symbol), symbol)
        engines.append(library)
        seconds = time.perf_counter() - start
        write_object(self.file(dtype, width), symbol, seconds, library.serialize_using_object_code()[2][0])
        return address, seconds

    def load_seconds(self, dtype, width):
        """How long loading from disk takes; None where nothing is there."""
        start = time.perf_counter()
        stored = read_object(self.file(dtype, width))
        if stored is None:
            return None
        link(*stored[:2])
        return time.perf_counter() - start

    def file(self, dtype, width):
        """Name of the object file; None where there is no digest to name it by."""
        key = digest()
        return key and f"{self.module}.{self.name}{'.marked' * self.marked}.{dtype}.{width}.{key}.o"

    def compile(self, dtype, width):
        """Numba's code library and the symbol of the function in it."""
        return with_vectors_of(width, self.marked, lambda: self.library(dtype.split("-")))

    def library(self, names):
        """The same, for vectors of the present length."""
        import numba
        from numba.core import types
        from numba.extending import intrinsic

        from fastbp.kernels.tracing import traced_job

        add_yield()
        function, kinds = self.function(), self.kinds

        @intrinsic
        def body(context, job, rank, size):
            def emit(context, builder, signature, args):
                function(traced_job(builder, kinds, names, *args))
                return context.get_dummy_value()

            return types.void(job, rank, size), emit

        def entry(job, rank, size):
            body(job, rank, size)

        options = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": compiler()}
        dispatcher = numba.njit(**options)(entry)
        argument_types = types.CPointer(types.int64), types.int64, types.int64
        dispatcher.compile(argument_types)
        result = dispatcher.overloads[argument_types]
        return result.library, result.fndesc.llvm_func_name

    def prototype(self, address):
        """A Python callable that releases the GIL. Numba's functions take two leading pointers: result and exception."""
        kinds = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
        return functools.partial(function, ctypes.create_string_buffer(8), ctypes.create_string_buffer(8))

    def assembly(self, dtype, width=64):
        """The machine code for the types of a call and a vector width, as text."""
        return self.compile(dtype, width)[0].get_asm_str()
