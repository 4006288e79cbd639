"""The kernels, held to the reference."""

import ctypes
import functools
import platform
import random
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cases
import draws
import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    KINDS,
    ONE_OF_EACH,
    SMALL,
    TRAINING,
    WORKSPACES,
    Case,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    of_kind,
    reference_of,
    train,
)
from guard import needs_mprotect
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from processes import run_python
from random_networks import network

from fastbp import kernels, reference, workspace
from fastbp.kernels import jit, pool, shares
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.kernels.numbers import element
from fastbp.kernels.tracing import Names
from fastbp.layout import CURSOR, GROUP, LINE, LINES, OF_THREAD, RECORD, SHARED, SYNC_SIZE, WHOLE, Layout
from fastbp.rule import ACTIVATIONS, HEADS, SOLVERS, Rule
from fastbp.workspace import (
    NarrowWorkspace,
    OnlineWorkspace,
    WideWorkspace,
    workspace_for_prediction,
    workspace_for_training,
)

# Calls of so many blocks, over and over.
CALLS = ([1], [2], [3], [7])
# Weights begin below 5. Where single rows of "exp" make them grow without bound, rounding errors grow with them.
DIVERGED = 10


def cases_to_run(cases, widest=5):
    """Test parameters; what takes long as plain Python, more units or rows, is left to compiled kernels."""
    blocks = next(case for case in CASES if case.units == (200, 2, 1))
    short = Case((21, 26, 19), 70, 70), blocks
    quick = [case in short or (max(case.units) <= widest and case.n_rows < 100) for case in cases]
    return [
        pytest.param(case, id=str(case), marks=[] if soon else pytest.mark.compiled)
        for case, soon in zip(cases, quick, strict=True)
    ]


@pytest.mark.draw(6, plain=18)
@pytest.mark.parametrize("case", cases_to_run(CASES))
def test_training_agrees_with_the_reference(case):
    assert_same_training(train(kernels, case), reference_of(case), case)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_hidden", [9, 20, 40])
def test_a_delta_of_many_terms_takes_no_more_room_than_there_is(n_hidden, dtype):
    """Its factors are copied in parts, however few the rows and units are; the narrow kernel copies none."""
    case = replace(SMALL, kernel="wide", units=(3, n_hidden, 3000, 2), dtype=dtype)
    assert_same_training(train(kernels, case), train(kernels, replace(case, kernel="narrow")), case)


@pytest.mark.draw(4, plain=8)
@pytest.mark.parametrize("case", cases_to_run(CASES[:: len(DTYPES) + 1]))
def test_forward_agrees_with_the_reference(case):
    assert_same_outputs(forward(kernels, case), forward(reference, case), case)


sizes = st.integers(1, 35)


@settings(max_examples=5 if PLAIN_PYTHON else 150, deadline=None, derandomize=True)
@given(st.data(), sizes, sizes, sizes, sizes)
def test_any_small_size_agrees_with_the_reference(data, n_in, n_hidden, n_out, n_rows):
    any_of, flags = (lambda values: data.draw(st.sampled_from(values))), st.booleans()
    (out_activation, loss), (kernel, sparse) = any_of(HEADS), any_of(KINDS)
    case = Case(
        (n_in, n_hidden, n_out), n_rows, data.draw(st.integers(1, n_rows)), data.draw(flags),
        any_of(("sum", "mean", "row")), data.draw(flags), any_of(DTYPES), "narrow", any_of(ACTIVATIONS),
        out_activation, loss, any_of(SOLVERS[1:]), any_of((0, 0.1)), dropout=any_of((0, 0.3)), weighted=data.draw(flags),
    )  # fmt: skip
    case = of_kind(case, kernel, sparse)
    with np.errstate(all="ignore"):
        theirs = train(reference, case)
    assume(np.abs(theirs.params).max() < DIVERGED)
    assert_same_training(train(kernels, case), theirs, case)
    assert_same_outputs(forward(kernels, case), forward(reference, case), case)


# One of every seven networks, and all the steps there are.
CALLED = CASES[::7] + [of_kind(case, *kind) for kind in KINDS for case in ONE_OF_EACH[7:]]


@pytest.mark.draw(5, plain=24)
@pytest.mark.parametrize("case", cases_to_run(CALLED, widest=4))
def test_where_a_call_ends_changes_no_bit(case):
    once = train(kernels, case)
    assert_same_bits(train(kernels, case), once)
    for calls in CALLS:
        assert_same_bits(train(kernels, case, calls), once)


# --- threads ----------------------------------------------------------------------------------------------------------


def many_blocks(case):
    return case.blocks_per_epoch(kernels) > case.blocks_per_epoch(reference)


TOGETHER = [*[case for case in CASES if many_blocks(case)], *CASES[::11], *[case for case in CALLED if case.dropout]]


@pytest.mark.draw(6)
@pytest.mark.compiled
@pytest.mark.parametrize(
    "case", [replace(case, threads=(2, 3, 5)[number % 3]) for number, case in enumerate(TOGETHER)], ids=str
)
def test_the_number_of_threads_changes_no_bit(case):
    alone = replace(case, threads=1)
    once = train(kernels, alone)
    assert_same_bits(train(kernels, case), once)
    assert_same_bits(train(kernels, case, calls=[2, 1]), once)
    assert_same_bits([forward(kernels, case)], [forward(kernels, alone)])


def train_by_shares(case, ends, paces, monkeypatch):
    """Train with shares, and with paces, that threads come back to; what is trained, and where shares end then."""
    ends, lines = np.array([*ends, WHOLE]), []

    def workspace(*args):
        work = WideWorkspace(*args)
        sync = work.arrays[-1]
        sync[SHARED] = case.threads
        lines.append(sync[LINES:].reshape(-1, LINE)[: case.threads])
        for name, numbers in (("begin", [0, *ends[:-1]]), ("end", ends), ("pace", paces)):
            lines[0][:, getattr(OF_THREAD, name)] = numbers
        return work

    monkeypatch.setitem(cases.KERNELS, "wide", workspace)
    result = train(kernels, case)
    monkeypatch.undo()
    assert (lines[0][1:, OF_THREAD.begin] == lines[0][:-1, OF_THREAD.end]).all()
    return result, lines[0][:, OF_THREAD.end]


@pytest.mark.compiled
@pytest.mark.parametrize("number", range(draws.examples(160)))
def test_how_much_each_thread_does_changes_no_bit(number, monkeypatch):
    case, rng = network(draws.SEED + 1, number)
    case = replace(of_kind(case, "wide", case.sparse), threads=int(rng.integers(2, 6)))
    if number % 2:  # layers so wide that each thread gathers left factors together
        case = replace(case, units=(*map(int, rng.integers(250, 500, 3)), 3), n_rows=240, batch_size=50, activations="tanh")
    once = train(kernels, replace(case, threads=1))
    # some threads do nothing
    ends = np.sort(rng.integers(-WHOLE // 2, WHOLE * 3 // 2, case.threads - 1).clip(0, WHOLE))
    many, left = train_by_shares(case, ends, 0, monkeypatch)
    assert_same_bits(many, once)
    assert once.steps >= shares.STEPS or list(left[:-1]) == list(ends)


@pytest.mark.compiled
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_shares_follow_paces_where_threads_differ(threads, monkeypatch):
    case = Case((130, 90, 20), 80 * shares.STEPS, 80, kernel="wide", threads=threads, epochs=1)
    equal, once = WHOLE * np.arange(1, threads + 1) // threads, train(kernels, replace(case, threads=1))
    paces = 10**12 * np.random.default_rng([draws.SEED, threads]).permutation(2 ** np.arange(threads))
    for numbers, expected in ((paces, WHOLE * np.cumsum(1 / paces) / (1 / paces).sum()), (10**12 + paces // 1000, equal)):
        many, ends = train_by_shares(case, equal[:-1], numbers, monkeypatch)
        assert_same_bits(many, once)
        assert ends == pytest.approx(expected, abs=WHOLE / 100)


def threads_that_share(size):
    """Jobs of so many threads, in plain Python, with equal shares."""
    sync = np.zeros(SYNC_SIZE, np.int64)
    jobs = [Names(sync=sync, rank=rank, size=size) for rank in range(size)]
    shares.begin(jobs[0])
    return jobs


@pytest.mark.parametrize("ticks", [-1, -(10**6), -(2**62), 2**62])
@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_pace_is_no_overflow_whatever_the_clock_does(rows, ticks):
    (job,) = threads_that_share(1)
    for one in (ticks, 10**6, ticks):
        shares.note(job, rows, one)
        assert 0 <= element(job.sync, shares.place_of(0, "pace")) <= 2**50


@pytest.mark.parametrize("units", [8, 9, 16, 32])
@pytest.mark.parametrize("slow", [2, 3, 5])
def test_shares_are_no_worse_than_equal_ones(slow, units):
    jobs = threads_that_share(8)
    paces = [1, 1, 1, slow, slow, slow, slow, slow]
    times = []
    for step in range(40 * shares.STEPS):
        rows, weights = [], []
        for job, pace in zip(jobs, paces, strict=True):
            begin, end = job.share = shares.of(job, job.rank)
            first, stop = shares.part(job, units * GROUP, GROUP)
            rows.append((stop - first) * pace)
            weights.append((end - begin) * pace * units * GROUP / WHOLE)
            shares.note(job, stop - first, 1000 * rows[-1])
        shares.adapt(jobs[0], step, units)
        times.append(max(rows) + max(weights))
    assert np.mean(times) <= times[0] * 1.01


@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", WORKSPACES)
@pytest.mark.parametrize("started", [1, 2, 3])
def test_fewer_threads_than_there_is_room_for_change_no_bit(started, kernel, dtype, monkeypatch):
    case = Case((130, 300, 500, 3), 320, 320, kernel=kernel, activations="tanh", dtype=dtype, epochs=2)
    once, start, left = train(kernels, case), pool.started, []

    def start_some(*arguments):
        return bool(left) and left.pop() and start(*arguments)

    monkeypatch.setattr(pool, "started", start_some)
    for _ in range(3):
        left[:] = [True] * started
        monkeypatch.setattr(pool, "pools", [pool.Pool()])
        assert_same_bits(train(kernels, replace(case, threads=5)), once)
        assert len(pool.pools[0].workers) == started


@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.parametrize("kernel", TRAINING)
@pytest.mark.parametrize("threads", [1, 2])
def test_trainings_at_the_same_time_do_not_disturb_each_other(kernel, threads):
    case = Case((21, 26, 19), 400, 300, threads=threads, activations="tanh", solver="adam", dropout=0.1)
    case = of_kind(case, kernel)
    alone = train(kernels, replace(case, threads=1))
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(lambda _: train(kernels, case, calls=[3]), range(8)):
            assert_same_bits(one, alone)


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_how_many_terms_are_summed_at_a_time_changes_no_bit(dtype, monkeypatch):
    rng = np.random.default_rng([draws.SEED, 17])
    units = *map(int, rng.integers(1, 400, 2)), 3
    case = Case(units, 40, 40, kernel="wide", activations="tanh", dtype=dtype, epochs=2)
    once = None
    for depth in (16, 64, 128, 1024):
        monkeypatch.setattr(workspace, "DEPTH", depth)
        monkeypatch.setattr(workspace, "LONG_DEPTH", depth)
        once = once or train(kernels, case)
        assert_same_bits(train(kernels, case), once)


FORK = """
import multiprocessing, warnings
from cases import Case, kernels, train

def go(pipe):
    pipe.send(train(kernels, case))

warnings.simplefilter("ignore")  # that a process with threads should not fork
context = multiprocessing.get_context("fork")
for kernel in ("narrow", "wide"):
    case = Case((21, 26, 19), 400, 300, kernel=kernel, threads=3)
    mine = train(kernels, case)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=go, args=(sender,), daemon=True)
    child.start()
    assert receiver.poll(60), "the child hangs"
    theirs = receiver.recv()
    child.join(60)
    assert child.exitcode == 0
    assert mine.params.tobytes() == theirs.params.tobytes()
print("same")
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
def test_a_forked_process_trains_on_with_threads():
    result = run_python("-c", FORK)
    assert result.stdout == "same\n", result.stderr[-2000:]


# --- single rows ------------------------------------------------------------------------------------------------------


@pytest.mark.draw(3, plain=12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", WORKSPACES)
@pytest.mark.parametrize("head", HEADS[1:], ids=" ".join)
@pytest.mark.parametrize("units", [(2, 4, 1), pytest.param((3, 17, 35), marks=pytest.mark.compiled)])
def test_a_row_of_forward_does_not_depend_on_the_others(units, head, kernel, dtype):
    case = replace(SMALL, units=units, n_rows=50, dtype=dtype, kernel=kernel, out_activation=head[0], loss=head[1])
    X, _ = case.rows()
    whole = forward(kernels, case)
    for i in range(0, len(X), 7):
        assert_same_bits([forward(kernels, case, X[i : i + 1])], [whole[i : i + 1]])
    for wild in (np.nan, np.inf, np.finfo(dtype).max):
        wild_rows = X.copy()
        wild_rows[::2] = wild
        assert_same_bits([forward(kernels, case, wild_rows)[1::2]], [whole[1::2]])
    order = np.random.default_rng(0).permutation(len(X))
    assert_same_bits([forward(kernels, case, X[order])], [whole[order]])


WIDE = [case for case in CASES if case.kernel == "wide" and not case.sparse]


@pytest.mark.draw(3, plain=12)
@pytest.mark.parametrize("case", cases_to_run([case for case in WIDE if case.out_activation != "softmax"][::5]))
def test_both_kernels_predict_the_same_bits(case):
    assert_same_bits(forward(kernels, case), forward(kernels, replace(case, kernel="narrow")))


@pytest.mark.parametrize(
    ("units", "batch_size", "expected"),
    [
        ((2, 4, 1), 4, NarrowWorkspace),
        ((4, 2, 3), 130, NarrowWorkspace),
        ((4, 32, 16, 4), 10_000, NarrowWorkspace),
        ((2, 4, 1), 1, OnlineWorkspace),
        ((20, 16, 1), 1, OnlineWorkspace),
        ((20, 16, 1), 2, NarrowWorkspace),
        ((784, 128, 10), 1, OnlineWorkspace),
        ((20, 64, 64, 1), 64, NarrowWorkspace),
        ((32, 64, 64, 16), 2, WideWorkspace),
        ((64, 100, 10), 200, NarrowWorkspace),
        ((64, 128, 128, 10), 200, WideWorkspace),
        ((200, 30, 10), 200, NarrowWorkspace),
        ((784, 30, 10), 10, WideWorkspace),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_is_chosen_by_shape(units, batch_size, expected, dtype, monkeypatch):
    monkeypatch.setattr(jit, "native_width", lambda: 64)  # with shorter vectors some of them are others
    layout = Layout(units, dtype, True, [0] * (len(units) - 2))
    assert type(workspace_for_training(layout, batch_size, batch_size, shuffled=False)) is expected


@pytest.mark.parametrize(("units", "expected"), [((20, 16, 1), NarrowWorkspace), ((784, 30, 10), WideWorkspace)])
def test_a_prediction_s_kernel_does_not_depend_on_the_rows(units, expected, monkeypatch):
    monkeypatch.setattr(jit, "native_width", lambda: 64)
    layout = Layout(units, "float64", True, [0])
    assert {type(workspace_for_prediction(layout, n_rows)) for n_rows in (1, 10, 1000)} == {expected}


@pytest.mark.draw(3, plain=12)
@pytest.mark.parametrize("case", cases_to_run(CASES[::7]))
def test_padding_stays_zero(case):
    layout, trained = case.layout, train(kernels, case)
    weights, biases = layout.views(np.ones(layout.size))
    padding = layout.gather(weights, biases) == 0
    assert padding.any()
    assert not trained.params[padding].any()
    assert not trained.state[:, padding].any()
    # a unit that is never active learns nothing
    assert trained.params[~padding].all()


@pytest.mark.draw(2, plain=12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", TRAINING)
@pytest.mark.parametrize("head", [HEADS[0], HEADS[3]], ids=" ".join)
@pytest.mark.parametrize(
    ("targets", "right"),
    [
        # no weights: all outputs are 0.5, of equal values the first one counts
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0, 1, 1]], 2),
        # one output: 0.5 is on the upper side
        ([[0], [1], [0.5], [0.49]], 2),
        # in several vectors
        (np.eye(35), 1),
        (np.ones((3, 35)), 3),
    ],
)
def test_hits_of_equal_values(targets, right, head, kernel, dtype):
    Y = np.array(targets, dtype)
    layout, X = Layout((2, Y.shape[1]), dtype, True, []), np.ones((len(Y), 2), dtype)
    for implementation in (reference, kernels):
        workspace, record = TRAINING[kernel](layout, len(X), len(X), shuffled=False), np.zeros((1, len(RECORD)))
        rule = Rule(*head, learning_rate=0.0).numbers(Y.shape[1])
        implementation.train(
            layout.layers, workspace.params, workspace.state, X, Y, np.empty(0, dtype), np.empty((0, len(X)), np.int64),
            len(X), rule, 1 if implementation is reference else workspace.blocks_per_epoch,
            np.zeros(len(CURSOR), np.int64), record, workspace.arrays,
        )  # fmt: skip
        assert record[0, RECORD.hits] == right


@pytest.mark.draw(3, plain=12)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", TRAINING)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("activation", "head"), [(name, HEADS[1]) for name in ACTIVATIONS] + [("tanh", head) for head in HEADS], ids=str
)
def test_nan_and_infinity_are_not_hidden(activation, head, bad, kernel, dtype):
    out_activation, loss = head
    case = of_kind(replace(SMALL, activations=activation, out_activation=out_activation, loss=loss, dtype=dtype), kernel)
    X, Y = case.rows()
    X[-1, 0] = bad
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        ours, theirs = (train(implementation, case, rows=(X, Y)) for implementation in (kernels, reference))
    used = case.layout.gather(*case.layout.views(np.ones(case.layout.size))) > 0
    assert not np.isfinite(theirs.params[used]).all()
    assert_same_bits([np.isfinite(ours.params[used])], [np.isfinite(theirs.params[used])])
    assert_same_bits([np.isfinite(ours.mse), np.isfinite(ours.loss)], [np.isfinite(theirs.mse), np.isfinite(theirs.loss)])


# --- weights of rows --------------------------------------------------------------------------------------------------

# Alone in a batch, and in several blocks of one.
WEIGHTED = [
    replace(SMALL, n_rows=3 * rows, batch_size=rows, dtype=dtype, kernel=kernel, solver="adam", alpha=0.1, weighted=True)
    for rows in (7, 600)
    for dtype in DTYPES
    for kernel in WORKSPACES
]


@pytest.mark.draw(1, plain=3)
@pytest.mark.parametrize("case", cases_to_run(WEIGHTED))
@pytest.mark.parametrize("max_norm", [0.01, np.inf])
def test_a_batch_of_no_weight_changes_nothing(case, max_norm):
    case = replace(case, max_norm=max_norm)
    (X, Y), weights, rows = case.rows(), case.weights(), case.batch_size
    weights[rows : 2 * rows] = 0
    X[rows : 2 * rows] = np.nan
    others = np.r_[0:rows, 2 * rows : 3 * rows]
    with np.errstate(invalid="ignore"):
        ours = train(kernels, case, rows=(X, Y), weights=weights)
    fewer = replace(case, n_rows=2 * rows)
    assert ours.steps == 2 * ours.epochs
    assert_same_bits(ours, train(kernels, fewer, rows=(X[others], Y[others]), weights=weights[others]))


@pytest.mark.draw(1, plain=3)
@pytest.mark.parametrize("case", cases_to_run(WEIGHTED[:4]))
def test_no_weight_at_all_changes_nothing(case):
    trained = train(kernels, case, weights=np.zeros(case.n_rows, case.dtype))
    assert_same_bits([trained.params], [case.parameters()])
    assert trained.steps == 0
    assert not trained.state.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.01, np.inf])
def test_rows_of_no_weight_are_passed_over(dtype, max_norm):
    case = replace(
        SMALL, dtype=dtype, kernel="online", batch_size=1, weighted=True, max_norm=max_norm, solver="adam", alpha=0.1
    )
    (X, Y), weights = case.rows(), case.weights()
    X[weights == 0] = np.nan
    ours, some = train(kernels, case, rows=(X, Y)), weights > 0
    fewer = train(kernels, replace(case, n_rows=int(some.sum())), rows=(X[some], Y[some]), weights=weights[some])
    assert_same_bits(ours, fewer)


@pytest.mark.draw(1, plain=3)
@pytest.mark.parametrize("case", cases_to_run(WEIGHTED))
def test_a_row_of_weight_two_counts_twice(case):
    """Exactly, but for the order of the sums, and the record, where a batch's loss counts with its number of rows."""
    (X, Y), rows = case.rows(), case.batch_size
    case = replace(case, n_rows=rows, solver="sgd")
    once = train(kernels, case, rows=(X[:rows], Y[:rows]), weights=np.full(rows, 2, case.dtype))
    twice = replace(case, n_rows=2 * rows, batch_size=2 * rows, weighted=False, reduction="row")
    doubled = train(kernels, twice, rows=(np.tile(X[:rows], (2, 1)), np.tile(Y[:rows], (2, 1))))
    once = once._replace(hits=2 * once.hits, loss=2 * once.loss, penalty=2 * once.penalty)
    assert_same_training(once, doubled, twice)


# --- gradients that are kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", TRAINING)
@pytest.mark.parametrize("max_norm", [0.01, np.inf])
def test_solver_keep_changes_no_weight(kernel, max_norm):
    case = of_kind(replace(SMALL, solver="gradient_only", max_norm=max_norm, alpha=0.1), kernel)
    trained = train(kernels, case)
    assert_same_bits([trained.params], [case.parameters()])
    workspace = case.workspace()
    memory, plan = workspace.arrays[0], workspace.plan
    assert np.shares_memory(workspace.grad, memory[plan.grad : plan.grad + plan.size])
    assert workspace.grad.size == case.layout.size


# --- memory -----------------------------------------------------------------------------------------------------------


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("side", ["before", "after"])
def test_no_access_beyond_any_array(side):
    numbers = [number for number, case in enumerate(CASES) if number % 9 == 0 or case.activations != "logistic"][::2]
    numbers = draws.some(numbers, 8, side)
    result = run_python("-m", "guard", side, *numbers)
    assert result.returncode == 0, result.stdout[-200:] + result.stderr[-2000:]
    assert result.stdout.splitlines() == [str(CASES[number]) for number in numbers]


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["many", "zeros"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_no_access_beyond_any_room_of_drawn_networks(side, kind):
    seeds = [str(random.Random(f"{draws.SEED} {side} {number}").randrange(2**32)) for number in range(draws.examples(60, 5))]
    result = run_python("-m", "guard", kind, side, *seeds)
    assert result.returncode == 0, result.stdout[-200:] + result.stderr[-2000:]
    assert len(result.stdout.splitlines()) == len(seeds)


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("side", ["before", "after"])
def test_an_access_beyond_an_array_is_seen(side):
    beyond = {"before": 4, "after": -1}[side]
    code = (
        "import ctypes, guard, numpy\n"
        f"array = guard.guarded(numpy.arange(4.0), {side!r})\n"
        "assert list(array) == [0, 1, 2, 3]\n"
        "print('sound', flush=True)\n"
        f"ctypes.c_double.from_address(array.ctypes.data + {8 * beyond}).value"
    )
    result = run_python("-c", code)
    assert result.stdout == "sound\n"
    assert -result.returncode in (signal.SIGSEGV, signal.SIGBUS)


# --- subnormal numbers ------------------------------------------------------------------------------------------------


@pytest.mark.compiled
@pytest.mark.parametrize("kind", [NarrowWorkspace, WideWorkspace, OnlineWorkspace])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_moment_stays_below_the_normal_numbers(kind, dtype):
    # two inputs that are 0 after the first row leave moments that shrink from step to step
    layout, rule = Layout((4, 3, 1), dtype, True, [0]), Rule(solver="adam", learning_rate=1e-3)
    n_rows = 12_000
    X, Y = np.zeros((n_rows, 4), dtype), np.ones((n_rows, 1), dtype)
    X[:, 2:] = X[0] = 1
    work = kind(layout, n_rows, 1, shuffled=False, moments=rule.moments)
    work.params[:] = layout.gather(*layout.views(np.linspace(0.1, 0.9, layout.size)))
    cursor, record = np.zeros(len(CURSOR), np.int64), np.zeros((1, len(RECORD)))
    none, order = np.empty(0, dtype), np.empty((0, n_rows), np.int64)
    kernels.train(layout.layers, work.params, work.state, X, Y, none, order, 1, rule.numbers(1), work.blocks_per_epoch,
                  cursor, record, work.arrays)  # fmt: skip
    tiny = np.finfo(dtype).tiny
    # long enough for the first moment to have passed all of them
    assert 0.9**n_rows < tiny * np.finfo(dtype).eps
    sizes = np.abs(np.asarray(work.state))
    assert sizes.max() > tiny
    assert not np.any((sizes > 0) & (sizes < tiny))
    # and whoever called counts with them as before
    assert np.array([tiny], dtype) / 4 > 0


# What fenv.h calls downward, upward and toward zero, which is set for a thread.
ROUNDINGS = (0x400, 0x800, 0xC00) if platform.machine() in ("x86_64", "AMD64") else (1 << 23, 1 << 22, 3 << 22)


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's words")
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_bit_depends_on_how_the_caller_rounds(rounding, dtype, monkeypatch):
    library, plain = ctypes.CDLL("libm.so.6"), {name: getattr(kernels, name) for name in ("train", "forward")}

    def rounded(function, *arguments):
        library.fesetround(rounding)
        try:
            function(*arguments)
        finally:
            library.fesetround(0)

    for case in (Case((40, 33, 3), 64, 64, dtype=dtype), Case((8, 6, 2), 40, 20, dtype=dtype, kernel="narrow")):
        for one in (case, replace(case, threads=2)):
            expected, outputs = train(kernels, one), forward(kernels, one)  # which bring the workers
            with monkeypatch.context() as patched:
                for name, function in plain.items():
                    patched.setattr(kernels, name, functools.partial(rounded, function))
                assert_same_bits(train(kernels, one), expected)
                assert_same_bits([forward(kernels, one)], [outputs])


# --- machine code -----------------------------------------------------------------------------------------------------


def packed_fma(dtype):
    """Pattern of a fused multiply-add of several lanes, or None on a processor that is not known to have one."""
    import llvmlite.binding as llvm

    if platform.machine().lower() in ("arm64", "aarch64"):
        return r"fmla(\.2d|\s+v\d+\.2d)" if dtype == "float64" else r"fmla(\.4s|\s+v\d+\.4s)"
    if llvm.get_host_cpu_features().get("fma"):
        return r"vfn?m(add|sub)\d+p[d].*%[yz]mm" if dtype == "float64" else r"vfn?m(add|sub)\d+ps.*%[yz]mm"
    return None


def tile_loops(assembly):
    """How many loops over a tile's terms there are on x86, and how many of them keep something in memory meanwhile.

    Where a solver takes another tile at the same time, some of the rows' addresses may be there, but no vector.
    """
    loops, spilled = 0, 0
    for function in re.split(r'\n(?="?sum_tile)', assembly)[1:]:
        kept = r"mm.*%[re][sb]p\)|%[re][sb]p\).*mm" if "vsqrt" in function else r"%[re][sb]p\)"
        for block in re.split(r"\n(?=\.LBB)", function.split("\n.Lfunc_end")[0])[1:]:
            label = re.escape(block.split(":")[0])
            found = re.findall(rf"(?s).*\bj\w+\s+{label}\b", block)
            loops, spilled = loops + len(found), spilled + sum(bool(re.search(kept, loop)) for loop in found)
    return loops, spilled


@pytest.mark.compiles
@pytest.mark.draw(5)
@pytest.mark.compiled
@pytest.mark.own_vectors
@pytest.mark.parametrize("kernel", [*kernels.TRAIN, *kernels.FORWARD], ids=lambda kernel: f"{kernel.module} {kernel.name}")
@pytest.mark.parametrize(("dtype", "width"), [("float64", 64), ("float32", 64), ("float64", 32)])
def test_the_machine_code_computes_with_vectors(kernel, dtype, width):
    pattern = packed_fma(dtype)
    if pattern is None:
        pytest.skip("no fused multiply-add on this processor")
    assembly = kernel.assembly(dtype, width)
    assert len(re.findall(pattern, assembly)) >= 20
    assert not re.search(r"\b(exp|fma)f?\b", assembly), "a vector is computed lane by lane"
    if kernel.module == "wide" and width == jit.native_width() == 64:
        tiles, spilled = tile_loops(assembly)
        assert tiles >= (30 if kernel.name == "train" else 14)
        assert spilled == 0


# Run in a process whose kernels are compiled for a processor with AVX2 and without AVX-512: 16 registers of 32 bytes.
OF_16_REGISTERS = """
import cases
import once
import test_kernels
from fastbp import kernels, reference
from fastbp.kernels import jit

once.share()
assert (jit.native_width(), jit.tile_shape()) == (32, (4, 3))
chosen = [case for case in cases.CASES if case.dtype == "float32" and case.kernel == "wide"]
for case in [*chosen[::25], max(chosen, key=lambda case: max(case.units))]:
    cases.assert_same_training(cases.train(kernels, case), cases.train(reference, case), case)
assembly = kernels.TRAIN[1].assembly("float32", 32)
tiles, spilled = test_kernels.tile_loops(assembly)
print(tiles, spilled, "%zmm" in assembly)
"""


@pytest.mark.compiles
@pytest.mark.compiled
@pytest.mark.own_vectors
def test_the_tile_fits_sixteen_registers():
    if platform.machine().lower() not in ("x86_64", "amd64") or packed_fma("float32") is None:
        pytest.skip("needs an x86 processor with AVX2")
    result = run_python("-c", OF_16_REGISTERS, env={"FASTBP_LEVEL": "x86-64-v3"})
    assert result.returncode == 0, result.stderr[-2000:]
    tiles, spilled, wide = result.stdout.split()
    assert int(tiles) >= 20
    assert (spilled, wide) == ("0", "False")
