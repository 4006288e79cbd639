"""The same training by fastbp, its reference, a numpy loop, scikit-learn, torch and jax: whole epochs, or single steps.

Each implementation takes a `Problem` and returns train(epochs), which trains from the problem's start and returns weights
and biases. A library that is not installed skips the bench.
"""

import functools
import itertools
import os
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from work import Work, assert_close, kernel_of

from fastbp import NeuralNetwork, reference
from fastbp.choice import workspace_for_training
from fastbp.layout import CURSOR_SIZE, RECORD_SIZE, Layout
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.training import Run

CHECKED_EPOCHS = 3
# Difference from the reference in float64, as a share of what training has changed in an array at most. Rounding a weight at
# every step costs digits of a change that is smaller than the weight: some 100 to 1000 times in the widest of these networks
# after a few steps, which have been seen to cost 5e-3 and 3e-13.
TOLERANCE = {"float32": 2e-2, "float64": 1e-11}
# Of a step, from which on a round is long enough to make little of what starting a training takes.
LONG_FLOPS = 5e8
MOMENTUM = 0.9
# Nothing beside the roots that it is added to, because torch adds it elsewhere than the others do.
EPSILON = 1e-20


@dataclass(frozen=True)
class Problem:
    """A network of sigmoid layers at its start, and what it is trained on: the squared error."""

    units: tuple
    batch: int
    X: np.ndarray
    Y: np.ndarray
    weights: list
    biases: list
    learning_rate: float = 0.5
    out_activation: str = "logistic"
    reduction: str = "mean"
    solver: str = "sgd"

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
        return Layout(self.units, self.X.dtype, True, self.activations)

    @property
    def activations(self):
        return [ACTIVATIONS.index("logistic")] * (len(self.units) - 2)

    @property
    def rule(self):
        options = {"learning_rate": self.learning_rate, "reduction": self.reduction, "epsilon": EPSILON}
        return Rule(out_activation=self.out_activation, solver=self.solver, momentum=MOMENTUM, **options)

    @property
    def kernel(self):
        """Which one fastbp chooses."""
        return kernel_of(workspace_for_training(self.layout, len(self.X), self.batch, shuffled=False))

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
    dtype, (n_in, *hidden, n_out) = problem.X.dtype, problem.units
    net = NeuralNetwork(n_in, hidden, n_out, dtype=dtype, n_jobs=n_jobs, random_state=0)
    options = {"batch_size": problem.batch, "reduction": problem.reduction}

    def train(epochs):
        net.weights, net.biases = problem.start()
        net.train(problem.X, problem.Y, epochs, problem.learning_rate, **options)
        return net.weights + net.biases

    return train


def fastbp_on_two(problem):
    return fastbp(problem, n_jobs=2)


def fastbp_steps(problem):
    """One call into the kernel for each step."""
    weights, biases = problem.start()
    run = Run(
        weights, biases, problem.X, problem.Y, rule=problem.rule, activations=problem.activations, batch_size=problem.batch
    )

    def train(epochs):
        run.state.take(*problem.start())
        run.work.state[:], run.cursor[:], run.record = 0, 0, np.zeros((epochs, RECORD_SIZE))
        for _ in range(epochs * run.work.blocks_per_epoch):
            run.advance(1)
        weights, biases = run.state.parameters()
        return weights + biases

    return train


def fastbp_reference(problem):
    layout, dtype, rule = problem.layout, problem.X.dtype, problem.rule
    numbers = rule.numbers(problem.units[-1])
    layers = layout.layers.tolist()  # slicing with numpy's integers would take half of the time

    def train(epochs):
        params = layout.gather(problem.weights, problem.biases)
        state, row_weights = np.zeros((rule.moments, layout.size), dtype), np.empty(0, dtype)
        order = np.empty((0, len(problem.X)), np.int64)
        cursor, record = np.zeros(CURSOR_SIZE, np.int64), np.zeros((epochs, RECORD_SIZE))
        with np.errstate(divide="ignore", invalid="ignore"):  # Adam, in the padding: 0 / (0 + EPSILON)
            reference.train(
                layers, params, state, problem.X, problem.Y, row_weights, order, problem.batch, numbers,
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


def new_regressor(problem):
    """scikit-learn's network, fitted once, so that from now on it goes on from the weights that it is given."""
    momentum = {"momentum": MOMENTUM, "nesterov": MOMENTUM}.get(problem.solver, 0)
    net = MLPRegressor(
        hidden_layer_sizes=problem.units[1:-1],
        activation="logistic",
        solver="adam" if problem.solver == "adam" else "sgd",
        alpha=0,
        batch_size=problem.batch,
        learning_rate_init=problem.learning_rate,
        shuffle=False,
        momentum=momentum,
        nesterovs_momentum=problem.solver == "nesterov",
        epsilon=EPSILON,
        warm_start=True,
        tol=0,
        n_iter_no_change=10**9,
        max_iter=1,
    )
    y = problem.Y.ravel() if problem.units[-1] == 1 else problem.Y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(problem.X, y)
    return net, y


def scikit_learn(problem):
    net, y = new_regressor(problem)

    def train(epochs):
        net.coefs_, net.intercepts_ = problem.start()
        net.set_params(max_iter=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(problem.X, y)
        return net.coefs_ + net.intercepts_

    return train


def scikit_learn_steps(problem):
    net, y = new_regressor(problem)

    def train(epochs):
        net.coefs_, net.intercepts_ = problem.start()
        del net._optimizer  # its moments
        for _ in range(epochs):
            net.partial_fit(problem.X, y)
        return net.coefs_ + net.intercepts_

    return train


def torch_eager(problem):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in problem.batches()]
    optim, half = torch.optim, (problem.units[-1] if problem.reduction == "row" else 1) / 2
    optimizer_of = {
        "sgd": optim.SGD,
        "momentum": functools.partial(optim.SGD, momentum=MOMENTUM),
        "nesterov": functools.partial(optim.SGD, momentum=MOMENTUM, nesterov=True),
        "adam": functools.partial(optim.Adam, eps=EPSILON),
    }

    def train(epochs):
        weights, biases = ([torch.from_numpy(one).requires_grad_() for one in some] for some in problem.start())
        optimizer = optimizer_of[problem.solver](weights + biases, lr=problem.learning_rate)
        for _ in range(epochs):
            for a, y in batches:
                for level, (w, b) in enumerate(zip(weights, biases, strict=True), 1):
                    a = torch.addmm(b, a, w)
                    if level < len(weights) or problem.out_activation == "logistic":
                        a = torch.sigmoid(a)
                optimizer.zero_grad()
                (torch.nn.functional.mse_loss(a, y) * half).backward()
                optimizer.step()
        return [one.detach().numpy() for one in weights + biases]

    return train


def import_jax():
    """The module with one thread, which is said before the import that reads it."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def jax_update(jax, problem):
    """update(parameters, gradient, moments, t) of the solver; `moments` are two trees."""
    jnp, tree, rate = jax.numpy, jax.tree, problem.learning_rate

    def update(p, g, moments, t):
        m, v = moments
        if problem.solver == "adam":
            m = tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
            factor = rate * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            return tree.map(lambda p, m, v: p - factor.astype(p.dtype) * m / (jnp.sqrt(v) + EPSILON), p, m, v), (m, v)
        if problem.solver == "sgd":
            return tree.map(lambda p, g: p - rate * g, p, g), moments
        m = tree.map(lambda m, g: MOMENTUM * m - rate * g, m, g)
        change = m if problem.solver == "momentum" else tree.map(lambda m, g: MOMENTUM * m - rate * g, m, g)
        return tree.map(lambda p, d: p + d, p, change), (m, v)

    return update


def jax_step(jax, problem):
    """step((parameters, moments, t), (x, y)) for a scan, and what it starts from."""
    jnp, scale = jax.numpy, (problem.units[-1] if problem.reduction == "row" else 1) / 2
    update = jax_update(jax, problem)

    def loss(parameters, x, y):
        for level, (w, b) in enumerate(zip(*parameters, strict=True), 1):
            x = x @ w + b
            if level < len(problem.weights) or problem.out_activation == "logistic":
                x = jax.nn.sigmoid(x)
        return jnp.mean((x - y) ** 2) * scale

    def step(state, xy):
        parameters, moments, t = state
        value, gradient = jax.value_and_grad(loss)(parameters, *xy)
        parameters, moments = update(parameters, gradient, moments, t + 1.0)
        return (parameters, moments, t + 1.0), value

    def start():
        parameters = jax.tree.map(jnp.asarray, problem.start())
        zeros = jax.tree.map(jnp.zeros_like, parameters) if problem.solver != "sgd" else ()
        return parameters, (zeros, zeros), jnp.zeros((), "float64")

    return step, start


def jax_loop(problem):
    jax = import_jax()
    step, start = jax_step(jax, problem)
    X, Y = (jax.numpy.asarray(one).reshape(problem.steps, problem.batch, -1) for one in (problem.X, problem.Y))

    @jax.jit
    def run(state, epochs):
        return jax.lax.fori_loop(0, epochs, lambda _, state: jax.lax.scan(step, state, (X, Y))[0], state)

    def train(epochs):
        (weights, biases), _, _ = jax.block_until_ready(run(start(), epochs))
        return [np.asarray(one) for one in weights + biases]

    return train


def jax_steps(problem):
    jax = import_jax()
    step, start = jax_step(jax, problem)
    step, batch = jax.jit(step), (jax.numpy.asarray(problem.X), jax.numpy.asarray(problem.Y))

    def train(epochs):
        state = start()
        for _ in range(epochs):
            state, _ = step(state, batch)
        (weights, biases), _, _ = jax.block_until_ready(state)
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
STEP_BY_STEP = IMPLEMENTATIONS | {"fastbp": fastbp_steps, "scikit-learn": scikit_learn_steps, "jax": jax_steps}


@functools.lru_cache(2)
def new_case(units, batch, rows, dtype, identity, solver):
    """A problem, and the weights and biases after CHECKED_EPOCHS by the reference in float64."""
    problem = new_problem(units, batch, rows, dtype)
    if identity:
        problem = replace(with_identity_output(problem), solver=solver)
    arrays = {name: getattr(problem, name).astype("float64") for name in ("X", "Y")}
    start = {name: [one.astype("float64") for one in getattr(problem, name)] for name in ("weights", "biases")}
    return problem, fastbp_reference(replace(problem, **arrays, **start))(CHECKED_EPOCHS)


def check(parameters, problem, expected):
    """Raise an AssertionError unless the parameters are as expected."""
    before = problem.weights + problem.biases
    assert [one.dtype for one in parameters] == [one.dtype for one in before]
    changes = [np.abs(wanted - old).max() for wanted, old in zip(expected, before, strict=True)]
    assert_close(parameters, expected, atol=TOLERANCE[problem.X.dtype.name] * np.array(changes))


def work(case, short):
    """Epochs or, of kind "step", steps of one batch."""
    single = case.kind == "step"
    solver = case.subject.split()[1] if single else "sgd"
    identity = single or case.implementation == "scikit-learn"
    problem, expected = new_case(case.units, case.batch, case.rows, case.dtype, identity, solver)
    train = (STEP_BY_STEP if single else IMPLEMENTATIONS)[case.implementation](problem)
    return Work(
        run=train,
        check=lambda result: check(result, problem, expected),
        checked=CHECKED_EPOCHS,
        samples=len(problem.X),
        flops=problem.flops * problem.steps,
        per=problem.steps,
        kernel=problem.kernel if case.implementation.startswith("fastbp") else None,
        seconds=0.4 if problem.flops > LONG_FLOPS else 0.1,
    )
