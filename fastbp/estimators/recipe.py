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

import numpy as np
from sklearn.base import is_classifier

from fastbp import checks
from fastbp.estimators.fitting import Training
from fastbp.stream import Rows
from fastbp.training import INTERRUPTED, InterruptedWarning, ProgressBar, permutations

LABEL_SMOOTHING = 0.1
BETA_2 = 0.95
# Most epochs, where they are not given, and rows that all of them together visit at most, but for so many epochs at least.
MOST_EPOCHS, MOST_ROWS, LEAST_EPOCHS = 128, 4_000_000, 32
# Rows of a sample, rows that are standardised at once, and units in the last place of float64 that these may be off.
SAMPLE, BLOCK, DOUBT = 1 << 16, 1 << 15, 64


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


def range_of(X):
    """Medians of columns of numbers, without missing ones, and factors that make 1 of the distance between the quartiles.

    Where these are equal, half the whole range takes the place of their distance; the factor of a constant is 0.
    """
    low, lower, center, upper, high = np.array([quartiles(column) for column in X.T]).reshape(-1, 5).T
    with np.errstate(divide="ignore", over="ignore"):
        factor = 1 / np.where(alike(upper, lower), (high - low) / 2, upper - lower)
    return center, np.where(alike(high, low) | ~np.isfinite(factor), 0, factor)


def alike(one, other):
    """Whether two numbers differ by no more than rounding may leave of a constant."""
    return np.abs(one - other) <= 10 * np.finfo(float).eps * np.maximum(np.abs(one), np.abs(other))


def quartiles(values):
    """The least of some numbers, their quartiles, and the greatest, as float64; missing ones are none; of none, all are 0.

    They are, bit for bit, those that numpy interpolates between the values as float64.
    """
    if values.size and np.isnan(values.min()):  # there is one
        values = values[~np.isnan(values)]
    if not values.size:
        return np.zeros(5)
    places = (values.size - 1) * np.array([0.25, 0.5, 0.75])
    lower = places.astype(int)
    pairs = ranked(values, np.minimum(np.stack([lower, lower + 1], axis=1), values.size - 1)).astype(float)
    middle = [np.quantile(pair, share) for pair, share in zip(pairs, places - lower, strict=True)]
    return np.array([values.min(), *middle, values.max()], float) + 0.0  # a median of -0.0 would change signs of zeros


def ranked(values, places):
    """The values at pairs of places, each next to each other, of the sorted ones.

    Of many, they are looked for between two values of a sample that have them almost certainly between them: that takes a
    tenth of the time of sorting them in part.
    """
    if values.size > 4 * SAMPLE:
        sample = np.sort(values[:: values.size // SAMPLE])
        guess, reach = (places[:, 0] * (sample.size / values.size)).astype(int), int(2 * SAMPLE**0.5)
        ranges = sample[np.maximum(0, guess - reach)], sample[np.minimum(sample.size - 1, guess + reach)]
        near, below = between(values, *ranges)
        moved = below - [np.count_nonzero(near < low) for low in ranges[0]]
        ends = below + [np.count_nonzero((near >= low) & (near <= high)) for low, high in zip(*ranges, strict=True)]
        if (below <= places[:, 0]).all() and (places[:, 1] < ends).all():
            values, places = near, places - moved[:, np.newaxis]
    return np.partition(values, np.unique(places))[places]


def between(values, lows, highs):
    """The values in some ranges, which may overlap, and how many are below each."""
    found, below = [], np.zeros(len(lows), int)
    inside, not_below, not_above = np.empty((3, BLOCK), bool)
    for start in range(0, values.size, BLOCK):
        block = values[start : start + BLOCK]
        inside[:] = False
        for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
            lasting = np.greater_equal(block, low, out=not_below[: block.size])
            below[place] += block.size - np.count_nonzero(lasting)
            lasting &= np.less_equal(block, high, out=not_above[: block.size])
            inside[: block.size] |= lasting
        found.append(block[inside[: block.size]])
    return np.concatenate(found), below


def clipped(X, center, factor):
    """x / sqrt(1 + (x / 3)**2), within -3 and 3, of x = (X - center) * factor; 0 for missing values."""
    with np.errstate(over="ignore"):
        x = (X - center) * factor
    most = np.finfo(float).max
    x = np.clip(x, -most, most)  # infinity over infinity would be none of them, and missing
    return np.nan_to_num(x / np.hypot(1, x / 3), nan=0.0)


def standardised(values, center, factor, dtype):
    """`clipped` of a column of numbers as a float type, block by block: the same bits, for float32 in a fourth of the time.

    A root takes the place of the hypotenuse, which is off by a few units in the last place of float64, if at all. As float32
    this is the same unless the middle between two numbers is as near; a block where that is so, or where something
    overflows, is left to `clipped`. Each block is overwritten by the next one.
    """
    result, x, root, near = np.empty(BLOCK, dtype), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK, bool)
    for start in range(0, len(values), BLOCK):
        given = values[start : start + BLOCK]
        out, *room = (array[: len(given)] for array in (result, x, root, near))
        if out.dtype != np.float32 or not _quickly(given, center, factor, out, *room):
            out[:] = clipped(given.astype(float), center, factor)
        yield out


def _quickly(given, center, factor, out, x, root, near):
    """Whether `out` is what `clipped` gives for sure; x, root and near are room to work in."""
    try:
        with np.errstate(over="raise", invalid="ignore", under="ignore"):
            x[:] = given
            x -= center
            x *= factor
            np.multiply(x, x, out=root)
            root *= 1 / 9
            root += 1
            np.sqrt(root, out=root)
            x /= root
    except FloatingPointError:
        return False
    # float32 leaves 29 bits out; what they are in the middle is 1 and zeros
    left_out = np.bitwise_and(x.view(np.uint64), (1 << 29) - 1, out=root.view(np.uint64))
    left_out -= np.uint64((1 << 28) - DOUBT)
    if np.less_equal(left_out, 2 * DOUBT, out=near).any():
        return False
    out[:] = x
    missing = np.isnan(out, out=near)
    if missing.any():
        out[missing] = 0
    return True


class Recipe(Training):
    """The training of a new network of an estimator by epochs of "sgd" or "adam", which keeps what it finds.

    `validation` is X, y and sample_weight of rows whose loss says which epoch was the best, or None: then the last one is.
    It began at `start`, has to be over after `max_seconds`, and is shown and kept as `fit` is asked to.
    """

    def __init__(self, est, X, y, sample_weight, validation, random_state, start=None, max_seconds=None, progress=False,
                 callback=None, checkpoint=None):  # fmt: skip
        self.random_state, self.classifies, self.max_seconds = random_state, is_classifier(est), max_seconds
        self.start, self.progress, self.callback = start or time.perf_counter(), progress, callback
        est._validate_params()
        X_val, y_val, weights = validation or (None, None, None)
        X, _, rows, validation = est._begin(X, y, sample_weight, random_state, X_val=X_val, y_val=y_val)
        est.coefs_, est.intercepts_ = initial(est._units(), X.dtype, random_state)
        est._draw_dropout_seed(random_state)
        if validation is not None:
            weights = est._weights(y_val, weights, False)
            if weights is not None:
                validation.weights = weights.astype(X.dtype)
                checks.check_sum("weights of the rows that early stopping holds back", validation.weights)
            # for the scores of every epoch
            self.targets = est._decoded(validation.Y) if self.classifies else validation.Y.astype(float)
            if not self.classifies:
                self.spread = missed(np.average(self.targets, axis=0, weights=validation.weights), self.targets, validation)
        self.rows, n, targets = rows, len(rows.X), soft(rows.Y, LABEL_SMOOTHING) if self.classifies else rows.Y
        super().__init__(est, Rows(rows.X, targets, rows.weights), validation, draw=permutations(random_state, n))
        self.least, self.best, self.best_epoch, self.interrupted = math.inf, {}, 0, False
        self.checkpoint = checkpoint
        if checkpoint is not None:  # waves of step lengths depend on the number of epochs
            checkpoint.identify(est, self.rows, validation, free=("verbose", "n_jobs"))

    def own(self):
        """What a checkpoint keeps beside what all trainings have."""
        return [self.least, self.best, self.best_epoch]

    def take_own(self, own):
        """Take it back."""
        self.least, self.best, self.best_epoch = own

    def share(self, done):
        """What is over of the training, after a share of its epochs: the waves end when the time does."""
        return done if self.max_seconds is None else max(done, (time.perf_counter() - self.start) / self.max_seconds)

    def train(self):
        """Train, and leave the best weights and the curves on the estimator."""
        est, run, done, stop = self.est, self.run, 0, False
        est.loss_curve_, est.validation_scores_, est.best_loss_, est.best_validation_score_ = [], None, None, None
        if self.validation is not None:
            est.validation_scores_, est.validation_loss_curve_ = [], []
        try:
            if self.checkpoint is not None:
                stop = self.checkpoint.restore(self)
            with ProgressBar(est.max_iter, self.progress) as bar:
                self.set_step()
                for _ in run.calls(0 if stop else est.max_iter - est.n_iter_, each_epoch=True):
                    ended, done = run.epochs_done > done, run.epochs_done
                    stop = self.end() if ended else done > 0 and self.share(0) >= 1
                    bar.update(est.n_iter_, est.loss_curve_[-1] if est.n_iter_ else None)
                    if stop:
                        break
                    self.offer()
            if self.checkpoint is not None:
                self.checkpoint.try_to_save(self, stop)
            self.close()
        except KeyboardInterrupt:
            self.interrupted = True
            self.close()
            warnings.warn(INTERRUPTED, InterruptedWarning, stacklevel=5)

    def set_step(self):
        """Set the step length of the next epoch, by the middle of it."""
        t = (self.est.n_iter_ + 0.5) / self.est.max_iter
        # compiling, before the first epoch, is no training
        t = self.share(t) if self.est.n_iter_ else t
        self.run.set_learning_rate(self.est.learning_rate_init * wave(min(t, 1)))

    def end(self):
        """Take note of an epoch that has ended; returns whether the training has to."""
        est = self.est
        self.check_finite(f" in epoch {est.n_iter_ + 1}")
        self.note(self.losses(self.run.epochs_done - 1))
        if self.validation is not None:
            self.validate()
        if est.verbose:
            self.print_line()
        self.set_step()
        stop = self.validation is not None and est.n_iter_ - self.best_epoch > est.n_iter_no_change
        if self.callback is not None:
            vars(est).update(self.weights())  # in one call, in which no signal's handler runs
            stop = bool(self.callback(est.n_iter_, est)) or stop
        return stop or self.share(0) >= 1

    def validate(self):
        """Judge the present weights by the rows that are held back; of equal ones, the last are the best."""
        est, rows, (outputs, loss) = self.est, self.validation, self.judge()
        if self.classifies:
            score = est._score_of(self.targets, est._decoded(outputs), rows.weights)
        else:  # R2 without scikit-learn's checks, which take longer than a small table's epoch
            error = missed(outputs.astype(float), self.targets, rows)
            score = 1 - error / self.spread if self.spread else float(error == 0)
        est.validation_scores_.append(score)
        if loss <= self.least:
            self.best = self.weights() | {"best_validation_score_": score}
            self.least, self.best_epoch = loss, est.n_iter_

    def print_line(self):
        """Say how the epoch went, and after the first one how long the others will take."""
        est = self.est
        line = f"epoch {est.n_iter_} of {est.max_iter}: loss {est.loss_:.6g}"
        if self.validation is not None:
            line += f", validation loss {est.validation_loss_curve_[-1]:.6g}, score {est.validation_scores_[-1]:.4f}"
        if est.n_iter_ == 1:
            left = (time.perf_counter() - self.start) * (est.max_iter - 1)
            line += f"; about {min(left, self.max_seconds or left):.0f} s to go"
        print(line)

    def check_finite(self, when=""):
        """Raise a ValueError where a weight is no finite number."""
        if not self.run.is_finite():
            rate = f"learning_rate_init={self.est.learning_rate_init:g}"
            raise ValueError(f"weights stopped being finite{when} with {rate}: try a smaller one")

    def close(self):
        """Keep the best weights, or the present ones where no epoch was judged."""
        self.check_finite()
        vars(self.est).update(self.best or self.weights())
