"""Levels of processors: which one is chosen, and that code is made for it on any other."""

import struct

import numpy as np
import pytest
from processes import run_python

import fastbp
from fastbp.kernels import jit, levels

pytestmark = pytest.mark.compiled


@pytest.fixture
def processor(monkeypatch):
    """Be another processor."""
    monkeypatch.delenv("FASTBP_LEVEL", raising=False)

    def be(machine, features):
        monkeypatch.setattr("platform.machine", lambda: machine)
        monkeypatch.setattr(levels, "host_features", lambda: set(features))
        return levels.level.__wrapped__()

    return be


def test_the_highest_level_is_chosen(processor):
    for machine in ("x86_64", "AMD64"):
        assert processor(machine, levels.AVX512 | {"sse4.2"}).name == "x86-64-v4"
        assert processor(machine, levels.AVX2).name == "x86-64-v3"
        for missing in levels.AVX512:
            assert processor(machine, levels.AVX512 - {missing}).name == (
                "x86-64" if missing in levels.AVX2 else "x86-64-v3"
            )
        assert processor(machine, ["sse2"]).name == "x86-64"
    for machine in ("aarch64", "arm64", "ARM64"):
        assert processor(machine, ["neon", "sve"]).name == "aarch64"
    unknown = processor("riscv64", ["v"])
    assert (unknown.name, unknown.vector_bytes) == ("riscv64", 16)


def test_a_level_can_be_chosen(processor, monkeypatch):
    monkeypatch.setenv("FASTBP_LEVEL", "x86-64-v3")
    assert levels.level.__wrapped__() == levels.LEVELS[1]
    monkeypatch.setenv("FASTBP_LEVEL", "")
    assert processor("x86_64", levels.AVX512) == levels.LEVELS[0]


ASK = """
import numpy as np
from fastbp import NeuralNetwork
net = NeuralNetwork(2, 4, 1, random_state=0)
net.train(np.ones((4, 2)), np.ones((4, 1)), 1, 0.1)
"""


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("x86-64-v9", "ValueError: FASTBP_LEVEL must be one of x86-64-v4, x86-64-v3, x86-64, aarch64, got 'x86-64-v9'"),
        (next(one.name for one in levels.LEVELS if one.machine != levels.machine()), "cannot run here: this processor is"),
    ],
)
def test_a_level_that_cannot_be_is_an_error(chosen, message):
    result = run_python("-c", ASK, env={"FASTBP_LEVEL": chosen})
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


def test_what_a_processor_lacks_is_named(processor):
    processor("x86_64", levels.AVX2)
    assert levels.lacking(levels.LEVELS[0]) == "has no avx512bw, avx512cd, avx512dq, avx512f, avx512vl"
    assert levels.lacking(levels.LEVELS[1]) == ""


COMPILE = """
import sys
from fastbp import kernels
from fastbp.kernels import jit

kernel, types = kernels.TRAIN[2], ("float32", jit.native_width())
sys.stdout.buffer.write(kernel.compile(*types)[0] + kernel.assembly(*types).encode())
"""
# the number of the machine in the head of an ELF file, and words of the assembly that must be there or not
EXPECTED = {
    "x86-64-v4": (62, b"%zmm", b"%xmm99"),
    "x86-64-v3": (62, b"vfmadd", b"%zmm"),
    "x86-64": (62, b"mulps", b"vfmadd"),
    "aarch64": (183, b"fmla", b"%xmm"),
}


@pytest.mark.compiles
@pytest.mark.draw(2)
@pytest.mark.parametrize("level", EXPECTED)
def test_machine_code_is_made_for_any_level(level):
    result = run_python("-c", COMPILE, env={"FASTBP_LEVEL": level}, text=False)
    assert result.returncode == 0, result.stderr.decode()[-2000:]
    machine, wanted, unwanted = EXPECTED[level]
    assert result.stdout[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", result.stdout, 18) == (machine,)
    assert wanted in result.stdout
    assert unwanted not in result.stdout


def test_the_level_tells_files_apart(monkeypatch):
    kernel, digest = jit.Kernel("narrow", "train", "x:T*"), jit.digest.__wrapped__
    names = {}
    for one in levels.LEVELS:
        monkeypatch.setattr(jit, "level", lambda one=one: one)
        names[kernel.file("float64", 64)] = digest()
    assert len(names) == len({*names.values()}) == len(levels.LEVELS)


def test_a_network_from_before_there_were_levels_can_be_saved(tmp_path):
    net = fastbp.NeuralNetwork(2, 4, 1)
    vars(net).pop("level", None)  # as one that was pickled then
    fastbp.save(tmp_path / "net.npz", net)
    assert fastbp.load(tmp_path / "net.npz").level is None


def test_debug_information_is_no_harm():
    result = run_python("-c", ASK, env={"NUMBA_DEBUGINFO": "1", "NUMBA_CACHE_DIR": "/nowhere"})
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_model_says_which_level_trained_it(tmp_path):
    X, y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1, 0])
    trained = jit.level_name()
    net = fastbp.NeuralNetwork(2, 4, 1, random_state=0)
    assert net.level is None
    net.gradients(X, y)
    assert net.level is None
    net.train(X, y, 1, 0.1)
    assert net.level == trained
    models = [net, *(fastbp.MLPClassifier(4, solver=solver, max_iter=2).fit(X, y) for solver in ("lbfgs", "adam"))]
    for model in models:
        fastbp.save(tmp_path / "model.npz", model)
        again, name = fastbp.load(tmp_path / "model.npz"), "level" if model is net else "level_"
        assert getattr(again, name) == getattr(model, name) == trained
        setattr(model, name, "x86-64-v9")  # as of another machine, which is kept until it is trained here
        fastbp.save(tmp_path / "model.npz", model)
        assert getattr(fastbp.load(tmp_path / "model.npz"), name) == "x86-64-v9"


@pytest.mark.compiled
@pytest.mark.parametrize(
    ("env", "command", "message"),
    [
        ({"FASTBP_VECTORS": "abc"}, ["info"], "FASTBP_VECTORS must be bytes and registers, as in '16x32', got 'abc'"),
        ({"FASTBP_LEVEL": "no"}, ["info"], "FASTBP_LEVEL must be one of x86-64-v4"),
        (
            {"FASTBP_LEVEL": next(one.name for one in levels.LEVELS if one.machine != levels.machine())},
            ["train", "xor", "--epochs", "1"],
            "cannot run here: this processor is",
        ),
        ({"NUMBA_DISABLE_JIT": "1"}, ["warmup"], "nothing is compiled with NUMBA_DISABLE_JIT set"),
    ],
)
def test_a_wrong_environment_is_one_line(env, command, message):
    result = run_python("-m", "fastbp", *command, env=env)
    assert result.returncode == 2
    assert result.stderr.startswith("fastbp: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
