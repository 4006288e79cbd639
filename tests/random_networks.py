"""Random networks, held to the reference: sizes, steps, threads and calls that nobody has thought of.

As a program it goes on for as long as it is told, and says how each network that is wrong can be had again::

    python random_networks.py --seconds 600
    python random_networks.py --seconds 600 --like wide float64
    python random_networks.py --seed 7 --only 41

Network n of a seed is the same on every machine.
"""

import argparse
import contextlib
import itertools
import secrets
import sys
import time
from dataclasses import replace
from unittest import mock

import numpy as np
from cases import (
    DTYPES,
    KERNELS,
    POINTWISE_ROUNDINGS,
    Case,
    assert_close,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    largest,
    of_kind,
    train,
)

from fastbp import kernels, reference
from fastbp.rule import ACTIVATIONS, HEADS, SOLVERS
from fastbp.workspace import choice_for_training

# Around multiples of vectors and tiles, and such as people choose.
SIZES = (1, 2, 3, 5, 7, 8, 10, 13, 16, 17, 20, 24, 31, 32, 33, 40, 48, 49, 50, 64, 65, 80, 96, 100, 127, 128, 129, 150, 160,
         200, 250, 256, 257, 300, 320, 400, 500, 512, 600, 640, 784, 800, 1000, 1024, 1200)  # fmt: skip
OUTPUTS = (1, 2, 3, 5, 10, 17, 33, 64, 100)
BATCHES = (1, 2, 3, 7, 8, 10, 16, 32, 50, 64, 100, 128, 200, 256, 300)
MOST_PRODUCTS = 1e8  # multiply-adds of one network's forward passes: a tenth of a second with everything that is compared
NARROW_PRODUCTS = 1e7  # of one that is chosen for the narrow kernel by chance: its tiles are those of small networks
# Where weights have left the range of the initial ones this far, steps diverge and rounding errors with them.
DIVERGED = 10
# So many times as far from the exact result as numpy is, from X as it is or rounded. Both round as often, in another order.
TIMES_NUMPY = 8
MORE_TRIES = 10  # of numpy, where a training is further from the exact result than one try is
KINKED = tuple(ACTIVATIONS.index(name) for name in ("relu", "leaky_relu", "selu"))


def draw(rng):
    """A network, its rows, and how it is trained."""

    def any_of(values, usual=None, p=0.0):
        return usual if rng.random() < p else values[rng.integers(len(values))]

    def size():
        return int(any_of(SIZES)) if rng.random() < 0.6 else int(rng.integers(1, 700))

    while True:
        units = (*(size() for _ in range(any_of((2, 2, 3, 4)) if rng.random() < 0.95 else 1)), any_of(OUTPUTS))
        batch_size = any_of(BATCHES)
        n_rows = int(batch_size * rng.integers(1, 3) + rng.integers(batch_size) * (rng.random() < 0.5))
        products = sum(n_in * n_out for n_in, n_out in itertools.pairwise(units)) * n_rows
        if products <= MOST_PRODUCTS:
            break
    activation = any_of(ACTIVATIONS)
    hidden = activation if rng.random() < 0.7 else tuple(any_of(ACTIVATIONS) for _ in units[1:-1])
    out_activation, loss = any_of(HEADS)
    flag = lambda p: bool(rng.random() < p)  # noqa: E731
    case = Case(
        units, n_rows, batch_size, flag(0.8), any_of(("sum", "mean", "row")), flag(0.3), any_of(DTYPES), "wide", hidden,
        out_activation, loss, any_of(SOLVERS[1:], "sgd", 0.3), any_of((1e-3, 0.1), 0.0, 0.7),
        any_of((0.01, 1.0), np.inf, 0.8), any_of((0.2, 0.5), 0.0, 0.8), flag(0.2), int(rng.integers(1, 4)),
        epochs=int(rng.integers(1, 3)),
    )  # fmt: skip
    if flag(0.15):
        return replace(case, sparse=True)
    chosen, _ = choice_for_training(case.layout, batch_size, dropout=case.dropout > 0)
    case = replace(case, zeros=any_of((0.3, 0.5, 0.8, 1.0), 0.0, 0.6))
    kernel = next(name for name, kind in KERNELS.items() if kind is chosen)
    if flag(0.3):
        kernel = any_of(tuple(KERNELS)) if products <= NARROW_PRODUCTS else "wide"
    case = of_kind(case, kernel)
    if kernel == "narrow" and flag(0.3):  # a first layer that reads rows where they stand
        case = replace(case, units=(int(rng.integers(64, 700)), int(rng.integers(1, 9)), *case.units[2:]))
    return case


def exact(case, dtype=np.float64):
    """The reference in `dtype`, from the same numbers; and how near one of its steps came to where it would be another.

    Near 0, a rounding error decides about the derivative of a rectifier, and about the sign of an absolute error.
    """
    distances = [np.inf]

    def watched(function):
        def call(z):
            distances.append(np.abs(z).min(initial=np.inf))
            return function(z)

        return call

    loss_and_delta = reference.loss_and_delta

    def watched_loss_and_delta(Z, Y, head):
        if head[1] == "absolute_error":
            distances.append(np.abs(Z - Y).min(initial=np.inf))
        return loss_and_delta(Z, Y, head)

    activations = [watched(s) if code in KINKED else s for code, s in enumerate(reference.ACTIVATIONS)]
    with (
        mock.patch.object(reference, "ACTIVATIONS", activations),
        mock.patch.object(reference, "loss_and_delta", watched_loss_and_delta),
        np.errstate(all="ignore"),
    ):
        result = train(reference, case, place=lambda array: array.astype(dtype) if array.dtype.kind == "f" else array)
    return result, min(distances)


def rounded_once(case, seed=5):
    """The reference's training where every input and every weight has one rounding error, up or down."""
    rng, eps = np.random.default_rng(seed), np.finfo(case.dtype).eps

    def nearly(numbers):
        return (numbers * (1 + eps * rng.choice([-1, 1], numbers.shape))).astype(numbers.dtype)

    X, Y = case.rows()
    X = nearly(X) if isinstance(X, np.ndarray) else type(X)((nearly(X.data), X.indices, X.indptr), X.shape)
    places = itertools.chain([nearly], itertools.repeat(lambda array: array))  # the first array is the weights
    return train(reference, case, rows=(X, Y), place=lambda array: next(places)(array))


def magnifies(case, theirs):
    """Whether rounding errors of the inputs alone become as large as half of all that a training may make.

    Steps through "exp" double an error again and again, those of a long step anywhere, and those of Adam where gradients
    are small. Those of float64 are told by longer numbers: numpy's own may all be the same ones.
    """
    if case.dtype == "float64":
        theirs, _ = exact(case, np.longdouble)
    # written so that NaN, of numbers too large for the type but not for the exact result, is a difference
    return not np.abs(rounded_once(case).params - theirs.params).max() <= case.tolerance / 2


def check_training(case, ours, theirs, tries=1):
    """The kernel's training agrees with the reference, whose rounding errors are those of so many tries."""
    if case.dtype == "float64":
        try:
            return assert_same_training(ours, theirs, case)
        except AssertionError:  # numbers may be larger on the way than in the end
            theirs, _ = exact(case, np.longdouble)
    # numpy may be near the exact result by chance
    others = train(reference, case), *[rounded_once(case, seed) for seed in range(tries)]
    assert (ours.epochs, ours.steps) == (theirs.epochs, theirs.steps)
    for name in ("params", "state", "mse", "loss", "penalty"):
        one, right = (getattr(trained, name).astype(theirs.params.dtype) for trained in (ours, theirs))
        few = POINTWISE_ROUNDINGS * float(np.finfo(case.dtype).eps) / 2 * largest(right)
        numpys = max(np.abs(getattr(other, name) - right).max(initial=0) for other in others)
        assert_close(name, one, right, few + TIMES_NUMPY * numpys)


def check(case, rng):
    """Training, prediction, threads and calls of one network; False where rounding errors grow too much to be compared."""
    alone = replace(case, threads=1)
    theirs, distance = exact(alone)
    if not (np.abs(theirs.params).max() < DIVERGED and distance > case.tolerance):
        return False
    ours, outputs = train(kernels, alone), forward(kernels, alone)
    assert_same_outputs(outputs, forward(reference, alone), alone)
    try:
        check_training(alone, ours, theirs)
    except AssertionError:
        if magnifies(alone, theirs):
            return False
        check_training(alone, ours, theirs, MORE_TRIES)
    if case.threads > 1:
        assert_same_bits(train(kernels, case), ours)
        assert_same_bits([forward(kernels, case)], [outputs])
    if rng.random() < 0.3:
        assert_same_bits(train(kernels, case, calls=[int(n) for n in rng.integers(1, 5, 3)]), ours)
    # without any weight there is no mean
    if rng.random() < 0.3 and case.kernel != "online" and not (case.weighted and case.n_rows == 1):
        check_gradient(replace(case, batch_size=case.n_rows, dropout=0.0, epochs=1))
    return True


def check_gradient(case):
    """`loss_grad` is the step that plain gradient descent of length 1 takes, and leaves the parameters alone."""
    params, (X, Y), weights, rule = case.parameters(), case.rows(), case.weights(), case.rule
    before, gradients = params.copy(), []
    for implementation in (kernels, reference):
        grad, work = np.zeros_like(params), case.workspace().arrays if implementation is kernels else ()
        with np.errstate(all="ignore"):
            numbers = implementation.loss_grad(case.layout.layers, params, X, Y, weights, rule, grad, work)
        gradients.append((np.array(numbers), grad))
    assert_same_bits([params], [before])
    (ours, mine), (theirs, right) = gradients
    # a gradient is the sum of as many numbers as there are rows, which a mean divides by
    scale = largest(right) * largest(np.array(case.n_rows)) ** 0.5
    assert_close("gradients", mine, right, 2 * case.tolerance * scale)
    assert_close("losses", ours[[0, 1, 3]], theirs[[0, 1, 3]], 4 * case.tolerance * largest(theirs))


def network(seed, number):
    """A case, and the numbers that choose what is checked of it."""
    rng = np.random.default_rng([seed, number])
    return draw(rng), rng


def run(seed, numbers, like=(), first=False):
    """Check some networks, or up to the first wrong one.

    Returns how to have those again that are wrong, how many were left out, and how many compared.
    """
    wrong, left_out, compared = [], 0, 0
    for number in numbers:
        case, rng = network(seed, number)
        if not set(like) <= set(str(case).split()):
            continue
        try:
            right = check(case, rng)
        except AssertionError as error:
            wrong.append(f"--seed {seed} --only {number}: {case}: {str(error).splitlines()[0]}")
            print(wrong[-1], flush=True)
            right = True
        compared, left_out = compared + right, left_out + (not right)
        if first and wrong:
            break
    return wrong, left_out, compared


def main(arguments):
    parser = argparse.ArgumentParser(description="Train random networks and compare them with the reference.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--only", type=int, help="the number of one network")
    parser.add_argument("--first", action="store_true", help="end with the first network that is wrong")
    parser.add_argument("--like", nargs="*", default=(), help="words of the networks that are not passed over")
    options = parser.parse_args(arguments)
    stop = time.perf_counter() + options.seconds
    numbers = [options.only] if options.only is not None else range(options.count)
    in_time = itertools.takewhile(lambda _: time.perf_counter() < stop, numbers)
    wrong, left_out, compared = run(options.seed, in_time, options.like, options.first)
    print(f"{len(wrong)} wrong of {compared} random networks, {left_out} left out, seed {options.seed}")
    return int(bool(wrong))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
