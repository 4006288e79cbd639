"""One fit on many machines: equal bits whoever computes what, whatever dies, and clear errors for what cannot be right."""

import collections
import functools
import itertools
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from clusters import cluster_of, da, dask, distributed, kill
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import fastbp.dask as module
from fastbp import MLPClassifier, MLPRegressor, load
from fastbp.dask import DaskMLPClassifier, DaskMLPRegressor

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings(
        "ignore::sklearn.exceptions.ConvergenceWarning",
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(230, 5))
LABELS = np.array(["a", "b", "c"])[X[:, :3].argmax(axis=1)]
VALUES = X[:, 0] - X[:, 1] ** 2
CHUNKS = (60, 7, 100, 63)
SINGLE = X.astype(np.float32)


@pytest.fixture(scope="module")
def client():
    with cluster_of({}, {}) as client:
        yield client


def spread_out(*arrays, chunks=CHUNKS):
    """Arrays of dask."""
    return [da.from_array(one, chunks=(chunks, *one.shape[1:])) for one in arrays]


def parameters_of(est):
    return [array.tobytes() for array in est.coefs_ + est.intercepts_]


def blocks(arrays):
    """An array of dask that says nothing of its blocks' sizes, and which may be of any shape."""
    return da.concatenate(
        [da.from_delayed(dask.delayed(one), (np.nan, *arrays[0].shape[1:]), dtype=arrays[0].dtype) for one in arrays],
        allow_unknown_chunksizes=True,
    )


# --- the same bits ---

CASES = {
    "adam": (DaskMLPClassifier, {"dropout": 0.2}),
    "average": (DaskMLPRegressor, {"outer": "average", "solver": "sgd", "learning_rate": "adaptive", "tol": 0.1}),
    "steps": (DaskMLPClassifier, {"sync_steps": 3, "batch_size": 9, "n_shards": 5}),
    "lbfgs": (DaskMLPRegressor, {"solver": "lbfgs"}),
}


def fitted(name, client, **more):
    kind, settings = CASES[name]
    y = LABELS if kind is DaskMLPClassifier else VALUES
    est = kind(hidden_layer_sizes=(8,), max_iter=8, random_state=0, client=client, **settings | more)
    return est.fit(*spread_out(SINGLE, y), spread_out(np.arange(230.0))[0])


@functools.cache
def expected(name):
    """What one worker finds."""
    with cluster_of({}) as client:
        return {name: parameters_of(fitted(name, client)) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_workers_find_the_bits_of_one(name, client):
    assert parameters_of(fitted(name, client)) == expected("")[name]


def test_three_workers_with_two_threads_find_the_bits_of_one():
    with cluster_of({}, {}, {}, threads=2) as client:
        for name in CASES:
            assert parameters_of(fitted(name, client)) == expected("")[name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_is_killed_in_a_round_changes_nothing(monkeypatch):
    """Each time at another place of the round."""
    X = np.random.default_rng(0).normal(size=(8000, 50)).astype(np.float32)
    arrays = spread_out(X, (X[:, :4] ** 2).sum(axis=1) > 4, chunks=(1000,) * 8)
    est = DaskMLPClassifier((200, 100), max_iter=5, random_state=0, sync_steps=300)
    advance, killed, ended = module.Rounds.advance, [], []
    with cluster_of({}, {}) as client:
        est.set_params(client=client, max_iter=1).fit(*arrays)
        start = time.perf_counter()
        whole = parameters_of(est.set_params(max_iter=5).fit(*arrays))
        seconds = (time.perf_counter() - start) / 5

        def interfering(rounds):
            if rounds.number not in (1, 3, 4):
                return advance(rounds)
            number = len(killed)
            killed.append(None)

            def end():
                kill(client, number)
                killed[number] = time.perf_counter()

            killer = threading.Timer(seconds * [0.1, 0.3, 0.6][number], end)
            killer.start()
            visited = advance(rounds)
            ended.append(time.perf_counter())
            killer.join()
            client.wait_for_workers(2, timeout=60)
            return visited

        monkeypatch.setattr(module.Rounds, "advance", interfering)
        assert parameters_of(est.fit(*arrays)) == whole
    assert any(kill < end for kill, end in zip(killed, ended, strict=True))  # in the middle of a round


def test_weights_travel_and_shards_stay(client):
    """In a round a worker is sent the weights at most once, and no worker the rows."""
    X = np.random.default_rng(0).normal(size=(40_000, 50)).astype(np.float32)
    lazy = client.persist(spread_out(X, X[:, 0] > 0, chunks=(10_000,) * 4))
    est, rounds = DaskMLPClassifier((16,), random_state=0, client=client, n_iter_no_change=99, max_iter=1), 10
    est.fit(*lazy)

    def received(dask_worker):
        return [(key, size) for one in dask_worker.transfer_incoming_log for key, size in one["keys"].items()]

    before = {name: len(found) for name, found in client.run(received).items()}
    est.set_params(max_iter=rounds).fit(*lazy)
    sent = {name: found[before[name] :] for name, found in client.run(received).items()}
    for found in sent.values():
        kinds = collections.Counter(str(key).split("-")[0] for key, _ in found)
        assert kinds["given"] <= rounds
        assert kinds["shard_of"] == 0
        assert max([size for _, size in found], default=0) < X.nbytes / 100


def test_the_scheduler_forgets_rounds(client, monkeypatch):
    """What it knows of a fit does not grow with the rounds."""
    known, advance = [], module.Rounds.advance

    def counting(rounds):
        visited = advance(rounds)
        known.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))
        return visited

    monkeypatch.setattr(module.Rounds, "advance", counting)
    DaskMLPClassifier(4, max_iter=20, client=client, n_iter_no_change=99).fit(*spread_out(X, LABELS))
    assert len(known) == 20
    assert max(known) - min(known[:3]) <= 30  # tasks of a round that are being forgotten


# --- the right numbers ---


@pytest.mark.parametrize("units", [(8,), (300,)], ids=["narrow", "wide"])
@pytest.mark.parametrize("batch_size", [1, 50, 64, 230])
@pytest.mark.parametrize("sync_steps", [None, 1, 3])
def test_rounds_of_one_shard_are_the_local_fit(units, batch_size, sync_steps, client):
    """An average over one shard leaves nothing out, wherever rounds cut its epochs."""
    settings = {"hidden_layer_sizes": units, "solver": "sgd", "momentum": 0, "shuffle": False, "batch_size": batch_size}
    local = MLPClassifier(**settings, random_state=3, max_iter=3, tol=0).fit(SINGLE, LABELS)
    rounds = 3 if sync_steps is None else 3 * -(-230 // batch_size) // sync_steps
    if batch_size == 1 and sync_steps:
        sync_steps, rounds = 46 * sync_steps, 15 // sync_steps
    est = DaskMLPClassifier(**settings, random_state=3, max_iter=rounds, tol=0, outer="average", sync_steps=sync_steps,
                            client=client, n_shards=1, n_iter_no_change=9999)  # fmt: skip
    est.fit(*spread_out(SINGLE, LABELS))
    assert parameters_of(est) == parameters_of(local)
    assert est.t_ == local.t_ == 690
    if sync_steps is None:
        np.testing.assert_allclose(est.loss_curve_, local.loss_curve_, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
def test_a_round_is_the_mean_of_its_shards_and_the_outer_step_is_nesterovs(client):
    """In numpy, from local fits of each shard."""
    weights = RNG.random(230)
    settings = {"hidden_layer_sizes": (6,), "solver": "sgd", "momentum": 0, "shuffle": False, "batch_size": 20, "tol": 0}
    est = DaskMLPRegressor(
        **settings, max_iter=3, random_state=1, client=client, outer_learning_rate=0.7, outer_momentum=0.9
    )
    est.fit(*spread_out(X, VALUES, weights))
    local = MLPRegressor(**settings, max_iter=1, random_state=1, warm_start=True)
    local._initialize([5, 6, 1], np.float64, np.random.RandomState(1))
    local.n_features_in_ = 5
    common = [*local.coefs_, *local.intercepts_]
    velocity = [0 * one for one in common]
    edges = np.cumsum([0, *CHUNKS])
    for _ in range(3):
        found = []
        for start, stop in itertools.pairwise(edges):
            rows = slice(start, stop)
            local.coefs_, local.intercepts_ = [one.copy() for one in common[:2]], [one.copy() for one in common[2:]]
            local.fit(X[rows], VALUES[rows], weights[rows])
            found.append([weights[rows].sum() * one for one in local.coefs_ + local.intercepts_])
        means = [sum(parts) / weights.sum() for parts in zip(*found, strict=True)]
        changes = [one - mean for one, mean in zip(common, means, strict=True)]
        velocity = [0.9 * one + change for one, change in zip(velocity, changes, strict=True)]
        common = [one - 0.7 * (c + 0.9 * v) for one, c, v in zip(common, changes, velocity, strict=True)]
    for one, other in zip(est.coefs_ + est.intercepts_, common, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "labels", "values", "columns", "sparse"])
def test_lbfgs_is_the_local_fit(kind, client):
    rows, weights = sparse.csr_matrix(np.where(abs(X) > 1, X, 0)) if kind == "sparse" else X, RNG.random(230)
    y = {"binary": X[:, 0] > 0, "multiclass": LABELS, "labels": (X[:, :2] > 0).astype(int), "sparse": LABELS}.get(
        kind, VALUES if kind == "values" else X[:, :2] ** 2
    )
    classifies = kind not in ("values", "columns")
    settings = {"hidden_layer_sizes": (6,), "solver": "lbfgs", "max_iter": 20, "alpha": 0.1, "random_state": 2}
    if kind in ("binary", "multiclass"):
        settings["class_weight"] = "balanced"
    local = (MLPClassifier if classifies else MLPRegressor)(**settings).fit(rows, y, weights)
    est = (DaskMLPClassifier if classifies else DaskMLPRegressor)(**settings, client=client)
    if kind == "sparse":
        cuts = np.cumsum([0, *CHUNKS])
        parts = [dask.delayed(rows[a:b]) for a, b in itertools.pairwise(cuts)]
        lazy = [da.from_delayed(one, (size, 5), meta=rows[:0]) for one, size in zip(parts, CHUNKS, strict=True)]
        est.fit(da.concatenate(lazy), *spread_out(y, weights))
        assert (est.predict(da.concatenate(lazy)).compute() == est.to_local().predict(rows)).all()
    else:
        est.fit(*spread_out(rows, y, weights))
    assert est.n_iter_ == local.n_iter_
    np.testing.assert_allclose(est.loss_, local.loss_, rtol=1e-10)
    for one, other in zip(est.coefs_ + est.intercepts_, local.coefs_ + local.intercepts_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7, 230])
def test_shards_have_all_rows_once_in_their_order(n_shards):
    cuts = module.cuts_of(CHUNKS, n_shards)
    firsts, found = np.cumsum([0, *CHUNKS]), []
    for shard in cuts:
        found.append(np.concatenate([firsts[part] + np.arange(start, stop) for part, start, stop in shard]))
    assert np.concatenate(found).tolist() == list(range(230))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert [[part for part, _, _ in shard] for shard in module.cuts_of(CHUNKS, None)] == [[0], [1], [2], [3]]


def test_rounds_do_not_depend_on_how_partitions_are_cut_where_shards_are(client):
    found = set()
    for chunks in (CHUNKS, (230,), (115, 115)):
        est = DaskMLPClassifier(4, max_iter=3, random_state=0, client=client, n_shards=3)
        lazy, y = spread_out(X, LABELS, chunks=chunks)
        for given in ((lazy, y), (lazy.rechunk({1: 2}), y.rechunk(100))):
            found.add(tuple(parameters_of(est.fit(*given))))
    assert len(found) == 1


# --- what it gives ---


def test_predictions_are_lazy_and_those_of_the_local_estimator(client, tmp_path):
    lazy, y = spread_out(X, LABELS)
    est = DaskMLPClassifier(8, max_iter=5, random_state=0, client=client).fit(lazy, y)
    local = est.to_local()
    assert type(local) is MLPClassifier
    for method in ("predict", "predict_proba", "predict_log_proba", "transform"):
        found, own = getattr(est, method)(lazy), getattr(local, method)(X)
        assert isinstance(found, da.Array)
        assert (found.dtype, found.shape, found.chunks[0]) == (own.dtype, own.shape, CHUNKS)
        np.testing.assert_array_equal(found.compute(), own)
    np.testing.assert_allclose(est.score(lazy, y), local.score(X, LABELS))
    weights = RNG.random(230)
    np.testing.assert_allclose(est.score(lazy, y, *spread_out(weights)), local.score(X, LABELS, weights))
    est.save(tmp_path / "net")
    assert (load(tmp_path / "net").predict(X) == local.predict(X)).all()
    assert parameters_of(local.fit(X, LABELS)) == parameters_of(MLPClassifier(8, max_iter=5, random_state=0).fit(X, LABELS))


def test_scores_of_values(client):
    y = np.column_stack([VALUES, 1e6 + X[:, 2]])
    lazy = spread_out(X, y, RNG.random(230))
    est = DaskMLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0, client=client).fit(*lazy)
    assert est.predict(lazy[0]).shape == y.shape
    for given in (lazy, lazy[:2]):
        own = est.to_local().score(*(one.compute() for one in given))
        np.testing.assert_allclose(est.score(*given), own, rtol=1e-9)


def test_dataframes(client):
    pandas, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    table = pandas.DataFrame(X, columns=list("vwxyz"), index=np.arange(230) + 7)
    lazy, y = dd.from_pandas(table, npartitions=4), dd.from_pandas(pandas.Series(LABELS, index=table.index), npartitions=4)
    est = DaskMLPClassifier(8, max_iter=5, random_state=0, client=client).fit(lazy, y)
    assert est.feature_names_in_.tolist() == list("vwxyz")
    found = est.predict(lazy).compute()
    assert found.index.tolist() == table.index.tolist()
    assert (found == est.to_local().predict(table)).all()
    assert list(est.predict_proba(lazy).columns) == list("abc")
    np.testing.assert_array_equal(est.predict_proba(lazy).compute(), est.to_local().predict_proba(table))
    assert est.score(lazy, y) == pytest.approx(est.to_local().score(table, LABELS))
    same = DaskMLPClassifier(8, max_iter=5, random_state=0, client=client)
    same.fit(*spread_out(X, LABELS, chunks=tuple(map(len, lazy.partitions))))
    assert parameters_of(same) == parameters_of(est)
    # partitions that a filter has left empty, and such whose columns stand in another order
    some = [one.map_partitions(lambda part: part[part.index < 100]) for one in (lazy, y)]
    assert DaskMLPClassifier(8, max_iter=2, client=client).fit(*some).t_ == 2 * 93
    assert len(est.predict(some[0]).compute()) == 93
    parts = [dask.delayed(table[:100]), dask.delayed(table[list("zyxwv")][100:])]
    wrong = dd.from_delayed(parts, meta=table[:0], verify_meta=False)
    labels = dd.from_delayed([dask.delayed(one) for one in (pandas.Series(LABELS[:100]), pandas.Series(LABELS[100:]))])
    with pytest.raises(ValueError, match="X must have the same columns, in the same order, in all partitions, got .* 1"):
        DaskMLPClassifier(client=client).fit(wrong, labels)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("weight", [2.0**126, 2.0**-126])
def test_weights_beyond_the_float_type_of_the_rows_are_refused(solver, weight, client):
    est = DaskMLPClassifier(9, solver=solver, max_iter=2, client=client, random_state=0)
    with pytest.raises(ValueError, match="sample_weight must have a sum from"):
        est.fit(*spread_out(SINGLE, LABELS, np.full(len(X), weight)))
    with pytest.raises(ValueError, match="class_weight must have a sum from"):
        est.set_params(class_weight=dict.fromkeys("abc", weight)).fit(*spread_out(SINGLE, LABELS))


@pytest.mark.parametrize("units", [3, 9])
def test_hidden_units_of_dataframes_have_no_names_of_classes(units, client):
    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("vwxyz")), npartitions=3)
    est = DaskMLPClassifier(units, max_iter=2, client=client, random_state=0)
    found = est.fit(frame, dd.from_pandas(pd.Series(LABELS), npartitions=3)).transform(frame).compute()
    assert [*found.columns] == [*range(units)]
    np.testing.assert_array_equal(found.to_numpy(), est.to_local().transform(pd.DataFrame(X, columns=list("vwxyz"))))


def test_the_share_of_right_rows_is_that_of_the_local_estimator(client):
    est = DaskMLPClassifier(4, max_iter=3, client=client, random_state=0).fit(*spread_out(X, LABELS))
    for n in range(3, 40):
        assert est.score(*spread_out(X[:n], LABELS[:n], chunks=(2, n - 2))) == est.to_local().score(X[:n], LABELS[:n])


def test_it_is_an_estimator(client):
    est = DaskMLPClassifier(4, client=client, sync_steps=2, max_iter=3, random_state=0)
    copied = clone(est)
    assert copied.client is client
    assert copied.get_params() == est.get_params()
    est.fit(*spread_out(X, LABELS))
    again = pickle.loads(pickle.dumps(est))
    assert again.client is None
    assert parameters_of(again) == parameters_of(est)
    assert not hasattr(est, "partial_fit")
    with pytest.raises(NotFittedError):
        copied.predict(spread_out(X)[0])
    names = {"warm_start", "early_stopping", "validation_fraction", "scoring", "n_jobs"}
    for kind, local in ((DaskMLPClassifier, MLPClassifier), (DaskMLPRegressor, MLPRegressor)):
        own = {"client", "n_shards", "sync_steps", "outer", "outer_learning_rate", "outer_momentum"}
        assert set(kind().get_params()) == set(local().get_params()) - names | own
        assert all(f"\n    {name} : " in kind.__doc__ for name in kind().get_params())
        assert "<" not in kind.__doc__


def test_the_default_client_is_taken(client):
    with client.as_current():
        est = DaskMLPClassifier(4, max_iter=1).fit(*spread_out(X, LABELS))
    assert est.level_
    assert est.client is None


def test_it_stops_and_prints_as_the_local_fit(client, capsys):
    est = DaskMLPClassifier(4, client=client, random_state=0, tol=10, n_iter_no_change=2, verbose=True)
    est.fit(*spread_out(X, LABELS))
    assert est.n_iter_ == len(est.loss_curve_) == 4
    assert "did not improve more than tol=10.000000 for 2 consecutive epochs. Stopping." in capsys.readouterr().out


def test_an_interrupt_keeps_the_rounds_so_far(client, monkeypatch):
    advance = module.Rounds.advance

    def interrupted(rounds):
        if rounds.number == 2:
            raise KeyboardInterrupt
        return advance(rounds)

    short = DaskMLPClassifier(4, client=client, random_state=0, max_iter=2).fit(*spread_out(X, LABELS))
    monkeypatch.setattr(module.Rounds, "advance", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        est = DaskMLPClassifier(4, client=client, random_state=0).fit(*spread_out(X, LABELS))
    assert parameters_of(est) == parameters_of(short)


# --- what cannot be right ---


def test_a_class_that_one_partition_has_and_a_partition_without_rows(client):
    order = np.argsort(LABELS, kind="stable")
    cuts = np.cumsum([0, *CHUNKS])
    rows, labels = [[array[order][a:b] for a, b in itertools.pairwise(cuts)] for array in (X, LABELS)]
    rows.insert(1, np.empty((0, 5)))
    labels.insert(1, np.empty(0, "<U1"))
    est = DaskMLPClassifier(8, max_iter=3, random_state=0, client=client).fit(blocks(rows), blocks(labels))
    assert est.classes_.tolist() == ["a", "b", "c"]
    known = DaskMLPClassifier(8, max_iter=3, random_state=0, client=client).fit(*spread_out(X[order], LABELS[order]))
    assert parameters_of(est) == parameters_of(known)
    assert est.predict(blocks(rows)).compute().tolist() == known.to_local().predict(X[order]).tolist()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            (blocks([X[:9], X[9:20, :4]]), blocks([LABELS[:9], LABELS[9:20]])),
            "same number of columns in all.*got 5 .* and 4",
        ),
        ((blocks([X[:9], X[9:20]]), blocks([LABELS[:9], LABELS[9:21]])), "y must have as many rows as X .* 11, got 12"),
        ((blocks([X[:9], X[9:20]]), blocks([LABELS[:20]])), "y must have as many partitions as X, 2, got 1"),
        ((blocks([X[:9], X[:0]]), blocks([LABELS[:9], np.arange(0)])), None),
        ((blocks([X[:9], X[9:20]]), blocks([LABELS[:9], np.arange(11)])), "numbers or strings in all partitions, got both"),
        ((blocks([X[:9], X[9:20]]), blocks([X[:9, 0], X[9:20, 0]])), "Unknown label type: "),
        ((blocks([X[:0]]), blocks([LABELS[:0]])), "X must have at least one row"),
        ((spread_out(X)[0], spread_out(LABELS[:100], chunks=(50, 50))[0]), "y must have as many rows as X, 230, got 100"),
        ((spread_out(VALUES)[0], spread_out(LABELS)[0]), "X must have 2 dimensions, got 1"),
        ((spread_out(X)[0], None), "y must be a dask array or dataframe, got NoneType"),
        ((X, LABELS), "X must be a dask array or dataframe, got ndarray"),
        ((spread_out(X)[0], LABELS), "y must be a dask array or dataframe, got ndarray"),
        ((blocks([X[:9], np.full((9, 5), np.nan)]), blocks([LABELS[:9]] * 2)), "Input X contains NaN"),
        ((*spread_out(X, LABELS), spread_out(np.zeros(230))[0]), "sample_weight must have a sum"),
        ((spread_out(X)[0], spread_out(X[:, :2])[0]), "y must have 0s and 1s where it has columns"),
    ],
)
def test_wrong_data_is_one_error(given, message, client):
    est = DaskMLPClassifier(4, max_iter=1, client=client)
    if message is None:
        assert est.fit(*given).t_ == 9
        return
    with pytest.raises((ValueError, TypeError), match=message):
        est.fit(*given)


def test_a_fit_that_fails_changes_nothing(client):
    est = DaskMLPClassifier(3, max_iter=2, random_state=np.random.RandomState(0), client=client)
    est.fit(*spread_out(X, LABELS))
    wrong, before = X.copy(), vars(est).copy()
    wrong[7, 2] = np.nan
    drawn = pickle.dumps(est.random_state.get_state())
    with pytest.raises(ValueError, match="NaN"):
        est.fit(*spread_out(wrong, np.char.upper(LABELS)))
    assert vars(est) == before
    assert pickle.dumps(est.random_state.get_state()) == drawn


def test_wrong_parameters_are_one_error(client):
    lazy = spread_out(X, LABELS)
    for name, value, message in [
        ("client", "tcp://nobody", "client must be a distributed.Client or None, got 'tcp://nobody'"),
        ("n_shards", 0, "'n_shards' parameter"),
        ("n_shards", 231, "n_shards must be at most the number of rows, 230, got 231"),
        ("sync_steps", 0, "'sync_steps' parameter"),
        ("outer", "adam", "'outer' parameter"),
        ("outer_momentum", 1.0, "'outer_momentum' parameter"),
        ("learning_rate_init", 1e200, "non-finite parameter weights"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            DaskMLPClassifier(4, max_iter=2).set_params(**{"client": client, name: value}).fit(*lazy)


def test_a_client_that_is_closed_or_missing_is_one_error(client):
    lazy = spread_out(X, LABELS)
    with distributed.Client(client.scheduler.address, set_as_default=False) as other:
        pass
    with pytest.raises(ValueError, match="client must be connected to a scheduler, got one that is closed"):
        DaskMLPClassifier(client=other).fit(*lazy)
    est = DaskMLPClassifier(4, max_iter=1, client=client).fit(*lazy)
    with pytest.raises(ValueError, match="client must be connected"):
        est.set_params(client=other).score(*lazy)


def test_workers_of_several_levels_are_one_error():
    with (
        cluster_of({}, {"FASTBP_LEVEL": "x86-64"}) as client,
        pytest.raises(ValueError, match="workers must run kernels of one level.*x86-64 and x86-64-v.*set FASTBP_LEVEL"),
    ):
        DaskMLPClassifier(client=client).fit(*spread_out(X, LABELS, chunks=(10,) * 23))


def test_no_wait_goes_on_forever(monkeypatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 1.0)
    with cluster_of() as client, pytest.raises(ConnectionError, match="client must have workers that run, got none for 1 s"):
        DaskMLPClassifier(client=client).fit(*spread_out(X, LABELS))
    with cluster_of({}) as client:
        est = DaskMLPClassifier(4, client=client, max_iter=100_000, tol=0, n_iter_no_change=np.inf, random_state=0)
        advance = module.Rounds.advance

        def closing(rounds):
            if rounds.number == 2:
                threading.Timer(0.03, client.close).start()
            return advance(rounds)

        monkeypatch.setattr(module.Rounds, "advance", closing)
        with pytest.raises(ConnectionError, match="client"):
            est.fit(*spread_out(X, LABELS))
        assert est.n_iter_ >= 2  # the rounds so far are kept
        assert np.isfinite(est.to_local().predict_proba(X)).all()


def test_workers_find_kernels(client):
    """What one process has compiled is there for all."""

    def forbid():
        from fastbp.kernels import jit

        def compile(kernel, dtype, width):
            raise AssertionError(f"{kernel.name} is compiled again in {os.getpid()}")

        jit.Kernel.compile = compile

    DaskMLPClassifier(8, max_iter=1, client=client).fit(*spread_out(X, LABELS))
    client.restart(timeout=60)
    client.run(forbid)
    DaskMLPClassifier(8, max_iter=1, client=client).fit(*spread_out(X, LABELS))
    client.restart(timeout=60)
