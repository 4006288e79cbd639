"""The one training loop: row order, calls into the kernel, history, stopping, interrupts.

A call into the kernel runs as many blocks of rows as fit into about CALL_SECONDS, then Python looks: an interrupt, a
progress bar, lines to print, a callback. Where a call ends never changes a result.

A signal's handler may raise an exception at any line. A call of the kernel changes a run's parameters, solver memory and
cursor together, and they are copied together: an interrupt leaves the last complete copy.
"""

import contextlib
import sys
import time
import warnings

import numpy as np

from fastbp import checks, kernels
from fastbp.history import History
from fastbp.kernels import jit
from fastbp.layout import CURSOR, RECORD, Layout, fill
from fastbp.rule import RULE, Rule
from fastbp.workspace import THREAD_FLOPS, workspace_for_prediction, workspace_for_training

# A keyboard interrupt is seen when a call returns: far below the 0.2 s that feel immediate, far above a call's own cost.
CALL_SECONDS = 0.05
# Length of the first call, before anything is known: no longer than the others on a core that manages 1 GFLOP/s.
FIRST_CALL_FLOPS = 4e7
INTERRUPTED = "Training interrupted by user."
# Epochs that the record has room for at first: 32 MiB that cost nothing until they are written. Then twice as many.
RECORD_EPOCHS = 2**20


def usable_threads(n_jobs):
    """Joblib's meaning of n_jobs: None is 1, -1 all processors, and so on; never more than there are.

    Processors are those that affinity, a container's quota and LOKY_MAX_CPU_COUNT leave. Within a worker of joblib or dask,
    whose fellows are at work on the others, there is one.
    """
    if n_jobs in (None, 1):
        return 1
    import joblib  # takes longer than a small training
    from joblib.parallel import get_active_backend

    if get_active_backend()[0].nesting_level or within_dask():
        return 1
    return min(joblib.effective_n_jobs(n_jobs), joblib.cpu_count())


def within_dask():
    """Whether this is a task of dask, which joblib does not count as nested."""
    if "distributed" in sys.modules:
        with contextlib.suppress(ValueError):
            return bool(sys.modules["distributed"].get_worker())
    return False


def is_sparse(X):
    """Whether X is a sparse matrix of scipy."""
    return not isinstance(X, np.ndarray)


def threads_for(layout, rows, n_jobs, X=None):
    """Threads for steps, or predictions, of so many rows: small ones stay on one core.

    Of a sparse X, given, the stored values count, and each weight once for its update.
    """
    first = layout.rows[0]
    weights = layout.n_weights
    if X is not None and is_sparse(X):
        weights += (X.nnz / max(1, X.shape[0]) + first.n_in / rows - first.n_in) * first.n_out
    worth = int(6 * rows * weights / THREAD_FLOPS)
    return min(usable_threads(n_jobs), worth) if worth > 1 else 1


def remembers(memory, moments, biases):
    """Whether what `Run.memory` returned is of a solver that remembers so much, of a network with biases or without."""
    return memory is not None and len(memory[0]) == moments and all(len(one[1]) == len(biases) for one in memory[0])


def copied(network):
    """Two lists of new arrays: weights and biases."""
    weights, biases = network
    return [view.copy() for view in weights], [view.copy() for view in biases]


class Run:
    """A network in training on one data set: its parameters, the order of the rows, calls into the kernel, and their record.

    Parameters
    ----------
    weights, biases : lists of ndarray
        The parameters to begin with; copied, in the dtype of X.
    X, Y : ndarray
        C-contiguous (n, n_in) and (n, n_out), float32 or float64. X may also be a CSR matrix of scipy, as
        `fastbp.reference` describes it.
    rule : fastbp.rule.Rule
    activations : sequence of int
        Codes of the hidden layers' activations.
    batch_size : int
    row_weights : ndarray, shape (n,), or None
        Of the dtype of X; None weighs all rows the same.
    n_jobs : int or None
    draw : callable or None
        draw(count) returns orders of the rows for the next epochs, (count, n) int64; None visits them as they stand.
    memory : pair of list and int, or None
        What `memory` returned of an earlier run; that of another solver, or of other biases, is left out.
    workspace : callable
        What gives the workspace, and with it the kernel.

    Attributes
    ----------
    params, moments, cursor : ndarray
        Parameters, what the solver remembers of each, and how far the run is: flat, as `layout` says.
    chunks : int
        Parts that an epoch visits one after the other. The cursor and the record count passes over one, as if it were all.
    """

    chunks = 1
    stopped = False  # by another thread: after the present call
    interrupted = False  # from the keyboard
    marked = False  # where calls count the time of their phases, see `fastbp.profiling.phases`
    before = 0  # epochs before the current `calls`
    undo = staticmethod(lambda: None)  # called where weights that are not finite are given up
    due = staticmethod(lambda: False)  # whether somebody waits for the end of an epoch

    def __init__(
        self, weights, biases, X, Y, *, rule, activations, batch_size, row_weights=None, n_jobs=None, draw=None,
        memory=None, workspace=workspace_for_training,
    ):  # fmt: skip
        self.X, self.Y, self.n_rows = X, Y, X.shape[0]
        self.rule, self.batch_size, self.draw = rule, batch_size, draw
        self.row_weights = np.empty(0, X.dtype) if row_weights is None else row_weights
        self.weight = self.n_rows if row_weights is None else float(row_weights.sum(dtype=np.float64))
        units, sparse = (X.shape[1], *[w.shape[1] for w in weights]), is_sparse(X)
        # all that a workspace depends on, but for the threads of sparse rows, whose number depends on their values
        self.key = (
            workspace, units, X.dtype, bool(biases), *activations, self.n_rows, batch_size, draw is not None, rule.moments,
            rule.dropout > 0, n_jobs, None if sparse else usable_threads(n_jobs),
        )  # fmt: skip
        self.work = idle_workspaces.pop(self.key, None)
        if self.work is None:
            layout = Layout(units, X.dtype, bool(biases), activations)
            self.work = workspace(
                layout,
                self.n_rows,
                batch_size,
                sparse=sparse,
                shuffled=draw is not None,
                moments=rule.moments,
                dropout=rule.dropout > 0,
                threads=threads_for(layout, batch_size, n_jobs, X),
            )
        self.layout = self.work.layout
        self.params, self.moments, self.cursor = self.work.params, self.work.state, self.work.cursor
        self.numbers = self.work.rule
        self.numbers[:] = rule.values(Y.shape[1])
        fill(self.work.network, (weights, biases))
        if remembers(memory, len(self.moments), biases):
            pairs, self.cursor[CURSOR.step] = memory
            for moment, pair in zip(self.work.memory, pairs, strict=True):
                fill(moment, pair)
        self.record = np.zeros((0, len(RECORD)))
        self.order = np.empty((0, self.n_rows), np.int64)
        rows = min(batch_size, self.work.plan.block_rows)
        self.blocks = max(1, int(FIRST_CALL_FLOPS / (6 * self.layout.size * rows)))  # of the next call
        self.level = jit.level_name()  # of the instructions that it runs

    def end(self):
        """Leave the workspace to a later run of the same kind: making one takes longer than a small training.

        Parameters and memory are nobody's any more.
        """
        if self.work.nbytes <= IDLE_BYTES and not is_sparse(self.X):
            self.cursor = self.cursor.copy()  # which the record goes with
            self.work.renew()
            keep_idle(idle_workspaces, self.key, self.work)

    def take(self, weights, biases):
        """Take other parameters: all of them or, where an exception comes from a signal, none."""
        self.params[:] = self.layout.gather(weights, biases)

    def parameters(self):
        """The present weights and biases, as two lists of new arrays."""
        return copied(self.work.network)

    def memory(self):
        """What the solver remembers, as pairs of lists like weights and biases, and the steps taken."""
        return [copied(moment) for moment in self.work.memory], int(self.cursor[CURSOR.step])

    def is_finite(self):
        """Whether all parameters are."""
        return checks.is_finite(self.params)

    def set_learning_rate(self, learning_rate):
        """Let the next calls take steps of another length."""
        self.numbers[RULE.learning_rate] = learning_rate

    @property
    def passes(self):
        """Completed passes over chunks in the current `calls`."""
        return int(self.cursor[CURSOR.epoch])

    @property
    def epochs_done(self):
        """Completed epochs of the current `calls`."""
        return self.passes // self.chunks

    def recorded(self, first=0):
        """Record of the completed epochs, from the `first` one of the current `calls` on."""
        record = self.record[first * self.chunks : self.epochs_done * self.chunks]
        return record if self.chunks == 1 else record.reshape(-1, self.chunks, len(RECORD)).sum(axis=1)

    def recorded_partly(self):
        """Record of the passes of an epoch that has begun, the present one included."""
        return self.record[self.epochs_done * self.chunks : self.passes + int(self.cursor[CURSOR.block] > 0)]

    def history(self):
        """The record of the epochs completed so far."""
        return History(self.recorded(), self.weight, self.Y.shape[1], self.rule)

    def first_nonfinite_epoch(self):
        """Number of the first epoch whose record is not finite; of the last one that was begun, if all are."""
        done = self.epochs_done * self.chunks
        return -(-first_nonfinite_epoch(self.record[: done + len(self.recorded_partly())]) // self.chunks)

    def restart(self):
        """Count epochs, and keep their record, from here on, but for what an epoch has that is begun."""
        if not len(self.record):
            return
        partly, done = self.recorded_partly().copy(), self.epochs_done
        self.cursor[CURSOR.epoch] -= done * self.chunks  # first: an interrupt in between must not have epochs noted again
        self.record, self.before = partly, self.before + done

    def loss_grad(self):
        """Loss, summed over the rows, sum W**2, and the gradient, laid out as `params`; of a run whose batch is all rows."""
        grad = np.empty_like(self.params)
        _, loss, _, penalty = kernels.loss_grad(
            self.layout.layers, self.params, self.X, self.Y, self.row_weights, self.numbers, grad, self.work.arrays
        )
        return loss, penalty, grad

    def draw_orders(self, blocks):
        """Row orders of the current epoch, where it has begun, and of those that the next `blocks` blocks will reach."""
        position = int(self.cursor[CURSOR.block])
        begun = position > 0
        count = -(-(position + blocks) // self.work.blocks_per_epoch) - begun
        if not count:  # the call ends in the epoch that has begun
            self.order = self.order[-1:]
            return
        orders = self.draw(count)
        self.order = np.concatenate([self.order[-1:], orders]) if begun else orders

    def reach(self, epochs):
        """Blocks that the next call can run before so many more epochs are over, and those of a pass."""
        per_pass = self.work.blocks_per_epoch
        return epochs * per_pass - int(self.cursor[CURSOR.block]), per_pass

    def advance(self, blocks):
        """Run `blocks` blocks in one call."""
        if self.draw is not None:
            self.draw_orders(blocks)
        kernels.train(
            self.layout.layers, self.params, self.moments, self.X, self.Y, self.row_weights, self.order,
            min(self.batch_size, self.X.shape[0]), self.numbers, blocks, self.cursor, self.record, self.work.arrays,
            self.marked,
        )  # fmt: skip

    def calls(self, epochs, each_epoch=False):
        """Run some epochs, yielding after every call: each about CALL_SECONDS long, and no longer than an epoch if asked."""
        self.restart()
        self.grow_record(min(epochs * self.chunks, RECORD_EPOCHS))
        while (done := self.epochs_done) < epochs and not self.stopped:
            left, per_pass = self.reach(1 if each_epoch or self.due() else epochs - done)
            blocks = min(self.blocks, left)
            if len(self.record) < epochs * self.chunks:
                reached = self.passes - (-(int(self.cursor[CURSOR.block]) + blocks) // per_pass)
                if reached > len(self.record):
                    self.grow_record(min(epochs * self.chunks, max(reached, 2 * len(self.record))))
            start = time.perf_counter()
            self.advance(blocks)
            seconds = time.perf_counter() - start
            # no more than fourfold: one fast call must not make the next one too long
            more = max(1, int(blocks * min(4, CALL_SECONDS / seconds)))
            if blocks == self.blocks or seconds > CALL_SECONDS or more > self.blocks:
                self.blocks = more
            yield

    def speed(self):
        """How fast rows are read, in words; nothing of rows in memory."""
        return ""

    def grow_record(self, passes):
        """Let the record have rows for so many passes."""
        if passes > len(self.record):
            record = np.zeros((passes, len(RECORD)))
            if len(self.record):
                record[: len(self.record)] = self.record
            self.record = record


def permutations(rng, n):
    """What draws orders of n rows for a `Run`, each by itself, from a numpy Generator."""
    return lambda count: np.array([rng.permutation(n) for _ in range(count)])


class Predictor:
    """Outputs of a network for as many rows as X has, or n, or fewer; arguments as of `Run`."""

    def __init__(self, layout, X, out_activation, n_jobs=None, n=None):
        n, self.layout = n or X.shape[0], layout
        self.work = workspace_for_prediction(layout, n, threads_for(layout, n, n_jobs, X), is_sparse(X))
        self.nbytes = self.work.nbytes
        self.n_out = layout.rows[-1].n_out
        self.numbers = Rule(out_activation=out_activation).numbers(self.n_out)

    def __call__(self, params, X):
        """Outputs (n, n_out), by parameters that are laid out as `layout` says."""
        out = np.empty((X.shape[0], self.n_out), X.dtype)
        kernels.forward(self.layout.layers, params, X, out, self.numbers, self.work.arrays)
        return out


def keep_idle(idle, key, one):
    """Add one to those that are idle, of which there are only so many, and bytes; none that alone has more."""
    if one.nbytes > IDLE_BYTES:
        return
    for oldest in list(idle):
        kept = list(idle.values())
        if len(kept) < MOST_IDLE and sum(other.nbytes for other in kept) + one.nbytes <= IDLE_BYTES:
            break
        idle.pop(oldest, None)
    idle[key] = one


# Workspaces of recent trainings, as new. A training takes one out, so that no two share one. New memory costs as much again
# as filling it with zeros: with 64-128-10, 784-30-10 and 784-128-10 a call of `train` takes 0.1 ms less without it.
idle_workspaces: dict = {}
# Predictors of recent predictions. A prediction takes one out and puts it back, so that no two threads share one; for a
# single row, making a new one would take longer than everything else.
idle_predictors: dict = {}
MOST_IDLE, IDLE_BYTES = 16, 8 * 2**20


def predict(weights, biases, X, out_activation, activations, n_jobs=None):
    """Outputs (n, n_out) of a network for the rows of X; other arguments as of `Run`."""
    units = X.shape[1], *[w.shape[1] for w in weights]
    key = X.shape[0], units, X.dtype, bool(biases), *activations, out_activation, n_jobs, is_sparse(X)
    predictor = idle_predictors.pop(key, None)
    if predictor is None:
        predictor = Predictor(Layout(units, X.dtype, bool(biases), activations), X, out_activation, n_jobs)
    fill(predictor.work.network, (weights, biases))
    out = predictor(predictor.work.params, X)
    keep_idle(idle_predictors, key, predictor)
    return out


def watch(run, epochs, verbose=0, progress=False, callback=None, keep=lambda run: None):
    """Run some epochs, or up to the first wish to stop; returns their history.

    It prints a line every `verbose` epochs, and shows a bar if `progress`. callback(epoch, history), after each epoch, may
    change the run's parameters, and stops it by True; keep(run) is called at the end, also where an exception ends it. If a
    weight stops being finite, or rows cannot be learnt from, run.undo() is called, and an UndoneError raised.
    """
    done, chunks = 0, run.chunks
    with ProgressBar(epochs * chunks, progress, "epoch" if chunks == 1 else "chunk") as bar:
        try:
            for _ in run.calls(epochs, each_epoch=callback is not None):
                if not run.is_finite():
                    raise NotFiniteError(run.first_nonfinite_epoch(), run.rule.learning_rate)
                before, done = done, run.epochs_done
                if progress:
                    bar.update(run.passes, run.history().loss[-1] if done else None, run.speed())
                if verbose:
                    print_lines(run.history(), verbose, before)
                if callback and done > before and callback(done, run.history()):
                    break
            keep(run)
        except UndoneError:
            run.undo()
            raise
        except KeyboardInterrupt:
            run.interrupted = True
            keep(run)
            warnings.warn(INTERRUPTED, InterruptedWarning, stacklevel=4)
        except BaseException:
            keep(run)
            raise
    return run.history()


def first_nonfinite_epoch(record):
    """Number of the first epoch whose record is not finite, or of the last one."""
    nonfinite = np.flatnonzero(~np.isfinite(record).all(axis=1))
    return int(nonfinite[0]) + 1 if len(nonfinite) else len(record)


def print_lines(history, every, printed):
    """Print every `every`-th epoch beyond the first `printed`."""
    for epoch in range(printed // every * every + every, len(history) + 1, every):
        mse, loss, accuracy = (curve[epoch - 1] for curve in (history.mse, history.loss, history.accuracy))
        print(f"epoch {epoch}: mse {mse:.6f}, loss {loss:.6g}, accuracy {accuracy:.4f}")


class InterruptedWarning(UserWarning):
    """A training was interrupted from the keyboard; what it has learnt is kept."""


class UndoneError(ValueError):
    """A training came to nothing; everything is as it was before."""


class NotFiniteError(UndoneError):
    """Weights stopped being finite."""

    def __init__(self, epoch, learning_rate):
        super().__init__(
            f"weights stopped being finite in epoch {epoch} with learning_rate={learning_rate:g}; they are left as they "
            "were before this training"
        )

    def __reduce__(self):  # an exception is made again of its message alone
        return ValueError, self.args


class ProgressBar:
    """Bar on standard error: rich's where it is installed, else one line of text that is written over."""

    def __init__(self, total, shown, unit="epoch", doing="training"):
        self.total, self.shown, self.bar = total, shown and sys.stderr is not None, None
        self.unit, self.doing = unit, doing

    def __enter__(self):
        if self.shown:
            with contextlib.suppress(ImportError):
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

                note = TextColumn("{task.fields[note]}")
                columns = [self.unit, MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), note]
                self.bar = Progress(*columns, console=Console(stderr=True))
                self.task = self.bar.add_task(self.doing, total=self.total, note="")
                self.bar.start()
            jit.listeners.append(self.say)
        return self

    def say(self, note):
        """Show a note in the place of a loss."""
        if self.bar:
            self.bar.update(self.task, note=note, refresh=True)
        else:
            sys.stderr.write(f"\r{self.unit} {note:60}")
            sys.stderr.flush()

    def update(self, done, loss=None, speed=""):
        """Show that `done` of them are completed, the last one's loss, and a speed."""
        note = ("" if loss is None else f"loss {loss:<11.5g}") + speed
        if self.bar:
            self.bar.update(self.task, completed=done, note=note)
        elif self.shown:
            filled = 40 * done // max(self.total, 1)
            sys.stderr.write(f"\r{self.unit} {done}/{self.total} [{'=' * filled:40}] {note}")

    def __exit__(self, *exception):
        if self.shown:
            jit.listeners.remove(self.say)
        if self.bar:
            self.bar.stop()
        elif self.shown:
            sys.stderr.write("\n")
