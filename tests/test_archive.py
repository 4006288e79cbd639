import io
import os
import random
import stat
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import draws
import numpy as np
import pytest

from fastbp import files
from fastbp.files import ModelFileError

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "none": np.zeros((0, 3)),
    "number": np.array(1e-300),
    "text": np.array(["a", "", "größer"]),
    "file": np.array([b"x", b"yy"]),
    "allow_pickle": np.array([True, False]),
    "days": np.array(["2020-01-01", "NaT"], "datetime64[D]"),
    "swapped": np.array([1, 2], ">i4"),
}


@pytest.fixture
def path(tmp_path):
    files.write(tmp_path / "file.npz", {"answer": 42}, ARRAYS)
    return tmp_path / "file.npz"


def read(path, *names):
    with files.reading(path) as contents:
        return [contents.array(name) for name in names]


def write_member(path, content):
    """A file whose only array has some raw content."""
    with zipfile.ZipFile(path, "w") as contents:
        header = io.BytesIO()
        np.save(header, np.array("{}"))
        contents.writestr("header.npy", header.getvalue())
        contents.writestr("x.npy", content)


def npy(shape, dtype="<f8", data=b""):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"shape": shape, "fortran_order": False, "descr": dtype})
    return head.getvalue() + data


def test_arrays_come_back_as_they_were(path):
    with files.reading(path) as contents:
        assert contents.header == {"answer": 42}
        assert contents.sealed
        for name, array in ARRAYS.items():
            again = contents.array(name)
            np.testing.assert_array_equal(again, array, strict=True)
            assert again.flags.writeable
            assert again.flags.owndata
            assert again.flags.f_contiguous == array.flags.f_contiguous


def test_numpy_opens_it_too(path):
    with np.load(path) as contents:
        assert set(contents) == {"header", *ARRAYS}
        np.testing.assert_array_equal(contents["matrix"], ARRAYS["matrix"])


def test_the_same_contents_are_the_same_bytes(path):
    before = path.read_bytes()
    files.write(path, {"answer": 42}, ARRAYS)
    assert path.read_bytes() == before


def test_an_array_is_read_once(path):
    with pytest.raises(ModelFileError, match="no matrix"):
        read(path, "matrix", "matrix")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12,)), "0 bytes for float64 of shape"),
        (npy((10**12,), "<U0"), "0 bytes for <U0 of shape"),
        (npy((-1, -1), data=bytes(8)), "not a fastbp model file, or is damaged"),
        (npy((2,), data=bytes(17)), "17 bytes"),
        (npy((1,), "|O", bytes(8)), "must hold numbers or text, got object"),
        (npy((1,), [("a", "<f8")], bytes(8)), "must hold numbers or text"),
        (b"\x93NUMPY\x07\x00", "not a fastbp model file, or is damaged"),
    ],
)
def test_arrays_that_are_none_are_refused(tmp_path, content, message):
    write_member(tmp_path / "file.npz", content)
    with pytest.raises(ModelFileError, match=message):
        read(tmp_path / "file.npz", "x")


def even(value):
    return value % 2 == 0


@pytest.mark.parametrize(
    ("kind", "of_it", "of_others"),
    [
        (None, [None], [0, ""]),
        (int, [0, 10**30], [True, 1.0, None]),
        (bool, [True], [1, "True"]),
        (object, [True, None, []], []),
        ((None, [int]), [None, [], [1, 2]], [1, [1, None], [True], (1,)]),
        ({str: [int]}, [{}, {"a": [1]}], [{1: []}, {"a": 1}, []]),
        (even, [0, 2], [1]),
        ([even], [[0, 2]], [[0, 1]]),
    ],
)
def test_kinds_of_parts(kind, of_it, of_others):
    assert [files.fits(value, kind) for value in of_it] == [True] * len(of_it)
    assert [files.fits(value, kind) for value in of_others] == [False] * len(of_others)


VALUES = [None, True, 3, -0.5, float("inf"), "größer", [], [1, [2.0, None]], (1, ("a",)), {1: "a", (2, None): {"b": []}}]
VALUES += [np.float32(0.1), np.array(["a", 1, None], object), [np.float64(1), np.float64(2)], {"x": np.arange(3)}]


def test_a_tree_comes_back_as_it_was(tmp_path):
    arrays = {}
    files.write(tmp_path / "file.npz", {"tree": files.encode("tree", VALUES, arrays)}, arrays)
    with files.reading(tmp_path / "file.npz") as contents:
        again = files.decode(contents.header["tree"], contents)
    assert repr(again) == repr(VALUES)


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        files.write(tmp_path / "file.npz", {}, {"x": np.array([None])})
    assert not list(tmp_path.iterdir())


def test_a_header_that_is_no_object_is_refused(tmp_path):
    files.write(tmp_path / "file.npz", ["a"], {})
    with pytest.raises(ModelFileError, match="header"):
        read(tmp_path / "file.npz")


def test_appending_to_a_file_is_seen(path):
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelFileError, match="damaged"):
        read(path, "matrix")


# --- whole or not at all ----------------------------------------------------------------------------------------------


def test_threads_may_write_to_one_path_at_once(tmp_path):
    path = tmp_path / "file.npz"
    headers = [{"thread": number} for number in range(80)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda header: files.write(path, header, ARRAYS), headers))
    with files.reading(path) as contents:
        assert contents.header in headers
    assert list(tmp_path.iterdir()) == [path]


PROCESS = """
import sys
from fastbp import files
for number in range(20):
    files.write(sys.argv[1], {"number": number}, {})
"""


def test_processes_may_write_to_one_path_at_once(tmp_path):
    path = tmp_path / "file.npz"
    root = Path(files.__file__).parent.parent
    command = [sys.executable, "-c", PROCESS, path]
    running = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in running] == [("", 0)] * 3
    read(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_behind_is_not_in_the_way(tmp_path):
    path = tmp_path / "file.npz"
    (tmp_path / f".{path.name}.{os.getpid()}.tmp").touch()
    before = set(tmp_path.iterdir())
    files.write(path, {}, ARRAYS)
    assert set(tmp_path.iterdir()) == before | {path}


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path):
    path = tmp_path / ("x" * 255)
    files.write(path, {}, {})
    read(path)


modes = pytest.mark.skipif(os.name == "nt", reason="the system has no modes of files")


@modes
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o666, 0o444])
def test_a_file_keeps_its_mode(path, mode):
    path.chmod(mode)
    files.write(path, {}, {})
    assert stat.S_IMODE(path.stat().st_mode) == mode


@modes
def test_nobody_else_reads_a_private_file_while_it_is_written(path):
    path.chmod(0o600)
    with files.replacing(path) as stream:
        assert stat.S_IMODE(os.fstat(stream.fileno()).st_mode) == 0o600


@modes
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_usual_mode(tmp_path, mask):
    before = os.umask(mask)
    try:
        files.write(tmp_path / "ours", {}, {})
        (tmp_path / "any").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "any").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files to others")
def test_root_leaves_a_file_to_its_owner(path):
    os.chown(path, 12345, 12346)
    files.write(path, {}, {})
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_a_link_goes_on_pointing_where_it_pointed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/file.npz")  # which is not there yet
    for number in range(2):
        files.write(tmp_path / "link", {"number": number}, {})
        assert (tmp_path / "link").is_symlink()
        with files.reading(tmp_path / "folder" / "file.npz") as contents:
            assert contents.header == {"number": number}
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file.npz"]


class Stop(BaseException):
    """What comes from a signal's handler, as KeyboardInterrupt does."""


def stopped_at(line, call):
    """Raise Stop in the first line from some on of all that `call` runs; whether it has so many."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        could = event == "line" and (count < line - 1 or not finalizing(frame))
        count += could
        if could and count == line:
            sys.settrace(None)
            raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Stop:
        return True
    finally:
        sys.settrace(before)
    assert count < line, f"Stop was lost in line {line}"
    return False


def finalizing(frame):
    """Whether an object is being thrown away: Python lets no error out of that."""
    while frame and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def test_an_interrupt_at_any_line_comes_out_as_it_is_and_leaves_a_whole_file(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which is slow
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # zipfile on archives that were not even made
    old, found, line = path.read_bytes(), set(), random.Random(f"{draws.SEED} lines").randrange(-2, 1)
    while stopped_at(line := line + 3, lambda: files.write(path, {"new": True}, {"x": np.ones(3)})):  # others next time
        with files.reading(path) as contents:
            found.add("new" in contents.header)
        assert list(path.parent.iterdir()) == [path]
        path.write_bytes(old)
    assert line > 300
    assert found == {False, True}  # before the file had its name, and after


def replace_half(path):
    with files.replacing(path) as stream:
        stream.write(b"half")
        raise KeyError("half")


def test_an_error_in_a_block_that_replaces_leaves_the_old_file(path):
    before = path.read_bytes()
    with pytest.raises(KeyError, match="half"):
        replace_half(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
