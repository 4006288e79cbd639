"""The same training by fastbp, its reference, a numpy loop, scikit-learn, torch and jax.

Each function here takes a `Problem` and returns train(epochs), which trains from the problem's start and returns weights and
biases. A library that is not installed skips the bench.
"""

import itertools
import os
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from fastbp import NeuralNetwork, reference
from fastbp.layout import CURSOR_SIZE, RECORD_SIZE, Layout
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.workspace import workspace_for_training


@dataclass(frozen=True)
class Problem:
    """A network of sigmoid layers at its start, and what it is trained on: plain SGD on the squared error."""

    units: tuple
    batch: int
    X: np.ndarray
    Y: np.ndarray
    weights: list
    biases: list
    learning_rate: float = 0.5
    out_activation: str = "logistic"
    reduction: str = "mean"

    @property
    def steps(self):
        """Of an epoch."""
        return len(self.X) // self.batch

    @property
    def flops(self):
        """Of a step: three products per layer, two in the first, whose inputs need no delta."""
        products = [n_in * n_out for n_in, n_out in itertools.pairwise(self.units)]
        return self.batch * (6 * sum(products) - 2 * products[0])

    @property
    def layout(self):
        return Layout(self.units, self.X.dtype, True, [ACTIVATIONS.index("logistic")] * (len(self.units) - 2))

    @property
    def kernel(self):
        """Which one fastbp chooses."""
        work = workspace_for_training(self.layout, len(self.X), self.batch, shuffled=False)
        return type(work).__name__.removesuffix("Workspace").lower()

    def start(self):
        """Copies of weights and biases."""
        return [w.copy() for w in self.weights], [b.copy() for b in self.biases]

    def batches(self):
        """Pairs of rows of X and Y."""
        starts = range(0, len(self.X), self.batch)
        return [(self.X[row : row + self.batch], self.Y[row : row + self.batch]) for row in starts]


def new_problem(units, batch, rows, dtype):
    """Normal inputs, uniform targets, weights that keep the layers' sums near 1; rows is a multiple of batch."""
    rng = np.random.default_rng(0)
    weights = [(rng.normal(size=shape) / np.sqrt(shape[0])).astype(dtype) for shape in itertools.pairwise(units)]
    biases = [rng.normal(size=n_out).astype(dtype) for n_out in units[1:]]
    X, Y = rng.normal(size=(rows, units[0])), rng.uniform(size=(rows, units[-1]))
    return Problem(units, batch, X.astype(dtype), Y.astype(dtype), weights, biases)


def with_identity_output(problem):
    """What scikit-learn can train: it has no sigmoid output with squared error, and divides by the rows alone."""
    return replace(problem, out_activation="identity", reduction="row", learning_rate=5e-3)


def fastbp(problem, n_jobs=None):
    def train(epochs):
        dtype, (n_in, *hidden, n_out) = problem.X.dtype, problem.units
        net = NeuralNetwork(n_in, hidden, n_out, dtype=dtype, n_jobs=n_jobs, random_state=0)
        net.weights, net.biases = problem.weights, problem.biases
        options = {"batch_size": problem.batch, "reduction": problem.reduction}
        net.train(problem.X, problem.Y, epochs, problem.learning_rate, **options)
        return net.weights + net.biases

    return train


def fastbp_on_two(problem):
    return fastbp(problem, n_jobs=2)


def fastbp_reference(problem):
    layout, dtype = problem.layout, problem.X.dtype
    rule = Rule(
        out_activation=problem.out_activation, learning_rate=problem.learning_rate, reduction=problem.reduction
    ).numbers(problem.units[-1])
    layers = layout.layers.tolist()  # slicing with numpy's integers would take half of the time

    def train(epochs):
        params = layout.gather(problem.weights, problem.biases)
        state, row_weights = np.empty((0, layout.size), dtype), np.empty(0, dtype)
        order = np.empty((0, len(problem.X)), np.int64)
        cursor, record = np.zeros(CURSOR_SIZE, np.int64), np.zeros((epochs, RECORD_SIZE))
        reference.train(
            layers, params, state, problem.X, problem.Y, row_weights, order, problem.batch, rule,
            epochs * problem.steps, cursor, record, None,
        )  # fmt: skip
        weights, biases = layout.views(params)
        return weights + biases

    return train


def numpy_loop(problem):
    batches = problem.batches()

    def train(epochs):
        weights, biases = problem.start()
        for _ in range(epochs):
            for x, y in batches:
                taken = [x]
                for w, b in zip(weights, biases, strict=True):
                    taken.append(1 / (1 + np.exp(-(taken[-1] @ w + b))))
                a = taken.pop()
                delta = (a - y) * a * (1 - a) * (problem.learning_rate / y.size)
                for level in reversed(range(len(weights))):
                    a, w, step = taken[level], weights[level], delta
                    if level:
                        delta = (step @ w.T) * a * (1 - a)
                    w -= a.T @ step
                    biases[level] -= step.sum(axis=0)
        return weights + biases

    return train


def scikit_learn(problem):
    net = MLPRegressor(
        hidden_layer_sizes=problem.units[1:-1],
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=problem.batch,
        learning_rate_init=problem.learning_rate,
        shuffle=False,
        momentum=0,
        nesterovs_momentum=False,
        warm_start=True,
        tol=0,
        n_iter_no_change=10**9,
    )
    y = problem.Y.ravel() if problem.units[-1] == 1 else problem.Y

    def train(epochs):
        net.coefs_, net.intercepts_ = problem.start()
        net.set_params(max_iter=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(problem.X, y)
        return net.coefs_ + net.intercepts_

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.set_params(max_iter=1).fit(problem.X, y)  # from now on it goes on from the weights it has
    return train


def torch_eager(problem):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in problem.batches()]

    def train(epochs):
        weights, biases = ([torch.from_numpy(one).requires_grad_() for one in some] for some in problem.start())
        optimizer = torch.optim.SGD(weights + biases, problem.learning_rate)
        for _ in range(epochs):
            for a, y in batches:
                for w, b in zip(weights, biases, strict=True):
                    a = torch.sigmoid(torch.addmm(b, a, w))
                optimizer.zero_grad()
                (torch.nn.functional.mse_loss(a, y) / 2).backward()
                optimizer.step()
        return [one.detach().numpy() for one in weights + biases]

    return train


def jax_loop(problem):
    # one thread, said before the import that reads it
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jnp, lax = jax.numpy, jax.lax
    rate = jnp.asarray(problem.learning_rate, problem.X.dtype)
    X = jnp.asarray(problem.X).reshape(problem.steps, problem.batch, -1)
    Y = jnp.asarray(problem.Y).reshape(problem.steps, problem.batch, -1)

    def loss(parameters, x, y):
        for w, b in zip(*parameters, strict=True):
            x = jax.nn.sigmoid(x @ w + b)
        return jnp.mean((x - y) ** 2) / 2

    def step(parameters, xy):
        value, gradient = jax.value_and_grad(loss)(parameters, *xy)
        return jax.tree.map(lambda p, g: p - rate * g, parameters, gradient), value

    @jax.jit
    def run(parameters, epochs):
        return lax.fori_loop(0, epochs, lambda _, parameters: lax.scan(step, parameters, (X, Y))[0], parameters)

    def train(epochs):
        weights, biases = jax.block_until_ready(run(jax.tree.map(jnp.asarray, problem.start()), epochs))
        return [np.asarray(one) for one in weights + biases]

    return train


IMPLEMENTATIONS = {
    "fastbp": fastbp,
    "fastbp n_jobs=2": fastbp_on_two,
    "numpy": numpy_loop,
    "reference": fastbp_reference,
    "scikit-learn": scikit_learn,
    "torch": torch_eager,
    "jax": jax_loop,
}
