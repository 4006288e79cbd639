"""MLPEnsembleClassifier and MLPEnsembleRegressor: beside scikit-learn's bagging, and what they promise beyond it."""

import inspect
import pickle
import re
import signal
import threading
import time
import warnings

import numpy as np
import pandas
import pytest
import scipy.optimize
import sklearn
from draws import examples
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import BaggingClassifier, BaggingRegressor
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastbp
from fastbp import MLPClassifier, MLPEnsembleClassifier, MLPEnsembleRegressor, MLPRegressor

CONVERGENCE = "ignore::sklearn.exceptions.ConvergenceWarning"
pytestmark = [pytest.mark.filterwarnings(CONVERGENCE), pytest.mark.compiled]

KINDS = {
    MLPEnsembleClassifier: (MLPClassifier, BaggingClassifier),
    MLPEnsembleRegressor: (MLPRegressor, BaggingRegressor),
}
X, LABELS = load_iris(return_X_y=True)
X, LABELS = X[::3], LABELS[::3]
WORDS = np.array(["c", "a", "b"])[LABELS]
FEW = {"hidden_layer_sizes": 5, "max_iter": 3, "random_state": 0}


def targets(kind):
    return WORDS if kind is MLPEnsembleClassifier else X[:, 0]


def outputs(model, X=X):
    """What a model predicts, as bytes."""
    return getattr(model, "predict_proba" if is_classifier(model) else "predict")(X).tobytes()


def weights(model):
    return [[array.tobytes() for array in member.coefs_ + member.intercepts_] for member in model.estimators_]


# Of a bootstrap, which draws from other rows where a row stands there twice.
DRAWN = dict.fromkeys(
    [f"check_sample_weight_equivalence_on_{rows}_data" for rows in ("dense", "sparse")], "rows are drawn by their numbers"
)


@pytest.fixture(autouse=True)
def as_many_threads_as_asked_for(monkeypatch):
    """However few processors there are."""
    monkeypatch.setattr("fastbp.estimators.ensemble.usable_threads", lambda n_jobs: n_jobs or 1)


def test_a_member_that_draws_no_row_of_any_weight_learns_from_all():
    X, y, weights = np.array([[0.0], [1.0]]), np.array([0, 1]), np.array([0.0, 1.0])
    est = MLPEnsembleClassifier(3, n_estimators=20, bootstrap=True, max_iter=2, random_state=0).fit(X, y, weights)
    drawn = [weights[sample].any() for sample in est.estimators_samples_]
    alone = MLPClassifier(3, max_iter=2, random_state=est.estimators_[drawn.index(False)].random_state).fit(X, y, weights)
    np.testing.assert_array_equal(alone.coefs_[0], est.estimators_[drawn.index(False)].coefs_[0])


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.no_cover
@pytest.mark.draw(3)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        MLPEnsembleClassifier(n_estimators=2, max_iter=100),
        MLPEnsembleRegressor(n_estimators=2, max_iter=100),
        MLPEnsembleClassifier(n_estimators=3, max_iter=100, bootstrap=True, n_jobs=2),
    ],
    expected_failed_checks=lambda est: DRAWN if est.bootstrap else {},
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_public_names():
    assert {"MLPEnsembleClassifier", "MLPEnsembleRegressor"} <= set(fastbp.__all__)
    assert is_classifier(MLPEnsembleClassifier())
    assert is_regressor(MLPEnsembleRegressor())


def test_parameters_are_those_of_members_and_of_bagging(kind):
    ours = {name: one.default for name, one in inspect.signature(kind).parameters.items()}
    members = {name: one.default for name, one in inspect.signature(KINDS[kind][0]).parameters.items()}
    assert ours == members | {"verbose": 0, "n_estimators": 10, "bootstrap": False, "oob_score": False}
    assert list(ours)[: len(members)] == list(members)
    for name in ours:
        assert f"    {name} : " in kind.__doc__
    assert "<" not in kind.__doc__.replace(">>>", "")


# --- beside scikit-learn's bagging ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_better_than_its_members_and_equal_to_bagging(load, bootstrap):
    X, y = load(return_X_y=True)
    X, held, y, truth = train_test_split(X, y, random_state=0, stratify=y)
    scaler = StandardScaler().fit(X)
    X, held = scaler.transform(X), scaler.transform(held)
    ours = MLPEnsembleClassifier(bootstrap=bootstrap, n_jobs=2, random_state=0).fit(X, y)
    theirs = BaggingClassifier(MLPClassifier(), bootstrap=bootstrap, random_state=0).fit(X, y)
    probabilities = ours.predict_proba(held)
    np.testing.assert_array_equal(probabilities, theirs.predict_proba(held))
    members = [log_loss(truth, member.predict_proba(held)) for member in ours.estimators_]
    assert log_loss(truth, probabilities) < np.mean(members)


@settings(max_examples=examples(60), deadline=None)
@example(  # a member draws none of the rows that it holds back
    kind=MLPEnsembleClassifier, seed=134, bootstrap=True, n_estimators=3, n_jobs=None, convert=np.asarray,
    solver="adam", batch_size="auto", early_stopping=True, dropout=0.0,
)  # fmt: skip
@given(
    kind=st.sampled_from(list(KINDS)),
    seed=st.integers(0, 2**32 - 1),
    bootstrap=st.booleans(),
    n_estimators=st.integers(1, 4),
    n_jobs=st.sampled_from([None, 2, 3]),
    solver=st.sampled_from(["adam", "sgd", "lbfgs"]),
    batch_size=st.sampled_from(["auto", 1, 7]),
    early_stopping=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3]),
    convert=st.sampled_from([np.asarray, np.float32, sparse.csr_array, sparse.csc_matrix, np.ndarray.tolist]),
)
def test_the_bits_of_bagging(kind, seed, bootstrap, n_estimators, n_jobs, convert, **parameters):
    member, bagging = KINDS[kind]
    parameters |= {"hidden_layer_sizes": (4, 3), "max_iter": 3}
    shared = {"n_estimators": n_estimators, "bootstrap": bootstrap, "random_state": seed}
    rows, y = convert(X), targets(kind)
    ours, theirs = kind(**parameters, **shared, n_jobs=n_jobs), bagging(member(**parameters), **shared)
    try:
        theirs.fit(rows, y)
    except ValueError as error:  # of 50 rows, a member may draw none of those that it holds back
        with pytest.raises(ValueError, match=f"^{re.escape(str(error))}$"):
            ours.fit(rows, y)
        assert bootstrap
        assert parameters["early_stopping"]
        return
    ours.fit(rows, y)
    assert outputs(ours, rows) == outputs(theirs, rows)
    assert (ours.predict(rows) == theirs.predict(rows)).all()
    assert weights(ours) == weights(theirs)
    np.testing.assert_array_equal(ours.estimators_samples_, theirs.estimators_samples_)
    assert all(type(one) is member for one in ours)
    assert len(ours) == n_estimators


def test_out_of_bag_scores(kind):
    member, bagging = KINDS[kind]
    y = LABELS if is_classifier(kind()) else X[:, 0]
    ours = kind(**FEW, n_estimators=30, bootstrap=True, oob_score=True).fit(X, y)
    theirs = bagging(member(5, max_iter=3) if is_classifier(ours) else member(hidden_layer_sizes=5, max_iter=3),
                     n_estimators=30, oob_score=True, random_state=0).fit(X, y)  # fmt: skip
    assert ours.oob_score_ == pytest.approx(theirs.oob_score_)
    name = "oob_decision_function_" if is_classifier(ours) else "oob_prediction_"
    np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name))


def test_rows_that_every_member_has_drawn_have_no_out_of_bag_score(kind):
    model = kind(**FEW, n_estimators=2, bootstrap=True, oob_score=True)
    with pytest.warns(UserWarning, match=r"every member has drawn \d+ of 50 rows"):
        model.fit(X, targets(kind))
    means = model.oob_decision_function_ if is_classifier(model) else model.oob_prediction_
    drawn = np.all([np.isin(np.arange(len(X)), sample) for sample in model.estimators_samples_], axis=0)
    assert (np.isnan(means.reshape(len(X), -1)).all(axis=1) == drawn).all()
    assert np.isfinite(model.oob_score_)


# --- what is averaged -------------------------------------------------------------------------------------------------


def test_mean_and_spread(kind):
    model = kind(**FEW, n_estimators=4).fit(X, targets(kind))
    predict = "predict_proba" if is_classifier(model) else "predict"
    mean, std = getattr(model, predict)(X, return_std=True)
    members = [getattr(member, predict)(X) for member in model.estimators_]
    assert (mean == getattr(model, predict)(X)).all()
    np.testing.assert_allclose(mean, np.mean(members, axis=0))
    np.testing.assert_allclose(std, np.std(members, axis=0))
    assert std.min() > 0
    row = getattr(model, predict)(X[7:8], return_std=True)
    assert [part.tobytes() for part in row] == [mean[7:8].tobytes(), std[7:8].tobytes()]
    alone = kind(**FEW, n_estimators=1).fit(X, targets(kind))
    assert not getattr(alone, predict)(X, return_std=True)[1].any()


def test_labels_are_the_members_own():
    model = MLPEnsembleClassifier(5, max_iter=50, n_estimators=3, random_state=0, class_weight={"a": 1, "b": 2, "c": 3})
    model.fit(X, WORDS)
    assert model.classes_.tolist() == ["a", "b", "c"] == model.estimators_[0].classes_.tolist()
    assert set(model.predict(X)) <= set(WORDS)
    assert (model.predict(X) == model.classes_[model.predict_proba(X).argmax(axis=1)]).all()
    np.testing.assert_array_equal(model.predict_log_proba(X), np.log(model.predict_proba(X)))
    again = MLPClassifier(**model.estimators_[1].get_params()).fit(X, WORDS)
    assert again.predict_proba(X).tobytes() == model.estimators_[1].predict_proba(X).tobytes()
    assert set(MLPEnsembleClassifier(5, max_iter=2, n_estimators=2).fit(X, ["only"] * len(X)).predict(X)) == {"only"}
    objects = MLPEnsembleClassifier(**FEW, n_estimators=2).fit(X, WORDS.astype(object))
    assert (objects.classes_ == model.classes_).all()


def test_a_bootstrap_that_misses_a_class():
    y = np.array(["rare"] + ["common", "other"] * 20)
    model = MLPEnsembleClassifier(**FEW, n_estimators=8, bootstrap=True).fit(X[: len(y)], y)
    missed = [0 not in sample for sample in model.estimators_samples_]
    assert any(missed)
    assert all(list(member.classes_) == ["common", "other", "rare"] for member in model)
    assert model.predict_proba(X).shape == (len(X), 3)
    with sklearn.config_context(enable_metadata_routing=True):
        assert outputs(clone(model).fit(X[: len(y)], y)) == outputs(model)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_several_labels_of_a_row(convert):
    y = np.column_stack([X[:, 0] > 5.8, X[:, 1] > 3, X[:, 2] > 4]).astype(int)
    model = MLPEnsembleClassifier(8, max_iter=60, n_estimators=3, random_state=0, bootstrap=True, oob_score=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, convert(y))
    expected = np.mean([member.predict_proba(X) for member in model], axis=0)
    np.testing.assert_allclose(model.predict_proba(X), expected)
    predicted = model.predict(X)
    assert sparse.issparse(predicted) == (convert is not np.asarray)
    assert ((predicted.toarray() if sparse.issparse(predicted) else predicted) == (expected > 0.5)).all()
    assert 0 <= model.oob_score_ <= 1


def test_columns_of_classes_are_refused():
    with pytest.raises(ValueError, match="2 columns of classes"):
        MLPEnsembleClassifier(**FEW).fit(X, np.column_stack([WORDS, WORDS]))


def test_targets_in_columns():
    Y = X[:, :2]
    model = MLPEnsembleRegressor(**FEW, n_estimators=3, bootstrap=True, oob_score=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.fit(X, Y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == model.oob_prediction_.shape == Y.shape
    with pytest.warns(DataConversionWarning):
        column = MLPEnsembleRegressor(**FEW).fit(X, X[:, :1])
    assert outputs(column) == outputs(MLPEnsembleRegressor(**FEW).fit(X, X[:, 0]))


@pytest.mark.parametrize("bootstrap", [False, True])
def test_weights_are_factors_of_the_losses(kind, bootstrap):
    sample_weight = np.random.default_rng(0).uniform(size=len(X))
    sample_weight[:5] = 0
    model = kind(**FEW, n_estimators=3, bootstrap=bootstrap).fit(X, targets(kind), sample_weight)
    for member, sample in zip(model.estimators_, model.estimators_samples_, strict=True):
        counts = np.bincount(sample, minlength=len(X))
        again = clone(member).fit(X, targets(kind), counts * sample_weight)
        assert outputs(again) == outputs(member)


def test_early_stopping_has_each_member_hold_back_rows_of_its_own(kind):
    model = kind(**FEW | {"max_iter": 20}, n_estimators=3, early_stopping=True).fit(X, targets(kind))
    assert len({tuple(member.validation_loss_curve_) for member in model.estimators_}) == 3


def test_float32_stays(kind):
    model = kind(**FEW, n_estimators=2).fit(X.astype(np.float32), targets(kind))
    assert {array.dtype for member in model.estimators_ for array in member.coefs_} == {np.dtype(np.float32)}


# --- as other libraries use it ----------------------------------------------------------------------------------------


def test_names_of_features(kind):
    frame = pandas.DataFrame(X, columns=["one", "two", "three", "four"])
    model = kind(**FEW, n_estimators=2).fit(frame, pandas.Series(targets(kind)))
    assert model.feature_names_in_.tolist() == list(frame)
    assert outputs(model, frame) == outputs(kind(**FEW, n_estimators=2).fit(X, targets(kind)))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"one": "two", "two": "one"}))


def test_pickles_clones_and_pictures(kind):
    model = kind(**FEW, n_estimators=2, alpha=0.5, bootstrap=True)
    assert model.set_params(alpha=0.25).get_params()["alpha"] == 0.25
    assert "alpha=0.25" in repr(model)
    model.fit(X, targets(kind))
    assert {member.alpha for member in model.estimators_} == {0.25}
    again = pickle.loads(pickle.dumps(model))
    assert outputs(again) == outputs(model)
    assert outputs(clone(model).fit(X, targets(kind))) == outputs(model)
    assert type(model).__name__ in model._repr_html_()
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_a_search_over_parameters_of_members(kind, n_jobs):
    search = GridSearchCV(kind(**FEW, n_estimators=2), {"alpha": [1e-4, 1.0], "n_estimators": [1, 2]}, cv=2, n_jobs=n_jobs)
    search.fit(X, LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_line_per_member(kind, capsys):
    kind(**FEW, n_estimators=2, verbose=1).fit(X, targets(kind))
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["Member 1 of 2", "Member 2 of 2"]


# --- warm starts, errors and interrupts -------------------------------------------------------------------------------


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_warm_start_adds_members(kind, bootstrap):
    at_once = kind(**FEW, n_estimators=5, bootstrap=bootstrap).fit(X, targets(kind))
    model = kind(**FEW, n_estimators=2, bootstrap=bootstrap, warm_start=True).fit(X, targets(kind))
    first = model.estimators_[0]
    model.set_params(n_estimators=5).fit(X, targets(kind))
    assert model.estimators_[0] is first
    assert outputs(model) == outputs(at_once)
    np.testing.assert_array_equal(model.estimators_samples_, at_once.estimators_samples_)
    with pytest.warns(UserWarning, match="trains no member"):
        model.fit(X, targets(kind))
    with pytest.raises(ValueError, match="n_estimators must be at least 5"):
        model.set_params(n_estimators=3).fit(X, targets(kind))
    with pytest.raises(ValueError, match="features"):
        model.set_params(n_estimators=6).fit(X[:, :2], targets(kind))
    other = np.where(WORDS == "a", "d", WORDS) if is_classifier(model) else X[:, :2]
    with pytest.raises(ValueError, match="as in the fit before|classes of the fit before"):
        model.fit(X, other)
    assert outputs(model) == outputs(at_once)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"oob_score": True}, "oob_score needs bootstrap=True"),
        ({"oob_score": True, "bootstrap": True, "warm_start": True}, "oob_score needs"),
        ({"n_estimators": 0}, "n_estimators"),
        ({"alpha": -1}, "alpha"),
        ({"verbose": "loud"}, "verbose"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be > 0"),
    ],
)
def test_errors_of_parameters(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**FEW | change).fit(X, targets(kind))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_members_warn_once(kind, n_jobs):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kind(**FEW, n_estimators=5, n_jobs=n_jobs, batch_size=1000).fit(X, targets(kind))
    assert sorted(one.category.__name__ for one in said) == ["ConvergenceWarning", "UserWarning"]
    assert {one.filename for one in said} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConvergenceWarning):
            kind(**FEW, n_estimators=5, n_jobs=n_jobs).fit(X, targets(kind))


def test_gaps_are_refused(kind):
    gap = X.copy()
    gap[3, 1] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        kind(**FEW).fit(gap, targets(kind))
    with pytest.raises(ValueError, match="y contains NaN"):
        kind(**FEW).fit(X, gap[:, 1])
    model = kind(**FEW, n_estimators=2).fit(X, targets(kind))
    with pytest.raises(ValueError, match="X contains NaN"):
        model.predict(gap)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_of_a_member_ends_the_fit(kind, n_jobs):
    model = kind(**FEW, n_estimators=3, n_jobs=n_jobs).fit(X, targets(kind))
    expected = model.predict(X)
    model.set_params(solver="sgd", learning_rate_init=1e200, max_iter=50)
    with pytest.raises(ValueError, match="non-finite"), np.errstate(all="ignore"):
        model.fit(X, targets(kind))
    np.testing.assert_array_equal(model.predict(X), expected)


def interrupted(model, y, begun):
    """Fit, with an interrupt from the keyboard a moment after something has begun; how long it took to end."""

    def interrupt():
        while not begun():
            time.sleep(0.005)
        time.sleep(0.05)
        moments.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    moments = []
    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.warns(UserWarning, match="interrupted by user: "):
        model.fit(X, y)
    sender.join()
    return time.monotonic() - moments[0]


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_interrupt_ends_all_members_soon(kind, n_jobs, solver, monkeypatch):
    """Those that are trained are kept, and a warm start makes the ensemble that it would have been."""
    Member, trained, begun, threads = KINDS[kind][0], 2, [], threading.active_count()
    fit = Member.fit

    def slow_after_two(self, X, y, sample_weight=None):
        begun.append(self)
        if len(begun) > trained:
            self.set_params(max_iter=10**9, max_fun=10**9, tol=0, n_iter_no_change=10**9, hidden_layer_sizes=500)
        return fit(self, X, y, sample_weight=sample_weight)

    model = kind(**FEW | {"solver": solver, "max_iter": 5}, n_estimators=6, n_jobs=n_jobs)
    monkeypatch.setattr(Member, "fit", slow_after_two)
    minimize = scipy.optimize.minimize

    def endless(function, start, options, **arguments):
        while options["maxfun"] == 10**9:
            function(start)
        return minimize(function, start, options=options, **arguments)

    monkeypatch.setattr(scipy.optimize, "minimize", endless)
    seconds = interrupted(model, targets(kind), lambda: len(begun) > trained)
    monkeypatch.undo()
    assert seconds < 5
    assert threading.active_count() == threads
    assert len(begun) <= trained + n_jobs
    assert all("_stop" not in vars(member) for member in begun)
    assert len(model.estimators_) == len(model.estimators_samples_) == trained
    model.set_params(warm_start=True).fit(X, targets(kind))
    assert outputs(model) == outputs(clone(model).fit(X, targets(kind)))


def test_an_interrupt_of_the_first_members_keeps_what_they_have(kind):
    endless = {"max_iter": 10**9, "tol": 0, "n_iter_no_change": 10**9, "hidden_layer_sizes": 50, "verbose": 0}
    model = kind(n_estimators=4, n_jobs=2, random_state=0, **endless)
    fit, begun = KINDS[kind][0]._draw_dropout_seed, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KINDS[kind][0], "_draw_dropout_seed", lambda self, rng: begun.append(self) or fit(self, rng))
        seconds = interrupted(model, targets(kind), lambda: len(begun) == 2)
    assert seconds < 5
    assert model.estimators_ in (begun, begun[::-1])
    assert min(member.n_iter_ for member in begun) > 0
    assert np.isfinite(model.predict_proba(X) if is_classifier(model) else model.predict(X)).all()


def test_two_fits_at_a_time_leave_warnings_as_they_were():
    def state():
        return warnings.showwarning, warnings._showwarnmsg_impl, warnings.filters

    def fit(max_iter):
        MLPEnsembleClassifier(8, n_estimators=3, max_iter=max_iter, random_state=0, tol=0).fit(X, LABELS)

    before, threads = state(), [threading.Thread(target=fit, args=(max_iter,)) for max_iter in (30, 90)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert all(one is other for one, other in zip(before, state(), strict=True))
