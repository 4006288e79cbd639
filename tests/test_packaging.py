"""What the package promises about itself: its rooms, its imports and its metadata."""

import ast
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent

# a module may import the ones below it, never one on its own floor or above
FLOORS = [
    {"fastbp.__main__"},
    {"fastbp.cli"},
    {"fastbp.measuring"},
    {"fastbp.sweeping", "fastbp.warmup"},
    {"fastbp.profiler"},
    {"fastbp.pictures", "fastbp.rivals", "fastbp.roofline"},
    {"fastbp.profile_tables"},
    {"fastbp.turns"},
    {"fastbp.workload"},
    {"fastbp.datasets", "fastbp.display", "fastbp.estimator_file", "fastbp.interchange"},
    {"fastbp.model_file", "fastbp.profiling", "fastbp.tabular"},
    {"fastbp.estimators", "fastbp.neural_network"},
    {"fastbp.fitting"},
    {"fastbp.machine", "fastbp.phases"},
    {"fastbp.training"},
    {"fastbp.choice"},
    {"fastbp.workspace"},
    {"fastbp.kernels"},
    {"fastbp.kernels.ceilings", "fastbp.kernels.narrow", "fastbp.kernels.online", "fastbp.kernels.wide"},
    {"fastbp.kernels.losses"},
    {"fastbp.kernels.pointwise", "fastbp.kernels.threads", "fastbp.kernels.updates"},
    {"fastbp.kernels.phases"},
    {"fastbp.kernels.simd"},
    {"fastbp.kernels.tracing"},
    {"fastbp.kernels.jit"},
    {"fastbp.callbacks", "fastbp.history", "fastbp.reference"},
    {"fastbp.archive", "fastbp.arguments", "fastbp.cells", "fastbp.layout", "fastbp.rule", "fastbp.tables"},
    {"fastbp"},
]
FLOOR_OF = {module: -floor for floor, modules in enumerate(FLOORS) for module in modules}
MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    return ".".join(["fastbp", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & FLOOR_OF.keys()) or {node.module}
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_point_only_downward(path):
    module = module_name(path)
    assert module in FLOOR_OF, "give the new module a floor"
    upward = {name for name in imports(path) if name.split(".")[0] == "fastbp" and FLOOR_OF[name] >= FLOOR_OF[module]}
    assert not upward


def test_an_upward_import_is_seen(tmp_path):
    upward = tmp_path / "upward.py"
    upward.write_text("def late():\n    from fastbp.kernels import narrow\n    import fastbp.training\n")
    assert imports(upward) == {"fastbp.kernels.narrow", "fastbp.training"}
    assert FLOOR_OF["fastbp.layout"] < FLOOR_OF["fastbp.kernels.narrow"] < FLOOR_OF["fastbp.training"]


def test_the_reference_imports_numpy_and_the_tables_alone():
    assert imports(PACKAGE / "reference.py") == {"collections.abc", "numpy", "fastbp.layout", "fastbp.rule"}


def loaded_after(code):
    """Top-level modules that a new interpreter has after running some code."""
    code += "\nimport sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


HEAVY = {"llvmlite", "matplotlib", "numba", "pandas", "rich", "scipy", "sklearn"}


def test_importing_fastbp_loads_nothing_heavy():
    assert "fastbp" in loaded_after("import fastbp")
    assert not loaded_after("import fastbp") & HEAVY


def test_help_loads_nothing_heavy():
    code = "import fastbp.cli\ntry: fastbp.cli.main(['train', '--help'])\nexcept SystemExit: pass"
    assert not loaded_after(code) & HEAVY


def test_public_names_resolve():
    assert "NeuralNetwork" in fastbp.__all__
    for name in fastbp.__all__:
        assert getattr(fastbp, name) is not None


def test_metadata():
    try:
        metadata = importlib.metadata.metadata("fastbp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fastbp is not installed")
    required = [line for line in importlib.metadata.requires("fastbp") if "extra ==" not in line]
    assert {line.split(">")[0] for line in required} == {"numba", "numpy", "scikit-learn"}
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif("TOX_ENV_DIR" not in os.environ, reason="not run by tox")
def test_tox_checks_the_installed_package():
    assert PACKAGE.is_relative_to(os.environ["TOX_ENV_DIR"])
