"""Many small networks: in one call of `train_many`, one after the other, and by jax, which maps one training over all."""

import functools

import numpy as np
from networks import TOLERANCE, import_jax
from work import Work, assert_close, bytes_of

from fastbp import NeuralNetwork, train_many

MEMBERS = 256
LEARNING_RATE = 0.01
EPOCHS, SECONDS = 20, 0.5  # so that little is made of what starting a call takes
CHECKED = 5  # networks whose weights are compared, after a call


@functools.lru_cache(2)
def rows_of(units, rows, dtype):
    """Inputs and targets for all networks."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, units[0])).astype(dtype), rng.random((rows, units[-1])).astype(dtype)


def start(case, members):
    """Networks at their start."""
    return [NeuralNetwork(case.units[0], case.units[1:-1], case.units[-1], random_state=seed, dtype=case.dtype)
            for seed in range(members)]  # fmt: skip


def parameters_of(nets):
    """Weights, then biases, of the first networks."""
    return [array for name in ("weights", "biases") for net in nets[:CHECKED] for array in getattr(net, name)]


def together(case, epochs):
    X, y = rows_of(case.units, case.rows, case.dtype)

    def train(times):
        nets = start(case, MEMBERS)
        train_many(nets, X, y, times * epochs, LEARNING_RATE, batch_size=case.batch, n_jobs=case.threads)
        return parameters_of(nets)

    return train


def one_by_one(case, epochs):
    X, y = rows_of(case.units, case.rows, case.dtype)

    def train(times):
        nets = start(case, MEMBERS)
        for net in nets:
            net.train(X, y, times * epochs, LEARNING_RATE, batch_size=case.batch)
        return parameters_of(nets)

    return train


def mapped(case, epochs):
    """The same equations, differentiated, scanned over batches and epochs, and mapped over networks."""
    jax = import_jax()
    np_ = jax.numpy
    X, y = (np_.array(one).reshape(-1, case.batch, one.shape[1]) for one in rows_of(case.units, case.rows, case.dtype))
    nets = start(case, MEMBERS)
    parameters = [tuple(np_.array(np.stack([getattr(net, name)[layer] for net in nets])) for name in ("weights", "biases"))
                  for layer in range(len(case.units) - 1)]  # fmt: skip

    def loss(parameters, a, y):
        for W, b in parameters:
            a = jax.nn.sigmoid(a @ W + b)
        return 0.5 * ((a - y) ** 2).sum()

    def step(parameters, batch):
        found, slopes = jax.value_and_grad(loss)(parameters, *batch)
        return jax.tree_util.tree_map(lambda one, slope: one - LEARNING_RATE * slope, parameters, slopes), found

    def epoch(parameters, _):
        return jax.lax.scan(step, parameters, (X, y))

    @functools.partial(jax.jit, static_argnums=1)
    def run(parameters, epochs):
        return jax.vmap(lambda one: jax.lax.scan(epoch, one, None, length=epochs))(parameters)

    def train(times):
        found, _ = jax.block_until_ready(run(parameters, times * epochs))
        layers = [[np.array(one[number]) for one in pair] for number in range(CHECKED) for pair in found]
        return [*(W for W, _ in layers), *(b for _, b in layers)]

    return train


IMPLEMENTATIONS = {"fastbp": together, "one by one": one_by_one, "jax": mapped}


def work(case, short):
    """Whole trainings, of which the time of an epoch of a network is told."""
    epochs = 2 if short else EPOCHS
    nets = start(case, CHECKED)
    X, y = rows_of(case.units, case.rows, case.dtype)
    before = [array.copy() for array in parameters_of(nets)]
    for net in nets:
        net.train(X, y, epochs, LEARNING_RATE, batch_size=case.batch)
    expected = parameters_of(nets)
    changes = [np.abs(new - old).max() for new, old in zip(expected, before, strict=True)]
    atol = TOLERANCE[case.dtype] * np.array(changes)
    train = IMPLEMENTATIONS["fastbp" if "fastbp" in case.implementation else case.implementation](case, epochs)
    return Work(
        run=train,
        check=lambda result: assert_close(result, expected, atol=atol),
        samples=case.rows * epochs * MEMBERS,
        per=epochs * MEMBERS,
        rounds=7,
        seconds=SECONDS,
        own_bytes=MEMBERS * bytes_of(nets[0].weights, nets[0].biases),
    )
