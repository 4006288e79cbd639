"""The same training by fastbp, a numpy loop, and `fastbp.profiling.rivals`: whole epochs, or single steps.

Each implementation takes a `Workload` and how many threads there are, and returns train(epochs), which trains from the
workload's start and returns weights and biases. A library that is not installed skips the bench.
"""

import functools
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from work import Work, assert_close, bytes_of, kernel_of

from fastbp import NeuralNetwork
from fastbp.layout import RECORD
from fastbp.profiling import rivals
from fastbp.profiling.workload import Workload
from fastbp.rule import Rule

CHECKED_EPOCHS = 3
# Difference from the reference in float64, as a share of what training has changed in an array at most. Rounding a weight at
# every step costs digits of a change that is smaller than the weight: some 100 to 1000 times in the widest of these networks
# after a few steps, which have been seen to cost 5e-3 and 3e-13.
TOLERANCE = {"float32": 2e-2, "float64": 1e-11}
# Of a step, from which on a round is long enough to make little of what starting a training takes.
LONG_FLOPS = 5e8
# A network of sigmoid layers and the squared error. Nothing is added to Adam's roots, because torch adds it elsewhere.
RULE = Rule(learning_rate=0.5, reduction="mean", epsilon=1e-20)
# What scikit-learn can train: it has no sigmoid output with squared error, and divides by the rows alone.
IDENTITY_RULE = replace(RULE, out_activation="identity", reduction="row", learning_rate=5e-3)


def new_problem(units, batch, rows, dtype, rule=RULE, hidden="logistic"):
    """Normal inputs, uniform targets, weights that keep the layers' sums near 1; rows is a multiple of batch."""
    rng = np.random.default_rng(0)
    weights = [(rng.normal(size=shape) / np.sqrt(shape[0])).astype(dtype) for shape in itertools.pairwise(units)]
    biases = [rng.normal(size=n_out).astype(dtype) for n_out in units[1:]]
    X, Y = rng.normal(size=(rows, units[0])), rng.uniform(size=(rows, units[-1]))
    return Workload(units, (hidden,) * (len(units) - 2), rule, weights, biases, X.astype(dtype), Y.astype(dtype), batch)


def fastbp(problem, threads):
    n_in, *hidden, n_out = problem.units
    options = {"activation": list(problem.activations), "dtype": problem.dtype, "n_jobs": threads}
    net = NeuralNetwork(n_in, hidden, n_out, random_state=0, **options)
    options = {"batch_size": problem.batch_size, "reduction": problem.rule.reduction}

    def train(epochs):
        net.weights, net.biases = rivals.parameters_of(problem)
        net.train(problem.X, problem.Y, epochs, problem.rule.learning_rate, **options)
        return net.weights + net.biases

    return train


def fastbp_steps(problem, threads):
    """One call into the kernel for each step."""
    run = problem.start()

    def train(epochs):
        rivals.begin(run, problem)
        run.record = np.zeros((epochs, len(RECORD)))
        for _ in range(epochs * run.work.blocks_per_epoch):
            run.advance(1)
        weights, biases = run.parameters()
        return weights + biases

    return train


def logistic(z):
    return 1 / (1 + np.exp(-z))


def relu(z):
    return np.maximum(z, 0)


def numpy_loop(problem, threads):
    batches = rivals.batches_of(problem)
    functions = [logistic if name == "logistic" else relu for name in (*problem.activations, "logistic")]

    def train(epochs):
        weights, biases = rivals.parameters_of(problem)
        for _ in range(epochs):
            for x, y in batches:
                taken = [x]
                for w, b, function in zip(weights, biases, functions, strict=True):
                    taken.append(function(taken[-1] @ w + b))
                a = taken.pop()
                delta = (a - y) * a * (1 - a) * (problem.rule.learning_rate / y.size)
                for level in reversed(range(len(weights))):
                    a, w, step = taken[level], weights[level], delta
                    if level:
                        delta = (step @ w.T) * (a * (1 - a) if functions[level - 1] is logistic else a > 0)
                    w -= a.T @ step
                    biases[level] -= step.sum(axis=0)
        return weights + biases

    return train


def scikit_learn_steps(problem, threads):
    net, y = rivals.scikit_network(problem)

    def train(epochs):
        net.coefs_, net.intercepts_ = rivals.parameters_of(problem)
        del net._optimizer  # its moments
        for _ in range(epochs):
            net.partial_fit(problem.X, y)
        return net.coefs_ + net.intercepts_

    return train


def torch_eager(problem, threads):
    pytest.importorskip("torch")
    return rivals.torch_eager(problem, threads)


def import_jax():
    """The module with one thread, which is said before the import that reads it."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def jax_loop(problem, threads):
    import_jax()
    return rivals.jax_loop(problem, threads)


def jax_steps(problem, threads):
    jax = import_jax()
    step, start, parameters_in = rivals.jax_parts(jax, problem)
    step, batch = jax.jit(step), (jax.numpy.asarray(problem.X), jax.numpy.asarray(problem.Y))

    def train(epochs):
        state = start()
        for _ in range(epochs):
            state, _ = step(state, batch)
        return parameters_in(jax.block_until_ready(state))

    return train


IMPLEMENTATIONS = {
    "fastbp": fastbp,
    "fastbp n_jobs=2": fastbp,
    "numpy": numpy_loop,
    "reference": rivals.numpy_reference,
    "scikit-learn": rivals.scikit_learn,
    "torch": torch_eager,
    "jax": jax_loop,
}
STEP_BY_STEP = IMPLEMENTATIONS | {"fastbp": fastbp_steps, "scikit-learn": scikit_learn_steps, "jax": jax_steps}


@functools.lru_cache(2)
def new_case(units, batch, rows, dtype, identity, solver, hidden):
    """A problem, and the weights and biases after CHECKED_EPOCHS by the reference in float64."""
    problem = new_problem(units, batch, rows, dtype, replace(IDENTITY_RULE if identity else RULE, solver=solver), hidden)
    return problem, rivals.numpy_reference(problem.changed(dtype="float64"), 1)(CHECKED_EPOCHS)


def check(parameters, problem, expected):
    """Raise an AssertionError unless the parameters are as expected."""
    before = problem.weights + problem.biases
    assert [one.dtype for one in parameters] == [one.dtype for one in before]
    changes = [np.abs(wanted - old).max() for wanted, old in zip(expected, before, strict=True)]
    assert_close(parameters, expected, atol=TOLERANCE[problem.dtype] * np.array(changes))


def work(case, short):
    """Epochs or, of kind "step", steps of one batch."""
    single = case.kind == "step"
    solver = case.subject.split()[1] if single else "sgd"
    identity = single or case.implementation == "scikit-learn"
    hidden = "relu" if case.subject.endswith(" relu") else "logistic"
    problem, expected = new_case(case.units, case.batch, case.rows, case.dtype, identity, solver, hidden)
    trainer = (STEP_BY_STEP if single else IMPLEMENTATIONS)[case.implementation]
    flops = problem.batch_size * problem.flops_per_sample
    return Work(
        run=trainer(problem, case.threads),
        check=lambda result: check(result, problem, expected),
        checked=CHECKED_EPOCHS,
        samples=problem.rows,
        flops=flops * problem.steps,
        per=problem.steps,
        kernel=kernel_of(problem.start().work) if case.implementation.startswith("fastbp") else None,
        seconds=0.4 if flops > LONG_FLOPS else 0.1,
        own_bytes=bytes_of(problem.weights, problem.biases),
        anew=lambda: trainer(problem, case.threads)(1),
    )
