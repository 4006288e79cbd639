"""What the package promises about itself: its rooms, its imports and its metadata."""

import ast
import configparser
import graphlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent

# A module, or what is in a package, may import what is on a floor below, and of its own floor what does not import it.
FLOORS = """
    __main__ cli
    dask profiling shards warmup
    columnwise datasets estimators lanes lessons many neural_network sources
    stream training workspace
    kernels
    fastbp arguments background checks files history layout reference rule tables
"""
# but for these: names of others that are looked up when they are asked for, and methods that save and convert
LAZY = {
    "fastbp": {
        "fastbp.estimators.display",
        "fastbp.estimators.ensemble",
        "fastbp.estimators.interchange",
        "fastbp.estimators.fitted",
        "fastbp.estimators.mlp",
        "fastbp.estimators.search",
        "fastbp.estimators.tabular",
        "fastbp.files",
        "fastbp.history",
        "fastbp.many",
        "fastbp.neural_network",
        "fastbp.profiling.report",
        "fastbp.sources",
    },
    "fastbp.estimators.perceptron": {"fastbp.estimators.interchange"},
    "fastbp.neural_network": {"fastbp.estimators.fitted"},
    "fastbp.kernels.jit": {
        "fastbp.kernels.building",
        "fastbp.kernels.ceilings",
        "fastbp.kernels.many",
        "fastbp.kernels.narrow",
        "fastbp.kernels.online",
        "fastbp.kernels.orders",
        "fastbp.kernels.phases",
        "fastbp.kernels.pointwise",
        "fastbp.kernels.threads",
        "fastbp.kernels.tracing",
        "fastbp.kernels.wide",
    },
}
FLOOR_OF = {name: -number for number, line in enumerate(FLOORS.split("\n")) for name in line.split()}
MODULES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "wheel.py"})  # which makes wheels, and is in none


def module_name(path):
    return ".".join(["fastbp", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")


def floor(module):
    """How high a module stands; the package itself, whose names are looked up late, stands lowest."""
    name = module.split(".")[min(1, module.count("."))]
    assert name in FLOOR_OF, f"give {name} a floor"
    return FLOOR_OF[name]


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    found, ours = set(), {*map(module_name, MODULES)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & ours) or {node.module}
    return found


def own_imports(path, module):
    """Modules of the package that a file imports early, or late without being named above."""
    return {name for name in imports(path) if name.split(".")[0] == "fastbp"} - LAZY.get(module, set())


def assert_downward(graph):
    """No module of the graph, from modules to what they import, imports a higher one or, by whatever way, itself."""
    upward = [(module, name) for module, names in graph.items() for name in names if floor(name) > floor(module)]
    assert not upward
    graphlib.TopologicalSorter(graph).prepare()


def test_imports_point_only_downward():
    paths = {module_name(path): path for path in MODULES}
    assert_downward({module: own_imports(path, module) for module, path in paths.items()})


@pytest.mark.parametrize("module", LAZY)
def test_what_is_named_as_late_is_imported(module):
    (path,) = [path for path in MODULES if module_name(path) == module]
    assert LAZY[module] <= imports(path)


def test_an_upward_import_is_seen(tmp_path):
    upward = tmp_path / "upward.py"
    upward.write_text("def late():\n    from fastbp.kernels import narrow\n    import fastbp.training\n")
    found = own_imports(upward, "fastbp.layout")
    assert found == {"fastbp.kernels.narrow", "fastbp.training"}
    with pytest.raises(AssertionError, match="training"):
        assert_downward({"fastbp.layout": found})
    assert_downward({"fastbp.cli": found})
    with pytest.raises(graphlib.CycleError):
        assert_downward({"fastbp.cli": {"fastbp.__main__"}, "fastbp.__main__": {"fastbp.cli"}})
    with pytest.raises(AssertionError, match="give attic a floor"):
        floor("fastbp.attic")


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


def test_a_network_is_trained_and_saved_without_what_estimators_need(tmp_path):
    path = str(tmp_path / "xor.npz")
    train = f"fastbp.cli.main(['train', 'xor', '--epochs', '2', '--save', {path!r}])"
    loaded = loaded_after(f"import contextlib, io, fastbp.cli\nwith contextlib.redirect_stdout(io.StringIO()): {train}")
    assert "fastbp" in loaded
    assert not loaded & {"matplotlib", "pandas", "sklearn"}


def test_public_names_resolve():
    assert "NeuralNetwork" in fastbp.__all__
    for name in fastbp.__all__:
        assert getattr(fastbp, name) is not None
        assert getattr(getattr(fastbp, name), "__name__", name) == name
    with pytest.raises(AttributeError, match="no attribute 'cake'"):
        _ = fastbp.cake


@pytest.mark.parametrize("cause", ["AttributeError('theirs')", "ImportError('theirs')", "RuntimeError('theirs')"])
def test_an_error_of_an_import_is_not_hidden(cause, tmp_path):
    """Python takes an AttributeError for a missing name, and says nothing of what was wrong."""
    shutil.copytree(PACKAGE, tmp_path / "fastbp")
    (tmp_path / "fastbp" / "estimators" / "mlp.py").write_text(f"raise {cause}")
    command = [sys.executable, "-c", "from fastbp import MLPClassifier"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert "theirs" in done.stderr.splitlines()[-1]


def test_tools_that_follow_import_statements_find_everything():
    """As those do that freeze programs."""
    found, unread = set(), {"fastbp", "fastbp.cli"}
    path_of = {module_name(path): path for path in MODULES}
    while unread:
        module = unread.pop()
        found.add(module)
        parents = {module.rpartition(".")[0]} - {""}
        unread |= ((imports(path_of[module]) | parents) & path_of.keys()) - found
    # who wants the others imports them by name
    assert path_of.keys() - found == {"fastbp.__main__", "fastbp.dask", "fastbp.shards"}


DECLARED = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
OPTIONAL = {"jax", "torch"}  # rivals, beside which a network is measured where they are installed


def distributions(requirements):
    """Names of packages, without what stands behind them."""
    return {re.match(r"[\w-]+", line)[0] for line in requirements}


def test_what_is_imported_is_declared():
    roots = {name.split(".")[0] for path in MODULES for name in imports(path)} - sys.stdlib_module_names - {"fastbp"}
    imported = {"scikit-learn" if name == "sklearn" else name for name in roots}
    project = DECLARED["project"]
    needed = distributions(project["dependencies"])
    extras = {name for extra in project["optional-dependencies"].values() for name in distributions(extra)}
    assert imported - OPTIONAL == needed | extras
    assert distributions(DECLARED["dependency-groups"]["peers"]) == OPTIONAL
    assert needed == {"joblib", "llvmlite", "numba", "numpy", "scikit-learn", "scipy", "threadpoolctl"}


def test_the_oldest_versions_that_are_declared_are_tested():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(Path(__file__).parent.parent / "tox.ini", encoding="utf-8")
    tested = dict(re.findall(r"^([\w-]+)==([\d.]+)\.\*$", tox["testenv:oldest"]["deps"], re.MULTILINE))
    declared = dict(line.split(">=") for line in DECLARED["project"]["dependencies"])
    declared.pop("llvmlite")  # of which each numba takes one version
    assert tested == declared


def test_metadata():
    try:
        metadata = importlib.metadata.metadata("fastbp")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("fastbp is not installed")
    required = [line for line in importlib.metadata.requires("fastbp") if "extra ==" not in line]
    assert distributions(required) == distributions(DECLARED["project"]["dependencies"])
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.skipif("TOX_ENV_DIR" not in os.environ, reason="not run by tox")
def test_tox_checks_the_installed_package():
    assert PACKAGE.is_relative_to(os.environ["TOX_ENV_DIR"])
