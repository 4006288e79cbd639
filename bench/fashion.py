"""Fashion-MNIST: 784-128-10 in float32 by Adam, in batches of 128, from Debian's package dataset-fashion-mnist.

Estimators are fitted from a seed, in a new order of the rows in each epoch; torch and jax train from the same weights, with
the rows as they stand.
"""

import functools
import gzip
import itertools
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from networks import import_jax
from work import Work, bytes_of, kernel_of

import fastbp
from fastbp.profiling import rivals
from fastbp.profiling.workload import Workload
from fastbp.rule import Rule

FOLDER = Path(os.environ.get("FASTBP_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
UNITS, BATCH, EPOCHS, MOST_EPOCHS, RATE = (784, 128, 10), 128, 5, 12, 1e-3
WANTED = 0.87  # of the test rows
# Of so many test rows, which are told after each training, in a few milliseconds, a right one gets 0.86 to 0.89.
CHECKED_ROWS, LEAST, MOST = 2000, 0.85, 0.91


def read(name):
    """A file of the data set: numbers in bytes behind a header that ends with the lengths."""
    try:
        with gzip.open(FOLDER / name) as stream:
            content = stream.read()
    except FileNotFoundError:
        pytest.skip(f"no {FOLDER / name}")
    lengths = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(lengths)).reshape(lengths[0], -1)


@functools.cache
def rows(part):
    """X from 0 to 1, and labels, of "train" or "t10k"."""
    X, y = (read(f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return X.astype(np.float32) / 255, y[:, 0].astype(int)


@functools.cache
def problem():
    """The training of all rows in batches that are full, from weights as estimators draw them."""
    X, y = rows("train")
    rng, n = np.random.default_rng(0), len(X) // BATCH * BATCH
    bounds = [np.sqrt(6 / sum(shape)) for shape in itertools.pairwise(UNITS)]
    weights = [rng.uniform(-bound, bound, shape).astype(np.float32)
               for bound, shape in zip(bounds, itertools.pairwise(UNITS), strict=True)]  # fmt: skip
    biases = [np.zeros(size, np.float32) for size in UNITS[1:]]
    rule = Rule("softmax", "log_loss", "adam", learning_rate=RATE, momentum=0.9, reduction="row")
    return Workload(UNITS, ("relu",), rule, weights, biases, X[:n], np.eye(10, dtype=np.float32)[y[:n]], BATCH)


def fit_of(package):
    X, y = rows("train")

    def train(epochs):
        options = {"batch_size": BATCH, "learning_rate_init": RATE, "max_iter": epochs, "alpha": 0.0, "random_state": 0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            est = package.MLPClassifier(UNITS[1:-1], **options).fit(X, y)
        return est.coefs_ + est.intercepts_

    return train


def trainer(implementation):
    """train(epochs), which returns weights and biases."""
    match implementation:
        case "fastbp":
            return fit_of(fastbp)
        case "scikit-learn":
            from sklearn import neural_network

            return fit_of(neural_network)
        case "torch":
            pytest.importorskip("torch")
            return rivals.torch_eager(problem(), 1)
        case _:
            import_jax()
            return rivals.jax_loop(problem(), 1)


def accuracy(parameters, most=None):
    """Share of the test rows, or of so many of them, that are told right."""
    X, y = (one[:most] for one in rows("t10k"))
    V, W, b, c = parameters
    return float(np.mean((np.maximum(X @ V + b, 0) @ W + c).argmax(axis=1) == y))


def check(result):
    [[found]] = result
    assert LEAST <= found <= MOST, f"{found:.4f} of {CHECKED_ROWS} test rows are right after {EPOCHS} epochs"


def work(case, short):
    """Five epochs, and how many it takes to be as right as is wanted."""
    train, per_epoch = trainer(case.implementation), problem().flops_per_sample * len(rows("train")[0])
    notes = {}
    if not short:
        reached = (epochs for epochs in range(1, MOST_EPOCHS) if accuracy(train(epochs)) >= WANTED)
        notes["epochs_to_87"] = next(reached, None)

    def run(times):
        for _ in range(times):
            found = train(EPOCHS)
        return [np.array([accuracy(found, CHECKED_ROWS)])]

    kernel = kernel_of(problem().start().work) if case.implementation == "fastbp" else None
    return Work(run, check, samples=EPOCHS * len(rows("train")[0]), flops=EPOCHS * per_epoch, kernel=kernel, seconds=0,
                notes=notes, own_bytes=bytes_of(problem().weights, problem().biases),
                anew=lambda: train(EPOCHS))  # fmt: skip
