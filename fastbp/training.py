"""The one training loop: row order, calls into the kernel, history, stopping, interrupts.

A call into the kernel runs as many blocks of rows as fit into about CALL_SECONDS, then Python looks: an interrupt, a
progress bar, lines to print, a callback. Where a call ends never changes a result.
"""

import os
import sys
import time
import warnings

import numpy as np

from fastbp import kernels
from fastbp.history import History
from fastbp.layout import BLOCK, CURSOR_SIZE, EPOCH, N_IN, N_OUT, RECORD_SIZE, STEP, Layout
from fastbp.workspace import workspace_for_training

# A keyboard interrupt is seen when a call returns: far below the 0.2 s that feel immediate, far above a call's own cost.
CALL_SECONDS = 0.05
# Length of the first call, before anything is known: no longer than the others on a core that manages 1 GFLOP/s.
FIRST_CALL_FLOPS = 4e7
# Operations of a step that are worth a thread. Threads wait for each other for about 1 us, and fetch what the others wrote
# for some 10. On two processors that share a core, 64-100-10 with 200 rows (8e6) broke even, 20-64-64-1 with 64 (2e6) lost.
THREAD_FLOPS = 4e6


def usable_threads(n_jobs):
    """Joblib's meaning of n_jobs: None is 1, -1 all processors, -2 all but one, and so on."""
    if n_jobs is None:
        return 1
    if n_jobs > 0:
        return n_jobs
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, processors + 1 + n_jobs)


def threads_for(layout, rows, n_jobs, X=None):
    """Threads for steps, or predictions, of so many rows: small ones stay on one core.

    Of a sparse X, given, the stored values count, and each weight once for its update.
    """
    first = layout.rows[0]
    weights = sum(layer[N_IN] * layer[N_OUT] for layer in layout.rows)
    if X is not None and not isinstance(X, np.ndarray):
        weights += (X.nnz / max(1, X.shape[0]) + first[N_IN] / rows - first[N_IN]) * first[N_OUT]
    flops = 6 * rows * weights
    return max(1, min(usable_threads(n_jobs), int(flops / THREAD_FLOPS)))


class Run:
    """One training run of a network on one data set.

    Parameters
    ----------
    weights, biases : lists of ndarray
        The parameters, whose items `scatter` replaces; all of the dtype of X.
    X, Y : ndarray
        C-contiguous (n, n_in) and (n, n_out), float32 or float64. X may also be a CSR matrix of scipy, as
        `fastbp.reference` describes it.
    rule : fastbp.rule.Rule
    activations : sequence of int
        Codes of the hidden layers' activations.
    epochs, batch_size : int
    row_weights : ndarray, shape (n,), or None
        Of the dtype of X; None weighs all rows the same.
    n_jobs : int or None
    rng : numpy.random.Generator or None
        Draws a new order of the rows for each epoch; None visits them as they stand.
    moments : tuple of ndarray and int, or None
        What the solver remembers from an earlier run, and the steps it has taken; see `moments`.
    """

    def __init__(
        self,
        weights,
        biases,
        X,
        Y,
        *,
        rule,
        activations,
        epochs,
        batch_size,
        row_weights=None,
        n_jobs=None,
        rng=None,
        moments=None,
    ):
        self.weights, self.biases, self.X, self.Y = weights, biases, X, Y
        self.n_rows = X.shape[0]
        self.rule, self.epochs, self.batch_size, self.rng = rule, epochs, batch_size, rng
        self.numbers = rule.numbers(Y.shape[1])
        self.row_weights = np.empty(0, X.dtype) if row_weights is None else row_weights
        self.layout = Layout([X.shape[1]] + [w.shape[1] for w in weights], X.dtype, bool(biases), activations)
        self.work = workspace_for_training(
            self.layout,
            self.n_rows,
            batch_size,
            sparse=not isinstance(X, np.ndarray),
            shuffled=rng is not None,
            moments=rule.moments,
            dropout=rule.dropout > 0,
            threads=threads_for(self.layout, batch_size, n_jobs, X),
        )
        self.params = self.work.params
        self.gather()
        self.start = self.params.copy()
        self.cursor = np.zeros(CURSOR_SIZE, np.int64)
        if moments is not None:
            self.work.state[...], self.cursor[STEP] = moments
        self.record = np.zeros((epochs, RECORD_SIZE))
        self.order = np.empty((0, self.n_rows), np.int64)

    @property
    def moments(self):
        """What the solver remembers, laid out as the parameters, and the steps it has taken."""
        return self.work.state.copy(), int(self.cursor[STEP])

    @property
    def epochs_done(self):
        """Completed epochs."""
        return int(self.cursor[EPOCH])

    def history(self):
        """The record of the epochs completed so far."""
        done = self.epochs_done
        weight = float(self.row_weights.sum(dtype=np.float64)) if self.row_weights.size else self.n_rows
        return History(self.record[:done], self.n_rows, weight, self.Y.shape[1], self.rule)

    def scatter(self):
        """Put the current parameters into the lists, as new arrays."""
        self.weights[:], self.biases[:] = (list(map(np.array, views)) for views in self.layout.views(self.params))

    def gather(self):
        """Take the parameters from the lists."""
        self.layout.gather(self.weights, self.biases, self.params)

    def draw_orders(self, blocks):
        """Row orders of the current epoch, where it has begun, and of those that the next `blocks` blocks will reach."""
        position = int(self.cursor[BLOCK])
        known = self.order[-1:] if position else self.order[:0]
        count = -(-(position + blocks) // self.work.blocks_per_epoch) - len(known)
        new = [self.rng.permutation(self.n_rows) for _ in range(count)]
        self.order = np.concatenate([known, np.array(new, np.int64).reshape(-1, self.n_rows)])

    def advance(self, blocks):
        """Run `blocks` blocks in one call."""
        if self.rng is not None:
            self.draw_orders(blocks)
        kernels.train(
            self.layout.layers, self.params, self.work.state, self.X, self.Y, self.row_weights, self.order, self.batch_size,
            self.numbers, blocks, self.cursor, self.record, self.work.arrays,
        )  # fmt: skip
        if not np.isfinite(self.params).all():
            self.params[:] = self.start
            raise ValueError(
                f"weights stopped being finite in epoch {self.epochs_done + 1} with "
                f"learning_rate={self.rule.learning_rate:g}; they are left as they were before this training"
            )

    def calls(self, each_epoch):
        """Run to the end, yielding after every call: each about CALL_SECONDS long, and no longer than an epoch if asked."""
        per_epoch = self.work.blocks_per_epoch
        blocks = max(1, int(FIRST_CALL_FLOPS / (6 * self.layout.size * min(self.batch_size, self.work.block_rows))))
        while self.epochs_done < self.epochs:
            stop = self.epochs_done + 1 if each_epoch else self.epochs
            left = (stop - self.epochs_done) * per_epoch - int(self.cursor[BLOCK])
            start = time.perf_counter()
            self.advance(min(blocks, left))
            seconds = time.perf_counter() - start
            yield
            if blocks <= left or seconds > CALL_SECONDS:
                # no more than fourfold: one fast call must not make the next one too long
                blocks = max(1, int(min(blocks, left) * min(4, CALL_SECONDS / seconds)))


def watch(run, verbose=0, progress=False, callback=None):
    """Train a `Run` to its end or to the first wish to stop; returns its history.

    Parameters
    ----------
    run : Run
    verbose : int
        Print a line every `verbose` epochs; 0 prints none.
    progress : bool
        Show a progress bar.
    callback : callable or None
        Called as callback(epoch, history) after each epoch, with the current weights in place; training stops where it
        returns True.

    Raises
    ------
    ValueError
        If a weight stops being finite; the parameters are then as they were before the run.
    """
    printed = called = 0
    with ProgressBar(run.epochs, progress) as bar:
        try:
            for _ in run.calls(each_epoch=callback is not None):
                bar.update(run.epochs_done)
                if verbose:
                    printed = print_lines(run.history(), verbose, printed)
                if callback and run.epochs_done > called:
                    called = run.epochs_done
                    run.scatter()
                    stop = callback(called, run.history())
                    run.gather()
                    if stop:
                        break
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=3)
        finally:
            run.scatter()
    return run.history()


def print_lines(history, every, printed):
    """Print every `every`-th epoch beyond those already printed; returns how many epochs are dealt with."""
    for epoch in range(printed // every * every + every, len(history) + 1, every):
        mse, loss, accuracy = (curve[epoch - 1] for curve in (history.mse, history.loss, history.accuracy))
        print(f"epoch {epoch}: mse {mse:.6f}, loss {loss:.6g}, accuracy {accuracy:.4f}")
    return len(history)


class ProgressBar:
    """Bar on standard error: rich's where it is installed, else one line of text that is written over."""

    def __init__(self, total, shown):
        self.total, self.shown, self.bar = total, shown, None

    def __enter__(self):
        if self.shown:
            try:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
            except ImportError:
                pass
            else:
                columns = ["epoch", MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()]
                self.bar = Progress(*columns, console=Console(stderr=True))
                self.task = self.bar.add_task("training", total=self.total)
                self.bar.start()
        return self

    def update(self, done):
        """Show that `done` epochs are completed."""
        if self.bar:
            self.bar.update(self.task, completed=done)
        elif self.shown:
            filled = 40 * done // max(self.total, 1)
            sys.stderr.write(f"\repoch {done}/{self.total} [{'=' * filled:40}]")

    def __exit__(self, *exception):
        if self.bar:
            self.bar.stop()
        elif self.shown:
            sys.stderr.write("\n")
