"""Rows that estimators read chunk by chunk: labels and weights are counted first, inputs are checked as they come."""

import numpy as np
import scipy.sparse
from sklearn.base import is_classifier
from sklearn.utils import check_array, check_consistent_length, check_X_y
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import assert_all_finite

from fastbp import checks
from fastbp.stream import OnFile, Rows, Stream, is_array, length_of, ranges_of, slice_of

SPARSE = ("csr", "csc")
INDICES = (np.int32, np.int64)
SOME_ROWS = 1000


def required(array, dtype):
    """The array as kernels read it: one number after the other, aligned, of a dtype."""
    return np.require(array, dtype, ["C", "A"])


def inputs_of(X, dtype, name="X"):
    """Inputs, which may be sparse, of a float type; a ValueError where some are beyond it."""
    with np.errstate(over="ignore"):
        Z = X.astype(dtype, copy=False)
    if Z is not X and not checks.is_finite(Z.data if scipy.sparse.issparse(Z) else Z):
        raise ValueError(f"{name} must be numbers that {dtype} can hold, as the fit so far, got larger ones")
    return Z


def outputs_of(Y, dtype, name="y"):
    """Outputs to learn, as kernels read them; a ValueError where some are beyond the float type."""
    with np.errstate(over="ignore"):
        outputs = required(Y, dtype)
    if dtype == np.float32 and not checks.is_finite(outputs):
        raise ValueError(f"{name} must be numbers that float32 can hold, as X is float32, got {np.abs(Y).max():g}")
    return outputs


def contiguous(X):
    """X row by row: as an array, or as a CSR matrix that is sound, whose arrays kernels read as they stand."""
    if not scipy.sparse.issparse(X):
        return required(X, X.dtype)
    arrays = X.data, X.indices, X.indptr
    index = X.indices.dtype if X.indices.dtype == X.indptr.dtype in INDICES else np.dtype(np.int64)
    plain = [required(array, dtype) for array, dtype in zip(arrays, (X.dtype, index, index), strict=True)]
    if any(one is not other for one, other in zip(plain, arrays, strict=True)):
        X = type(X)(tuple(plain), X.shape)
    X.check_format(full_check=True)  # before scipy follows what may lead beyond arrays
    return X.tocsr()


def with_objects(y):
    """Strings of numpy's newer kind as objects, as scikit-learn knows them; other targets as they are."""
    return y.astype(object) if getattr(getattr(y, "dtype", None), "kind", "") == "T" else y


def has_times(y):
    """Whether targets are objects of which some tell the time."""
    objects = getattr(getattr(y, "dtype", None), "kind", "") == "O"
    return objects and any(isinstance(one, checks.TIMES) for one in np.asarray(y).flat)


def targets_of(y, start, stop):
    """Dense targets of some rows, (n,) also where there is one column."""
    y = with_objects(slice_of(y, start, stop))
    y = y.toarray() if scipy.sparse.issparse(y) else y
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def some_of(y):
    """Targets that tell of which kind all of them are: those of a source, as far as needed."""
    if isinstance(y, np.ndarray) or scipy.sparse.issparse(y) or not is_array(y):
        return y
    return targets_of(y, 0, min(SOME_ROWS, length_of("y", y)))


def check_labels(y):
    """Raise a ValueError for targets that are no labels; there may be as many labels as rows here."""
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")
        if (y % 1).any():
            check_classification_targets(y)


def count(counted, y):
    """Labels and how often they come, for each column: of rows that were counted, and others."""
    columns = [y] if y.ndim == 1 else list(y.T)
    found = [np.unique(column, return_counts=True) for column in columns]
    if not counted:
        return found
    both = []
    for before, now in zip(counted, found, strict=True):
        kinds = {labels.dtype.kind in "SU" for labels, _ in (before, now)}
        if len(kinds) > 1:
            raise ValueError(f"y must have labels of one kind, got {before[0].dtype} and {now[0].dtype}")
        labels, place = np.unique(np.concatenate([before[0], now[0]]), return_inverse=True)
        both.append((labels, np.bincount(place, np.concatenate([before[1], now[1]])).astype(int)))
    return both


def few_rows(counted, one_column):
    """A short y that has every label twice: as many labels as rows would not pass for classes."""
    most = max(len(labels) for labels, _ in counted)
    columns = [np.concatenate([labels, np.full(most - len(labels), labels[0], labels.dtype)]) for labels, _ in counted]
    return np.tile(columns[0], 2) if one_column else np.tile(np.stack(columns, axis=1), (2, 1))


def weights_by_class(class_weight, counted, n):
    """What `class_weight` means for each class of n rows: a dict, or one for each column."""
    given = class_weight if isinstance(class_weight, list) else [class_weight] * len(counted)
    found = []
    for one, (labels, counts) in zip(given, counted, strict=True):
        weights = n / (len(labels) * counts) if one == "balanced" else compute_class_weight(one, classes=labels, y=labels)
        found.append(dict(zip(labels.tolist(), weights.tolist(), strict=True)))
    return found if len(found) > 1 else found[0]


class EstimatorRows:
    """Rows of an estimator, checked as they are read; `sources` are what they are read from, by name."""

    def __init__(self, est, X, y, sample_weight, first, incremental):
        self.est, self.incremental, self.fresh = est, incremental, first and not incremental
        self.dtype, self.classifies = est._dtype(X, first), is_classifier(est)
        y, sample_weight = (one if one is None or is_array(one) else np.asarray(one) for one in (y, sample_weight))
        if sample_weight is not None and sample_weight.shape == ():
            sample_weight = np.full(length_of("X", X), sample_weight)
        if sample_weight is not None and len(sample_weight.shape) != 1:
            raise ValueError(f"sample_weight must be 1D array or scalar, got shape {tuple(sample_weight.shape)}")
        # the names of classes, whose codes are read instead: words take long to compare
        self.names = self.codes = self.class_weight = None
        coded = isinstance(y, OnFile) and y.codes is not None
        if coded and self.fresh and self.classifies and est.class_weight in (None, "balanced"):
            self.names, y = np.array(y.classes, object), y.codes
        self.X, self.y, self.sample_weight = X, y, sample_weight
        self.sources = {"X": X, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
        check_consistent_length(*(range(length_of(*source)) for source in self.sources.items()))

    @property
    def weighted(self):
        """Whether rows have weights."""
        return getattr(self.est, "class_weight", None) is not None or self.sample_weight is not None

    def learn_targets(self, ranges):
        """Count the labels of a classifier, which a first fit learns; returns the number of outputs."""
        est, y = self.est, self.y
        first = targets_of(y, 0, 1)
        if not self.classifies:
            return first.reshape(1, -1).shape[1]
        counted: list = []
        for at in ranges:
            part = targets_of(y, *at)
            check_labels(part)
            counted = count(counted, part)
        some = few_rows(counted, first.ndim == 1)
        n_out = est._encoded(some, self.fresh).shape[1]
        est._sparse_labels = scipy.sparse.issparse(y) if self.fresh else est._sparse_labels
        if self.names is not None:
            self.codes, est.classes_ = est.classes_, unique_labels(self.names[est.classes_])
        if est.class_weight is not None:
            est._weights(some, None, self.incremental)  # is it sound?
            if not isinstance(est.class_weight, dict):  # which says it for each class
                self.class_weight = weights_by_class(est.class_weight, counted, length_of("y", y))
        return n_out

    def weights_of(self, part, start, stop):
        """Weights of rows with these targets, or None."""
        weights = self.sample_weight
        if weights is not None:
            weights = slice_of(weights, start, stop)
            weights = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        weights = self.est._weights(part, weights, self.incremental, self.class_weight)
        with np.errstate(over="ignore"):
            return None if weights is None else required(weights, self.dtype)

    def weigh(self, start, stop):
        """Weights of some rows alone."""
        return self.weights_of(targets_of(self.y, start, stop), start, stop)

    def read(self, start, stop):
        """Some rows."""
        part = targets_of(self.y, start, stop)
        if not self.classifies and has_times(part):
            raise ValueError("y must be numbers, got times")
        X, part = check_X_y(
            slice_of(self.X, start, stop), part, accept_sparse=SPARSE, dtype=self.dtype, multi_output=True,
            y_numeric=not self.classifies,
        )  # fmt: skip
        Y = outputs_of(self.est._coded(part, "y", self.codes), self.dtype, "y")
        if self.classifies and not self.est._has_labels(part, Y, self.codes):
            raise ValueError("y must have the labels that it had when they were counted, got others")
        return Rows(contiguous(X), Y, self.weights_of(part, start, stop))


def stream_of(est, X, y, sample_weight, chunk_rows, first=False, incremental=False):
    """Rows of an estimator as a stream, by a first pass over y and the weights; a first fit learns the classes from it."""
    rows = EstimatorRows(est, X, y, sample_weight, first, incremental)
    ranges = ranges_of(length_of("X", X), chunk_rows)
    n_out = rows.learn_targets(ranges)
    weigh = rows.weigh if rows.weighted else None
    stream = Stream(ranges, int(X.shape[1]), n_out, rows.dtype, rows.read, [*rows.sources.values()], weigh)
    if weigh is not None:
        if stream.weight == 0:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        checks.check_sum("weights of the rows", stream.all_weights())
    return stream
