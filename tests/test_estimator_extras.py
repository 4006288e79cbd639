"""What the estimators have beyond scikit-learn's."""

import math
import pickle
import types
import warnings

import draws
import joblib
import numpy as np
import pandas
import pytest
import sklearn
from scipy import sparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import QuantileRegressor
from sklearn.metrics import log_loss
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight

from fastbp import MLPClassifier, MLPRegressor, TabularRegressor, reference
from fastbp.estimators import fitting, perceptron
from fastbp.layout import Layout
from fastbp.rule import ACTIVATIONS

pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

X, LABELS = load_iris(return_X_y=True)
X = scale(X)
X_DIABETES, Y_DIABETES = load_diabetes(return_X_y=True)
X_DIABETES, Y_DIABETES = scale(X_DIABETES), Y_DIABETES / 100
COLUMNS = np.column_stack([np.array(["a", "b", "c"])[LABELS], np.array(["u", "v"])[(X[:, 1] > 0).astype(int)]])
# Sums of a hundred terms, then exp and a quotient.
ROUNDINGS = 200 * np.finfo(np.float64).eps


def layers_by_reference(est, X):
    """Activations of the hidden layers, and the outputs before the head's activation, by the equations."""
    units = [X.shape[1], *[len(b) for b in est.intercepts_]]
    words = est.activation if isinstance(est.activation, list) else [est.activation] * (len(units) - 2)
    layout = Layout(units, X.dtype, True, [ACTIVATIONS.index(word) for word in words])
    params = layout.gather(est.coefs_, est.intercepts_)
    return reference.activations(layout.rows, params, X)[1:]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, ["elu", "tanh"], ["relu", "softplus"]], ids=str)
def test_any_activation_for_any_layer(activation):
    est = MLPClassifier((7, 5), activation, max_iter=5, random_state=0).fit(X, LABELS)
    hidden, Z = layers_by_reference(est, X)
    np.testing.assert_allclose(est.predict_proba(X), softmax(Z, axis=1), rtol=ROUNDINGS)
    np.testing.assert_allclose(est.transform(X), hidden[-1], rtol=ROUNDINGS, atol=ROUNDINGS)


@pytest.mark.parametrize("activation", [["relu"], ["relu", "exp"], []], ids=str)
def test_a_wrong_list_of_activations_is_refused(activation):
    with pytest.raises(ValueError, match=r"^activation must be one of identity, .*, or 2 of them, got \["):
        MLPClassifier((7, 5), activation).fit(X, LABELS)


def test_transform_goes_on_in_a_pipeline_with_names():
    est = MLPClassifier(6, max_iter=2, random_state=0).set_output(transform="default").fit(X, LABELS)
    assert list(est.get_feature_names_out()) == [f"mlpclassifier{i}" for i in range(6)]
    assert est.fit_transform(X, LABELS).shape == (150, 6)


def test_class_weights_are_sample_weights():
    few = np.r_[:60, 100:120]
    weights = compute_sample_weight("balanced", LABELS[few])
    ours = MLPClassifier(8, class_weight="balanced", max_iter=20, random_state=0).fit(X[few], LABELS[few])
    theirs = MLPClassifier(8, max_iter=20, random_state=0).fit(X[few], LABELS[few], sample_weight=weights)
    plain = MLPClassifier(8, max_iter=20, random_state=0).fit(X[few], LABELS[few])
    assert ours.loss_curve_ == theirs.loss_curve_ != plain.loss_curve_
    weighted = {0: 1.0, 1: 2.0, 2: 0.5}
    ours = MLPClassifier(8, class_weight=weighted, random_state=0).partial_fit(X, LABELS, classes=[0, 1, 2])
    theirs = MLPClassifier(8, random_state=0)
    theirs.partial_fit(X, LABELS, classes=[0, 1, 2], sample_weight=np.array([1.0, 2.0, 0.5])[LABELS])
    assert ours.loss_ == theirs.loss_
    with pytest.raises(ValueError, match="class_weight must be a dict or None for partial_fit, got 'balanced'"):
        MLPClassifier(8, class_weight="balanced").partial_fit(X, LABELS, classes=[0, 1, 2])


def test_dropout_regularises_and_depends_on_the_seed_alone():
    def fitted(seed, **options):
        return MLPClassifier(40, dropout=0.4, max_iter=30, learning_rate_init=0.01, random_state=seed, **options).fit(
            X, LABELS
        )

    assert fitted(0).loss_curve_ == fitted(0, n_jobs=2).loss_curve_ != fitted(1).loss_curve_
    without = MLPClassifier(40, max_iter=30, learning_rate_init=0.01, random_state=0).fit(X, LABELS)
    assert fitted(0).loss_ > without.loss_
    assert fitted(0).score(X, LABELS) > 0.8


def threads_of_an_estimator():
    return MLPClassifier(n_jobs=2)._threads()


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_workers_take_no_processors_from_each_other(backend):
    assert threads_of_an_estimator() == 2
    with joblib.parallel_config(backend, n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(threads_of_an_estimator)() for _ in range(2)) == [1, 1]


def test_clipping_keeps_a_step_short():
    def first_step(max_norm):
        options = {"solver": "sgd", "momentum": 0, "alpha": 0, "max_iter": 1, "batch_size": 442, "random_state": 0}
        est = MLPRegressor("squared_error", 8, learning_rate_init=1, max_norm=max_norm, **options)
        start = clone(est).set_params(learning_rate_init=1e-300)
        before, after = start.fit(X_DIABETES, Y_DIABETES), est.fit(X_DIABETES, Y_DIABETES)
        pairs = zip(before.coefs_ + before.intercepts_, after.coefs_ + after.intercepts_, strict=True)
        return np.sqrt(sum(np.sum((new - old) ** 2) for old, new in pairs))

    assert first_step(np.inf) > 1
    assert first_step(0.25) == pytest.approx(0.25, rel=1e-12)


def test_absolute_error_finds_the_median():
    y = np.random.default_rng(0).exponential(size=400)
    X_one = np.ones((400, 1))
    est = MLPRegressor(
        "absolute_error", 1, "identity", alpha=0, learning_rate_init=0.05, max_iter=400, tol=0, random_state=0
    ).fit(X_one, y)
    median = QuantileRegressor(alpha=0).fit(X_one, y).predict(X_one[:1])
    assert est.predict(X_one[:1]) == pytest.approx(median, abs=0.05)
    assert est.loss_ == pytest.approx(np.abs(y - median).mean(), abs=0.01)


def test_validation_rows_of_ones_own():
    train, val = np.arange(150) % 3 > 0, np.arange(150) % 3 == 0
    est = MLPClassifier(10, max_iter=40, random_state=0).fit(X[train], LABELS[train], X_val=X[val], y_val=LABELS[val])
    plain = MLPClassifier(10, max_iter=40, random_state=0).fit(X[train], LABELS[train])
    assert est.loss_curve_ == plain.loss_curve_  # watching changes nothing
    assert len(est.validation_loss_curve_) == est.n_iter_
    assert est.validation_loss_curve_[-1] == pytest.approx(log_loss(LABELS[val], est.predict_proba(X[val])), rel=1e-12)
    stopped = MLPClassifier(10, early_stopping=True, max_iter=40, random_state=0)
    stopped.fit(X[train], LABELS[train], X_val=X[val], y_val=LABELS[val])
    assert stopped.loss_curve_ == plain.loss_curve_[: stopped.n_iter_]  # no row of X is held back
    assert stopped.score(X[val], LABELS[val]) == stopped.best_validation_score_ == max(stopped.validation_scores_)
    with pytest.raises(ValueError, match="X_val and y_val must be given together"):
        est.fit(X, LABELS, X_val=X)
    with pytest.raises(ValueError, match="must be left out for solver 'lbfgs'"):
        MLPClassifier(10, solver="lbfgs").fit(X, LABELS, X_val=X, y_val=LABELS)
    with pytest.raises(ValueError, match="has classes not in"):
        est.fit(X, LABELS, X_val=X, y_val=LABELS + 1)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error"])
def test_the_validation_loss_of_the_training_rows_is_their_loss(loss):
    est = MLPRegressor(loss, 6, alpha=0, max_iter=3, learning_rate_init=1e-12, random_state=0)
    Y = np.column_stack([Y_DIABETES, Y_DIABETES[::-1]])
    est.fit(X_DIABETES, Y, X_val=X_DIABETES, y_val=Y)
    np.testing.assert_allclose(est.validation_loss_curve_, est.loss_curve_, rtol=1e-9)


def test_early_stopping_goes_by_any_score():
    def fitted(scoring):
        return MLPClassifier(8, early_stopping=True, scoring=scoring, max_iter=20, random_state=0).fit(X, LABELS)

    named = fitted("neg_log_loss")
    np.testing.assert_allclose(named.validation_scores_, -np.array(named.validation_loss_curve_), rtol=1e-12)
    assert fitted(lambda est, X, y: float(len(y))).validation_scores_ == [15.0] * 12
    assert fitted("accuracy").validation_scores_ == fitted(None).validation_scores_


def test_columns_of_classes():
    est = MLPClassifier(20, max_iter=300, learning_rate_init=0.01, random_state=0).fit(X, COLUMNS)
    assert est.out_activation_ == "logistic"
    assert [list(one) for one in est.classes_] == [["a", "b", "c"], ["u", "v"]]
    assert est.predict(X).shape == (150, 2)
    assert est.score(X, COLUMNS) == np.mean((est.predict(X) == COLUMNS).all(axis=1)) > 0.9
    first, second = est.predict_proba(X)
    assert first.shape == (150, 3)
    assert second.shape == (150, 2)
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_array_equal(est.predict_log_proba(X)[0], np.log(first))
    again = MLPClassifier(20, random_state=0).partial_fit(X, COLUMNS, classes=[["a", "b", "c"], ["u", "v"]])
    assert again.partial_fit(X, COLUMNS).n_outputs_ == 5
    stopped = MLPClassifier(5, early_stopping=True, max_iter=3, random_state=0).fit(X, COLUMNS)
    assert len(stopped.validation_scores_) == 3


@pytest.mark.parametrize("n", [50, 150])  # too few rows for early stopping, and enough
def test_the_network_of_a_table_trains_on(n):
    est = TabularRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0).fit(X_DIABETES[:n], Y_DIABETES[:n])
    net, epochs = est.network_, len(est.network_.loss_curve_)
    Z, y = est.preprocessing_.transform(pandas.DataFrame(X_DIABETES[:n])), Y_DIABETES[:n]
    assert len(net.set_params(warm_start=True, max_iter=2, batch_size=16).fit(Z, y).loss_curve_) == epochs + 2
    assert len(net.set_params(early_stopping=False).partial_fit(Z, y).loss_curve_) == epochs + 3
    assert np.isfinite(net.set_params(early_stopping=True).fit(Z, y).predict(Z)).all()


def test_documentation_is_linked():
    for est in (MLPClassifier(), MLPRegressor()):
        assert f"sklearn.neural_network.{type(est).__name__}.html" in est._repr_html_()


class Recorder:
    """A callback that notes what it is told."""

    def __init__(self, stop_after=None):
        self.stop_after, self.events, self.scores = stop_after, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.events.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X, y))
        return self.stop_after is not None and estimator.n_iter_ == self.stop_after


try:
    from sklearn.callback import CallbackSupportMixin, ScoringMonitor
except ImportError:
    CallbackSupportMixin = None
callbacks = pytest.mark.skipif(CallbackSupportMixin is None, reason="scikit-learn before 1.9 has no callbacks")


@callbacks
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_callbacks_see_every_epoch_and_may_stop(solver):
    est, recorder = MLPClassifier(5, solver=solver, max_iter=6, random_state=0), Recorder(stop_after=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # a stop by wish is no failure to converge
        est.set_callbacks(recorder).fit(X, LABELS)
    assert est.n_iter_ == 4
    assert recorder.events == ["setup", "begin fit", *["begin epoch", "end epoch"] * 4, "end fit", "teardown"]
    assert recorder.scores[-1] == est.score(X, LABELS)
    plain = MLPClassifier(5, solver=solver, max_iter=4, random_state=0).fit(X, LABELS)
    assert est.loss_curve_ == plain.loss_curve_
    est.partial_fit(X, LABELS)
    assert recorder.events[-1] == "teardown"


@callbacks
def test_callbacks_see_iterations_of_lbfgs():
    est, recorder = MLPClassifier(5, solver="lbfgs", max_iter=5, random_state=0), Recorder()
    est.set_callbacks(recorder).fit(X, LABELS)
    assert recorder.events.count("end epoch") == est.n_iter_ == 5
    stopped = MLPClassifier(5, solver="lbfgs", max_iter=5, random_state=0)
    recorder = Recorder(stop_after=0)
    stopped.set_callbacks(recorder).fit(X, LABELS)
    assert recorder.events.count("end epoch") == 1


@callbacks
def test_scikit_learns_monitor_works():
    monitor = ScoringMonitor(scoring="accuracy")
    est = MLPClassifier(5, max_iter=4, random_state=0).set_callbacks(monitor).fit(X, LABELS)
    assert len(est.loss_curve_) == 4
    assert monitor.get_logs() is not None


@pytest.mark.skipif(CallbackSupportMixin is not None, reason=f"scikit-learn {sklearn.__version__} has callbacks")
def test_older_versions_say_what_callbacks_need():
    with pytest.raises(ImportError, match=r"callbacks need scikit-learn >= 1\.9, got 1\."):
        MLPClassifier().set_callbacks(Recorder())


KINDS = {
    "binary": (np.array(["a", "b"])[np.arange(40) % 2], False),
    "multiclass": (np.arange(40) % 3, False),
    "indicators": (np.arange(120).reshape(40, 3) % 7 % 2, False),
    "sparse indicators": (np.arange(120).reshape(40, 3) % 7 % 2, True),
    "columns": (np.arange(80).reshape(40, 2) % 7 % 3, False),
}


@pytest.mark.parametrize("dtype", [None, np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_s_accuracy_is_the_one_of_score(kind, dtype):
    y, is_sparse = KINDS[kind]
    y = sparse.csr_array(y) if is_sparse else y
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(40, 3)), None if dtype is None else rng.uniform(size=40).astype(dtype)
    est = MLPClassifier((5,), max_iter=20, random_state=0).fit(X, y)
    decoded = est._decoded(est._encoded(y, False).astype(float))
    rounding = 1e-6 if dtype is np.float32 else 0  # of a sum that may be taken in float64
    assert est._score_of(decoded, est.predict(X), weights) == pytest.approx(est.score(X, y, weights), rel=rounding)
    assert est._score_of(decoded, decoded, weights) == pytest.approx(1, rel=rounding)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("number", range(draws.examples(120)))
def test_running_ahead_changes_nothing(number, monkeypatch):
    """Losses that stop a training are seen later, and the epochs behind them are taken back; random numbers, too."""
    rng = np.random.default_rng([int(draws.SEED), number])
    settings = {
        "hidden_layer_sizes": (int(rng.integers(1, 9)),), "solver": str(rng.choice(["sgd", "adam"])),
        "learning_rate": str(rng.choice(["constant", "adaptive", "invscaling"])), "shuffle": bool(rng.integers(2)),
        "n_iter_no_change": int(rng.integers(1, 12)), "max_iter": int(rng.integers(1, 150)),
        "tol": float(rng.choice([1e-4, 0.1])),
        "dropout": float(rng.choice([0, 0.3])), "batch_size": int(rng.integers(1, 31)), "learning_rate_init": 0.02,
    }  # fmt: skip
    X = rng.normal(size=(30, 3)).astype(rng.choice(["float32", "float64"]))
    y = rng.integers(0, 3, 30)
    found = []
    for growth in (0, 2, math.inf):
        monkeypatch.setattr(fitting, "AHEAD_GROWTH", growth)
        monkeypatch.setattr(fitting, "AHEAD_LEAST", math.inf)
        monkeypatch.setattr(fitting, "AHEAD_MOST", math.inf)
        random_state = np.random.RandomState(0)
        est = MLPClassifier(**settings, random_state=random_state).fit(X, y)
        kept = {name: value for name, value in vars(est).items() if name not in ("random_state", "_random_state")}
        found.append((pickle.dumps(kept), random_state.random_sample()))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("losses", "tol", "epochs"),
    [
        (np.arange(50, 0, -1), 1 / 8, 50 * 0.94),  # they fall 7.3 tolerances an epoch, and the cube root of that is 1.94
        (np.arange(20, 0, -1), 1e-9, 20 * 4), (np.arange(20, 0, -1), 0, 20 * 4), (np.arange(50), 1e-4, 3),
        ([7.0], 1e-4, 3), ([math.inf] * 50, 1e-4, 3), ([math.inf, *range(9)], 1e-4, 10 * 4), ([math.nan] * 20, 0, 3),
        (np.arange(5000, 0, -1), 0, 100),
    ],
)  # fmt: skip
def test_how_far_training_runs_ahead(losses, tol, epochs):
    """As long as losses fall fast, and never less than 0.3 ms nor more than 10; an epoch takes 0.1 here."""
    est = types.SimpleNamespace(loss_curve_=list(map(float, losses)), tol=tol)
    ran = len(losses)
    training = types.SimpleNamespace(
        est=est, safe=lambda: 11, ran=ran, seconds=1e-4 * ran, run=types.SimpleNamespace(chunks=1)
    )
    assert fitting.Epochs.ahead(training) == pytest.approx(epochs, rel=0.01)


@pytest.mark.compiled
@pytest.mark.parametrize("moment", range(6))
def test_an_interrupt_while_running_ahead_keeps_what_belongs_together(moment, monkeypatch):
    """Never more epochs than an uninterrupted fit, and the weights of just so many."""
    X, y = load_iris(return_X_y=True)
    settings = {"hidden_layer_sizes": 4, "max_iter": 200, "tol": 0.01, "n_iter_no_change": 3, "random_state": 0}
    whole = MLPClassifier(**settings).fit(X, y)
    calls = []

    def interrupted(real):
        def call(*args):
            calls.append(real)
            if len(calls) == moment + 1:
                raise KeyboardInterrupt
            return real(*args)

        return call

    monkeypatch.setattr(fitting, "AHEAD_LEAST", math.inf)
    monkeypatch.setattr(fitting, "AHEAD_MOST", math.inf)
    for name in ("losses", "note"):
        monkeypatch.setattr(fitting.Epochs, name, interrupted(getattr(fitting.Epochs, name)))
    with pytest.warns(UserWarning, match="interrupted by user"):
        est = MLPClassifier(**settings).fit(X, y)
    monkeypatch.undo()
    assert est.n_iter_ == len(est.loss_curve_) == est.t_ / len(X) <= whole.n_iter_
    assert est._steps == est.n_iter_
    if est.n_iter_:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            shorter = MLPClassifier(**settings | {"max_iter": est.n_iter_}).fit(X, y)
        assert est.coefs_[0].tobytes() == shorter.coefs_[0].tobytes()
        assert est.loss_curve_ == shorter.loss_curve_


@pytest.mark.compiled
@pytest.mark.parametrize("growth", [0, 4])
def test_an_interrupt_before_a_call_has_no_epoch_noted_twice(growth, monkeypatch):
    X, y = load_iris(return_X_y=True)
    settings = {"hidden_layer_sizes": 4, "max_iter": 200, "tol": 0, "n_iter_no_change": 5, "random_state": 0}
    calls, real = [], fitting.Run.calls

    def interrupted(run, epochs, each_epoch=False):
        calls.append(epochs)
        if len(calls) == 4:
            raise KeyboardInterrupt
        yield from real(run, epochs, each_epoch)

    monkeypatch.setattr(fitting, "AHEAD_GROWTH", growth)
    monkeypatch.setattr(fitting.Run, "calls", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        est = MLPClassifier(**settings).fit(X, y)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        shorter = MLPClassifier(**settings | {"max_iter": sum(calls[:3])}).fit(X, y)
    assert est.loss_curve_ == shorter.loss_curve_
    assert est.n_iter_ == shorter.n_iter_


def test_a_random_state_at_rest_is_as_new():
    used = np.random.RandomState(1)
    used.normal()  # which leaves a number for later
    perceptron.idle_random_states[:] = [used]
    assert perceptron.random_state_of(7) is used
    for mine, its in zip(used.get_state(), np.random.RandomState(7).get_state(), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert not perceptron.idle_random_states
    used.seed(1)
    assert perceptron.random_state_of(used) is used
