"""Many networks in one call: each learns what it would learn alone, whoever its neighbours are."""

import functools
import importlib.util
import inspect
import pickle
import signal
import threading
import time
import types
import warnings

import draws
import numpy as np
import pytest

from fastbp import NeuralNetwork, kernels, reference, train_many
from fastbp import lanes as lanes_module
from fastbp.kernels import jit
from fastbp.kernels import many as many_kernel
from fastbp.layout import CURSOR, RECORD, SETTINGS, Layout, aligned_zeros
from fastbp.rule import ACTIVATIONS, HEADS, MOMENTS, RULE, SOLVERS, Rule
from fastbp.training import Run

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
# Relative to the change, after a few steps; single ones are rounded to 1e-16 and 6e-8.
TOLERANCE = {"float64": 1e-10, "float32": 1e-3}
TAME = 1e3


class Draw:
    """Arguments of `kernels.train_many`, drawn by a seed."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        units = rng.integers(1, 9, rng.integers(2, 5)).tolist()
        self.dtype, n_rows, self.epochs = str(rng.choice(["float32", "float64"])), int(rng.integers(1, 20)), 2
        self.layout = Layout(units, self.dtype, bool(rng.random() < 0.7), rng.integers(0, len(ACTIVATIONS), len(units) - 2))
        at, rows = 0, []
        for row in self.layout.rows:
            rows.append(row._replace(offset=at))
            at += row.n_rows * row.n_out
        widths = [bytes_ for bytes_ in (16, 32, 64) if bytes_ <= jit.native_width()]
        widths = widths if importlib.util.find_spec("numba") else widths[-1:]  # what comes compiled is of the processor's
        lanes, groups = int(rng.choice(widths)) // np.dtype(self.dtype).itemsize, int(rng.integers(1, 4))
        shuffled, own, out = rng.random() < 0.4, rng.random() < 0.4, HEADS[rng.integers(len(HEADS))]
        rule = Rule(
            *out, str(rng.choice(SOLVERS[1:])), dropout=float(rng.choice([0, 0.3])) * (len(units) > 2),
            reduction=str(rng.choice(["sum", "mean", "row"])),
        )  # fmt: skip
        params = aligned_zeros(groups * at * lanes, self.dtype).reshape(groups, at, lanes)
        params[:] = rng.normal(0, 0.4, params.shape)
        state = np.zeros((groups, MOMENTS[SOLVERS.index(rule.solver)], at, lanes), self.dtype)
        shape = (groups if own else 1, n_rows, lanes if own else 1)
        X, Y = (rng.random((*shape[:2], size, shape[2])).astype(self.dtype) for size in (units[0], units[-1]))
        if out[0] == "softmax":
            Y /= Y.sum(axis=2, keepdims=True)
        visited = np.broadcast_to(np.arange(n_rows)[:, None], (groups * shuffled, self.epochs, n_rows, lanes))
        order = rng.permuted(visited, axis=2)
        weights = rng.random(0 if shuffled else n_rows * int(rng.integers(2))).astype(self.dtype) + np.float32(0.1)
        settings = np.ones((groups, len(SETTINGS), lanes), self.dtype)
        settings[:, SETTINGS.rate] = rng.uniform(0.001, 0.02, (groups, lanes))
        momentum = rng.uniform(0.5, 0.9)
        settings[:, SETTINGS.momentum], settings[:, SETTINGS.momentum_gain] = momentum, 1 - momentum
        settings[:, SETTINGS.beta_2], settings[:, SETTINGS.beta_2_gain] = 0.99, 0.01
        settings[:, SETTINGS.epsilon] = 1e-6
        settings[:, SETTINGS.alpha] = rng.choice([0, 0.1]) * rng.random((groups, lanes))
        settings[:, SETTINGS.max_norm] = rng.choice([np.inf, 0.5]) * rng.uniform(0.1, 1, (groups, lanes))
        batch = int(rng.choice([1, n_rows, rng.integers(1, n_rows + 1)]))
        steps = np.arange(1, self.epochs * -(-n_rows // batch) + 1)
        rates = np.sqrt(1 - 0.99**steps) / (1 - momentum**steps)
        self.arguments = {
            "layers": np.array(rows, np.int64), "params": params, "state": state, "X": X, "Y": Y,
            "order": np.ascontiguousarray(order), "weights": weights, "batch_size": batch, "rule": rule.numbers(units[-1]),
            "settings": settings, "seeds": rng.integers(0, 2**32, (groups, lanes)), "rates": rates, "begun": 0,
            "epochs": self.epochs, "record": np.zeros((groups, len(RECORD), self.epochs, lanes)),
        }  # fmt: skip

    def alone(self, group, lane):
        """What the reference makes of one network: its parameters and its record."""
        a, layout = self.arguments, self.layout
        params, state = self.laid_out(a["params"][group, :, lane]), np.zeros((a["state"].shape[1], layout.size), self.dtype)
        mine = (group, lane) if a["X"].shape[-1] > 1 else (0, 0)
        X, Y = (np.ascontiguousarray(a[name][mine[0], :, :, mine[1]]) for name in ("X", "Y"))
        rule, settings = a["rule"].copy(), a["settings"][group, :, lane]
        for name in ("momentum", "beta_2", "epsilon", "alpha", "max_norm"):
            rule[getattr(RULE, name)] = settings[getattr(SETTINGS, name)]
        rule[RULE.learning_rate], rule[RULE.seed] = settings[SETTINGS.rate], a["seeds"][group, lane]
        order = np.ascontiguousarray(a["order"][group, :, :, lane]) if len(a["order"]) else np.empty((0, len(X)), np.int64)
        record = np.zeros((self.epochs, len(RECORD)))
        blocks = self.epochs * -(-len(X) // a["batch_size"])
        cursor = np.zeros(len(CURSOR), np.int64)
        rows = X, Y, a["weights"], order, a["batch_size"]
        reference.train(layout.layers, params, state, *rows, rule, blocks, cursor, record, None)
        return params, record

    def laid_out(self, flat):
        params = np.zeros(self.layout.size, self.dtype)
        for row, (*_, at, _, _) in zip(self.layout.rows, self.arguments["layers"], strict=True):
            block = params[row.offset : row.offset + row.n_rows * row.stride].reshape(row.n_rows, row.stride)
            block[:, : row.n_out] = flat[at : at + row.n_rows * row.n_out].reshape(row.n_rows, row.n_out)
        return params


def assert_agrees(draw, group, lane, expected):
    """A network's parameters are those of the reference, by how far they went; its record likewise.

    In float32 a few outputs may be so near to a tie that they name another class.
    """
    (params, record), ours = expected, draw.laid_out(draw.arguments["params"][group, :, lane])
    tolerance = TOLERANCE[draw.dtype]
    np.testing.assert_allclose(ours, params, rtol=tolerance, atol=tolerance * 0.1)
    kept = [RECORD.squares, RECORD.loss, RECORD.penalty]
    mine = draw.arguments["record"][group, :, :, lane].T
    np.testing.assert_allclose(mine[:, kept], record[:, kept], rtol=tolerance, atol=tolerance)
    hits = mine[:, RECORD.hits] - record[:, RECORD.hits]
    assert np.abs(hits).max() <= (2 if draw.dtype == "float32" else 0)


def is_tame(expected):
    """Whether a network does not run away, where rounding errors would grow without end."""
    params, record = expected
    return np.abs(params).max() < TAME and np.abs(record).max() < TAME  # of which nan is none


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the reference, where exp overflows
@pytest.mark.parametrize("number", range(6))
def test_networks_in_lanes_agree_with_the_reference(number):
    judged, count = 0, draws.examples(40, 4)
    for seed in range(count):
        draw = Draw([int(draws.SEED), number, seed])
        groups, _, lanes = draw.arguments["params"].shape
        places = {(0, 0), (groups - 1, lanes - 1), (groups // 2, lanes // 2)}
        expected = {place: draw.alone(*place) for place in places}
        kernels.train_many(*draw.arguments.values(), threads=1 + seed % 2)
        for place, one in expected.items():
            if is_tame(one):
                judged += 1
                assert_agrees(draw, *place, one)
    assert judged > count


def test_a_corrupted_network_is_rejected():
    draw = Draw(1)
    expected = draw.alone(0, 0)
    kernels.train_many(*draw.arguments.values())
    assert_agrees(draw, 0, 0, expected)
    draw.arguments["params"][0, 0, 0] += 0.01
    with pytest.raises(AssertionError):
        assert_agrees(draw, 0, 0, expected)


# Changes of the kernel that have to be seen: what stands there, and what takes its place.
MUTANTS = {
    "the first unit's weights": ("v.fma(factor, group.parameter(at + c, rows), total)",
                                 "v.fma(factor, group.parameter(at, rows), total)"),
    "the first unit's weights below": ("group.parameter(at + j, rows), delta", "group.parameter(at, rows), delta"),
    "no biases": ("start = switch(layer.biased, [", "start = switch(0 * layer.biased, ["),
    "biases that do not learn": ("when(layer.biased, lambda: learn", "when(0 * layer.biased, lambda: learn"),
    "derivatives of other activations": ("activation, DERIVATIVES, derive)", "activation, DERIVATIVES[::-1], derive)"),
    "deltas of units that were left out": ("when(dropout.drops > 0, lambda: masked", "when(0 * group.L, lambda: masked"),
    "masks alike in all rows": (" + row_places(memory, self.first, layer.stride, self.rows)", ""),
    "masks alike in all networks": ("tiled(self.seeds, self.rows)", "tiled(self.seeds * 0, self.rows)"),
    "L2 of each row": ("choose(rule.per_row == 0.0, 1.0, 1.0 / step.weight)", "1.0"),
    "L2 of biases": ("layer.n_in * layer.n_out, total)", "layer.n_rows * layer.n_out, total)"),
    "another's step length": ("rate=settings.rate * v.", "rate=0.7 * v."),
    "the first step's correction": ("element(group.rates, step.steps)", "element(group.rates, 0)"),
    "steps that are not counted": ("return (steps + (weight > 0.0),)", "return (steps,)"),
    "rows that are visited twice": ("choose(left > r, 1.0, 0.0)", "1.0"),
    "rows that hit twice": ("when(left < rows, without)", "pass"),
    "the batch before": ("v.select(begun, v.load_some(memory, at, L), 0)", "v.load_some(memory, at, L)"),
    "no shortening": ("v.select(longer, settings.max_norm / norm, one)", "one"),
    "a part of the norm": ("add_squares(memory, grad, group.n_params,", "add_squares(memory, grad, group.n_params - 1,"),
    "rows of the first networks": ("first=job.own * (number * (", "first=job.own * (0 * number * ("),
    "the first epoch's order": ("(group.number * group.epochs + epoch)", "(group.number * group.epochs)"),
    "the first networks' record": ("(group.number * len(RECORD) + column)", "column"),
    "losses by weight": ("loss * factor", "loss"),
    "half of the sums": ("[x + y for x, y in zip", "[x for x, y in zip"),
    "the first row's weight": ("v.broadcast, group.weights, place)", "v.broadcast, group.weights, 0)"),
}  # fmt: skip


def assert_agree(count):
    """The second network of the last group of each of so many draws."""
    for seed in range(count):
        draw = Draw([int(draws.SEED), seed])
        place = len(draw.arguments["params"]) - 1, 1
        expected = draw.alone(*place)
        kernels.train_many(*draw.arguments.values())
        if is_tame(expected):
            assert_agrees(draw, *place, expected)


@pytest.mark.no_kernel
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_kernel_is_rejected(name, monkeypatch):
    """In plain Python: of so many draws, one shows it."""
    source, (old, new), wrong = inspect.getsource(many_kernel), MUTANTS[name], types.ModuleType("fastbp.kernels.wrong")
    assert source.count(old) == 1, f"the kernel has changed: {old!r} is not there once"
    exec(compile(source.replace(old, new), "<wrong>", "exec"), wrong.__dict__)
    monkeypatch.setattr(jit, "PLAIN_PYTHON", True)
    for kernel in kernels.MANY:
        monkeypatch.setattr(kernel, "function", functools.partial(getattr, wrong, kernel.name))
    with pytest.raises(AssertionError):
        assert_agree(200)


UNSOUND = {
    "layers": lambda a: a | {"layers": a["layers"] + 1},
    "params": lambda a: a | {"params": a["params"][:, :-1].copy()},
    "state": lambda a: a | {"state": np.zeros((1, 3, 1, 1), a["params"].dtype)},
    "X": lambda a: a | {"X": a["X"][:, :, :0].copy()},
    "Y": lambda a: a | {"Y": a["Y"].astype("float16")},
    "order": lambda a: a | {"order": np.full((a["epochs"], len(a["params"]), a["X"].shape[1], a["params"].shape[2]), 99)},
    "batch_size": lambda a: a | {"batch_size": a["X"].shape[1] + 1},
    "rule": lambda a: a | {"rule": a["rule"] + 100},
    "settings": lambda a: a | {"settings": a["settings"][:, 1:].copy()},
    "seeds": lambda a: a | {"seeds": a["seeds"][:, 1:].copy()},
    "rates": lambda a: a | {"rates": a["rates"][1:]},
    "record": lambda a: a | {"record": a["record"][:, :, 1:].copy()},
    "weights": lambda a: a | {"weights": np.ones(a["X"].shape[1] + 1, a["X"].dtype)},
    "epochs": lambda a: a | {"begun": -1},
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_is_not_sound_is_refused(name):
    arguments = Draw(2).arguments
    before = arguments["params"].copy()
    with pytest.raises(ValueError, match=name):
        kernels.train_many(*UNSOUND[name](arguments).values())
    assert (arguments["params"] == before).all()


# --- train_many -------------------------------------------------------------------------------------------------------


def networks(count, **settings):
    return [NeuralNetwork(2, 4, 1, **({"random_state": seed} | settings)) for seed in range(count)]


def bits(net):
    return b"".join(array.tobytes() for array in (*net.weights, *net.biases))


SETTINGS_OF_NETWORKS = [
    {},
    {"solver": "adam", "activation": "tanh", "dtype": "float32"},
    {"solver": "nesterov", "dropout": 0.2, "alpha": 0.1, "max_norm": 0.3},
    {"solver": "momentum", "out_activation": "identity", "bias": False},
]


@pytest.mark.parametrize("settings", SETTINGS_OF_NETWORKS)
@pytest.mark.parametrize("how", [{}, {"batch_size": 3, "shuffle": True}, {"batch_size": 1, "reduction": "mean"}])
def test_each_learns_what_it_learns_alone(settings, how):
    rates = [0.01 + 0.01 * number for number in range(5)]
    ours, theirs = networks(5, **settings), networks(5, **settings)
    for _ in range(2):  # and goes on from what it remembers
        histories = train_many(ours, *XOR, 6, rates, **how)
        for net, other, rate, history in zip(ours, theirs, rates, histories, strict=True):
            expected = other.train(*XOR, 6, rate, **how)
            tolerance = TOLERANCE[net.dtype.name]
            for array, one in zip(net.weights + net.biases, other.weights + other.biases, strict=True):
                np.testing.assert_allclose(array, one, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(history.loss, expected.loss, rtol=tolerance)
            assert net._moments[1] == other._moments[1]
            assert net.level == other.level


def test_no_bit_depends_on_the_others():
    how = {"batch_size": 3, "shuffle": True}
    alone = networks(1, dropout=0.3)
    train_many(alone, *XOR, 9, 0.2, **how)
    for count, threads in ((7, 1), (40, 2), (40, 1)):
        first, *others = networks(count, dropout=0.3)
        wild = NeuralNetwork(2, 4, 1, activation="relu", out_activation="identity", random_state=0)
        mixed = [*others, wild, first]
        rates = [0.2 if net is first else 1e30 if net is wild else 0.01 * number for number, net in enumerate(mixed, 1)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            train_many(mixed, *XOR, 9, rates, n_jobs=threads, **how)
        assert bits(first) == bits(alone[0])


def test_rows_of_ones_own_change_no_bit():
    shared, own = networks(9), networks(9)
    train_many(shared, *XOR, 5, batch_size=2, shuffle=True)
    train_many(own, [XOR[0].copy() for _ in own], [XOR[1].copy() for _ in own], 5, batch_size=2, shuffle=True)
    assert list(map(bits, shared)) == list(map(bits, own))


def test_a_network_that_diverges_leaves_the_others_alone():
    nets = networks(4, activation="relu", out_activation="identity")
    before = bits(nets[2])
    with pytest.warns(RuntimeWarning, match=r"weights of 1 of 4 networks stopped being finite: \[2\]"):
        histories = train_many(nets, *XOR, 50, [0.01, 0.01, 1e30, 0.01])
    assert isinstance(histories[2], ValueError)
    assert "learning_rate=1e+30; they are left as they were" in str(histories[2])
    assert bits(nets[2]) == before
    assert [len(history) for number, history in enumerate(histories) if number != 2] == [50, 50, 50]


@pytest.mark.compiled
@pytest.mark.parametrize("how", [{}, {"callback": lambda epoch, history: False}, {"batch_size": 1}])
def test_a_network_that_diverges_is_as_it_was(how):
    """With its random numbers, so that the next training is the same, however many epochs there were before it was seen."""
    how |= {"shuffle": True}
    together, apart = (networks(2, activation="relu", out_activation="identity", dropout=0.2) for _ in range(2))
    with pytest.warns(RuntimeWarning, match="stopped being finite"):
        errors = train_many(together, *XOR, 50, 1e30, **how)
    for net in apart:
        net._draw_seed()
        with pytest.raises(ValueError, match="stopped being finite"):
            net.train(*XOR, 5000, 1e30, **how)
    for one, other, error in zip(together, apart, errors, strict=True):
        assert isinstance(error, ValueError)
        assert "stopped being finite" in str(pickle.loads(pickle.dumps(error)))
        assert bits(one) == bits(other)
        assert one._rng.random() == other._rng.random()


def test_records_grow_with_the_epochs(monkeypatch):
    ours, others = networks(3, alpha=0.01), networks(3, alpha=0.01)
    expected = train_many(others, *XOR, 100, 0.2, batch_size=2)
    monkeypatch.setattr(lanes_module, "RECORD_BYTES", 2**14)
    monkeypatch.setattr(lanes_module, "FIRST_CALL_FLOPS", 2e4)  # a few epochs
    histories = train_many(ours, *XOR, 100, 0.2, batch_size=2)
    assert list(map(bits, ours)) == list(map(bits, others))
    for history, one in zip(histories, expected, strict=True):
        assert len(history) == 100
        np.testing.assert_array_equal(history._record, one._record)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_that_are_too_small_to_be_squared(dtype):
    """The record of an epoch may be all zeros: neither an error that counts, nor a row that is right."""
    tiny = {"float32": 1e-24, "float64": 1e-200}[dtype]
    X, y = np.zeros((2, 2)), np.tile([0, tiny], (2, 1))
    ours, other = (
        NeuralNetwork(2, 3, 2, activation="tanh", out_activation="identity", bias=False, dtype=dtype, random_state=0)
        for _ in range(2)
    )
    (history,) = train_many([ours], X, y, 5)
    other.train(X, y, 5)
    assert len(history) == 5
    assert not history._record[:, [RECORD.squares, RECORD.loss, RECORD.hits]].any()
    assert bits(ours) == bits(other)


@pytest.mark.compiled
def test_a_diverged_network_is_as_it_was_wherever_it_trained():
    """Also where dropout came later, whose masks draw a seed, and before the first training."""
    for callback, hidden in ((None, 4), (lambda epoch, history: False, 4), (None, 1000)):
        net = NeuralNetwork(2, hidden, 1, activation="relu", out_activation="identity", random_state=0)
        net.dropout = 0.3
        before = pickle.dumps(net)
        with pytest.warns(RuntimeWarning, match="stopped being finite"):
            train_many([net], *XOR, 50, 1e30, callback=callback, shuffle=True)
        assert pickle.dumps(net) == before
        with pytest.raises(ValueError, match="stopped being finite"):
            net.train(*XOR, 50, 1e30, shuffle=True)
        assert pickle.dumps(net) == before


def test_one_random_state_of_several_networks_is_refused():
    rng = np.random.default_rng(0)
    nets = [NeuralNetwork(2, 4, 1, random_state=rng) for _ in range(3)]
    train_many(nets, *XOR, 2)  # nothing is drawn
    with pytest.raises(ValueError, match="networks must have random numbers of their own"):
        train_many(nets, *XOR, 2, shuffle=True)
    bit_generator = np.random.PCG64(0)
    nets = [NeuralNetwork(2, 4, 1, random_state=bit_generator) for _ in range(2)]
    with pytest.raises(ValueError, match="networks must have random numbers of their own"):
        train_many(nets, *XOR, 2, shuffle=True)


def test_errors_of_callbacks_are_raised():
    def callback(epoch, history):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        train_many(networks(2), *XOR, 5, callback=callback)


@pytest.mark.parametrize("last", [2, 5])
def test_an_interrupt_in_a_callback_ends_all(last):
    def callback(epoch, history):
        if epoch == last:
            raise KeyboardInterrupt
        return False

    with pytest.warns(UserWarning, match="interrupted by user"):
        histories = train_many(networks(3), *XOR, 5, callback=[None, callback, lambda epoch, history: False])
    assert [len(history) for history in histories] == [5, last, 0]


@pytest.mark.parametrize(("place", "call"), [("history", 6), ("end", 1), ("end", 2)])
def test_an_interrupt_after_a_network_has_its_weights_leaves_its_history(place, call, monkeypatch):
    nets = [NeuralNetwork(2, [3, 3], 1, solver="adam", random_state=seed) for seed in range(3)]
    left, method = [call], getattr(Run, place)

    def interrupted(run):
        result = method(run)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Run, place, interrupted)
    with pytest.warns(UserWarning, match="interrupted by user"):
        histories = train_many(nets, *XOR, 5, callback=[lambda epoch, history: False] * 3)
    monkeypatch.undo()
    steps = [net._moments[1] if net._moments else 0 for net in nets]
    assert [len(history) for history in histories] == steps
    assert 5 in steps
    assert 0 in steps


def test_networks_of_all_kinds_in_one_call():
    seen = []
    nets = [*networks(3), NeuralNetwork(2, 1000, 1, random_state=0), NeuralNetwork(2, [3, 3], 1, random_state=0)]
    callbacks = [None, lambda epoch, history: seen.append(epoch) or epoch == 2, None, None, None]
    histories = train_many(nets, *XOR, 4, sample_weight=np.array([1.0, 2, 3, 4]), callback=callbacks, n_jobs=2)
    assert [len(history) for history in histories] == [4, 2, 4, 4, 4]
    assert seen == [1, 2]


@pytest.mark.parametrize("moment", ["in a call", "between calls", "while results are kept"])
def test_an_interrupt_keeps_what_is_done(moment, monkeypatch):
    nets, calls, call, keep = networks(3, solver="adam"), [], kernels.train_many, NeuralNetwork._keep

    def interrupted(*arguments):
        calls.append(arguments)
        if moment == "between calls" and len(calls) == 2:
            raise KeyboardInterrupt
        call(*arguments)
        if moment == "in a call":
            raise KeyboardInterrupt

    def keep_once_more(net, run):
        keep(net, run)
        if moment == "while results are kept" and len(calls) < 99:
            calls.extend([None] * 99)
            raise KeyboardInterrupt

    monkeypatch.setattr(lanes_module, "FIRST_CALL_FLOPS", 2e4)  # a few epochs
    monkeypatch.setattr(kernels, "train_many", interrupted)
    monkeypatch.setattr(NeuralNetwork, "_keep", keep_once_more)
    with pytest.warns(UserWarning, match="interrupted by user"):
        histories = train_many([*nets, NeuralNetwork(2, 1000, 1)], *XOR, 40)
    (done,) = {len(history) for history in histories[:3]}
    assert 1 <= done <= 40
    assert len(histories[3]) == 0
    monkeypatch.undo()
    others = networks(3, solver="adam")
    train_many(others, *XOR, done)
    assert list(map(bits, nets)) == list(map(bits, others))
    assert [net._moments[1] for net in nets] == [done] * 3


WEIGHED = np.array([1.0, 1, 0, 0])


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        ({"dtype": "float32", "beta_2": 0.999999, "beta_1": 0.99999}, {}),
        ({"dtype": "float32", "epsilon": 1e-50}, {}),
        ({"epsilon": 1e-320}, {}),
        ({}, {"sample_weight": WEIGHED, "batch_size": 2}),
        ({"dropout": 0.4}, {"sample_weight": WEIGHED, "batch_size": 1}),
    ],
)
def test_what_is_hard_to_tell_changes_nothing(settings, how):
    """Decays near 1, an epsilon of nearly 0 with a column of zeros, and batches that weigh nothing, over several calls."""
    X = XOR[0] * [1, 0]
    (ours, theirs), y = (NeuralNetwork(2, 4, 1, solver="adam", random_state=0, **settings) for _ in range(2)), XOR[1]
    (history,) = train_many([ours], X, y, 100, 0.01, **how)
    theirs.train(X, y, 100, 0.01, **how)
    assert len(history) == 100
    assert ours._moments[1] == theirs._moments[1]
    for array, one in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(array, one, rtol=TOLERANCE[ours.dtype.name], atol=TOLERANCE[ours.dtype.name])


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_ends_every_thread(threads):
    def interrupt():
        while not any(net._moments for net in first):  # the small ones are done
            time.sleep(0.01)
        time.sleep(0.2)
        signal.raise_signal(signal.SIGINT)

    first, others = networks(2), [NeuralNetwork(2, 1000, 1, random_state=seed) for seed in range(60)]
    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.warns(UserWarning, match="interrupted by user"):
        histories = train_many([*first, *others], *XOR, 200_000, n_jobs=threads)
    sender.join()
    after = list(map(bits, others))
    time.sleep(0.3)
    assert list(map(bits, others)) == after
    assert [len(history) for history in histories[:2]] == [200_000] * 2
    broken_off = [len(history) for history in histories[2:] if 0 < len(history) < 200_000]
    assert len(broken_off) <= threads
    assert not len(histories[-1])
    for net, history in zip(others[:4] + others[-4:], histories[2:6] + histories[-4:], strict=True):
        again = NeuralNetwork(2, 1000, 1, random_state=others.index(net))
        again.train(*XOR, len(history))
        assert bits(net) == bits(again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"networks": [1]}, "networks must be NeuralNetworks, got 1 at 0"),
        ({"epochs": -1}, "epochs must be"),
        ({"learning_rate": [0.1, 0.2]}, "learning_rate must be one value or one for each of 3 networks, got 2"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"batch_size": 5}, "batch_size must be at most the number of rows, 4, got 5"),
        ({"X": [XOR[0]] * 2}, "X must be one value or one for each of 3 networks, got 2"),
        ({"X": XOR[0][:, :1]}, "X must have"),
        ({"n_jobs": 0}, "n_jobs must not be 0"),
        ({"callback": 1}, "callback must be callable"),
    ],
)
def test_bad_arguments_train_nothing(change, message):
    arguments = {"networks": networks(3), "X": XOR[0], "y": XOR[1], "epochs": 2} | change
    before = [bits(net) for net in arguments["networks"] if isinstance(net, NeuralNetwork)]
    with pytest.raises((TypeError, ValueError), match=message):
        train_many(**arguments)
    assert [bits(net) for net in arguments["networks"] if isinstance(net, NeuralNetwork)] == before


def test_a_network_comes_once():
    net = NeuralNetwork(2, 4, 1)
    with pytest.raises(ValueError, match="got one of them twice"):
        train_many([net, net], *XOR, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_below_the_normal_numbers_are_no_steps(dtype):
    """They are 0 while a network trains: lanes, which count steps for all networks, would count those as well."""
    rng = np.random.default_rng([draws.SEED, 21])
    X, y = rng.normal(size=(6, 3)), rng.random((6, 1))
    weights = np.where(np.arange(6) % 3 == 1, float(np.finfo(dtype).tiny) / 1000, 1.0)
    together, alone = (NeuralNetwork(3, 4, 1, solver="adam", dtype=dtype, random_state=0) for _ in range(2))
    for _ in range(2):
        train_many([together], X, y, 3, batch_size=1, sample_weight=weights)
        alone.train(X, y, 3, batch_size=1, sample_weight=weights)
    for one, other in zip(together.weights + together.biases, alone.weights + alone.biases, strict=True):
        np.testing.assert_allclose(one, other, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("shuffle", [False, True])
def test_portions_of_networks_change_no_bit(shuffle, monkeypatch):
    """Where rows and orders of all would take too much memory."""
    rng = np.random.default_rng([draws.SEED, 22])
    X, y = rng.normal(size=(30, 3)), rng.random((30, 2))

    def train():
        nets = [NeuralNetwork(3, 4, 2, random_state=seed) for seed in range(40)]
        train_many(nets, X, y, 3, batch_size=4, shuffle=shuffle)
        return [array.tobytes() for net in nets for array in net.weights + net.biases]

    expected, seen = train(), []
    monkeypatch.setattr(lanes_module, "PORTION_BYTES", 1)
    begin = lanes_module.Lanes.__init__

    def noted(self, members, threads):
        seen.append(len(members))
        begin(self, members, threads)

    monkeypatch.setattr(lanes_module.Lanes, "__init__", noted)
    assert train() == expected
    assert sum(seen) == 40
    assert max(seen) == min(40, jit.native_width() // 8)
