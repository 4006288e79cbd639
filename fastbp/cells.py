"""What the cells of a table hold and which rows are held out, for whoever reads tables and for whoever learns from them."""

import re

import numpy as np

# Squares of larger numbers, and their sum, could overflow.
LARGEST = 1e150

NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
# Numbers with commas, currencies, signs of percent or of bounds, or digits that are not ASCII's; short ones, as the time to
# find out grows with the square of the length.
NUMBER_LIKE = re.compile(r"(?=.{1,40}\Z)[$€£¥<>~≤≥\s]*[+-]?[\d.,_'\s]*\d[\d.,_']*([eE][+-]?\d+)?[\s$€£¥%]*")
MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
DATE = re.compile(
    rf"\s*(\d{{4}}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.](\d{{4}}|\d\d)|(\d\d?[ -])?{MONTH}[ .,-]+(\d\d?,? ?)?\d{{2,4}})"
    r"([ T].*)?|\d\d?:\d\d(:\d\d(\.\d+)?)?",
    re.IGNORECASE,
)


class CellError(ValueError):
    """A cell holds what its column cannot: says where, for those who know the line of each row."""

    def __init__(self, column, row, problem):
        super().__init__(f"column {column!r}, row {row}: {problem}")
        self.column, self.row, self.problem = column, row, problem


def pandas():
    """The module, or an ImportError that says where it comes from."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'fastbp[cli]'") from error
    return pandas


def numbers(column, name, words=(), hint=""):
    """A column of a DataFrame as float64, with nan for missing cells and `words`; a CellError, with a hint, for any other.

    Numbers are what pandas reads as such; infinite ones, and those whose squares could overflow, are refused.
    """
    if column.dtype.kind == "c":
        raise ValueError(f"Complex data not supported, got it in column {name!r}")
    values = pandas().to_numeric(column, errors="coerce").astype(float).to_numpy(float, na_value=np.nan)
    filled = (column.notna() & ~column.isin(list(words)) if words else column.notna()).to_numpy()
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

    A class is only held out with rows to spare: of one or two rows, all are kept.
    """
    order = (random_state or np.random.RandomState(0)).permutation(n)
    labels = np.zeros(n, int) if classes is None else pandas().factorize(classes)[0][order]
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(n) - (np.cumsum(counts) - counts)[labels[by_class]]
    out = np.zeros(n, bool)
    out[order[by_class]] = (rank + 0.5) / counts[labels[by_class]] > 1 - size
    return out
