"""The two founding networks: fastbp against a straightforward numpy loop of the same equations."""

import functools

import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from work import Work, assert_close, bytes_of, kernel_of

from fastbp import NeuralNetwork
from fastbp.profiling.workload import of_network

# 10,000 updates carry a rounding error of 1e-16 or 1e-7 each, which a learning network amplifies by some powers of ten
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}


def s(z):
    return 1 / (1 + np.exp(-z))


def xor_loop(X, y, weights, biases, epochs, lr):
    """Squared error of every thousandth epoch, as the first script of this kind printed it."""
    (W1, W2), (b1, b2) = weights, biases
    printed = []
    for epoch in range(epochs):
        A1 = s(X @ W1 + b1)
        A2 = s(A1 @ W2 + b2)
        d2 = (A2 - y) * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        if epoch % 1000 == 0:
            printed.append(np.mean((y - A2) ** 2))
        W2 -= lr * A1.T @ d2
        b2 -= lr * d2.sum(axis=0)
        W1 -= lr * X.T @ d1
        b1 -= lr * d1.sum(axis=0)
    return np.array(printed)


def iris_loop(X, y, weights, biases, epochs, lr):
    """Loss of every epoch; the accuracy is computed and kept too, because the picture needs it."""
    W1, W2 = weights
    losses, accuracies = [], []
    for _ in range(epochs):
        A1 = s(X @ W1)
        A2 = s(A1 @ W2)
        error = A2 - y
        losses.append(np.sum(error**2) / (2 * y.size))
        accuracies.append(np.mean(A2.argmax(axis=1) == y.argmax(axis=1)))
        d2 = error * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        W2 -= lr * A1.T @ d2 / y.size
        W1 -= lr * X.T @ d1 / y.size
    return np.array(losses)


def xor():
    X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0.0], [1], [1], [0]])
    return X, y, xor_loop, {"hidden_size": 4}, {"epochs": 10_000, "learning_rate": 0.1}


def iris():
    X, labels = load_iris(return_X_y=True)
    X, _, y, _ = train_test_split(X, np.eye(3)[labels], test_size=20, random_state=4)
    network = {"hidden_size": 2, "bias": False, "init_scale": 0.5}
    return X, y, iris_loop, network, {"epochs": 5_000, "learning_rate": 0.1, "reduction": "mean"}


NETWORKS = {"xor": xor, "iris": iris}


def curve(name, history):
    return history.mse[::1000] if name == "xor" else history.loss


def start(name, dtype="float64"):
    X, y, _, network, _ = NETWORKS[name]()
    return NeuralNetwork(X.shape[1], output_size=y.shape[1], dtype=dtype, random_state=0, **network)


@functools.cache
def expected(name):
    """The curve that the numpy loop gives, and the parameters that it ends with."""
    X, y, loop, _, run = NETWORKS[name]()
    net = start(name)
    return [loop(X, y, net.weights, net.biases, run["epochs"], run["learning_rate"]), *net.weights, *net.biases]


def work(case, short):
    """A whole training, of which the time of an epoch is told."""
    X, y, loop, _, run = NETWORKS[case.subject]()
    X, y = X.astype(case.dtype), y.astype(case.dtype)
    net = start(case.subject, case.dtype)
    workload = of_network(net, X, y, batch_size=case.batch)

    def train(times):
        for _ in range(times):
            net = start(case.subject, case.dtype)
            if case.implementation == "numpy":
                curves = loop(X, y, net.weights, net.biases, run["epochs"], run["learning_rate"])
            else:
                curves = curve(case.subject, net.train(X, y, **run))
        return [curves, *net.weights, *net.biases]

    return Work(
        run=train,
        check=lambda result: assert_close(result, expected(case.subject), atol=TOLERANCE[case.dtype]),
        samples=len(X) * run["epochs"],
        per=run["epochs"],
        kernel=kernel_of(workload.start().work) if case.implementation == "fastbp" else None,
        rounds=20,
        seconds=0.02,
        own_bytes=bytes_of(net.weights, net.biases),
    )
