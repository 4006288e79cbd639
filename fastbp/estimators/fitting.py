"""How an estimator's parameters are found: epochs of a stochastic solver with their stopping rules, or L-BFGS.

Every function takes the estimator and leaves its findings there, under scikit-learn's names. The order of random draws, the
rules for stopping and the lines that are printed are scikit-learn's, so that the same seed gives the same model.
"""

import contextlib
import copy
import math
import sys
import threading
import time
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize
from scipy.special import xlogy
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import train_test_split
from sklearn.utils.optimize import _check_optimize_result

from fastbp import checks, kernels
from fastbp.layout import RECORD
from fastbp.stream import Rows, RowsError, Stream, StreamRun
from fastbp.training import INTERRUPTED, InterruptedWarning, Predictor, Run

# An adaptive step length this short is not shortened any more.
LEAST_LEARNING_RATE = 1e-6
# Epochs that room is made for at a time, where nothing else limits them.
MOST_EPOCHS = 1000
# How far a training runs ahead of the losses that may stop it: at least, and at most, so long, and at most so many times the
# epochs before. Of how many epochs it knows how fast losses fall.
AHEAD_LEAST, AHEAD_MOST, AHEAD_GROWTH, AHEAD_KNOWN = 3e-4, 1e-2, 4, 10


def look(est):
    """Raise a KeyboardInterrupt where another thread wishes this fit to end, as the ensemble's of a member."""
    if est._stop is not None and est._stop():
        raise KeyboardInterrupt


def split(est, rows, random_state):
    """The rows for training and those for validation; of a stream, the last ones of each chunk."""
    if isinstance(rows, Stream):
        if est.scoring is not None:
            raise ValueError(f"scoring needs X_val and y_val where rows are read chunk by chunk, got {est.scoring!r} alone")
        training, validation = rows.without(est.validation_fraction)
        check_held(rows.weigh is not None, training, validation, training.n_rows, validation.n_rows)
        return training, validation
    stratify = rows.Y.astype(bool) if is_classifier(est) and est.n_outputs_ == 1 else None
    arrays = [rows.X, rows.Y] + ([] if rows.weights is None else [rows.weights])
    parts = train_test_split(*arrays, random_state=random_state, test_size=est.validation_fraction, stratify=stratify)
    training, validation = Rows(*parts[::2]), Rows(*parts[1::2])
    check_held(rows.weights is not None, training, validation, training.X.shape[0], validation.X.shape[0])
    return training, validation


def check_held(weighted, training, validation, n_training, n_held):
    """Raise a ValueError where too few rows are held back, or left, or their weights are nothing."""
    if n_held < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    if not n_training:
        raise ValueError("validation_fraction must leave rows for training, got none")
    if weighted:
        checks.check_sum("weights of the rows that early stopping leaves for training", training.all_weights())
        checks.check_sum("weights of the rows that early stopping holds back", validation.all_weights())


@contextlib.contextmanager
def as_before(est, random_state, streamed=False, learnt=None):
    """Let an exception leave an estimator as it was, and its random state, unless it has `learnt`, by default in epochs.

    Where rows of a stream turn out to be unsound in the middle, it is as before all the same.
    """
    learnt = learnt or (lambda: vars(est).get("n_iter_"))
    before = vars(est).copy()
    if streamed:  # curves grow in their places
        before |= {name: value.copy() for name, value in before.items() if isinstance(value, list)}
    drawn = None if type(est.random_state) is int else random_state.get_state(legacy=False)
    try:
        yield
    except BaseException as error:
        if isinstance(error, RowsError) or not learnt():
            est.__dict__ = before  # at once, whatever interrupts it
            if drawn is not None:
                random_state.set_state(drawn)
        raise


class Heard(threading.local):
    """For each thread, a list that takes the warnings of its fits, or None where they are to be raised."""

    said: list | None = None


heard = Heard()


def warn(text, category=UserWarning, stacklevel=1):
    """Warn, or let `hearing` note it: what the module `warnings` can record is of all threads."""
    if heard.said is None:
        warnings.warn(text, category, stacklevel + 1)
    else:
        heard.said.append((text, category))


@contextlib.contextmanager
def hearing(said):
    """Note in a list, as pairs of text and category, what fits of this thread warn of."""
    before, heard.said = heard.said, said
    try:
        yield
    finally:
        heard.said = before


def clipped_batch_size(est, n):
    """Rows per step."""
    if isinstance(est.batch_size, str):
        return min(200, n)
    if est.batch_size > n:
        warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2)
    return min(int(est.batch_size), n)


def losses_averaged(est):
    """How many outputs' losses the reported loss of a row is the mean of."""
    return est.n_outputs_ if est.loss in ("squared_error", "absolute_error") else 1


def mean_loss(est, rows, outputs):
    """The loss of outputs without its L2 term, as it is reported."""
    Y, A = rows.Y, outputs
    if est.loss == "log_loss":
        eps = np.finfo(A.dtype).eps
        A = np.clip(A, eps, 1 - eps)
        losses = -xlogy(Y, A) if est.out_activation_ == "softmax" else -xlogy(Y, A) - xlogy(1 - Y, 1 - A)
    elif est.loss == "poisson":
        losses = xlogy(Y, Y) - xlogy(Y, A) - Y + A
    else:
        losses = (np.abs(A - Y) if est.loss == "absolute_error" else (A - Y) ** 2 / 2) / Y.shape[1]
    return float(np.average(losses.sum(axis=1), weights=rows.weights))


class Task:
    """A fit as callbacks see it: one task, with a subtask for each of at most `most` epochs; they see no `single` one."""

    def __init__(self, est, X, y, sample_weight, most, single):
        # nothing is done per epoch for the many who set no callbacks
        self.watched = not single and bool(getattr(est, "_skl_callbacks", ()))
        if self.watched:
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            self.facts = {"estimator": est, "X": X, "y": y, "metadata": metadata}
            self.context = est._init_callback_context(max_subtasks=most)
            self.context.call_on_fit_task_begin(**self.facts)

    def begin(self):
        """An epoch begins."""
        if self.watched:
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self.facts)

    def end(self):
        """An epoch ends, and the estimator has its weights; returns whether a callback wants to stop."""
        return self.watched and self.epoch.call_on_fit_task_end(**self.facts, reconstruction_attributes=self.fitted)

    def close(self):
        """The fit ends."""
        if self.watched:
            self.context.call_on_fit_task_end(**self.facts, reconstruction_attributes=self.fitted)

    def fitted(self):
        """What a copy of the estimator needs beside its present attributes to predict: weights of its own."""
        est = self.facts["estimator"]
        return {"coefs_": list(est.coefs_), "intercepts_": list(est.intercepts_)}


def new_run(est, rows, draw, memory, seed):
    """The run of an estimator's network from its present weights: of a stream in the order of a seed, else of `draw`."""
    streamed = isinstance(rows, Stream)
    options = {
        "rule": est._rule(), "activations": est._activation_codes(), "n_jobs": est._threads(), "memory": memory,
        "batch_size": clipped_batch_size(est, rows.chunk_rows if streamed else rows.X.shape[0]),
    }  # fmt: skip
    if streamed:
        seed_of = None if seed is None else lambda epoch: [seed, epoch]
        return StreamRun(est.coefs_, est.intercepts_, rows, seed_of=seed_of, **options)
    return Run(est.coefs_, est.intercepts_, rows.X, rows.Y, row_weights=rows.weights, draw=draw, **options)


class Training:
    """What every training by epochs does from an estimator's weights on: it notes losses, and judges by rows held back."""

    checkpoint: Any = None

    def __init__(self, est, rows, validation, draw, memory=None, run=None, seed=None):
        self.est, self.validation = est, validation
        self.n = rows.n_rows if isinstance(rows, Stream) else rows.X.shape[0]
        self.run = run or new_run(est, rows, draw, memory, seed)
        est.level_ = self.run.level
        # the length of the curve, the epochs and the rows before
        self.begun = len(getattr(est, "loss_curve_", [])), est.n_iter_, est.t_
        self.outputs_of_loss = losses_averaged(est)
        # outputs and weights of the validation rows, all of them, and predictions for so many at a time
        self.held: Any = None if isinstance(validation, Stream) else validation
        self.predictor: Any = None

    def losses(self, first):
        """Losses of the epochs that the run has completed from its `first` one on."""
        record = self.run.recorded(first)
        rows, penalty = record[:, RECORD.loss], record[:, RECORD.penalty]
        return ((rows / self.outputs_of_loss + float(self.est.alpha) / 2 * penalty) / record[:, RECORD.rows]).tolist()

    def note(self, losses):
        """Take note of completed epochs by their losses, which it returns."""
        if losses:
            self.est.loss_curve_ += losses
            self.count()
        return losses

    def count(self):
        """Let the numbers of epochs and rows and the last loss be those of the curve, which has one more for each epoch."""
        est, (length, n_iter, t) = self.est, self.begun
        epochs = len(est.loss_curve_) - length
        vars(est).update(n_iter_=n_iter + epochs, t_=t + epochs * self.n, loss_=est.loss_curve_[-1])

    def offer(self):
        """Let a checkpoint be written."""
        if self.checkpoint is not None:
            self.checkpoint.offer(self)

    def judge(self):
        """Outputs for the validation rows by the present weights, and their loss, which is added to the curve."""
        found: list[tuple] = []
        for part in self.validation:
            if self.predictor is None:
                n = getattr(self.validation, "chunk_rows", None)
                self.predictor = Predictor(self.run.layout, part.X, self.est.out_activation_, self.est._threads(), n)
            found.append((self.predictor(self.run.params, part.X), part.Y, part.weights))
        outputs, Y, weights = (
            parts[0] if len(parts) == 1 or parts[0] is None else np.concatenate(parts) for parts in zip(*found, strict=True)
        )
        if self.held is None:
            self.held = Rows(None, Y, weights)
        loss = mean_loss(self.est, self.held, outputs)
        self.est.validation_loss_curve_.append(loss)
        return outputs, loss

    def weights(self):
        """Copies of the present weights, by the names of the estimator's attributes."""
        weights, biases = self.run.parameters()
        return {"coefs_": weights, "intercepts_": biases}


class Epochs(Training):
    """Epochs of a stochastic solver as scikit-learn has them, and when to stop; the curves of earlier fits go on."""

    def __init__(self, est, rows, validation, random_state, memory, task, run=None):
        self.random_state, streamed, self.scorer = random_state, isinstance(rows, Stream), None
        draw, seed = self.draw if est.shuffle else None, None
        if est.shuffle and streamed:
            seed = random_state.randint(2**32, dtype=np.uint32).item()
        super().__init__(est, rows, validation, draw, memory, run, seed)
        self.order, self.task = np.arange(0 if streamed else self.n, dtype=np.int64), task
        self.ran, self.seconds, self.noted = 0, 0.0, 0
        # orders that were drawn while running ahead, and those that are drawn again
        self.ahead_of: list | None = None
        self.again: Any = ()
        if validation is not None and est.scoring is not None:
            self.scorer = check_scoring(est, est.scoring)
        self.targets: Any = None
        self.draws_matter = est.shuffle and (type(est.random_state) is not int or est.learning_rate == "adaptive")
        # what looks at the estimator itself finds the weights of the epoch
        self.looked_at = task.watched or (est.early_stopping and self.scorer is not None)
        vars(est).setdefault("loss_curve_", [])
        vars(est).setdefault("_no_improvement_count", 0)
        if validation is not None:
            vars(est).setdefault("validation_loss_curve_", [])
        if not est.early_stopping:
            if getattr(est, "best_loss_", None) is None:
                est.best_loss_ = math.inf
            est.validation_scores_ = est.best_validation_score_ = None
        elif getattr(est, "validation_scores_", None) is None or not hasattr(est, "_best_coefs"):
            est.best_loss_ = None
            est.validation_scores_, est.best_validation_score_ = [], -math.inf
            est._best_coefs, est._best_intercepts = list(est.coefs_), list(est.intercepts_)

    def draw(self, count):
        """The rows in new orders, one for each of the next epochs: the last one, shuffled again and again."""
        if len(self.again):
            orders, self.again = np.split(self.again, [count])
            return orders
        orders = kernels.shuffle(self.order, count, self.random_state)
        if self.ahead_of is not None:
            self.ahead_of.append(orders)
        return orders

    def keep(self):
        """Give the estimator the present weights, with what the solver remembers."""
        moments, steps = self.run.memory()
        # one call, in which no signal's handler runs, for what belongs together
        vars(self.est).update(self.weights(), _moments=moments, _steps=steps)

    def safe(self):
        """Epochs after which training may stop at the earliest, or has to be looked at."""
        est = self.est
        invscaling = est.solver == "sgd" and est.learning_rate == "invscaling"
        if self.validation is not None or self.task.watched or invscaling:
            return 1
        return max(1, min(MOST_EPOCHS, est.n_iter_no_change - est._no_improvement_count + 1))

    def ahead(self):
        """Epochs to run without a look at their losses: starting a call takes longer than a few epochs of a small network.

        Where training should have stopped among them, they are taken back and run up to there. Few losses fall less in each
        epoch than with the inverse third power of the number of epochs: so many are left until they fall by less than `tol`.
        """
        if self.safe() == 1 or not self.ran or self.run.chunks > 1:
            return 0
        curve, tol, pace = self.est.loss_curve_, float(self.est.tol), self.seconds / self.ran
        known = curve[-1 - AHEAD_KNOWN :]
        fall = max(0.0, (known[0] - known[-1]) / len(known))
        left = ((fall / max(tol, sys.float_info.min)) ** (1 / 3) - 1) * self.ran
        return min(max(left, AHEAD_LEAST / pace), AHEAD_MOST / pace, AHEAD_GROWTH * self.ran)

    def some(self, most):
        """Run up to `most` epochs; returns whether to stop."""
        est, run, seen, stop, safe = self.est, self.run, 0, False, min(self.safe(), most)
        if est.solver == "sgd":
            run.set_learning_rate(est._learning_rate)
        self.task.begin()
        run.restart()
        self.noted = len(est.loss_curve_)
        start, count = time.perf_counter(), int(max(safe, min(self.ahead(), most)))
        if count > safe:
            stop = self.end(self.note(self.run_ahead(count)))
            if not stop:  # else it is written in the end
                self.offer()
        else:
            for _ in run.calls(int(safe)):
                look(est)
                losses = self.note(self.losses(seen))
                seen += len(losses)
                if losses:
                    stop = self.end(losses)
                if not stop:
                    self.offer()
        self.ran, self.seconds = self.ran + run.epochs_done, self.seconds + time.perf_counter() - start
        return stop

    def own(self):
        """What a checkpoint keeps beside what all trainings have."""
        return self.order

    def take_own(self, order):
        """Take it back."""
        self.order[:] = order

    def run_ahead(self, count):
        """Run so many epochs, or up to that in which training has to stop; returns their losses."""
        est, run, before, self.ahead_of = self.est, self.run, self.state(), []
        try:
            for _ in run.calls(count):
                look(est)
            drawn, self.ahead_of = self.ahead_of, None
            losses = self.losses(0)
            _, _, right = self.compared(losses)
            if right < count:
                self.again = np.concatenate(drawn) if drawn else ()
                self.restore(before)
                for _ in run.calls(right):
                    look(est)
            self.again = ()
            return losses[:right]
        except BaseException:
            self.restore(before)
            raise

    def settle(self):
        """Take note of the epochs that an exception has kept from being noted."""
        curve = self.est.loss_curve_
        curve += self.losses(len(curve) - self.noted)
        if curve:
            self.count()

    def state(self):
        """What epochs change."""
        run = self.run
        run.restart()
        # nobody else draws from a seed, and after the last epoch not even the fit; looking at the state takes long
        drawn = self.random_state.get_state(legacy=False) if self.draws_matter else None
        return run.params.copy(), run.moments.copy(), run.cursor.copy(), self.order.copy(), drawn

    def restore(self, state):
        """Take epochs back; those that are run again draw the same."""
        self.run.params[:], self.run.moments[:], self.run.cursor[:], order, drawn = state
        if drawn is not None:
            self.order[:], self.again = order, ()
            self.random_state.set_state(drawn)

    def end(self, losses):
        """Decide after completed epochs whether to stop."""
        est = self.est
        if est.verbose:
            for number, loss in enumerate(losses, est.n_iter_ - len(losses) + 1):
                print(f"Iteration {number}, loss = {loss:.8f}")
        if self.looked_at:
            self.keep()
        if self.validation is not None:
            self.validate()
        if not est.early_stopping:
            est.best_loss_, est._no_improvement_count, _ = self.compared(losses)
        if est.solver == "sgd" and est.learning_rate == "invscaling":
            est._learning_rate = float(est.learning_rate_init) / (est.t_ + 1) ** est.power_t
        stop = self.task.end()
        if est._no_improvement_count > est.n_iter_no_change:
            return self.converged() or stop
        return stop

    def compared(self, losses):
        """The best loss, the epochs since there was an improvement, and how many of them training goes on for at most."""
        est = self.est
        best, count, tol, most = est.best_loss_, est._no_improvement_count, est.tol, est.n_iter_no_change
        for number, loss in enumerate(losses, 1):
            count = count + 1 if loss > best - tol else 0
            best = loss if loss < best else best
            if count > most:
                return best, count, number
        return best, count, len(losses)

    def validate(self):
        """Judge the present weights by the validation rows."""
        est, (outputs, _) = self.est, self.judge()
        if not est.early_stopping:
            return
        score = self.score(outputs)
        est.validation_scores_.append(score)
        if est.verbose:
            print(f"Validation score: {score:f}")
        stalled = score < est.best_validation_score_ + est.tol
        est._no_improvement_count = est._no_improvement_count + 1 if stalled else 0
        if score > est.best_validation_score_:
            coefs, intercepts = self.run.parameters()
            # in one call, as in `keep`
            vars(est).update(best_validation_score_=score, _best_coefs=coefs, _best_intercepts=intercepts)

    def score(self, outputs):
        """What early stopping compares."""
        est, rows = self.est, self.held
        if self.targets is None:
            self.targets = est._decoded(rows.Y)
        if self.scorer is None:
            return est._score_of(self.targets, est._decoded(outputs), rows.weights)
        judged = copy.copy(est)  # which has not seen names of features, as the rows have none
        vars(judged).pop("feature_names_in_", None)
        extra = {} if rows.weights is None else {"sample_weight": rows.weights}
        return float(self.scorer(judged, rows.X, self.targets, **extra))

    def converged(self):
        """Whether to stop, now that there was no improvement for long enough; else the step gets shorter."""
        est = self.est
        what = "Validation score" if est.early_stopping else "Training loss"
        message = f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
        adaptive = est.solver == "sgd" and est.learning_rate == "adaptive"
        if not adaptive or est._learning_rate <= LEAST_LEARNING_RATE:
            if est.verbose:
                print(f"{message} {'Learning rate too small. ' if adaptive else ''}Stopping.")
            return True
        est._learning_rate /= 5
        if est.verbose:
            print(f"{message} Setting learning rate to {est._learning_rate:f}")
        est._no_improvement_count = 0
        return False


def begun(est, rows, validation, random_state, memory, task, run=None, incremental=False):
    """Epochs of an estimator at their beginning, or `incremental` ones, which go on with its learning rate."""
    if not incremental or getattr(est, "_learning_rate_start", None) != est.learning_rate_init:
        est._learning_rate = est._learning_rate_start = float(est.learning_rate_init)
    est.n_iter_ = 0
    return Epochs(est, rows, validation, random_state, memory, task, run)


def warn_of_the_end(est, stacklevel=2):
    """Warn that training ended before it converged."""
    message = f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization hasn't converged yet."
    warn(message, ConvergenceWarning, stacklevel + 1)


def fit_stochastic(est, rows, validation, random_state, incremental, task, checkpoint=None):
    """Train by "sgd" or "adam", for one epoch if `incremental`; leaves the parameters and the curves on the estimator."""
    if est.early_stopping and incremental:
        raise ValueError("partial_fit does not support early_stopping=True")
    if est.early_stopping and validation is None:
        rows, validation = split(est, rows, random_state)
    memory = est._solver_memory() if incremental else None
    epochs = begun(est, rows, validation, random_state, memory, task, incremental=incremental)
    most, stop = 1 if incremental else est.max_iter, False
    if checkpoint is not None:
        stop, epochs.checkpoint = checkpoint.restore(epochs), checkpoint
    try:
        while not stop and est.n_iter_ < most:
            stop = epochs.some(most - est.n_iter_)
        epochs.keep()
        if checkpoint is not None:
            checkpoint.try_to_save(epochs, stop)
        if not stop and not incremental:
            warn_of_the_end(est, 3)
    except BaseException as error:
        epochs.settle()
        epochs.keep()
        if not isinstance(error, KeyboardInterrupt):
            raise
        warn(INTERRUPTED, InterruptedWarning, stacklevel=2)
    else:
        epochs.run.end()
    if est.early_stopping:
        est.coefs_, est.intercepts_ = list(est._best_coefs), list(est._best_intercepts)


def add_decay(layout, params, alpha, gradient):
    """Add that of the L2 term to a gradient of sums over rows; returns the sum W**2."""
    penalty = 0.0
    for slope, W in zip(layout.views(gradient)[0], layout.views(params)[0], strict=True):
        slope += alpha * W
        penalty += float(np.square(W, dtype=np.float64).sum())
    return penalty


class Objective:
    """Loss and gradient of a network on all rows, as functions of one vector: every W_l, then every b_l, flattened."""

    def __init__(self, est, rows):
        self.est, self.rows, self.outputs_of_loss = est, rows, losses_averaged(est)
        rule, network = est._rule("lbfgs"), (est.coefs_, est.intercepts_)
        options = {"activations": est._activation_codes(), "n_jobs": est._threads()}
        self.streamed = isinstance(rows, Stream)
        if self.streamed:  # of a chunk, only the sum over its rows
            rule = replace(rule, reduction="sum", alpha=0.0)
            self.run: Any = StreamRun(*network, rows, rule=rule, batch_size=rows.chunk_rows, **options)
        else:
            n = rows.X.shape[0]
            self.run = Run(*network, rows.X, rows.Y, rule=rule, batch_size=n, row_weights=rows.weights, **options)
        est.level_ = self.run.level

    def of_chunks(self):
        """As of `Run.loss_grad`, of all chunks one after the other, with the L2 term."""
        run, alpha, total, gradient = self.run, float(self.est.alpha), 0.0, np.zeros(self.run.params.shape)
        for rows in self.rows:
            look(self.est)
            run.take_rows(rows)
            loss, _, grad = run.loss_grad()
            total, gradient = total + loss, gradient + grad
        return total, add_decay(run.layout, run.params, alpha, gradient), gradient / run.weight

    def unpacked(self, vector):
        """The vector's parts, shaped as coefs_ and intercepts_."""
        weights, biases = self.run.layout.views(self.run.params)
        shapes = [view.shape for view in weights + biases]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        parts = [part.reshape(shape) for part, shape in zip(np.split(vector, ends), shapes, strict=True)]
        return parts[: len(weights)], parts[len(weights) :]

    def __call__(self, vector):
        """Loss, and its gradient as a float64 vector."""
        weights, biases = self.unpacked(vector)
        self.run.layout.gather(weights, biases, self.run.params)
        loss, penalty, grad = self.of_chunks() if self.streamed else self.run.loss_grad()
        value = (loss / self.outputs_of_loss + float(self.est.alpha) / 2 * penalty) / self.run.weight
        weights, biases = self.run.layout.views(grad)
        return value, np.concatenate([view.ravel() for view in weights + biases], dtype=np.float64)


def fit_lbfgs(est, rows, task, objective=None):
    """Train by SciPy's L-BFGS-B; leaves the parameters, the loss and the number of iterations on the estimator."""
    objective = objective or Objective(est, rows)
    best = np.concatenate([array.ravel() for array in est.coefs_ + est.intercepts_]).astype(np.float64)
    least = math.inf

    def watched(vector):
        nonlocal best, least
        look(est)
        loss, grad = objective(vector)
        if loss < least:
            best, least = vector.copy(), loss
        return loss, grad

    def keep(vector):
        dtype = rows.dtype
        est.coefs_, est.intercepts_ = ([part.astype(dtype) for part in parts] for parts in objective.unpacked(vector))

    def after(intermediate_result):
        keep(intermediate_result.x)
        task.begin()
        if task.end():
            raise StopIteration

    try:
        result = scipy.optimize.minimize(
            watched,
            best,
            method="L-BFGS-B",
            jac=True,
            callback=after if task.watched else None,
            options={"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol},
        )
    except KeyboardInterrupt:
        warn(INTERRUPTED, InterruptedWarning, stacklevel=2)
        est.loss_ = float(least)
        keep(best)
        return
    keep(result.x)
    vars(est).update(loss_=float(result.fun), n_iter_=min(result.nit, est.max_iter))
    if heard.said is None:
        _check_optimize_result("lbfgs", result, est.max_iter)  # warns as scikit-learn does
    elif result.status != 0:
        warn(f"lbfgs failed to converge after {est.n_iter_} iterations: {result.message}", ConvergenceWarning)
