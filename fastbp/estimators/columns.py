"""What the columns of a table hold, and how inputs of a network are made of them."""

import re
import shlex
import warnings

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from fastbp import datasets
from fastbp.datasets import DATE, MOST, NUMBER, NUMBER_LIKE, as_text, pandas
from fastbp.estimators import recipe

# From this many rows on, a column of text whose cells mostly differ is taken for names or prose.
ENOUGH_ROWS = 20
# What pandas calls kinds of objects that tell the time.
TIMES = {"date", "datetime", "datetime64", "time", "timedelta", "timedelta64", "period"}
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
        parts = [self.of_one(name, X[name]) for name in X.columns]
        for message in self.join(parts):
            warnings.warn(message, stacklevel=2)
        return self

    def of_one(self, name, column):
        """Columns of a single one, which may be left out, and what there is to say about its words."""
        one = Columns(self.max_categories)
        one.kinds_, one.left_out_, one.words_, one.categories_ = {}, {}, {}, {}
        one._decide(name, column)
        said = [message for known in one.words_ if (message := one._learn_words(known, column))]
        values = [one._values(known, column) for known, kind in one.kinds_.items() if kind != "category"]
        one.center_, one.factor_ = recipe.range_of(np.array(values).reshape(-1, len(column)).T)
        return one, said

    def join(self, parts):
        """Take on what `of_one` found out of each column, in their order; returns what there is to say."""
        ones = [one for one, _ in parts]
        for name in ("kinds_", "left_out_", "words_", "categories_"):
            setattr(self, name, {key: value for one in ones for key, value in vars(one)[name].items()})
        if not self.kinds_:
            raise ValueError(f"X must have a column to learn from, got {'; '.join(map(repr, self.left_out_)) or 'none'}")
        self.center_ = np.concatenate([one.center_ for one in ones])
        self.factor_ = np.concatenate([one.factor_ for one in ones])
        left_out = [f"column {name!r} is left out: it {reason}" for name, reason in self.left_out_.items()]
        return [message for _, said in parts for message in said] + left_out

    def _decide(self, name, column):
        if not column[:1000].notna().any() and not column.notna().any():
            self.left_out_[name] = "has no values"
        elif column.dtype.kind in "mM" or (kind := pandas().api.types.infer_dtype(column, skipna=True)) in TIMES:
            raise ValueError(_about_dates(name, str(column.dropna().iloc[0])))
        elif kind == "boolean":
            self.kinds_[name] = "boolean"
        elif pandas().api.types.is_numeric_dtype(column):
            numbers_rows = INDEX.fullmatch(str(name)) and _are_different_and_whole(column.dropna())
            if numbers_rows:
                self.left_out_[name] = "numbers the rows"
            else:
                self.kinds_[name] = "number"
        else:
            is_category = isinstance(column.dtype, pandas().CategoricalDtype)
            self._decide_text(name, as_text(column.dropna()), is_category)

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
        for name in self.words_:
            message = self._learn_words(name, X[name])
            if message:
                warnings.warn(message, stacklevel=2)

    def _learn_words(self, name, column):
        """What there is to say about new words, or None."""
        known, counts = self.words_[name], as_text(column.dropna()).value_counts()
        new = [cell for cell in counts.index if not NUMBER.fullmatch(cell) and cell not in known]
        self.words_[name] = sorted([*known, *new])
        if not new:
            return None
        shown = ", ".join(map(repr, new[:5])) + (", ..." if len(new) > 5 else "")
        message = f"column {name!r} holds numbers: what else stands there is taken for missing, {shown} in "
        return f"{message}{counts[new].sum()} of {counts.sum()} cells"

    def _values(self, name, column):
        """A column of numbers, nan where one is missing: float32 where it is that already, else float64."""
        if column.dtype == np.float32:
            values = column.to_numpy()
            if not np.isinf([values.min(), values.max()]).any() and not (np.isnan(values.min()) and np.isinf(values).any()):
                return values
        return datasets.numbers(column, name, self.words_.get(name, ()))

    def _codes(self, name, column):
        """Places of the cells of a column among its categories, -1 where that is none."""
        pd, categories = pandas(), self.categories_[name]
        # from the last one on: an older model may have two spellings of a category
        by_text = {datasets.text_of(categories[place]): place for place in reversed(range(len(categories)))}
        known, places = pd.Index([*by_text], dtype=object), np.array([*by_text.values(), -1])
        if column.dtype == object:  # where 1 is True
            return places[known.get_indexer(column.map(datasets.text_of, na_action="ignore"))]
        codes, cells = pd.factorize(column)
        return np.append(places[known.get_indexer([datasets.text_of(cell) for cell in cells])], -1)[codes]

    def input_of(self, name, column, dtype):
        """What a used column comes to, in parts: values as `transform` has them, as a float type, or codes of categories.

        Each part is overwritten by the next one.
        """
        if name in self.categories_:
            return [self._codes(name, column).astype(np.min_scalar_type(-len(self.categories_[name])))]
        place = [known for known in self.kinds_ if known not in self.categories_].index(name)
        return recipe.standardised(self._values(name, column), self.center_[place], self.factor_[place], dtype)

    def transform(self, X):
        """Return the inputs (n, n_inputs), float64, of a DataFrame: those of numbers, then those of categories."""
        X = X if hasattr(X, "columns") else pandas().DataFrame(X)
        missing = [name for name in self.kinds_ if name not in X.columns]
        if missing:
            needed = ", ".join(map(str, self.kinds_))
            raise ValueError(f"X must have the columns {needed}, got none called {missing[0]!r}")
        numbers = [self._values(name, X[name]) for name in self.kinds_ if name not in self.categories_]
        parts = [recipe.clipped(np.array(numbers, float).reshape(-1, len(X)).T, self.center_, self.factor_)]
        for name, known in self.categories_.items():
            parts.append(one_hot(known)[self._codes(name, X[name])])
        return np.hstack(parts)


def one_hot(known):
    """A row for each category, and one of zeros for the code -1."""
    return np.eye(len(known) + 1, len(known))


def _are_different_and_whole(filled):
    return len(filled) >= 2 and (filled % 1 == 0).all() and filled.is_unique


def _about_dates(name, cell):
    return (
        f"column {name!r} holds dates or times such as {cell!r}: put numbers in their place (a year, a month, days since a "
        f"day), or leave it out (--ignore {shlex.quote(str(name))})"
    )
