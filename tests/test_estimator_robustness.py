"""MLPClassifier and MLPRegressor in use: copied, saved, searched over, in threads and processes, interrupted."""

import copy
import gc
import io
import itertools
import multiprocessing
import pickle
import signal
import threading
import time
import tracemalloc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
from cases import assert_same_bits, unaligned
from joblib.externals.loky import get_reusable_executor
from processes import run_python
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_estimator_parity import all_classes

import fastbp
from fastbp import (
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    TabularClassifier,
    TabularRegressor,
)
from fastbp.training import Run

try:
    import cloudpickle
except ImportError:  # an older joblib has its own
    from joblib.externals import cloudpickle

pytestmark = [pytest.mark.compiled, pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")]

X, LABELS = load_iris(return_X_y=True)
X, LABELS = X[::3], LABELS[::3]
WORDS = np.array(["setosa", "versicolor", "virginica"])[LABELS]
VALUES = X @ [[0.1, 0.2], [0.3, -0.1], [0.2, 0.5], [-0.3, 0.4]]

ESTIMATORS = {
    "sgd": (MLPClassifier(solver="sgd", learning_rate="adaptive"), WORDS),
    "adam": (MLPClassifier(), LABELS),
    "two classes": (MLPClassifier(shuffle=False), LABELS == 1),
    "multilabel": (MLPClassifier(solver="sgd", learning_rate="invscaling"), np.eye(3, dtype=int)[LABELS]),
    "values": (MLPRegressor(solver="sgd", momentum=0.5, nesterovs_momentum=False), VALUES[:, 0]),
    "two values": (MLPRegressor(), VALUES),
    "early stopping": (MLPClassifier(early_stopping=True), WORDS),
    "lbfgs": (MLPRegressor(solver="lbfgs"), VALUES),
}


def new(name, **options):
    """An estimator of the table and its targets; the same at every call."""
    estimator, y = ESTIMATORS[name]
    options = {"hidden_layer_sizes": (5, 3), "batch_size": 20, "max_iter": 4, "random_state": 0} | options
    if estimator.solver == "lbfgs":
        options["batch_size"] = "auto"
    return clone(estimator).set_params(**options), y


def goes_by_epochs(estimator):
    return estimator.solver != "lbfgs" and not estimator.early_stopping


def go_on(estimator, y):
    """Train an estimator further, fitted or not."""
    if goes_by_epochs(estimator):
        return estimator.partial_fit(X, y, **all_classes(estimator, y)).partial_fit(X[::2], y[::2])
    return estimator.set_params(warm_start=True).fit(X, y)


def results(estimator):
    """Everything that a fitted estimator has learnt and would answer."""
    answers = [estimator.predict(X), estimator.predict_proba(X)] if is_classifier(estimator) else [estimator.predict(X)]
    return [*estimator.coefs_, *estimator.intercepts_, getattr(estimator, "loss_curve_", []), estimator.n_iter_, *answers]


STAGES = {
    "new": lambda estimator, y: estimator,
    "in the middle": lambda estimator, y: go_on(estimator, y),
    "fitted": lambda estimator, y: estimator.fit(X, y),
    "fitted twice": lambda estimator, y: estimator.set_params(warm_start=True).fit(X, y).fit(X, y),
}


# --- copies -----------------------------------------------------------------------------------------------------------


def through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "old pickle": lambda estimator: pickle.loads(pickle.dumps(estimator, protocol=2)),
    "joblib": through_joblib,
    "cloudpickle": lambda estimator: pickle.loads(cloudpickle.dumps(estimator)),
}


@pytest.mark.no_cover
@pytest.mark.draw(4)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_copies_go_on_alike(name, stage):
    estimator, y = new(name)
    STAGES[stage](estimator, y)
    copies = [make(estimator) for make in COPIES.values()]
    before = None if stage == "new" else copy.deepcopy(results(estimator))
    go_on(estimator, y)
    for other in copies:
        assert type(other) is type(estimator)
        if before is not None:
            # training one leaves the other as it was
            assert_same_bits(results(other), before)
        assert_same_bits(results(go_on(other, y)), results(estimator))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_clones_start_anew(name):
    estimator, y = new(name)
    estimator.fit(X, y)
    cloned = clone(estimator)
    assert not [attribute for attribute in vars(cloned) if attribute.endswith("_")]
    assert repr(cloned) == repr(estimator)
    assert_same_bits(results(cloned.fit(X, y)), results(estimator))


IN_A_NEW_PROCESS = """
import pickle, sys, warnings
warnings.simplefilter("ignore")
from test_estimator_robustness import go_on, results
found = [results(go_on(estimator, y)) for estimator, y in pickle.load(sys.stdin.buffer)]
pickle.dump(found, sys.stdout.buffer)
"""


def test_training_goes_on_in_a_new_process():
    pairs = [new(name) for name in ESTIMATORS]
    for estimator, y in pairs:
        go_on(estimator, y)
    process = run_python("-c", IN_A_NEW_PROCESS, input=pickle.dumps(pairs), text=False)
    assert process.returncode == 0, process.stderr.decode()
    for (estimator, y), theirs in zip(pairs, pickle.loads(process.stdout), strict=True):
        assert_same_bits(results(go_on(estimator, y)), theirs)


def plain(value):
    """Whether a value is made of arrays, scalars and text alone."""
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic | np.ndarray)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_arrays_and_scalars_live_on_an_estimator(name, stage):
    estimator, y = new(name)
    STAGES[stage](estimator, y)
    if stage != "new":
        estimator.predict(X)
    assert [attribute for attribute, value in vars(estimator).items() if not plain(value)] == []
    if stage != "new":
        arrays = [value for value in vars(estimator).values() if isinstance(value, np.ndarray)]
        # no buffer of the training hides behind a parameter
        arrays += estimator.coefs_ + estimator.intercepts_
        assert all(array.base is None or array.base.nbytes <= 2 * array.nbytes + 64 for array in arrays)


def test_a_loss_that_does_not_go_with_the_fit_before():
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30.0)
    est = MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, warm_start=True, random_state=0).fit(X, y)
    est.set_params(loss="poisson")
    with pytest.raises(ValueError, match="loss must go with the outputs of the fit before, 'identity', got 'poisson'"):
        est.fit(X, y)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("given", ["y", "y_val"])
def test_targets_beyond_float32(solver, given):
    X, y = np.random.default_rng(0).normal(size=(30, 4)).astype("float32"), np.arange(30.0)
    est, large = MLPRegressor(hidden_layer_sizes=(4,), solver=solver, random_state=0), y * 1e38
    if given == "y":
        with pytest.raises(ValueError, match=r"y must be numbers that float32 can hold, as X is float32, got 2.9e\+39"):
            est.fit(X, large)
        with pytest.raises(ValueError, match="y must be numbers that float32 can hold"):
            est.set_params(batch_size=5).fit(X, large, chunk_rows=10)
    elif solver == "adam":
        with pytest.raises(ValueError, match="y_val must be numbers that float32 can hold"):
            est.fit(X, y, X_val=X, y_val=large)
    est.fit(X.astype("float64"), large / 1e10)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("form", [np.array, sparse.csr_array])
def test_inputs_beyond_the_float_type_of_a_fit_are_refused(solver, form):
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30.0)
    est = MLPRegressor(hidden_layer_sizes=(4,), solver=solver, max_iter=3, warm_start=True, random_state=0)
    est.fit(form(X.astype("float32")), y)
    before = [array.copy() for array in est.coefs_ + est.intercepts_]
    X[3, 2] = 1e39
    calls = [lambda: est.fit(form(X), y)] + [lambda: est.partial_fit(form(X), y)] * (solver == "adam")
    for call in calls:
        with pytest.raises(ValueError, match="X must be numbers that float32 can hold, as the fit so far"):
            call()
    assert_same_bits(est.coefs_ + est.intercepts_, before)
    if solver == "adam":
        with pytest.raises(ValueError, match="X_val must be numbers that float32 can hold"):
            est.fit(form(X.astype("float64") * 0).astype("float32"), y, X_val=form(X), y_val=y)


@pytest.mark.parametrize("form", ["csc", "csr"])
def test_sparse_matrices_that_lead_beyond_their_arrays(form):
    X = sparse.random_array((30, 4), density=0.5, rng=np.random.default_rng(0), format=form)
    est = MLPClassifier(max_iter=2, random_state=0).fit(X, np.arange(30) % 2)
    X.indices[3] = 10**6
    for call in (lambda: est.fit(X, np.arange(30) % 2), lambda: est.predict(X)):
        with pytest.raises(ValueError, match="1000000|column index|row index|indices|index"):
            call()


def test_a_random_state_stays_on_the_estimator_alone():
    random_state = np.random.RandomState(0)
    estimator, y = new("adam", random_state=random_state)
    estimator.fit(X, y)
    assert estimator.random_state is random_state
    assert [name for name, value in vars(estimator).items() if not plain(value)] == ["random_state"]
    assert_same_bits(results(go_on(pickle.loads(pickle.dumps(estimator)), y)), results(go_on(estimator, y)))


# --- in the tools of scikit-learn -------------------------------------------------------------------------------------

SMALL = {"hidden_layer_sizes": 3, "max_iter": 3, "random_state": 0}


def of_search(n_jobs):
    grid = {"mlpclassifier__alpha": [0.1, 1], "mlpclassifier__solver": ["sgd", "lbfgs"]}
    search = GridSearchCV(make_pipeline(StandardScaler(), MLPClassifier(**SMALL)), grid, cv=2, n_jobs=n_jobs)
    search.fit(X, WORDS)
    return [search.cv_results_["mean_test_score"], search.predict_proba(X), search.best_params_["mlpclassifier__solver"]]


def of_search_by_early_stopping(n_jobs):
    grid = {"learning_rate_init": [0.01, 0.1]}
    search = GridSearchCV(MLPRegressor(early_stopping=True, **SMALL), grid, cv=2, n_jobs=n_jobs).fit(X, VALUES)
    return [search.cv_results_["mean_test_score"], search.predict(X)]


def of_cross_validation(n_jobs):
    options = {"cv": 3, "n_jobs": n_jobs, "return_estimator": True, "params": {"sample_weight": X[:, 0]}}
    found = cross_validate(MLPRegressor(**SMALL), X, VALUES, **options)
    return [found["test_score"], *found["estimator"][2].coefs_]


def of_bagging(n_jobs):
    bags = BaggingClassifier(MLPClassifier(**SMALL), 3, max_features=2, n_jobs=n_jobs, random_state=0)
    return [bags.fit(X, WORDS).predict_proba(X)]


def of_one_versus_rest(n_jobs):
    return [OneVsRestClassifier(MLPClassifier(**SMALL), n_jobs=n_jobs).fit(X, WORDS).predict_proba(X)]


def of_calibration(n_jobs):
    return [CalibratedClassifierCV(MLPClassifier(**SMALL), cv=2, n_jobs=n_jobs).fit(X, WORDS).predict_proba(X)]


TOOLS = [of_search, of_search_by_early_stopping, of_cross_validation, of_bagging, of_one_versus_rest, of_calibration]


@pytest.mark.no_cover
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_tools_find_the_same_with_two_jobs(backend):
    serial = [tool(1) for tool in TOOLS]
    try:
        with joblib.parallel_config(backend=backend):
            together = [tool(2) for tool in TOOLS]
    finally:
        if backend == "loky":
            get_reusable_executor().shutdown(wait=True)
    for ours, alone in zip(together, serial, strict=True):
        assert_same_bits(ours, alone)


# --- threads and processes --------------------------------------------------------------------------------------------

THREADS = 8


def at_once(work):
    """The results of threads that start together; each is given its number."""
    barrier = threading.Barrier(THREADS)

    def wait_and_work(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(wait_and_work, range(THREADS)))


@pytest.mark.no_cover
@pytest.mark.draw(4)
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_threads(name, n_jobs):
    """On one model that all predict with, then each on one of its own."""
    serial = [new(name, alpha=0.1 * (1 + number))[0].fit(X, ESTIMATORS[name][1]) for number in range(THREADS)]
    model, expected = serial[0], results(serial[0])
    for found in at_once(lambda number: [results(model) for _ in range(5)]):
        for one in found:
            assert_same_bits(one, expected)
    fitted = at_once(lambda number: new(name, alpha=0.1 * (1 + number), n_jobs=n_jobs)[0].fit(X, ESTIMATORS[name][1]))
    for ours, alone in zip(fitted, serial, strict=True):
        assert_same_bits(results(ours), results(alone))


def in_a_fork(connection, estimator, y):
    connection.send([results(estimator), results(clone(estimator).fit(X, y))])
    connection.close()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_fork_after_a_fit_works(n_jobs):
    estimator, y = new("adam", n_jobs=n_jobs, hidden_layer_sizes=(100, 50), batch_size=40)
    estimator.fit(X, y)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_a_fork, args=(theirs, estimator, y))
    child.start()
    theirs.close()
    try:
        assert ours.poll(60), "the child hangs"
        for found in ours.recv():
            assert_same_bits(found, results(estimator))
    finally:
        child.kill()
        child.join()
        child.close()
        ours.close()
    assert_same_bits(results(clone(estimator).fit(X, y)), results(estimator))


# --- interrupts -------------------------------------------------------------------------------------------------------

INTERRUPT_SECONDS = 1.0  # it takes 0.2 on a machine that has nothing else to do


def interrupted(estimator, X, y, after=0.3):
    """Press Ctrl-C some seconds into a fit; how long it went on."""
    pressed = []

    def press():
        pressed.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(after, press)
    gc.disable()  # Python drops an interrupt that comes within a callback of the collector, and hypothesis has one
    timer.start()
    try:
        with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
            estimator.fit(X, y)
        return time.perf_counter() - pressed[0]
    finally:
        gc.enable()
        timer.cancel()
        timer.join()


def many_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30_000, 64))
    return X, X[:, :3] > 0


ENDLESS = {"max_iter": 10**7, "n_iter_no_change": np.inf, "tol": 0.0, "random_state": 0}
TRAININGS = {
    "short epochs": (MLPRegressor(hidden_layer_sizes=4, **ENDLESS), X, VALUES),
    "short epochs of classes": (MLPClassifier(4, solver="sgd", learning_rate="invscaling", **ENDLESS), X, LABELS),
    "early stopping": (MLPClassifier(4, early_stopping=True, **ENDLESS), X, WORDS),
    "long epochs": (MLPClassifier((128, 128), **ENDLESS), *many_rows()),
    "long epochs, early stopping": (MLPClassifier((128, 128), early_stopping=True, **ENDLESS), *many_rows()),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_interrupt(training):
    estimator, X, y = TRAININGS[training]
    estimator = clone(estimator)
    clone(estimator).set_params(max_iter=1).fit(X[:20], y[:20])  # so that nothing has to be compiled
    delay = interrupted(estimator, X, y)
    print(f"{training}: stopped {delay:.3f} s after the signal, {estimator.n_iter_} epochs")
    assert delay < INTERRUPT_SECONDS
    assert estimator.n_iter_ == len(estimator.loss_curve_) < 10**7
    assert estimator.predict(X[:5]).shape == y[:5].shape
    # the signal may come between the end of an epoch and its score
    whole_epochs = len(estimator.validation_scores_ if estimator.early_stopping else estimator.loss_curve_)
    assert estimator.n_iter_ - whole_epochs in (0, 1)
    if whole_epochs:
        expected = clone(estimator).set_params(max_iter=whole_epochs).fit(X, y)
        assert_same_bits([estimator.loss_curve_[:whole_epochs]], [expected.loss_curve_])
        if estimator.early_stopping:
            # the best weights, not those of the epoch that was under way
            assert_same_bits(estimator.coefs_ + estimator.intercepts_, expected.coefs_ + expected.intercepts_)
            assert max(estimator.validation_scores_) == estimator.best_validation_score_


def test_interrupt_of_lbfgs():
    X, y = many_rows()
    estimator = MLPRegressor(
        hidden_layer_sizes=(128, 128), solver="lbfgs", max_iter=10**6, max_fun=10**6, tol=0, random_state=0
    )
    clone(estimator).set_params(max_iter=1).fit(X[:20], y[:20])
    delay = interrupted(estimator, X, y)
    print(f"stopped {delay:.3f} s after the signal")
    assert delay < INTERRUPT_SECONDS
    assert np.isfinite(estimator.predict(X[:5])).all()


def test_an_interrupt_while_the_best_weights_are_kept_leaves_them_with_their_score(monkeypatch):
    X, y = load_iris(return_X_y=True)
    est, best, left = MLPClassifier((9,), early_stopping=True, random_state=0, learning_rate_init=0.02), [], [5]
    parameters = Run.parameters

    def interrupted(run):
        found = parameters(run)
        left[0] -= 1
        if not left[0]:
            best.append(est.best_validation_score_)
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Run, "parameters", interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        est.fit(X, y, X_val=X, y_val=y)
    assert best
    assert est.best_validation_score_ == est.score(X, y)


def test_training_goes_on_after_an_interrupt():
    estimator = clone(TRAININGS["short epochs"][0])
    interrupted(estimator, X, VALUES, after=0.1)
    trained = estimator.n_iter_
    estimator.partial_fit(X, VALUES).set_params(warm_start=True, max_iter=10).fit(X, VALUES)
    assert len(estimator.loss_curve_) == trained + 1 + 10
    assert estimator.loss_ < estimator.loss_curve_[0]


# --- memory -----------------------------------------------------------------------------------------------------------


def resident():
    """Bytes of memory that the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def fits(times):
    for name, number in zip(itertools.cycle(["sgd", "two values", "early stopping", "lbfgs"]), range(times), strict=False):
        estimator, y = new(name, max_iter=1, random_state=number)
        estimator.fit(X, y).predict(X)


@pytest.mark.no_cover
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_thousand_fits_leave_nothing_behind():
    fits(100)
    gc.collect()
    before = resident()
    fits(1000)
    gc.collect()
    grown = resident() - before
    print(f"grown by {grown / 1e6:.2f} MB")
    # a parameter, a moment or a workspace per fit would be 5 MB and more
    assert grown < 3e6


def test_no_object_stays():
    fits(8)
    tracemalloc.start()
    try:
        fits(8)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        fits(40)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"grown by {grown / 1e3:.1f} kB")
    # a thousand bytes per fit, which is less than its parameters or one more line of a curve or a log
    assert grown < 4e4


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_holds_neither_its_rows_nor_itself(name):
    estimator, y = new(name, max_iter=1)
    rows = X.copy()
    estimator.fit(rows, y).predict(rows)
    watched = [weakref.ref(rows), weakref.ref(estimator)]
    del rows
    gc.collect()
    assert watched[0]() is None
    gc.disable()
    try:
        del estimator
        assert watched[1]() is None
    finally:
        gc.enable()


# --- inputs -----------------------------------------------------------------------------------------------------------


def read_only(array, folder):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array, folder):
    wide = np.full([2 * n for n in array.shape], 77, array.dtype)
    part = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    part[...] = array
    return part


def memmap(array, folder):
    path = folder / f"{array.dtype}{array.shape}{array.flat[0]}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def pandas_of(array, folder):
    if array.ndim == 1:
        return pandas.Series(array, index=range(100, 100 + len(array)))
    return pandas.DataFrame(array, columns=[f"column {i}" for i in range(array.shape[1])])


KINDS = {
    "read-only": read_only,
    "Fortran": lambda array, folder: np.asfortranarray(array),
    "strided": strided,
    "backwards": lambda array, folder: np.ascontiguousarray(array[::-1])[::-1],
    "unaligned": unaligned,
    "other byte order": lambda array, folder: array.astype(array.dtype.newbyteorder("S")),
    "long double": lambda array, folder: array.astype("longdouble"),
    "objects": lambda array, folder: array.astype(object),
    "list": lambda array, folder: array.tolist(),
    "pandas": pandas_of,
    "memmap": memmap,
}


@pytest.mark.no_cover
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["values", "two values", "adam", "multilabel", "early stopping", "lbfgs"])
def test_every_kind_of_input_trains_as_a_plain_copy(name, kind, tmp_path):
    (estimator, y), (plain, _) = new(name, max_iter=2), new(name, max_iter=2)
    make = KINDS[kind]
    weights = np.linspace(0.5, 1.5, len(X))
    # labels of other types are other labels
    other_labels = y.dtype.kind != "f" and kind in ("objects", "long double", "other byte order", "pandas")
    targets = y if other_labels else make(y, tmp_path)
    rows, row_weights = make(X, tmp_path), weights if kind == "objects" else make(weights, tmp_path)
    kept = np.array(rows), np.array(targets), np.array(row_weights)
    plain.fit(X, y, weights)
    estimator.fit(rows, targets, row_weights)
    assert_same_bits(results(estimator), results(plain))
    assert_same_bits([estimator.predict(rows)], [plain.predict(X)])
    assert estimator.score(rows, targets, weights) == pytest.approx(plain.score(X, y, weights), rel=1e-12)
    for array, other in zip((rows, targets, row_weights), kept, strict=True):
        np.testing.assert_array_equal(np.array(array), other)


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "bool", "float16"])
def test_integers_are_numbers(dtype):
    rows = (X > 2).astype(dtype)
    (estimator, y), (plain, _) = new("two values"), new("two values")
    assert_same_bits(results(estimator.fit(rows, y)), results(plain.fit(rows.astype("float64"), y)))


@pytest.mark.parametrize("n", [0, 1, 7, 8193, 20_000])
def test_predictions_do_not_depend_on_how_many_rows_there_are(n):
    estimator, y = new("two values", max_iter=1)
    estimator.fit(X, y)
    if n == 0:
        with pytest.raises(ValueError, match="0 sample"):
            estimator.predict(X[:0])
        return
    rows = np.resize(X, (n, 4))
    expected = np.resize(np.concatenate([estimator.predict(row[None]) for row in X]), (n, 2))
    np.testing.assert_allclose(estimator.predict(rows), expected, rtol=1e-12)


def test_fit_leaves_assigned_arrays_alone():
    """Weights that a user gives, or has read, are not the estimator's working memory."""
    estimator, y = new("two values", warm_start=True)
    estimator.fit(X, y)
    read = [*estimator.coefs_, *estimator.intercepts_]
    kept = copy.deepcopy(read)
    estimator.fit(X, y).partial_fit(X, y)
    assert_same_bits(read, kept)
    assert not np.array_equal(estimator.coefs_[0], kept[0])


# ---- fits that fail --------------------------------------------------------------------------------------------------

ROWS = np.random.default_rng(0).normal(size=(60, 3))
DATES = pandas.DataFrame({"a": ROWS[:, 0], "b": pandas.date_range("2020-01-01", periods=60)})
OTHER_CLASSES = (ROWS[:, 0] > 0) * 1 + (ROWS[:, 1] > 0)


def ends(*args):
    raise ZeroDivisionError


FAILING = {
    "other features for validation": (MLPClassifier, {"y": OTHER_CLASSES, "X_val": ROWS[:, :2], "y_val": [0] * 60}, {}),
    "no targets for validation": (MLPClassifier, {"y": OTHER_CLASSES, "X_val": ROWS}, {}),
    "targets beyond float32": (
        MLPRegressor,
        {"X": ROWS.astype("f"), "y": ROWS[:, 0], "X_val": ROWS, "y_val": [1e300] * 60},
        {},
    ),
    "weights of other rows": (MLPClassifier, {"y": OTHER_CLASSES, "sample_weight": np.ones(3)}, {}),
    "weights of no class": (MLPClassifier, {"y": OTHER_CLASSES}, {"class_weight": {7: 1.0}}),
    "a file that cannot be written": (MLPClassifier, {"checkpoint": "/nonexistent/folder/file"}, {}),
    "a table's weights": (TabularRegressor, {"X": ROWS * 9 + 100, "y": ROWS[:, 1], "sample_weight": np.ones(3)}, {}),
    "a table's callback": (TabularClassifier, {"X": ROWS * 9 + 100, "callback": ends}, {}),
    "a table with dates": (TabularClassifier, {"X": DATES}, {}),
    "a table's class weights": (TabularClassifier, {"X": ROWS * 9}, {"class_weight": "odd"}),
    "few targets": (MLPEnsembleClassifier, {"y": [0, 1, 1]}, {}),
    "fewer members": (MLPEnsembleClassifier, {}, {"n_estimators": 1, "warm_start": True}),
    "a score of rows that all are drawn": (MLPEnsembleRegressor, {"y": ROWS[:, 0]}, {"oob_score": True}),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", [0, np.random.RandomState(1)], ids=["seed", "state"])
@pytest.mark.parametrize("name", FAILING)
def test_a_fit_that_fails_changes_nothing(name, seed):
    kind, data, settings = FAILING[name]
    networks = {"n_estimators": 2} if "Ensemble" in kind.__name__ else {}
    new = kind(hidden_layer_sizes=3, max_iter=2, random_state=copy.deepcopy(seed), **networks)
    fitted = copy.deepcopy(new).fit(ROWS, ROWS[:, 0] > 0 if is_classifier(new) else ROWS[:, 0])
    for est in (fitted,) if name == "fewer members" else (fitted, new):
        est.set_params(**settings)
        before = pickle.dumps(vars(est))
        with pytest.raises((ValueError, OSError, ZeroDivisionError)):
            est.fit(**{"X": ROWS, "y": ROWS[:, 0] > 0} | data)
        assert pickle.dumps(vars(est)) == before


def test_classes_of_a_partial_fit_that_fails_are_forgotten():
    est = MLPClassifier(3)
    with pytest.raises(ValueError, match="y must have 2 columns"):
        est.partial_fit(ROWS, OTHER_CLASSES, classes=[[0, 1], [0, 1]])
    est.partial_fit(ROWS, OTHER_CLASSES, classes=[0, 1, 2])


def test_classes_of_columns_are_the_same_ones_later():
    indicators = (ROWS > 0).astype(int)
    est = MLPClassifier(3, random_state=0)
    for _ in range(2):
        est.partial_fit(ROWS, indicators, classes=[0, 1, 2, 3])
    columns = np.column_stack([OTHER_CLASSES, OTHER_CLASSES])
    with pytest.raises(ValueError, match="classes must be a list for each column"):
        MLPClassifier(3, max_iter=1, random_state=0).fit(ROWS, columns).partial_fit(ROWS, columns, classes=[7, 8])


# ---- what is not told apart silently ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", [MLPRegressor, MLPEnsembleRegressor, TabularRegressor])
@pytest.mark.parametrize("unit", ["datetime64[D]", "timedelta64[D]"])
def test_times_are_no_targets(kind, unit):
    y = np.arange(60).astype(unit)
    y[3] = "NaT"
    for targets in (y, pandas.Series(y)):
        with pytest.raises(ValueError, match="y must be|NaT|dtype|numbers|Cannot cast|contains NaN"):
            kind(max_iter=2).fit(ROWS, targets)


def test_sparse_targets_of_a_regressor_are_refused():
    with pytest.raises(ValueError, match="y must be an array of numbers"):
        MLPRegressor(max_iter=1).fit(ROWS, sparse.csr_matrix(ROWS))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scores_of_labels_that_do_not_fit_are_refused():
    columns = np.column_stack([OTHER_CLASSES, OTHER_CLASSES])
    est = MLPClassifier(3, max_iter=2, random_state=0).fit(ROWS, columns)
    for X, y in ((ROWS[:1], columns), (ROWS, columns[:1]), (ROWS, columns[:, :1])):
        with pytest.raises(ValueError, match="y must have shape"):
            est.score(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        est.score(ROWS, columns, sample_weight=[1])
    assert est.score(ROWS, columns.tolist()) == est.score(ROWS, columns)
    words = MLPClassifier(3, max_iter=2, random_state=0).fit(ROWS, OTHER_CLASSES.astype(str))
    with pytest.raises(ValueError, match="[Mm]ix"):
        words.score(ROWS, OTHER_CLASSES)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("chunk_rows", [None, 20])
def test_class_weights_of_rows_that_lack_classes(chunk_rows):
    """A dict may leave classes out, and rows may lack others."""
    est = MLPClassifier(3, random_state=0, batch_size=10, class_weight={0: 2.0, 2: 3.0})
    est.partial_fit(ROWS, OTHER_CLASSES, classes=[0, 1, 2])
    some = OTHER_CLASSES != 2
    other = copy.deepcopy(est).set_params(class_weight=None)
    est.partial_fit(ROWS[some], OTHER_CLASSES[some], chunk_rows=chunk_rows)
    other.partial_fit(ROWS[some], OTHER_CLASSES[some], np.where(OTHER_CLASSES[some] == 0, 2.0, 1.0), chunk_rows=chunk_rows)
    np.testing.assert_array_equal(est.coefs_[0], other.coefs_[0])
    labels = np.array(["a", "b"], object)[np.arange(150) % 2]
    labels[:2] = "c"
    X = np.random.default_rng(0).normal(size=(150, 2))
    TabularClassifier(max_iter=2, random_state=0, class_weight={"a": 2.0, "c": 3.0}).fit(X, labels)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("momentum", [0.9, 0.5, 0.0])
def test_another_momentum_leaves_the_learning_rate(momentum):
    options = {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 9, "learning_rate_init": 0.1}
    est = MLPClassifier(3, solver="sgd", random_state=0, **options).fit(ROWS, OTHER_CLASSES)
    before = est._optimizer.learning_rate
    assert before < 0.01
    assert est.set_params(momentum=momentum).partial_fit(ROWS, OTHER_CLASSES)._optimizer.learning_rate <= before


def test_a_model_whose_loss_has_changed_cannot_be_saved(tmp_path):
    with pytest.warns(match="reached"):
        est = MLPRegressor(max_iter=2).fit(ROWS, ROWS[:, 0])
    with pytest.raises(ValueError, match="loss 'poisson' and out_activation_ 'identity' must go together"):
        est.set_params(loss="poisson").save(tmp_path / "model.npz")


def test_level_of_a_model_from_elsewhere():
    assert fastbp.from_sklearn(neural_network.MLPRegressor(max_iter=300, tol=1).fit(ROWS, ROWS[:, 0])).level_ is None


@pytest.mark.parametrize("kind", [MLPRegressor, TabularRegressor])
@pytest.mark.parametrize("chunk_rows", [None, 20])
def test_times_among_objects_are_no_targets(kind, chunk_rows):
    y = np.array([np.datetime64("2020-01-01") + number for number in range(60)], object)
    more = {"chunk_rows": chunk_rows} if kind is MLPRegressor else {}
    with pytest.raises(ValueError, match="y must be numbers"):
        kind(max_iter=2).fit(ROWS, y, **more)


def test_weights_of_lbfgs_are_kept_before_it_warns():
    est = MLPClassifier(5, solver="lbfgs", max_iter=500, random_state=0).fit(ROWS, OTHER_CLASSES)
    est.set_params(max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            est.fit(ROWS, np.array(["a", "b", "c"])[OTHER_CLASSES])
    with pytest.warns(ConvergenceWarning):
        expected = MLPClassifier(5, solver="lbfgs", max_iter=2, random_state=0).fit(ROWS, OTHER_CLASSES)
    np.testing.assert_array_equal(est.coefs_[0], expected.coefs_[0])
    assert est.loss_ == expected.loss_


@pytest.mark.parametrize("settings", [{"hidden_layer_sizes": (0,)}, {"early_stopping": True, "validation_fraction": 0.01}])
def test_members_that_cannot_be_trained_leave_those_before(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        est = MLPEnsembleClassifier(3, n_estimators=2, max_iter=2, random_state=np.random.RandomState(0)).fit(
            ROWS, OTHER_CLASSES
        )
        before = pickle.dumps({name: value for name, value in vars(est).items() if name not in settings})
        with pytest.raises(ValueError, match="hidden_layer_sizes|validation set"):
            est.set_params(**settings).fit(ROWS, np.array(["a", "b", "c"])[OTHER_CLASSES])
    assert pickle.dumps({name: value for name, value in vars(est).items() if name not in settings}) == before


def test_scores_of_columns_of_labels_of_another_kind_are_refused():
    columns = np.column_stack([OTHER_CLASSES, OTHER_CLASSES])
    with pytest.warns(ConvergenceWarning):
        est = MLPClassifier(3, max_iter=2, random_state=0).fit(ROWS, columns)
    with pytest.raises(ValueError, match="y must have labels of the kind"):
        est.score(ROWS, columns.astype(str))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 60])
@pytest.mark.parametrize("shuffle", [True, False])
def test_losses_are_those_of_the_rows_that_weigh_something(shuffle, batch_size):
    """Batches whose rows all weigh nothing are passed over, and are no part of a mean."""
    weights = np.where(np.arange(60) % 10 == 0, 1.0, 0.0)
    options = {"solver": "sgd", "learning_rate_init": 1e-12, "alpha": 0, "max_iter": 2, "random_state": 0}
    new = MLPRegressor("squared_error", (), batch_size=batch_size, shuffle=shuffle, **options)
    with pytest.warns(ConvergenceWarning):
        est = new.fit(ROWS, np.full(60, 2.0), weights)
    errors = (est.predict(ROWS) - 2) ** 2 / 2
    rows = [chunk for chunk in np.split(np.arange(60), range(batch_size, 60, batch_size)) if weights[chunk].any()]
    if not shuffle:
        means = [np.average(errors[chunk], weights=weights[chunk]) for chunk in rows]
        assert est.loss_ == pytest.approx(np.average(means, weights=[len(chunk) for chunk in rows]))
    if batch_size in (1, 60):
        assert est.loss_ == pytest.approx(np.average(errors, weights=weights))
