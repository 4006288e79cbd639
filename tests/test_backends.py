"""Many fits under joblib's backends of dask and ray: the bits of serial ones, data sent once, a thread for each task."""

import os

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_predict

from fastbp import MLPClassifier, MLPEnsembleClassifier, NeuralNetwork, train_many
from fastbp.training import usable_threads

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings(
        "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning",
        "ignore::FutureWarning", "ignore::pytest.PytestUnraisableExceptionWarning",
    ),
]  # fmt: skip
RNG = np.random.default_rng(0)
X = RNG.normal(size=(3000, 20)).astype(np.float32)
LABELS = X[:, :3].argmax(axis=1)


@pytest.fixture(scope="module")
def dask_client():
    pytest.importorskip("distributed")
    from clusters import cluster_of

    with cluster_of({}, {}) as client:
        yield client


@pytest.fixture(scope="module")
def ray_cluster():
    ray = pytest.importorskip("ray")
    from processes import environment
    from ray.util.joblib import register_ray

    env = {name: environment()[name] for name in ("PYTHONPATH", "NUMBA_CACHE_DIR") if name in environment()}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": env})
    register_ray()
    yield
    ray.shutdown()


@pytest.fixture(params=["dask", "ray"])
def backend(request):
    """The name of a backend that works in two processes."""
    request.getfixturevalue({"dask": "dask_client", "ray": "ray_cluster"}[request.param])
    return request.param


def searched(n_jobs=None):
    """Scores of a search, and the weights of the best fit."""
    grid = {"alpha": [1e-4, 1.0], "solver": ["adam", "lbfgs"]}
    est = MLPClassifier(12, max_iter=4, random_state=0, n_jobs=-1)
    found = GridSearchCV(est, grid, cv=3, n_jobs=n_jobs).fit(X, LABELS)
    results = [array.tobytes() for name, array in found.cv_results_.items() if "_test_score" in name]
    return [*results, *(array.tobytes() for array in found.best_estimator_.coefs_)]


def test_a_search_finds_the_bits_of_a_serial_one(backend):
    serial = searched()
    with joblib.parallel_config(backend, n_jobs=2):
        assert searched() == serial


def test_an_ensemble_and_predictions_of_splits(backend):
    est = MLPEnsembleClassifier(n_estimators=3, hidden_layer_sizes=6, max_iter=3, random_state=0, n_jobs=-1)
    serial = est.fit(X, LABELS).predict_proba(X), cross_val_predict(est, X, LABELS, cv=2, method="predict_proba")
    with joblib.parallel_config(backend, n_jobs=2):
        found = est.fit(X, LABELS).predict_proba(X), cross_val_predict(est, X, LABELS, cv=2, method="predict_proba")
    for one, other in zip(found, serial, strict=True):
        assert one.tobytes() == other.tobytes()


def trained(seeds):
    """Weights of many networks."""
    nets = [NeuralNetwork(20, 6, 3, random_state=seed, dtype="float32") for seed in seeds]
    train_many(nets, X, np.eye(3)[LABELS], 2, batch_size=50, n_jobs=-1, shuffle=True)
    return [array.tobytes() for net in nets for array in net.weights]


def test_many_networks(backend):
    groups = [range(4), range(4, 9), range(9, 11)]
    serial = [trained(seeds) for seeds in groups]
    with joblib.parallel_config(backend, n_jobs=2):
        assert trained(groups[0]) == serial[0]
        assert joblib.Parallel()(joblib.delayed(trained)(seeds) for seeds in groups) == serial


def inside(_):
    """What a task sees."""
    return usable_threads(-1), usable_threads(2), os.getpid()


def test_a_task_has_one_thread(backend):
    assert usable_threads(2) == min(2, joblib.cpu_count())
    with joblib.parallel_config(backend, n_jobs=2):
        found = joblib.Parallel()(joblib.delayed(inside)(number) for number in range(8))
    assert {one[:2] for one in found} == {(1, 1)}
    assert os.getpid() not in {one[2] for one in found}


def test_data_are_sent_once(dask_client):
    """A worker has one copy of the rows, and is given it once, however many fits it has."""
    size = X.nbytes

    def scoring(est, X, y):
        from distributed import get_worker

        worker = get_worker()
        held = sum(getattr(value, "nbytes", 0) == size for value in dict(worker.data).values())
        return {"held": held, "received": sum(one["total"] for one in worker.transfer_incoming_log), "accuracy": 0.0}

    dask_client.restart(timeout=60)
    est = MLPClassifier(6, max_iter=2, random_state=0)
    with joblib.parallel_config("dask"):
        search = GridSearchCV(est, {"alpha": np.geomspace(1e-4, 1, 10)}, cv=3, refit=False, scoring=scoring)
        found = search.fit(X, LABELS).cv_results_
    columns = {
        name: np.concatenate([found[f"split{split}_test_{name}"] for split in range(3)]) for name in ("held", "received")
    }
    assert set(columns["held"]) == {1}
    assert columns["received"].max() < 1.5 * size


def test_workers_find_kernels(dask_client):
    """They compile nothing that another process has compiled."""

    def forbid():
        from fastbp.kernels import jit

        jit.Kernel.compile = None

    MLPClassifier(12, max_iter=1).fit(X, LABELS).score(X, LABELS)
    dask_client.restart(timeout=60)
    dask_client.run(forbid)
    with joblib.parallel_config("dask"):
        GridSearchCV(MLPClassifier(12, max_iter=1), {"alpha": [1, 2]}, cv=2, refit=False, error_score="raise").fit(X, LABELS)
    dask_client.restart(timeout=60)
