"""Machine code on disk: when it is used, and that nothing about it can go wrong."""

import hashlib
import importlib.metadata
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import draws
import llvmlite.binding  # noqa: F401, before a test changes what it is imported with
import numpy as np
import pytest
from processes import run_python

from fastbp.kernels import jit, levels, objects
from fastbp.kernels.control import repeat
from fastbp.kernels.numbers import element, put

pytestmark = [pytest.mark.compiled, pytest.mark.compiles]

SECONDS = 120  # for a subprocess that compiles, on a busy machine


def scale(job):
    repeat(job.n, lambda i: put(job.x, i, element(job.x, i) * element(job.factor, 0)))


class CountingKernel(jit.Kernel):
    """A kernel that compiles in no time, and counts how often it does."""

    def __init__(self):
        super().__init__("scale", "scale", "x:T* n factor:T*")
        self.compiled = 0

    def __call__(self, x, factor):
        super().__call__(x, len(x), np.array([factor], x.dtype))

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
        kernel(x, 2.5)
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
        list(pool.map(lambda x: kernel(x, 3.0), arrays))
    assert kernel.compiled == 1
    assert all(list(x) == [3, 3, 3] for x in arrays)


def test_numba_makes_no_code_by_itself(monkeypatch):
    """It would optimise for this processor what is then optimised for a level; the names are numba's own."""
    from numba.core.codegen import CPUCodeLibrary

    def fail(*args):
        raise AssertionError("numba optimises by itself")

    for name in ("_optimize_functions", "_optimize_final_module", "finalize"):
        monkeypatch.setattr(CPUCodeLibrary, name, fail)
    module, _ = CountingKernel().optimised("float64", 64)
    assert "alloca" not in str(module)


# --- when it is stale -------------------------------------------------------------------------------------------------


def test_a_changed_digest_means_compiling_again(folder, monkeypatch):
    assert times_compiled() == 1
    monkeypatch.setattr(jit, "digest", lambda: "0" * 24)
    assert times_compiled() == 1
    assert times_compiled() == 0
    assert len(list(folder.iterdir())) == 2


def test_a_file_under_another_name_is_not_run(folder):
    assert times_compiled() == 1
    (file,) = folder.iterdir()
    other = folder / file.name.replace("float64", "float32")
    assert other != file
    shutil.copy(file, other)
    assert times_compiled("float32") == 1
    assert times_compiled() == 0


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of everything that is compiled, in place of the package."""
    folder = tmp_path / "package" / "kernels"
    folder.mkdir(parents=True)
    for path in [*objects.FOLDER.glob("*.py"), objects.FOLDER.parent / "layout.py", objects.FOLDER.parent / "rule.py"]:
        copy = folder / path.name if path.parent == objects.FOLDER else folder.parent / path.name
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(jit.importlib.resources, "files", lambda name: folder.parent)
    return folder


def edit(path):
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")


CHANGES = {
    "kernel": lambda folder, monkeypatch: edit(folder / "narrow.py"),
    "pointwise": lambda folder, monkeypatch: edit(folder / "pointwise.py"),
    "vocabulary": lambda folder, monkeypatch: edit(folder / "vectors.py"),
    "layout": lambda folder, monkeypatch: edit(folder.parent / "layout.py"),
    "rule": lambda folder, monkeypatch: edit(folder.parent / "rule.py"),
    "losses": lambda folder, monkeypatch: edit(folder / "losses.py"),
    "new file": lambda folder, monkeypatch: (folder / "new.py").write_text(""),
    "options": lambda folder, monkeypatch: edit(folder / "building.py"),
    "level": lambda folder, monkeypatch: monkeypatch.setattr(jit, "level", lambda: levels.Level("abacus", "wood")),
    "system": lambda folder, monkeypatch: monkeypatch.setattr(jit.sys, "platform", "plan9"),
    "vectors": lambda folder, monkeypatch: monkeypatch.setattr(jit, "OTHER_VECTORS", "8x2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_machine_code_changes_the_digest(change, sources, monkeypatch):
    digest = jit.digest.__wrapped__
    before = digest()
    assert digest() == before
    CHANGES[change](sources, monkeypatch)
    assert digest() not in (None, before)


def test_an_upgrade_of_the_compiler_compiles_nothing(folder, monkeypatch):
    """Versions of numba and llvmlite belong to the making of machine code, and not to its use."""
    assert times_compiled() == 1
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    monkeypatch.setattr("llvmlite.__version__", "99.0")
    monkeypatch.setattr(jit, "digest", jit.digest.__wrapped__)
    assert times_compiled() == 0


LACKS = {
    "no sources": lambda folder, monkeypatch: shutil.rmtree(folder),
    "no kernels": lambda folder, monkeypatch: [path.unlink() for path in folder.iterdir()],
    "no rule": lambda folder, monkeypatch: (folder.parent / "rule.py").unlink(),
    "no resources": lambda folder, monkeypatch: monkeypatch.setattr(jit.importlib.resources, "files", raising),
}


def raising(name):
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("lack", LACKS)
def test_what_has_no_digest_is_not_kept(lack, sources, folder, monkeypatch):
    LACKS[lack](sources, monkeypatch)
    monkeypatch.setattr(jit, "digest", jit.digest.__wrapped__)
    assert jit.digest() is None
    monkeypatch.setattr(objects, "COMPILED", "nowhere")
    assert [times_compiled(), times_compiled()] == [1, 1]
    assert not folder.exists()
    assert jit.Kernel("narrow", "train", "x:T*").load_seconds("float64", 64) is None


# --- when it is damaged -----------------------------------------------------------------------------------------------


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def sealed(payload):
    return hashlib.sha256(payload).digest() + payload


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte long": lambda content: content + b"\0",
    "one bit in the checksum": lambda content: flip(content, 0),
    "one bit in the digest": lambda content: flip(content, objects.CHECKSUM_BYTES),
    "one bit in the code": lambda content: flip(content, len(content) // 2),
    "head without seconds": lambda content: sealed(b"digest\0code"),
    "head without end": lambda content: sealed(jit.digest().encode() + b" 1.0"),
    "head of other words": lambda content: sealed(jit.digest().encode() + b" soon\0code"),
    "head that is no text": lambda content: sealed(b"\xff 1.0\0code"),
    "another's digest": lambda content: sealed(b"0" * 24 + content[objects.CHECKSUM_BYTES + 24 :]),
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

    monkeypatch.setattr(objects.tempfile, "mkstemp", full)
    assert [times_compiled(), times_compiled()] == [1, 1]


def test_the_second_folder_is_used_where_the_first_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(objects, "cache_folders", lambda: [tmp_path / "file" / "cache", tmp_path / "home"])
    assert [times_compiled(), times_compiled()] == [1, 0]
    assert len(list((tmp_path / "home").iterdir())) == 1


def test_the_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert objects.cache_folders() == [objects.FOLDER / "__pycache__", tmp_path / "fastbp"]
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "chosen"))
    assert objects.cache_folders() == [tmp_path / "chosen" / "fastbp"]


def test_no_folder_is_made_up_for_a_user_without_a_home(monkeypatch):
    for name in ("NUMBA_CACHE_DIR", "LOCALAPPDATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it does for a user without a home
    assert objects.cache_folders() == [objects.FOLDER / "__pycache__"]
    monkeypatch.setenv("XDG_CACHE_HOME", "here")  # which the convention says to ignore
    assert objects.cache_folders() == [objects.FOLDER / "__pycache__"]


# --- when others may have written it ----------------------------------------------------------------------------------

OTHER = 12345


def give_away(path, monkeypatch):
    """Let a file belong to another user: by root, who can, or by being someone else."""
    if os.geteuid() == 0:
        os.chown(path, OTHER, OTHER)
    else:
        monkeypatch.setattr(objects.os, "geteuid", lambda: OTHER)


FOREIGN = {
    "another user's file": lambda file, monkeypatch: give_away(file, monkeypatch),
    "another user's folder": lambda file, monkeypatch: give_away(file.parent, monkeypatch),
    "in another user's folder": lambda file, monkeypatch: give_away(file.parent.parent, monkeypatch),
    "a file that all may write": lambda file, monkeypatch: file.chmod(0o666),
    "a file that a group may write": lambda file, monkeypatch: file.chmod(0o664),
    "a folder that all may write": lambda file, monkeypatch: file.parent.chmod(0o777),
    "a folder that a group may write": lambda file, monkeypatch: file.parent.chmod(0o775),
    "a folder that all may add to": lambda file, monkeypatch: file.parent.chmod(0o1777),
    "a folder that all may replace": lambda file, monkeypatch: file.parent.parent.chmod(0o777),
    "a link to a file": lambda file, monkeypatch: elsewhere(file, 0o666),
    "a link to a folder": lambda file, monkeypatch: elsewhere(file.parent, 0o777),
}


def elsewhere(path, mode):
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)
    target.chmod(mode)


owners = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no owners of files")


@owners
@pytest.mark.filterwarnings("ignore:machine code is not kept")
@pytest.mark.parametrize("way", FOREIGN)
def test_machine_code_that_others_may_have_written_is_not_run(way, folder, monkeypatch):
    monkeypatch.setattr(objects, "own_group", lambda user: None)
    assert times_compiled() == 1
    assert times_compiled() == 0
    (file,) = folder.iterdir()
    FOREIGN[way](file, monkeypatch)
    assert times_compiled() == 1


OWN = {
    "a folder in one that all may add to": lambda file: file.parent.parent.chmod(0o1777),
    "a link to a folder": lambda file: elsewhere(file.parent, 0o755),
    "a link to a file": lambda file: elsewhere(file, 0o644),
    "what the user's own group may write": lambda file: [path.chmod(0o775) for path in (file, *file.parents[:2])],
}


@owners
@pytest.mark.parametrize("way", OWN)
def test_what_nobody_else_may_write_is_used(way, folder, monkeypatch):
    monkeypatch.setattr(objects, "own_group", lambda user: os.getegid())
    assert times_compiled() == 1
    (file,) = folder.iterdir()
    OWN[way](file)
    assert times_compiled() == 0


@owners
def test_what_others_may_write_is_not_added_to(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    objects.warned.clear()
    with pytest.warns(UserWarning, match=rf"machine code is not kept: {folder} belongs to another user") as warned:
        assert [times_compiled(), times_compiled()] == [1, 1]
    assert len(warned) == 1
    assert not list(folder.iterdir())


@owners
@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_files_are_for_all_to_read_and_for_nobody_else_to_write(mask, folder):
    before = os.umask(mask)
    try:
        assert [times_compiled(), times_compiled()] == [1, 0]
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644
    assert folder.stat().st_mode & 0o022 == folder.parent.stat().st_mode & 0o022 == 0


@owners
def test_a_group_is_the_users_own_if_it_has_the_users_name_and_no_others(monkeypatch):
    import grp
    import pwd

    own_group = objects.own_group.__wrapped__
    monkeypatch.setattr(pwd, "getpwuid", lambda user: pwd.struct_passwd(("ann", "x", user, 7, "", "", "")))
    for name, members, expected in (("ann", [], 7), ("ann", ["ann"], 7), ("ann", ["bob"], None), ("staff", [], None)):
        monkeypatch.setattr(grp, "getgrgid", lambda group, fields=(name, "x", 7, members): grp.struct_group(fields))
        assert own_group(5) == expected
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user without an entry
    assert own_group(5) is None


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


# Three kernels are loaded at once, first thing in a process.
RACE = """
import threading
import numpy as np
from fastbp import NeuralNetwork

nets = [NeuralNetwork(2, 4, 1, random_state=0), NeuralNetwork(64, 128, 10, random_state=0),
        NeuralNetwork(4, 3, 2, dtype="float32", random_state=0)]
start = threading.Barrier(3)

def train(net, rows):
    X, y = np.ones((rows, net.units[0])), np.ones((rows, net.units[-1]))
    start.wait()
    net.train(X, y, 2, 0.01)

threads = [threading.Thread(target=train, args=pair) for pair in zip(nets, (4, 50, 30))]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sum(map(np.sum, nets[1].weights)))
"""


def test_threads_that_load_kernels_first_thing_do_not_crash():
    results = [run_python("-c", RACE) for _ in range(draws.examples(15, 2))]
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * len(results)
    assert len({result.stdout for result in results}) == 1


def test_threads_that_link_at_once_get_addresses(folder):
    assert times_compiled() == 1
    kernels, arrays = [CountingKernel() for _ in range(8)], [np.ones(3) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda kernel, x: kernel(x, 3.0), kernels, arrays))
    assert [kernel.compiled for kernel in kernels] == [0] * 8
    assert all(list(x) == [3, 3, 3] for x in arrays)


def test_files_with_one_symbol_are_not_taken_for_each_other(folder):
    """All kernels have the same name in their files, and are loaded together."""

    def doubled(job):
        scale(job)
        repeat(job.n, lambda i: put(job.x, i, element(job.x, i) * 2))

    kernels = CountingKernel(), CountingKernel()
    kernels[1].name, kernels[1].function = "doubled", lambda: doubled
    for kernel in kernels:
        kernel(np.ones(1), 1.0)
    codes = [objects.read_object(kernel.file("float64", jit.native_width()), jit.digest())[0] for kernel in kernels]
    results = []
    for code in codes:
        x = np.ones(1)
        factor = np.array([3.0])
        kernels[0].prototype(jit.link(code))(kernels[0].packed(x, 1, factor), 0, 1)
        results.append(x[0])
    assert results == [3, 6]


def test_an_address_of_0_is_never_called(folder, monkeypatch):
    assert times_compiled() == 1
    monkeypatch.setattr(jit, "SYMBOL", "another")
    with pytest.raises(RuntimeError, match="no another was found in machine code"):
        times_compiled()  # what is compiled then has none either, whose address is never called


# --- forks ------------------------------------------------------------------------------------------------------------

FORK = """
import multiprocessing, os, sys, threading, time, warnings
import numpy as np
from fastbp import NeuralNetwork
from fastbp.kernels import jit

warnings.simplefilter("ignore")  # that a process with threads should not fork

def predict(net):
    return net.feedforward(np.ones((4, net.units[0]))).tobytes()

def go(pipe):
    pipe.send(predict(NeuralNetwork(3, 4, 1, random_state=0, dtype="float32")))

held, compiling = threading.Event(), jit.Kernel.compile

def compile(self, dtype, width):  # holds whatever is held meanwhile, and compiles on
    held.set()
    time.sleep(0.2)
    return compiling(self, dtype, width)

jit.Kernel.compile = compile
thread = threading.Thread(target=predict, args=(NeuralNetwork(2, 4, 1, random_state=0),))
thread.start()
assert held.wait(60)
jit.Kernel.compile = compiling
if sys.argv[1] == "late":
    time.sleep(0.5)  # by now LLVM is at work
context = multiprocessing.get_context("fork")
receiver, sender = context.Pipe(duplex=False)
child = context.Process(target=go, args=(sender,), daemon=True)
child.start()
assert receiver.poll(60), "the child hangs"
theirs = receiver.recv()
thread.join()
assert theirs == predict(NeuralNetwork(3, 4, 1, random_state=0, dtype="float32"))
print("same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_process_that_forks_while_a_thread_compiles_has_a_child_that_goes_on(moment, folder):
    result = run_python("-c", FORK, moment)
    assert result.stdout == "same\n", result.stderr[-2000:]


FIRST = """
import os, signal, sys, threading, time, warnings
import numpy as np
from fastbp import NeuralNetwork

warnings.simplefilter("ignore")  # that a process with threads should not fork

def go():
    return NeuralNetwork(3, 4, 1, random_state=0).train(np.ones((4, 3)), np.ones((4, 1)), 2)

NeuralNetwork(3, 4, 1, random_state=0)  # imports what draws random numbers
thread = threading.Thread(target=go)
thread.start()
time.sleep(float(sys.argv[1]))
child = os.fork()
if not child:
    signal.alarm(20)  # where it waits for a thread that is not there
    go()
    os._exit(0)
thread.join()
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
@pytest.mark.parametrize("place", range(4))
def test_a_process_that_forks_while_a_thread_trains_first_thing_has_a_child_that_trains(place):
    delay = random.Random(f"{draws.SEED} {place}").uniform(0, 0.03)  # of which most pass within imports
    result = run_python("-c", FIRST, delay)
    assert result.stdout == "0\n", (delay, result.stderr[-2000:])


OTHERS = """
import os, signal, sys, threading, time, warnings
import numba, numpy as np
from fastbp import NeuralNetwork

warnings.simplefilter("ignore")
X = np.eye(2)
NeuralNetwork(2, 4, 1, random_state=0).train(X, X[:, :1], 2)

def compiling():
    while True:
        numba.njit("f8(f8[:])")(lambda x: x.sum() * 2)

threading.Thread(target=compiling, daemon=True).start()
time.sleep(1)
for number in range(3):
    time.sleep(0.017 * number)
    child = os.fork()
    if not child:
        signal.alarm(20)
        NeuralNetwork(2, 9, 1, dtype="float32").train(X, X[:, :1], 2)
        numba.njit("f8(f8)")(lambda x: x * 2)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
def test_a_process_that_forks_while_a_thread_compiles_functions_of_its_own_has_a_child_that_goes_on():
    result = run_python("-c", OTHERS)
    assert result.stdout == "0\n" * 3, result.stderr[-2000:]
