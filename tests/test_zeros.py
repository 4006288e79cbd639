"""Products without the factors that are zero: the bits of those with them, whatever is zero and why."""

import signal
from dataclasses import replace

import draws
import numpy as np
import pytest
from cases import Case, assert_same_bits, assert_same_training, forward, train
from guard import needs_mprotect
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from scipy.sparse import csr_array

from fastbp import kernels, reference, workspace
from fastbp.kernels import jit, products, zeros
from fastbp.rule import SOLVERS
from fastbp.workspace import WideWorkspace

# Rows, terms and columns beside and between vectors, integers of bits, and groups.
SIZES = st.sampled_from([1, 7, 16, 17, 31, 33, 48, 63, 64, 65, 96, 100, 129, 200, 257, 530])
ROWS = st.sampled_from([1, 8, 31, 32, 33, 64, 100, 256, 300])
MOST_PRODUCTS = 3e7


@st.composite
def networks(draw, hidden=("relu", "logistic")):
    """Of the wide kernel, with a dense X many of whose values are zero."""
    units = (draw(SIZES), draw(SIZES), *draw(st.lists(SIZES, max_size=1)), draw(st.sampled_from([1, 3, 17])))
    batch_size = draw(ROWS)
    case = Case(
        units, batch_size * draw(st.integers(1, 2)) + draw(st.sampled_from([0, 5])), batch_size,
        bias=draw(st.booleans()), shuffled=draw(st.booleans()), dtype=draw(st.sampled_from(["float32", "float64"])),
        kernel="wide", activations=draw(st.sampled_from(hidden)), solver=draw(st.sampled_from(SOLVERS[1:])),
        alpha=draw(st.sampled_from([0.0, 0.1])), max_norm=draw(st.sampled_from([np.inf, 0.1])),
        dropout=draw(st.sampled_from([0.0, 0.6])), weighted=draw(st.booleans()), threads=draw(st.integers(1, 3)),
        zeros=draw(st.sampled_from([0.4, 0.7, 0.95, 1.0])), epochs=1,
    )  # fmt: skip
    products = sum(n_in * n_out for n_in, n_out in zip(case.units, case.units[1:], strict=False)) * case.n_rows
    return case if products < MOST_PRODUCTS else replace(case, n_rows=batch_size + 5, units=(units[0], 40, units[-1]))


@pytest.mark.compiled
@settings(max_examples=draws.examples(100, 10), deadline=None)
@given(networks())
def test_a_dense_x_gives_the_bits_of_its_values_alone(case):
    """The kernel adds up what a CSR matrix stores in code of its own, which has no choice."""
    X, Y = case.rows()
    trained, outputs, sparse = train(kernels, case, rows=(X, Y)), forward(kernels, case, X), replace(case, sparse=True)
    assert_same_bits(train(kernels, sparse, rows=(csr_array(X), Y)), trained)
    assert_same_bits([forward(kernels, sparse, csr_array(X))], [outputs])
    assert_same_bits([forward(kernels, case, X[:1])], [outputs[:1]])


def as_plain_python(monkeypatch, per_integer):
    """Let the kernels run as Python, where so much is taken for the cost of an integer of bits; how often sums are made."""
    sums = {"sum_rows": 0, "sum_columns": 0, "in_full": 0}

    def counted(name, function):
        def call(*args):
            sums[name] += 1
            return function(*args)

        return call

    monkeypatch.setattr(jit, "PLAIN_PYTHON", True)
    monkeypatch.setattr(workspace, "PER_INTEGER", per_integer)
    for name in ("sum_rows", "sum_columns"):
        monkeypatch.setattr(zeros, name, counted(name, getattr(zeros, name)))
    for kind in (products.Forward, products.Delta, products.Gradient):
        monkeypatch.setattr(kind, "in_full", counted("in_full", kind.in_full))
    return sums


PLAIN = Case((40, 33, 20, 3), 36, 34, kernel="wide", activations="relu", solver="adam", epochs=1)


@pytest.mark.no_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"zeros": 0.7}, {"dropout": 0.5, "activations": "tanh"}, {"zeros": 0.9, "activations": "logistic"},
     {"max_norm": 0.1, "threads": 1, "batch_size": 36, "zeros": 0.5}],
    ids=str,
)  # fmt: skip
def test_no_bit_depends_on_what_is_left_out(dtype, changes, monkeypatch):
    case, results, sums = replace(PLAIN, dtype=dtype, **changes), [], []
    for per_integer in (0, 10**9):
        with monkeypatch.context() as patched:
            sums.append(as_plain_python(patched, per_integer))
            results.append([*train(kernels, case), forward(kernels, case)])
    assert_same_bits(*results)
    some, none = sums
    assert min(some["sum_rows"], some["sum_columns"]) > 0, "nothing was left out"
    assert none["sum_rows"] == none["sum_columns"] == 0 < some["in_full"] < none["in_full"]


@pytest.mark.no_kernel
def test_a_single_row_is_not_worth_a_look_at_all_weights(monkeypatch):
    case = replace(PLAIN, units=(256, 128, 3), n_rows=64, batch_size=64, zeros=0.95)
    sums, (X, _) = as_plain_python(monkeypatch, workspace.PER_INTEGER), case.rows()
    forward(kernels, case, X[:1])
    assert sums["sum_rows"] == 0
    forward(kernels, case, X[:32])
    assert sums["sum_rows"] > 0


@pytest.mark.no_kernel
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_sign_of_a_zero_depends_on_what_is_left_out(dtype, monkeypatch):
    """A sum may begin with -0.0, a bias, or become it where a product is too small; other zeros may make it 0.0."""
    case, results = replace(PLAIN, dtype=dtype, out_activation="identity", zeros=0.7), []
    (X, Y), tiny = case.rows(), np.finfo(dtype).smallest_subnormal
    X = np.abs(X)
    X[::2] = 0
    X[::4, 0] = tiny
    params = case.parameters()
    weights, biases = case.layout.views(params)
    for b in biases:
        b[:] = -0.0
    weights[0][0] = -0.1
    for per_integer in (0, 10**9):
        with monkeypatch.context() as patched:
            as_plain_python(patched, per_integer)
            patched.setattr(Case, "parameters", lambda self, out=None: self.layout.gather(weights, biases, out))
            results.append([forward(kernels, case, X), forward(kernels, replace(case, sparse=True), csr_array(X))])
            results[-1] += train(kernels, case, rows=(X, Y))
    assert_same_bits(*results)
    assert_same_bits(results[0][:1], results[0][1:2])


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_sign_of_a_zero_depends_on_threads_or_other_rows(dtype):
    """Rows of which some are sampled have no zeros, the rest nothing else."""
    case = Case((784, 128), 64, 64, dtype=dtype, kernel="wide", out_activation="identity")
    params, (X, _) = case.parameters(), case.rows()
    _, (b,) = case.layout.views(params)
    b[:], X[40:] = -0.0, 0
    outs = []
    for threads, first in ((1, 0), (2, 0), (1, 40)):
        some = X[first:]
        out = np.empty((len(some), 128), dtype)
        work = WideWorkspace(case.layout, len(some), len(some), True, threads=threads).arrays
        kernels.forward(case.layout.layers, params, some, out, case.rule, work)
        outs.append([out[40 - first :]])
    assert_same_bits(outs[1], outs[0])
    assert_same_bits(outs[2], outs[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("level", [0, 1])
def test_infinity_times_zero_is_seen(level, bad, dtype):
    """Of a weight whose input is zero: products with zeros would be NaN."""
    case = replace(PLAIN, units=(96, 128, 64, 3), n_rows=64, batch_size=64, dtype=dtype, zeros=0.8)
    params = case.parameters()
    weights, _ = case.layout.views(params)
    weights[level][5, 9] = bad
    X, _ = case.rows()
    X[:, 5] = 0
    work, outs = case.workspace().arrays, []
    for implementation, arrays in ((kernels, work), (reference, ())):
        out = np.zeros((len(X), 3), dtype)
        with np.errstate(all="ignore"):
            implementation.forward(case.layout.layers, params, X, out, case.rule, arrays)
        outs.append(np.isfinite(out))
    assert_same_bits(*[[out] for out in outs])
    assert not outs[0].all()


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("room", ["pack", "panels"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_an_access_beyond_a_room_is_seen(side, room):
    beyond = {"before": "begin + size", "after": "begin - 1"}[side]
    code = (
        "from cases import Case\n"
        "from guard import RoomsApart, gate\n"
        f"RoomsApart.side, layout = {side!r}, Case((40, 33, 3), 32, 32).layout\n"
        "memory, numbers, *_ = RoomsApart(layout, 32, 32, False).arrays\n"
        "plan = gate.PLAN._make(numbers)\n"
        f"begin, size = plan.{room}, gate.rooms(plan, layout.rows, 8)[{room!r}]\n"
        "memory[begin : begin + size] = 1\n"
        "print('sound', flush=True)\n"
        f"memory[{beyond}]"
    )
    result = run_python("-c", code)
    assert result.stdout == "sound\n", result.stderr
    assert -result.returncode in (signal.SIGSEGV, signal.SIGBUS)


@pytest.mark.compiled
@settings(max_examples=draws.examples(30, 5), deadline=None)
@given(networks(hidden=("relu",)))
def test_what_is_left_out_is_nothing_to_the_reference(case):
    case = replace(case, dtype="float64", threads=1)
    assert_same_training(train(kernels, case), train(reference, case), case)
