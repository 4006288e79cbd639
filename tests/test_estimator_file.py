import copy
import json
import os
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import make_scorer, r2_score
from sklearn.neural_network import MLPRegressor as TheirRegressor

import fastbp
from fastbp import MLPClassifier, MLPRegressor, TabularRegressor, files
from fastbp.files import ModelFileError

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
VALUES = X[:, 0] - X[:, 1] ** 2
LABELS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
COLUMNS = np.column_stack([LABELS, LABELS % 2 + 5])
FRAME = pd.DataFrame(X, columns=["a", "b", "größer"])


def fit(est, X, y, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return est.fit(X, y, **more)


def classifier(**parameters):
    return MLPClassifier(**({"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0} | parameters))


def regressor(**parameters):
    return MLPRegressor(**({"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0} | parameters))


def bit_for_bit(ours, other):
    """Whether two values are the same, down to their types and the types of their parts."""
    if type(ours) is not type(other):
        return False
    if isinstance(ours, np.ndarray):
        same = ours.dtype == other.dtype and ours.shape == other.shape
        return same and (ours.tolist() == other.tolist() if ours.dtype == object else ours.tobytes() == other.tobytes())
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(other) and all(map(bit_for_bit, ours, other))
    if isinstance(ours, dict):
        return list(ours) == list(other) and all(map(bit_for_bit, ours.values(), other.values()))
    return ours == other or ours != ours


MODELS = {
    "multiclass": lambda: fit(classifier(), X, LABELS),
    "binary": lambda: fit(classifier(solver="sgd"), X, LABELS > 0),
    "one class": lambda: fit(classifier(), X, np.full(60, "only")),
    "text": lambda: fit(classifier(), X, np.array(["b", "c", "größer"])[LABELS]),
    "object text": lambda: fit(classifier(), X, np.array(["b", "c", "größer"], object)[LABELS]),
    "frame": lambda: fit(classifier(), FRAME, pd.Series(["b", "c", "d"])[LABELS]),
    "multilabel": lambda: fit(classifier(), X, np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)),
    "columns": lambda: fit(classifier(), X, COLUMNS),
    "columns of text": lambda: fit(classifier(), X, np.array(list("abcdefg"), object)[COLUMNS]),
    "class weights": lambda: fit(classifier(class_weight={0: 1, 1: 2.5, np.int64(2): 3}), X, LABELS),
    "dropout": lambda: fit(classifier(dropout=0.3, max_norm=1.0), X, LABELS),
    "early stopping": lambda: fit(classifier(early_stopping=True, max_iter=30), X, LABELS),
    "validation": lambda: fit(regressor(early_stopping=True), X, VALUES, X_val=X[:9], y_val=VALUES[:9]),
    "lbfgs": lambda: fit(regressor(solver="lbfgs", max_iter=50), X, VALUES),
    "float32": lambda: fit(regressor(activation=["tanh", "elu"], hidden_layer_sizes=[4, 3]), X.astype("f"), VALUES),
    "no hidden layer": lambda: fit(regressor(hidden_layer_sizes=()), X, VALUES),
    "poisson": lambda: fit(regressor(loss="poisson", n_iter_no_change=np.inf), X, np.exp(VALUES)),
    "two values": lambda: fit(regressor(loss="absolute_error", scoring="r2"), X, np.column_stack([VALUES, -VALUES])),
    "plain sgd": lambda: fit(regressor(solver="sgd", momentum=0, learning_rate="invscaling"), X, VALUES),
    "adaptive": lambda: fit(regressor(solver="sgd", learning_rate="adaptive", n_iter_no_change=1, tol=10), X, VALUES),
    "odd parameters": lambda: fit(regressor(hidden_layer_sizes=np.array([3, 2]), alpha=np.float32(0.1)), X, VALUES),
    "two float types": lambda: fit(regressor(), X, VALUES).partial_fit(X.astype("f"), VALUES),
    "parameters changed": lambda: fit(regressor(), X, VALUES).set_params(hidden_layer_sizes=7, solver="sgd"),
    "output": lambda: fit(regressor(), X, VALUES).set_output(transform="pandas"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


@pytest.mark.draw(3)
@pytest.mark.parametrize("kind", MODELS)
def test_an_estimator_comes_back_as_it_was(path, kind):
    est = MODELS[kind]()
    est.save(path)
    again = fastbp.load(path)
    assert type(again) is type(est)
    assert bit_for_bit(vars(again), vars(est))
    assert bit_for_bit(again.get_params(), est.get_params())
    rows = FRAME if hasattr(est, "feature_names_in_") else X
    np.testing.assert_array_equal(again.predict(rows), est.predict(rows), strict=True)
    clone(again)


@pytest.mark.draw(3)
@pytest.mark.parametrize("kind", ["multiclass", "binary", "dropout", "columns", "float32", "plain sgd", "adaptive"])
@pytest.mark.parametrize("how", ["partial_fit", "fit"])
def test_training_goes_on_as_if_nothing_had_happened(path, kind, how):
    est = MODELS[kind]()
    est.set_params(warm_start=how == "fit")
    est.save(path)
    again = fastbp.load(path)
    targets = {"multiclass": LABELS, "binary": LABELS > 0, "dropout": LABELS, "columns": COLUMNS}
    for one in (est, again):
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                getattr(one, how)(X.astype(est.coefs_[0].dtype), targets.get(kind, VALUES))
    assert bit_for_bit(vars(again), vars(est))


def test_what_scikit_learn_attaches_is_left_behind(path):
    with config_context(enable_metadata_routing=True):
        est = fit(regressor().set_fit_request(sample_weight=True), X, VALUES)
    vars(est)["_skl_callbacks"] = []
    assert "_metadata_request" in vars(est)
    est.save(path)
    assert not vars(fastbp.load(path)).keys() & {"_metadata_request", "_skl_callbacks"}


def test_a_class_loads_its_own_kind(path):
    fit(regressor(), X, VALUES).save(path)
    assert type(MLPRegressor.load(path)) is MLPRegressor
    with pytest.raises(ModelFileError, match=r"model\.npz: must hold an MLPClassifier, got an MLPRegressor"):
        MLPClassifier.load(path)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("random_state", np.random.RandomState(0)),
        ("scoring", make_scorer(r2_score)),
        ("scoring", r2_score),
    ],
)
def test_a_parameter_that_no_file_can_hold_is_named(path, parameter, value):
    est = fit(regressor(), X, VALUES).set_params(**{parameter: value})
    with pytest.raises(TypeError, match=f"^{parameter} must be None, a number, text, .* to be saved, got"):
        est.save(path)
    assert not path.exists()


def test_only_what_can_be_loaded_is_saved(path):
    with pytest.raises(NotFittedError):
        regressor().save(path)
    with pytest.raises(TypeError, match="estimator must be one of fastbp's MLPClassifier, MLPRegressor.*, got .*sklearn"):
        fastbp.save(path, TheirRegressor())
    with pytest.raises(TypeError, match=r"got <class '.*Mine'>"):
        fastbp.save(path, type("Mine", (MLPRegressor,), {})())
    est = fit(regressor(), X, VALUES)
    est.remark = "the best one"
    with pytest.raises(TypeError, match="^remark is no attribute of an MLPRegressor"):
        est.save(path)
    del est.remark
    est.coefs_ = est.coefs_[:1]
    with pytest.raises(ValueError, match="^coefs_ must have shapes"):
        est.save(path)
    est = fit(classifier(), X, LABELS)
    est.classes_ = np.array([object(), "b", "c"], dtype=object)
    with pytest.raises(TypeError, match=r"^classes_\.0 must be"):
        est.save(path)
    assert not path.exists()


@pytest.fixture
def small(path):
    """The bytes of a file, as small as they get."""
    fit(regressor(hidden_layer_sizes=(), solver="lbfgs"), X[:, :1], VALUES).save(path)
    return path.read_bytes()


def test_every_truncation_is_refused(path, small):
    for length in range(len(small) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ModelFileError, match=r"model\.npz"):
            fastbp.load(path)


def test_every_flipped_bit_is_refused(path, small):
    whole = bytearray(small)
    chosen = np.random.default_rng(0)
    places = [*range(100), *range(len(whole) - 200, len(whole)), *chosen.integers(0, len(whole), 500)]
    for place in places:
        changed = whole.copy()
        changed[place] ^= 1 << chosen.integers(8)
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match=r"model\.npz"):
            fastbp.load(path)


def test_every_change_is_refused(path, small):
    chosen = np.random.default_rng(1)
    for _ in range(200):
        start, length = chosen.integers(0, len(small)), chosen.integers(1, 50)
        kind = chosen.integers(3)
        junk = chosen.bytes(length) if kind else b""
        changed = small[:start] + junk + small[start + (length if kind != 1 else 0) :]
        if changed == small:
            continue
        path.write_bytes(changed)
        with pytest.raises(ModelFileError, match=r"model\.npz"):
            fastbp.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x05\x06" + bytes(18), b"\x80\x04N.", b"sha256:" + b"0" * 64])
def test_a_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.npz"):
        fastbp.load(path)


def test_somebody_elses_arrays_are_refused(path):
    np.savez(path, coefs_=np.zeros(3))
    with pytest.raises(ModelFileError, match="is not a fastbp model file"):
        fastbp.load(path)
    files.write(path, {"format": "cake"}, {})
    with pytest.raises(ModelFileError, match="format must be 'fastbp estimator', got 'cake'"):
        fastbp.load(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastbp.load(tmp_path / "none.npz")


def contents(path):
    with np.load(path) as old:
        arrays = dict(old)
    return json.loads(str(arrays.pop("header"))), arrays


def test_a_file_without_its_checksum_is_refused(path):
    fit(regressor(), X, VALUES).save(path)
    header, arrays = contents(path)
    np.savez(path, header=np.array(json.dumps(header)), **arrays)
    with pytest.raises(ModelFileError, match="must end in a checksum"):
        fastbp.load(path)


@pytest.mark.draw(3)
@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        (None, "class", "Pipeline", "class must be one of MLPClassifier, MLPRegressor, .*, got 'Pipeline'"),
        (None, "format_version", 4, "format_version must be at most 3, got 4"),
        ("params", "mystery", 1, "mystery"),
        ("params", "alpha", "high", "alpha"),
        ("params", "activation", ["tanh", "tanh"], "activation"),
        ("params", "hidden_layer_sizes", {"array": "nowhere"}, "no nowhere"),
        ("params", "hidden_layer_sizes", {"array": "coefs_.0"}, "coefs_.0"),
        ("params", "hidden_layer_sizes", {"pickle": "gASV"}, "pickle"),
        ("state", "predict", 1, "predict is no attribute of an MLPClassifier"),
        ("state", "__class__", "str", "__class__ is no attribute"),
        ("state", "alpha", 1, "alpha is no attribute"),
        ("state", "n_outputs_", 2, "n_outputs_"),
        ("state", "n_layers_", 4, "n_layers_"),
        ("state", "n_features_in_", 10**12, "coefs_"),
        ("state", "n_features_in_", -1, "n_features_in_ must be what a fit leaves, got -1"),
        ("state", "out_activation_", "identity", "out_activation_"),
        ("state", "_y_type", "binary", "out_activation_"),
        ("state", "_y_type", "multiclass-multioutput", "out_activation_"),
        ("state", "classes_", [], "classes_"),
        ("state", "classes_", {"objects": ["a", "b"]}, "classes_"),
        ("state", "feature_names_in_", {"objects": ["a", "b"]}, "feature_names_in_"),
        ("state", "feature_names_in_", {"objects": ["a", "b", 3]}, "feature_names_in_"),
        ("state", "loss_curve_", "down", "loss_curve_"),
        ("state", "coefs_", [], "coefs_"),
        ("state", "coefs_", 3, "coefs_"),
        ("state", "_moments", [{"tuple": [[], []]}], "_moments"),
        ("state", "_moments", [{"tuple": [[]]}], "_moments|zip"),
        ("state", "_steps", {"float": "inf"}, "_steps"),
        ("state", "_sklearn_output_config", {"dict": [["fit", "x"]]}, "_sklearn_output_config"),
    ],
)
def test_contents_that_do_not_fit_are_refused(path, part, name, value, message):
    fit(classifier(), X, LABELS).save(path)
    header, arrays = contents(path)
    (header if part is None else header[part])[name] = value
    files.write(path, header, arrays)
    with pytest.raises(ModelFileError, match=message):
        fastbp.load(path)


def test_tables_of_version_1_are_sound_but_refused(path):
    """Their inputs were made otherwise; networks of that version go on."""
    for est, known in ((TabularRegressor(max_iter=1), False), (MLPRegressor(hidden_layer_sizes=(2,), max_iter=1), True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            est.fit(X, VALUES).save(path)
        header, arrays = contents(path)
        files.write(path, header | {"format_version": 1}, arrays)
        if known:
            np.testing.assert_array_equal(fastbp.load(path).predict(X), est.predict(X))
        else:
            with pytest.raises(ModelFileError, match="holds a TabularRegressor of format_version 1, .*: fit it anew$"):
                fastbp.load(path)


@pytest.mark.parametrize("name", ["coefs_", "classes_", "n_features_in_", "_y_type"])
def test_what_prediction_needs_must_be_there(path, name):
    fit(classifier(), X, LABELS).save(path)
    header, arrays = contents(path)
    del header["state"][name]
    files.write(path, header, arrays)
    with pytest.raises(ModelFileError, match="model"):
        fastbp.load(path)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4)), np.full((3, 4), np.nan), np.zeros((3, 4), int), np.zeros((3, 4), ">f8"), np.zeros((2, 3, 2))]
)
def test_weights_that_do_not_fit_are_refused(path, array):
    fit(classifier(), X, LABELS).save(path)
    header, arrays = contents(path)
    files.write(path, header, arrays | {"coefs_.0": array})
    with pytest.raises(ModelFileError, match="coefs_"):
        fastbp.load(path)


JUNK = [None, True, -1, 0, 3, 10**30, 1e308, "", "tanh", [], [[]], {}]
JUNK += [{"float": "nan"}, {"float": "inf"}, {"tuple": []}, {"dict": [["a", 1]]}, {"dict": [[[], 1]]}]
JUNK += [{"array": "coefs_.0"}, {"scalars": "classes_"}, {"objects": ["a", None]}]


def places(node):
    """Every value in a JSON text, as the container it is in and its key there."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def test_a_file_with_any_other_value_is_refused_or_predicts(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    est = fit(classifier(activation=["tanh"], class_weight={0: 2.0, 1: 1.0, 2: 1.0}), X, LABELS)
    est.save(path)
    header, arrays = contents(path)
    chosen = np.random.default_rng(0)
    loaded = 0
    for _ in range(300):
        changed = copy.deepcopy(header)
        found = list(places(changed))
        node, key = found[chosen.integers(len(found))]
        node[key] = JUNK[chosen.integers(len(JUNK))]
        files.write(path, changed, arrays)
        try:
            again = fastbp.load(path)
        except ModelFileError:
            continue
        assert again.predict_proba(X).shape == (60, 3)
        loaded += 1
    assert loaded < 150


def test_a_deep_header_is_refused(path, monkeypatch):
    fit(regressor(), X, VALUES).save(path)
    header, arrays = contents(path)
    header["params"]["alpha"] = "DEEP"
    text = json.dumps(header).replace('"DEEP"', "[" * 100_000 + "]" * 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *arguments, **options: text)
        files.write(path, header, arrays)
    with pytest.raises(ModelFileError, match="recursion"):
        fastbp.load(path)


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    est = fit(regressor(), X, VALUES)
    est.save(path)
    before = path.read_bytes()

    def full_disk(stream, array, **options):
        stream.write(b"half an arr")
        raise OSError("No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="No space left"):
        est.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_comparison_sees_a_changed_bit():
    est = MODELS["multiclass"]()
    for name, value in vars(est).items():
        other = copy.deepcopy(vars(est))
        assert bit_for_bit(other, vars(est))
        if isinstance(value, list) and len(value) and isinstance(value[0], np.ndarray):
            other[name][-1].view(np.uint8).flat[0] ^= 1
        else:
            other[name] = "changed"
        assert not bit_for_bit(other, vars(est))


def test_a_layer_without_units_is_refused(path):
    fit(regressor(solver="lbfgs"), X, VALUES).save(path)
    header, arrays = contents(path)
    without = {"coefs_.0": np.zeros((3, 0)), "intercepts_.0": np.zeros(0), "coefs_.1": np.zeros((0, 1))}
    files.write(path, header, arrays | without)
    with pytest.raises(ModelFileError, match=r"must go with units \[3, 0, 1\]"):
        fastbp.load(path)
