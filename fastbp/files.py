"""Saved models: one codec of a tree of arrays and JSON, in files that are whole or not there at all.

A file is an uncompressed ``.npz``, which numpy opens too: a JSON text called ``header``, and arrays by name. Its last 71
bytes, the comment of the zip format, are ``sha256:`` and the digest of everything before the digits. Nothing in a file is
ever unpickled, and memory is asked for in proportion to the file's size, whatever the file says.

An estimator's header holds its parameters and its fitted state; every array, or list of numpy's scalars, is a member of its
own, named by where it stands. Objects with one key stand for what JSON has no word for: ``{"array": member}``,
``{"scalar": member}``, ``{"scalars": member}``, ``{"float": "inf"}``, ``{"tuple": [...]}``, ``{"dict": [[key, value],
...]}``, ``{"objects": [...]}`` (an array of Python's strings or numbers, as the classes are that come from a data frame).
Only names that a fitted estimator has are taken from a file, and only values of the kind, size and shape that go with them.
"""

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import reprlib
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SEAL, DIGITS = b"sha256:", 64
NETWORK, ESTIMATOR, CHECKPOINT = "fastbp model", "fastbp estimator", "fastbp checkpoint"
# The version that is written, and the first one with a checksum.
VERSIONS = {NETWORK: (4, 3), ESTIMATOR: (3, 1), CHECKPOINT: (1, 1)}
# Of arrays that mean the same everywhere: booleans, numbers, text, bytes, dates and times.
KINDS = "biufcUSMm"


class ModelFileError(ValueError):
    """A file is not a model file or is damaged, or what should become one is not whole."""


def require(holds: bool, message: str) -> None:
    """Raise a ModelFileError unless something holds."""
    if not holds:
        raise ModelFileError(message)


# ---- writing ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file so that `path` holds either what it held before or all of the new contents, whatever happens.

    Threads and processes may write to one path at once; the last to finish stays. What is replaced leaves its mode, its
    owner where that can be, and the links to it. An OSError if the file cannot be written, a ValueError for a device.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise ValueError(f"path must be a file, got {path}")
    before = target.stat() if target.exists() else None
    # of its own for every call, and short whatever the name
    temporary = target.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        # nobody reads meanwhile what will not be for them to read
        with open(temporary, "x+b", opener=functools.partial(os.open, mode=0o600) if before else None) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if before:
            with contextlib.suppress(OSError, AttributeError):  # only root gives files to others, and not on every system
                os.chown(temporary, before.st_uid, before.st_gid)
            temporary.chmod(stat.S_IMODE(before.st_mode))
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # of a full disk, say
            error.filename = str(path)
        raise
    with contextlib.suppress(OSError):  # makes the name durable, too, where the system lets a folder be opened
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path: str | Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a header, which JSON can express, and arrays by `replacing` what is at `path`."""
    content = io.BytesIO()
    archive = zipfile.ZipFile(content, "w", zipfile.ZIP_STORED)
    for name, array in {"header": np.array(json.dumps(header, allow_nan=False)), **arrays}.items():
        # a ZipInfo without a date: the same contents are the same bytes
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)
    archive.comment = SEAL + b"0" * DIGITS
    archive.close()
    before = content.getbuffer()[:-DIGITS]
    with replacing(path) as stream:
        stream.write(before)
        stream.write(_digest(before))


# ---- reading ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading(path: str | Path) -> "Iterator[Archive]":
    """Open a file as an `Archive`; errors about its contents in the block become a `ModelFileError` that names it."""
    content = Path(path).read_bytes()
    try:
        yield Archive(content)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None
    # zipfile, json and numpy raise a dozen kinds of error on bytes that are not theirs
    except Exception as error:
        raise ModelFileError(f"{path} is not a fastbp model file, or is damaged: {error}") from error


class Archive:
    """The contents of a file: its `header`, and whether it ends in a digest, which then is the right one."""

    def __init__(self, content: bytes) -> None:
        seal, digits = content[-DIGITS - len(SEAL) : -DIGITS], content[-DIGITS:]
        self.sealed = seal == SEAL
        right = not self.sealed or _digest(memoryview(content)[:-DIGITS]) == digits
        require(right, "is damaged: its checksum does not fit its contents")
        self._zip = zipfile.ZipFile(io.BytesIO(content))
        damaged = self._zip.comment.startswith(SEAL) and not self.sealed
        require(not damaged, "is damaged: it goes on after its checksum")
        self._unread = {info.filename: info for info in self._zip.infolist()}
        # members that overlap could add up to far more than the file
        total = sum(info.compress_size for info in self._unread.values())
        require(total <= len(content), "is damaged: its members are larger than the file")
        header = json.loads(str(self.array("header")))
        require(isinstance(header, dict), "is not a fastbp model file, or is damaged: header")
        self.header: dict[str, Any] = header

    def array(self, name: str) -> np.ndarray:
        """Return an array of the file, which can be read once."""
        info = self._unread.pop(f"{name}.npy", None)
        if info is None:
            raise ModelFileError(f"is not a fastbp model file, or is damaged: no {name}")
        # stored members cannot be larger than the file, so a small damaged file never asks for much memory
        require(info.compress_type == zipfile.ZIP_STORED, f"{name} must not be compressed")
        return _parsed(name, self._zip.read(info))

    def shaped(self, name: str, shape: tuple[int, ...], dtype: Any, finite: bool = True) -> np.ndarray:
        """Return an array of a shape and type, without NaN and infinity where it has to be finite."""
        array, shape, dtype = self.array(name), tuple(shape), np.dtype(dtype)
        got = f"{array.dtype} {array.shape}"
        require(array.shape == shape and array.dtype == dtype, f"{name} must be {dtype} of shape {shape}, got {got}")
        require(not finite or bool(np.isfinite(array).all()), f"{name} must be finite")
        return array

    def check_format(self, name: str) -> None:
        """Raise a ModelFileError for another format, a newer version, or a checksum that is not there."""
        found, version, (newest, first_sealed) = self.header.get("format"), self.header.get("format_version"), VERSIONS[name]
        require(found == name, f"format must be {name!r}, got {found!r}")
        known = type(version) is int and 1 <= version <= newest
        require(known, f"format_version must be at most {newest}, got {version!r}")
        sealed = self.sealed or self.header["format_version"] < first_sealed
        require(sealed, f"must end in a checksum, got format_version {version} without a checksum")


def _digest(content: memoryview) -> bytes:
    """Hexadecimal digest of what stands before it."""
    return hashlib.sha256(content).hexdigest().encode()


def _parsed(name: str, content: bytes) -> np.ndarray:
    """Array of an ``.npy`` file, whose size is compared with its shape before anything is allocated."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran_order, dtype = read_header(stream)
    require(dtype.kind in KINDS, f"{name} must hold numbers or text, got {dtype}")
    data = memoryview(content)[stream.tell() :]
    # what has no elements could have any shape, and be as long as a list of all its rows
    sound = math.prod(shape) * dtype.itemsize == len(data) and max(shape, default=0) <= len(content)
    require(sound, f"{name} is damaged: {len(data)} bytes for {dtype} of shape {shape}")
    flat = np.frombuffer(data, dtype) if data else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C").copy(order="K")


# ---- the tree --------------------------------------------------------------------------------------------------------


def encode(name: str, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value for JSON; what belongs in a member of its own is added to `arrays`."""

    def items(values: Iterable[Any]) -> list[Any]:
        return [encode(f"{name}.{place}", one, arrays) for place, one in enumerate(values)]

    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        return {"objects": items(value.tolist())}
    # a list of numpy's scalars of one type, as a curve may be, is an array in the file
    alike = isinstance(value, list) and len(set(map(type, value))) == 1 and isinstance(value[0], np.generic)
    if alike or isinstance(value, (np.ndarray, np.generic)):
        if (array := np.asarray(value)).dtype.kind not in KINDS:
            raise TypeError(f"{name} must hold numbers or text to be saved, got an array of {array.dtype}")
        arrays[name] = array
        return {"scalars" if alike else "array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, list):
        return items(value)
    if isinstance(value, tuple):
        return {"tuple": items(value)}
    if isinstance(value, dict):
        keys = [encode(f"{name}.{place}.key", one, arrays) for place, one in enumerate(value)]
        return {"dict": list(zip(keys, items(value.values()), strict=True))}
    raise TypeError(f"{name} must be None, a number, text, or arrays, lists or dicts of them to be saved, got {value!r}")


# What the objects with one key stand for: of the member that they name, and of what they hold.
MEMBERS: dict[str, Callable[[np.ndarray], Any]] = {"array": np.asarray, "scalar": lambda array: array[()], "scalars": list}
CONTENTS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": tuple,
    "dict": dict,
    "objects": lambda values: np.fromiter(values, object, len(values)),
}


def decode(value: Any, contents: Archive) -> Any:
    """Return the value that `encode` was given."""
    if isinstance(value, list):
        return [decode(one, contents) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return MEMBERS[kind](contents.array(content)) if kind in MEMBERS else CONTENTS[kind](decode(content, contents))


# ---- what parts can be -----------------------------------------------------------------------------------------------


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type (True and False are no numbers), None, one of a tuple of kinds, or as a function says.

    ``[kind]`` stands for a list, ``{kind: kind}`` for a dict of them.
    """
    if isinstance(kind, type):
        return isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))
    if isinstance(kind, tuple):
        return any(fits(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(one, kind[0]) for one in value)
    if isinstance(kind, dict):
        ((key, held),) = kind.items()
        return isinstance(value, dict) and all(fits(name, key) and fits(one, held) for name, one in value.items())
    return value is None if kind is None else kind(value)


def count(value: Any) -> bool:
    """Whether a value is a whole number >= 0."""
    return fits(value, (int, np.integer)) and bool(value >= 0)


def kinds_of(table: Mapping[str, Any]) -> dict[str, Any]:
    """The kind of each part, of kinds by the names of several parts."""
    return {name: kind for names, kind in table.items() for name in names.split()}


def check_parts(kinds: Mapping[str, Any], needed: Iterable[str], state: Mapping[str, Any]) -> None:
    """Raise a ModelFileError where a part is missing, or not of its kind."""
    for name, value in state.items():
        is_sound = name not in kinds or fits(value, kinds[name])
        require(is_sound, f"{name} must be what a fit leaves, got {reprlib.repr(value)}")
    missing = sorted({*needed} - state.keys())
    require(not missing, f"{', '.join(missing)} must be there")
