"""Labels of classes: their kinds, the outputs of a network that stand for them, and the way back."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer, label_binarize
from sklearn.utils.multiclass import type_of_target, unique_labels

MULTI_OUTPUT = "multiclass-multioutput"
# scikit-learn's types of targets.
KINDS = ("binary", "multiclass", "multilabel-indicator", MULTI_OUTPUT)


class Labels(NamedTuple):
    """Classes of one of the `KINDS`, a list of them for columns of classes, and how outputs stand for them.

    That is by one logistic output, a softmax, a logistic output for each label, or one for each class of each column.
    Indicators may come as a sparse matrix.
    """

    kind: str
    classes: Any
    sparse: bool = False

    @classmethod
    def of(cls, y):
        """Labels of targets (n,) or (n, n_outputs)."""
        y = y if scipy.sparse.issparse(y) else np.asarray(y)
        sparse = scipy.sparse.issparse(y)
        if y.ndim == 1 and y.dtype.kind in "biuU":
            classes = np.unique(y)
            if len(classes) <= len(y) / 2:  # else the next line warns; it takes a third of a millisecond
                return cls("multiclass" if len(classes) > 2 else "binary", classes)
        kind = type_of_target(y, input_name="y")
        if kind == MULTI_OUTPUT:
            return cls(kind, [np.unique(column) for column in y.T], sparse)
        if kind in ("binary", "multiclass"):
            # the second one takes long, but makes plain strings of objects
            return cls(kind, np.unique(y) if y.dtype != object else unique_labels(y), sparse)
        return cls(kind, LabelBinarizer().fit(y).classes_, sparse)  # labels in indicator form, or an error

    @property
    def out_activation(self):
        """Activation of the outputs."""
        return "softmax" if self.kind == "multiclass" else "logistic"

    def check(self, y, name, all_of_them):
        """Raise a ValueError where targets are of another kind or have other classes; or not all, where they must."""
        if self.kind in ("binary", "multiclass"):
            if y.ndim > 1:
                raise ValueError(f"{name} must be a class label for each row, as in the fit before, got shape {y.shape}")
        elif y.shape[1:] != (len(self.classes),) and not (y.ndim == 1 and self.kind != MULTI_OUTPUT):
            raise ValueError(f"{name} must have {len(self.classes)} columns, as in the fit before, got shape {y.shape}")
        pairs = zip(y.T, self.classes, strict=True) if self.kind == MULTI_OUTPUT else [(y, self.classes)]
        for column, known in pairs:
            classes = unique_labels(column)
            if all_of_them and set(classes) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {known}, `y` has {classes}"
                )
            if len(np.setdiff1d(classes, known, assume_unique=True)):
                raise ValueError(
                    f"`{name}` has classes not in `self.classes_`. `self.classes_` has {known}. '{name}' has {classes}."
                )

    def encode(self, y):
        """Targets (n, n_outputs) of the network: 0s and 1s."""
        if self.kind == MULTI_OUTPUT:
            return np.hstack([column[:, None] == known for column, known in zip(y.T, self.classes, strict=True)])
        if self.kind.startswith("multilabel"):
            return label_binarize(y, classes=self.classes)
        if self.kind == "multiclass":
            return y[:, None] == self.classes
        return (y == self.classes[-1] if len(self.classes) > 1 else np.zeros(len(y)))[:, None]

    def decode(self, outputs):
        """Labels for rows of outputs."""
        if self.kind == MULTI_OUTPUT:
            pairs = zip(self.classes, self.columns(outputs), strict=True)
            return np.column_stack([known[part.argmax(axis=1)] for known, part in pairs])
        if self.kind == "multiclass":
            return self.classes.take(outputs.argmax(axis=1))
        chosen = (outputs > 0.5).astype(int)
        if self.kind.startswith("multilabel"):
            return scipy.sparse.csr_array(chosen) if self.sparse else chosen
        return self.classes[chosen.ravel() if len(self.classes) > 1 else np.zeros(len(chosen), int)]

    def columns(self, outputs):
        """Outputs that belong to each column of classes."""
        return np.split(outputs, np.cumsum([len(known) for known in self.classes])[:-1], axis=1)

    def probabilities(self, outputs):
        """Probabilities of the classes: (n, n_classes), or a list of them for columns of classes."""
        if self.kind == MULTI_OUTPUT:
            return [part / part.sum(axis=1, keepdims=True) for part in self.columns(outputs)]
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def accuracy(self, y, predicted, sample_weight):
        """Share of the rows whose labels are right, all of them where there are several."""
        if self.kind == MULTI_OUTPUT:
            return self.accuracy_of_own(y, predicted, sample_weight)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def accuracy_of_own(self, y, predicted, sample_weight):
        """The same of labels that `decode` made: scikit-learn's checks take longer than an epoch of a small data set."""
        if scipy.sparse.issparse(y):
            return float(accuracy_score(y, predicted, sample_weight=sample_weight))
        right = y == predicted
        return float(np.average(right.all(axis=1) if right.ndim > 1 else right, weights=sample_weight))
