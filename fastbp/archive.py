"""Files that keep a JSON text and arrays, whole or not at all.

A file is an uncompressed ``.npz``, which numpy opens too: a JSON text called ``header``, and arrays by name. Its last 71
bytes, the comment of the zip format, are ``sha256:`` and the digest of everything before the digits. Nothing in a file is
ever unpickled, and memory is asked for in proportion to the file's size, whatever the file says.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SEAL = b"sha256:"
DIGITS = 64
BLOCK = 1 << 20
# What the header of a network's file has for its format; those of estimators have another.
NETWORK = "fastbp model"
# Of arrays that mean the same everywhere: booleans, numbers, text, bytes, dates and times.
KINDS = "biufcUSMm"


class ModelFileError(ValueError):
    """A file is not a model file, or is damaged."""


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file so that `path` holds either what it held before or all of the new contents, whatever happens.

    Any number of threads and processes may write to one path at once; the last to finish stays. The mode of a file that is
    replaced stays, and its owner where that can be; a link goes on pointing where it pointed.

    Parameters
    ----------
    path : str or Path
        A file name, used as it is.

    Yields
    ------
    binary file
        A file without that name yet, for reading and writing, which takes it where the block ends without an error.

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `path` is something else than a file, a device for instance.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"path must be a file, got {path}")
    before = target.stat() if target.exists() else None
    # of its own for every call, and short whatever the name
    temporary = target.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        # nobody reads meanwhile what will not be for them to read
        with open(temporary, "x+b", opener=_private if before else None) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if before:
            with contextlib.suppress(OSError, AttributeError):  # only root gives files to others, and not on every system
                os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(stat.S_IMODE(before.st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write an archive by `replacing` what is at `path`.

    Parameters
    ----------
    path : str or Path
    header : mapping
        What JSON can express.
    arrays : mapping of str to ndarray

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `path` is something else than a file, a device for instance.
    """
    text = np.array(json.dumps(header, allow_nan=False))
    with replacing(path) as stream:
        _write_members(stream, {"header": text, **arrays})
        stream.seek(0)
        digest = _digest(stream, stream.seek(0, io.SEEK_END) - DIGITS)
        stream.seek(-DIGITS, io.SEEK_END)
        stream.write(digest)


def _write_members(stream: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    archive = zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED)
    try:
        for name, array in arrays.items():
            # a ZipInfo without a date: the same contents are the same bytes
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = SEAL + b"0" * DIGITS
        archive.close()
    except BaseException:
        archive.fp = None  # closing an archive that is thrown away would raise an error of its own about it
        raise


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: str | Path) -> "Iterator[Archive]":
    """Open a file for reading; whatever goes wrong with its contents in the block is a `ModelFileError` that names it.

    Parameters
    ----------
    path : str or Path

    Yields
    ------
    Archive

    Raises
    ------
    OSError
        If the file cannot be opened.
    ModelFileError
        If it is truncated, damaged or something else.
    """
    with Path(path).open("rb") as stream:
        try:
            yield Archive(stream)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from None
        # zipfile, json and numpy raise a dozen kinds of error on bytes that are not theirs
        except Exception as error:
            raise ModelFileError(f"{path} is not a fastbp model file, or is damaged: {error}") from error


class Archive:
    """An open file.

    Attributes
    ----------
    header : dict
    sealed : bool
        Whether the file ends in a digest, which then is the right one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        size = stream.seek(0, io.SEEK_END)
        self.sealed = _sealed(stream, size)
        self._zip = zipfile.ZipFile(stream)
        if self._zip.comment.startswith(SEAL) and not self.sealed:
            raise ModelFileError("is damaged: it goes on after its checksum")
        self._unread = {info.filename: info for info in self._zip.infolist()}
        # members that overlap could add up to far more than the file
        if sum(info.compress_size for info in self._unread.values()) > size:
            raise ModelFileError("is damaged: its members are larger than the file")
        header = json.loads(str(self.array("header")))
        if not isinstance(header, dict):
            raise ModelFileError("is not a fastbp model file, or is damaged: header")
        self.header: dict[str, Any] = header

    def array(self, name: str) -> np.ndarray:
        """Return an array of the file, which can be read once."""
        info = self._unread.pop(f"{name}.npy", None)
        if info is None:
            raise ModelFileError(f"is not a fastbp model file, or is damaged: no {name}")
        # stored members cannot be larger than the file, so a small damaged file never asks for much memory
        if info.compress_type != zipfile.ZIP_STORED:
            raise ModelFileError(f"{name} must not be compressed")
        return _array(name, self._zip.read(info))


def _sealed(stream: BinaryIO, size: int) -> bool:
    """Whether a file of `size` bytes ends in a seal; an error where that is the wrong one."""
    length = len(SEAL) + DIGITS
    stream.seek(max(0, size - length))
    end = stream.read(length)
    if not end.startswith(SEAL):
        return False
    if _digest(stream, size - DIGITS) != end[len(SEAL) :]:
        raise ModelFileError("is damaged: its checksum does not fit its contents")
    return True


def _digest(stream: BinaryIO, length: int) -> bytes:
    """Hexadecimal digest of the first `length` bytes."""
    stream.seek(0)
    digest = hashlib.sha256()
    for start in range(0, length, BLOCK):
        digest.update(stream.read(min(BLOCK, length - start)))
    return digest.hexdigest().encode()


def _array(name: str, content: bytes) -> np.ndarray:
    """Parse an ``.npy`` file, whose size is compared with its shape before anything is allocated."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(stream)
    if dtype.kind not in KINDS:
        raise ModelFileError(f"{name} must hold numbers or text, got {dtype}")
    data = memoryview(content)[stream.tell() :]
    # what has no elements could have any shape, and be as long as a list of all its rows
    if math.prod(shape) * dtype.itemsize != len(data) or max(shape, default=0) > len(content):
        raise ModelFileError(f"{name} is damaged: {len(data)} bytes for {dtype} of shape {shape}")
    flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C").copy(order="K")
