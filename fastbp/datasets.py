"""Tables: what their cells hold, how files are read, and six named data sets.

pandas reads the files; what is decided here is where a table begins, what its target is, and which rows are held out.
"""

import bz2
import contextlib
import csv
import gzip
import io
import itertools
import lzma
import os
import re
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbp.arguments import did_you_mean

NAMES = ("xor", "iris", "digits", "wine", "breast_cancer", "diabetes")
MAX_DETECTED_CLASSES = 20
TEST_SIZE = 0.2
SAMPLE, SAMPLED_ROWS = 1 << 20, 100
SEPARATORS = "\t;|,"
COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
ENCODINGS = {b"\xef\xbb\xbf": ["utf-8-sig"], b"\xff\xfe": ["utf-16"], b"\xfe\xff": ["utf-16"]}
# The words that pandas takes for a missing value.
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
           "NULL", "NaN", "None", "n/a", "nan", "null"}  # fmt: skip
# A column of text is of one kind when this share of its filled cells is.
MOST = 0.9
# The words that pandas takes for booleans.
TRUTHS = {word: word[0] in "tT" for word in ("True", "TRUE", "true", "False", "FALSE", "false")}
# Squares of larger numbers, and their sum, could overflow.
LARGEST = 1e150

NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# Numbers with commas, currencies, signs of percent or of bounds, or digits that are not ASCII's; short ones, as the time to
# find out grows with the square of the length.
NUMBER_LIKE = re.compile(r"(?=.{1,40}\Z)[$€£¥<>~≤≥\s]*[+-]?[\d.,_'\s]*\d[\d.,_']*([eE][+-]?\d+)?[\s$€£¥%]*")
MONTH = (
    r"(jan(uary?)?|feb(ruary?)?|mar(ch)?|märz?|apr(il)?|ma[yi]|jun[ei]?|jul[yi]?|aug(ust)?|sept?(ember)?|o[ck]t(ober)?"
    r"|nov(ember)?|de[cz](ember)?)"
)
CLOCK = r"[0-2]?\d:[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[ap]\.?m\.?)?( ?(z|utc|gmt|[+-]\d\d(:?\d\d)?))?"
DATE = re.compile(
    rf"\s*((mon|tue|wed|thu|fri|sat|sun)[a-z]*[., ]+)?(\d{{4}}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.](\d{{4}}|\d\d)"
    rf"|(\d\d?[. -]+)?{MONTH}[ .,-]+(\d\d?,? ?)?\d{{2,4}}|(19|20)\d\d-(0[1-9]|1[0-2])|\d{{4}}年\d\d?月(\d\d?日)?)([ T].*)?"
    rf"|(19|20)\d{{6}}T\d{{4,6}}z?|{CLOCK}\s*",
    re.IGNORECASE,
)


class CellError(ValueError):
    """A cell holds what its column cannot: says where, for those who know the line of each row."""

    def __init__(self, column, row, problem):
        super().__init__(f"column {column!r}, row {row}: {problem}")
        self.column, self.row, self.problem = column, row, problem


# Whoever sets filters of warnings, which are those of all threads, holds it: in a `with` of its own, which no signal's
# handler can leave half done, as it could a function that yields.
filters: Any = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=filters._at_fork_reinit)  # where those threads are not


def pandas():
    """The module, or an ImportError that says where it comes from."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'fastbp[cli]'") from error
    return pandas


def text_of(cell):
    """The text by which a cell is known: of 1.0 that of 1, as whole numbers become floats where others are missing."""
    text = str(cell)
    return class_key(text) if "." in text else text


def as_text(cells):
    """The text by which cells are known, which takes the memory of a place for each of them where many are alike."""
    if cells.dtype == object:  # where 1 is True
        return cells.map(text_of, na_action="ignore")
    codes, found = pandas().factorize(cells)
    return pandas().Series(np.array([*map(text_of, found), np.nan], object)[codes], index=cells.index, name=cells.name)


def numbers(column, name, words=(), hint=""):
    """A column of a DataFrame as float64, with nan for missing cells and `words`; a CellError, with a hint, for any other.

    Numbers are what pandas reads as such; infinite ones, and those whose squares could overflow, are refused.
    """
    if column.dtype.kind == "c":
        raise ValueError(f"Complex data not supported, got it in column {name!r}")
    if isinstance(column.dtype, pandas().ArrowDtype) and column.dtype.kind == "O":  # decimals, of which none may be missing
        column = column.astype(object)
    values = pandas().to_numeric(column, errors="coerce").astype(float).to_numpy(float, na_value=np.nan)
    filled = column.notna().to_numpy()
    if words:  # "inf" may be one; objects are known by their text
        filled = filled & ~as_text(column).isin(list(words)).to_numpy()
        values = np.where(filled, values, np.nan)
    bad = np.flatnonzero(filled & ~(np.abs(values) <= LARGEST))
    if bad.size:
        found = np.array(column.iloc[bad[0]]).item()
        raise CellError(name, int(bad[0]), f"expected a finite number of at most {LARGEST:g}, got {found!r}{hint}")
    return values


def spelling_advice(text):
    """What to do about numbers that are not spelled as such."""
    if re.fullmatch(r"[+-]?\d+,\d+", text):
        return f"cells such as {text!r} hold a comma: --decimal , where it marks decimals, else take it out"
    return f"cells such as {text!r} look like numbers, but are not spelled as such: take the signs out"


def held_out(size, n, classes=None, random_state=None):
    """Which of n rows are held out, as booleans: a share `size` of them, and of every class; always the same by default.

    A class is only held out with rows to spare: of one or two rows, all are kept, and of others one at least.
    """
    order = (random_state or np.random.RandomState(0)).permutation(n)
    if classes is not None and not classes.dtype.isnative:  # which pandas does not read
        classes = classes.astype(classes.dtype.newbyteorder("="))
    labels = np.zeros(n, int) if classes is None else pandas().factorize(classes)[0][order]
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(n) - (np.cumsum(counts) - counts)[labels[by_class]]
    out = np.zeros(n, bool)
    many = counts[labels[by_class]]
    out[order[by_class]] = ((rank + 0.5) / many > 1 - size) & (rank > 0) & (many > 2)
    return out


# ---- named data sets -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dataset:
    """Rows to train on and held-out ones, of which there may be none, in their original units.

    X are arrays or DataFrames of shape (n_rows, n_features). y of shape (n_rows,) holds values, or where there are
    `class_names` these, as objects. `table` has the "target", and how a file was read, so that others can be read alike.
    """

    name: str
    X_train: Any
    y_train: np.ndarray
    X_test: Any
    y_test: np.ndarray
    feature_names: tuple[str, ...]
    class_names: tuple[str, ...]
    table: dict[str, Any]


def load_named(name: str) -> Dataset:
    """One of `NAMES`: iris is split as its founding network was; of others but xor, a fifth of every class is held out."""
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    table = {"target": "a xor b" if name == "xor" else "target"}
    if name == "xor":
        X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        y = np.array(["0", "1", "1", "0"], object)
        return Dataset(name, X, y, X[:0], y[:0], ("a", "b"), ("0", "1"), table)

    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(str(label) for label in getattr(bunch, "target_names", ()))
    features = tuple(str(feature) for feature in bunch.feature_names)
    y = np.array(classes, object)[bunch.target] if classes else bunch.target
    if name == "iris":
        X, X_test, y, y_test = train_test_split(bunch.data, y, test_size=20, random_state=4)
        return Dataset(name, X, y, X_test, y_test, features, classes, table)
    X = pandas().DataFrame(bunch.data, columns=list(features))
    return _split(name, X, np.arange(len(X)), y, classes, table)


def _split(name, X, rows, y, classes, table) -> Dataset:
    """Hold a fifth out of those rows of X for which there is a y."""
    test = held_out(TEST_SIZE, len(y), y if classes else None)
    if (y[~test] == y[~test][0]).all():
        raise ValueError(f"target column {table['target']!r} of {name} has the same value in every training row")
    X_train, X_test = X.iloc[rows[~test]], X.iloc[rows[test]]
    return Dataset(name, X_train, y[~test], X_test, y[test], tuple(map(str, X.columns)), classes, table)


# ---- files -----------------------------------------------------------------------------------------------------------


class TableFile:
    """A table in a file: separated by commas, semicolons, tabs or bars, also compressed, or Parquet; "-" is standard input.

    It can be read more than once, also where it comes through a pipe; `frame` is what was read last.
    """

    def __init__(self, path: str | Path, decimal: str = "."):
        self.path, self.decimal = str(path), decimal
        self.content: bytes | None = None
        if self.path == "-":
            if sys.stdin is None:
                raise ValueError("- is standard input, which is closed")
            self.content = sys.stdin.buffer.read()
        elif not Path(path).is_file():
            self.content = Path(path).read_bytes()

    def binary(self) -> Any:
        """The contents, not compressed, to read."""
        if self.content is None:
            return (self.opener or open)(self.path, "rb")
        stream = io.BytesIO(self.content)
        return self.opener(stream) if self.opener else stream

    def read(self, expected: Sequence[str] = (), header: bool | None = None, text: Sequence[str | None] = (),
             orders: Sequence[Sequence[str]] = (), by: Callable[["TableFile"], Any] | None = None,
             mixed: Sequence[str] = ()) -> "TableFile":  # fmt: skip
        """Read the table into `frame`, the columns `text` as they stand, those that are `mixed` as numbers and words.

        Whether there is a `header` is inferred where it is None, with the help of names that are `expected` in one. Without
        it, columns are called as in the first of `orders`, of a table like this one, that has as many, or 0, 1, ... A table
        that is no Parquet may be read `by` another function, which is called anew where the encoding proves to be another.
        """
        try:
            self.sniff()
            if self.is_parquet:
                self.frame, self.has_header = self._parquet(text), True
                return self
            for encoding in self.encodings:
                self.encoding = encoding
                with contextlib.suppress(UnicodeDecodeError):
                    self._look(expected, header, orders)
                    if by is None:
                        self._read(text, mixed)
                    else:
                        by(self)
                    return self
        except (csv.Error, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            if isinstance(error, OSError) and error.errno:  # the system's, and not that of what reads compressed files
                raise
            raise ValueError(f"{self.path} is not a CSV file: {error}") from None
        raise ValueError(f"{self.path} is not a CSV file in {' or '.join(self.encodings)}")

    def sniff(self) -> None:
        """Find out how the file is compressed and encoded."""
        self.opener: Any = None
        for _ in range(2):  # the second time what is compressed is seen
            with self.binary() as stream:
                start = stream.read(SAMPLE)
            self.opener = self.opener or next((one for mark, one in COMPRESSIONS.items() if start.startswith(mark)), None)
        self.is_parquet = start.startswith(b"PAR1")
        self.encodings = next((names for mark, names in ENCODINGS.items() if start.startswith(mark)), ["utf-8", "cp1252"])
        if not self.is_parquet and self.encodings[0] != "utf-16" and b"\0" in start:
            raise ValueError(f"{self.path} is not a CSV file: it is binary")

    def _text(self) -> io.TextIOWrapper:
        errors = "replace" if self.encoding == "cp1252" else "strict"
        return io.TextIOWrapper(self.binary(), self.encoding, errors, newline="")

    def _look(self, expected: Sequence[str], header: bool | None, orders: Sequence[Sequence[str]]) -> None:
        """Find separator and header in the first rows."""
        with self._text() as stream:
            start = stream.read(SAMPLE)
        said = re.match(r"sep=(.)\r?\n", start)
        self.skipped, lines = (1, start[said.end() :]) if said else (0, start)
        if len(start) == SAMPLE:
            lines = lines[: lines.rfind("\n") + 1] or lines
        candidates = said[1] if said else SEPARATORS.replace(self.decimal, "")
        # of separators that cut all rows alike the first is meant: a comma may also mark decimals
        starts = {one: _first_rows(lines, one) for one in candidates}
        self.separator = max(candidates, key=lambda one: _regularity(starts[one]))
        rows = starts[self.separator]
        if not rows:
            raise ValueError(f"{self.path} has no rows")
        self.has_header = _has_header(rows, expected, orders, self.decimal) if header is None else header
        places = [str(place) for place in range(len(rows[0]))]
        alike = (list(names) for names in orders if len(names) == len(places))
        self.names = names_of(self.path, rows[0]) if self.has_header else next(alike, places)

    def _rows(self, stream: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every row but the header."""
        for _ in range(self.skipped):
            stream.readline()
        for line, row in itertools.islice(_filled_rows(stream, self.separator), int(self.has_header), None):
            yield line + self.skipped, row

    def _read(self, text: Sequence[str | None], mixed: Sequence[str]) -> None:
        known = {name: str for name in (*text, *mixed) if name in self.names}
        # the first way takes less memory, but not columns that are numbers here and text there
        for low_memory in (True, False):
            with contextlib.suppress(pandas().errors.DtypeWarning):
                frame = self.parse(lambda frame: frame, dtype=known, low_memory=low_memory)
                break
        if not len(frame):
            raise ValueError(f"{self.path} has a header but no rows")
        self.check_last(frame[self.names[-1]].isna().any())
        self.frame = stripped(frame, text, self.decimal, mixed)

    def parse(self, use: Callable[[Any], Any], **options: Any) -> Any:
        """use(what pandas makes of the cells); a ValueError for cells that are no table, also where it is read in parts."""
        pd = pandas()
        # a plain file is read at its best by its name
        plain = self.content is self.opener is None and self.encoding == "utf-8"
        where = contextlib.nullcontext(self.path) if plain else self._text()
        with where as stream, filters, warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.DtypeWarning)
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                return use(pd.read_csv(
                    stream, sep=self.separator, header=0 if self.has_header else None, skiprows=self.skipped,
                    names=self.names, index_col=False, skipinitialspace=True, decimal=self.decimal, **options,
                ))  # fmt: skip
            except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
                self._refuse_uneven_rows()
                raise ValueError(f"{self.path} is not a CSV file: {error}") from None

    def check_last(self, missing: bool) -> None:
        """Raise a ValueError where cells of the last column are missing as rows are uneven."""
        if missing and not self._is_plainly_even():
            self._refuse_uneven_rows()

    def _is_plainly_even(self) -> bool:
        """Whether separators and ends of lines alternate as they should, which is told faster than by looking at rows."""
        line = self.separator.encode() * (len(self.names) - 1) + b"\n"
        others = bytes(set(range(256)) - {*line, *b'"'})
        with self.binary() as stream:
            while block := stream.read(SAMPLE) + stream.readline():
                marks = block.removesuffix(b"\n").translate(None, others) + b"\n"
                if marks != line * (len(marks) // len(line)):
                    return False
        return True

    def _refuse_uneven_rows(self) -> None:
        """Raise a ValueError for the first row of another length: pandas fills short ones up."""
        width = len(self.names)
        with self._text() as stream:
            for line, row in self._rows(stream):
                # a separator at the end of the line is no cell
                if len(row) != width and not (len(row) == width + 1 and not row[-1]):
                    raise ValueError(f"{self.path} line {line} has {len(row)} cells, expected {width}")

    def _parquet(self, text: Sequence[str | None]) -> Any:
        try:
            from pyarrow import parquet, types

            with self.binary() as stream:
                table = parquet.read_table(stream)
            frame = table.to_pandas()
        except ImportError:
            raise ValueError(f"{self.path} is a Parquet file, which needs pyarrow: pip install pyarrow") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.path} is not a Parquet file: {error}") from None
        if frame.index.names != [None]:
            frame = frame.reset_index()
        frame.columns = names_of(self.path, list(map(str, frame.columns)))
        frame = frame.reset_index(drop=True)
        for name in frame.columns.intersection(list(text)):
            if name in table.column_names and types.is_integer(table.schema.field(name).type):
                # which would become floats, where some are missing
                frame[name] = table.column(name).to_pandas(integer_object_nulls=True).to_numpy()
            frame[name] = frame[name].map(text_of, na_action="ignore")
        return frame

    def spelled(self, words: Any) -> Any:
        """Words with a point where numbers have one here."""
        return words if self.decimal == "." else words.str.replace(self.decimal, ".", regex=False)

    @contextlib.contextmanager
    def naming_lines(self) -> Iterator[None]:
        """Make a ValueError that names the line of an error that a cell causes."""
        try:
            yield
        except CellError as error:
            where = f"row {error.row + 1}"
            if not self.is_parquet:
                with self._text() as stream:
                    where = f"line {next(itertools.islice(self._rows(stream), error.row, None))[0]}"
            raise ValueError(f"{self.path} {where}, column {error.column!r}: {error.problem}") from None


def _filled_rows(stream: io.TextIOBase, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row that is not blank."""
    csv.field_size_limit(2**31 - 1)  # prose may be long; Python's own bound is 128 kB
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
    return ((reader.line_num, row) for row in reader if any(row) or len(row) > 1)


def _first_rows(text: str, separator: str) -> list[list[str]]:
    """The first rows of a table, or none where they cannot be told."""
    try:
        rows = itertools.islice(_filled_rows(io.StringIO(text, newline=""), separator), SAMPLED_ROWS)
        return [[cell.strip() for cell in row] for _, row in rows]
    except csv.Error:
        return []


def _regularity(rows: list[list[str]]) -> float:
    """Share of rows that have as many cells as the very first, if these are more than one."""
    lengths = list(map(len, rows))
    return lengths.count(lengths[0]) / len(lengths) if lengths and lengths[0] > 1 else 0.0


def _has_header(rows: list[list[str]], expected: Sequence[str], orders: Sequence[Sequence[str]], decimal: str) -> bool:
    """Whether the first row has the names of the columns."""
    # Not where it comes again, or is of numbers, unless they are 0, 1, 2, ... in order, as pandas numbers columns, or all
    # `expected` names are there, which cannot be places or stand in one of the known `orders`. With words, where a
    # word stands above numbers, and where there are words only, none of which comes again below.
    first, rest = rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]
    places = [str(place) for place in range(len(first))]
    if first in rest:
        return False
    if places[: len(first) - (first[0] == "")] == first[first[0] == "" :]:
        return True
    in_order = any([name for name in names if name in first] == first for names in orders)
    if expected and set(expected) <= set(first) and (in_order or not set(expected) <= set(places)):
        return True

    def is_number(cell: str) -> bool:
        return NUMBER.fullmatch(cell.replace(decimal, ".")) is not None

    def is_word(cell: str) -> bool:
        return cell not in MISSING and not NUMBER_LIKE.fullmatch(cell) and any(map(str.isalpha, cell))

    filled = [(top, [row[place] for row in rest if row[place] not in MISSING]) for place, top in enumerate(first)]
    if any(is_word(top) and below and all(map(is_number, below)) for top, below in filled):
        return True
    if any(map(is_number, first)) or not any(map(is_word, first)):
        return False
    return not any(top in below for top, below in filled)


def names_of(path: str, cells: list[str]) -> list[str]:
    """Names of the columns; nameless ones are called as pandas calls them."""
    names = [cell or f"Unnamed: {place}" for place, cell in enumerate(cells)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has two columns called {twice!r}")
    return names


def stripped(frame: Any, text: Sequence[str | None], decimal: str = ".", mixed: Sequence[str] = ()) -> Any:
    """A table without spaces around its words, which may then be numbers, booleans or missing.

    In columns that are `mixed`, or mostly numbers, these have a point where the file has `decimal`, but not in `text`.
    """
    pd = pandas()
    for name in frame.columns:
        column = frame[name]
        words = column.dropna().unique() if pd.api.types.is_string_dtype(column) else []
        spelled = {word: word.strip() for word in words}
        if decimal != "." and len(words) and name not in text:
            pointed = {word: one.replace(decimal, ".") for word, one in spelled.items()}
            numbers = {word: one for word, one in pointed.items() if NUMBER.fullmatch(one)}
            if name in mixed or column.isin([*numbers]).sum() >= MOST * column.count():
                spelled |= numbers
        changed = any(word != one for word, one in spelled.items())
        if not changed and MISSING.isdisjoint(words):  # which pandas leaves beside numbers that are too large for it
            continue
        stripped = column.map(spelled)
        stripped = stripped.mask(stripped.isin(MISSING))
        values = pd.to_numeric(stripped, errors="coerce")
        if changed and name not in text and (values.notna() == stripped.notna()).all():
            frame[name] = values
        elif changed and name not in (*text, *mixed) and {*stripped.dropna()} <= TRUTHS.keys():
            frame[name] = stripped.map(TRUTHS)
        else:
            frame[name] = stripped
    return frame


# ---- targets ---------------------------------------------------------------------------------------------------------


def load_table(path: str | Path, target: str, task: str = "auto", header: bool | None = None, decimal: str = ".",
               ignore: Sequence[str] = ()) -> Dataset:  # fmt: skip
    """Read a table, and hold a fifth of its rows out, chosen at random but always the same.

    Every column but the target and those to `ignore` is an input; rows without a target are left out with a warning. The
    task "auto" takes a target as class labels when at most half of it are numbers, or when these are at most
    `MAX_DETECTED_CLASSES` different whole numbers that each stand in two rows or more on average, or codes with leading
    zeros or of more than 15 digits. Labels stay as they stand, but 1.0 and 1 are one class.
    """
    table = TableFile(path, decimal).read((target, *ignore), header, (target,))
    frame, name = table.frame, "stdin" if str(path) == "-" else Path(path).name.split(".")[0]
    check_columns(table, frame, target, header, ignore)
    about = {"target": target, "header": table.has_header, "decimal": decimal, "columns": list(frame.columns)}
    # none of these copies the columns, of which there may be much
    cells, *_ = [frame.pop(one) for one in dict.fromkeys((target, *ignore))]
    filled = cells.notna().to_numpy()
    if filled.sum() < 2:
        raise ValueError(f"{path} must have at least 2 rows whose {target!r} is known, got {filled.sum()}")
    with table.naming_lines():
        for column in frame.columns[[dtype.kind in "iuf" for dtype in frame.dtypes]]:
            numbers(frame[column], column)
        y, classes = _targets(table, cells, task)
    if not filled.all():
        lost = f"{(~filled).sum()} of {len(filled)} rows are left out, because {target!r} is missing there"
        warnings.warn(lost, stacklevel=2)
    return _split(name, frame, np.flatnonzero(filled), y, classes, about)


def check_columns(table: Any, frame: Any, target: str | None, header: bool | None, ignore: Sequence[str]) -> None:
    """Raise a ValueError unless the columns that are asked for are there, and some others, too."""
    if frame.shape[1] == 1:  # spaces separate nothing, as they may be part of words
        lengths = {len(str(cell).split()) for cell in frame.iloc[:, 0].dropna().head(SAMPLED_ROWS)}
        if len(lengths) == 1 and lengths.pop() > 1:
            raise ValueError(f"{table.path} has one column, and spaces in it: put commas where columns end")
    asked = [("ignore", one) for one in ignore]
    for option, column in asked if target is None else [("target", target), *asked]:
        if column not in frame.columns:
            hint = did_you_mean(column, frame.columns)
            if header is None and not table.is_parquet:
                option_for, found = ("--no-header", "is a row") if table.has_header else ("--header", "has names")
                hint += f"; {option_for}, if its first line {found}"
            raise ValueError(f"{option} must be a column of {table.path} ({', '.join(frame.columns)}), got {column!r}{hint}")
    if not len(frame.columns.drop({target, *ignore} & {*frame.columns})):
        raise ValueError(f"{table.path} has no column but the target {target!r}")


def _targets(table: TableFile, cells: Any, task: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Names of classes and all of these, or values and nothing, of the target's cells that are not missing."""
    codes, found, classes = targets(table, cells, task)
    return found[codes], classes


def targets(table: Any, cells: Any, task: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The same as places in an array, and that: of cells, of which most come again, each is looked at once."""
    where, pd = f"target column {cells.name!r} of {table.path}", pandas()
    codes, labels = pd.factorize(cells)
    if len(labels) < 2:
        found = f"the same value in every row: {labels[0]!r}" if len(labels) else "no values"
        raise ValueError(f"{where} has {found}")
    codes = codes[codes >= 0]
    values = pd.to_numeric(table.spelled(labels), errors="coerce").to_numpy(float, na_value=np.nan)
    with np.errstate(invalid="ignore"):
        whole = bool((values % 1 == 0).all())
    coded = whole and any(re.fullmatch(r"[+-]?(0\d+|\d{16,})", label) for label in labels)
    if task == "regression" or (task == "auto" and (~np.isnan(values))[codes].mean() > 0.5 and not coded):
        few = whole and len(set(map(class_key, labels))) <= min(MAX_DETECTED_CLASSES, len(codes) // 2)
        if task == "regression" or not few:
            if not np.all(np.abs(values) <= LARGEST):
                hint = "; --task classification, if these are names of classes" if task == "auto" else ""
                numbers(table.spelled(cells), cells.name, hint=hint)  # which some cell is not
            return codes, values, ()
    elif task == "auto":
        if len(labels) > MAX_DETECTED_CLASSES and all(map(DATE.fullmatch, labels)):
            raise ValueError(f"{where} holds dates or times such as {labels[0]!r}: put numbers in their place (a year, days "
                             "since a day); --task classification, if they are names of classes")  # fmt: skip
        alike = all(map(NUMBER_LIKE.fullmatch, labels))
        if len(labels) > len(codes) / 2 or (alike and len(labels) > MAX_DETECTED_CLASSES):
            what = spelling_advice(labels[0]) if alike and not NUMBER.fullmatch(labels[0]) else "it looks like ids"
            raise ValueError(f"{where} has {len(labels)} different words in {len(codes)} rows: {what}; "
                             "--task classification, if they are names of classes")  # fmt: skip
    names = class_names(labels)
    y = np.array([names[class_key(label)] for label in labels], object)
    return codes, y, tuple(sorted(names.values(), key=_numbers_first))


def class_names(labels: Iterable[str]) -> dict[str, str]:
    """Names of classes by their keys: of the spellings of one, the shortest."""
    names: dict[str, str] = {}
    for label in sorted(labels, key=lambda label: (len(label), label)):
        names.setdefault(class_key(label), label)
    return names


def class_key(label: str) -> str:
    """What is the same for all spellings of a class: that of a whole number, without a decimal point."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", label)


def _numbers_first(label: str) -> tuple[bool, float, str]:
    is_number = NUMBER.fullmatch(label) is not None
    return not is_number, float(label) if is_number else 0.0, label


def load_rows(data: str | Path, table: dict[str, Any], features: Sequence[str], text: Sequence[str] = (),
              header: bool | None = None, classes: Sequence[str] = (),
              mixed: Sequence[str] = ()) -> tuple[TableFile | None, Any, Any]:  # fmt: skip
    """The file, if it is one, rows to predict, and the right answers: `classes` or values, nan where unknown, or None.

    Of a named data set the held-out rows are taken, if it has any. Of a file with a header the columns called `features` are
    read, of which those of `text` stay as they stand, and `mixed` ones hold words beside numbers; of one without it all
    columns, if there are as many as features, as columns of the table that the model was trained on, or as these less the
    target. A `header` of None is inferred, but there is none where the model's table had none. `table` is that of a
    `Dataset`, or its "target" alone.
    """
    target, y = table["target"], None
    if data in NAMES:
        found, known = None, load_named(str(data))
        X, y = (known.X_test, known.y_test) if len(known.X_test) else (known.X_train, known.y_train)
        frame = pandas().DataFrame(np.asarray(X), columns=list(known.feature_names))
    else:
        header = False if header is None and table.get("header") is False else header
        columns = table.get("columns", [])
        orders = [features, columns, [name for name in columns if name != target]]
        found = TableFile(data, table.get("decimal", ".")).read(features, header, (target, *text), orders, mixed=mixed)
        frame = found.frame
        if target in frame and target not in features:
            y = _answers(found, frame[target], classes)
    missing = [feature for feature in features if feature not in frame.columns]
    if missing:
        hint = did_you_mean(missing[0], frame.columns)
        raise ValueError(f"{data} must have the columns {', '.join(features)}, got none called {missing[0]!r}{hint}")
    return found, frame, y


def _answers(table: TableFile, cells: Any, classes: Sequence[str]) -> np.ndarray:
    """What the text of a target stands for."""
    cells, known = cells.where(cells.str.contains(r"\w", na=False)), class_names(classes)
    if not classes:
        values = pandas().to_numeric(table.spelled(cells), errors="coerce").to_numpy(float, na_value=np.nan)
        return np.where(np.isfinite(values), values, np.nan)
    return cells.map(lambda cell: known.get(class_key(cell), cell), na_action="ignore").to_numpy(object, na_value=np.nan)
