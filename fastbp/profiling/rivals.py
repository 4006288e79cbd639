"""The same training by the numpy reference, scikit-learn, torch and jax.

Each function that makes a training takes a `Workload` and how many threads there are, and returns train(epochs, anew=True),
which trains from the workload's start, or goes on, and returns weights and biases; or it raises `NotPossible`. Weights,
rows, whole batches, loss and solver are the same, but that torch and jax leave an L2 term out, and that torch places Adam's
epsilon otherwise. torch runs step by step, jax all epochs in one compiled loop with as many threads as it likes.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastbp import reference
from fastbp.layout import CURSOR, RECORD
from fastbp.profiling.workload import Rate, Timed, Trainer, Workload, of_network, rate_of, take_turns
from fastbp.training import Run

Train = Callable[..., list[np.ndarray]]

MOST_BATCHES = 20  # of an epoch, which has to be short beside the time that there is
MOMENTUM = {"sgd": (0, False), "momentum": (1, False), "nesterov": (1, True), "adam": (0, False)}  # and whether Nesterov's
COMPARISON_SECONDS = 0.25  # of `throughput`: enough for a steady figure, and little enough not to keep anybody waiting


class NotPossible(ValueError):
    """What a library has no word for."""


def rival(epochs: Train, rows: int) -> Timed:
    """A training by another library, in epochs of so many rows."""

    def train(amount: int) -> int:
        epochs(amount, anew=False)
        return amount * rows

    epochs(1)
    return Timed(train)


def compared(workload: Workload, base: Trainer, seconds: float) -> dict[str, Rate | str]:
    """Rates of fastbp's own training and of each rival, in the same turns; or why a rival cannot train, at the end."""
    from threadpoolctl import threadpool_limits

    threads = base.run.work.plan.threads
    rows = min(workload.rows // workload.batch_size, MOST_BATCHES) * workload.batch_size
    weights = None if workload.row_weights is None else workload.row_weights[:rows]
    some = replace(workload, X=workload.X[:rows], Y=workload.Y[:rows], row_weights=weights)
    racing: dict[str, Timed] = {"fastbp": base}
    reasons = {}
    with threadpool_limits(threads):
        for name, module, make in () if workload.sparse else RIVALS:
            try:
                if importlib.util.find_spec(module) is None:
                    raise NotPossible("not installed")
                racing[name] = rival(make(some, threads), rows)
            except NotPossible as error:
                reasons[name] = str(error)
        take_turns([*racing.values()], [1] * len(racing), seconds)
    return {name: rate_of(one.rates) for name, one in racing.items()} | reasons


def throughput(net: Any, X: Any, y: Any, learning_rate: float, **how: Any) -> dict[str, float]:
    """Epochs per second of `net.train(...)` with these arguments, and of the numpy reference."""
    workload = of_network(net, X, y, learning_rate, **how | {"batch_size": how["batch_size"] or len(X)})
    ours, theirs = Trainer(workload), rival(numpy_reference(workload, 1), len(X))
    ours.turn(COMPARISON_SECONDS)
    epochs = theirs.turn(COMPARISON_SECONDS) // len(X)
    rate, reference = ours.rates[0] / len(X), theirs.rates[0] / len(X)
    return {"epochs_per_second": rate, "samples_per_second": ours.rates[0], "reference_epochs": epochs,
            "speedup_over_numpy": rate / reference, "reference_epochs_per_second": reference}  # fmt: skip


def begin(run: Run, workload: Workload) -> None:
    """Be at the workload's start once more."""
    run.take(workload.weights, workload.biases)
    run.work.state[:], run.cursor[:] = 0, 0


def numpy_reference(workload: Workload, threads: int) -> Train:
    """`fastbp.reference`, whose matrix products are numpy's."""
    run = workload.start()
    layers = run.layout.layers.tolist()  # slicing with numpy's integers would take half of the time

    def train(epochs: int, anew: bool = True) -> list[np.ndarray]:
        if anew:
            begin(run, workload)
        run.cursor[CURSOR.epoch] = 0
        order = run.order if run.draw is None else run.draw(epochs)
        record = np.zeros((epochs, len(RECORD)))
        with np.errstate(all="ignore"):
            reference.train(
                layers, run.params, run.work.state, run.X, run.Y, run.row_weights, order, run.batch_size, run.numbers,
                epochs * workload.steps, run.cursor, record, None,
            )  # fmt: skip
        weights, biases = run.parameters()
        return weights + biases

    return train


def parameters_of(workload: Workload) -> tuple[list, list]:
    """Copies of weights and biases; zeros where there are none."""
    zeros = [np.zeros(w.shape[1], w.dtype) for w in workload.weights]
    return [w.copy() for w in workload.weights], [b.copy() for b in workload.biases] or zeros


def batches_of(workload: Workload) -> list:
    """Pairs of rows of X and Y."""
    starts = range(0, workload.rows, workload.batch_size)
    return [tuple(one[row : row + workload.batch_size] for one in (workload.X, workload.Y)) for row in starts]


def scikit_network(workload: Workload) -> tuple[Any, np.ndarray]:
    """`MLPClassifier` or `MLPRegressor`, fitted once, so that it goes on from the weights it is given; and its targets."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    rule, kinds = workload.rule, set(workload.activations)
    if len(kinds) > 1 or not kinds <= {"identity", "logistic", "tanh", "relu"}:
        raise NotPossible(f"it has no activation {', '.join(workload.activations)}")
    classifier = rule.loss.endswith("log_loss")
    if not classifier and (rule.out_activation, rule.loss) != ("identity", "squared_error"):
        raise NotPossible(f"it has no output {rule.out_activation} with {rule.loss}")
    if rule.solver == "gradient_only" or rule.dropout or np.isfinite(rule.max_norm):
        raise NotPossible("it has no dropout or clipping, and its L-BFGS does the same as fastbp's")
    with_momentum, nesterov = MOMENTUM[rule.solver]
    net = (MLPClassifier if classifier else MLPRegressor)(
        hidden_layer_sizes=workload.units[1:-1], activation=next(iter(kinds), "relu"), alpha=rule.alpha,
        solver="adam" if rule.solver == "adam" else "sgd", batch_size=workload.batch_size, shuffle=workload.shuffle,
        learning_rate_init=rule.learning_rate, momentum=rule.momentum * with_momentum, nesterovs_momentum=nesterov,
        beta_1=rule.momentum, beta_2=rule.beta_2, epsilon=rule.epsilon,
        max_iter=1, tol=0, warm_start=True, n_iter_no_change=10**9, random_state=0,
    )  # fmt: skip
    y: np.ndarray = workload.Y if workload.units[-1] > 1 else workload.Y[:, 0]
    if classifier:
        y = (y if y.ndim == 1 or rule.out_activation == "logistic" else y.argmax(axis=1)).astype(int)
    fit_quietly(net, workload.X, y)
    if net.n_outputs_ != workload.units[-1]:
        raise NotPossible("it knows no classes but those of the rows it is given")
    return net, y


def fit_quietly(net: Any, X: Any, y: Any) -> None:
    """Fit without a word on convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.fit(X, y)


def scikit_learn(workload: Workload, threads: int) -> Train:
    """A fit of scikit-learn's network."""
    net, y = scikit_network(workload)

    def train(epochs: int, anew: bool = True) -> list[np.ndarray]:
        if anew:
            net.coefs_, net.intercepts_ = parameters_of(workload)
        fit_quietly(net.set_params(max_iter=epochs), workload.X, y)
        return net.coefs_ + net.intercepts_

    return train


def layers_of(workload: Workload, functions: Any) -> list[Callable[[Any], Any]]:
    """What follows each layer's sums, by its name in a library; what is part of the loss is left to it."""
    rule = workload.rule
    known = {("softmax", "log_loss"), ("logistic", "log_loss"), ("identity", "squared_error"), ("logistic", "squared_error")}
    if (rule.out_activation, rule.loss.removeprefix("clipped_")) not in known:
        raise NotPossible(f"output {rule.out_activation} with {rule.loss} is not written for it")
    if rule.solver not in MOMENTUM:
        raise NotPossible(f"solver {rule.solver} is not written for it")
    words = [*workload.activations, rule.out_activation if rule.loss == "squared_error" else "identity"]
    names = {"logistic": "sigmoid"}
    return [(lambda z: z) if word == "identity" else getattr(functions, names.get(word, word)) for word in words]


def factor_of(workload: Workload, rows: int) -> float:
    """By what the sum of some rows' log losses, or of their squared errors, is multiplied."""
    half = 2 if workload.rule.loss == "squared_error" else 1
    return 1 / half / {"sum": 1, "mean": rows * workload.units[-1], "row": rows}[workload.rule.reduction]


def torch_eager(workload: Workload, threads: int) -> Train:
    """Layers, loss and optimiser of torch, with as many threads as fastbp has."""
    import torch

    F, rule = torch.nn.functional, workload.rule
    functions = layers_of(workload, F)
    log_loss = F.cross_entropy if rule.out_activation == "softmax" else F.binary_cross_entropy_with_logits
    loss = F.mse_loss if rule.loss == "squared_error" else log_loss
    with_momentum, nesterov = MOMENTUM[rule.solver]
    batches = [(torch.from_numpy(x), torch.from_numpy(y), factor_of(workload, len(y))) for x, y in batches_of(workload)]
    state: list[Any] = []

    def start() -> tuple:
        weights, biases = ([torch.from_numpy(one).requires_grad_() for one in some] for some in parameters_of(workload))
        both, momentum = weights + biases, rule.momentum * with_momentum
        if rule.solver == "adam":
            return weights, biases, torch.optim.Adam(both, rule.learning_rate, (rule.momentum, rule.beta_2), rule.epsilon)
        return weights, biases, torch.optim.SGD(both, rule.learning_rate, momentum, nesterov=nesterov)

    def train(epochs: int, anew: bool = True) -> list[np.ndarray]:
        if anew:
            state[:] = start()
        (weights, biases, optimizer), before = state, torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(epochs):
                for a, y, factor in batches:
                    for w, b, function in zip(weights, biases, functions, strict=True):
                        a = function(torch.addmm(b, a, w))
                    optimizer.zero_grad()
                    (loss(a, y, reduction="sum") * factor).backward()
                    optimizer.step()
        finally:
            torch.set_num_threads(before)
        return [one.detach().numpy() for one in weights + biases]

    return train


def jax_parts(jax: Any, workload: Workload) -> tuple[Callable[[Any, Any], Any], Callable[[], Any], Callable[[Any], list]]:
    """step(state, (x, y)), as a scan takes it, and functions that return the first state, and a state's parameters."""
    from jax.example_libraries import optimizers

    jnp, nn, rule = jax.numpy, jax.nn, workload.rule
    functions, factor = layers_of(workload, nn), factor_of(workload, workload.batch_size)
    arguments = {"sgd": (), "adam": (rule.momentum, rule.beta_2, rule.epsilon)}.get(rule.solver, (rule.momentum,))
    init, update, parameters_in = getattr(optimizers, rule.solver)(rule.learning_rate, *arguments)

    def loss(parameters: Any, a: Any, y: Any) -> Any:
        for w, b, function in zip(*parameters, functions, strict=True):
            a = function(a @ w + b)
        if rule.loss == "squared_error":
            return jnp.sum((a - y) ** 2) * factor
        losses = -y * nn.log_softmax(a) if rule.out_activation == "softmax" else nn.softplus(a) - y * a
        return jnp.sum(losses) * factor

    def step(state: Any, xy: Any) -> tuple:
        t, inner = state
        return (t + 1, update(t, jax.grad(loss)(parameters_in(inner), *xy), inner)), None

    def start() -> tuple:
        return jnp.zeros((), int), init(parameters_of(workload))

    return step, start, lambda state: [np.asarray(one) for some in parameters_in(state[1]) for one in some]


def jax_loop(workload: Workload, threads: int) -> Train:
    """All epochs as one compiled loop of jax; its threads are its own affair."""
    import jax

    step, start, parameters_in = jax_parts(jax, workload)

    @jax.jit
    def run(state: Any, epochs: Any, rows: Any) -> Any:
        return jax.lax.fori_loop(0, epochs, lambda _, state: jax.lax.scan(step, state, rows)[0], state)

    with jax.enable_x64(True):
        rows = [jax.numpy.asarray(one).reshape(workload.steps, -1, one.shape[1]) for one in (workload.X, workload.Y)]
    state: list[Any] = []

    def train(epochs: int, anew: bool = True) -> list[np.ndarray]:
        with jax.enable_x64(True):
            state[:] = jax.block_until_ready(run(start() if anew else tuple(state), epochs, rows))
            return parameters_in(state)

    return train


RIVALS: tuple[tuple[str, str, Callable[[Workload, int], Train]], ...] = (
    ("numpy reference", "numpy", numpy_reference),
    ("scikit-learn", "sklearn", scikit_learn),
    ("torch", "torch", torch_eager),
    ("jax", "jax", jax_loop),
)
