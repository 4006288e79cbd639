"""Rows that estimators read chunk by chunk: labels and weights are counted first, inputs are checked as they come."""

import numpy as np
import scipy.sparse
from sklearn.base import is_classifier
from sklearn.utils import check_array, check_consistent_length, check_X_y
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
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


def targets_of(y, start, stop):
    """Dense targets of some rows, (n,) also where there is one column."""
    y = slice_of(y, start, stop)
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


def stream_of(est, X, y, sample_weight, chunk_rows, first=False, incremental=False):
    """Rows of an estimator as a stream, by a first pass over y and the weights; a first fit learns the classes from it."""
    n, classifies, fresh = length_of("X", X), is_classifier(est), first and not incremental
    dtype = est._dtype(X, first)
    y, sample_weight = (one if one is None or is_array(one) else np.asarray(one) for one in (y, sample_weight))
    if sample_weight is not None and sample_weight.shape == ():
        sample_weight = np.full(n, sample_weight)
    names = None
    if isinstance(y, OnFile) and fresh and classifies and y.codes is not None and est.class_weight in (None, "balanced"):
        names, y = np.array(y.classes, object), y.codes  # words take long to compare
    sources = {"X": X, "y": y} | ({} if sample_weight is None else {"sample_weight": sample_weight})
    if sample_weight is not None and len(sample_weight.shape) != 1:
        raise ValueError(f"sample_weight must be 1D array or scalar, got shape {tuple(sample_weight.shape)}")
    check_consistent_length(*(range(length_of(*source)) for source in sources.items()))
    ranges, class_weight = ranges_of(n, chunk_rows), None
    counted: list = []
    for at in ranges if classifies else ():
        part = targets_of(y, *at)
        check_labels(part)
        counted = count(counted, part)
    if classifies:
        some = few_rows(counted, targets_of(y, 0, 1).ndim == 1)
        n_out = est._encoded(some, fresh).shape[1]
        est._sparse_labels = scipy.sparse.issparse(y) if fresh else est._sparse_labels
        labels = est.classes_
        est.classes_ = labels if names is None else names[labels]
        if est.class_weight is not None:
            est._weights(some, None, incremental)  # is it sound?
            class_weight = weights_by_class(est.class_weight, counted, n)
    else:
        n_out = targets_of(y, 0, 1).reshape(1, -1).shape[1]

    def weights_of(part, start, stop):
        weights = None
        if sample_weight is not None:
            weights = slice_of(sample_weight, start, stop)
            weights = check_array(weights, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        weights = est._weights(part, weights, incremental, class_weight)
        with np.errstate(over="ignore"):
            return None if weights is None else required(weights, dtype)

    def weigh(start, stop):
        return weights_of(targets_of(y, start, stop), start, stop)

    def read(start, stop):
        part = targets_of(y, start, stop)
        X_part, part = check_X_y(
            slice_of(X, start, stop), part, accept_sparse=SPARSE, dtype=dtype, multi_output=True, y_numeric=not classifies
        )
        Y = outputs_of(est._coded(part, "y", None if names is None else labels), dtype, "y")
        if classifies and not est._has_labels(part, Y, None if names is None else labels):
            raise ValueError("y must have the labels that it had when they were counted, got others")
        return Rows(contiguous(X_part), Y, weights_of(part, start, stop))

    weighted = class_weight is not None or sample_weight is not None
    stream = Stream(ranges, int(X.shape[1]), n_out, dtype, read, [*sources.values()], weigh if weighted else None)
    if weighted:
        if stream.weight == 0:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        checks.check_sum("weights of the rows", stream.all_weights())
    return stream
