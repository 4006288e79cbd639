"""Machine code on disk: when it is used, and that nothing about it can go wrong."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastbp.kernels import jit

pytestmark = pytest.mark.compiled

SECONDS = 120  # for a subprocess that compiles, on a busy machine


def scale(x, n, factor):
    for i in range(n):
        x[i] *= factor


class CountingKernel(jit.Kernel):
    """A kernel that compiles in no time, and counts how often it does."""

    def __init__(self):
        super().__init__("scale", "scale", "T* int double")
        self.compiled = 0

    def function(self):
        return scale

    def compile(self, dtype, width):
        self.compiled += 1
        return super().compile(dtype, width)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastbp"


def times_compiled(dtype="float64"):
    """Use a kernel as a new process would; how often it compiled."""
    kernel = CountingKernel()
    for _ in range(2):
        x = np.arange(4, dtype=dtype)
        kernel(x, len(x), 2.5)
        assert x.dtype == dtype
        assert list(x) == [0, 2.5, 5, 7.5]
    return kernel.compiled


def test_the_second_process_does_not_compile(folder):
    assert times_compiled() == 1
    assert len(list(folder.iterdir())) == 1
    assert times_compiled() == 0


def test_each_float_type_has_its_own_file(folder):
    assert [times_compiled(dtype) for dtype in ("float64", "float32", "float64", "float32")] == [1, 1, 0, 0]
    assert len(list(folder.iterdir())) == 2


def test_threads_that_come_at_once_compile_once(folder):
    kernel, arrays = CountingKernel(), [np.ones(3) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda x: kernel(x, len(x), 3.0), arrays))
    assert kernel.compiled == 1
    assert all(list(x) == [3, 3, 3] for x in arrays)


# --- when it is stale -------------------------------------------------------------------------------------------------


def test_a_changed_digest_means_compiling_again(folder, monkeypatch):
    assert times_compiled() == 1
    monkeypatch.setattr(jit, "digest", lambda: "0" * 24)
    assert times_compiled() == 1
    assert times_compiled() == 0
    assert len(list(folder.iterdir())) == 2


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of everything that is compiled, in place of the package."""
    folder = tmp_path / "package" / "kernels"
    folder.mkdir(parents=True)
    for path in [*jit.FOLDER.glob("*.py"), jit.FOLDER.parent / "layout.py", jit.FOLDER.parent / "rule.py"]:
        copy = folder / path.name if path.parent == jit.FOLDER else folder.parent / path.name
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(jit, "FOLDER", folder)
    return folder


def edit(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


CHANGES = {
    "kernel": lambda monkeypatch: edit(jit.FOLDER / "narrow.py"),
    "pointwise": lambda monkeypatch: edit(jit.FOLDER / "pointwise.py"),
    "vocabulary": lambda monkeypatch: edit(jit.FOLDER / "simd.py"),
    "layout": lambda monkeypatch: edit(jit.FOLDER.parent / "layout.py"),
    "rule": lambda monkeypatch: edit(jit.FOLDER.parent / "rule.py"),
    "losses": lambda monkeypatch: edit(jit.FOLDER / "losses.py"),
    "new file": lambda monkeypatch: (jit.FOLDER / "new.py").write_text(""),
    "options": lambda monkeypatch: monkeypatch.setitem(jit.OPTIONS, "fastmath", True),
    "versions": lambda monkeypatch: monkeypatch.setattr(jit.importlib.metadata, "version", lambda name: "0"),
    "processor": lambda monkeypatch: monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "abacus"),
    "numba settings": lambda monkeypatch: monkeypatch.setenv("NUMBA_OPT", "1"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_machine_code_changes_the_digest(change, sources, monkeypatch):
    digest = jit.digest.__wrapped__
    before = digest()
    assert digest() == before
    CHANGES[change](monkeypatch)
    assert digest() != before


# --- when it is damaged -----------------------------------------------------------------------------------------------


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte long": lambda content: content + b"\0",
    "one bit in the checksum": lambda content: flip(content, 0),
    "one bit in the name": lambda content: flip(content, jit.CHECKSUM_BYTES),
    "one bit in the code": lambda content: flip(content, len(content) // 2),
    "foreign": lambda content: b"\x7fELF" + bytes(100),
    "text": lambda content: b"hello",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_means_compiling_again(damage, folder):
    assert times_compiled() == 1
    (file,) = folder.iterdir()
    content = file.read_bytes()
    file.write_bytes(DAMAGES[damage](content))
    assert times_compiled() == 1
    assert list(folder.iterdir()) == [file]
    assert times_compiled() == 0


# --- when there is no place for it ------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_done_without(folder):
    folder.parent.write_text("a file where a folder should be")
    assert [times_compiled(), times_compiled()] == [1, 1]


def test_a_file_that_cannot_be_replaced_is_done_without(folder):
    assert times_compiled() == 1
    (file,) = folder.iterdir()
    file.unlink()
    (file / "occupied").mkdir(parents=True)
    assert [times_compiled(), times_compiled()] == [1, 1]
    assert list(folder.iterdir()) == [file]


def test_a_full_disk_is_done_without(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jit.tempfile, "mkstemp", full)
    assert [times_compiled(), times_compiled()] == [1, 1]


def test_the_second_folder_is_used_where_the_first_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(jit, "cache_folders", lambda: [tmp_path / "file" / "cache", tmp_path / "home"])
    assert [times_compiled(), times_compiled()] == [1, 0]
    assert len(list((tmp_path / "home").iterdir())) == 1


def test_the_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jit.cache_folders() == [jit.FOLDER / "__pycache__", tmp_path / "fastbp"]
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert jit.cache_folders() == [tmp_path / "chosen" / "fastbp"]


# --- whole processes --------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np
from fastbp import NeuralNetwork

X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0], [1], [1], [0]])
net = NeuralNetwork(2, 4, 1, random_state=0)
if sys.argv[1:] == ["train"]:
    net.train(X, y, 100, 0.1)
print(net.feedforward(X).tobytes().hex())
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def start(*arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """The outputs of the network, and the names of all top-level modules that were loaded."""
    printed, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert errors == ""
    outputs, modules = printed.splitlines()
    return outputs, set(modules.split())


def test_processes_with_a_cold_cache_may_race(folder):
    racing = [finish(process) for process in [start(), start()]]
    assert len({outputs for outputs, _ in racing}) == 1
    (kept,) = folder.iterdir()
    assert kept.suffix == ".o"


def test_a_process_with_a_warm_cache_loads_no_compiler():
    first, _ = finish(start("train"))
    outputs, modules = finish(start("train"))
    assert outputs == first
    assert {"fastbp", "llvmlite", "numpy"} <= modules
    assert not modules & {"numba", "sklearn", "pandas", "matplotlib", "rich", "scipy"}
