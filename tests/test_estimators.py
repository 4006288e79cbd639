"""MLPClassifier and MLPRegressor beside those of scikit-learn: parameters, attributes, printed lines, warnings, errors."""

import inspect
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas
import pytest
import sklearn
from scipy import sparse
from sklearn import neural_network
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastbp
from fastbp import MLPClassifier, MLPRegressor

CLASSES = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
# how many parameters of scikit-learn 1.7 they have to take
PARAMETERS = {"MLPClassifier": 23, "MLPRegressor": 24}

X, LABELS = load_iris(return_X_y=True)
X, LABELS = X[::5], LABELS[::5]
TARGETS = {"MLPClassifier": LABELS, "MLPRegressor": X[:, 0]}


def both(name):
    """Ours and scikit-learn's class of a name."""
    return CLASSES[name], getattr(neural_network, name)


# --- what scikit-learn checks of every estimator ----------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
# epochs as in scikit-learn's own run of these checks
@parametrize_with_checks([MLPClassifier(max_iter=100), MLPRegressor(max_iter=100)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_public_names():
    assert {"MLPClassifier", "MLPRegressor"} <= set(fastbp.__all__)
    assert is_classifier(MLPClassifier())
    assert is_regressor(MLPRegressor())


@pytest.mark.parametrize("name", CLASSES)
def test_signature(name):
    ours, theirs = (list(inspect.signature(estimator).parameters.values()) for estimator in both(name))
    assert len(theirs) >= PARAMETERS[name]
    assert [str(parameter) for parameter in ours[: len(theirs)]] == [str(parameter) for parameter in theirs]
    assert [parameter.kind for parameter in ours[: len(theirs)]] == [parameter.kind for parameter in theirs]
    assert {parameter.kind for parameter in ours[len(theirs) :]} <= {inspect.Parameter.KEYWORD_ONLY}
    assert all(parameter.default is not inspect.Parameter.empty for parameter in ours)


@pytest.mark.parametrize("name", CLASSES)
def test_methods_have_the_same_signatures(name):
    ours, theirs = both(name)
    methods = [method for method in dir(theirs) if not method.startswith("_") and callable(getattr(theirs, method))]
    assert {"fit", "partial_fit", "predict", "score", "set_fit_request"} <= set(methods)
    for method in methods:
        if method.startswith("set_") and method.endswith("_request"):
            assert hasattr(ours, method)
            continue
        parameters, expected = (
            list(inspect.signature(getattr(estimator, method)).parameters.values()) for estimator in (ours, theirs)
        )
        expected = [(parameter.name, parameter.default, parameter.kind) for parameter in expected]
        further = parameters[len(expected) :]
        parameters = [(parameter.name, parameter.default, parameter.kind) for parameter in parameters[: len(expected)]]
        assert parameters == expected, method
        assert {parameter.kind for parameter in further} <= {inspect.Parameter.KEYWORD_ONLY}, method


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_are_kept_as_given(name):
    ours, theirs = both(name)
    assert repr(ours(alpha=0.5, hidden_layer_sizes=(3, 2))) == repr(theirs(alpha=0.5, hidden_layer_sizes=(3, 2)))
    for parameter, default in theirs().get_params().items():
        value = object()
        assert getattr(ours(**{parameter: value}), parameter) is value
        assert ours().get_params()[parameter] == default
    estimator = ours(random_state=np.random.RandomState(0), hidden_layer_sizes=[3, 2], solver="sgd")
    assert clone(estimator).get_params().keys() == estimator.get_params().keys()
    assert estimator.set_params(alpha=3).alpha == 3
    assert hasattr(estimator, "partial_fit")
    # lbfgs has no single epochs, which scikit-learn's regressor fails to say
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize("name", CLASSES)
def test_tags(name):
    ours, theirs = (estimator().__sklearn_tags__() for estimator in both(name))
    for tag in ("estimator_type", "target_tags", "classifier_tags", "regressor_tags", "input_tags", "requires_fit"):
        assert getattr(ours, tag) == getattr(theirs, tag)


# --- attributes and printed lines -------------------------------------------------------------------------------------

SOLVERS = {
    "sgd": {"solver": "sgd"},
    "adam": {"solver": "adam"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_attributes(solver, name):
    """The same public names, and values of the same types."""
    options = SOLVERS[solver] | {"max_iter": 2, "hidden_layer_sizes": 3, "random_state": 0}
    ours, theirs = (estimator(**options).fit(X, TARGETS[name]) for estimator in both(name))
    public = [attribute for attribute in vars(theirs) if not attribute.startswith("_")]
    for attribute in set(public) - theirs.get_params().keys():
        one, other = getattr(ours, attribute), getattr(theirs, attribute)
        kind = next((kind for kind in (bool, int, float, str, list, np.ndarray) if isinstance(other, kind)), type(None))
        assert isinstance(one, kind), attribute
        if kind is list:
            assert len(one) == len(other), attribute
            kind = float if isinstance(other[0], float) else np.ndarray
            assert all(isinstance(value, kind) for value in one), attribute
        if kind in (int, str):
            assert one == other, attribute
    assert [(array.shape, array.dtype) for array in ours.coefs_ + ours.intercepts_] == [
        (array.shape, array.dtype) for array in theirs.coefs_ + theirs.intercepts_
    ]


def series(values, dtype):
    return pandas.Series(values, dtype=dtype, index=range(5, 35))


WORDS = np.array(["one", "two", "three"])[LABELS]
LABELS_OF_MANY_KINDS = {
    "booleans": LABELS == 1,
    "a list of booleans": (LABELS == 1).tolist(),
    "a list of words": WORDS.tolist(),
    "objects": WORDS.astype(object),
    "bytes": WORDS.astype(bytes),
    "int8": LABELS.astype("int8"),
    "uint64": LABELS.astype("uint64"),
    "whole floats": LABELS - 1.0,
    "large integers": LABELS * 2**62,
    "a series of integers": series(LABELS, "int64"),
    "a series of words": series(WORDS, "str"),
    "a series of categories": series(WORDS, "category"),
    "indicators in a list": np.eye(3, dtype=int)[LABELS].tolist(),
    "indicators of floats": np.eye(3)[LABELS],
    "sparse indicators": sparse.csr_array(np.eye(3, dtype=int)[LABELS]),
    "one indicator": (LABELS == 1)[:, None] * 1,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("kind", LABELS_OF_MANY_KINDS)
def test_labels(kind):
    """The same classes come back, of the same type."""
    y = LABELS_OF_MANY_KINDS[kind]
    classifiers = []
    for estimator in both("MLPClassifier"):
        classifier = estimator(hidden_layer_sizes=3, max_iter=1, random_state=0)
        classifiers.append((*outcome(classifier, lambda est: est.fit(X, y).score(X, y)), classifier))
    (warned, raised, ours), (*expected, theirs) = classifiers
    assert [warned, raised] == expected
    if raised is None:
        np.testing.assert_array_equal(ours.classes_, theirs.classes_, strict=True)
        predicted = [est.predict(X) for est in (ours, theirs)]
        if sparse.issparse(y):
            assert [sparse.issparse(labels) for labels in predicted] == [True, True]
            predicted = [labels.toarray() for labels in predicted]
        np.testing.assert_array_equal(*predicted, strict=True)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-7)


VERBOSE = {
    "converging": {"solver": "sgd", "tol": 1.0, "n_iter_no_change": 2},
    "adaptive": {"solver": "sgd", "tol": 1.0, "n_iter_no_change": 1, "learning_rate": "adaptive", "max_iter": 30},
    "scores": {"solver": "adam", "early_stopping": True, "tol": 0.5, "n_iter_no_change": 2},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("case", VERBOSE)
def test_verbose(case, name, capsys):
    """The same lines, numbers to six of their eight decimals."""
    printed = []
    for estimator in both(name):
        estimator(hidden_layer_sizes=3, random_state=0, verbose=True, **VERBOSE[case]).fit(X, TARGETS[name])
        printed.append(re.sub(r"(\d\.\d{6})\d\d", r"\1", capsys.readouterr().out).splitlines())
    assert printed[0] == printed[1]
    assert printed[0][0].startswith("Iteration 1, loss = ")
    assert "Stopping." in printed[0][-1]


# --- wrong uses -------------------------------------------------------------------------------------------------------

BAD_PARAMETERS = {
    "hidden_layer_sizes": [0, -1, (3, 0), [3, -2], None, 2.5],
    "solver": ["momentum", 1],
    "alpha": [-1, "0", None],
    "batch_size": [0, 1.5, "all"],
    "learning_rate": ["fast", 0.1],
    "learning_rate_init": [0, -1, "1"],
    "power_t": [-1, None],
    "max_iter": [0, 1.5, np.inf],
    "shuffle": ["yes", 2],
    "random_state": ["seed", -1, 0.5],
    "tol": [-1, None],
    "verbose": [-1, "yes"],
    "warm_start": ["yes", None],
    "momentum": [-0.1, 1.1, "0"],
    "nesterovs_momentum": ["yes", None],
    "early_stopping": ["yes", None],
    "validation_fraction": [-0.1, 1, None],
    "beta_1": [1, -0.1],
    "beta_2": [1, -0.1],
    "epsilon": [0, -1, None],
    "n_iter_no_change": [0, 1.5, None],
    "max_fun": [0, 1.5, None],
}
# where ours know more words, and list them
MORE_WORDS = {
    "activation": ("MLPClassifier", ["softmax", None, 1]),
    "loss": ("MLPRegressor", ["log_loss", None, 1]),
}


def target(estimator):
    return TARGETS[type(estimator).__name__]


def fit(estimator, X=X, y=None, **kwargs):
    return estimator.fit(X, target(estimator) if y is None else y, **kwargs)


def fitted(estimator, X=X):
    """After one epoch, without a warning that it was only one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(estimator, X)


def partial_fit(estimator, X=X, y=None):
    classes = {"classes": np.unique(LABELS)} if is_classifier(estimator) else {}
    return estimator.partial_fit(X, target(estimator) if y is None else y, **classes)


def fit_unchecked(estimator, X):
    with sklearn.config_context(assume_finite=True):
        return fit(estimator, X)


def with_value(value):
    """X, one number of which is something else."""
    other = X.copy()
    other[3, 2] = value
    return other


def frame(columns):
    return pandas.DataFrame(X, columns=list(columns))


# what is done with an estimator that has three hidden units and trains for one epoch
WRONG_USES = {
    "no rows": lambda est: fit(est, X[:0], LABELS[:0]),
    "no columns": lambda est: fit(est, X[:, :0]),
    "one dimension": lambda est: fit(est, X[0]),
    "three dimensions": lambda est: fit(est, X[None]),
    "no target": lambda est: est.fit(X, None),
    "NaN": lambda est: fit(est, with_value(np.nan)),
    "infinity": lambda est: fit(est, with_value(np.inf)),
    "text": lambda est: fit(est, X.astype(str).astype(object) + "?"),
    "complex numbers": lambda est: fit(est, X * 1j),
    "NaN in a sparse matrix": lambda est: fit(est, sparse.csr_array(with_value(np.nan))),
    "too few targets": lambda est: fit(est, X, LABELS[:-1]),
    "NaN as a target": lambda est: fit(est, X, np.where(LABELS == 1, np.nan, X[:, 0])),
    "text and numbers as targets": lambda est: fit(est, X, np.array(["a", "b", 3.0] * 10, dtype=object)),
    "a column as the target": lambda est: fit(est, X, LABELS[:, None]),
    "too few sample weights": lambda est: fit(est, sample_weight=np.ones(3)),
    "NaN as a sample weight": lambda est: fit(est, sample_weight=np.where(LABELS, np.nan, 1)),
    "sample weights of two dimensions": lambda est: fit(est, sample_weight=np.ones((len(X), 2))),
    "text as sample weights": lambda est: fit(est, sample_weight=np.array(["a"] * len(X))),
    "no weight at all": lambda est: fit(est, sample_weight=np.zeros(len(X))),
    "a batch of more than all rows": lambda est: fit(est.set_params(batch_size=1000)),
    "few epochs of sgd": lambda est: fit(est.set_params(solver="sgd")),
    "few epochs of adam": lambda est: fit(est.set_params(solver="adam")),
    "few iterations of lbfgs": lambda est: fit(est.set_params(solver="lbfgs")),
    "few evaluations of lbfgs": lambda est: fit(est.set_params(solver="lbfgs", max_iter=100, max_fun=1)),
    "diverging": lambda est: fit(est.set_params(max_iter=20, solver="sgd", activation="identity"), X * 1e300),
    "a small validation set": lambda est: fit(est.set_params(early_stopping=True, validation_fraction=0.01)),
    "no validation set": lambda est: fit(est.set_params(early_stopping=True, validation_fraction=0)),
    "predict before fit": lambda est: est.predict(X),
    "score before fit": lambda est: est.score(X, target(est)),
    "predict other columns": lambda est: fitted(est).predict(X[:, :2]),
    "predict NaN": lambda est: fitted(est).predict(with_value(np.nan)),
    "predict one row": lambda est: fitted(est).predict(X[0]),
    "predict no rows": lambda est: fitted(est).predict(X[:0]),
    "score too few targets": lambda est: fitted(est).score(X, LABELS[:-1]),
    "predict columns without names": lambda est: fitted(est, frame("abcd")).predict(X),
    "predict columns of other names": lambda est: fitted(est, frame("abcd")).predict(frame("abce")),
    "predict columns in another order": lambda est: fitted(est, frame("abcd")).predict(frame("bacd")),
    "warm start with other columns": lambda est: fit(fitted(est.set_params(warm_start=True)), X[:, :2]),
    "NaN where nobody looks": lambda est: fit_unchecked(est.set_params(solver="sgd"), with_value(np.nan)),
    "partial_fit of other columns": lambda est: partial_fit(partial_fit(est), X[:, :2]),
    "partial_fit of NaN": lambda est: partial_fit(est, with_value(np.nan)),
    "partial_fit with early stopping": lambda est: partial_fit(est.set_params(early_stopping=True)),
    "partial_fit with a wrong parameter": lambda est: partial_fit(est.set_params(alpha=-1)),
}
WRONG_USES_OF_A_CLASSIFIER = {
    "values as classes": lambda est: fit(est, X, X[:, 0]),
    "a class of one row": lambda est: fit(est.set_params(early_stopping=True), X[:11], LABELS[:11]),
    "predict_proba before fit": lambda est: est.predict_proba(X),
    "predict_log_proba before fit": lambda est: est.predict_log_proba(X),
    "predict_proba of other columns": lambda est: fitted(est).predict_proba(X[:, :2]),
    "warm start with other classes": lambda est: fit(fitted(est.set_params(warm_start=True)), X, LABELS + 1),
    "partial_fit of new classes": lambda est: partial_fit(est, X, LABELS + 1),
    "partial_fit without classes": lambda est: est.partial_fit(X, LABELS),
    "partial_fit with other classes": lambda est: partial_fit(est).partial_fit(X, LABELS, classes=[0, 1]),
    "partial_fit of lbfgs": lambda est: partial_fit(est.set_params(solver="lbfgs")),
}
WRONG_USES_OF = {
    "MLPClassifier": WRONG_USES | WRONG_USES_OF_A_CLASSIFIER,
    "MLPRegressor": WRONG_USES | {"no probabilities of values": lambda est: est.predict_proba(X)},
}


def outcome(estimator, use):
    """What a use of an estimator warns of and raises."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            use(estimator)
            raised = None
        except Exception as error:  # whatever it is, it has to be the same
            # scikit-learn keeps the words of a choice in a set, which has no order
            words = re.sub(r"\{(.*?)\}", lambda match: str(sorted(match[1].split(", "))), str(error))
            raised = type(error), words
    # numpy's remarks on how a number came to be infinite are no part of what scikit-learn says
    return [(w.category, str(w.message)) for w in warned if w.category is not RuntimeWarning], raised


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("parameter", BAD_PARAMETERS)
def test_bad_parameters(parameter, name):
    for value in BAD_PARAMETERS[parameter]:
        ours, theirs = (outcome(estimator(**{parameter: value}), fit) for estimator in both(name))
        assert ours == theirs, f"{parameter}={value!r}"
        assert ours[1] is not None, f"{parameter}={value!r}"


@pytest.mark.parametrize("parameter", MORE_WORDS)
def test_bad_words(parameter):
    name, values = MORE_WORDS[parameter]
    for value in values:
        for estimator in both(name):
            (warned, raised) = outcome(estimator(**{parameter: value}), fit)
            assert (warned, raised[0]) == ([], InvalidParameterError)
            assert raised[1].startswith(f"The {parameter!r} parameter of {name} must be a str among ")
            assert raised[1].endswith(f"Got {value!r} instead.")


@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in CLASSES for wrong in WRONG_USES_OF[name]])
def test_wrong_uses(name, wrong):
    """The same warnings and errors in the same words."""
    options = {"hidden_layer_sizes": 3, "max_iter": 1, "random_state": 0}
    ours, theirs = (outcome(estimator(**options), WRONG_USES_OF[name][wrong]) for estimator in both(name))
    if wrong == "no weight at all" and theirs[1][0] is ZeroDivisionError:
        pytest.skip("scikit-learn before 1.9 divides by the sum of the weights")
    assert ours == theirs
    assert theirs != ([], None), "not wrong"


OUR_ERRORS = {
    "an alpha beyond floats": (
        lambda est: fit(est.set_params(alpha=10**400)),
        "alpha must be numbers that a float can hold",
    ),
    "a tol beyond floats": (lambda est: fit(est.set_params(tol=10**400)), "tol must be numbers that a float can hold"),
    "a layer beyond integers": (
        lambda est: fit(est.set_params(hidden_layer_sizes=10**400)),
        "hidden_layer_sizes must be > 0",
    ),
    "rows beyond floats": (lambda est: fit(est, [[10**400] * 4] * 30), "X, y and the weights .* float can hold"),
    "rows to predict beyond floats": (lambda est: fitted(est).predict([[10**400] * 4]), "X must be numbers that a float"),
    "weights beyond floats": (lambda est: fit(est, sample_weight=[10**400] * 30), "X, y and the weights .* float can hold"),
    **{
        f"weights of {weight:g}": (
            lambda est, weight=weight: fit(est, sample_weight=np.full(30, weight)),
            "sample_weight must have a sum from",
        )
        for weight in (-1.0, 1e308, 1e-320)
    },
    "weights of sum 0": (
        lambda est: fit(est, sample_weight=np.tile([1.0, -1.0], 15)),
        "sample_weight must have a sum .* got 0",
    ),
    "weights too large for float32": (
        lambda est: fit(est, X.astype("f4"), sample_weight=np.full(30, 1e39)),
        "sample_weight must have a sum from 1e-31 to 1e.31, got inf",
    ),
    "no weight among those held back": (
        lambda est: fit(est.set_params(early_stopping=True, shuffle=False), sample_weight=np.arange(30) == 7),
        "weights of the rows that early stopping .* must have a sum",
    ),
    "warm start with other layers": (
        lambda est: fit(fitted(est.set_params(warm_start=True)).set_params(hidden_layer_sizes=(5, 2))),
        r"hidden_layer_sizes must be \[3\], as in the fit before, .*, got \[5, 2\]",
    ),
    "partial_fit with other layers": (
        lambda est: partial_fit(partial_fit(est).set_params(hidden_layer_sizes=4)),
        r"hidden_layer_sizes must be \[3\], as in the fit before, .*, got \[4\]",
    ),
    "validation rows for lbfgs": (
        lambda est: fit(est.set_params(solver="lbfgs"), X_val=X, y_val=target(est)),
        "X_val and y_val must be left out for solver 'lbfgs'",
    ),
    **{
        f"{attribute}[{place}] of shape {shape}": (
            lambda est, attribute=attribute, place=place, shape=shape: assigned(est, attribute, place, shape).predict(X),
            r"coefs_\[\d\] and intercepts_\[\d\] must be arrays of shapes \(\d, n\) and \(n,\), got \(",
        )
        for attribute, place, shape in [
            ("coefs_", 0, (4, 300)),
            ("coefs_", 0, (1, 3)),
            ("coefs_", 0, (3,)),
            ("coefs_", 1, (300, 1)),
            ("coefs_", 1, ()),
            ("intercepts_", 0, (1,)),
            ("intercepts_", 0, (3, 1)),
            ("intercepts_", 1, (77,)),
            ("intercepts_", 1, ()),
        ]
    },
    "lists": (
        lambda est: vars(fitted(est)).update(coefs_=[[[1.0] * 3] * 4, [[1.0]] * 3]) or est.predict(X),
        r"coefs_\[0\] and intercepts_\[0\] must be arrays of shapes",
    ),
    "a layer less": (lambda est: fewer(est).predict(X), "coefs_ and intercepts_ must be as many, got 1 and 2"),
    "more outputs": (
        lambda est: with_outputs(est, 9).predict(X),
        "coefs_.* must have a column for each of . outputs, got 9",
    ),
    "more outputs for a score": (lambda est: with_outputs(est, 9).score(X, target(est)), "coefs_.* must have a column"),
    "more outputs for a warm start": (
        lambda est: fit(with_outputs(est.set_params(warm_start=True), 9)),
        "coefs_.* must have a column",
    ),
    "more outputs for partial_fit": (
        lambda est: with_outputs(est, 9).partial_fit(X, target(est)),
        "coefs_.* must have a column",
    ),
}
OUR_ERRORS_OF_A_CLASSIFIER = {
    "class weights of sum 0": (
        lambda est: fit(est.set_params(class_weight={0: 0.0, 1: 0.0, 2: 0.0})),
        "the rows' class_weight must have a sum .* got 0",
    ),
    "negative class weights": (
        lambda est: fit(est.set_params(class_weight={0: -1.0}), sample_weight=LABELS == 0),
        "sample_weight times the rows' class_weight must have a sum .* got -",
    ),
    "huge class weights": (
        lambda est: fit(est.set_params(class_weight={1: 1e308})),
        "the rows' class_weight must have a sum",
    ),
    "class weights beyond floats": (
        lambda est: fit(est.set_params(class_weight={1: 10**400})),
        "X, y and the weights .* float can hold",
    ),
    "indicators after labels": (
        lambda est: fitted(est).partial_fit(X, np.eye(3, dtype=int)[LABELS]),
        r"y must be a class label for each row, as in the fit before, got shape \(30, 3\)",
    ),
    "indicators after two labels": (
        lambda est: fit(est, X, LABELS > 0).partial_fit(X, np.eye(2, dtype=int)[(LABELS > 0) * 1]),
        r"y must be a class label for each row, as in the fit before, got shape \(30, 2\)",
    ),
    "indicators after labels, warm start": (
        lambda est: fit(fitted(est.set_params(warm_start=True)), X, np.eye(3, dtype=int)[LABELS]),
        "y must be a class label for each row",
    ),
    "indicators for validation": (
        lambda est: fit(est, X_val=X, y_val=np.eye(3, dtype=int)[LABELS]),
        "y_val must be a class label for each row",
    ),
    "classes for validation that are no others": (
        lambda est: fit(est, X_val=X, y_val=LABELS + 1),
        "`y_val` has classes not in",
    ),
    "fewer indicators": (
        lambda est: fit(est, X, np.eye(3, dtype=int)[LABELS]).partial_fit(X, np.eye(3, dtype=int)[LABELS][:, :2]),
        r"y must have 3 columns, as in the fit before, got shape \(30, 2\)",
    ),
    "fewer columns of classes": (
        lambda est: fit(est, X, np.c_[LABELS, LABELS]).partial_fit(X, LABELS),
        r"y must have 2 columns, as in the fit before, got shape \(30,\)",
    ),
    "other columns of classes": (
        lambda est: fit(est, X, np.c_[LABELS, LABELS]).partial_fit(
            X, np.c_[LABELS, LABELS], classes=[[0, 1, 2, 3], [0, 1, 2]]
        ),
        "classes must be the same as before",
    ),
    "columns of classes after labels": (
        lambda est: fitted(est).partial_fit(X, np.c_[LABELS, LABELS], classes=[[0, 1, 2], [0, 1, 2]]),
        "classes must be the same as before",
    ),
}
TWO_VALUES = np.c_[X[:, 0], X[:, 1]]
OUR_ERRORS_OF_A_REGRESSOR = {
    **{
        f"{after} columns after {before}, {how}": (
            lambda est, before=before, after=after, how=how: go_on(est, np.ones((30, before)), np.ones((30, after)), how),
            rf"y must stand for {before} output\(s\), as in the fit before, got {after}",
        )
        for before, after in ((2, 1), (1, 2), (40, 1), (40, 39), (3, 40))
        for how in ("partial_fit", "warm_start", "loaded")
    },
    "fewer columns for validation": (
        lambda est: fit(est, X, TWO_VALUES, X_val=X, y_val=X[:, 0]),
        "y_val must have as many columns as y, 2, got 1",
    ),
}


def assigned(est, attribute, place, shape):
    """A fitted estimator, one array of which is another."""
    getattr(fitted(est), attribute)[place] = np.ones(shape)
    return est


def fewer(est):
    del fitted(est).coefs_[0]
    return est


def with_outputs(est, n):
    """A fitted estimator whose last layer fits the one below, and has n units."""
    fitted(est).coefs_[-1], est.intercepts_[-1] = np.ones((3, n)), np.ones(n)
    return est


def go_on(est, before, after, how):
    """Fit one y, then go on with another."""
    before, after = (y.ravel() if y.shape[1] == 1 else y for y in (before, after))
    if how == "warm_start":
        return fit(fit(est.set_params(warm_start=True), X, before), X, after)
    est = fit(est, X, before)
    if how == "loaded":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.npz")
            fastbp.save(path, est)
            est = fastbp.load(path)
    return est.partial_fit(X, after)


OUR_ERRORS_OF = {
    "MLPClassifier": OUR_ERRORS | OUR_ERRORS_OF_A_CLASSIFIER,
    "MLPRegressor": OUR_ERRORS | OUR_ERRORS_OF_A_REGRESSOR,
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("name", "wrong"), [(name, wrong) for name in CLASSES for wrong in OUR_ERRORS_OF[name]])
def test_errors_name_the_argument(name, wrong):
    """What scikit-learn fails at with an error of numpy's, or goes on with."""
    use, message = OUR_ERRORS_OF[name][wrong]
    with pytest.raises(ValueError, match=f"^{message}"):
        use(CLASSES[name](hidden_layer_sizes=3, max_iter=1, random_state=0))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_validation_rows_may_lack_a_class_after_a_warm_start():
    est = MLPClassifier(3, max_iter=2, random_state=0, warm_start=True)
    for _ in range(2):
        est.fit(X, LABELS, X_val=X[LABELS != 1], y_val=LABELS[LABELS != 1])
    assert len(est.validation_loss_curve_) == 4
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        est.fit(X[LABELS != 1], LABELS[LABELS != 1])


def test_a_warm_start_after_a_failed_fit_is_a_first_one():
    est = MLPClassifier(3, max_iter=1, random_state=0, warm_start=True)
    with pytest.raises(ValueError, match="y_val"):
        est.fit(X, LABELS, X_val=X, y_val=LABELS + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(est.fit(X, LABELS > 0).classes_) == [False, True]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [np.float16, np.longdouble, int, object])
def test_assigned_coefficients_of_other_kinds(kind, dtype):
    """They are taken as numbers of the type of X, or as float64."""
    est = fitted(MLPRegressor(hidden_layer_sizes=3, max_iter=1, random_state=0))
    est.coefs_ = [np.round(W * 4) for W in est.coefs_]
    expected = est.predict(X.astype(dtype))
    est.coefs_ = [W.astype(kind) for W in est.coefs_]
    found = est.predict(X.astype(dtype))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("hidden", [(3,), (3, 2)])
def test_a_list_of_one_activation_draws_what_the_word_does(hidden, name):
    for word in ("logistic", "tanh"):
        one, other = (
            fitted(CLASSES[name](hidden_layer_sizes=hidden, activation=activation, max_iter=1, random_state=0))
            for activation in (word, [word] * len(hidden))
        )
        for array, expected in zip(other.coefs_, one.coefs_, strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_clipping_and_dropout_leave_lbfgs_alone():
    options = {"hidden_layer_sizes": 3, "solver": "lbfgs", "max_iter": 20, "random_state": 0}
    plain = fit(MLPRegressor(**options))
    other = fit(MLPRegressor(**options, max_norm=1e-5, dropout=0.5))
    assert other.n_iter_ == plain.n_iter_ > 1
    np.testing.assert_array_equal(other.coefs_[0], plain.coefs_[0])


@pytest.mark.parametrize("name", CLASSES)
def test_a_failed_fit_leaves_what_was_fitted(name):
    """As scikit-learn does where it refuses data before it looks at anything else."""
    estimator = fitted(CLASSES[name](hidden_layer_sizes=3, max_iter=1))
    before = [array.copy() for array in estimator.coefs_ + estimator.intercepts_]
    with pytest.raises(ValueError, match="NaN"):
        fit(estimator, with_value(np.nan))
    for one, other in zip(before, estimator.coefs_ + estimator.intercepts_, strict=True):
        np.testing.assert_array_equal(one, other)
