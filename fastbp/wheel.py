"""Wheels that come with machine code: ``FASTBP_WHEEL=linux-x86_64 python -m build --wheel``.

Hatchling calls this when it builds a wheel. Without FASTBP_WHEEL the wheel is the same for every system, and kernels are
compiled when they are first used. Machine code for another kind of processor is made as well as for this one's.
"""

import os
import subprocess
import sys
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The tag and the levels of each wheel. Object files call nothing but memset and sched_yield, which every glibc has, and
# Python's functions for locks, which every version has. Others need what LLVM's linker in memory takes there: macOS Mach-O
# files, made for arm64-apple-darwin; Windows ELF files, for x86_64-pc-windows-msvc-elf. Neither has been seen to work.
WHEELS = {
    "linux-x86_64": ("py3-none-manylinux_2_17_x86_64", ("x86-64-v3", "x86-64-v4")),
    "linux-aarch64": ("py3-none-manylinux_2_17_aarch64", ("aarch64",)),
}
COMPILE = "import sys; from fastbp import warmup; warmup.ship(sys.argv[1])"


class CompiledWheel(BuildHookInterface):
    """Adds object files of all kernels to a wheel."""

    def dependencies(self) -> list[str]:
        """What compiles them."""
        return self.metadata.core.dependencies if os.environ.get("FASTBP_WHEEL") else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them, where FASTBP_WHEEL names a system."""
        system = os.environ.get("FASTBP_WHEEL")
        if not system or version == "editable":
            return
        if system not in WHEELS:
            raise ValueError(f"FASTBP_WHEEL must be one of {', '.join(WHEELS)}, the others being untried, got {system!r}")
        if sys.platform != "linux":
            raise ValueError(f"FASTBP_WHEEL={system} must be built on Linux, got {sys.platform}")
        tag, levels = WHEELS[system]
        self.folder = tempfile.TemporaryDirectory()
        for level in levels:
            path = os.pathsep.join([self.root, *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = os.environ | {"FASTBP_LEVEL": level, "PYTHONPATH": path}
            for name in ("FASTBP_VECTORS", "NUMBA_DISABLE_JIT"):  # which are for tests
                environment.pop(name, None)
            subprocess.run([sys.executable, "-c", COMPILE, self.folder.name], check=True, env=environment)
        build_data["force_include"][self.folder.name] = "fastbp/compiled"
        build_data["pure_python"], build_data["tag"] = False, tag

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what is in the wheel by now."""
        if hasattr(self, "folder"):
            self.folder.cleanup()
