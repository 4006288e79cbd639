"""Perceptron: parameters, weights, fit and predict of both estimators."""

import contextlib
import functools
import inspect
import itertools
import math
import re
import sys
import textwrap
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import sklearn.neural_network
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin, _fit_context
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp import checks
from fastbp.estimators import checkpoint as checkpoints
from fastbp.estimators import fitting
from fastbp.estimators.streams import SPARSE, contiguous, inputs_of, outputs_of, required, stream_of, with_objects
from fastbp.neural_network import Saved
from fastbp.rule import ACTIVATIONS, HEADS, Rule
from fastbp.stream import Rows, chunks_of, is_source, joined, slices_of, whole
from fastbp.training import predict, usable_threads

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's class of this name, which came with version 1.9."""

        def set_callbacks(self, *callbacks):
            """Raise an ImportError: callbacks need scikit-learn 1.9 or later."""
            raise ImportError(f"callbacks need scikit-learn >= 1.9, got {sklearn.__version__}")

    def with_callbacks(method):
        """Return the method as it is."""
        return method


FLOATS = (np.float64, np.float32)
# Rows that are predicted at a time where each leaves less behind than the outputs it came from.
DECODED_ROWS = 8192

# Parameters that have been found valid: a search has the same ones for every split, and looking takes longer than an epoch.
valid: set = set()
MOST_VALID = 8
PLAIN = {int, float, str, bool, type(None), tuple}

# Attributes that only fits by epochs set, some of them not always; a new fit removes them.
FOUND_BY_EPOCHS = (
    "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "validation_loss_curve_",
    "_no_improvement_count", "_best_coefs", "_best_intercepts", "_moments", "_steps", "_learning_rate",
    "_learning_rate_start",
)  # fmt: skip

# Entries of docstrings: "name : type | text", where lines that are indented go on.
PARAMETERS = """\
hidden_layer_sizes : array-like of int | Units of each hidden layer.
activation : {'identity', 'logistic', 'tanh', 'relu', 'leaky_relu', 'elu', 'softplus', 'selu'}, or a list of one for each
    hidden layer | Activation of the hidden layers.
solver : {'lbfgs', 'sgd', 'adam'} | L-BFGS takes all rows at once, the others step from batch to batch.
alpha : float | Strength of the L2 term alpha/2 sum W**2, which is divided by the weight of the batch; intercepts are left
    out.
batch_size : int or 'auto' | Rows per step; 'auto' is min(200, n_samples).
learning_rate : {'constant', 'invscaling', 'adaptive'} | Of 'sgd'. 'invscaling' divides the step by (t_ + 1)**power_t after
    each epoch, 'adaptive' by 5 wherever training would stop, down to 1e-6.
learning_rate_init : float | Step length at the start.
power_t : float | Exponent of 'invscaling'.
max_iter : int | Most epochs of 'sgd' and 'adam', most iterations of 'lbfgs'.
shuffle : bool | Visit the rows in a new random order in each epoch.
random_state : int, RandomState instance or None | Draws the initial weights, the rows that early stopping holds back, the
    order of the rows and the dropout masks.
tol : float | Training stops when loss or score does not improve by this for more than n_iter_no_change epochs on end; for
    'lbfgs' when no element of the gradient exceeds it.
verbose : bool | Print a line per epoch.
warm_start : bool | Let fit go on from the weights of the fit before, which has to have had the same layers and classes.
momentum : float | Of 'sgd', in [0, 1].
nesterovs_momentum : bool | Whether the momentum of 'sgd' is Nesterov's.
early_stopping : bool | Stop by the score of rows that are held back, and keep the weights that had the best one.
validation_fraction : float | How many rows early stopping holds back; classes keep their shares where there is one output.
beta_1 : float | Decay of the first moment of 'adam', in [0, 1).
beta_2 : float | Decay of the second moment of 'adam', in [0, 1).
epsilon : float | Of 'adam', added to the root of the second moment.
n_iter_no_change : int or inf | Epochs without improvement that are put up with.
max_fun : int | Most evaluations of the loss by 'lbfgs'.
dropout : float | Probability, in [0, 1), with which a hidden unit is left out of a training step of 'sgd' or 'adam'; the
    others are scaled up.
max_norm : float | Gradients of 'sgd' and 'adam' whose Euclidean norm over all parameters exceeds it are shortened to it.
class_weight : dict, 'balanced' or None | Factor of the weight of every row of a class. 'balanced' makes all classes weigh
    the same.
loss : {'squared_error', 'poisson', 'absolute_error'} | 'squared_error' is half the squared error, 'poisson' half the
    deviance, with exp as the output's activation and y >= 0. Of several outputs, the reported loss is the mean for squared
    and absolute errors, but its gradient that of the sum.
n_jobs : int or None | Threads, as joblib counts: None is 1, -1 all processors. Small steps stay on one. No result depends on
    it.
scoring : str, callable or None | What early stopping goes by instead of `score`."""

ATTRIBUTES = """\
coefs_, intercepts_ : list of ndarray, shapes (n_in, n_out) and (n_out,) | Weights and biases of each layer, of the float
    type of X.
n_iter_ : int | Epochs or iterations of the last fit.
t_ : int | Rows that training has visited so far.
loss_ : float | The last value of the loss, with its L2 term.
loss_curve_ : list of float | The loss of each epoch, taken while it runs; not of 'lbfgs'.
best_loss_ : float or None | The smallest of them; None with early stopping.
validation_scores_ : list of float or None | The score of each epoch on the rows that early stopping holds back.
best_validation_score_ : float or None | The largest of them.
validation_loss_curve_ : list of float | The loss, without its L2 term, of each epoch on the validation rows, where there are
    any.
level_ : str or None | Level of the processor whose instructions trained it, as the `level` of a NeuralNetwork.
n_layers_, n_outputs_ : int | Layers with the input, and units of the last one.
out_activation_ : str | Activation of the output layer.
n_features_in_ : int
feature_names_in_ : ndarray of str | Where X had names for its features."""

REFERENCES = """\
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015."""


def entries(table):
    """Entries of a table by their names, each in one line."""
    return {block.split()[0]: " ".join(block.split()) for block in re.split(r"\n(?=\S)", table)}


def section(entries):
    """A section of a docstring."""
    lines, indent = [], " " * 8
    for entry in entries:
        head, _, text = entry.partition(" | ")
        lines += [f"    {head}", *textwrap.wrap(text, 125, initial_indent=indent, subsequent_indent=indent)]
    return "\n".join(lines)


def fill_in(cls, parameters, **texts):
    """Put what estimators say alike into a docstring: parameters, each with its default, and texts; unless there is none."""
    known, signature = entries(parameters), inspect.signature(cls).parameters
    own = [known[name].replace(" | ", f", default={signature[name].default!r} | ", 1) for name in signature if name in known]
    for name, text in {"PARAMETERS": section(own), **texts}.items():
        cls.__doc__ = cls.__doc__ and cls.__doc__.replace(f"    <{name}>", text)


def has_epochs(est):
    """Whether the solver goes by epochs; an AttributeError if not."""
    if est.solver not in ("sgd", "adam"):
        raise AttributeError(f"partial_fit is only available for stochastic optimizers. {est.solver} is not stochastic.")
    return True


# RandomStates that fits had for themselves: making one takes longer than a few epochs.
idle_random_states: list = []


def random_state_of(seed):
    """As `check_random_state`; a fit with an int for a seed may leave its RandomState at rest in the end."""
    if type(seed) is int:
        with contextlib.suppress(IndexError):
            random_state = idle_random_states.pop()
            random_state.seed(seed)
            return random_state
    return check_random_state(seed)


@contextlib.contextmanager
def within_floats(names):
    """Make a ValueError of an integer that no float can hold, by the names of what may be one."""
    try:
        yield
    except OverflowError as error:
        raise ValueError(f"{names} must be numbers that a float can hold: {error}") from None


class Perceptron(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CallbackSupportMixin, Saved, BaseEstimator):
    """What both estimators share. A subclass says how targets become outputs and outputs predictions."""

    _parameter_constraints: ClassVar[dict] = {
        **sklearn.neural_network.MLPClassifier._parameter_constraints,
        "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="neither"), Options(Real, {np.inf})],
        "n_jobs": [Integral, None],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
    }
    coefs_: list
    intercepts_: list
    validation_scores_: list | None
    _learning_rate_start: float
    _stop: Any = None  # whether another thread wishes a fit to end
    # The parameters that people look up are those of scikit-learn.
    _doc_link_module = "fastbp"
    _doc_link_template = "https://scikit-learn.org/stable/modules/generated/sklearn.neural_network.{estimator_name}.html"

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        fill_in(cls, PARAMETERS, ATTRIBUTES=section(entries(ATTRIBUTES).values()), REFERENCES=REFERENCES)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @classmethod
    @functools.cache
    def _get_param_names(cls):
        """As scikit-learn's, which looks at the signature of each estimator that is cloned or fitted."""
        return super()._get_param_names()

    def _validate_params(self):
        params = self.get_params(deep=False)
        values = (*params.values(), *(value for one in params.values() if type(one) is tuple for value in one))
        plain = {*map(type, values)} <= PLAIN
        key = (type(self), *((type(value), value) for value in values if plain))
        if key in valid:
            return
        super()._validate_params()
        for name in ("alpha", "learning_rate_init", "power_t", "tol", "epsilon", "max_norm"):
            with within_floats(name):
                float(getattr(self, name))
        if len(key) > 1:
            if len(valid) >= MOST_VALID:
                valid.clear()
            valid.add(key)

    # --- the network ---

    def _hidden_sizes(self):
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if not all(isinstance(size, Integral) and 0 < int(size) <= sys.maxsize for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _units(self):
        """All layer sizes, of parameters that fit together: they may have been assigned since the fit."""
        units = [self.n_features_in_]
        if len(self.coefs_) != len(self.intercepts_):
            raise ValueError(f"coefs_ and intercepts_ must be as many, got {len(self.coefs_)} and {len(self.intercepts_)}")
        for layer, arrays in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            W, b = (tuple(getattr(array, "shape", ())) for array in arrays)
            if len(W) != 2 or W[0] != units[-1] or b != W[1:] or b[0] < 1:
                shapes = f"({units[-1]}, n) and (n,), got {W} and {b}"
                raise ValueError(f"coefs_[{layer}] and intercepts_[{layer}] must be arrays of shapes {shapes}")
            units.append(b[0])
        if units[-1] != self.n_outputs_:
            raise ValueError(f"coefs_[-1] must have a column for each of {self.n_outputs_} outputs, got {units[-1]}")
        return units

    def _check_continuation(self, hidden, n_outputs):
        """Raise a ValueError where a fit cannot go on from the weights of the one before."""
        _, *before, n_before = self._units()
        if hidden != before:
            raise ValueError(
                f"hidden_layer_sizes must be {before}, as in the fit before, to go on from its weights, got {hidden}"
            )
        if n_outputs != n_before:
            raise ValueError(f"y must stand for {n_before} output(s), as in the fit before, got {n_outputs}")
        loss = self._rule().loss
        if (self.out_activation_, loss) not in HEADS:
            raise ValueError(f"loss must go with the outputs of the fit before, {self.out_activation_!r}, got {loss!r}")

    def _dtype(self, X, first=False):
        """Float type of a fit: that of X or, where it goes on, of the weights that there are."""
        known = X if first else self.coefs_[0]
        return np.dtype(np.float32 if known.dtype == np.float32 else np.float64)

    def _activation_codes(self):
        """Codes of the hidden layers' activations."""
        hidden = len(self.coefs_) - 1
        if isinstance(self.activation, str):
            return [ACTIVATIONS.index(self.activation)] * hidden
        words = list(self.activation)
        if len(words) != hidden or not set(words) <= set(ACTIVATIONS):
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, or {hidden} of them, got {words}")
        return [ACTIVATIONS.index(word) for word in words]

    def _rule(self, solver=None):
        """What an optimiser step computes, by default of the estimator's own solver."""
        solver, momentum = solver or self.solver, self.momentum
        lbfgs = solver == "lbfgs"  # which is given the gradient as it is
        if solver == "sgd" and momentum > 0:
            solver = "nesterov" if self.nesterovs_momentum else "momentum"
        return Rule(
            out_activation=self.out_activation_,
            loss="clipped_log_loss" if self.loss == "log_loss" else self.loss,
            solver="gradient_only" if lbfgs else solver,
            learning_rate=self.learning_rate_init,
            momentum=self.beta_1 if solver == "adam" else momentum,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            alpha=self.alpha,
            max_norm=np.inf if lbfgs else self.max_norm,
            dropout=0.0 if lbfgs else self.dropout,
            seed=getattr(self, "_dropout_seed", 0),
            reduction="row",
        )

    def _threads(self):
        """Threads of a step."""
        return usable_threads(self.n_jobs)

    def _initialize(self, units, dtype, random_state):
        """Draw the weights of Glorot and Bengio, and forget what an earlier fit has left."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_, self.n_outputs_ = len(units), units[-1]
        self.out_activation_ = self._output()
        self.coefs_, self.intercepts_ = [], []
        words = [self.activation] if isinstance(self.activation, str) else self.activation
        factor = 2.0 if set(words) == {"logistic"} else 6.0
        for n_in, n_out in itertools.pairwise(units):
            bound = np.sqrt(factor / (n_in + n_out))
            self.coefs_.append(random_state.uniform(-bound, bound, (n_in, n_out)).astype(dtype, copy=False))
            self.intercepts_.append(random_state.uniform(-bound, bound, n_out).astype(dtype, copy=False))
        self._dropout_seed = 0
        for name in FOUND_BY_EPOCHS:
            self.__dict__.pop(name, None)

    def _solver_memory(self):
        """The moments and steps of the fits so far, or None where this solver cannot go on with them."""
        moments = getattr(self, "_moments", None)
        if moments is None or len(moments) != self._rule().moments:
            return None
        return moments, self._steps

    @property
    def _optimizer(self):
        """The solver's present step length and number of steps, read where scikit-learn's users look for them."""
        if not hasattr(self, "_moments"):
            raise AttributeError("_optimizer exists after a fit with solver 'sgd' or 'adam'")
        kept = self._learning_rate_start == self.learning_rate_init
        rate, t = self._learning_rate if kept else float(self.learning_rate_init), self._steps
        if len(self._moments) == 2 and t > 0:  # those of adam, whatever the solver is by now
            rate *= math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        return SimpleNamespace(learning_rate=rate, t=t)

    # --- fitting ---

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X, y, sample_weight=None, *, X_val=None, y_val=None, checkpoint=None, every=60, chunk_rows=None
    ):  # fmt: skip
        """Train on rows and their classes or values.

        Parameters
        ----------
        X : {array-like, sparse matrix, source} of shape (n, n_features)
            A source of rows is read chunk by chunk, and never as a whole: a memory map of numpy, `fastbp.rows`, an array of
            h5py, zarr or dask, or what else has a shape, a dtype and gives arrays for slices. See Notes.
        y : array-like or source of shape (n,) or (n, n_outputs)
            Values of a regressor; class labels of a classifier, or 0s and 1s in columns, or a column of class labels for
            each output.
        sample_weight : array-like of shape (n,) or None, default=None
            Factors of the rows' losses, with a sum above 0. A batch whose weights have none is passed over.
        X_val, y_val : of the same kinds, default=None
            Rows, kept in memory, for `validation_loss_curve_`, and for early stopping, which then holds back none of X. Not
            with 'lbfgs'.
        checkpoint : str, Path or None, default=None
            A file in which the fit is kept as it stands. Where there is one of the same fit, it goes on from there and ends
            in the same bits; max_iter may be a larger one. Not with 'lbfgs' or warm_start.
        every : float, default=60
            Seconds from one writing of the checkpoint to the next.
        chunk_rows : int or None, default=None
            Rows of a chunk; None takes 16 MiB of X from a source, and arrays in memory as a whole.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, X, y or sample_weight is not of the kind described, a weight stops being finite, or the
            checkpoint is damaged, something else, or of other data or parameters; it then stays as it is. Of a source,
            this may be found out in the middle; the estimator is then as it was before.
        OSError
            If the checkpoint cannot be written.

        Warns
        -----
        ConvergenceWarning
            If max_iter is reached.
        UserWarning
            If interrupted from the keyboard; the best weights so far are kept.

        Notes
        -----
        Of more than one chunk, an epoch visits the chunks in a new random order, and then the rows of each; no batch has
        rows of two. This depends on the seed and `chunk_rows` alone, so that with the same `chunk_rows` a source and the
        same rows in memory give the same bits. Early stopping holds back the last rows of every chunk, and keeps outputs of
        all of them in memory; 'lbfgs' adds up the chunks. A single chunk is treated as rows in memory.
        """
        kept = checkpoints.checkpoint_for(self, checkpoint, every)
        return self._fit(X, y, sample_weight, X_val=X_val, y_val=y_val, checkpoint=kept, chunk_rows=chunk_rows)

    def _fit(self, X, y, sample_weight, incremental=False, checkpoint=None, chunk_rows=None, **more):
        """Train; `more` are further arguments of `_begin`."""
        random_state = random_state_of(self.random_state)
        with fitting.as_before(self, random_state, chunk_rows is not None or is_source(X)):
            self.n_iter_ = 0
            self._learn_rows(X, y, sample_weight, random_state, incremental, checkpoint, chunk_rows=chunk_rows, **more)
        if type(self.random_state) is int:
            idle_random_states.append(random_state)
        return self

    def _learn_rows(self, X, y, sample_weight, random_state, incremental, checkpoint, **more):
        if checkpoint is not None:
            random_state = checkpoint.begin(self, random_state)
        X, y, rows, validation = self._begin(X, y, sample_weight, random_state, incremental, **more)
        self._draw_dropout_seed(random_state)
        self.coefs_, self.intercepts_ = list(self.coefs_), list(self.intercepts_)
        task = fitting.Task(self, X, y, sample_weight, None if self.solver == "lbfgs" else self.max_iter, incremental)
        if checkpoint is not None:
            checkpoint.identify(self, rows, validation)
        if self.solver == "lbfgs":
            fitting.fit_lbfgs(self, rows, task)
        else:
            fitting.fit_stochastic(self, rows, validation, random_state, incremental, task, checkpoint)
        self._check_finite()
        task.close()

    def _check_finite(self):
        if not all(map(checks.is_finite, self.coefs_ + self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )

    def _begin(
        self, X, y, sample_weight, random_state, incremental=False, X_val=None, y_val=None, chunk_rows=None, classes=None
    ):  # fmt: skip
        """X and y, rows for training and validation, and on the estimator the weights to begin with."""
        if incremental:
            self._take_classes(y, classes)
        hidden = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        with within_floats("X, y and the weights of rows"):
            chunk_rows, X = chunks_of(chunk_rows, X)
            if chunk_rows is None or not is_source(X):
                y, sample_weight = with_objects(whole(y)), whole(sample_weight)
                X, y = self._validated(X, y, reset=first)
                X = X if first else inputs_of(X, self._dtype(X))
            elif y is None:
                raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
            else:
                validate_data(self, X, skip_check_array=True, reset=first)
            if chunk_rows is None:
                rows = self._rows(X, y, sample_weight, incremental, first and not incremental)
            else:
                rows = stream_of(self, X, y, sample_weight, chunk_rows, first, incremental)
        validation = None if X_val is None and y_val is None else self._validation_rows(X_val, y_val, rows.dtype)
        if validation is not None and validation.n_out != rows.n_out:
            raise ValueError(f"y_val must have as many columns as y, {rows.n_out}, got {validation.n_out}")
        if first:
            self._initialize([X.shape[1], *hidden, rows.n_out], rows.dtype, random_state)
        else:
            self._check_continuation(hidden, rows.n_out)
        return X, y, rows, validation

    def _draw_dropout_seed(self, random_state):
        if self.dropout and not self._dropout_seed:
            self._dropout_seed = random_state.randint(2**32, dtype=np.uint32).item()

    def _rows(self, X, y, sample_weight, incremental, fresh):
        """X and y as a fit reads them; a fresh one learns the classes."""
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
            if not sample_weight.any():  # scikit-learn says so from version 1.9 on
                raise ValueError("Sample weights must contain at least one non-zero number.")
        Y = outputs_of(self._encoded(y, fresh), X.dtype)
        weights = self._weights(y, sample_weight, incremental)
        if weights is not None:
            with np.errstate(over="ignore"):
                weights = required(weights, X.dtype)
            names = ["sample_weight"] * (sample_weight is not None)
            names += ["the rows' class_weight"] * (getattr(self, "class_weight", None) is not None)
            checks.check_sum(" times ".join(names), weights)
        return Rows(contiguous(X), Y, weights)

    def _validation_rows(self, X_val, y_val, dtype):
        """The rows given for validation."""
        if X_val is None or y_val is None:
            raise ValueError("X_val and y_val must be given together, got only one of them")
        if self.solver == "lbfgs":
            raise ValueError("X_val and y_val must be left out for solver 'lbfgs', which does not stop by a score")
        with within_floats("X_val and y_val"):
            X, y = self._validated(whole(X_val), with_objects(whole(y_val)), reset=False)
        return Rows(contiguous(inputs_of(X, dtype, "X_val")), outputs_of(self._encoded(y, False, "y_val"), dtype, "y_val"))

    def _validated(self, X, y, reset):
        plain = type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind in "biuf" and self._plain(X, reset)
        if plain and len(y) == len(X) and (y.dtype.kind != "f" or math.isfinite(y.sum())):
            if reset:
                self.n_features_in_ = X.shape[1]
                self.__dict__.pop("feature_names_in_", None)
            return X, y
        numeric = isinstance(self, RegressorMixin)
        X, y = validate_data(
            self, X, y, accept_sparse=SPARSE, multi_output=True, dtype=FLOATS, reset=reset, y_numeric=numeric
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _weights(self, y, sample_weight, incremental, class_weight=None):
        return sample_weight

    def _take_classes(self, y, classes):
        """Learn the classes that a first call of `partial_fit` is told."""

    def _loss_grad_lbfgs(self, packed, X, y, sample_weight, *room):
        """Loss and gradient as functions of the flattened weights and biases; scikit-learn's name and arguments."""
        self._check_continuation(self._units()[1:-1], y.shape[1])
        rows = Rows(contiguous(X), required(y, X.dtype), None if sample_weight is None else required(sample_weight, X.dtype))
        return fitting.Objective(self, rows)(np.asarray(packed, np.float64))

    # --- predicting ---

    def _checked(self, X):
        """X for a prediction, in the float type of the result."""
        check_is_fitted(self)
        self._units()
        if not self._plain(X):
            with within_floats("X"):
                X = validate_data(self, X, accept_sparse=SPARSE, dtype=FLOATS, reset=False)
        single = X.dtype == np.float32 == getattr(self.coefs_[0], "dtype", None)
        return contiguous(X).astype(np.float32 if single else np.float64, copy=False)

    def _plain(self, X, reset=False):
        """Whether X is obviously what `validate_data` would return: for few rows, that takes longer than the rest."""
        with np.errstate(all="ignore"):
            return (
                type(X) is np.ndarray
                and X.dtype in FLOATS
                and X.ndim == 2
                and X.size > 0
                and (reset or (X.shape[1] == self.n_features_in_ and not hasattr(self, "feature_names_in_")))
                and math.isfinite(X.sum())
            )

    def _parts(self, X, most=None):
        """Rows for a prediction, checked, so many at a time; of a source a chunk, else all of them by default."""
        for part in slices_of(X) if is_source(X) else [X]:
            part = self._checked(part)
            for start in range(0, part.shape[0], most or part.shape[0]):
                yield part[start : start + most] if most else part

    def _all_outputs(self, X):
        """Activations of the output layer for all rows."""
        return joined([self._outputs(part) for part in self._parts(X)])

    def _outputs(self, X):
        """Activations of the output layer for checked rows."""
        return predict(self.coefs_, self.intercepts_, X, self.out_activation_, self._activation_codes(), self._threads())

    def predict(self, X):
        """Classes or values for the rows of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            A row's result does not depend on the other rows.
        """
        return joined([self._decoded(self._outputs(part)) for part in self._parts(X, DECODED_ROWS)])

    def transform(self, X):
        """Activations of the last hidden layer.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, hidden_layer_sizes[-1])
        """
        check_is_fitted(self)
        if len(self.coefs_) == 1:
            raise ValueError("transform needs a hidden layer, got hidden_layer_sizes=()")
        # One more layer that changes nothing: x * 1 + 0 is x.
        width = self._n_features_out
        weights, biases = [*self.coefs_[:-1], np.eye(width)], [*self.intercepts_[:-1], np.zeros(width)]
        rest = "identity", self._activation_codes(), self._threads()
        return joined([predict(weights, biases, part, *rest) for part in self._parts(X)])

    @property
    def _n_features_out(self):
        return self.coefs_[-1].shape[0]

    # --- other libraries ---

    def to_sklearn(self):
        """A fitted estimator of scikit-learn that predicts the same; see `fastbp.to_sklearn`."""
        from fastbp.estimators.interchange import to_sklearn

        return to_sklearn(self)

    @classmethod
    def from_sklearn(cls, est):
        """The same model as a fitted estimator of scikit-learn; see `fastbp.from_sklearn`."""
        from fastbp.estimators.interchange import from_sklearn

        return from_sklearn(est, cls)


def store(est, parameters):
    """Keep the parameters of a constructor as they are, which is all that scikit-learn lets one do."""
    vars(est).update((name, value) for name, value in parameters.items() if name not in ("self", "__class__"))
