"""The two founding networks written out in numpy, with no loop over layers: what everything else has to agree with.

Both leave the initial parameters alone and return the trained ones, with the curves of a `fastbp.History` by name.
"""

import functools

import numpy as np

LEARNING_RATE = 0.1

XOR_X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR_Y = np.array([[0.0], [1.0], [1.0], [0.0]])


XOR_EPOCHS = 10_000
IRIS_EPOCHS = 5_000


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def xor_start():
    """Initial weights and biases."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, 4)), rng.normal(size=(4, 1))], [np.zeros(4), np.zeros(1)]


def train_xor(weights, biases, epochs):
    """2-4-1 with biases, gradients summed over the rows."""
    X, y = XOR_X, XOR_Y
    (W1, W2), (b1, b2) = map(np.copy, weights), map(np.copy, biases)
    mse, loss, accuracy = np.empty((3, epochs))
    for epoch in range(epochs):
        Z1 = X @ W1 + b1
        A1 = sigmoid(Z1)
        Z2 = A1 @ W2 + b2
        A2 = sigmoid(Z2)
        mse[epoch] = np.mean((y - A2) ** 2)
        loss[epoch] = np.sum((y - A2) ** 2) / 2
        accuracy[epoch] = np.mean((A2 >= 0.5) == (y == 1))
        d2 = (A2 - y) * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        W2 -= LEARNING_RATE * A1.T @ d2
        b2 -= LEARNING_RATE * np.sum(d2, axis=0)
        W1 -= LEARNING_RATE * X.T @ d1
        b1 -= LEARNING_RATE * np.sum(d1, axis=0)
    return [W1, W2], [b1, b2], {"mse": mse, "loss": loss, "accuracy": accuracy}


@functools.cache
def trained_xor():
    return train_xor(*xor_start(), XOR_EPOCHS)


@functools.cache
def iris():
    """X_train, X_test, y_train, y_test with one-hot targets: 130 rows to train on, 20 to test."""
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    X, labels = load_iris(return_X_y=True)
    return train_test_split(X, np.eye(3)[labels], test_size=20, random_state=4)


def iris_start():
    """Initial weights."""
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.5, (4, 2)), rng.normal(0, 0.5, (2, 3))]


def train_iris(X, y, weights, epochs):
    """4-2-3 without biases, gradients divided by the number of target elements."""
    W1, W2 = map(np.copy, weights)
    N = y.size
    mse, loss, accuracy = np.empty((3, epochs))
    for epoch in range(epochs):
        A1 = sigmoid(X @ W1)
        A2 = sigmoid(A1 @ W2)
        mse[epoch] = np.mean((A2 - y) ** 2)
        loss[epoch] = np.sum((A2 - y) ** 2) / (2 * y.size)
        accuracy[epoch] = np.mean(A2.argmax(axis=1) == y.argmax(axis=1))
        d2 = (A2 - y) * A2 * (1 - A2)
        d1 = (d2 @ W2.T) * A1 * (1 - A1)
        W2 -= LEARNING_RATE * A1.T @ d2 / N
        W1 -= LEARNING_RATE * X.T @ d1 / N
    return [W1, W2], {"mse": mse, "loss": loss, "accuracy": accuracy}


@functools.cache
def trained_iris():
    X, _, y, _ = iris()
    return train_iris(X, y, iris_start(), IRIS_EPOCHS)
