"""The data sets of the command line: six with names, and tables read from CSV files."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_DETECTED_CLASSES = 20


@dataclass(frozen=True)
class Preset:
    """How a named data set is split, prepared and trained unless the user says otherwise.

    `init_scale` is the standard deviation of the initial weights; None means 1/sqrt(number of inputs), which keeps
    the first pre-activations of standardised inputs near 1. `batch_size` None means the full batch.
    """

    hidden: tuple[int, ...] = (16,)
    epochs: int = 200
    learning_rate: float = 0.05
    batch_size: int | None = 16
    reduction: str = "sum"
    bias: bool = True
    init_scale: float | None = None
    standardise: bool = True
    test_size: float | int = 0.2
    split_seed: int = 0


CSV_PRESET = Preset()

PRESETS = {
    "xor": Preset(
        hidden=(4,),
        epochs=10_000,
        learning_rate=0.1,
        batch_size=None,
        init_scale=1.0,
        standardise=False,
        test_size=0,
    ),
    "iris": Preset(
        hidden=(2,),
        epochs=5_000,
        learning_rate=0.1,
        batch_size=None,
        reduction="mean",
        bias=False,
        init_scale=0.5,
        standardise=False,
        test_size=20,
        split_seed=4,
    ),
    "digits": Preset(hidden=(64,), epochs=30, learning_rate=0.1),
    "wine": Preset(hidden=(8,)),
    "breast_cancer": Preset(hidden=(8,), epochs=100),
    "diabetes": Preset(hidden=(4,), epochs=100, learning_rate=0.02),
}


@dataclass(frozen=True)
class Dataset:
    """Rows to train on and held-out rows to test on, in their original units.

    Parameters
    ----------
    name : str
    X_train, X_test : ndarray of shape (n_rows, n_features), float64
        `X_test` has no rows when nothing is held out.
    y_train, y_test : ndarray of shape (n_rows,)
        Class numbers 0, 1, ... where there are `class_names`, values otherwise.
    feature_names : tuple of str
    target_name : str
    class_names : tuple of str
        Empty for regression.
    """

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    feature_names: tuple[str, ...]
    target_name: str
    class_names: tuple[str, ...] = ()


def load_named(name: str) -> Dataset:
    """Return one of the data sets of `PRESETS`, split as its preset says.

    Parameters
    ----------
    name : str
        A key of `PRESETS`.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If there is no such data set.

    Examples
    --------
    >>> iris = load_named("iris")
    >>> iris.X_train.shape, iris.X_test.shape, iris.class_names
    ((130, 4), (20, 4), ('setosa', 'versicolor', 'virginica'))
    """
    if name not in PRESETS:
        raise ValueError(f"name must be one of {', '.join(PRESETS)}, got {name!r}")
    if name == "xor":
        X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        return Dataset("xor", X, np.array([0, 1, 1, 0]), X[:0], np.array([], int), ("a", "b"), "a xor b", ("0", "1"))

    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    classes = tuple(str(label) for label in getattr(bunch, "target_names", ()))
    features = tuple(str(feature) for feature in bunch.feature_names)
    return _split(name, bunch.data, bunch.target, features, "target", classes, PRESETS[name])


def _split(name, X, y, feature_names, target_name, class_names, preset: Preset) -> Dataset:
    from sklearn.model_selection import train_test_split

    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=preset.test_size, random_state=preset.split_seed)
    return Dataset(name, X_train, y_train, X_test, y_test, feature_names, target_name, class_names)


@dataclass(frozen=True)
class Table:
    """The cells of a CSV file as text, with the line each row stood on for error messages."""

    path: Path
    columns: tuple[str, ...]
    has_header: bool
    rows: list[list[str]]
    lines: list[int]

    def numbers(self, column: str) -> np.ndarray:
        """Return a column as float64; ValueError names the first cell that is not a finite number."""
        index = self.columns.index(column)
        values = np.array([_number(row[index]) for row in self.rows])
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            where = f"{self.path} line {self.lines[bad[0]]}, column {column!r}"
            raise ValueError(f"{where}: expected a finite number, got {self.rows[bad[0]][index]!r}")
        return values

    def matrix(self, columns: Sequence[str]) -> np.ndarray:
        """Return some columns as a float64 array of shape (n_rows, n_columns)."""
        return np.column_stack([self.numbers(column) for column in columns])

    def text(self, column: str) -> list[str]:
        """Return a column as text; ValueError names the first empty cell."""
        index = self.columns.index(column)
        for line, row in zip(self.lines, self.rows, strict=True):
            if not row[index]:
                raise ValueError(f"{self.path} line {line}, column {column!r}: the cell is empty")
        return [row[index] for row in self.rows]


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _is_number(cell: str) -> bool:
    return not math.isnan(_number(cell))


def read_table(path: str | Path, expected: Sequence[str] = ()) -> Table:
    """Read a CSV file whose cells are separated by commas, semicolons or tabs.

    The first line is taken as the header when it has all of the `expected` names or no number; in a file without a
    header the columns are called 0, 1, 2, ...

    Parameters
    ----------
    path : str or Path
        A UTF-8 text file.
    expected : sequence of str, default=()
        Column names that show a first line to be a header even when some names are numbers.

    Returns
    -------
    Table

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not such a table: not text, no rows, rows of different lengths, or two columns of one name.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=first.count), skipinitialspace=True)
            numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file: {error}") from None
    if not numbered:
        raise ValueError(f"{path} has no rows")

    header = numbered[0][1]
    has_header = (bool(expected) and set(expected) <= set(header)) or not any(map(_is_number, header))
    if has_header:
        numbered = numbered[1:]
    else:
        header = [str(index) for index in range(len(header))]
    for line, row in numbered:
        if len(row) != len(header):
            raise ValueError(f"{path} line {line} has {len(row)} cells, expected {len(header)}")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise ValueError(f"{path} has two columns called {twice!r}")
    if not numbered:
        raise ValueError(f"{path} has a header but no rows")
    return Table(path, tuple(header), has_header, [row for _, row in numbered], [line for line, _ in numbered])


def load_csv(path: str | Path, target: str, task: str = "auto") -> Dataset:
    """Read a CSV file and hold a fifth of its rows out, chosen at random but always the same.

    Parameters
    ----------
    path : str or Path
    target : str
        The column to learn; every other column is an input and must be numeric.
    task : {'auto', 'classification', 'regression'}, default='auto'
        'auto' takes a column as class labels when it has text, or at most `MAX_DETECTED_CLASSES` different whole
        numbers that each stand in two rows or more on average.

    Returns
    -------
    Dataset

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is no table, has no such column, no input column, fewer than two rows, a cell that is not a
        finite number where one is needed, or a target that is the same in every row.
    """
    table = read_table(path, expected=(target,))
    if target not in table.columns:
        raise ValueError(f"target must be a column of {path} ({', '.join(table.columns)}), got {target!r}")
    features = tuple(column for column in table.columns if column != target)
    if not features:
        raise ValueError(f"{path} has no column but the target {target!r}")
    if len(table.rows) < 2:
        raise ValueError(f"{path} must have at least 2 rows, one to train on and one to test on, got 1")

    labels = table.text(target)
    if task == "classification" or (task == "auto" and _are_class_labels(labels)):
        labels = [_plain(label) for label in labels]
        classes = tuple(sorted(set(labels), key=_numbers_first))
        number_of = {label: number for number, label in enumerate(classes)}
        y = np.array([number_of[label] for label in labels])
    else:
        classes = ()
        y = table.numbers(target)
    if np.all(y == y[0]):
        raise ValueError(f"target column {target!r} of {path} has the same value in every row: {labels[0]!r}")
    return _split(Path(path).stem, table.matrix(features), y, features, target, classes, CSV_PRESET)


def load_rows(data: str | Path, feature_names: Sequence[str], target_name: str) -> tuple[np.ndarray, list[str] | None]:
    """Return rows to predict, and the right answers as text where they are known.

    Parameters
    ----------
    data : str or Path
        A named data set, of which the held-out rows are taken if it has any, or a CSV file. Of a file with a header the
        columns called `feature_names` are read, of one without it the columns in the same places, or all columns if
        there are as many as features.
    feature_names : sequence of str
    target_name : str

    Returns
    -------
    X : ndarray of shape (n_rows, n_features), float64
    answers : list of str, or None

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is no table, lacks a feature, or has a cell in one that is not a finite number.
    """
    features = list(feature_names)
    if data in PRESETS:
        known = load_named(str(data))
        X, y = (known.X_test, known.y_test) if len(known.X_test) else (known.X_train, known.y_train)
        _require_features(str(data), features, list(known.feature_names))
        return X, [known.class_names[number] for number in y] if known.class_names else [repr(float(v)) for v in y]
    table = read_table(data, expected=features)
    if not table.has_header and len(table.columns) == len(features):
        return table.matrix(table.columns), None
    _require_features(str(data), features, list(table.columns))
    answers = None
    if target_name in table.columns:
        index = table.columns.index(target_name)
        cells = [_plain(row[index]) for row in table.rows]
        answers = cells if all(cells) else None
    return table.matrix(features), answers


def _require_features(data: str, features: list[str], columns: list[str]) -> None:
    missing = [feature for feature in features if feature not in columns]
    if missing:
        raise ValueError(f"{data} must have the columns {', '.join(features)}, got none called {missing[0]!r}")


def _are_class_labels(labels: list[str]) -> bool:
    if not all(map(_is_number, labels)):
        return True
    values = {float(label) for label in labels}
    whole = all(value.is_integer() for value in values)
    return whole and len(values) <= min(MAX_DETECTED_CLASSES, len(labels) // 2)


def _numbers_first(label: str) -> tuple[int, float, str]:
    return (0, float(label), label) if _is_number(label) else (1, 0.0, label)


def _plain(label: str) -> str:
    """Write whole numbers one way, so that 1 and 1.0 are one class."""
    value = _number(label)
    return str(int(value)) if value.is_integer() else label
