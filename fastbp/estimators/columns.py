"""What the columns of a table hold, and how inputs of a network are made of them."""

import re
import shlex
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from fastbp import datasets
from fastbp.datasets import DATE, NUMBER, NUMBER_LIKE, pandas
from fastbp.estimators import recipe

# A column of text is of one kind when this share of its filled cells is.
MOST = 0.9
# From this many rows on, a column of text whose cells mostly differ is taken for names or prose.
ENOUGH_ROWS = 20
# Names of columns that number the rows: pandas' and R's, and what people write.
INDEX = re.compile(r"(unnamed: ?\d+|index|row\.?names|row|no\.?|nr\.?|obs\.?|#|(.*[_ .-])?id)|.*[a-z]I[dD]", re.IGNORECASE)


class Columns(TransformerMixin, BaseEstimator):
    """Decides what each column of a table holds, and makes inputs of it.

    Numbers, and booleans as 0 and 1, are clipped smoothly, where a missing one becomes 0; categories, known by their text,
    are one-hot, where a missing or unknown one becomes zeros. Columns without values, row numbers, ids and prose are left
    out, with a warning that names them; dates, and numbers in disguise ("28,7", "$5"), are errors that say what to do.

    Parameters
    ----------
    max_categories : int, default=100
        How many categories a column can have; rarer ones are treated as unknown.

    Attributes
    ----------
    kinds_ : dict
        "number", "boolean" or "category" for each column that is used.
    left_out_ : dict
        The reason for each that is not.
    words_ : dict
        For columns of numbers that have them, words that stand for a missing cell, such as "?".
    categories_ : dict
        For columns of categories, a sorted list of them.
    center_, factor_ : ndarray of shape (n_numbers,)
        The median of each column of numbers, and what the distance from it is multiplied by; see `recipe.range_of`.
    """

    def __init__(self, max_categories=100):
        self.max_categories = max_categories

    def fit(self, X, y=None):
        """Decide what the columns of a DataFrame are."""
        self.kinds_: dict[Any, str] = {}
        self.left_out_: dict[Any, str] = {}
        self.words_: dict[Any, list[str]] = {}
        self.categories_: dict[Any, list[str]] = {}
        for name in X.columns:
            self._decide(name, X[name])
        self.learn_words(X)
        for name, reason in self.left_out_.items():
            warnings.warn(f"column {name!r} is left out: it {reason}", stacklevel=2)
        if not self.kinds_:
            raise ValueError(f"X must have a column to learn from, got {'; '.join(map(repr, self.left_out_)) or 'none'}")
        self.center_, self.factor_ = recipe.range_of(self._numbers(X))
        return self

    def _decide(self, name, column):
        filled = column.dropna()
        if filled.empty:
            self.left_out_[name] = "has no values"
        elif column.dtype.kind in "mM":
            raise ValueError(_about_dates(name, str(filled.iloc[0])))
        elif pandas().api.types.infer_dtype(column, skipna=True) == "boolean":
            self.kinds_[name] = "boolean"
        elif pandas().api.types.is_numeric_dtype(column):
            whole = INDEX.fullmatch(str(name)) and (filled % 1 == 0).all() and filled.is_unique
            if whole and len(filled) >= 2:
                self.left_out_[name] = "numbers the rows"
            else:
                self.kinds_[name] = "number"
        else:
            self._decide_text(name, filled.astype(str), isinstance(column.dtype, pandas().CategoricalDtype))

    def _decide_text(self, name, text, is_category):
        counts = text.value_counts()
        cells = [] if is_category else counts.index

        def share(pattern):
            return sum(counts[cell] for cell in cells if pattern.fullmatch(cell)) / len(text)

        if share(NUMBER) >= MOST:
            self.kinds_[name] = "number"
            self.words_[name] = []
        elif share(DATE) >= MOST:
            raise ValueError(_about_dates(name, counts.index[0]))
        elif share(NUMBER_LIKE) >= MOST:
            strange = next(cell for cell in cells if NUMBER_LIKE.fullmatch(cell) and not NUMBER.fullmatch(cell))
            raise ValueError(f"column {name!r}: {datasets.spelling_advice(strange)}")
        elif not is_category and len(text) >= ENOUGH_ROWS and len(counts) > len(text) / 2:
            self.left_out_[name] = f"has {len(counts)} different words in {len(text)} rows: names, ids or prose"
        else:
            self.kinds_[name] = "category"
            self.categories_[name] = sorted(counts.index[: self.max_categories])

    def learn_words(self, X):
        """Take words of further rows for missing cells of numbers, too; a warning names them."""
        for name, known in self.words_.items():
            counts = X[name].dropna().astype(str).value_counts()
            new = [cell for cell in counts.index if not NUMBER.fullmatch(cell) and cell not in known]
            self.words_[name] = sorted([*known, *new])
            if new:
                shown = ", ".join(map(repr, new[:5])) + (", ..." if len(new) > 5 else "")
                message = f"column {name!r} holds numbers: what else stands there is taken for missing, {shown} in "
                warnings.warn(f"{message}{counts[new].sum()} of {counts.sum()} cells", stacklevel=3)

    def _numbers(self, X):
        """Columns of a DataFrame that hold numbers, as a matrix."""
        names = [name for name, kind in self.kinds_.items() if kind != "category"]
        columns = [datasets.numbers(X[name], name, self.words_.get(name, ())) for name in names]
        return np.array(columns).reshape(-1, len(X)).T

    def transform(self, X):
        """Return the inputs (n, n_inputs), float64, of a DataFrame: those of numbers, then those of categories."""
        X = X if hasattr(X, "columns") else pandas().DataFrame(X)
        missing = [name for name in self.kinds_ if name not in X.columns]
        if missing:
            needed = ", ".join(map(str, self.kinds_))
            raise ValueError(f"X must have the columns {needed}, got none called {missing[0]!r}")
        parts = [recipe.clipped(self._numbers(X), self.center_, self.factor_)]
        for name, known in self.categories_.items():
            text = X[name].astype(object).map(str, na_action="ignore")
            codes = pandas().Index(known, dtype=object).get_indexer(text)
            parts.append(np.eye(len(known) + 1, len(known))[codes])  # whose last row, of the code -1, is zeros
        return np.hstack(parts)


def _about_dates(name, cell):
    return (
        f"column {name!r} holds dates or times such as {cell!r}: put numbers in their place (a year, a month, days since a "
        f"day), or leave it out (--ignore {shlex.quote(str(name))})"
    )
