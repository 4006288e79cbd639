import datetime
import decimal
import inspect
import io
import json
import re

import draws
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastbp
from fastbp import ModelFileError, NeuralNetwork, TabularClassifier, TabularRegressor, files
from fastbp.datasets import MISSING, TableFile, held_out
from fastbp.estimators import fitting, recipe
from fastbp.estimators.columns import Columns

FEW = {"max_iter": 60, "hidden_layer_sizes": (16,), "random_state": 0}
BY_CHANCE = "rows of weight 2 are batches other than rows that come twice"


def expected_failures(estimator):
    return {"check_sample_weight_equivalence_on_dense_data": BY_CHANCE}


@pytest.mark.no_cover
@pytest.mark.draw(5)
@pytest.mark.compiled
@parametrize_with_checks(
    [TabularClassifier(max_iter=100), TabularRegressor(max_iter=100)],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_an_empty_word_is_no_missing_cell():
    frame = pd.DataFrame({"c": ["", "a", None, np.nan]})
    est = TabularRegressor(max_iter=1).fit(pd.DataFrame({"c": ["", "a", "b", None] * 30}), np.arange(120.0))
    np.testing.assert_array_equal(est.preprocessing_.transform(frame), [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def people(n=120):
    """A table of all kinds, and its two targets."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n).astype(float),
            "city": rng.choice(["Bonn", "Köln", "Ulm"], n),
            "member": rng.random(n) < 0.5,
            "size": pd.Categorical(rng.choice([38, 40, 42], n)),
            "steps": pd.array(rng.integers(0, 9, n), "Int64"),
        }
    )
    value = X["age"] / 10 + 3 * (X["city"] == "Ulm") + X["member"]
    X.loc[::9, "age"] = np.nan
    X.loc[::7, "city"] = None
    X.loc[::8, "steps"] = pd.NA
    return X, np.where(value > value.median(), "old", "young"), value.to_numpy(float)


@pytest.fixture(params=[TabularClassifier, TabularRegressor])
def fitted(request):
    X, labels, values = people()
    est = request.param(**FEW)
    return est.fit(X, labels if request.param is TabularClassifier else values), X


def test_columns_are_used_by_their_kinds(fitted):
    est, X = fitted
    columns = est.preprocessing_
    assert columns.kinds_ == {
        "age": "number",
        "city": "category",
        "member": "boolean",
        "size": "category",
        "steps": "number",
    }
    assert columns.categories_ == {"city": ["Bonn", "Köln", "Ulm"], "size": ["38", "40", "42"]}
    Z = est.preprocessing_.transform(X)
    assert Z.shape == (len(X), 3 + 3 + 3)
    assert np.median(Z[X["age"].notna(), 0]) == 0
    np.testing.assert_array_equal(Z[X["age"].isna(), 0], 0)
    assert np.abs(Z[:, :3]).max() < 3
    np.testing.assert_array_equal(Z[:, 3:6].sum(axis=1), X["city"].notna())
    assert est.feature_names_in_.tolist() == list(X)
    assert est.score(X, people()[1] if isinstance(est, TabularClassifier) else people()[2]) > 0.8


def test_other_tables_are_read_by_name(fitted):
    est, X = fitted
    expected = est.predict(X)
    np.testing.assert_array_equal(est.predict(X[["steps", "size", "member", "city", "age"]]), expected)
    np.testing.assert_array_equal(est.predict(X.assign(more="x")), expected)
    np.testing.assert_array_equal(est.predict(X.assign(size=X["size"].astype(str))), expected)
    np.testing.assert_array_equal(est.predict(X.assign(city="Rom")), est.predict(X.assign(city=None)))
    with pytest.raises(ValueError, match="X must have the columns .*, got none called 'city'"):
        est.predict(X.drop(columns="city"))
    with pytest.raises(ValueError, match="column 'age', row 3: expected a finite number of at most .*, got 'ten'"):
        est.predict(X.assign(age=["1", "2", "3", "ten"] + ["5"] * (len(X) - 4)))
    with pytest.raises(ValueError, match="0 sample"):
        est.predict(X[:0])


def test_rows_come_back_from_a_file(fitted, tmp_path):
    est, X = fitted
    path = tmp_path / "model.npz"
    est.save(path)
    again = type(est).load(path)
    np.testing.assert_array_equal(again.predict(X), est.predict(X))
    np.testing.assert_array_equal(again.preprocessing_.transform(X), est.preprocessing_.transform(X))
    assert again.get_params() == est.get_params()
    assert again.feature_names_in_.tolist() == est.feature_names_in_.tolist()
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    assert b"pickle" not in path.read_bytes()


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_several_networks_are_averaged(kind, tmp_path):
    X, labels, values = people()
    y = labels if kind is TabularClassifier else values
    est = kind(**FEW | {"n_estimators": 4}).fit(X, y)
    assert len(est.networks_) == 4
    assert est.network_ is est.networks_[0]
    assert len({network.coefs_[0].tobytes() for network in est.networks_}) == 4
    Z = est.preprocessing_.transform(X).astype("float32")
    if kind is TabularClassifier:
        mean = np.mean([network.predict_proba(Z).astype(float) for network in est.networks_], axis=0)
        np.testing.assert_array_equal(est.predict_proba(X), mean.astype("float32"))
        np.testing.assert_array_equal(est.predict(X), est.classes_[mean.argmax(axis=1)])
    else:
        mean = np.mean([network.predict(Z).astype(float) for network in est.networks_], axis=0)
        np.testing.assert_allclose(est.predict(X), values.mean() + values.std() * mean, rtol=1e-6)
    again = kind(**FEW | {"n_estimators": 4}).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), est.predict(X))
    est.save(tmp_path / "model.npz")
    loaded = kind.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(loaded.predict(X), est.predict(X))
    assert len(loaded.networks_) == 4
    with pytest.raises(ValueError, match="to_sklearn needs n_estimators=1, got 4 networks"):
        est.to_sklearn()


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_an_interrupt_ends_several_networks(solver, monkeypatch):
    X, labels, _ = people()
    name, count = {"adam": (recipe.Recipe, "end"), "lbfgs": (fitting.Objective, "__call__")}[solver], [0]
    real = getattr(*name)

    def interrupted(*arguments):
        count[0] += 1
        if count[0] == 7:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(*name, interrupted)
    est = TabularClassifier(**FEW | {"n_estimators": 9, "solver": solver, "max_iter": 5})
    with pytest.warns(UserWarning, match="interrupted by user"):
        est.fit(X, labels)
    assert 1 <= len(est.networks_) < 4
    assert set(est.predict(X)) <= {"old", "young"}


@pytest.mark.draw(4)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kinds_", {"dict": [["age", "number"]]}),
        ("kinds_", {"dict": [["age", "secret"]]}),
        ("categories_", {"dict": [["city", [1]]]}),
        ("words_", {"dict": [["age", "NA"]]}),
        ("centers", {"float": "nan"}),
        ("n_features_in_", -1),
        ("table", {"dict": [["target", 3]]}),
        ("surprise", 1),
    ],
)
def test_damaged_state_is_refused(fitted, tmp_path, name, value):
    path = tmp_path / "model.npz"
    fitted[0].save(path)
    with np.load(path) as old:
        arrays = dict(old)
    header = json.loads(str(arrays.pop("header")))
    header["state"][name] = value
    files.write(path, header, arrays)
    with pytest.raises(ModelFileError, match=r"model\.npz"):
        fastbp.load(path)


@pytest.mark.parametrize("activation", ["selu", "relu"])
def test_scikit_learn_gets_a_pipeline(fitted, activation):
    est, X = fitted
    est.set_params(activation=activation).fit(X, people()[1 if isinstance(est, TabularClassifier) else 2])
    theirs = est.to_sklearn()
    last = theirs[-1] if isinstance(est, TabularClassifier) else theirs[-1].regressor_
    assert type(last).__module__.startswith("sklearn") == (activation == "relu")
    if isinstance(est, TabularRegressor):
        np.testing.assert_allclose(theirs.predict(X), est.predict(X), rtol=1e-5)
    else:
        np.testing.assert_allclose(theirs.predict_proba(X), est.predict_proba(X), atol=1e-5)


def test_numbers_are_no_names_of_columns(fitted):
    """Columns without names are known by their places, whatever their numbers."""
    est, X = fitted
    y = people()[1] if isinstance(est, TabularClassifier) else people()[2]
    numbered = X.set_axis([9, 7, 5, 3, 1], axis=1)
    np.testing.assert_array_equal(clone(est).fit(numbered, y).predict(numbered), est.predict(X))
    with pytest.raises(ValueError, match="one column of each name, got two called 'city'"):
        clone(est).fit(X.set_axis(["age", "city", "city", "size", "steps"], axis=1), y)


def test_arrays_and_clones(fitted):
    est, X = fitted
    assert not hasattr(clone(est), "network_")
    X = X.assign(size="no. " + X["size"].astype(str))  # whole numbers among objects are numbers
    y = people()[1] if isinstance(est, TabularClassifier) else people()[2]
    Z = X.to_numpy(object)
    by_place = clone(est).fit(Z, y)
    np.testing.assert_array_equal(by_place.predict(Z), clone(est).fit(X, y).predict(X))
    assert by_place.to_sklearn().score(Z, y) == pytest.approx(by_place.score(Z, y), rel=1e-5)
    with pytest.raises(ValueError, match="4 features"):
        by_place.predict(Z[:, :4])


def test_search():
    X, labels, _ = people()
    search = GridSearchCV(TabularClassifier(**FEW), {"alpha": [1e-4, 1e-2]}, cv=2).fit(X, labels)
    assert search.best_score_ > 0.6


def test_class_weights_and_probabilities():
    X, labels, _ = people()
    even = TabularClassifier(**FEW).fit(X, labels)
    heavy = TabularClassifier(**FEW, class_weight={"old": 20.0, "young": 1.0}).fit(X, labels)
    assert even.classes_.tolist() == ["old", "young"]
    assert heavy.predict_proba(X)[:, 0].mean() > even.predict_proba(X)[:, 0].mean()


def test_a_table_may_be_of_one_kind(tmp_path):
    X, _, values = people()
    for columns, width in ((["city"], 3), (["age", "steps"], 2)):
        est = TabularRegressor(**FEW).fit(X[columns], values)
        assert est.preprocessing_.transform(X).shape == (len(X), width)
        est.save(tmp_path / "model.npz")
        np.testing.assert_array_equal(fastbp.load(tmp_path / "model.npz").predict(X), est.predict(X))


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor, fastbp.MLPClassifier, fastbp.MLPRegressor])
def test_every_parameter_is_described_with_its_default(kind):
    for name, parameter in inspect.signature(kind).parameters.items():
        assert re.search(rf"\n    {name} : .*, default={re.escape(repr(parameter.default))}\n        \S", kind.__doc__)
    assert not re.search(r"<[A-Z]+>", kind.__doc__)


def test_the_rarest_categories_are_unknown():
    X = pd.DataFrame({"word": ["a"] * 20 + ["b"] * 15 + ["c"] * 5})
    est = TabularClassifier(**FEW, max_categories=2).fit(X, np.arange(40) % 2)
    Z = est.preprocessing_.transform(X)
    assert Z.shape == (40, 2)
    assert Z[-5:].sum() == 0


@settings(max_examples=draws.examples(50), deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0, 0.9), st.integers(0, 99))
def test_every_class_is_held_out_by_its_share(labels, size, seed):
    labels = np.array(labels)
    held = held_out(size, len(labels), labels, np.random.RandomState(seed))
    for label in np.unique(labels):
        n, out = (labels == label).sum(), held[labels == label].sum()
        assert out == 0 if n <= 2 else abs(out - min(size * n, n - 1)) <= 0.5 + 1e-9


def test_networks_train_on_from_files(tmp_path):
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(30, 3)), rng.random((30, 2))
    for options in ({}, {"solver": "adam", "dropout": 0.3}, {"solver": "nesterov", "bias": False, "max_norm": 1.0}):
        net = NeuralNetwork(3, [5, 4], 2, random_state=2, activation=["tanh", "relu"], **options)
        net.train(X, y, 3, 0.01, batch_size=7, shuffle=True)
        net.save(tmp_path / "net.npz")
        again = NeuralNetwork.load(tmp_path / "net.npz")
        assert repr(again) == repr(net)
        for one in (net, again):
            one.train(X, y, 3, 0.01, batch_size=7, shuffle=True)
        for ours, theirs in zip(again.weights + again.biases, net.weights + net.biases, strict=True):
            np.testing.assert_array_equal(ours, theirs)


# ---- the reader, on tables drawn at random -----------------------------------------------------------------------------

WORD = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters='"'), min_size=1, max_size=6).filter(
    lambda word: word not in MISSING and word == word.strip()
)
COLUMN = st.sampled_from(["number", "word", "flag"])


@settings(max_examples=draws.examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_tables_are_read_as_they_were_written(tmp_path, data):
    kinds = data.draw(st.lists(COLUMN, min_size=2, max_size=5))
    n = data.draw(st.integers(3, 12))
    names = data.draw(st.lists(WORD.filter(str.isalpha), min_size=len(kinds), max_size=len(kinds), unique=True))
    cells = {"number": st.one_of(st.integers(-9, 10**6), st.floats(-1e6, 1e6)), "word": WORD, "flag": st.booleans()}
    columns = [data.draw(st.lists(st.one_of(cells[kind], st.none()), min_size=n, max_size=n)) for kind in kinds]
    frame = pd.DataFrame(dict(zip(names, columns, strict=True)), dtype=object)
    separator = data.draw(st.sampled_from(",;\t|"))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = io.StringIO(newline="")
    frame.to_csv(text, sep=separator, index=False, lineterminator=end, quoting=data.draw(st.sampled_from([0, 1])))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    path = tmp_path / "drawn.csv"
    path.write_bytes((text.getvalue() + data.draw(st.sampled_from(["", end, end * 3]))).encode(encoding))
    read = TableFile(path).read(expected=names, text=names).frame
    assert list(read) == names
    for name, column in zip(names, columns, strict=True):
        assert [None if pd.isna(cell) else cell for cell in read[name]] == [None if c is None else str(c) for c in column]


def test_the_reader_says_what_it_found(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("sep=;\na;b\n1;x\n")
    table = TableFile(path).read()
    assert (table.separator, table.has_header, table.names, table.encoding) == (";", True, ["a", "b"], "utf-8")


@pytest.mark.parametrize("names", [[2020, 2021], [1, 0], [7, 3], [(0, 1), (1, 0)], [0.5, 1.5]])
def test_columns_are_found_by_names_that_are_no_text(names, tmp_path):
    X = np.random.default_rng(1).normal(size=(300, 2))
    frame, y = pd.DataFrame({0: X[:, 0], 1: X[:, 1]}).set_axis(pd.Index(names, tupleize_cols=False), axis=1), X[:, 0] > 0
    est = TabularClassifier(random_state=0, max_iter=40).fit(frame, y)
    expected = est.predict(frame)
    assert np.mean(expected == y) > 0.95
    est.save(tmp_path / "m.npz")
    for one in (est, fastbp.load(tmp_path / "m.npz")):
        np.testing.assert_array_equal(one.predict(frame.iloc[:, ::-1]), expected)
    with pytest.raises((ValueError, TypeError), match=r"must have the columns|[fF]eature names"):
        est.predict(frame.rename(columns={names[0]: "other"}))


def test_places_of_an_array_are_places_of_a_frame():
    X = np.random.default_rng(1).normal(size=(100, 2))
    est = TabularClassifier(random_state=0, max_iter=5).fit(X, X[:, 0] > 0)
    for frame in (pd.DataFrame(X), pd.DataFrame(X, columns=[5, 6])):
        np.testing.assert_array_equal(est.predict(frame), est.predict(X))
    with pytest.raises(ValueError, match=r"X must have its columns in the order of the fit, 0, 1, ..., got \[1, 0\]"):
        est.predict(pd.DataFrame(X)[[1, 0]])
    frame = pd.DataFrame(X)[[1, 0]]
    other = TabularClassifier(random_state=0, max_iter=5).fit(frame, X[:, 0] > 0)
    with pytest.warns(UserWarning, match="valid feature names"):
        np.testing.assert_array_equal(other.predict(frame.to_numpy()), other.predict(frame))
    np.testing.assert_array_equal(other.predict(pd.DataFrame(X)), other.predict(frame))


def test_words_of_other_types_are_missing_beside_numbers():
    X = pd.DataFrame({"x": pd.Series([*np.arange(96.0), True, False, b"x", datetime.date(2024, 1, 5)], dtype=object)})
    with pytest.warns(UserWarning, match="taken for missing"):
        columns = Columns().fit(X)
    assert (columns.transform(X)[-4:] == 0).all()


def test_two_columns_of_one_name_are_refused():
    X = pd.DataFrame({"a": np.arange(30.0), "b": np.arange(30) % 3})
    est = TabularRegressor(random_state=0, max_iter=2).fit(X, np.arange(30.0))
    twice = pd.concat([X, X[["a"]]], axis=1)
    for call in (lambda: est.predict(twice), lambda: est.fit(twice, np.arange(30.0))):
        with pytest.raises(ValueError, match="X must have one column of each name, got two called 'a'"):
            call()


@pytest.mark.parametrize(
    "cell", [datetime.time(1, 30, tzinfo=datetime.UTC), datetime.timedelta(1), datetime.date(2024, 1, 5)]
)
def test_times_as_objects_are_refused(cell):
    X = pd.DataFrame({"when": pd.Series([cell] * 30, dtype=object), "x": np.arange(30)})
    with pytest.raises(ValueError, match="column 'when' holds dates or times"):
        TabularRegressor(max_iter=2).fit(X, np.arange(30.0))


def test_whole_numbers_that_become_floats_are_the_same_categories():
    """As pandas makes of them where others are missing."""
    frame = pd.DataFrame({"store": [1, 2, 3, 4] * 20})
    est = TabularRegressor(random_state=0, max_iter=60).fit(frame.astype("category"), [1.0, 2, 3, 4] * 20)
    expected = est.predict(frame[:3])
    for other in (pd.DataFrame({"store": [1, 2, 3, None]}), frame[:3].astype(float).astype("category"), frame[:3] * 1.0):
        np.testing.assert_array_equal(est.predict(other)[:3], expected)


def test_lists_of_several_kinds_are_read_cell_by_cell():
    rows = [[bool(number % 2), "ab"[number % 3 == 0], number / 2] for number in range(30)]
    rows[5][0] = None
    est = TabularRegressor(max_iter=3, random_state=0).fit(rows, np.arange(30.0))
    np.testing.assert_array_equal(est.predict(rows[4:5]), est.predict(rows[4:6])[:1])
    assert est.columns_ == {0: "boolean", 1: "category", 2: "number"}


def test_decimals_of_arrow_of_which_some_are_missing():
    pyarrow = pytest.importorskip("pyarrow")
    cells = [decimal.Decimal("1.5"), None, decimal.Decimal("2.5")] * 10
    frames = [pd.DataFrame({"c": pd.Series(cells, dtype=kind)})
              for kind in (object, pd.ArrowDtype(pyarrow.decimal128(5, 2)))]  # fmt: skip
    found = [TabularRegressor(max_iter=2, random_state=0).fit(frame, np.arange(30.0)).predict(frame) for frame in frames]
    np.testing.assert_array_equal(*found)


def test_labels_in_the_other_order_of_bytes():
    X, y = np.random.default_rng(0).normal(size=(150, 4)), np.arange(150) % 3
    found = [
        TabularClassifier(max_iter=2, random_state=0).fit(X, y.astype(kind)).predict_proba(X) for kind in ("<i4", ">i4")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("spelling", ["1.0", "1"])
def test_categories_are_the_same_as_text_and_as_numbers(spelling, tmp_path):
    texts = pd.DataFrame({"k": [spelling, spelling.replace("1", "2"), "x", "y"] * 20})
    est = TabularRegressor(random_state=0, max_iter=30).fit(texts, [1.0, 2, 3, 4] * 20)
    expected = est.predict(texts[:2])
    for other in (pd.DataFrame({"k": [1.0, 2.0]}), pd.DataFrame({"k": [1, 2]}), pd.DataFrame({"k": ["1", "2.0"]})):
        np.testing.assert_array_equal(est.predict(other), expected)
    est.preprocessing_.categories_ = {"k": ["1.0", "2.0", "x", "y"]}  # as an older model has them
    np.testing.assert_array_equal(est.predict(pd.DataFrame({"k": [1.0, 2.0]})), expected)


def test_quartiles_that_differ_by_rounding_are_one():
    rng = np.random.default_rng(0)
    x = np.array([0.1 + 0.2, 0.3])[rng.integers(0, 2, 1000)]
    x[:150] = rng.normal(size=150) * 5 + 10
    _, factors = recipe.range_of(np.column_stack([x, np.where(np.isclose(x, 0.3), 0.3, x)]))
    assert factors[0] == pytest.approx(factors[1], rel=1e-9)


@pytest.mark.parametrize(("offset", "spread"), [(1e9, 1e-4), (0, 1e-170), (0, 1e140), (-1e12, 1.0), (5, 2)])
def test_targets_are_scaled_whatever_their_size(offset, spread):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y, est = X @ [1.0, 2, 3], TabularRegressor(random_state=0, max_iter=20)
    expected, found = est.fit(X, y).predict(X), est.fit(X, offset + spread * y).predict(X)
    np.testing.assert_allclose((found - offset) / spread, expected, atol=0.2)
    assert np.corrcoef(expected, y)[0, 1] > 0.9
