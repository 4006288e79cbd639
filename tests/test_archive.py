import io
import zipfile

import numpy as np
import pytest

from fastbp import archive
from fastbp.archive import ModelFileError

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
    archive.write(tmp_path / "file.npz", {"answer": 42}, ARRAYS)
    return tmp_path / "file.npz"


def read(path, *names):
    with archive.reading(path) as contents:
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
    with archive.reading(path) as contents:
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
    archive.write(path, {"answer": 42}, ARRAYS)
    assert path.read_bytes() == before


def test_an_array_is_read_once(path):
    with pytest.raises(ModelFileError, match="no matrix"):
        read(path, "matrix", "matrix")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy((10**12,)), "0 bytes for float64 of shape"),
        (npy((10**12,), "<U0"), "not a fastbp model file, or is damaged"),
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


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        archive.write(tmp_path / "file.npz", {}, {"x": np.array([None])})
    assert not list(tmp_path.iterdir())


def test_a_header_that_is_no_object_is_refused(tmp_path):
    archive.write(tmp_path / "file.npz", ["a"], {})
    with pytest.raises(ModelFileError, match="header"):
        read(tmp_path / "file.npz")


def test_appending_to_a_file_is_seen(path):
    with path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelFileError, match="damaged"):
        read(path, "matrix")
