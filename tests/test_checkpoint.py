"""Checkpoints: whatever ends a program, the fit that goes on from the file ends in the bits of an uninterrupted one."""

import functools
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings

import draws
import numpy as np
import pytest
from processes import environment
from scipy import sparse

from fastbp import MLPClassifier, MLPRegressor, ModelFileError, TabularClassifier, TabularRegressor, files
from fastbp.estimators import checkpoint as checkpoints
from fastbp.estimators import fitting

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:Got `batch_size`")


class Ended(Exception):
    """A program ends."""


def drawn(rng):
    """An estimator, as a function that makes it, and its rows."""
    classifies = bool(rng.integers(2))
    settings = {
        "hidden_layer_sizes": (int(rng.integers(1, 9)),), "solver": str(rng.choice(["sgd", "adam"])),
        "learning_rate": str(rng.choice(["constant", "adaptive", "invscaling"])), "shuffle": bool(rng.integers(2)),
        "tol": float(rng.choice([1e-4, 0.05])), "n_iter_no_change": int(rng.integers(1, 8)),
        "early_stopping": bool(rng.integers(2)), "dropout": float(rng.choice([0, 0.3])),
        "max_iter": int(rng.integers(1, 60)), "batch_size": int(rng.integers(1, 40)),
        "learning_rate_init": 0.02, "momentum": float(rng.choice([0, 0.9])),
    }  # fmt: skip
    X = rng.normal(size=(60, 3)).astype(rng.choice(["float32", "float64"]))
    y = (np.array(["no", "yes", "perhaps"])[rng.integers(0, 3, 60)]) if classifies else X[:, 0] - X[:, 1] ** 2
    seed = [0, None, "state"][rng.integers(3)]
    kind = MLPClassifier if classifies else MLPRegressor
    return functools.partial(kind, **settings), seed, sparse.csr_matrix(X) if rng.random() < 0.2 else X, y


def plain(value):
    """Arrays as their bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):  # of which nan is one
        return np.float64(value).tobytes()
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def found(est):
    """What a fit has found, bit for bit."""
    return {name: plain(value) for name, value in vars(est).items() if name not in est.get_params()}


def ending(monkeypatch):
    """A list of how many more writings the program outlives."""
    kept, left = checkpoints.Checkpoint.save, [0]

    def save(checkpoint, epochs, stopped=False):
        kept(checkpoint, epochs, stopped)
        left[0] -= 1
        if left[0] < 0 and not stopped:
            raise Ended

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    return left


@pytest.mark.parametrize("number", range(draws.examples(40)))
def test_a_fit_goes_on_to_the_same_bits(number, monkeypatch, tmp_path):
    """It ends after any writing, also in the middle of an epoch, and as often as can be."""
    rng = np.random.default_rng([int(draws.SEED), number])
    new, seed, X, y = drawn(rng)
    chunk_rows = [None, int(rng.integers(7, 60))][rng.integers(2)]
    monkeypatch.setattr("fastbp.training.FIRST_CALL_FLOPS", float(rng.choice([1e3, 1e4, 1e8])))  # steps of a call
    monkeypatch.setattr("fastbp.training.CALL_SECONDS", 1e-9)
    monkeypatch.setattr(fitting, "AHEAD_GROWTH", float(rng.choice([0, 4])))

    def state():
        return np.random.RandomState(5) if seed in ("state", None) else seed

    if seed is None:  # the numbers of a first fit are nobody's to know
        monkeypatch.setattr("fastbp.estimators.perceptron.check_random_state", lambda seed: np.random.RandomState(5))
    try:
        expected = new(random_state=None if seed is None else state()).fit(X, y, chunk_rows=chunk_rows)
    except ValueError:  # it diverges
        return
    path, left = tmp_path / "run.fastbp", ending(monkeypatch)
    for _ in range(10_000):
        left[0] = int(rng.integers(1, 6))
        est = new(random_state=None if seed is None else state())
        try:
            est.fit(X, y, checkpoint=path, every=0, chunk_rows=chunk_rows)
            break
        except Ended:
            pass
    assert found(est) == found(expected)
    left[0] = 10
    again = new(random_state=None if seed is None else state())
    again.fit(X, y, checkpoint=path, every=0, chunk_rows=chunk_rows)  # it had come to its end
    assert found(again) == found(expected)


@pytest.mark.parametrize("number", range(draws.examples(16)))
def test_a_fit_of_a_table_goes_on_to_the_same_bits(number, monkeypatch, tmp_path):
    rng = np.random.default_rng([int(draws.SEED), number])
    kind, rows = (TabularClassifier, TabularRegressor)[rng.integers(2)], int(rng.choice([60, 150]))
    table = rng.normal(size=(rows, 3))
    y = table[:, 0] > 0 if kind is TabularClassifier else table[:, 0] * 3
    settings = {
        "max_iter": int(rng.integers(1, 30)), "hidden_layer_sizes": (5,), "n_iter_no_change": int(rng.integers(1, 9)),
        "dropout": float(rng.choice([0, 0.2])), "early_stopping": bool(rng.integers(2)), "random_state": 0,
    }  # fmt: skip
    monkeypatch.setattr("fastbp.training.FIRST_CALL_FLOPS", float(rng.choice([1e3, 1e8])))  # steps of a call
    monkeypatch.setattr("fastbp.training.CALL_SECONDS", 1e-9)
    expected = kind(**settings).fit(table, y)
    path, left = tmp_path / "run.fastbp", ending(monkeypatch)
    for _ in range(10_000):
        left[0] = int(rng.integers(1, 6))
        try:
            est = kind(**settings).fit(table, y, checkpoint=path, every=0)
            break
        except Ended:
            pass
    assert found(est.network_) == found(expected.network_)
    assert est.predict(table).tobytes() == expected.predict(table).tobytes()
    with pytest.raises(ValueError, match="of other data or parameters"):
        kind(**settings | {"max_iter": 99}).fit(table, y, checkpoint=path)


PROGRAM = """
import sys, warnings
import numpy as np
from fastbp import MLPClassifier
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(2000, 20))
y = (X[:, :3] ** 2).sum(axis=1) > 2
print("begun", flush=True)
est = MLPClassifier((64, 64), max_iter=40, random_state=0, tol=0)
est.fit(X, y, checkpoint=sys.argv[1], every=0, chunk_rows=int(sys.argv[3]))
est.save(sys.argv[2])
"""


@pytest.mark.compiled
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("chunk_rows", [300, 2000])
def test_a_killed_program_goes_on(chunk_rows, tmp_path):
    """Killed at any moment, in the middle of writing as well."""
    rng, ends, kills = random.Random(draws.SEED), [], 0

    def run(name, seconds=None):
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            str(tmp_path / f"{name}.run"),
            str(tmp_path / f"{name}.npz"),
            str(chunk_rows),
        ]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if seconds is not None:
                time.sleep(seconds)
                process.kill()
        return process.returncode

    assert run("whole") == 0
    for number in range(draws.examples(8)):
        patience = 0.3  # more each time: on a busy machine it takes long to come to the first epoch
        while run(number, rng.uniform(0, patience)):
            kills, patience = kills + 1, patience + 0.1
        ends.append((tmp_path / f"{number}.npz").read_bytes())
    assert kills
    assert set(ends) == {(tmp_path / "whole.npz").read_bytes()}


def new(**settings):
    return MLPClassifier(**{"hidden_layer_sizes": 4, "max_iter": 5, "random_state": 0} | settings)


X = np.random.default_rng(0).normal(size=(40, 3))
LABELS = (X[:, 0] > 0).astype(int)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.fastbp"


def test_a_finished_fit_goes_on_for_more_epochs(path):
    new(max_iter=5).fit(X, LABELS, checkpoint=path)
    longer = new(max_iter=12).fit(X, LABELS, checkpoint=path)
    assert found(longer) == found(new(max_iter=12).fit(X, LABELS))


@pytest.mark.parametrize(
    "change",
    [
        lambda: (new(alpha=0.1), X, LABELS, {}),
        lambda: (new(hidden_layer_sizes=5), X, LABELS, {}),
        lambda: (new(), X + 1, LABELS, {}),
        lambda: (new(), X.astype("float32"), LABELS, {}),
        lambda: (new(), X, 1 - LABELS, {}),
        lambda: (new(), X, LABELS + 3, {}),
        lambda: (new(), X, LABELS, {"sample_weight": np.linspace(1, 2, 40)}),
        lambda: (new(), X, LABELS, {"X_val": X, "y_val": LABELS}),
        lambda: (new(random_state=1), X, LABELS, {}),
        lambda: (new(random_state=np.int64(1)), X, LABELS, {}),
        lambda: (new(random_state=np.random.RandomState(1)), X, LABELS, {}),
    ],
)
def test_another_fit_is_refused_and_the_file_stays(path, change):
    new().fit(X, LABELS, checkpoint=path)
    before = path.read_bytes()
    est, rows, y, more = change()
    est.fit(rows, y, **more)
    known, state = found(est), pickle.dumps(est.random_state)
    with pytest.raises(ValueError, match="of other data or parameters"):
        est.fit(rows, y, checkpoint=path, **more)
    assert path.read_bytes() == before
    assert found(est) == known
    assert pickle.dumps(est.random_state) == state


def test_another_seed_of_a_table_is_refused(path):
    TabularClassifier(random_state=0, max_iter=3).fit(X, LABELS, checkpoint=path)
    with pytest.raises(ValueError, match="of other data or parameters"):
        TabularClassifier(random_state=1, max_iter=3).fit(X, LABELS, checkpoint=path)


def test_a_refusal_leaves_a_fitted_table_as_it_was(path):
    TabularClassifier(random_state=0, max_iter=3).fit(X, LABELS, checkpoint=path)
    est = TabularClassifier(random_state=0, max_iter=3).fit(X, LABELS)
    expected = est.predict_proba(X)
    with pytest.raises(ValueError, match="of other data or parameters"):
        est.fit(X**3, LABELS, checkpoint=path)  # a scale alone is the same to a table
    assert est.predict_proba(X).tobytes() == expected.tobytes()


def test_fewer_epochs_than_there_were_are_refused(path):
    new(max_iter=5).fit(X, LABELS, checkpoint=path)
    with pytest.raises(ValueError, match="max_iter must be at least 5, the epochs so far, got 3"):
        new(max_iter=3).fit(X, LABELS, checkpoint=path)


def test_a_fit_that_is_killed_before_its_last_writing_stops_where_it_would_have(path, monkeypatch):
    monkeypatch.setattr(fitting, "AHEAD_LEAST", 1)
    monkeypatch.setattr(fitting, "AHEAD_MOST", 1)
    settings = {"max_iter": 500, "tol": 1e-3, "n_iter_no_change": 3, "learning_rate_init": 0.05}
    expected, kept = new(**settings).fit(X, LABELS), checkpoints.Checkpoint.save

    def save(checkpoint, epochs, stopped=False):
        if stopped:
            raise Ended
        kept(checkpoint, epochs, stopped)

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    with pytest.raises(Ended):
        new(**settings).fit(X, LABELS, checkpoint=path, every=0)
    monkeypatch.setattr(checkpoints.Checkpoint, "save", kept)
    assert found(new(**settings).fit(X, LABELS, checkpoint=path, every=0)) == found(expected)


def test_a_disk_that_is_full_for_a_while_ends_no_training(path, monkeypatch):
    write, count = files.write, []

    def full(*given):
        count.append(given)
        if 2 < len(count) < 6:
            raise OSError(28, "No space left on device")
        write(*given)

    monkeypatch.setattr(files, "write", full)
    monkeypatch.setattr(fitting, "AHEAD_GROWTH", 0)
    with pytest.warns(UserWarning, match=r"checkpoint .* could not be written: .*No space left"):
        est = new(max_iter=40).fit(X, LABELS, X_val=X, y_val=LABELS, checkpoint=path, every=0)
    assert est.n_iter_ == 40
    assert len(count) > 6


@pytest.mark.parametrize("settings", [{"shuffle": False}, {"batch_size": 40}, {"n_iter_no_change": 1000}])
def test_it_is_written_when_it_is_due(settings, path, monkeypatch):
    """Calls are cut where scratch memory has nothing that is needed."""
    monkeypatch.setattr("fastbp.training.FIRST_CALL_FLOPS", 1e4)
    monkeypatch.setattr("fastbp.training.CALL_SECONDS", 1e-9)
    monkeypatch.setattr(fitting, "AHEAD_GROWTH", 0)
    written, kept = [], checkpoints.Checkpoint.save
    monkeypatch.setattr(checkpoints.Checkpoint, "save", lambda *given: written.append(given) or kept(*given))
    new(hidden_layer_sizes=30, max_iter=30, tol=0, **settings).fit(X, LABELS, checkpoint=path, every=0)
    assert len(written) > 25


def test_what_is_no_checkpoint_is_refused_and_stays(path):
    new().fit(X, LABELS, checkpoint=path)
    content = path.read_bytes()
    model = new().fit(X, LABELS)
    for number, place in enumerate([0, len(content) // 2, len(content) - 3]):
        damaged = bytearray(content)
        damaged[place] ^= 1
        for wrong in (bytes(damaged), content[:place], b"", b"text"):
            path.write_bytes(wrong)
            with pytest.raises(ModelFileError, match=r"run\.fastbp"):
                new().fit(X, LABELS, checkpoint=path)
            assert path.read_bytes() == wrong, number
    model.save(path)
    with pytest.raises(ModelFileError, match="format must be 'fastbp checkpoint', got 'fastbp estimator'"):
        new().fit(X, LABELS, checkpoint=path)


def test_what_goes_with_no_checkpoint(path, tmp_path):
    for est, message in (
        (new(solver="lbfgs"), "solver 'sgd' or 'adam', got .*run.fastbp' with solver='lbfgs'"),
        (new(warm_start=True), "warm_start=False, got .* with True"),
        (TabularClassifier(n_estimators=2), "n_estimators=1, got .* with 2"),
        (TabularClassifier(max_seconds=9), "max_seconds=None, got .* with 9"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint needs {message}"):
            est.fit(X, LABELS, checkpoint=path)
    for every in (-1, "often", True, np.nan):
        with pytest.raises(ValueError, match="every must be seconds, >= 0"):
            new().fit(X, LABELS, checkpoint=path, every=every)
    with pytest.raises(OSError, match="nowhere"):  # before anything is trained
        new(max_iter=10**9).fit(X, LABELS, checkpoint=tmp_path / "nowhere" / "run.fastbp")
    assert not path.exists()


def test_it_is_written_as_often_as_asked(path, monkeypatch):
    written, now, kept = [], [0.0], checkpoints.Checkpoint.save
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now.append(now[-1] + 1) or now[-1])
    monkeypatch.setattr(checkpoints.Checkpoint, "save", lambda *given: written.append(now[-1]) or kept(*given))
    monkeypatch.setattr(fitting, "AHEAD_GROWTH", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new(max_iter=300, n_iter_no_change=1000).fit(X, LABELS, X_val=X, y_val=LABELS, checkpoint=path, every=20)
    assert 10 < len(written) < 50
