import importlib
import os
import pickle
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import sklearn.neural_network
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPClassifier as TheirClassifier
from sklearn.neural_network import MLPRegressor as TheirRegressor

import fastbp
from fastbp import MLPClassifier, MLPRegressor, cli, from_sklearn, to_sklearn

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 3))
VALUES = X[:, 0] - X[:, 1] ** 2
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
INDICATORS = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
COLUMNS = np.column_stack([LABELS, LABELS % 2 + 5])

# a sum of some ten products of numbers near 1, and an activation within a few units in the last place
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}

CASES = {
    "multiclass": (TheirClassifier, LABELS, {}),
    "binary": (TheirClassifier, LABELS > 0, {"activation": "logistic"}),
    "one class": (TheirClassifier, np.full(80, "only"), {}),
    "text": (TheirClassifier, np.array(["x", "y", "z"], object)[LABELS], {"activation": "tanh"}),
    "multilabel": (TheirClassifier, INDICATORS, {"hidden_layer_sizes": (5, 4)}),
    "sgd": (TheirClassifier, LABELS, {"solver": "sgd", "learning_rate": "invscaling"}),
    "lbfgs": (TheirClassifier, LABELS, {"solver": "lbfgs"}),
    "early stopping": (TheirClassifier, LABELS, {"early_stopping": True}),
    "values": (TheirRegressor, VALUES, {"activation": "identity"}),
    "two values": (TheirRegressor, np.column_stack([VALUES, -VALUES]), {"hidden_layer_sizes": ()}),
    "poisson": (TheirRegressor, np.exp(VALUES), {"loss": "poisson"}),
    "momentum": (TheirRegressor, VALUES, {"solver": "sgd", "nesterovs_momentum": False}),
    "plain": (TheirRegressor, VALUES, {"solver": "sgd", "momentum": 0.0, "learning_rate": "adaptive"}),
}
GOING_ON = [name for name, (*_, parameters) in CASES.items() if "early_stopping" not in parameters and name != "lbfgs"]


def quietly(method, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return method(*arguments)


def fitted(kind, y, X=X, **parameters):
    settings = {"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0, "batch_size": 16} | parameters
    return quietly(kind(**settings).fit, X, y)


def their(name, dtype="float64"):
    kind, y, parameters = CASES[name]
    return fitted(kind, y, X.astype(dtype), **parameters)


def our(name, **more):
    kind, y, parameters = CASES[name]
    return fitted(MLPClassifier if kind is TheirClassifier else MLPRegressor, y, **parameters, **more)


def same_predictions(ours, other, dtype="float64"):
    rows = X.astype(dtype)
    how = "predict_proba" if hasattr(ours, "predict_proba") else "predict"
    found, expected = getattr(ours, how)(rows), getattr(other, how)(rows)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if how == "predict_proba":
        np.testing.assert_array_equal(ours.predict(rows), other.predict(rows), strict=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_their_models_become_ours(name, dtype):
    theirs = their(name, dtype)
    ours = from_sklearn(theirs)
    assert type(ours) is getattr(fastbp, type(theirs).__name__)
    same_predictions(ours, theirs, dtype)
    assert theirs.get_params().items() <= ours.get_params().items()
    for attribute in ("loss_", "n_iter_", "t_", "best_loss_", "loss_curve_", "validation_scores_"):
        assert getattr(ours, attribute, "none") == getattr(theirs, attribute, "none")
    assert not np.shares_memory(ours.coefs_[0], theirs.coefs_[0])


@pytest.mark.draw(3)
@pytest.mark.parametrize("name", CASES)
def test_our_models_become_theirs(name):
    ours = our(name)
    theirs = to_sklearn(ours)
    assert type(theirs) is CASES[name][0]
    same_predictions(ours, theirs)
    assert theirs.get_params().items() <= ours.get_params().items()
    assert theirs.n_layers_ == ours.n_layers_
    assert not np.shares_memory(ours.coefs_[0], theirs.coefs_[0])


@pytest.mark.parametrize("before", ["sgd", "plain", "adam"])
@pytest.mark.parametrize("after", ["sgd", "plain", "adam", "lbfgs"])
def test_a_solver_that_is_set_after_the_fit(before, after):
    """Another solver begins anew, in either package, with the same numbers; the step length that is set is taken."""
    momentum = {"sgd": 0.9, "plain": 0.0}
    options = {"solver": "sgd", "momentum": momentum[before]} if before in momentum else {"solver": before}
    ours = fitted(MLPRegressor, VALUES, **options)
    back = from_sklearn(to_sklearn(ours))
    options = {"solver": "sgd", "momentum": momentum[after]} if after in momentum else {"solver": after}
    for est in (ours, back):
        est.set_params(**options, learning_rate_init=0.01)
        assert est._optimizer.learning_rate > 0
    theirs = to_sklearn(ours)
    same_predictions(ours, theirs)
    if after != "lbfgs":
        for est in (ours, back, theirs):
            est.partial_fit(X, VALUES)
        assert theirs._optimizer.learning_rate == pytest.approx(ours._optimizer.learning_rate, rel=1e-12)
    same_predictions(ours, theirs)
    same_predictions(ours, back)


@pytest.mark.draw(3)
@pytest.mark.parametrize("name", GOING_ON)
@pytest.mark.parametrize("to_theirs", [False, True])
def test_training_goes_on(name, to_theirs):
    one = our(name) if to_theirs else their(name)
    other = to_sklearn(one) if to_theirs else from_sklearn(one)
    for _ in range(3):
        one.partial_fit(X, CASES[name][1])
        other.partial_fit(X, CASES[name][1])
    for ours, theirs in zip(one.coefs_ + one.intercepts_, other.coefs_ + other.intercepts_, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    assert one.loss_curve_ == pytest.approx(other.loss_curve_, rel=1e-9)
    assert (one.t_, one.n_iter_, len(one.loss_curve_)) == (other.t_, other.n_iter_, len(other.loss_curve_))


@pytest.mark.parametrize("name", CASES)
def test_there_and_back_is_where_it_was(name):
    theirs = their(name)
    again = to_sklearn(from_sklearn(theirs))
    if name in GOING_ON:
        theirs.partial_fit(X, CASES[name][1])
        again.partial_fit(X, CASES[name][1])
    np.testing.assert_array_equal(again.predict(X), theirs.predict(X), strict=True)
    for ours, other in zip(again.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_array_equal(ours, other, strict=True)
    assert vars(again).keys() >= vars(theirs).keys() - {"_random_state", "_coef_indptr", "_intercept_indptr"}


@pytest.mark.parametrize("name", CASES)
def test_what_comes_from_scikit_learn_can_be_saved(tmp_path, name):
    ours = from_sklearn(their(name))
    ours.save(tmp_path / "model.npz")
    again = fastbp.load(tmp_path / "model.npz")
    assert again.get_params() == ours.get_params()
    if name in GOING_ON:
        for one in (ours, again):
            one.partial_fit(X, CASES[name][1])
    for found, expected in zip(again.coefs_, ours.coefs_, strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_a_generator_is_not_shared():
    theirs = fitted(TheirRegressor, VALUES, random_state=np.random.RandomState(0))
    ours = from_sklearn(theirs)
    again = to_sklearn(ours)
    for one in (theirs, ours, again):
        one.partial_fit(X, VALUES)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-9)
    np.testing.assert_array_equal(again.coefs_[0], theirs.coefs_[0])


def test_names_of_features_are_kept():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    theirs = fitted(TheirClassifier, LABELS, frame)
    ours = from_sklearn(theirs)
    np.testing.assert_array_equal(ours.predict(frame), theirs.predict(frame))
    np.testing.assert_array_equal(to_sklearn(ours).feature_names_in_, ["a", "b", "c"])


def test_the_estimators_have_methods_for_it():
    ours = MLPRegressor.from_sklearn(their("values"))
    assert type(ours) is MLPRegressor
    assert type(ours.to_sklearn()) is TheirRegressor
    mine = type("Mine", (MLPRegressor,), {})
    assert type(mine.from_sklearn(their("values"))) is mine
    with pytest.raises(TypeError, match="estimator must be an MLPClassifier of scikit-learn, got an MLPRegressor"):
        MLPClassifier.from_sklearn(their("values"))


def test_words_for_one_activation():
    for activation in (["tanh"], ("tanh",)):
        theirs = to_sklearn(fitted(MLPRegressor, VALUES, activation=activation))
        assert theirs.activation == "tanh"
        quietly(theirs.fit, X, VALUES)


def test_what_matters_to_training_only_is_left_behind():
    ours = our("multiclass", dropout=0.5, max_norm=1.0, class_weight="balanced", n_jobs=2)
    same_predictions(ours, to_sklearn(ours))


@pytest.mark.parametrize(
    ("parameters", "y", "message"),
    [
        ({"activation": "elu"}, VALUES, "no activation 'elu', only identity, logistic, tanh, relu"),
        (
            {"activation": ["relu", "tanh"], "hidden_layer_sizes": (3, 3)},
            VALUES,
            r"one activation .* got \['relu', 'tanh'\]",
        ),
        ({"loss": "absolute_error"}, VALUES, "no loss 'absolute_error'"),
        ({}, COLUMNS, "no networks for columns of classes, got 2 columns"),
    ],
)
def test_what_scikit_learn_has_not_is_refused(parameters, y, message):
    ours = fitted(MLPClassifier if y is COLUMNS else MLPRegressor, y, **parameters)
    with pytest.raises(ValueError, match=message):
        to_sklearn(ours)


def test_only_fitted_networks_are_taken():
    for kind in (TheirClassifier, TheirRegressor):
        with pytest.raises(NotFittedError):
            from_sklearn(kind())
    with pytest.raises(NotFittedError):
        to_sklearn(MLPClassifier())
    with pytest.raises(TypeError, match="of fastbp, got .*LinearRegression"):
        to_sklearn(LinearRegression())
    with pytest.raises(TypeError, match=r"of scikit-learn, got .*fastbp\.estimators\.mlp\.MLPRegressor"):
        from_sklearn(our("values"))


@pytest.mark.parametrize("name", ["multiclass", "binary", "values"])
def test_a_model_becomes_onnx(name):
    skl2onnx = pytest.importorskip("skl2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = our(name)
    rows = X.astype(np.float32)
    content = skl2onnx.to_onnx(ours.to_sklearn(), rows[:1], options={"zipmap": False} if name != "values" else None)
    outputs = onnxruntime.InferenceSession(content.SerializeToString()).run(None, {"X": rows})
    expected = ours.predict(X) if name == "values" else ours.predict_proba(X)
    np.testing.assert_allclose(np.squeeze(outputs[-1]), expected, rtol=1e-4, atol=1e-5)


# ---- in its place ----------------------------------------------------------------------------------------------------


@pytest.fixture
def patched():
    fastbp.patch_sklearn()
    yield
    fastbp.unpatch_sklearn()


def test_patching_swaps_the_classes_and_back(patched):
    submodule = importlib.import_module(TheirClassifier.__module__)
    for _ in range(2):
        assert sklearn.neural_network.MLPClassifier is submodule.MLPClassifier is MLPClassifier
        assert sklearn.neural_network.MLPRegressor is submodule.MLPRegressor is MLPRegressor
        fastbp.patch_sklearn()
    for _ in range(2):
        fastbp.unpatch_sklearn()
        assert sklearn.neural_network.MLPClassifier is submodule.MLPClassifier is TheirClassifier
        assert sklearn.neural_network.MLPRegressor is submodule.MLPRegressor is TheirRegressor


def test_what_was_made_before_goes_on_working(patched):
    theirs = their("multiclass")
    assert type(theirs) is TheirClassifier
    same_predictions(from_sklearn(theirs), theirs)
    assert type(to_sklearn(from_sklearn(theirs))) is TheirClassifier
    again = pickle.loads(pickle.dumps(our("multiclass")))
    assert type(again) is MLPClassifier


SCRIPT = """
import sys
from sklearn.neural_network import MLPClassifier
import beside

print(MLPClassifier.__module__, __name__, sys.argv, beside.__name__, __file__)
sys.exit(3)
"""


def run(*arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(fastbp.__file__))}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-m", "fastbp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=100)


def test_a_script_runs_with_ours_in_place_of_theirs(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "beside.py").touch()
    script = tmp_path / "scripts" / "script.py"
    script.write_text(SCRIPT)
    done = run("scripts/script.py", "train", "--help", cwd=tmp_path)
    expected = "fastbp.estimators.mlp __main__ ['scripts/script.py', 'train', '--help'] beside"
    assert done.stdout.startswith(expected), done.stderr
    assert done.stdout.strip().endswith("script.py")
    assert done.returncode == 3


def test_an_error_in_a_script_is_shown_as_python_shows_it(tmp_path):
    (tmp_path / "script.py").write_text("raise ValueError('mine')")
    done = run("script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: mine\n")


def test_commands_are_no_scripts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").touch()
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0
    assert "usage: fastbp train" in capsys.readouterr().out
    assert cli.main(["missing.py"]) == 2
    assert capsys.readouterr().err == "fastbp: error: no such script: missing.py\n"


@pytest.mark.parametrize("name", ["model.npz", "model", "model.pyz", "model.pyc", "model.py"])
def test_nothing_in_a_file_is_run_but_the_source_of_a_script(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as file:
        file.writestr("__main__.py", "print('run')")
    done = run(name, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    assert ("null bytes" if name == "model.py" else "is no command") in done.stderr


def test_a_folder_is_no_script(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "folder.py" / "__main__.py").write_text("print('run')")
    done = run("folder.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such script: folder.py" in done.stderr


POOL = """
import multiprocessing

def square(number):
    return number**2

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(square, [1, 2, 3]))
"""


def test_processes_that_a_script_starts_find_what_it_defines(tmp_path):
    (tmp_path / "script.py").write_text(POOL)
    assert run("script.py", cwd=tmp_path).stdout == "[1, 4, 9]\n"
