"""The same training by the numpy reference, scikit-learn, torch and jax, a moment at a time.

Each function takes a `Workload` and returns a function that trains for one epoch, or raises `NotPossible`. A library that is
not installed is named as such. Weights, rows, whole batches, loss and solver are the same, but that torch and jax leave an
L2 term out, and that torch places Adam's epsilon otherwise. torch runs step by step with as many threads as fastbp, jax a
whole epoch in one compiled loop with as many as it likes.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp import reference
from fastbp.layout import RECORD_SIZE
from fastbp.profiling.workload import Workload

NOT_INSTALLED = "not installed"
MOST_BATCHES = 20  # of an epoch, which has to be short beside the time that there is
MOMENTUM_SOLVERS = {"sgd": (0, False), "momentum": (1, False), "nesterov": (1, True)}


class NotPossible(ValueError):
    """What a library has no word for."""


class Rival:
    """A training whose epochs are timed one by one.

    Parameters
    ----------
    epoch : callable
        Trains for one epoch.
    rows : int
        Of an epoch.
    """

    def __init__(self, epoch: Callable[[], Any], rows: int):
        self.epoch, self.rows = epoch, rows
        self.rates: list[float] = []
        epoch()

    def turn(self, seconds: float) -> None:
        """Train for about so long, one epoch at least."""
        epochs, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds or not epochs:
            self.epoch()
            epochs += 1
        self.rates.append(epochs * self.rows / spent if epochs and spent else 0.0)


def rivals(workload: Workload, threads: int) -> Iterator[tuple[str, Rival | str]]:
    """Each rival, ready to take its turns, or why it cannot."""
    if workload.sparse:
        return
    rows = min(workload.rows // workload.batch_size, MOST_BATCHES) * workload.batch_size
    weights = None if workload.row_weights is None else workload.row_weights[:rows]
    some = replace(workload, X=workload.X[:rows], Y=workload.Y[:rows], row_weights=weights)
    for name, module, make in RIVALS:
        if importlib.util.find_spec(module) is None:
            yield name, NOT_INSTALLED
            continue
        try:
            yield name, Rival(make(some, threads), rows)
        except NotPossible as error:
            yield name, str(error)


def numpy_reference(workload: Workload, threads: int) -> Callable[[], Any]:
    """`fastbp.reference`, whose matrix products are numpy's."""
    run = workload.start()
    layers, record = run.layout.layers.tolist(), np.zeros((1, RECORD_SIZE))

    def epoch() -> None:
        run.cursor[0] = 0
        order = run.order if run.draw is None else run.draw()[None].copy()
        with np.errstate(all="ignore"):
            reference.train(
                layers, run.params, run.work.state, run.X, run.Y, run.row_weights, order, run.batch_size, run.numbers,
                workload.steps, run.cursor, record, None,
            )  # fmt: skip

    return epoch


def scikit_learn(workload: Workload, threads: int) -> Callable[[], Any]:
    """`MLPClassifier` or `MLPRegressor`, of which each fit is an epoch."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    rule, kinds = workload.rule, set(workload.activations)
    if len(kinds) > 1 or not kinds <= {"identity", "logistic", "tanh", "relu"}:
        raise NotPossible(f"it has no activation {', '.join(workload.activations)}")
    classifier = rule.loss.endswith("log_loss")
    if not classifier and (rule.out_activation, rule.loss) != ("identity", "squared_error"):
        raise NotPossible(f"it has no output {rule.out_activation} with {rule.loss}")
    if rule.solver == "gradient_only" or rule.dropout or np.isfinite(rule.max_norm):
        raise NotPossible("it has no dropout or clipping, and its L-BFGS does the same as fastbp's")
    with_momentum, nesterov = MOMENTUM_SOLVERS.get(rule.solver, (0, False))
    net = (MLPClassifier if classifier else MLPRegressor)(
        hidden_layer_sizes=workload.units[1:-1], activation=next(iter(kinds), "relu"), alpha=rule.alpha,
        solver="adam" if rule.solver == "adam" else "sgd", batch_size=workload.batch_size, shuffle=workload.shuffle,
        learning_rate_init=rule.learning_rate, momentum=rule.momentum * with_momentum, nesterovs_momentum=nesterov,
        max_iter=1, tol=0, warm_start=True, n_iter_no_change=10**9, random_state=0,
    )  # fmt: skip
    y: np.ndarray = workload.Y if workload.units[-1] > 1 else workload.Y[:, 0]
    if classifier:
        y = (y if y.ndim == 1 or rule.out_activation == "logistic" else y.argmax(axis=1)).astype(int)

    def epoch() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.fit(workload.X, y)

    return epoch


def torch_eager(workload: Workload, threads: int) -> Callable[[], Any]:
    """Layers, loss and optimiser of torch."""
    import torch

    F = torch.nn.functional
    activations: dict[str, Any] = {
        "identity": lambda z: z, "logistic": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu,
        "leaky_relu": F.leaky_relu, "elu": F.elu, "softplus": F.softplus, "selu": F.selu,
    }  # fmt: skip
    losses: dict[tuple[str, str], Any] = {
        ("softmax", "log_loss"): lambda z, y: F.cross_entropy(z, y, reduction="sum"),
        ("logistic", "log_loss"): lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="sum"),
        ("identity", "squared_error"): lambda z, y: F.mse_loss(z, y, reduction="sum") / 2,
        ("logistic", "squared_error"): lambda z, y: F.mse_loss(torch.sigmoid(z), y, reduction="sum") / 2,
    }
    rule, loss = workload.rule, losses.get(head_of(workload))
    optimizer_of = optimizers(torch, rule)
    if loss is None:
        raise NotPossible(f"output {rule.out_activation} with {rule.loss} is not written for it")
    weights, biases = ([torch.tensor(one).requires_grad_() for one in some] for some in parameters_of(workload))
    optimizer = optimizer_of(weights + biases)
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches_of(workload)]
    hidden = [*[activations[word] for word in workload.activations], None]

    def epoch() -> None:
        with torch_threads(torch, threads):
            for a, y in batches:
                for w, b, s in zip(weights, biases, hidden, strict=True):
                    a = torch.addmm(b, a, w)
                    a = a if s is None else s(a)
                optimizer.zero_grad()
                (loss(a, y) / divisor(workload, len(y))).backward()
                optimizer.step()

    return epoch


@contextmanager
def torch_threads(torch: Any, threads: int) -> Iterator[None]:
    """As many threads as fastbp has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def optimizers(torch: Any, rule: Any) -> Callable[[list], Any]:
    """A function that makes torch's optimiser for some parameters."""
    if rule.solver == "adam":
        betas = rule.momentum, rule.beta_2
        return lambda some: torch.optim.Adam(some, rule.learning_rate, betas, rule.epsilon)
    if rule.solver not in MOMENTUM_SOLVERS:
        raise NotPossible(f"solver {rule.solver} is not written for it")
    with_momentum, nesterov = MOMENTUM_SOLVERS[rule.solver]
    return lambda some: torch.optim.SGD(some, rule.learning_rate, rule.momentum * with_momentum, nesterov=nesterov)


def jax_loop(workload: Workload, threads: int) -> Callable[[], Any]:
    """An epoch as one compiled loop of jax; its threads are its own affair."""
    import jax

    jnp, rule = jax.numpy, workload.rule
    with_momentum, nesterov = MOMENTUM_SOLVERS.get(rule.solver, (0, False))
    if rule.solver != "adam" and rule.solver not in MOMENTUM_SOLVERS:
        raise NotPossible(f"solver {rule.solver} is not written for it")
    activations: dict[str, Any] = {
        "identity": lambda z: z, "logistic": jax.nn.sigmoid, "tanh": jnp.tanh, "relu": jax.nn.relu,
        "leaky_relu": jax.nn.leaky_relu, "elu": jax.nn.elu, "softplus": jax.nn.softplus, "selu": jax.nn.selu,
    }  # fmt: skip
    losses: dict[tuple[str, str], Any] = {
        ("softmax", "log_loss"): lambda z, y: -jnp.sum(y * jax.nn.log_softmax(z)),
        ("logistic", "log_loss"): lambda z, y: jnp.sum(jax.nn.softplus(z) - y * z),
        ("identity", "squared_error"): lambda z, y: jnp.sum((z - y) ** 2) / 2,
        ("logistic", "squared_error"): lambda z, y: jnp.sum((jax.nn.sigmoid(z) - y) ** 2) / 2,
    }
    head = losses.get(head_of(workload))
    if head is None:
        raise NotPossible(f"output {rule.out_activation} with {rule.loss} is not written for it")
    hidden = [*[activations[word] for word in workload.activations], lambda z: z]

    def loss(parameters: Any, a: Any, y: Any) -> Any:
        for w, b, s in zip(*parameters, hidden, strict=True):
            a = s(a @ w + b)
        return head(a, y) / divisor(workload, workload.batch_size)

    def moved(p: Any, g: Any, m: Any, v: Any, t: Any) -> tuple:
        rate, beta_1, beta_2 = rule.learning_rate, rule.momentum, rule.beta_2
        if rule.solver == "adam":
            m, v = beta_1 * m + (1 - beta_1) * g, beta_2 * v + (1 - beta_2) * g * g
            rate = rate * jnp.sqrt(1 - beta_2**t) / (1 - beta_1**t)
            return p - rate * m / (jnp.sqrt(v) + rule.epsilon), m, v
        m = rule.momentum * with_momentum * m - rate * g
        return p + (rule.momentum * m - rate * g if nesterov else m), m, v

    def step(state: Any, xy: Any) -> tuple:
        parameters, first, second, t = state
        gradient = jax.grad(loss)(parameters, *xy)
        moves = [jax.tree.leaves(one) for one in (parameters, gradient, first, second)]
        new = [moved(p, g, m, v, t + 1) for p, g, m, v in zip(*moves, strict=True)]
        shape = jax.tree.structure(parameters)
        return (*[jax.tree.unflatten(shape, part) for part in zip(*new, strict=True)], t + 1), None

    with jax.enable_x64(True):
        X, Y = (jnp.asarray(one).reshape(-1, workload.batch_size, one.shape[1]) for one in (workload.X, workload.Y))
        parameters = jax.tree.map(jnp.asarray, parameters_of(workload))
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        state = [(parameters, zeros, zeros, jnp.zeros((), X.dtype))]
        run = jax.jit(lambda state, X, Y: jax.lax.scan(step, state, (X, Y))[0])

    def epoch() -> None:
        with jax.enable_x64(True):
            state[0] = jax.block_until_ready(run(state[0], X, Y))

    return epoch


def head_of(workload: Workload) -> tuple[str, str]:
    """Output and loss, however the loss is reported."""
    return workload.rule.out_activation, workload.rule.loss.removeprefix("clipped_")


def divisor(workload: Workload, rows: int) -> float:
    """What the sum of the losses of some rows is divided by."""
    return {"sum": 1.0, "mean": rows * workload.units[-1], "row": rows}[workload.rule.reduction]


def parameters_of(workload: Workload) -> tuple[list, list]:
    """Weights and biases; zeros where there are none."""
    zeros = [np.zeros(w.shape[1], w.dtype) for w in workload.weights]
    return list(workload.weights), list(workload.biases) or zeros


def batches_of(workload: Workload) -> list:
    """Pairs of rows of X and Y."""
    starts = range(0, workload.rows, workload.batch_size)
    return [tuple(one[row : row + workload.batch_size] for one in (workload.X, workload.Y)) for row in starts]


RIVALS: tuple[tuple[str, str, Callable[..., Callable[[], Any]]], ...] = (
    ("numpy reference", "numpy", numpy_reference),
    ("scikit-learn", "sklearn", scikit_learn),
    ("torch", "torch", torch_eager),
    ("jax", "jax", jax_loop),
)
