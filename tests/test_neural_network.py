"""NeuralNetwork and History, as a user meets them."""

import contextlib
import copy
import pickle
import re
import signal
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import by_hand
import draws
import joblib
import numpy as np
import pytest
from cases import assert_close, assert_same_bits, unaligned

import fastbp
from fastbp import MLPClassifier, NeuralNetwork, train_many, training
from fastbp.kernels import jit, pool
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.rule import Rule

# 10,000 steps of one set of equations in two orders of evaluation: what the two founding networks have to agree to.
AGREEMENT = 1e-9

XOR = by_hand.XOR_X, by_hand.XOR_Y


def network(**options):
    return NeuralNetwork(2, 4, 1, random_state=0, **options)


def parameters(net):
    """Copies of all parameters."""
    return [array.copy() for array in (*net.weights, *net.biases)]


def rows(n=11, n_in=3, n_out=2):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, n_in)), rng.uniform(size=(n, n_out))


def assert_curves(history, curves, tolerance):
    assert_same_bits([history.epoch], [np.arange(1, len(curves["mse"]) + 1)])
    for name, curve in curves.items():
        assert_close(name, getattr(history, name), curve, tolerance)


# --- the two founding networks ----------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_xor_agrees_with_the_equations_by_hand():
    net = network()
    net.weights, net.biases = by_hand.xor_start()
    history = net.train(*XOR, by_hand.XOR_EPOCHS, by_hand.LEARNING_RATE)
    weights, biases, curves = by_hand.trained_xor()
    for ours, theirs in zip(parameters(net), weights + biases, strict=True):
        assert_close("parameters", ours, theirs, AGREEMENT)
    assert_curves(history, curves, AGREEMENT)
    assert list(np.round(net.feedforward(XOR[0]))) == [0, 1, 1, 0]


@pytest.mark.compiled
def test_iris_agrees_with_the_equations_by_hand():
    X, X_test, y, y_test = by_hand.iris()
    net = NeuralNetwork(4, 2, 3, bias=False, init_scale=0.5)
    net.weights = by_hand.iris_start()
    history = net.train(X, y, by_hand.IRIS_EPOCHS, by_hand.LEARNING_RATE, reduction="mean")
    weights, curves = by_hand.trained_iris()
    for ours, theirs in zip(parameters(net), weights, strict=True):
        assert_close("parameters", ours, theirs, AGREEMENT)
    assert_curves(history, curves, AGREEMENT)
    outputs = by_hand.sigmoid(by_hand.sigmoid(X_test @ weights[0]) @ weights[1])
    assert_close("outputs", net.feedforward(X_test), outputs, AGREEMENT)
    assert np.mean(outputs.argmax(axis=1) == y_test.argmax(axis=1)) >= 0.5


def test_the_first_epochs_of_both_agree():
    """The same, short enough for plain Python."""
    net = network()
    net.weights, net.biases = by_hand.xor_start()
    history = net.train(*XOR, 30, by_hand.LEARNING_RATE)
    weights, biases, curves = by_hand.train_xor(*by_hand.xor_start(), 30)
    assert_curves(history, curves, AGREEMENT)
    X, _, y, _ = by_hand.iris()
    iris = NeuralNetwork(4, 2, 3, bias=False)
    iris.weights = by_hand.iris_start()
    history = iris.train(X, y, 30, by_hand.LEARNING_RATE, reduction="mean")
    iris_weights, curves = by_hand.train_iris(X, y, by_hand.iris_start(), 30)
    assert_curves(history, curves, AGREEMENT)
    for ours, theirs in zip(parameters(net) + parameters(iris), weights + biases + iris_weights, strict=True):
        assert_close("parameters", ours, theirs, AGREEMENT)


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.dtype(">f8")])
def test_initial_parameters(dtype):
    net = NeuralNetwork(50, (40, np.int64(30)), 20, init_scale=0.5, dtype=dtype, random_state=0)
    assert [W.shape for W in net.weights] == [(50, 40), (40, 30), (30, 20)]
    assert [b.shape for b in net.biases] == [(40,), (30,), (20,)]
    assert {array.dtype for array in parameters(net)} == {np.dtype(dtype).newbyteorder("=")}
    assert not any(b.any() for b in net.biases)
    drawn = np.concatenate([W.ravel() for W in net.weights])
    # the spread of the mean and of the standard deviation of n normal numbers
    assert abs(drawn.mean()) < 4 * 0.5 / len(drawn) ** 0.5
    assert abs(drawn.std() - 0.5) < 4 * 0.5 / (2 * len(drawn)) ** 0.5


def test_without_biases_there_are_none():
    net = network(bias=False)
    assert net.biases == []
    net.train(*XOR, 3, 0.1)
    assert net.biases == []


def test_no_hidden_layer():
    net = NeuralNetwork(2, [], 1, random_state=0)
    assert [W.shape for W in net.weights] == [(2, 1)]
    X, y = XOR[0], XOR[0].max(axis=1, keepdims=True)
    net.train(X, y, 20 if PLAIN_PYTHON else 2000, 2.0)
    assert_close("outputs", net.feedforward(X), y, 0.5 if PLAIN_PYTHON else 0.1)


def test_random_state():
    assert_same_bits(parameters(network()), parameters(network()))
    generator = np.random.default_rng(0)
    assert_same_bits(parameters(NeuralNetwork(2, 4, 1, random_state=generator)), parameters(network()))
    other = NeuralNetwork(2, 4, 1, random_state=1)
    unseeded = [NeuralNetwork(2, 4, 1) for _ in range(2)]
    drawn = [net.weights[0].tobytes() for net in (network(), other, *unseeded)]
    assert len(set(drawn)) == 4


def test_repr():
    assert repr(network()) == "NeuralNetwork(2-4-1, logistic, logistic squared_error, sgd, bias=True, dtype=float64)"


def test_public_names():
    assert fastbp.NeuralNetwork is NeuralNetwork
    assert isinstance(network().train(*XOR, 1, 0.1), fastbp.History)


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_twice_continues():
    once, twice = network(), network()
    history = once.train(*XOR, 7, 0.1)
    first, second = twice.train(*XOR, 3, 0.1), twice.train(*XOR, 4, 0.1)
    assert_same_bits(parameters(twice), parameters(once))
    assert_same_bits([np.concatenate([first.mse, second.mse])], [history.mse])
    assert list(second.epoch) == [1, 2, 3, 4]


def test_backward_is_one_epoch_of_training():
    one, other = network(), network()
    for reduction in ("sum", "mean"):
        loss = one.backward(*XOR, 0.3, reduction=reduction)
        assert type(loss) is float
        assert loss == other.train(*XOR, 1, 0.3, reduction=reduction).loss[0]
    assert_same_bits(parameters(one), parameters(other))


def test_batches_in_order_are_single_steps():
    X, y = rows()
    whole, single = (NeuralNetwork(3, 5, 2, random_state=0) for _ in range(2))
    whole.train(X, y, 2, 0.3, batch_size=4, reduction="mean")
    for _ in range(2):
        for batch in (slice(0, 4), slice(4, 8), slice(8, 11)):
            single.backward(X[batch], y[batch], 0.3, reduction="mean")
    for ours, theirs in zip(parameters(whole), parameters(single), strict=True):
        assert_close("parameters", ours, theirs, 100 * np.finfo(float).eps)


def test_shuffle():
    X, y = rows()
    runs = {}
    for shuffle in (False, True):
        for seed in (0, 0, 1):
            net = NeuralNetwork(3, 5, 2, random_state=seed)
            net.weights = NeuralNetwork(3, 5, 2, random_state=5).weights
            history = net.train(X, y, 6, 0.3, batch_size=4, shuffle=shuffle)
            runs.setdefault((shuffle, seed), []).append([*parameters(net), history.mse])
    assert_same_bits(*runs[True, 0])
    assert_same_bits(*runs[False, 0])
    assert_same_bits(runs[False, 0][0], runs[False, 1][0])
    weights = [runs[key][0][0].tobytes() for key in ((True, 0), (True, 1), (False, 0))]
    assert len(set(weights)) == 3


def test_shuffle_does_not_depend_on_how_it_is_cut():
    X, y = rows()
    whole, watched, twice = (NeuralNetwork(3, 5, 2, random_state=0) for _ in range(3))
    options = {"batch_size": 3, "shuffle": True}
    whole.train(X, y, 9, 0.3, **options)
    watched.train(X, y, 100, 0.3, callback=lambda epoch, history: epoch == 5, **options)
    watched.train(X, y, 4, 0.3, **options)
    twice.train(X, y, 2, 0.3, **options)
    twice.train(X, y, 7, 0.3, **options)
    assert_same_bits(parameters(watched), parameters(whole))
    assert_same_bits(parameters(twice), parameters(whole))


def test_shuffle_visits_every_row_once_per_epoch():
    """With tiny steps the loss of every row counts as it was at the start, in whatever order."""
    X, y = rows()
    net, ordered = (NeuralNetwork(3, 5, 2, random_state=0) for _ in range(2))
    shuffled = net.train(X, y, 5, 1e-14, batch_size=2, shuffle=True)
    in_order = ordered.train(X, y, 5, 1e-14, batch_size=2)
    assert_close("mse", shuffled.mse, in_order.mse, 1e-12)
    assert_close("accuracy", shuffled.accuracy, in_order.accuracy, 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_float_type_stays(dtype):
    net = network(dtype=dtype)
    history = net.train(*XOR, 5, 0.1, callback=lambda epoch, history: None)
    net.backward(XOR[0].astype("float32"), XOR[1].astype("float64"), np.float64(0.1))
    assert {array.dtype.name for array in parameters(net)} == {dtype}
    assert net.feedforward(XOR[0]).dtype == dtype
    assert {history.mse.dtype.name, history.loss.dtype.name, history.accuracy.dtype.name} == {"float64"}


def test_float32_is_computed_as_float32():
    X, y = rows()
    single, double = (NeuralNetwork(3, 5, 2, dtype=dtype, random_state=0) for dtype in ("float32", "float64"))
    single.train(X, y, 20, 0.1)
    double.train(X, y, 20, 0.1)
    difference = max(np.max(np.abs(one - other)) for one, other in zip(parameters(single), parameters(double), strict=True))
    assert 1e-9 < difference < 1e-5


def test_no_epochs_change_nothing():
    net, untouched = network(), network()
    history = net.train(*XOR, 0, 0.1, shuffle=True, verbose=1, callback=lambda epoch, history: True)
    assert_same_bits(parameters(net), parameters(untouched))
    assert len(history) == len(history.epoch) == len(history.mse) == len(history.loss) == len(history.accuracy) == 0
    assert repr(history) == "History(0 epochs)"


def test_copies_and_pickles_continue_alike():
    X, y = rows()
    net = NeuralNetwork(3, 5, 2, random_state=0)
    net.train(X, y, 2, 0.1, shuffle=True, batch_size=3)
    others = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    before = parameters(net)
    history = net.train(X, y, 3, 0.1, shuffle=True, batch_size=3)
    for other in others:
        assert_same_bits(parameters(other), before)
        assert_same_bits([other.train(X, y, 3, 0.1, shuffle=True, batch_size=3).mse], [history.mse])
        assert_same_bits(parameters(other), parameters(net))
    assert_same_bits([pickle.loads(pickle.dumps(history)).loss], [history.loss])


# --- parameters -------------------------------------------------------------------------------------------------------


def test_assigned_parameters_are_copies():
    net, W = network(dtype="float32"), [np.ones((2, 4), int), [[1.0], [2.0], [3.0], [4.0]]]
    net.weights, net.biases = W, (np.zeros(4), np.zeros(1))
    W[0][...] = 7
    assert_same_bits(net.weights, [np.ones((2, 4), "float32"), np.array([[1], [2], [3], [4]], "float32")])
    assert {b.dtype.name for b in net.biases} == {"float32"}


def test_single_arrays_can_be_assigned_and_changed():
    net, other = network(), network()
    net.weights[0] = np.zeros((2, 4))
    net.biases[1][:] = 3
    other.weights, other.biases = [np.zeros((2, 4)), other.weights[1]], [np.zeros(4), np.full(1, 3.0)]
    net.train(*XOR, 2, 0.1)
    other.train(*XOR, 2, 0.1)
    assert_same_bits(parameters(net), parameters(other))


def test_an_array_is_the_networks_own_until_it_trains():
    """What is written into one counts, whatever has been predicted since it was taken or put there."""
    net, other = network(), network()
    W, b = net.weights[0], net.biases[1]
    assigned = np.asfortranarray(np.full((4, 1), 0.25))
    net.weights[1] = assigned
    for value in (1.0, 2.0):
        W[...], b[...], assigned[...] = value, -value, value / 2
        other.weights, other.biases = [np.full((2, 4), value), np.full((4, 1), value / 2)], [np.zeros(4), np.full(1, -value)]
        assert_same_bits([net.feedforward(XOR[0])], [other.feedforward(XOR[0])])
        assert net.weights[0] is W
        assert net.biases[1] is b
        assert net.weights[1] is assigned
    net.train(*XOR, 2, 0.1)
    other.train(*XOR, 2, 0.1)
    assert_same_bits(parameters(net), parameters(other))
    assert np.all(assigned == 1.0)


def test_training_does_not_write_into_arrays_that_were_read():
    net = network()
    W, b = net.weights[0], net.biases[0]
    before = W.copy(), b.copy()
    net.train(*XOR, 2, 0.1)
    assert_same_bits((W, b), before)
    assert not np.array_equal(net.weights[0], W)


BAD_PARAMETERS = {
    "too few": ("weights", [np.ones((2, 4))], ValueError, r"weights must be 2 arrays, got 1"),
    "no list": ("weights", 5, TypeError, r"weights must be .* got 5"),
    "transposed": ("weights", [np.ones((4, 2)), np.ones((4, 1))], ValueError, r"weights\[0\] .*\(2, 4\), got \(4, 2\)"),
    "one dimension": ("weights", [np.ones((2, 4)), np.ones(4)], ValueError, r"weights\[1\] .*\(4, 1\), got \(4,\)"),
    "not finite": ("weights", [np.ones((2, 4)), np.full((4, 1), np.nan)], ValueError, r"weights\[1\] must be finite"),
    "too large": ("weights", [np.full((2, 4), 1e300), np.ones((4, 1))], ValueError, r"weights\[0\] must be finite"),
    "text": ("weights", [np.full((2, 4), "a"), np.ones((4, 1))], ValueError, r"weights\[0\] must be numeric"),
    "complex": ("weights", [np.ones((2, 4)) * 1j, np.ones((4, 1))], ValueError, r"weights\[0\] .* complex128"),
    "biases": ("biases", [np.ones(4), np.ones(2)], ValueError, r"biases\[1\] must have shape \(1,\), got \(2,\)"),
}


@pytest.mark.parametrize("bad", BAD_PARAMETERS)
def test_bad_parameters(bad):
    name, value, error, message = BAD_PARAMETERS[bad]
    net, untouched = network(dtype="float32"), network(dtype="float32")
    with pytest.raises(error, match=message):
        setattr(net, name, value)
    assert_same_bits(parameters(net), parameters(untouched))


def test_biases_of_a_network_without():
    net = network(bias=False)
    with pytest.raises(ValueError, match="biases must be 0 arrays, got 2"):
        net.biases = [np.ones(4), np.ones(1)]


def test_a_bad_single_array_is_seen_when_it_is_used():
    net = network()
    net.weights[1] = np.ones((1, 1))
    for use in (lambda: net.train(*XOR, 1, 0.1), lambda: net.feedforward(XOR[0])):
        with pytest.raises(ValueError, match=r"weights\[1\] must have shape \(4, 1\), got \(1, 1\)"):
            use()


# --- input ------------------------------------------------------------------------------------------------------------


def read_only(array, folder):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array, folder):
    wide = np.full((2 * array.shape[0], 3 * array.shape[1]), np.nan)
    wide[::2, ::3] = array
    return wide[::2, ::3]


def memmap(array, folder):
    path = folder / f"{array.shape[1]}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def data_frame(array, folder):
    import pandas

    return pandas.DataFrame(array, columns=[f"column {i}" for i in range(array.shape[1])])


KINDS = {
    "read-only": read_only,
    "Fortran": lambda array, folder: np.asfortranarray(array),
    "strided": strided,
    "backwards": lambda array, folder: np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
    "unaligned": unaligned,
    "other byte order": lambda array, folder: array.astype(array.dtype.newbyteorder("S")),
    "int8": lambda array, folder: array.astype("int8"),
    "int64": lambda array, folder: array.astype("int64"),
    "unsigned": lambda array, folder: array.astype("uint16"),
    "float32": lambda array, folder: array.astype("float32"),
    "long double": lambda array, folder: array.astype("longdouble"),
    "objects": lambda array, folder: array.astype(object),
    "list": lambda array, folder: array.tolist(),
    "tuples": lambda array, folder: tuple(map(tuple, array.tolist())),
    "matrix-like": lambda array, folder: memoryview(array),
    "DataFrame": data_frame,
    "memmap": memmap,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_trains_as_a_plain_copy(kind, dtype, tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 9, (7, 3)).astype(dtype), rng.integers(0, 2, (7, 2)).astype(dtype)
    plain, net = (NeuralNetwork(3, 5, 2, dtype=dtype, random_state=0) for _ in range(2))
    other_X, other_y = KINDS[kind](X, tmp_path), KINDS[kind](y, tmp_path)
    kept = np.array(other_X), np.array(other_y)
    history = plain.train(X, y, 5, 0.1, batch_size=3)
    assert_same_bits([net.train(other_X, other_y, 5, 0.1, batch_size=3).mse], [history.mse])
    assert_same_bits(parameters(net), parameters(plain))
    assert_same_bits([net.feedforward(other_X)], [plain.feedforward(X)])
    np.testing.assert_array_equal(np.array(other_X), kept[0])
    np.testing.assert_array_equal(np.array(other_y), kept[1])


def test_booleans_are_zero_and_one():
    net, other = network(), network()
    net.train(XOR[0].astype(bool), XOR[1].astype(bool), 5, 0.1)
    other.train(*XOR, 5, 0.1)
    assert_same_bits(parameters(net), parameters(other))


# --- losses, solvers, weights ---------------------------------------------------------------------------------------


def digits():
    """A tenth of a second's worth of separable classes: 3 of them, 8 inputs, 90 rows."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    return rng.normal(size=(90, 8)) + 2 * np.eye(3, 8)[labels], np.eye(3)[labels]


SETTINGS = {
    "softmax": {"out_activation": "softmax", "loss": "log_loss", "activation": "relu"},
    "binary": {"loss": "log_loss", "activation": ["tanh", "elu"], "hidden_size": [6, 5]},
    "clipped": {"out_activation": "softmax", "loss": "clipped_log_loss", "activation": "relu"},
    "poisson": {"out_activation": "exp", "loss": "poisson", "activation": "softplus"},
    "distances": {"out_activation": "identity", "loss": "absolute_error", "activation": "tanh"},
    "values": {"out_activation": "identity", "activation": "leaky_relu"},
}


@pytest.mark.compiled
@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov", "adam"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_loss_falls_with_every_solver(setting, solver):
    X, y = digits()
    options = {"hidden_size": 6, "alpha": 1e-3, "init_scale": 0.3} | SETTINGS[setting]
    net = NeuralNetwork(8, output_size=3, solver=solver, random_state=0, **options)
    learning_rate = 0.01 if solver == "adam" else 0.05
    history = net.train(X, y, 60, learning_rate, batch_size=30, reduction="mean", shuffle=True)
    assert history.loss[-1] < 0.8 * history.loss[0]
    assert history.accuracy[-1] > history.accuracy[0]
    if setting == "softmax":
        np.testing.assert_allclose(net.feedforward(X).sum(axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov", "adam"])
@pytest.mark.parametrize("biased", [True, False])
def test_biases_that_come_or_go_begin_with_no_memory(biased, solver):
    X, y = digits()
    net = NeuralNetwork(8, 5, 3, solver=solver, bias=biased, random_state=0)
    net.train(X, y, 3, 0.01)
    net.bias, net.biases = not biased, [] if biased else [np.zeros(5), np.zeros(3)]
    fresh = NeuralNetwork(8, 5, 3, solver=solver, bias=not biased)
    fresh.weights, fresh.biases = net.weights, net.biases
    together = copy.deepcopy(net)
    net.train(X, y, 3, 0.01)
    fresh.train(X, y, 3, 0.01)
    train_many([together, copy.deepcopy(together)], X, y, 3, 0.01)
    assert_same_bits(parameters(net), parameters(fresh))
    for ours, theirs in zip(parameters(together), parameters(net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_copy_does_not_train_with_the_network():
    X, y = digits()
    net = NeuralNetwork(8, 5, 3, solver="adam", random_state=0)
    net.train(X, y, 1)
    other, before = copy.copy(net), parameters(net)
    net.train(X, y, 5)
    assert_same_bits(parameters(other), before)
    assert other._moments[1] == 1


@pytest.mark.parametrize("wild", [np.inf, np.nan])
def test_weights_that_a_callback_makes_wild_are_undone(wild):
    X, y = digits()
    net = NeuralNetwork(8, 5, 3, solver="adam", random_state=0)
    net.train(X, y, 2)
    before, steps = parameters(net), net._moments[1]

    def callback(epoch, history):
        if epoch == 2:
            net.weights[0][0, 0] = wild

    with pytest.raises(ValueError, match=r"weights\[0\] must be finite"):
        net.train(X, y, 5, callback=callback)
    assert_same_bits(parameters(net), before)
    assert net._moments[1] == steps


def test_solvers_remember_from_one_call_to_the_next():
    X, y = digits()
    for solver in ("momentum", "nesterov", "adam"):
        once, steps, twice = (NeuralNetwork(8, 5, 3, solver=solver, random_state=0) for _ in range(3))
        once.train(X, y, 6, 0.01)
        for _ in range(6):
            steps.backward(X, y, 0.01)
        twice.train(X, y, 2, 0.01)
        twice = pickle.loads(pickle.dumps(copy.deepcopy(twice)))
        twice.train(X, y, 4, 0.01)
        assert_same_bits(parameters(once), parameters(steps))
        assert_same_bits(parameters(once), parameters(twice))


def test_a_row_of_weight_two_counts_twice():
    X, y = digits()
    weights = np.ones(90)
    weights[:30] = 2
    weighted, repeated = (NeuralNetwork(8, 5, 3, random_state=0) for _ in range(2))
    one = weighted.train(X, y, 3, 0.1, reduction="mean", sample_weight=weights)
    other = repeated.train(np.vstack([X, X[:30]]), np.vstack([y, y[:30]]), 3, 0.1, reduction="mean")
    for ours, theirs in zip(parameters(weighted), parameters(repeated), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-13)
    np.testing.assert_allclose(one.mse, other.mse, rtol=1e-13)


@pytest.mark.compiled
def test_dropout_is_reproducible_and_only_for_training():
    X, y = digits()
    nets = [NeuralNetwork(8, 40, 3, dropout=0.5, random_state=0) for _ in range(2)]
    curves = [net.train(X, y, 5, 0.1, reduction="mean").loss for net in nets]
    assert_same_bits(*[parameters(net) for net in nets])
    assert_same_bits(*curves)
    whole = NeuralNetwork(8, 40, 3, random_state=0)
    assert_same_bits([NeuralNetwork(8, 40, 3, dropout=0.5, random_state=0).feedforward(X)], [whole.feedforward(X)])
    assert not np.array_equal(whole.train(X, y, 5, 0.1, reduction="mean").loss, curves[0])


def test_the_l2_term_shrinks_weights_and_not_biases():
    X, y = digits()
    net = NeuralNetwork(8, 5, 3, alpha=2.0, random_state=0)
    net.weights, net.biases = [W * 0 + 1 for W in net.weights], [b + 100 for b in net.biases]
    before = net.biases[0].copy()
    net.backward(X, y, 0.1)
    # the sigmoids are flat there: the L2 term is all there is
    np.testing.assert_allclose(net.weights[0], 1 - 0.1 * 2.0, rtol=1e-12)
    np.testing.assert_allclose(net.biases[0], before, rtol=1e-12)


def test_clipping_bounds_the_step():
    X, y = digits()
    net, before = NeuralNetwork(8, 5, 3, max_norm=0.5, random_state=0), NeuralNetwork(8, 5, 3, random_state=0)
    net.backward(100 * X, y, 1.0)
    moved = np.concatenate([(one - other).ravel() for one, other in zip(parameters(net), parameters(before), strict=True)])
    assert np.linalg.norm(moved) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.compiled
@pytest.mark.parametrize("n_jobs", [2, 3, -1])
def test_the_number_of_threads_changes_no_bit(n_jobs, monkeypatch):
    monkeypatch.setattr(training, "THREAD_FLOPS", 1.0)
    X, y = digits()
    options = {"activation": "relu", "out_activation": "softmax", "loss": "log_loss", "solver": "adam", "random_state": 0}
    results = []
    for jobs in (None, n_jobs):
        net = NeuralNetwork(8, [64, 40], 3, n_jobs=jobs, **options)
        history = net.train(X, y, 4, 0.01, batch_size=40, shuffle=True)
        results.append([*parameters(net), history.loss, net.feedforward(X)])
    assert_same_bits(*results)


@pytest.mark.parametrize("n_jobs", [-1, -2, -3, 1, 2, 3, 64])
def test_jobs_are_counted_as_joblib_does(n_jobs, monkeypatch):
    processors = joblib.cpu_count()
    assert training.usable_threads(n_jobs) == min(joblib.effective_n_jobs(n_jobs), processors)
    assert training.usable_threads(None) == 1
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert training.usable_threads(n_jobs) == 1


def test_estimators_count_jobs_alike(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    for n_jobs in (None, 1, 3, -1):
        assert MLPClassifier(n_jobs=n_jobs)._threads() == training.usable_threads(n_jobs)


@pytest.mark.compiled
def test_no_more_threads_than_processors_wait_for_each_other(monkeypatch):
    """With more, those that wait take the processors of those that they wait for."""
    monkeypatch.setattr(training, "THREAD_FLOPS", 1.0)
    used, (X, y) = [], digits()
    together = pool.run
    monkeypatch.setattr(pool, "run", lambda function, job, size: (used.append(size), together(function, job, size)))
    net = NeuralNetwork(8, [64, 40], 3, n_jobs=64, random_state=0)
    net.train(X, y, 2, 0.01, batch_size=40)
    assert set(used) <= {joblib.cpu_count()}


@pytest.mark.parametrize(
    ("options", "targets", "message"),
    [
        ({"loss": "log_loss"}, [[0.0], [1.5]], r"y must be in \[0, 1\] for loss 'log_loss', got 0.0 to 1.5"),
        ({"loss": "clipped_log_loss"}, [[-0.5], [1.0]], r"y must be in \[0, 1\] for loss 'clipped_log_loss', got -0.5"),
        ({"loss": "poisson", "out_activation": "exp"}, [[1.0], [-2.0]], "y must be >= 0 for loss 'poisson', got -2.0"),
        ({"loss": "log_loss", "out_activation": "softmax"}, [[0.5], [1.0]], "sum to 1 for softmax .* got 0.5"),
        (
            {"loss": "clipped_log_loss", "out_activation": "softmax"},
            [[0.5], [1.0]],
            "sum to 1 for softmax with loss 'clipped_log_loss', got 0.5",
        ),
    ],
)
def test_targets_that_a_loss_is_not_defined_for(options, targets, message):
    net = NeuralNetwork(2, 4, 1, random_state=0, **options)
    with pytest.raises(ValueError, match=message):
        net.train(np.ones((2, 2)), targets, 1, 0.1)


OUTPUTS = [("logistic", loss) for loss in ("squared_error", "log_loss", "clipped_log_loss")]
OUTPUTS += [("softmax", loss) for loss in ("squared_error", "log_loss", "clipped_log_loss")]
OUTPUTS += [("exp", "squared_error"), ("exp", "poisson"), ("identity", "squared_error"), ("identity", "absolute_error")]
TARGETS = {
    "numbers of classes": ([[0.0, 4.0], [3.0, 1.0]], {"exp", "identity"}),
    "signs": ([[-1.0, 1.0], [1.0, -1.0]], {"identity"}),
    "one negative": ([[0.5, 0.5], [1.0, -0.001]], {"identity"}),
    "one above 1": ([[0.5, 0.5], [0.0, 1.001]], {"exp", "identity"}),
    "sums of 0 and 2": ([[0.0, 0.0], [1.0, 1.0]], {"logistic", "exp", "identity"}),
    "a sum of 1 from beyond": ([[0.5, 0.5], [2.0, -1.0]], {"identity"}),
    "fractions": ([[0.25, 0.75], [0.5, 0.5]], {"logistic", "softmax", "exp", "identity"}),
    "bounds": ([[0.0, 1.0], [1.0, 0.0]], {"logistic", "softmax", "exp", "identity"}),
    "rounded": ([[-1e-7, 1 + 2e-7], [1 / 3, 2 / 3 + 1e-7]], {"logistic", "softmax", "exp", "identity"}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("out_activation", "loss"), OUTPUTS)
@pytest.mark.parametrize("targets", TARGETS)
def test_targets_beyond_what_an_output_can_give(targets, out_activation, loss, dtype):
    y, fitting = TARGETS[targets]
    net = NeuralNetwork(2, 4, 2, out_activation=out_activation, loss=loss, dtype=dtype, random_state=0)
    untouched = copy.deepcopy(net)
    if out_activation in fitting:
        assert np.isfinite(net.train(np.ones((2, 2)), y, 2, 0.1).loss).all()
        return
    with pytest.raises(ValueError, match=r"^y must (be|have) .* out_activation '(identity|logistic)'"):
        net.train(np.ones((2, 2)), y, 1, 0.1)
    assert_same_bits(parameters(net), parameters(untouched))


# --- bad input --------------------------------------------------------------------------------------------------------


BAD_SIZES = {
    "no input": ((0, 4, 1), {}, ValueError, "input_size must be >= 1, got 0"),
    "no hidden": ((2, 0, 1), {}, ValueError, "hidden_size must be >= 1, got 0"),
    "no hidden in the second": ((2, [4, -3], 1), {}, ValueError, "hidden_size must be >= 1, got -3"),
    "no output": ((2, 4, -1), {}, ValueError, "output_size must be >= 1, got -1"),
    "fraction": ((2.5, 4, 1), {}, TypeError, "input_size must be an integer, got 2.5"),
    "text": ((2, "4", 1), {}, TypeError, "hidden_size must be an integer, got '4'"),
    "nothing": ((2, None, 1), {}, TypeError, "hidden_size must be an integer, got None"),
    "truth": ((2, 4, True), {}, TypeError, "output_size must be an integer, got True"),
    "activation": ((2, 4, 1), {"activation": "step"}, ValueError, "activation must be one of 'identity', .* got 'step'"),
    "activations": ((2, [4, 3], 1), {"activation": ["tanh"]}, ValueError, "activation must be one word or 2, got"),
    "output": ((2, 4, 1), {"out_activation": "tanh"}, ValueError, "out_activation must be one of .* got 'tanh'"),
    "loss": ((2, 4, 1), {"loss": "hinge"}, ValueError, "loss must be one of .* got 'hinge'"),
    "output for a loss": ((2, 4, 1), {"loss": "poisson"}, ValueError, "one of 'exp' for loss 'poisson', got 'logistic'"),
    "solver": ((2, 4, 1), {"solver": "keep"}, ValueError, "solver must be one of 'sgd', .* got 'keep'"),
    "momentum": ((2, 4, 1), {"momentum": 1}, ValueError, r"momentum must be in \[0, 1\), got 1"),
    "beta_1": ((2, 4, 1), {"beta_1": -0.1}, ValueError, r"beta_1 must be in \[0, 1\), got -0.1"),
    "beta_2": ((2, 4, 1), {"beta_2": "x"}, TypeError, "beta_2 must be a number, got 'x'"),
    "epsilon": ((2, 4, 1), {"epsilon": 0}, ValueError, "epsilon must be > 0, got 0"),
    "alpha": ((2, 4, 1), {"alpha": -1}, ValueError, "alpha must be >= 0, got -1"),
    "max_norm": ((2, 4, 1), {"max_norm": 0}, ValueError, "max_norm must be > 0, got 0"),
    "dropout": ((2, 4, 1), {"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1"),
    "no jobs": ((2, 4, 1), {"n_jobs": 0}, ValueError, "n_jobs must not be 0, got 0"),
    "half a job": ((2, 4, 1), {"n_jobs": 0.5}, TypeError, "n_jobs must be an integer or None, got 0.5"),
    "no activation": ((2, 4, 1), {"activation": None}, ValueError, "activation must be .* got None"),
    "half": ((2, 4, 1), {"dtype": "float16"}, ValueError, "dtype must be 'float32' or 'float64', got 'float16'"),
    "int": ((2, 4, 1), {"dtype": int}, ValueError, "dtype must be .* got <class 'int'>"),
    "no dtype": ((2, 4, 1), {"dtype": None}, ValueError, "dtype must be .* got None"),
    "unknown dtype": ((2, 4, 1), {"dtype": "real"}, ValueError, "dtype must be .* got 'real'"),
    "negative scale": ((2, 4, 1), {"init_scale": -1}, ValueError, "init_scale must be >= 0, got -1"),
    "infinite scale": ((2, 4, 1), {"init_scale": np.inf}, ValueError, "init_scale must be finite, got inf"),
    "text scale": ((2, 4, 1), {"init_scale": "1"}, TypeError, "init_scale must be a number, got '1'"),
    "size beyond integers": ((10**400, 4, 1), {}, ValueError, r"input_size must be <= \d+, got a larger number"),
    **{
        f"{name} beyond floats": (
            (2, 4, 1),
            {name: 10**400},
            ValueError,
            f"{name} must be finite, got a number beyond float64",
        )
        for name in ("momentum", "beta_1", "beta_2", "epsilon", "alpha", "max_norm", "dropout", "init_scale")
    },
    "no limit at all": ((2, 4, 1), {"max_norm": np.nan}, ValueError, "max_norm must be finite, got nan"),
    "seed": ((2, 4, 1), {"random_state": "x"}, TypeError, "random_state must be .* got 'x'"),
    "negative seed": ((2, 4, 1), {"random_state": -1}, ValueError, "random_state must be .* got -1"),
}


@pytest.mark.parametrize("bad", BAD_SIZES)
def test_bad_construction(bad):
    sizes, options, error, message = BAD_SIZES[bad]
    with pytest.raises(error, match=message):
        NeuralNetwork(*sizes, **options)


@pytest.mark.parametrize("bad", [bad for bad in BAD_SIZES if BAD_SIZES[bad][1].keys() - {"random_state"}])
def test_what_is_set_later_is_checked_as_well(bad):
    _, options, error, message = BAD_SIZES[bad]
    sizes = BAD_SIZES[bad][0]
    net, untouched = (NeuralNetwork(*sizes, random_state=0) for _ in range(2))
    ((name, value),) = options.items()

    def use():
        setattr(net, name, value)
        net.train(np.ones((3, 2)), np.ones((3, 1)), 1, 0.1)

    with pytest.raises(error, match=message):
        use()
    assert_same_bits(parameters(net), parameters(untouched))


def test_what_is_set_later_is_used():
    X, y = digits()
    options = {"activation": ["tanh"], "solver": "nesterov", "alpha": 0.1, "dropout": 0.25, "max_norm": 1, "n_jobs": 2}
    net = NeuralNetwork(8, 5, 3, random_state=0)
    for name, value in options.items():
        setattr(net, name, value)
    other = NeuralNetwork(8, 5, 3, random_state=0, **options)
    assert_same_bits(net.train(X, y, 3, 0.01, shuffle=True).loss, other.train(X, y, 3, 0.01, shuffle=True).loss)
    assert_same_bits(parameters(net), parameters(other))
    different = NeuralNetwork(8, 5, 3, random_state=1)
    different.weights = NeuralNetwork(8, 5, 3, random_state=0).weights
    for name, value in options.items():
        setattr(different, name, value)
    assert not np.array_equal(different.train(X, y, 1, 0.01).loss, other.train(X, y, 1, 0.01).loss)


@pytest.mark.parametrize("after", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("before", ["sgd", "momentum", "adam"])
def test_another_solver_begins_anew(before, after):
    X, y = digits()
    net, other = NeuralNetwork(8, 5, 3, solver=before, random_state=0), NeuralNetwork(8, 5, 3, solver=after)
    net.train(X, y, 3, 0.01)
    other.weights, other.biases = net.weights, net.biases
    net.solver = after
    same = np.array_equal(net.train(X, y, 2, 0.01).loss, other.train(X, y, 2, 0.01).loss)
    assert same == (before != after or before == "sgd")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_limit_is_an_infinite_one(dtype):
    one, other = network(dtype=dtype), network(dtype=dtype, max_norm=np.inf)
    assert one.max_norm is other.max_norm is None
    assert_same_bits(one.train(*XOR, 3, 0.1).loss, other.train(*XOR, 3, 0.1).loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("scale", [1e-320, 1e-46, 1e-30, 1.0, 1e30, 1e37, 1e308])
def test_sample_weights_of_any_size(scale, reduction, dtype):
    """They train, or are refused by name: never neither."""
    net, untouched = network(dtype=dtype), network(dtype=dtype)
    try:
        loss = net.train(
            *XOR, 2, 0.1 if reduction == "mean" else 0.1 / scale, reduction=reduction, sample_weight=[scale] * 4
        ).loss
    except ValueError as error:
        assert re.match(r"sample_weight must (have a sum from|be finite|be >= 0 and not all 0)", str(error))  # noqa: PT017
        assert not 1e-30 <= scale <= 1e30
        assert_same_bits(parameters(net), parameters(untouched))
    else:
        expected = untouched.train(*XOR, 2, 0.1, reduction=reduction)
        assert dtype == "float64" or 1e-30 <= scale <= 1e30
        np.testing.assert_allclose(loss / (scale if reduction == "sum" else 1), expected.loss, rtol=1e-5)
        np.testing.assert_allclose(net.weights[0], untouched.weights[0], rtol=1e-5)


def with_one(array, value):
    array = array.astype(type(value)) if isinstance(value, (str, complex)) else array.copy()
    array[1, 0] = value
    return array


BAD_MATRICES = {
    "one dimension": (lambda A: A[0], ValueError, "must be 2-dimensional, got 1"),
    "three dimensions": (lambda A: A[None], ValueError, "must be 2-dimensional, got 3"),
    "a number": (lambda A: 5, ValueError, "must be 2-dimensional, got 0"),
    "nothing": (lambda A: None, ValueError, "must be"),
    "text": (lambda A: A.astype(str), ValueError, "must be numeric, got dtype <U"),
    "text as objects": (lambda A: A.astype(str).astype(object), ValueError, "must be numeric"),
    "mixed objects": (lambda A: with_one(A.astype(object), "a"), ValueError, "must be numeric"),
    "bytes": (lambda A: A.astype("S8"), ValueError, r"must be numeric, got dtype \|S8"),
    "complex": (lambda A: A * 1j, ValueError, "must be numeric, got dtype complex128"),
    "dates": (lambda A: A.astype("datetime64[s]"), ValueError, "must be numeric, got dtype datetime64"),
    "records": (lambda A: A.astype([("a", float)]), ValueError, "must be numeric, got dtype"),
    "ragged": (lambda A: [[1, 2], [3]], ValueError, "must be numeric"),
    "missing": (lambda A: with_one(A.astype(object), None), ValueError, "must be"),
    "NaN": (lambda A: with_one(A, np.nan), ValueError, "must be finite, got NaN or infinity"),
    "infinity": (lambda A: with_one(A, -np.inf), ValueError, "must be finite, got NaN or infinity"),
    "too large for float32": (lambda A: with_one(A, 1e39), ValueError, "must be finite"),
    "too large for a float": (lambda A: with_one(A.astype(object), 10**400), ValueError, "must be numeric: int too large"),
    "no rows": (lambda A: A[:0], ValueError, "must have at least one row, got 0"),
    "column too many": (lambda A: np.hstack([A, A]), ValueError, r"must have \d columns?, got \d"),
    "no columns": (lambda A: A[:, :0], ValueError, r"must have \d columns?, got 0"),
    "transposed": (lambda A: A.T, ValueError, r"must have \d columns?, got 4"),
}


@pytest.mark.parametrize("name", ["X", "y"])
@pytest.mark.parametrize("bad", BAD_MATRICES)
def test_bad_matrices(bad, name):
    spoil, error, message = BAD_MATRICES[bad]
    message = f"{name} {message}"
    if (bad, name) == ("one dimension", "y"):
        # a vector is good for one output, but not of one row
        message = "X and y must have the same number of rows, got 4 and 1"
    net, untouched = network(dtype="float32"), network(dtype="float32")
    X, y = (spoil(XOR[0]), XOR[1]) if name == "X" else (XOR[0], spoil(XOR[1]))
    uses = [lambda: net.train(X, y, 3, 0.1), lambda: net.backward(X, y, 0.1)]
    if name == "X":
        uses.append(lambda: net.feedforward(X))
    for use in uses:
        with pytest.raises(error, match=message):
            use()
    assert_same_bits(parameters(net), parameters(untouched))


def test_different_numbers_of_rows():
    net, untouched = network(), network()
    for use in (lambda: net.train(XOR[0], XOR[1][:3], 3, 0.1), lambda: net.backward(XOR[0][:3], XOR[1], 0.1)):
        with pytest.raises(ValueError, match="X and y must have the same number of rows, got [34] and [34]"):
            use()
    assert_same_bits(parameters(net), parameters(untouched))


BAD_OPTIONS = {
    "epochs below 0": ({"epochs": -1}, ValueError, "epochs must be >= 0, got -1"),
    "half an epoch": ({"epochs": 0.5}, TypeError, "epochs must be an integer, got 0.5"),
    "text epochs": ({"epochs": "3"}, TypeError, "epochs must be an integer, got '3'"),
    "no step": ({"learning_rate": 0}, ValueError, "learning_rate must be > 0, got 0"),
    "uphill": ({"learning_rate": -0.1}, ValueError, "learning_rate must be > 0, got -0.1"),
    "NaN step": ({"learning_rate": np.nan}, ValueError, "learning_rate must be finite, got nan"),
    "infinite step": ({"learning_rate": np.inf}, ValueError, "learning_rate must be finite, got inf"),
    "text step": ({"learning_rate": "0.1"}, TypeError, "learning_rate must be a number, got '0.1'"),
    "step beyond floats": ({"learning_rate": 10**400}, ValueError, "learning_rate must be finite, got a number beyond"),
    "epochs beyond integers": ({"epochs": 10**400}, ValueError, r"epochs must be <= \d+, got a larger number"),
    "no number": ({"learning_rate": None}, TypeError, "learning_rate must be a number, got None"),
    "empty batch": ({"batch_size": 0}, ValueError, "batch_size must be >= 1, got 0"),
    "large batch": ({"batch_size": 5}, ValueError, "batch_size must be at most the number of rows, 4, got 5"),
    "fractional batch": ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got 2.0"),
    "reduction": ({"reduction": "max"}, ValueError, "reduction must be one of 'sum', 'mean', got 'max'"),
    "reductions": ({"reduction": ["sum"]}, ValueError, r"reduction must be one of 'sum', 'mean', got \['sum'\]"),
    "negative verbose": ({"verbose": -1}, ValueError, "verbose must be >= 0, got -1"),
    "text verbose": ({"verbose": "very"}, TypeError, "verbose must be an integer, got 'very'"),
    "weights for other rows": (
        {"sample_weight": [1.0] * 3},
        ValueError,
        r"sample_weight must have shape .*, got \(3,\)",
    ),
    "negative weight": ({"sample_weight": [1, 1, 1, -1]}, ValueError, "sample_weight must be >= 0 and not all 0, got -1"),
    "no weight": ({"sample_weight": [0] * 4}, ValueError, "sample_weight must be >= 0 and not all 0, got 0"),
    "NaN weight": ({"sample_weight": [1, 1, 1, np.nan]}, ValueError, "sample_weight must be finite"),
    "text weights": ({"sample_weight": list("abcd")}, ValueError, "sample_weight must be numeric"),
    "callback": ({"callback": 5}, TypeError, "callback must be callable or None, got 5"),
}


@pytest.mark.parametrize("bad", BAD_OPTIONS)
def test_bad_options(bad):
    options, error, message = BAD_OPTIONS[bad]
    net, untouched = network(), network()
    with pytest.raises(error, match=message):
        net.train(*XOR, **({"epochs": 3, "learning_rate": 0.1} | options))
    assert_same_bits(parameters(net), parameters(untouched))
    step = options.keys() & {"learning_rate", "reduction", "sample_weight"}
    if step:
        with pytest.raises(error, match=message):
            net.backward(*XOR, **({"learning_rate": 0.1} | options))
        assert_same_bits(parameters(net), parameters(untouched))


@pytest.mark.parametrize("callback", [None, lambda epoch, history: None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_stop_being_finite(dtype, callback):
    net, untouched = network(dtype=dtype), network(dtype=dtype)
    net.train(*XOR, 3, 0.1)
    untouched.train(*XOR, 3, 0.1)
    message = r"weights stopped being finite in epoch \d+ with learning_rate=1e\+308"
    with pytest.raises(ValueError, match=message):
        net.train(np.ones((100, 2)), np.zeros((100, 1)), 10, 1e308, callback=callback)
    assert_same_bits(parameters(net), parameters(untouched))


@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
def test_what_diverges_leaves_the_solver_as_it_was(solver):
    net, untouched = network(solver=solver), network(solver=solver)
    for one in (net, untouched):
        one.train(*XOR, 3, 0.1)
    with pytest.raises(ValueError, match="stopped being finite"):
        net.train(np.ones((100, 2)), np.zeros((100, 1)), 10, 1e308, callback=lambda epoch, history: None)
    for one in (net, untouched):
        one.train(*XOR, 3, 0.1)
    assert_same_bits(parameters(net), parameters(untouched))


@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("rate", [0.6, 0.7, 0.9, 3.0])
def test_the_error_of_a_divergence_names_the_first_epoch_whose_record_is_not_finite(rate, looked):
    X, y = np.arange(1.0, 5)[:, None], np.full((4, 1), 2.0)

    def linear():
        return NeuralNetwork(1, [], 1, out_activation="identity", random_state=0)

    epochs, net = 0, linear()
    with np.errstate(all="ignore"):  # by hand
        (w,), (b,) = (array.ravel().copy() for array in (net.weights[0], net.biases[0]))
        while np.isfinite(np.sum((X * w + b - y) ** 2)):
            epochs, error = epochs + 1, X * w + b - y
            w, b = w - rate * np.sum(error * X), b - rate * np.sum(error)
    callback = (lambda epoch, history: None) if looked else None
    with pytest.raises(ValueError, match=rf"finite in epoch {epochs + 1} with"):
        linear().train(X, y, 10_000, rate, callback=callback)
    # where the weights are the first that are not finite, it is the last epoch that was run
    with pytest.raises(ValueError, match="finite in epoch 1 with"):
        linear().train(X, y, 1, 1e308, callback=callback)
    with pytest.raises(ValueError, match="finite in epoch 1 with"):
        linear().train(X, y * 8e307, 1, 10.0, callback=callback)


# --- callbacks, printing and progress ---------------------------------------------------------------------------------


def test_callback_sees_every_epoch_and_the_weights():
    net, other, seen = network(), network(), []

    def callback(epoch, history):
        assert len(history) == epoch
        seen.append((epoch, history.mse[-1], parameters(net)))

    history = net.train(*XOR, 4, 0.1, callback=callback)
    assert [epoch for epoch, _, _ in seen] == [1, 2, 3, 4]
    assert [mse for _, mse, _ in seen] == list(history.mse)
    for _, _, weights in seen:
        other.train(*XOR, 1, 0.1)
        assert_same_bits(weights, parameters(other))
    assert_same_bits(parameters(net), parameters(other))


@pytest.mark.parametrize("stop", [True, np.True_])
def test_callback_stops(stop):
    net, other = network(), network()
    history = net.train(*XOR, 100, 0.1, callback=lambda epoch, history: stop if epoch == 3 else None)
    other.train(*XOR, 3, 0.1)
    assert len(history) == 3
    assert_same_bits(parameters(net), parameters(other))


def halve_in_place(net):
    net.weights[0][...] /= 2


def halve_item(net):
    net.weights[0] = net.weights[0] / 2


def halve_all(net):
    net.weights = [net.weights[0] / 2, net.weights[1]]


@pytest.mark.parametrize("halve", [halve_in_place, halve_item, halve_all])
@pytest.mark.parametrize("stop", [False, True])
def test_callback_changes_the_weights(halve, stop):
    net, other = network(), network()

    def callback(epoch, history):
        if epoch == 2:
            halve(net)
            return stop
        return False

    history = net.train(*XOR, 4, 0.1, callback=callback)
    other.train(*XOR, 2, 0.1)
    halve(other)
    if not stop:
        other.train(*XOR, 2, 0.1)
    assert len(history) == (2 if stop else 4)
    assert_same_bits(parameters(net), parameters(other))
    assert_same_bits([net.train(*XOR, 2, 0.1).mse], [other.train(*XOR, 2, 0.1).mse])


def test_callback_sets_bad_weights():
    net, other = network(), network()

    def callback(epoch, history):
        if epoch == 2:
            net.weights[1] = np.ones((1, 1))

    with pytest.raises(ValueError, match=r"weights\[1\] must have shape \(4, 1\), got \(1, 1\)"):
        net.train(*XOR, 4, 0.1, callback=callback)
    other.train(*XOR, 2, 0.1)
    assert_same_bits(parameters(net), parameters(other))


@pytest.mark.parametrize("error", [ValueError, KeyError])
def test_callback_raises(error):
    """What was learned until then is kept."""
    net, other = network(), network()

    def callback(epoch, history):
        if epoch == 3:
            raise error("mine")

    with pytest.raises(error, match="mine"):
        net.train(*XOR, 5, 0.1, callback=callback)
    other.train(*XOR, 3, 0.1)
    assert_same_bits(parameters(net), parameters(other))


def test_callback_and_printing_change_no_bit(capsys):
    X, y = rows()
    silent, loud = (NeuralNetwork(3, 5, 2, random_state=0) for _ in range(2))
    silent.train(X, y, 20, 0.1, batch_size=3)
    loud.train(X, y, 20, 0.1, batch_size=3, verbose=3, progress=True, callback=lambda epoch, history: False)
    assert_same_bits(parameters(loud), parameters(silent))


def test_verbose(capsys):
    net = network()
    history = net.train(*XOR, 10, 0.1, verbose=4)
    printed, errors = capsys.readouterr()
    expected = [
        f"epoch {epoch}: mse {history.mse[epoch - 1]:.6f}, loss {history.loss[epoch - 1]:.6g}, "
        f"accuracy {history.accuracy[epoch - 1]:.4f}"
        for epoch in (4, 8)
    ]
    assert printed.splitlines() == expected
    assert errors == ""


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (False, 0), (True, 5), (1, 5), (5, 1), (6, 0)])
def test_how_often_verbose_prints(verbose, lines, capsys):
    network().train(*XOR, 5, 0.1, verbose=verbose, callback=lambda epoch, history: None)
    assert len(capsys.readouterr().out.splitlines()) == lines


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("epochs", [0, 30])
def test_progress(rich, epochs, capsys, monkeypatch):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    network().train(*XOR, epochs, 0.1, progress=True)
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert re.search(rf"epoch +{epochs}/{epochs}\b" if epochs or rich else r"^\n$", errors)
    assert bool(re.search(r"loss 0\.\d", errors)) == bool(epochs)
    network().train(*XOR, epochs, 0.1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.compiles
@pytest.mark.compiled
def test_progress_says_when_something_is_compiled(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with training.ProgressBar(5, shown=True), monkeypatch.context() as elsewhere:
        elsewhere.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        jit.Kernel("ceilings", "multiply_add", "memory:T* terms").loaded("float32", jit.native_width())
        assert re.fullmatch(r"\repoch compiling +\repoch +", capsys.readouterr().err)
        jit.Kernel("ceilings", "multiply_add", "memory:T* terms").loaded("float32", jit.native_width())
        assert capsys.readouterr().err == ""
    assert jit.listeners == []


# --- interrupts -------------------------------------------------------------------------------------------------------

INTERRUPT_SECONDS = 0.2
ATTEMPTS = 3  # for a machine that is busy with something else


def interrupted_training(net, X, y, epochs, after):
    """Press Ctrl-C some seconds into a training; its history, and how long it went on."""
    pressed = []

    def press():
        pressed.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(after, press)
    timer.start()
    try:
        with pytest.warns(UserWarning, match="interrupted"):
            history = net.train(X, y, epochs, 1e-3)
        return history, time.perf_counter() - pressed[0]
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.compiled
@pytest.mark.parametrize("size", ["many short epochs", "few long epochs"])
def test_interrupt(size):
    if size == "many short epochs":
        net, (X, y), epochs = network(), XOR, 10**8
    else:
        net, (X, y), epochs = NeuralNetwork(64, [128, 128], 10, random_state=0), rows(100_000, 64, 10), 1000
    net.train(X[:4], y[:4], 1, 1e-3)  # so that nothing has to be compiled
    delays = []
    while not delays or (min(delays) > INTERRUPT_SECONDS and len(delays) < ATTEMPTS):
        untouched = copy.deepcopy(net)
        history, delay = interrupted_training(net, X, y, epochs, 0.4)
        delays.append(delay)
    assert min(delays) <= INTERRUPT_SECONDS
    assert len(history) < epochs
    # what is kept is a training of as many epochs, whether or not another one had begun
    assert_same_bits([untouched.train(X, y, len(history), 1e-3).mse], [history.mse])
    assert_same_bits(parameters(untouched), parameters(net))


@pytest.mark.parametrize("shuffle", [False, True])
def test_interrupt_keeps_weights_and_history(shuffle):
    net, other = network(), network()

    def callback(epoch, history):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user") as warned:
        history = net.train(*XOR, 10, 0.1, batch_size=2, shuffle=shuffle, callback=callback)
    assert warned[0].filename == __file__
    expected = other.train(*XOR, 3, 0.1, batch_size=2, shuffle=shuffle)
    assert_same_bits([history.mse, history.accuracy], [expected.mse, expected.accuracy])
    assert_same_bits(parameters(net), parameters(other))
    again, expected = (n.train(*XOR, 2, 0.1, batch_size=2, shuffle=shuffle) for n in (net, other))
    assert_same_bits([again.mse], [expected.mse])


@pytest.mark.parametrize("solver", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_callback_that_raises_leaves_weights_and_solver_memory_of_its_epoch(solver, error):
    net, other = (NeuralNetwork(2, 4, 1, solver=solver, random_state=0) for _ in range(2))

    def callback(epoch, history):
        if epoch == 3:
            raise error

    with pytest.warns(UserWarning, match="interrupted") if error is KeyboardInterrupt else pytest.raises(error):
        net.train(*XOR, 10, 0.1, batch_size=2, callback=callback)
    other.train(*XOR, 3, 0.1, batch_size=2)
    assert_same_bits(parameters(net), parameters(other))
    for one in (net, other):
        one.train(*XOR, 5, 0.1, batch_size=2)
    assert_same_bits(parameters(net), parameters(other))


def test_a_second_interrupt_leaves_weights_and_solver_memory_of_one_epoch(monkeypatch):
    """It comes while the network takes what was trained before the first: whoever asks then has both."""
    net, other = (NeuralNetwork(2, 4, 1, solver="adam", random_state=0) for _ in range(2))

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as twice:
        twice.setattr(training.Run, "memory", interrupt)
        with pytest.raises(KeyboardInterrupt):
            net.train(*XOR, 5, 0.1, callback=interrupt)
    other.train(*XOR, 1, 0.1)
    assert net._moments[1] == other._moments[1] == 1
    for one in (net, other):
        one.train(*XOR, 3, 0.1)
    assert_same_bits(parameters(net), parameters(other))


@pytest.mark.parametrize("solver", ["momentum", "adam"])
def test_a_callback_sees_weights_and_solver_memory_of_its_epoch(solver):
    net, other = (NeuralNetwork(2, 4, 1, solver=solver, random_state=0) for _ in range(2))
    copies = []
    net.train(*XOR, 5, 0.1, callback=lambda epoch, history: copies.append(copy.deepcopy(net)))
    other.train(*XOR, 2, 0.1)
    for one in (copies[1], other):
        one.train(*XOR, 3, 0.1)
    assert_same_bits(parameters(copies[1]), parameters(other))
    assert_same_bits(parameters(copies[4]), parameters(net))


@pytest.mark.parametrize("form", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_that_a_callback_makes_are_of_its_epoch(form):
    net, other = (NeuralNetwork(2, 4, 1, solver="adam", random_state=0) for _ in range(2))
    copies = []
    net.train(*XOR, 5, 0.1, callback=lambda epoch, history: copies.append(form(net)))
    for one in copies:
        other.train(*XOR, 1, 0.1)
        assert_same_bits(parameters(one), parameters(other))


@pytest.mark.parametrize("touch", [lambda net: net.weights, lambda net: net.biases, lambda net: net.feedforward(XOR[0])])
def test_arrays_that_a_callback_has_read_stay_as_they_were(touch):
    net, kept, copies = network(solver="adam"), [], []

    def callback(epoch, history):
        touch(net)
        kept.append([*net.weights, *net.biases])
        copies.append(parameters(net))

    net.train(*XOR, 5, 0.1, callback=callback)
    for arrays, then in zip(kept, copies, strict=True):
        assert_same_bits(arrays, then)
    assert len({array.tobytes() for arrays in kept for array in arrays[:1]}) == 5


def test_weights_are_copied_only_for_callbacks_that_look(monkeypatch):
    copied = []
    parameters_of = training.Run.parameters
    monkeypatch.setattr(training.Run, "parameters", lambda run: copied.append(run) or parameters_of(run))
    network().train(*XOR, 10, 0.1, callback=lambda epoch, history: None)
    assert len(copied) == 1


def test_what_an_interrupt_cuts_from_a_callback_s_weights_is_none_of_them():
    """They are taken all at once."""
    run = training.Run([np.ones((2, 3)), np.ones((3, 1))], [], *XOR, rule=Rule(), activations=[1], batch_size=4)
    before = run.params.copy()
    with pytest.raises(ValueError, match="no array"):
        run.take([np.zeros((2, 3)), "no array"], [])
    assert_same_bits([run.params], [before])


# --- history ----------------------------------------------------------------------------------------------------------


def test_the_record_grows_with_the_epochs(monkeypatch):
    """A thousand million of them are no reason to run out of memory before the first."""
    net, other = network(), network()
    with monkeypatch.context() as patched:
        patched.setattr(training, "RECORD_EPOCHS", 100)
        history = net.train(*XOR, 10**9, 0.1, callback=lambda epoch, history: epoch == 3000)
    expected = other.train(*XOR, 3000, 0.1)
    assert len(history) == 3000
    assert_same_bits([history.mse, history.loss, history.accuracy], [expected.mse, expected.loss, expected.accuracy])
    assert_same_bits(parameters(net), parameters(other))
    assert net.train(*XOR, sys.maxsize, 0.1, callback=lambda epoch, history: True).epoch == [1]


@pytest.fixture
def history():
    X, y = rows()
    return NeuralNetwork(3, 5, 2, random_state=0).train(X, y, 6, 0.1, reduction="mean")


def test_history_is_what_the_outputs_say():
    X, y = rows()
    for reduction in ("sum", "mean"):
        net = NeuralNetwork(3, 5, 2, random_state=0)
        outputs = net.feedforward(X)
        history = net.train(X, y, 6, 0.1, reduction=reduction)
        mse = np.mean((outputs - y) ** 2)
        assert history.mse[0] == pytest.approx(mse)
        assert history.loss[0] == pytest.approx(mse / 2 if reduction == "mean" else mse * y.size / 2)
        assert history.accuracy[0] == np.mean(outputs.argmax(axis=1) == y.argmax(axis=1))
        assert np.all(np.diff(history.loss) < 0)


def test_accuracy_of_one_output():
    X, y = rows(n_out=1)
    net = NeuralNetwork(3, 5, 1, random_state=0)
    outputs = net.feedforward(X)
    history = net.train(X, y, 1, 0.1, batch_size=None)
    assert history.accuracy[0] == np.mean((outputs >= 0.5) == (y >= 0.5))


def test_history_arrays(history):
    assert len(history) == 6
    assert_same_bits([history.epoch], [np.arange(1, 7)])
    assert repr(history) == f"History(6 epochs, loss {history.loss[-1]:.6g}, accuracy {history.accuracy[-1]:.4g})"


def test_to_frame(history):
    frame = history.to_frame()
    assert list(frame.columns) == ["epoch", "mse", "loss", "accuracy"]
    for name in frame.columns:
        assert_same_bits([frame[name].to_numpy()], [getattr(history, name)])


def test_plot(history, monkeypatch):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = history.plot()
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        (line,) = ax.lines
        assert_same_bits([np.array(line.get_xdata()), np.array(line.get_ydata())], [history.epoch, getattr(history, name)])
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", name)
    axes[0].figure.draw_without_rendering()
    pyplot.close(axes[0].figure)

    _, mine = pyplot.subplots(2)
    assert history.plot(mine) is mine
    assert [len(ax.lines) for ax in mine] == [1, 1]
    pyplot.close(mine[0].figure)


def test_an_empty_history_can_be_shown():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    history = network().train(*XOR, 0, 0.1)
    assert len(history.to_frame()) == 0
    axes = history.plot()
    axes[0].figure.draw_without_rendering()
    pyplot.close(axes[0].figure)


@pytest.mark.parametrize(
    ("n_outputs", "out_activation", "loss"),
    [
        (1, "logistic", "squared_error"),
        (3, "logistic", "squared_error"),
        (3, "softmax", "log_loss"),
        (1, "identity", "squared_error"),
        (2, "identity", "squared_error"),
    ],
)
def test_predictions_are_the_likeliest_class_or_the_values(n_outputs, out_activation, loss):
    X = np.random.default_rng(0).normal(size=(200, 3))
    net = NeuralNetwork(3, 4, n_outputs, activation="tanh", out_activation=out_activation, loss=loss, random_state=1)
    net.weights = [4 * (W - 0.5) for W in net.weights]
    net.biases = [b - 0.5 for b in net.biases]
    outputs, predicted = net.feedforward(X), net.predict(X)
    if out_activation == "identity":
        np.testing.assert_array_equal(predicted, outputs[:, 0] if n_outputs == 1 else outputs)
    else:
        by_hand = [int(row[0] > 0.5) if n_outputs == 1 else max(range(n_outputs), key=row.__getitem__) for row in outputs]
        assert predicted.tolist() == by_hand
        assert len(set(by_hand)) > 1


def test_targets_of_one_output_may_be_a_vector():
    X = np.random.default_rng(0).normal(size=(20, 3))
    y = (X[:, 0] > 0).astype(float)
    vector, column = (NeuralNetwork(3, 4, 1, random_state=1) for _ in range(2))
    vector.train(X, y, 5)
    column.train(X, y[:, np.newaxis], 5, 0.1)
    for one, other in zip(vector.weights + vector.biases, column.weights + column.biases, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match=r"y must have 3 columns, .* got shape \(20,\): .* numpy.eye\(3\)\[y\]"):
        NeuralNetwork(3, 4, 3).train(X, y, 5)


def test_what_is_idle_is_bounded():
    idle, rng = {}, np.random.default_rng([draws.SEED, 8])
    for number in range(200):
        one = SimpleNamespace(nbytes=int(2 ** rng.uniform(0, 24)))
        training.keep_idle(idle, number, one)
        assert (number in idle) == (one.nbytes <= training.IDLE_BYTES)
        assert len(idle) <= training.MOST_IDLE
        assert sum(kept.nbytes for kept in idle.values()) <= training.IDLE_BYTES


@pytest.mark.parametrize("number", range(draws.examples(40)))
def test_a_workspace_that_is_used_again_is_as_new(number):
    """After trainings of other data and weights, of which some diverge or are interrupted."""
    rng = np.random.default_rng([draws.SEED, 7, number])
    units = [int(size) for size in rng.integers(1, rng.choice([40, 300]), rng.integers(2, 5))]
    n, shuffle = int(rng.integers(1, 60)), bool(rng.random() < 0.5)
    batch_size = int(rng.integers(1, n + 1))
    options = {
        "solver": str(rng.choice(["sgd", "momentum", "adam"])), "dropout": float(rng.choice([0, 0.3])),
        "dtype": str(rng.choice(["float32", "float64"])), "activation": str(rng.choice(["tanh", "relu", "selu"])),
        "max_norm": [None, 1.0][rng.integers(2)], "alpha": float(rng.choice([0, 0.1])),
    }  # fmt: skip

    def train(seed, scale=1.0, callback=None):
        draw = np.random.default_rng(seed)
        X, y = draw.normal(size=(n, units[0])) * scale, draw.normal(size=(n, units[-1]))
        net = NeuralNetwork(units[0], units[1:-1], units[-1], out_activation="identity", random_state=seed, **options)
        how = {"batch_size": batch_size, "shuffle": shuffle, "reduction": "mean", "callback": callback}
        with contextlib.suppress(ValueError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.train(X, y, 3, 0.01, **how)
        return [array.tobytes() for array in net.weights + net.biases]

    def interrupt(epoch, history):
        raise KeyboardInterrupt

    training.idle_workspaces.clear()
    expected = train(0)
    assert len(training.idle_workspaces) <= 1
    for seed in range(1, 4):
        train(seed, scale=float(rng.choice([1, 1e20, 1e-20])), callback=[None, interrupt][rng.integers(2)])
        assert train(0) == expected


@pytest.mark.parametrize("rows", [1, 2, 40], ids=["online", "narrow", "wide"])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 1e20), ("float32", 2e36), ("float32", 1e-25), ("float64", 1e160), ("float64", 1e-170)]
)
def test_clipping_where_squares_are_no_numbers(dtype, size, many, rows):
    """A step as long as max_norm, and as long as the gradient where that is shorter."""
    n_in, n_out = (300, 100) if rows == 40 and not many else (3, 2)
    for part in (0.1, 1e3):
        options = {"out_activation": "identity", "dtype": dtype, "bias": False, "max_norm": part * size}
        nets = [NeuralNetwork(n_in, [], n_out, random_state=0, **options) for _ in range(3 if many else 1)]
        for net in nets:
            net.weights = [np.zeros((n_in, n_out), dtype)]
        X, y = np.ones((rows, n_in)), np.full((rows, n_out), size / rows)
        if many:
            train_many(nets, X, y, 1, 1.0, batch_size=rows)
        else:
            nets[0].train(X, y, 1, 1.0)
        norm = size * np.sqrt(n_in * n_out)
        for net in nets:
            expected = np.full((n_in, n_out), size * min(1, part * size / norm))
            np.testing.assert_allclose(net.weights[0], expected, rtol=1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("rich", [True, False])
def test_a_bar_without_standard_error(rich, monkeypatch):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert len(NeuralNetwork(2, 3, 1).train(np.ones((4, 2)), np.ones(4), 5, progress=True)) == 5


def test_an_output_of_a_half_is_of_one_class():
    net = NeuralNetwork(2, [3], 1, activation="relu", random_state=0)
    net.weights = [W * 0 for W in net.weights]
    assert net.train(np.zeros((4, 2)), np.ones(4), 1, 1e-30).accuracy == 1
    assert net.predict(np.zeros((4, 2))).tolist() == [1] * 4


def test_a_source_that_fails_at_once_draws_nothing():
    class Failing:
        shape, dtype = (100, 2), np.dtype(float)

        def __getitem__(self, key):
            raise OSError("gone")

    nets, rows = [NeuralNetwork(2, 3, 1, random_state=0) for _ in range(2)], np.random.default_rng(0).normal(size=(100, 2))
    with pytest.raises(OSError, match="gone"):
        nets[0].train(Failing(), np.ones(100), 1, batch_size=10, chunk_rows=20, shuffle=True)
    for net in nets:
        net.train(rows, np.ones(100), 1, batch_size=10, shuffle=True)
    np.testing.assert_array_equal(nets[0].weights[0], nets[1].weights[0])


@pytest.mark.parametrize(("dtype", "bias"), [("float32", 100.0), ("float64", 720.0)])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 17, 33])
@pytest.mark.parametrize("loss", ["poisson", "squared_error"])
def test_no_output_overflows_but_those_of_rows(loss, rows, dtype, bias):
    """Vectors of samples have lanes without one."""
    net = NeuralNetwork(1, [], 1, out_activation="exp", loss=loss, dtype=dtype, random_state=0)
    net.weights, net.biases = [[[1.0]]], [[bias]]
    X, y = np.linspace(-1, 1, rows)[:, np.newaxis] - bias, np.ones((rows, 1))
    gradient = np.exp(X[:, 0] + bias) - 1
    gradient *= 1 if loss == "poisson" else np.exp(X[:, 0] + bias)
    found = net.gradients(X, y)[1][0]
    np.testing.assert_allclose(found, gradient.sum(), rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-5 * rows)
    assert np.isfinite(net.train(X, y, 1, 1e-6).loss).all()


@pytest.mark.parametrize(("dtype", "z", "expected"), [
    ("float32", 10, 4.539890e-5), ("float32", 17, 4.139938e-8), ("float64", 36, 2.319523e-16), ("float64", 2, 0.126928011),
])  # fmt: skip
def test_the_log_loss_of_what_is_almost_sure_keeps_its_digits(dtype, z, expected):
    losses = []
    for sign, y in ((1, 1.0), (-1, 0.0)):
        net = NeuralNetwork(1, [], 1, loss="log_loss", dtype=dtype, random_state=0)
        net.weights = [[[1.0]]]
        losses.append(float(net.train([[sign * z]], [[y]], 1, 1e-30).loss[0]))
    assert losses == pytest.approx([expected] * 2, rel=1e-6)


def test_times_among_objects_are_no_numbers():
    y = np.array([np.datetime64("2020-01-01") + number for number in range(4)], object)
    with pytest.raises(ValueError, match="y must be numeric: got text or times"):
        NeuralNetwork(2, 3, 1, out_activation="identity").train(np.ones((4, 2)), y, 1)
