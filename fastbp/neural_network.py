"""NeuralNetwork: layers of units, trained by backpropagation."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fastbp import checks
from fastbp.rule import ACTIVATIONS, HEADS, LOSSES, OUT_ACTIVATIONS, SOLVERS, Rule
from fastbp.stream import (
    Rows,
    Stream,
    StreamRun,
    chunks_of,
    is_array,
    is_source,
    joined,
    length_of,
    ranges_of,
    slice_of,
    slices_of,
    whole,
)
from fastbp.training import Run, UndoneError, copied, permutations, predict, watch

REDUCTIONS = ("sum", "mean")
# By the name of a parameter of NeuralNetwork: what it must be, as a function that returns what is kept.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "activation": checks.words,
    "out_activation": partial(checks.one_of, OUT_ACTIVATIONS),
    "loss": partial(checks.one_of, LOSSES),
    "solver": partial(checks.one_of, SOLVERS[1:]),
    **dict.fromkeys(("momentum", "beta_1", "beta_2", "dropout"), checks.fraction),
    **dict.fromkeys(("alpha", "init_scale"), checks.from_0),
    "epsilon": checks.above,
    "max_norm": checks.limit,
    "n_jobs": checks.jobs,
    "bias": lambda name, value: bool(value),
    "dtype": checks.float_dtype,
}


class Saved:
    """What files can keep."""

    def save(self, path):
        """Write it, and what it trains on with, into a file of arrays and JSON, whole or not at all; see `fastbp.save`."""
        from fastbp.estimators.fitted import save

        save(path, self)

    @classmethod
    def load(cls, path):
        """Read one of this class that `save` or ``fastbp train --save`` wrote; see `fastbp.load`."""
        from fastbp.estimators.fitted import load

        return load(path, cls)


def arrays_of(name):
    """A property: one array for each layer. In a callback, reading it first copies the running training's values."""

    def assign(net, arrays):
        getattr(net, name)[:] = map(np.copy, net._checked(name, arrays))

    return property(lambda net: net._caught_up()[f"_{name}"], assign)


def checked_steps(n_rows, learning_rate, batch_size, reduction, callback):
    """The learning rate and the batch size for so many rows; an error names the argument that is not sound."""
    learning_rate = checks.above("learning_rate", learning_rate)
    batch_size = n_rows if batch_size is None else checks.at_least(1, "batch_size", batch_size)
    if batch_size > n_rows:
        raise ValueError(f"batch_size must be at most the number of rows, {n_rows}, got {batch_size}")
    checks.one_of(REDUCTIONS, "reduction", reduction)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    return learning_rate, batch_size


class NeuralNetwork(Saved):
    """Fully connected layers of units, trained by backpropagation; sigmoid units and the delta rule unless told otherwise.

    Parameters
    ----------
    input_size : int
        Number of inputs.
    hidden_size : int or sequence of int
        Units of the hidden layer, or of each hidden layer.
    output_size : int
        Number of outputs.
    activation : {"identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "selu"} or list of \
            them, default "logistic"
        Activation of the hidden layers, or of each hidden layer.
    out_activation : {"logistic", "identity", "softmax", "exp"}, default "logistic"
        Activation of the output layer.
    loss : {"squared_error", "log_loss", "clipped_log_loss", "poisson", "absolute_error"}, default "squared_error"
        "squared_error" is half the sum of the squared errors and goes with every output, for targets that the output can
        give: in [0, 1] for "logistic", >= 0 for "exp", rows that sum to 1 for "softmax"; "log_loss" goes with "logistic"
        (binary, one for each output) and "softmax" (multi-class, targets that sum to 1); "clipped_log_loss" trains alike and
        goes with the same, but is reported from the outputs as they are rounded, kept off 0 and 1 by the spacing of numbers
        at 1, as scikit-learn does, so that it is finite; "poisson", half the Poisson deviance, goes with "exp";
        "absolute_error", the sum of the distances, goes with "identity".
    solver : {"sgd", "momentum", "nesterov", "adam"}, default "sgd"
        What turns gradients into steps. What it remembers goes on from one call of `train` or `backward` to the next.
    momentum : float, default 0.9
        Of "momentum" and "nesterov", in [0, 1).
    beta_1, beta_2, epsilon : float, default 0.9, 0.999 and 1e-8
        Of "adam", the first two in [0, 1).
    alpha : float, default 0.0
        Strength of the L2 term alpha/2 sum W**2, which leaves biases out. With reduction "mean" it is divided by the batch's
        weight, as scikit-learn does.
    max_norm : float or None, default None
        Gradients whose Euclidean norm over all parameters exceeds it are shortened to it; against exploding gradients. None
        and infinity leave all as they are.
    dropout : float, default 0.0
        Probability, in [0, 1), with which a hidden unit is left out of a training step; the others are scaled up. Which
        ones depends on `random_state` alone. Against overfitting.
    n_jobs : int or None, default None
        Threads, as joblib counts: None is 1, -1 all processors. Small steps stay on one. No result depends on it.
    bias : bool, default True
        Whether every unit has a bias.
    init_scale : float, default 1.0
        Standard deviation of the normal distribution that the initial weights are drawn from. Biases start at zero.
    dtype : {"float64", "float32"}, default "float64"
        Float type of weights, inputs, targets and outputs, from end to end.
    random_state : int, numpy.random.Generator or None, default None
        Seed of the initial weights and of the row order of `train`; the same seed gives the same bits.

    Attributes
    ----------
    weights : list of ndarray, shapes (n_in, n_out)
        One per layer. They are what the network computes with: what is written into one counts, and each can be assigned, as
        can all. Training leaves new arrays in their places, so that those read before it stay as they were.
    biases : list of ndarray, shapes (n_out,)
        One per layer, or none without biases; likewise.

    level : str or None
        Level of the processor whose instructions trained it last, see `fastbp info`; None before any training. Processors of
        one level give the same bits, and the environment variable FASTBP_LEVEL sets a lower one.

    All parameters but the sizes can be set later as well, and are checked then as here.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of its range or of the wrong type.

    References
    ----------
    Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors", Nature 323, 1986.
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15, 2014.
    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013 (clipping by norm).

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import NeuralNetwork
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> y = np.array([[0], [1], [1], [0]])
    >>> net = NeuralNetwork(2, 4, 1, random_state=0)
    >>> history = net.train(X, y, epochs=10_000, learning_rate=0.5)
    >>> np.round(net.feedforward(X)).ravel()
    array([0., 1., 1., 0.])
    """

    level: str | None = None  # also of one that was pickled before there were levels

    def __init__(
        self,
        input_size,
        hidden_size,
        output_size,
        *,
        activation="logistic",
        out_activation="logistic",
        loss="squared_error",
        solver="sgd",
        momentum=0.9,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        alpha=0.0,
        max_norm=None,
        dropout=0.0,
        n_jobs=None,
        bias=True,
        init_scale=1.0,
        dtype="float64",
        random_state=None,
    ):
        hidden = [hidden_size] if np.ndim(hidden_size) == 0 else list(hidden_size)
        sizes = {"input_size": [input_size], "hidden_size": hidden, "output_size": [output_size]}
        self.units = [checks.at_least(1, name, size) for name, layers in sizes.items() for size in layers]
        self.activation: str | list[str] = activation
        self.out_activation, self.loss, self.solver = out_activation, loss, solver
        self.momentum, self.beta_1, self.beta_2, self.epsilon = momentum, beta_1, beta_2, epsilon
        self.alpha, self.max_norm, self.dropout = alpha, max_norm, dropout
        self.n_jobs, self.bias, self.init_scale, self.dtype = n_jobs, bias, init_scale, dtype
        self._activation_codes()
        self._check_head()
        try:
            self._rng = np.random.default_rng(random_state)
        except (TypeError, ValueError) as error:
            raise type(error)(f"random_state must be an int, a Generator or None, got {random_state!r}") from error
        shapes = self._shapes("weights")
        self._weights = [self._rng.normal(0.0, self.init_scale, shape).astype(self.dtype) for shape in shapes]
        self._biases = [np.zeros(shape, self.dtype) for shape in self._shapes("biases")]
        self._seed = 0
        self._draw_seed()
        self.level = None
        self._memory = None  # what the solver remembers, as `Run.memory` returns it
        self._ahead: Any = None  # the run of a training, where what is kept here is behind it

    def __setattr__(self, name, value):
        """Parameters are checked wherever they are set."""
        super().__setattr__(name, CHECKS[name](name, value) if name in CHECKS else value)

    weights, biases = arrays_of("weights"), arrays_of("biases")
    _moments = property(lambda net: net._caught_up()["_memory"])

    def _caught_up(self):
        """All attributes, with copies of a running training's state: for a callback that asks for it."""
        if self._ahead is not None:
            self._keep(self._ahead)
        return vars(self)

    def _keep(self, run):
        """Take what belongs together: in one line without a call, after which a signal's handler could raise."""
        mine, (weights, biases), rest = vars(self), run.parameters(), (run.memory(), run.level, None)
        self._weights[:], self._biases[:], (mine["_memory"], mine["level"], mine["_ahead"]) = weights, biases, rest

    def __getstate__(self):
        return self._caught_up() | {"_weights": list(self._weights), "_biases": list(self._biases)}

    def _shapes(self, name):
        """Shapes of the "weights", or the "biases"."""
        if name == "weights":
            return [*itertools.pairwise(self.units)]
        return [(size,) for size in self.units[1:]] if self.bias else []

    def _checked(self, name, arrays, finite=True):
        """Parameter arrays in the network's dtype, themselves if they are; an error for a wrong number, shape or value."""
        shapes = self._shapes(name)
        try:
            arrays = list(arrays)
        except TypeError:
            raise TypeError(f"{name} must be a list of {len(shapes)} arrays, got {arrays!r}") from None
        if len(arrays) != len(shapes):
            raise ValueError(f"{name} must be {len(shapes)} arrays, got {len(arrays)}")
        dtype = self.dtype
        for position, array in enumerate(arrays):
            shape = shapes[position]
            if type(array) is not np.ndarray or array.dtype != dtype:
                array = arrays[position] = checks.numeric(f"{name}[{position}]", array, dtype)
            if array.shape != shape:
                raise ValueError(f"{name}[{position}] must have shape {shape}, got {array.shape}")
            if finite:
                checks.finite(f"{name}[{position}]", array)
        return arrays

    def _parameters(self, finite=True):
        """Both lists, checked anew: an item may have been assigned since."""
        self._caught_up()
        weights, biases = self._weights, self._biases
        weights[:], biases[:] = self._checked("weights", weights, finite), self._checked("biases", biases, finite)
        return weights, biases

    def _activation_codes(self):
        hidden = len(self.units) - 2
        words = self.activation if isinstance(self.activation, list) else [self.activation] * hidden
        if len(words) != hidden:
            raise ValueError(f"activation must be one word or {hidden}, got {words!r}")
        return [ACTIVATIONS.index(word) for word in words]

    def _check_head(self):
        """Raise a ValueError where the output's activation does not go with the loss."""
        if (self.out_activation, self.loss) not in HEADS:
            fitting = ", ".join(repr(one) for one, other in HEADS if other == self.loss)
            raise ValueError(f"out_activation must be one of {fitting} for loss {self.loss!r}, got {self.out_activation!r}")

    def _draw_seed(self):
        """Draw the seed of the dropout masks when it is first needed."""
        if self.dropout and not self._seed:
            self._seed = int(self._rng.integers(2**32))

    def _rule(self, learning_rate, reduction):
        self._check_head()
        momentum, max_norm = self.momentum, self.max_norm
        return Rule(
            self.out_activation, self.loss, self.solver, learning_rate, self.beta_1 if self.solver == "adam" else momentum,
            self.beta_2, self.epsilon, self.alpha, math.inf if max_norm is None else max_norm, self.dropout, self._seed,
            reduction,
        )  # fmt: skip

    def feedforward(self, X):
        """Outputs for the rows of X.

        Parameters
        ----------
        X : array-like, shape (n, input_size)

        Returns
        -------
        ndarray, shape (n, output_size)
            In the network's dtype; a row's result does not depend on the other rows.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite numeric matrix of that shape with at least one row.
        """
        weights, biases = self._parameters()
        rest = self.out_activation, self._activation_codes(), self.n_jobs
        parts = (checks.matrix("X", part, self.units[0], self.dtype) for part in (slices_of(X) if is_source(X) else [X]))
        return joined([predict(weights, biases, part, *rest) for part in parts])

    def predict(self, X):
        """Class numbers of the rows of X; of an output "identity" or "exp", its values.

        Parameters
        ----------
        X : array-like, shape (n, input_size)
            As of `feedforward`, with the same errors.

        Returns
        -------
        ndarray, shape (n,)
            The number of the largest output; with one output, 1 where it is at least 1/2. Values have one column for each of
            several outputs.
        """
        outputs = self.feedforward(X)
        if self.out_activation in ("identity", "exp"):
            return outputs[:, 0] if outputs.shape[1] == 1 else outputs
        return outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] >= 0.5).astype(int)

    def backward(self, X, y, learning_rate=0.1, reduction="sum", *, sample_weight=None):
        """One step of the solver on all rows at once, in place.

        Parameters
        ----------
        X, y, learning_rate, reduction, sample_weight
            As of `train`, with the same defaults and errors.

        Returns
        -------
        float
            The loss before the step.
        """
        return float(self.train(X, y, 1, learning_rate, reduction=reduction, sample_weight=sample_weight).loss[0])

    def train(
        self,
        X,
        y,
        epochs,
        learning_rate=0.1,
        *,
        batch_size=None,
        reduction="sum",
        sample_weight=None,
        shuffle=False,
        verbose=0,
        progress=False,
        callback=None,
        chunk_rows=None,
    ):
        """Train by the solver, continuing from the current weights.

        Parameters
        ----------
        X : array-like or source, shape (n, input_size)
            A source of rows, such as a memory map of numpy or an array of h5py, zarr or dask, is read chunk by chunk and
            never as a whole; so may be y and sample_weight.
        y : array-like or source, shape (n, output_size)
            Target of every output: one-hot class labels, or continuous values. With one output, shape (n,) will do.
        epochs : int
            Passes over the rows, >= 0.
        learning_rate : float, default 0.1
            Step length, > 0.
        batch_size : int or None, default None
            Rows per update, from 1 ("online") to n; None takes all of them. The last batch of an epoch may be smaller.
        reduction : {"sum", "mean"}, default "sum"
            Whether the gradient of a batch is summed over its rows, or divided by the number of its target elements.
        sample_weight : array-like, shape (n,), or None, default None
            Factor of each row's loss, >= 0; in means a row counts as so many. None weighs all rows the same. A batch whose
            weights are all 0 is passed over.
        shuffle : bool, default False
            Visit the rows in a new random order in each epoch.
        verbose : int, default 0
            Print a line every `verbose` epochs; 0 prints none.
        progress : bool, default False
            Show a progress bar on standard error.
        callback : callable or None, default None
            Called as ``callback(epoch, history)`` after each epoch; training stops where it returns True. It may read and
            change the weights, but not X, y and sample_weight, of which there may be copies.
        chunk_rows : int or None, default None
            Rows of a chunk; None takes 16 MiB of X from a source, and arrays in memory as a whole. Of more than one chunk,
            an epoch with `shuffle` visits the chunks in random order, and then the rows of each. No batch has rows of two
            chunks, and `batch_size` must be given. The same `chunk_rows` gives the same bits, wherever the rows come from.

        Returns
        -------
        fastbp.History
            One value per completed epoch.

        Warns
        -----
        UserWarning
            If interrupted from the keyboard; the weights and the history so far are kept.

        Raises
        ------
        ValueError, TypeError
            If an argument is out of its range or of the wrong type, if X or y is not a finite numeric matrix, if a target is
            beyond what the output can give, or if a weight stops being finite. The weights are then as they were before.
        """
        chunk_rows, X = chunks_of(chunk_rows, X)
        if chunk_rows is not None:
            rows, n = self._stream(X, y, sample_weight, chunk_rows), chunk_rows
            if batch_size is None:
                raise ValueError(
                    f"batch_size must be given, at most chunk_rows={n}, where rows are read in chunks, got None"
                )
        else:
            rows = Rows(*self._checked_rows(X, whole(y), whole(sample_weight)))
            n = len(rows.X)
        epochs = checks.at_least(0, "epochs", epochs)
        learning_rate, batch_size = checked_steps(n, learning_rate, batch_size, reduction, callback)
        verbose = checks.at_least(0, "verbose", int(verbose) if isinstance(verbose, bool) else verbose)
        run = self._begin(rows, learning_rate, reduction, batch_size, shuffle and epochs > 0)
        return self._watch(run, epochs, callback, verbose, progress)

    def _watch(self, run, epochs, callback=None, verbose=0, progress=False):
        """Run some epochs, and keep what comes of them; a callback may read and change the weights."""

        def with_weights(epoch, history):
            self._ahead = run
            stop = callback(epoch, history)
            if self._ahead is None:  # the callback has copies, which it may have changed
                self._parameters(finite=False)
                try:
                    run.take(*self._parameters())
                except ValueError as error:
                    raise UndoneError(error) from None
            self._ahead = None
            return stop

        history = watch(run, epochs, verbose, progress, with_weights if callback is not None else None, self._keep)
        if not run.interrupted:
            run.end()
        return history

    def gradients(self, X, y, reduction="sum", *, sample_weight=None):
        """Gradient of the loss at the present weights, by backpropagation; nothing is changed.

        The loss is the one that `train` reports of a batch of all rows, with its L2 term. Dropout and `max_norm` belong to
        steps and are left out: but for them, `backward` with solver "sgd" subtracts ``learning_rate`` times this gradient.

        Parameters
        ----------
        X, y, reduction, sample_weight
            As of `train`, with the same defaults and errors.

        Returns
        -------
        weight_gradients : list of ndarray, shapes (n_in, n_out)
            d loss / d weights[l] of every layer, in the network's dtype.
        bias_gradients : list of ndarray, shapes (n_out,)
            d loss / d biases[l] of every layer, or none without biases.

        Examples
        --------
        >>> import numpy as np
        >>> from fastbp import NeuralNetwork
        >>> net = NeuralNetwork(1, [], 1, out_activation="identity", random_state=0)
        >>> net.weights, net.biases = [[[2.0]]], [[1.0]]
        >>> net.gradients([[1.0], [3.0]], [[2.0], [7.0]])  # errors of 1 and 0
        ([array([[1.]])], [array([1.])])
        """
        X, y, sample_weight = self._checked_rows(X, y, sample_weight)
        checks.one_of(REDUCTIONS, "reduction", reduction)
        rule = replace(self._rule(1.0, reduction), solver=SOLVERS[0], max_norm=math.inf, dropout=0.0)
        run = self._run(Rows(X, y, sample_weight), rule, len(X))
        return copied(run.layout.views(run.loss_grad()[2]))

    def _begin(self, rows, learning_rate, reduction, batch_size, shuffle):
        """A training on checked rows, or a stream, at its start."""
        undo = self._undo(shuffle)
        self._draw_seed()
        try:
            run = self._run(rows, self._rule(learning_rate, reduction), batch_size, shuffle)
        except BaseException:  # also of a source, whose first chunk is read here
            undo()
            raise
        run.undo = undo
        return run

    def _undo(self, shuffle):
        """A function that makes the network what it is now, before a training, which may draw random numbers."""
        kept = {name: getattr(self, name) for name in ("_memory", "level", "_seed", "_ahead")}
        arrays, generator = (list(self._weights), list(self._biases)), self._rng.bit_generator
        state = generator.state if shuffle or (self.dropout and not self._seed) else None

        def undo():
            self._weights[:], self._biases[:] = arrays
            vars(self).update(kept)
            if state is not None:
                generator.state = state

        return undo

    def _run(self, rows, rule, batch_size, shuffle=False):
        """A training of this network at its start."""
        weights, biases = self._parameters(finite=False)
        options = {
            "rule": rule, "activations": self._activation_codes(), "batch_size": batch_size, "n_jobs": self.n_jobs,
            "memory": self._memory,
        }  # fmt: skip
        if isinstance(rows, Stream):
            self._parameters()  # before anything is read
            seed_of = (lambda epoch: [int(self._rng.integers(2**32))]) if shuffle else None
            return StreamRun(weights, biases, rows, seed_of=seed_of, **options)
        draw = permutations(self._rng, len(rows.X)) if shuffle else None
        run = Run(weights, biases, rows.X, rows.Y, row_weights=rows.weights, draw=draw, **options)
        if not run.is_finite():  # which takes a fraction of the time where they stand side by side
            self._parameters()  # says which of them are not
        return run

    def _stream(self, X, y, sample_weight, chunk_rows):
        """Rows to learn from as a stream, which are checked as they come; of the weights, the sum is checked before."""
        X, y, sample_weight = (one if one is None or is_array(one) else np.asarray(one) for one in (X, y, sample_weight))
        n, weigh = length_of("X", X), None
        ranges = ranges_of(n, chunk_rows)
        if length_of("y", y) != n:
            raise ValueError(f"X and y must have the same number of rows, got {n} and {y.shape[0]}")
        if sample_weight is not None:
            if tuple(sample_weight.shape) != (n,):
                raise ValueError(f"sample_weight must have shape ({n},), got {tuple(sample_weight.shape)}")

            def weigh(start, stop):
                return checks.row_weights(slice_of(sample_weight, start, stop), stop - start, self.dtype, some=True)

        def read(start, stop):
            X_part, y_part, _ = self._checked_rows(slice_of(X, start, stop), slice_of(y, start, stop), None)
            return Rows(X_part, y_part, None if weigh is None else weigh(start, stop))

        sources = [one for one in (X, y, sample_weight) if one is not None]
        stream = Stream(ranges, self.units[0], self.units[-1], self.dtype, read, sources, weigh)
        if weigh is not None:
            checks.row_weights(stream.all_weights(), 1, self.dtype)
        return stream

    def _checked_rows(self, X, y, sample_weight):
        """Inputs, targets (n, n_out) and weights of rows to learn from."""
        X = checks.matrix("X", X, self.units[0], self.dtype)
        y = checks.numeric("y", y, self.dtype)
        if y.ndim == 1 and self.units[-1] == 1:
            y = y[:, np.newaxis]
        elif y.ndim == 1:
            raise ValueError(
                f"y must have {self.units[-1]} columns, one for each output, got shape {y.shape}: of class numbers, "
                f"numpy.eye({self.units[-1]})[y] makes them"
            )
        y = checks.matrix("y", y, self.units[-1])
        if len(X) != len(y):
            raise ValueError(f"X and y must have the same number of rows, got {len(X)} and {len(y)}")
        checks.fitting_targets(y, self.out_activation, self.loss)
        if sample_weight is not None:
            sample_weight = checks.row_weights(sample_weight, len(X), self.dtype)
        return X, y, sample_weight

    def __repr__(self):
        activations = self.activation if isinstance(self.activation, str) else "/".join(self.activation)
        output = f"{self.out_activation} {self.loss}, {self.solver}"
        units = "-".join(map(str, self.units))
        return f"NeuralNetwork({units}, {activations}, {output}, bias={self.bias}, dtype={self.dtype})"
