"""How a kernel becomes machine code: numba and tracing make LLVM's language of it, LLVM an object file for a level.

The only file that says ``numba.njit``. Compiler options, and why:

error_model   "numpy": a division by zero gives inf, and no kernel has a branch that raises.
fastmath      never: ``nnan`` and ``ninf`` would hide a diverging network, ``reassoc`` folds the rounding tricks of
              `fastbp.kernels.pointwise` away. Where a fused multiply-add is meant, the kernel says so.
"""

import llvmlite.binding as llvm

from fastbp.background import Ahead
from fastbp.kernels.levels import Level, machine
from fastbp.kernels.objects import SYMBOL

OPTIONS = {"error_model": "numpy"}
# LLVM's level of optimising. At 3 and 2 the machine code is as fast; nothing is left to vectorise.
SPEED = 3


def load_numba():
    """Import all that compiling takes."""
    import numba.core.compiler
    import numba.extending  # noqa: F401
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


def traced(function, kinds, types):
    """A kernel in LLVM's language, as the function SYMBOL; arguments as `fastbp.kernels.tracing.traced_job`."""
    try:
        # in another thread: imports that a signal's handler has broken off in the middle cannot be had again
        Ahead(load_numba).result()
    except ModuleNotFoundError as error:
        raise ImportError("numba compiles what does not come compiled with fastbp: pip install numba") from error
    import numba.core.compiler
    from numba.core import types as numba_types
    from numba.extending import intrinsic

    from fastbp.kernels.tracing import traced_job

    @intrinsic
    def body(context, job, rank, size):
        def emit(context, builder, signature, args):
            function(traced_job(builder, kinds, types, *args))
            return context.get_dummy_value()

        return numba_types.void(job, rank, size), emit

    def entry(job, rank, size):
        body(job, rank, size)

    modules: list = []

    class Front(numba.core.compiler.Compiler):
        """Numba's compiler without its back end, which makes machine code for this processor only."""

        def compile_extra(self, function):
            library = self.state.targetctx.codegen().create_library(function.__name__)
            library.add_ir_module = modules.append
            self.state.library, self.state.flags.no_compile = library, True
            return super().compile_extra(function)._replace(entry_point=print)  # any function does: nobody calls it

    options = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": Front}
    dispatcher = numba.njit(**options)(entry)
    argument_types = numba_types.CPointer(numba_types.int64), numba_types.int64, numba_types.int64
    dispatcher.compile(argument_types)
    (module,) = modules
    return str(module).replace(f'@"{dispatcher.overloads[argument_types].fndesc.llvm_func_name}"', f"@{SYMBOL}")


def optimised(text, level: Level):
    """LLVM's module of a kernel, ready for code of a level, and what makes it."""
    module, target = llvm.parse_assembly(text), target_machine(level)
    module.triple, module.data_layout = target.triple, str(target.target_data)
    options = llvm.create_pipeline_tuning_options(speed_level=SPEED)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return module, target


def target_machine(level: Level):
    """What makes machine code for a level; for the system of another kind of processor, it is Linux."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = llvm.get_process_triple() if level.machine == machine() else f"{level.machine}-unknown-linux-gnu"
    reloc = "static" if level.machine == "x86_64" else "default"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=level.cpu, features=level.tuning, opt=SPEED, reloc=reloc, codemodel="jitdefault", jit=True
    )
