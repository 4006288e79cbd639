"""Tables larger than memory: Parquet and CSV files, made once into inputs and targets in a file that is mapped into memory.

A column is read at a time; what becomes of it stands in a temporary file until all of them are there, row by row.

A cache holds the matrix of inputs, the targets from the next multiple of `ALIGNED` bytes on, a header in JSON, and the
length of this, its SHA-256 and `MAGIC`, with which a whole file ends. The header has the `fingerprint` of what the cache was
made of, and the shapes and types that its size has to fit.
"""

import errno
import hashlib
import json
import mmap
import os
import struct
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import fastbp
from fastbp import background, checks, datasets, stream
from fastbp.arguments import did_you_mean
from fastbp.columnwise import Csvs, Parquets
from fastbp.datasets import TableFile, as_text
from fastbp.estimators.columns import Columns, one_hot
from fastbp.files import replacing
from fastbp.kernels import objects

FORMAT_VERSION = 3  # of caches; larger, too, where columns are made into inputs in another way
MAGIC = b"fastbp rows\n"
ARCHIVE = b"PK"  # how models and checkpoints begin, which may be called as a cache is
FOOTER = struct.Struct(f"<Q32s{len(MAGIC)}s")
ALIGNED = 64
# Bytes of inputs at a time, and threads at most, each of which has a column in memory.
BLOCK_BYTES, MOST_READERS = 1 << 20, 4
COLUMNS_STATE = ("kinds_", "left_out_", "words_", "categories_", "center_", "factor_")
# Whole numbers below it have fewer digits than codes.
CODES_FROM = 1e15
Array = np.ndarray


def rows(source: str | os.PathLike[str], target: str | None = None, *, columns: Columns | None = None, task: str = "auto",
         header: bool | None = None, decimal: str = ".", ignore: Sequence[str] = (),
         cache: str | os.PathLike[str] | None = None, dtype: str = "float32",
         max_categories: int = 100) -> "Rows":  # fmt: skip
    """Rows of a table of any size, as inputs of a network and their targets: ``fit(rows, rows.y)``.

    The first time, columns are decided on as ``fastbp train FILE`` does, but by all rows, and what they come to is kept in a
    file; from then on this is mapped into memory, until the table or an argument changes. That takes the memory of a few
    columns at a time, of 8 bytes a row and more for words, for each processor, of which four are used at most; and meanwhile
    twice the disk space that is needed in the end, for CSV that of the file as well.

    Parameters
    ----------
    source : str or path-like
        A Parquet file; a CSV file of any kind that ``fastbp train`` reads; or a folder, of which all files ``*.parquet`` are
        taken, or else all ``*.csv``, in the order of their names. They must have the same columns.
    target : str or None, default=None
        Column of the targets. Rows without one are left out, with a warning. None, for rows to predict, needs `columns`.
    columns : Columns or None, default=None
        Those of other rows, or `preprocessing_` of a table's estimator, as which these are to be read; None decides anew.
    task : {'auto', 'classification', 'regression'}, default='auto'
        Whether targets are labels; 'auto' finds out as ``fastbp train`` does.
    header : bool or None, default=None
        Whether CSV files begin with the names of the columns; None finds out.
    decimal : str, default='.'
        Decimal point of CSV files.
    ignore : sequence of str, default=()
        Columns to leave out.
    cache : str, path-like or None, default=None
        The file to keep inputs and targets in. None is the name of the source and ``.fastbp``, beside it, or in the user's
        cache folder where that cannot be written.
    dtype : {'float32', 'float64'}, default='float32'
        Float type of the inputs.
    max_categories : int, default=100
        How many categories a column can have; rarer ones are treated as unknown.

    Returns
    -------
    Rows

    Raises
    ------
    ValueError
        If an argument, the table or its target is not of the kind described, or a column holds dates.
    OSError
        If the source cannot be read, or the cache not be written; then there is none.
    ImportError
        If pyarrow or pandas is not installed.

    Warns
    -----
    UserWarning
        When the cache is made: for columns that are left out, cells that are taken for missing ones, rows without a target.

    Examples
    --------
    >>> train = fastbp.rows("train.parquet", target="price")  # doctest: +SKIP
    >>> model = fastbp.MLPRegressor().fit(train, train.y)  # doctest: +SKIP
    >>> model.predict(fastbp.rows("new.parquet", columns=train.columns))  # doctest: +SKIP
    """
    if columns is None and target is None:
        raise ValueError("target must be the name of a column, or columns those of other rows, got None for both")
    if not isinstance(columns, Columns | None):
        raise ValueError(f"columns must be those of other rows, got {columns!r}")
    checks.one_of(("auto", "classification", "regression"), "task", task)
    float_type, max_categories = checks.float_dtype("dtype", dtype), checks.at_least(1, "max_categories", max_categories)
    ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    for name, value in [("target", target), *(("ignore", one) for one in ignore)]:
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} must be the name of a column, got {value!r}")
    if header not in (None, True, False):
        raise ValueError(f"header must be True, False or None, got {header!r}")
    if not isinstance(decimal, str) or len(decimal) != 1 or decimal.isalnum():
        raise ValueError(f"decimal must be one character that marks decimals, got {decimal!r}")
    paths = _files(source)
    if cache is not None and any(Path(cache).resolve() == path.resolve() for path in paths):
        raise ValueError(f"cache must not be a file of the source, got {cache}")
    options: tuple = (target, columns and _state(columns), task, header, decimal, ignore, float_type.name, max_categories)
    options += () if cache is None else (str(Path(source).resolve()),)  # which several sources may be given
    mark = _fingerprint(paths, options)
    places = _places(Path(source), None if cache is None else Path(cache))
    for place in places:
        if (found := _opened(place, mark)) is not None:
            return found
    places = [place for place in places if _is_free(place, cache is not None)]
    if not places:
        raise ValueError(f"cache must name a file that fastbp.rows has written, or none that is there, got {cache}")
    make = _Conversion(Path(source), paths, target, columns, task, header, decimal, ignore, float_type, max_categories)
    place = next((one for one in places if os.access(one.parent, os.W_OK)), places[-1])
    for _ in range(3):  # another process may replace it meanwhile, with other options
        _write(place, make, lambda: _fingerprint(paths, options), mark)
        if (found := _opened(place, mark)) is not None:
            for message in make.said:
                warnings.warn(message, stacklevel=2)
            return found
    raise OSError(f"cache {place} is being written by others with other arguments: give each of them its own cache=")


class Rows(stream.OnFile):
    """Inputs of a network, mapped into memory; see `fastbp.rows`.

    Whatever an array can be indexed with gives an array; a slice ``[start:stop]`` gives a view that cannot be written.

    Attributes
    ----------
    shape : tuple of int
        Number of rows and of inputs: those of numbers, then those of categories, as ``columns.transform`` gives them.
    dtype : dtype
        float32 or float64.
    y : Targets or None
        None without a target.
    columns : Columns
        What makes inputs of the columns: ``columns.transform(frame)`` does so with a DataFrame.
    path : Path
        The cache.
    """

    ndim = 2

    def __init__(self, path: Path, inputs: Array, y: "Targets | None", columns: Columns) -> None:
        self.path, self._inputs, self.y, self.columns = path, inputs, y, columns
        self.shape, self.dtype = inputs.shape, inputs.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return self._inputs[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._inputs, dtype, copy=copy)

    def release(self, start: int, stop: int) -> None:
        """Let the system take back the memory in which it holds some rows; see `fastbp.stream.OnFile`."""
        stream.give_back(self._inputs, start, stop)

    def __repr__(self) -> str:
        return f"<{self.shape[0]} rows of {self.shape[1]} inputs, {self.dtype}, in {self.path}>"


class Targets(stream.OnFile):
    """Targets of rows: values as float64, or names of classes, of which the file holds the numbers.

    Attributes
    ----------
    shape : tuple of int
    dtype : dtype
        float64, or object where there are classes.
    classes : tuple of str
        Their names, sorted; empty for values.
    codes : ndarray of shape (n,), or None
        Numbers of the classes, by their place in `classes`; None for values.
    """

    ndim = 1

    def __init__(self, stored: Array, classes: Sequence[str]) -> None:
        self.classes, self._stored = tuple(classes), stored
        self.codes = stored if classes else None
        self._names = np.array(self.classes, object)
        self.shape, self.dtype = stored.shape, self._names.dtype if classes else stored.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        return self._names[self._stored[key]] if self.classes else self._stored[key]

    def release(self, start: int, stop: int) -> None:
        """As of `Rows`."""
        stream.give_back(self._stored, start, stop)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self[:], dtype, copy=None if self.classes else copy)


# ---- the cache -------------------------------------------------------------------------------------------------------


def _files(source: str | os.PathLike[str]) -> list[Path]:
    """Files of a source, which is one, or a folder of them."""
    path = Path(source)
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError(f"source must be a file or a folder, got {source}")
        path.stat()  # an OSError where there is none
        return [path]
    for suffix in (".parquet", ".csv"):
        if found := sorted(one for one in path.iterdir() if one.suffix.lower() == suffix and one.is_file()):
            return found
    raise ValueError(f"source must be a folder of .parquet or .csv files, got {source} without any")


def _state(columns: Columns) -> dict[str, Any]:
    """What is known of columns, for JSON, which tells all floats apart."""
    state = {name: vars(columns)[name] for name in COLUMNS_STATE}
    return state | {name: state[name].tolist() for name in ("center_", "factor_")} | {"most": columns.max_categories}


def _fingerprint(paths: Sequence[Path], options: Any) -> str:
    """What changes whenever a cache of these files has to."""
    found = [(path.name, (status := path.stat()).st_size, status.st_mtime_ns) for path in paths]
    facts = FORMAT_VERSION, fastbp.__version__, found, options
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _places(source: Path, cache: Path | None) -> list[Path]:
    """Where a cache may be, best first."""
    if cache is not None:
        return [cache.resolve()]
    beside = source.resolve().with_name(f"{source.resolve().name}.fastbp")
    name = f"{hashlib.sha256(str(beside).encode()).hexdigest()[:16]}-{beside.name}"
    return [beside, *[folder / name for folder in objects.cache_folders()[-1:]]]


def _opened(path: Path, mark: str) -> Rows | None:
    """The rows of a cache, or None where it is of something else, damaged, or not there."""
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        length, digest, magic = FOOTER.unpack(content[-FOOTER.size :])
        end = len(content) - FOOTER.size - length
        text = content[max(0, end) : -FOOTER.size]
    except (OSError, ValueError, struct.error):  # an empty file cannot be mapped
        return None
    if magic != MAGIC or end < 0 or hashlib.sha256(text).digest() != digest:
        return None
    about = json.loads(text)
    (n, width), dtype, kind = about["shape"], np.dtype(about["dtype"]), about["targets"]
    begin = _aligned(n * width * dtype.itemsize)
    if about["fingerprint"] != mark or begin + (n * np.dtype(kind).itemsize if kind else 0) != end:
        return None
    inputs = np.frombuffer(content, dtype, n * width).reshape(n, width)
    y = Targets(np.frombuffer(content, kind, n, begin), about["classes"]) if kind else None
    columns = Columns(about["columns"].pop("most"))
    for name, value in about["columns"].items():
        setattr(columns, name, value)
    columns.center_, columns.factor_ = np.array(columns.center_, float), np.array(columns.factor_, float)
    return Rows(path, inputs, y, columns)


def _is_free(path: Path, given: bool) -> bool:
    """Whether nothing but a cache would be lost if one were written there; one whose name was not given may be damaged."""
    try:
        with path.open("rb") as stream:
            start = stream.read(len(ARCHIVE))
            stream.seek(-min(len(MAGIC), os.fstat(stream.fileno()).st_size), os.SEEK_END)
            return not start or stream.read() == MAGIC or not (given or start == ARCHIVE)
    except OSError:  # there is none
        return True


def _write(path: Path, make: "_Conversion", mark_now: Callable[[], str], mark: str) -> None:
    """Make a cache, all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as stream:
            about = make(stream, path.parent) | {"fingerprint": mark}
            text = json.dumps(about).encode()
            stream.write(text + FOOTER.pack(len(text), hashlib.sha256(text).digest(), MAGIC))
            if mark_now() != mark:
                raise ValueError(f"source {make.source} has changed while it was read")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, "No space left for the cache, which cache= puts elsewhere", str(path)) from error
        raise


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


# ---- making it -------------------------------------------------------------------------------------------------------


@dataclass
class _Conversion:
    """What is to be made of a table, as `rows` is told; `said` is what there is to say about it."""

    source: Path
    paths: list[Path]
    target: str | None
    columns: Columns | None
    task: str
    header: bool | None
    decimal: str
    ignore: tuple[str, ...]
    dtype: np.dtype
    max_categories: int
    said: list[str] = field(default_factory=list)

    def __call__(self, stream, folder):
        """Write inputs and targets; returns what the header says about them."""
        self.said = []
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fastbp-") as room:
            table = self.table(room)
            names, known, y, classes = self.look(table)
            n = table.n if known is None else int(known.sum())
            file = Path(room) / "columns"  # one, as systems put up with few hundreds that are open
            with file.open("wb") as whole:
                whole.truncate(len(names) * n * self.dtype.itemsize)
            columns = self.read(table, names, known, n, file)
            width = write_rows(stream, file, names, columns, n, self.dtype)
        stream.write(bytes(_aligned(stream.tell()) - stream.tell()))
        if y is not None:
            stream.write(y.data)
        return {"shape": [n, width], "dtype": self.dtype.name, "targets": None if y is None else y.dtype.name,
                "classes": classes, "columns": _state(columns)}  # fmt: skip

    def table(self, room):
        """The table, of one kind or the other."""
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ImportError("fastbp.rows needs pyarrow: pip install 'fastbp[stream]'") from error
        first = TableFile(self.paths[0], self.decimal)
        first.sniff()
        if first.is_parquet:
            return Parquets(self.source, self.paths)
        if self.columns is None:
            text, mixed, expected, orders = [self.target], [], [self.target, *self.ignore], []
        else:
            expected = list(self.columns.kinds_)
            text, mixed, orders = [self.target, *self.columns.categories_], [*self.columns.words_], [expected]
        with_header = {"expected": [one for one in expected if one is not None], "header": self.header, "orders": orders}
        return Csvs(self.source, self.paths, self.decimal, text, mixed, with_header, room)

    def look(self, table):
        """Names of the columns to read, a mask of the rows with a target (None: all), their coded targets, the classes."""
        target, ignore = self.target, self.ignore
        datasets.check_columns(table, table.head(), target, self.header, ignore)
        names = [name for name in table.names if name not in (target, *ignore)]
        if self.columns is not None:
            names = list(self.columns.kinds_)
            missing = [name for name in names if name not in table.names or name == target]
            if missing:
                hint = did_you_mean(str(missing[0]), table.names)
                needed = ", ".join(map(str, names))
                raise ValueError(f"{table.path} must have the columns {needed}, got none called {missing[0]!r}{hint}")
        if target is None:
            return names, None, None, ()
        cells = table.column(target, labels=True)
        known = cells.notna().to_numpy()
        if known.sum() < 2:
            raise ValueError(f"{table.path} must have at least 2 rows whose {target!r} is known, got {known.sum()}")
        with table.naming_lines():
            y, classes = targets(table, cells, self.task)
        if known.all():
            return names, None, y, classes
        lost = f"{(~known).sum()} of {len(known)} rows are left out, because {target!r} is missing there"
        self.said.append(lost)
        return names, known, y, classes

    def read(self, table, names, known, n, file):
        """Write what each column comes to, where it is used, into its room in a file; returns the columns."""

        def learnt(name, column):
            if self.columns is not None:
                return self.columns, []
            return Columns(self.max_categories).of_one(name, column)

        def one(place):
            name = names[place]
            column = table.column(name)
            if self.columns is None and column.dtype.kind in "iuf" and column.dtype != np.float32:
                with table.naming_lines():  # also of rows without a target, as `fastbp train` does
                    datasets.numbers(column, name)
            column = column if known is None else column[known]
            with table.naming_lines(known):
                mine, said = learnt(name, column)
                if name in mine.kinds_:
                    put(place, mine.input_of(name, column, self.dtype))
            return mine, said

        def put(place, parts):
            with file.open("r+b") as stream:
                stream.seek(place * n * self.dtype.itemsize)
                for part in parts:
                    stream.write(part.data)

        found = background.each(one, range(len(names)), min(MOST_READERS, joblib.cpu_count()) if table.threads else 1)
        if self.columns is not None:
            return self.columns
        columns = Columns(self.max_categories)
        self.said += columns.join(found)
        return columns


def targets(table: Any, cells: Any, task: str) -> tuple[Array, tuple[str, ...]]:
    """Values, or numbers of classes and their names, of the target's cells that are not missing."""
    if task != "classification" and cells.dtype.kind in "iuf" and isinstance(cells.dtype, np.dtype):
        values = cells.to_numpy()
        low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
        most = max(-low, high)
        many = len(np.unique(values[: 100 * datasets.SAMPLED_ROWS])) > datasets.MAX_DETECTED_CLASSES + 1  # but for nan
        sound = most <= datasets.LARGEST and (values.dtype.kind == "f" or most < CODES_FROM)
        if (many or task == "regression") and sound and low != high:
            return values[~np.isnan(values)].astype(float, copy=False), ()
    if table.is_parquet:  # spelled as in a file of text
        cells = as_text(cells)
    codes, found, classes = datasets.targets(table, cells, task)
    if classes:
        classes = tuple(sorted(classes))  # as estimators have them
        kind, places = np.min_scalar_type(len(classes) - 1), {name: place for place, name in enumerate(classes)}
        return np.array([places[name] for name in found], kind)[codes], classes
    return found[codes], ()


def write_rows(stream: Any, file: Path, names: Sequence[str], columns: Columns, n: int, dtype: Any) -> int:
    """Write the matrix of columns that stand in a file, as values or numbers of categories; returns how many there are."""
    used = [name for name in columns.kinds_ if name not in columns.categories_] + list(columns.categories_)
    spread = [one_hot(columns.categories_[name]).astype(dtype) if name in columns.categories_ else None for name in used]
    kinds = [dtype if table is None else np.min_scalar_type(-table.shape[1]) for table in spread]
    rooms = dict(zip(names, np.memmap(file, np.uint8, "r", shape=(len(names), n * dtype.itemsize)), strict=True))
    stored = [rooms[name][: n * np.dtype(kind).itemsize].view(kind) for name, kind in zip(used, kinds, strict=True)]
    ends = np.cumsum([1 if table is None else table.shape[1] for table in spread])
    width = int(ends[-1])
    many = max(1, BLOCK_BYTES // (width * dtype.itemsize))
    block = np.empty((many, width), dtype)
    for start in range(0, n, many):
        out = block[: min(many, n - start)]
        for column, table, end in zip(stored, spread, ends, strict=True):
            part = column[start : start + many]
            if table is None:
                out[:, end - 1] = part
            else:
                out[:, end - table.shape[1] : end] = table[part]
        stream.write(out.data)
    return width
