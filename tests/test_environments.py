"""Where the package may run: without a home, without docstrings, from a zip file, from bytecode alone, frozen."""

import compileall
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp
from fastbp import warmup
from fastbp.kernels import jit, objects

pytestmark = pytest.mark.compiled

PACKAGE = Path(fastbp.__file__).parent
SECONDS = 300  # for a process that compiles, on a busy machine
FREEZING_SECONDS = 1200

X, Y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
PROGRAM = """
import sys
import numpy as np
import fastbp

X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
net = fastbp.NeuralNetwork(2, 4, 1, random_state=0)
if sys.argv[1:] != ["predicts"]:
    net.train(X, y, 100, 0.1)
print(net.feedforward(X).tobytes().hex())
print("numba" in sys.modules)
print(fastbp.__file__)
"""


def outputs_of_one_that(does):
    net = fastbp.NeuralNetwork(2, 4, 1, random_state=0)
    if does != "predicts":
        net.train(X, Y, 100, 0.1)
    return net.feedforward(X).tobytes().hex()


def run(*command, folder, environment):
    """What a process printed; its environment is this one's but for some changes, where None stands for nothing."""
    changed = {name: value for name, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=changed, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def in_a_folder(path, code=()):
    """A copy of the package, with object files by their names."""
    shutil.copytree(PACKAGE, path / "fastbp", ignore=shutil.ignore_patterns("__pycache__"))
    (path / "fastbp" / objects.COMPILED).mkdir(exist_ok=True)
    for name, content in dict(code).items():
        (path / "fastbp" / objects.COMPILED / f"{name}.o").write_bytes(content)
    return path


def as_bytecode(path, code=()):
    compileall.compile_dir(in_a_folder(path, code), quiet=1, legacy=True)
    for source in path.rglob("*.py"):
        source.unlink()
    return path


def in_a_zip_file(path, code=(), install=in_a_folder):
    file = shutil.make_archive(path / "package", "zip", install(path, code), "fastbp")
    shutil.rmtree(path / "fastbp")  # which a process that starts here would take
    return Path(file)


def as_bytecode_in_a_zip_file(path, code=()):
    return in_a_zip_file(path, code, as_bytecode)


# a kernel that predicts is compiled in a quarter of the time
does_either = pytest.mark.parametrize("does", ["predicts", "trains"])


@pytest.mark.compiles
@pytest.mark.draw(4)
@does_either
@pytest.mark.parametrize("install", [in_a_folder, as_bytecode_in_a_zip_file])
def test_it_trains_and_keeps_what_it_compiled(install, does, tmp_path):
    (tmp_path / "package").mkdir()
    place = install(tmp_path / "package")
    environment = {"PYTHONPATH": str(place), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for compiles in (True, False):
        outputs, compiler, file = run(sys.executable, "-c", PROGRAM, does, folder=tmp_path, environment=environment)
        assert outputs == outputs_of_one_that(does)
        assert compiler == str(compiles)
        assert Path(file).is_relative_to(place)


@pytest.fixture(scope="module")
def code():
    """Object files of the kernels that PROGRAM needs, as they come with a package."""
    result = {}
    for kernel, types, width in warmup.kernels_for(["float64"]):
        if kernel.module == "narrow" and not kernel.marked:
            kernel.loaded(types, width)
            name = kernel.file(types, width)
            result[name] = objects.packed(name, jit.digest(), *objects.read_object(name, jit.digest()))
    return result


NO_NUMBA = "import sys; sys.modules['numba'] = None\n"
NEEDS_NUMBA = "ImportError: numba compiles what does not come compiled with fastbp: pip install numba"


@pytest.mark.parametrize("install", [in_a_folder, as_bytecode, in_a_zip_file, as_bytecode_in_a_zip_file])
def test_nothing_is_compiled_where_kernels_came_with_the_package(install, code, tmp_path):
    environment = {"PYTHONPATH": str(install(tmp_path, code)), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    outputs, *_ = run(sys.executable, "-c", NO_NUMBA + PROGRAM, folder=tmp_path, environment=environment)
    assert outputs == outputs_of_one_that("trains")
    assert not (tmp_path / "cache").exists()


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


HARMS = {
    "damaged": lambda package: [flip(path) for path in (package / objects.COMPILED).iterdir()],
    "cut off": lambda package: [os.truncate(path, 99) for path in (package / objects.COMPILED).iterdir()],
    "of other sources": lambda package: edit(package / "rule.py"),
    "missing": lambda package: shutil.rmtree(package / objects.COMPILED),
}


@pytest.mark.parametrize("harm", HARMS)
def test_machine_code_that_is_not_sound_is_not_run(harm, code, tmp_path):
    environment = {"PYTHONPATH": str(in_a_folder(tmp_path, code)), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    HARMS[harm](tmp_path / "fastbp")
    command, environment = [sys.executable, "-c", NO_NUMBA + PROGRAM], os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=SECONDS)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, NEEDS_NUMBA)


NO_HOME = """
import os, pwd
pwd.getpwuid = {}.__getitem__
assert os.path.expanduser("~") == "~"
"""


@pytest.mark.compiles
@pytest.mark.skipif("pwd" not in sys.builtin_module_names and not importlib.util.find_spec("pwd"), reason="no such list")
@pytest.mark.draw(4)
@does_either
@pytest.mark.parametrize("folder", [None, "cache"])
def test_it_trains_without_a_home(folder, does, tmp_path):
    names = ("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    place = in_a_zip_file(tmp_path)  # where there is no room for a cache
    environment = dict.fromkeys(names) | {"PYTHONPATH": str(place)}
    if folder:
        environment |= {"NUMBA_CACHE_DIR": str(tmp_path / folder)}
    command = sys.executable, "-c", NO_HOME + PROGRAM, does
    found = [run(*command, folder=tmp_path, environment=environment)[:2] for _ in range(2)]
    expected = outputs_of_one_that(does)
    assert found == [[expected, "True"], [expected, str(not folder)]]


IMPORT_ALL = """
import importlib, pkgutil
import fastbp
for module in pkgutil.walk_packages(fastbp.__path__, "fastbp."):
    # the one needs hatchling, and is in no wheel, the other needs dask
    if module.name not in ("fastbp.wheel", "fastbp.dask"):
        importlib.import_module(module.name)
from fastbp import *
assert MLPClassifier.__doc__ is None
est = MLPClassifier(4, solver="lbfgs", random_state=0).fit([[0.0], [1.0]], [0, 1])
print(est.score([[0.0], [1.0]], [0, 1]))
"""


def test_it_trains_without_docstrings(tmp_path):
    environment = {"PYTHONPATH": str(PACKAGE.parent)}
    assert run(sys.executable, "-OO", "-c", IMPORT_ALL, folder=tmp_path, environment=environment) == ["1.0"]


ESTIMATOR = """
est = fastbp.MLPClassifier(8, solver="lbfgs", random_state=0).fit(X, y.ravel())
print(est.score(X, y.ravel()))
"""


@pytest.mark.skipif(importlib.util.find_spec("PyInstaller") is None, reason="needs PyInstaller")
def test_a_frozen_program_trains(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM + ESTIMATOR)
    options = ["--noconfirm", "--distpath", tmp_path, "--workpath", tmp_path / "work", "--specpath", tmp_path]
    freeze = [sys.executable, "-m", "PyInstaller", *options, "--paths", PACKAGE.parent, script]
    frozen = subprocess.run(list(map(str, freeze)), capture_output=True, text=True, timeout=FREEZING_SECONDS)
    assert frozen.returncode == 0, frozen.stderr
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": None}
    outputs, _, _, score = run(str(tmp_path / "program" / "program"), folder=tmp_path, environment=environment)
    assert (outputs, score) == (outputs_of_one_that("trains"), "1.0")
