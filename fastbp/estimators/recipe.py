"""How the network of a table is trained: initial weights, soft targets, waves of step lengths, the best epoch.

The recipe follows RealMLP-TD-S of Holzmüller, Grinsztajn and Steinwart, "Better by default: strong pre-tuned MLPs and
boosted trees on tabular data", NeurIPS 2024, where an ingredient paid by measurement on the tables of `bench/tabular.py`:
inputs clipped smoothly, SELU, Adam with a short memory of squares, soft targets, step lengths that rise and fall four times,
the best epoch by rows that are held back. It departs from it where that did as well or better in less time: layers are fewer
and narrower, batches smaller, the best epoch is the one of the least loss, and inputs have no scale to be learnt.
"""

import itertools
import math
import time
import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, is_classifier

from fastbp.estimators.fitting import Rows, Training
from fastbp.rule import check_sum
from fastbp.training import ProgressBar

LABEL_SMOOTHING = 0.1
BETA_2 = 0.95
# Most epochs, where they are not given, and rows that all of them together visit at most, but for so many epochs at least.
MOST_EPOCHS, MOST_ROWS, LEAST_EPOCHS = 128, 4_000_000, 32


def epochs_for(max_iter, n):
    """Epochs of a training on n rows."""
    return max(LEAST_EPOCHS, min(MOST_EPOCHS, MOST_ROWS // n)) if max_iter == "auto" else max_iter


def wave(t):
    """Factor of the step length when a share t of the training is over: four waves, each twice as long as the one before."""
    return 0.5 - 0.5 * math.cos(2 * math.pi * math.log2(1 + 15 * t))


def initial(units, dtype, random_state):
    """Weights that keep the variance of what comes in, biases of the same size, and outputs of 0."""
    weights: list[np.ndarray] = []
    biases: list[np.ndarray] = []
    for n_in, n_out in itertools.pairwise(units):
        last = len(weights) == len(units) - 2
        weights.append((random_state.normal(size=(n_in, n_out)) * (0 if last else n_in**-0.5)).astype(dtype))
        biases.append((random_state.normal(size=n_out) * (not last)).astype(dtype))
    return weights, biases


def soft(Y, share):
    """Targets of 0 and 1, of which a share is spread evenly over all classes."""
    return Y + Y.dtype.type(share) * (1 / max(2, Y.shape[1]) - Y).astype(Y.dtype)


def missed(predicted, Y, rows):
    """Mean over rows of the squared distance of predictions from targets."""
    return float(np.average(((Y - predicted) ** 2).sum(axis=1), weights=rows.weights))


class SmoothClip(TransformerMixin, BaseEstimator):
    """Makes inputs of numbers: x = (value - median) / (quartile range), then x / sqrt(1 + (x / 3)**2), within -3 and 3.

    Where the quartiles are equal, half the whole range takes the place of theirs; constant columns become 0, as missing
    values do. After Holzmüller, Grinsztajn and Steinwart, "Better by default", NeurIPS 2024.

    Attributes
    ----------
    center_, factor_ : ndarray of shape (n_features,)
        The median, and what the distance from it is multiplied by.
    """

    def fit(self, X, y=None):
        """Learn medians and ranges of columns of numbers, without their missing values."""
        X = np.asarray(X, float)
        X = np.where(np.isnan(X).all(axis=0), 0, X)
        low, lower, self.center_, upper, high = np.nanquantile(X, (0, 0.25, 0.5, 0.75, 1), axis=0).reshape(5, -1)
        spread = np.where(upper > lower, upper - lower, (high - low) / 2)
        # what is left of a constant after rounding is no spread
        constant = high - low <= 10 * np.finfo(float).eps * np.maximum(np.abs(high), np.abs(low))
        with np.errstate(divide="ignore", over="ignore"):
            factor = 1 / spread
        self.factor_ = np.where(constant | ~np.isfinite(factor), 0, factor)
        return self

    def transform(self, X):
        """Return the inputs, float64."""
        with np.errstate(over="ignore"):
            x = (np.asarray(X, float) - self.center_) * self.factor_
        most = np.finfo(float).max
        x = np.clip(x, -most, most)  # infinity over infinity would be none of them, and missing
        return np.nan_to_num(x / np.hypot(1, x / 3), nan=0.0)


class Inputs(SmoothClip):
    """Makes inputs of clean columns: numbers as `SmoothClip` does, categories one-hot, an unknown one as zeros."""

    def fit(self, X, y=None):
        """Learn from the columns of numbers of a DataFrame."""
        return super().fit(X.select_dtypes(float))

    def transform(self, X):
        """Return the inputs, float64: those of numbers, then those of categories."""
        parts = [super().transform(X.select_dtypes(float))]
        for _, column in X.select_dtypes("category").items():
            size = len(column.cat.categories)
            parts.append(np.eye(size + 1, size)[column.cat.codes])  # whose last row, of the code -1, is zeros
        return np.hstack(parts)


@dataclass
class Watch:
    """What a caller wants to see of a training, and when it has to be over.

    Parameters
    ----------
    max_seconds : float or None
        One epoch is had in any case.
    verbose : bool
        Print a line per epoch.
    progress : bool
        Show a progress bar.
    callback : callable or None
        callback(epoch, network) after each epoch; the training ends where it returns True.
    """

    max_seconds: float | None = None
    verbose: bool = False
    progress: bool = False
    callback: object = None

    def __post_init__(self):
        self.start = time.perf_counter()

    def share(self, done):
        """What is over of the training, after a share of its epochs: the waves end when the time does."""
        if self.max_seconds is None:
            return done
        return max(done, (time.perf_counter() - self.start) / self.max_seconds)


class Recipe(Training):
    """The training of one network of an estimator that has not been fitted yet, which keeps what it finds.

    Parameters
    ----------
    est : MLPClassifier or MLPRegressor
        With solver "sgd" or "adam" and `max_iter` epochs.
    X, y, sample_weight
        As of its `fit`.
    validation : tuple of X, y and sample_weight, or None
        Rows whose loss says which epoch was the best; None keeps the last one.
    random_state : RandomState
    watch : Watch
    """

    def __init__(self, est, X, y, sample_weight, validation, random_state, watch):
        self.watch, self.random_state, self.classifies = watch, random_state, is_classifier(est)
        est._validate_params()
        X_val, y_val, weights = validation or (None, None, None)
        X, _, rows, validation = est._begin(X, y, sample_weight, random_state, X_val=X_val, y_val=y_val)
        est.coefs_, est.intercepts_ = initial(est._units(), X.dtype, random_state)
        est._draw_dropout_seed(random_state)
        if validation is not None:
            weights = est._weights(y_val, weights, False)
            if weights is not None:
                validation.weights = weights.astype(X.dtype)
                check_sum("weights of the rows that early stopping holds back", validation.weights)
            # for the scores of every epoch
            self.targets = est._decoded(validation.Y) if self.classifies else validation.Y.astype(float)
            if not self.classifies:
                self.spread = missed(np.average(self.targets, axis=0, weights=validation.weights), self.targets, validation)
        self.rows, n, targets = rows, len(rows.X), soft(rows.Y, LABEL_SMOOTHING) if self.classifies else rows.Y
        super().__init__(est, Rows(rows.X, targets, rows.weights), validation, draw=lambda: random_state.permutation(n))

    def take(self):
        """Give the estimator the present weights."""
        vars(self.est).update(self.weights())  # in one call, in which no signal's handler runs

    def train(self):
        """Train, and leave the best weights and the curves on the estimator."""
        est, run, done = self.est, self.run, 0
        est.loss_curve_, est.validation_scores_, est.best_loss_, est.best_validation_score_ = [], None, None, None
        if self.validation is not None:
            est.validation_scores_, est.validation_loss_curve_ = [], []
        self.least, self.best, self.best_epoch = math.inf, (est.coefs_, est.intercepts_), 0
        try:
            with ProgressBar(est.max_iter, self.watch.progress) as bar:
                self.set_step()
                for _ in run.calls(est.max_iter, each_epoch=True):
                    ended = run.epochs_done > done
                    done = run.epochs_done
                    stop = self.end() if ended else done > 0 and self.watch.share(0) >= 1
                    bar.update(done, est.loss_curve_[-1] if done else None)
                    if stop:
                        break
            self.close()
        except KeyboardInterrupt:
            self.close()
            warnings.warn("Training interrupted by user.", stacklevel=4)

    def set_step(self):
        """Set the step length of the next epoch, by the middle of it."""
        t = (self.est.n_iter_ + 0.5) / self.est.max_iter
        # compiling, before the first epoch, is no training
        t = self.watch.share(t) if self.est.n_iter_ else t
        self.run.set_learning_rate(self.est.learning_rate_init * wave(min(t, 1)))

    def end(self):
        """Take note of an epoch that has ended; returns whether the training has to."""
        est = self.est
        if not self.run.is_finite():
            raise ValueError(
                f"weights stopped being finite in epoch {est.n_iter_ + 1} with "
                f"learning_rate_init={est.learning_rate_init:g}: try a smaller one"
            )
        self.note(self.run.epochs_done - 1)
        if self.validation is not None:
            self.validate(self.validation)
        if self.watch.verbose:
            self.print_line()
        self.set_step()
        waited = self.validation is not None and est.n_iter_ - self.best_epoch > est.n_iter_no_change
        asked = False
        if self.watch.callback is not None:
            self.take()
            asked = bool(self.watch.callback(est.n_iter_, est))
        return waited or asked or self.watch.share(0) >= 1

    def validate(self, rows):
        """Judge the present weights by the rows that are held back; of equal ones, the last are the best."""
        est, (outputs, loss) = self.est, self.judge()
        est.validation_scores_.append(self.score(rows, outputs))
        if loss <= self.least:
            self.take()
            self.least, self.best, self.best_epoch = loss, (est.coefs_, est.intercepts_), est.n_iter_

    def score(self, rows, outputs):
        """Accuracy, or R2 without scikit-learn's checks, which take longer than a small table's epoch."""
        if self.classifies:
            return self.est._score_of(self.targets, self.est._decoded(outputs), rows.weights)
        error = missed(outputs.astype(float), self.targets, rows)
        return 1 - error / self.spread if self.spread else float(error == 0)

    def print_line(self):
        """Say how the epoch went, and after the first one how long the others will take."""
        est = self.est
        line = f"epoch {est.n_iter_} of {est.max_iter}: loss {est.loss_:.6g}"
        if self.validation is not None:
            line += f", validation loss {est.validation_loss_curve_[-1]:.6g}, score {est.validation_scores_[-1]:.4f}"
        if est.n_iter_ == 1:
            left = (time.perf_counter() - self.watch.start) * (est.max_iter - 1)
            limit = self.watch.max_seconds
            line += f"; about {left if limit is None else min(left, limit):.0f} s to go"
        print(line)

    def close(self):
        """Keep the best weights, or the present ones where no epoch was judged."""
        est = self.est
        self.take()
        if not self.run.is_finite():
            raise ValueError(f"weights stopped being finite with learning_rate_init={est.learning_rate_init:g}: try less")
        if self.best_epoch:
            est.coefs_, est.intercepts_ = list(self.best[0]), list(self.best[1])
            est.best_validation_score_ = est.validation_scores_[self.best_epoch - 1]
