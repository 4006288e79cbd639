"""Gradients: the kernels' held to the reference's, the reference's to differences of the loss and to another library's.

And those that `NeuralNetwork.gradients` returns, which are held to the reference, to differences of the loss and to steps.
"""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, DTYPES, SMALL, WORKSPACES, Case, assert_close, of_kind

from fastbp import NeuralNetwork, kernels, reference
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.rule import ACTIVATIONS, HEADS, SOLVERS, Rule

# Of the norm of the gradient: some hundred roundings one after the other, the worst case of all of them in one direction.
RELATIVE = {"float64": 1e-12, "float32": 1e-5}
# Central differences of step h are off by about h**2/6 times a third derivative of order 1, and by roundoff / h.
STEP = np.finfo(np.float64).eps ** (1 / 3)
DIFFERENCE_TOLERANCE = 10 * STEP**2
# The same equations in another order: as many roundings as `RELATIVE` allows for.
LIBRARY_TOLERANCE = 1e-12
# Of the parameters: 200 steps, each of which adds some roundings; those before are made larger by a few times at most, since
# the steps are short against the curvature of the loss.
STEPS = 200
AFTER_STEPS = {"float64": 1e-10, "float32": 1e-3}

REGULARISED = [
    replace(SMALL, alpha=0.3),
    replace(SMALL, weighted=True),
    replace(SMALL, max_norm=0.05),
    replace(SMALL, alpha=0.3, weighted=True, max_norm=0.05, reduction="sum"),
    replace(SMALL, alpha=0.3, weighted=True, bias=False, reduction="mean"),
    replace(SMALL, units=(3, 5, 5, 1), weighted=True, alpha=0.1, out_activation="exp", loss="poisson"),
]
# Several blocks of one batch.
LONG = [
    Case((200, 2, 1), 310, 310, reduction="row", alpha=0.1, weighted=True, max_norm=0.05),
    Case((3, 5, 4), 700, 700, reduction="mean", alpha=0.1, weighted=True, activations="tanh"),
]
NETWORKS = [
    *[
        replace(SMALL, units=(3, 5, 5, 4), activations=name, out_activation=activation, loss=loss)
        for name in ACTIVATIONS
        for activation, loss in HEADS
    ],
    *REGULARISED,
]


def loss_grad(implementation, case, params=None):
    """The four numbers, and the gradient, for all rows of a case."""
    params = case.parameters() if params is None else params
    grad, work = np.zeros_like(params), ()
    if implementation is kernels:
        work = replace(case, batch_size=case.n_rows).workspace().arrays
    numbers = implementation.loss_grad(case.layout.layers, params, *case.rows(), case.weights(), case.rule, grad, work)
    return numbers, grad


def assert_same_gradient(ours, theirs, tolerance):
    """As close as `tolerance` of the gradient's norm."""
    assert_close("gradients", ours, theirs, tolerance * np.linalg.norm(theirs.astype(np.float64)))


@pytest.mark.draw(2, plain=12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", WORKSPACES)
@pytest.mark.parametrize("case", [*NETWORKS, *[pytest.param(case, marks=pytest.mark.compiled) for case in LONG]], ids=str)
def test_the_kernels_gradient_is_the_reference_s(case, kernel, dtype):
    case = replace(case, kernel=kernel, dtype=dtype)
    ours, theirs = loss_grad(kernels, case), loss_grad(reference, case)
    assert_same_gradient(ours[1], theirs[1], RELATIVE[dtype])
    assert ours[0] == pytest.approx(theirs[0], rel=RELATIVE[dtype])
    assert ours[0][2] == theirs[0][2]


@pytest.mark.draw(3, plain=12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_the_gradient_of_a_single_row_is_the_reference_s(case, dtype):
    case = of_kind(replace(case, n_rows=1, weighted=False, dtype=dtype), "online")
    ours, theirs = loss_grad(kernels, case), loss_grad(reference, case)
    assert_same_gradient(ours[1], theirs[1], RELATIVE[dtype])
    assert ours[0] == pytest.approx(theirs[0], rel=RELATIVE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", [*WORKSPACES, "online"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_gradient_where_z_is_0_is_the_reference_s(name, kernel, dtype):
    """Rows of zeros where biases are still 0: some derivatives have a jump there."""
    rows = 1 if kernel == "online" else 23
    case = of_kind(replace(SMALL, activations=name, dtype=dtype, n_rows=rows, batch_size=1, zeros=1 - 1e-9), kernel)
    params = case.parameters()
    for bias in case.layout.views(params)[1]:
        bias[:] = 0
    ours, theirs = loss_grad(kernels, case, params), loss_grad(reference, case, params)
    assert_same_gradient(ours[1], theirs[1], RELATIVE[dtype])
    assert np.abs(theirs[1]).max() > 0


@pytest.mark.compiled
@pytest.mark.parametrize("case", LONG, ids=str)
def test_threads_leave_the_same_gradient(case):
    for kernel in WORKSPACES:
        case = replace(case, kernel=kernel)
        ours, theirs = loss_grad(kernels, case), loss_grad(kernels, replace(case, threads=3))
        assert ours[0] == theirs[0]
        assert ours[1].tobytes() == theirs[1].tobytes()


def test_the_gradient_leaves_dropout_out():
    case = replace(SMALL, dropout=0.5)
    assert loss_grad(kernels, case)[1].tobytes() == loss_grad(kernels, replace(case, dropout=0))[1].tobytes()


@pytest.mark.parametrize("amount", [1e-4, np.nan])
def test_a_corrupted_gradient_is_rejected(amount):
    for dtype in DTYPES:
        _, right = loss_grad(reference, replace(SMALL, dtype=dtype))
        wrong = right.copy()
        wrong[1] += amount * np.linalg.norm(right)
        assert_same_gradient(right.copy(), right, RELATIVE[dtype])
        with pytest.raises(AssertionError):
            assert_same_gradient(wrong, right, RELATIVE[dtype])
    with pytest.raises(AssertionError):
        assert_same_gradient(right * 0, right, RELATIVE[dtype])


# --- the reference ----------------------------------------------------------------------------------------------------


def full_loss(case, params):
    """Equation (3), for all rows."""
    (_, loss, _, penalty), _ = loss_grad(reference, case, params)
    weight = np.sum(case.weights()) if case.weighted else case.n_rows
    scale = {"sum": 1, "mean": 1 / (weight * case.units[-1]), "row": 1 / weight}[case.reduction]
    return scale * loss + case.alpha / 2 * penalty * (1 if case.reduction == "sum" else 1 / weight)


def used(layout):
    """Places of parameters that are not padding."""
    weights, biases = layout.views(np.ones(layout.size))
    return np.flatnonzero(layout.gather(weights, biases))


# A gradient that was shortened is not that of the loss.
SMOOTH = [replace(case, max_norm=np.inf, n_rows=5) for case in NETWORKS] + CASES[:17:5]


@pytest.mark.draw(5)
@pytest.mark.no_kernel
@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_the_reference_s_gradient_is_the_slope_of_the_loss(case):
    case = replace(case, dtype="float64")
    params, (_, grad) = case.parameters(), loss_grad(reference, case)
    differences = np.zeros_like(grad)
    for i in used(case.layout):
        step = np.zeros_like(params)
        step[i] = STEP
        differences[i] = (full_loss(case, params + step) - full_loss(case, params - step)) / (2 * STEP)
    assert np.any(differences)
    assert_close("gradients", grad, differences, DIFFERENCE_TOLERANCE * max(1, np.linalg.norm(grad)))


def test_a_shortened_gradient_has_the_same_direction():
    _, whole = loss_grad(reference, SMALL)
    _, short = loss_grad(reference, replace(SMALL, max_norm=0.05))
    assert np.linalg.norm(whole) > 0.05
    assert_close("gradients", short, whole * (0.05 / np.linalg.norm(whole)), RELATIVE["float64"])
    _, long = loss_grad(reference, replace(SMALL, max_norm=100))
    assert long.tobytes() == whole.tobytes()


@pytest.fixture(scope="module")
def jax():
    # importing it may warn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def jax_loss(jax, case, X, Y, w):
    """The loss of a case as a function of its weights and biases, by jax's own activations."""
    nn, jnp = jax.nn, jax.numpy
    known = {
        "identity": lambda z: z, "logistic": nn.sigmoid, "tanh": jnp.tanh, "relu": nn.relu, "elu": nn.elu,
        "leaky_relu": lambda z: nn.leaky_relu(z, 0.01), "softplus": nn.softplus, "selu": nn.selu, "exp": jnp.exp,
        "softmax": lambda z: nn.softmax(z, axis=1),
    }  # fmt: skip

    def rows(z):
        a = known[case.out_activation](z)
        if case.loss == "squared_error":
            return jnp.sum((a - Y) ** 2, axis=1) / 2
        if case.loss == "absolute_error":
            return jnp.sum(jnp.abs(a - Y), axis=1)
        if case.loss == "poisson":
            return jnp.sum(jax.scipy.special.xlogy(Y, Y) - Y * jnp.log(a) + a - Y, axis=1)
        if case.out_activation == "softmax":
            return -jnp.sum(Y * nn.log_softmax(z, axis=1), axis=1)
        return -jnp.sum(Y * jnp.log(a) + (1 - Y) * jnp.log(1 - a), axis=1)

    def loss(weights, biases):
        a = X
        for level, W in enumerate(weights):
            z = a @ W + (biases[level] if biases else 0)
            a = known[case.hidden[level]](z) if level < len(case.hidden) else z
        if case.reduction == "sum":
            data, decay = jnp.sum(w * rows(z)), case.alpha
        else:
            data, decay = jnp.average(rows(z), weights=w), case.alpha / jnp.sum(w)
            data = data / (Y.shape[1] if case.reduction == "mean" else 1)
        return data + decay / 2 * sum(jnp.sum(W**2) for W in weights)

    return loss


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_the_reference_s_gradient_is_jax_s(case, jax):
    case = replace(case, dtype="float64")
    layout, (X, Y) = case.layout, case.rows()
    loss = jax_loss(jax, case, X, Y, case.weights() if case.weighted else np.ones(case.n_rows))
    weights, biases = layout.views(case.parameters())
    value, (dW, db) = jax.value_and_grad(loss, argnums=(0, 1))(list(weights), list(biases))
    theirs = layout.gather([np.asarray(one) for one in dW], [np.asarray(one) for one in db])
    _, grad = loss_grad(reference, case)
    assert_same_gradient(grad, theirs, LIBRARY_TOLERANCE)
    assert full_loss(case, case.parameters()) == pytest.approx(float(value), rel=LIBRARY_TOLERANCE)


# --- of a NeuralNetwork -----------------------------------------------------------------------------------------------


def drawn(seed, **options):
    """A network by chance, and what `gradients` takes."""
    rng = np.random.default_rng(seed)
    out_activation, loss = HEADS[seed % len(HEADS)]
    n_in, *hidden, n_out = (int(size) for size in rng.integers(1, 9, rng.integers(2, 5)))
    options = {"alpha": float(rng.choice([0, 0.3])), "bias": bool(rng.random() < 0.8)} | options
    net = NeuralNetwork(
        n_in, hidden, n_out, activation=[str(name) for name in rng.choice(ACTIVATIONS, len(hidden))],
        out_activation=out_activation, loss=loss, init_scale=0.5, random_state=seed, **options,
    )  # fmt: skip
    net.biases = [rng.normal(size=b.shape) / 2 for b in net.biases]
    n = int(rng.integers(1, 40))
    Y = rng.uniform(0.1, 1, (n, n_out))
    if out_activation == "softmax":
        Y /= Y.sum(axis=1, keepdims=True)
    weights = rng.uniform(0.1, 2, n) if rng.random() < 0.5 else None
    return net, (rng.normal(size=(n, n_in)), Y, ["sum", "mean"][seed % 3 % 2]), weights


def loss_of(net, batch, weights):
    return copy.deepcopy(net).backward(*batch[:2], 1e-3, batch[2], sample_weight=weights)


@pytest.mark.parametrize("seed", range(30))
def test_gradients_are_slopes_of_the_loss(seed):
    net, batch, weights = drawn(seed)
    found = net.gradients(*batch, sample_weight=weights)
    assert [len(arrays) for arrays in found] == [len(net.weights), len(net.biases)]
    scale = max(1, *(np.abs(one).max() for one in [*found[0], *found[1]]))
    for arrays, parameters in zip(found, (net.weights, net.biases), strict=True):
        for gradient, array in zip(arrays, parameters, strict=True):
            assert gradient.shape == array.shape
            assert gradient.dtype == net.dtype
            differences = np.zeros_like(array)
            for place in np.ndindex(array.shape):
                before, losses = array[place], []
                for step in (STEP, -STEP):
                    array[place] = before + step
                    losses.append(loss_of(net, batch, weights))
                array[place] = before
                differences[place] = (losses[0] - losses[1]) / (2 * STEP)
            size = scale + abs(loss_of(net, batch, weights))  # whose roundings a difference is made of
            assert_close("gradients", gradient, differences, DIFFERENCE_TOLERANCE * size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(30))
def test_gradients_are_the_reference_s(seed, dtype):
    net, (X, Y, reduction), weights = drawn(seed, dtype=dtype)
    layout = Layout(net.units, dtype, net.bias, [ACTIVATIONS.index(name) for name in net.activation])
    rule = Rule(net.out_activation, net.loss, alpha=net.alpha, reduction=reduction).numbers(net.units[-1])
    params, expected = layout.gather(net.weights, net.biases), np.zeros(layout.size, dtype)
    w = np.empty(0, dtype) if weights is None else weights.astype(dtype)
    reference.loss_grad(layout.layers, params, X.astype(dtype), Y.astype(dtype), w, rule, expected, None)
    found = layout.gather(*net.gradients(X, Y, reduction, sample_weight=weights))
    assert_same_gradient(found, expected, RELATIVE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(30))
def test_a_step_of_gradient_descent_goes_against_the_gradients(seed, dtype):
    net, batch, weights = drawn(seed, dtype=dtype, n_jobs=2)
    before = [array.copy() for array in (*net.weights, *net.biases)]
    found, rate = net.gradients(*batch, sample_weight=weights), np.dtype(dtype).type(0.01)
    for array, unchanged in zip((*net.weights, *net.biases), before, strict=True):
        assert array.tobytes() == unchanged.tobytes()
    net.backward(*batch[:2], float(rate), batch[2], sample_weight=weights)
    length = np.linalg.norm(np.concatenate([one.ravel() for one in [*found[0], *found[1]]]).astype(np.float64))
    for after, array, gradient in zip((*net.weights, *net.biases), before, [*found[0], *found[1]], strict=True):
        rounding = np.finfo(dtype).eps * np.abs(array).max()
        assert_close("weights", after, array - rate * gradient, rounding + RELATIVE[dtype] * rate * length)


def test_gradients_leave_dropout_and_clipping_out():
    net, batch, weights = drawn(3)
    expected = net.gradients(*batch, sample_weight=weights)
    net.dropout, net.max_norm, net.solver = 0.5, 1e-3, "adam"
    for ours, theirs in zip(net.gradients(*batch, sample_weight=weights), expected, strict=True):
        assert [one.tobytes() for one in ours] == [one.tobytes() for one in theirs]


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        ([[1.0]], [[1.0]], {}, "X must have 2 columns, got 1"),
        ([[1.0, 2.0]], [[1.0], [1.0]], {}, "X and y must have the same number of rows, got 1 and 2"),
        ([[1.0, 2.0]], [[2.0]], {}, r"y must be in \[0, 1\]"),
        ([[1.0, 2.0]], [[1.0]], {"reduction": "row"}, "reduction must be one of 'sum', 'mean', got 'row'"),
        ([[1.0, 2.0]], [[1.0]], {"sample_weight": [-1.0]}, "sample_weight must be >= 0"),
    ],
)
def test_gradients_check_what_they_are_given(X, y, options, message):
    with pytest.raises(ValueError, match=message):
        NeuralNetwork(2, 3, 1, random_state=0).gradients(X, y, **options)


# --- many steps -------------------------------------------------------------------------------------------------------


def after_steps(implementation, case, solver):
    """Parameters after STEPS steps of a solver with its usual numbers."""
    n_rows, batch_size = 20, 10
    case = replace(case, n_rows=n_rows, batch_size=batch_size, solver=solver)
    rule = Rule(case.out_activation, case.loss, solver, 0.01, alpha=case.alpha, max_norm=case.max_norm, reduction="row")
    workspace, epochs = case.workspace(), STEPS * batch_size // n_rows
    case.parameters(workspace.params)
    cursor, record = np.zeros(len(CURSOR), np.int64), np.zeros((epochs, len(RECORD)))
    implementation.train(
        case.layout.layers, workspace.params, workspace.state, *case.rows(), case.weights(), np.empty((0, n_rows), np.int64),
        batch_size, rule.numbers(case.units[-1]), epochs * case.blocks_per_epoch(implementation), cursor, record,
        workspace.arrays,
    )  # fmt: skip
    assert cursor[2] == STEPS
    return workspace.params


@pytest.mark.draw(4)
@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", WORKSPACES)
@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("changes", [{}, {"alpha": 0.1}, {"max_norm": 0.1}, {"weighted": True}], ids=str)
def test_many_steps_lead_to_the_same_place(changes, solver, kernel, dtype):
    case = replace(SMALL, kernel=kernel, dtype=dtype, out_activation="softmax", loss="log_loss", **changes)
    ours, theirs = (after_steps(implementation, case, solver) for implementation in (kernels, reference))
    assert_close("parameters", ours, theirs, AFTER_STEPS[dtype])
    moved = np.abs(theirs - case.parameters())
    assert moved.max() > 0.05
