"""Workers: they are there when they are wanted, take no time when they are not, and nothing that happens stops them."""

import _thread
import ctypes
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cases import WORKSPACES, Case, assert_same_bits, train
from processes import run_python

from fastbp import kernels
from fastbp.kernels import APPLY, jit, pool
from fastbp.kernels.pointwise import FUNCTIONS, exp
from fastbp.layout import FREE, MAILBOX, MOST_THREADS

pytestmark = pytest.mark.compiled
CASE = Case((21, 26, 19), 400, 300, threads=3)
SECONDS = 60


@pytest.fixture
def workers(monkeypatch):
    """A pool of its own, without workers at first."""
    monkeypatch.setattr(pool, "pools", [pool.Pool()])
    return pool.pools[0]


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(1e-3)


def assert_all_idle(workers):
    assert (workers.boxes[workers.workers, MAILBOX.owner] == FREE).all()
    assert not workers.boxes[:, MAILBOX.posted].any()


class Interrupt(BaseException):
    pass


def interrupted_at(place, function, names):
    """Call a function and raise an Interrupt at the bytecode with this number of the functions `names`.

    Returns what the call did, or the Interrupt that came out, and whether there are so many.
    """

    def trace(frame, event, argument):
        nonlocal place
        if event == "call":
            if frame.f_code.co_name not in names:
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            place -= 1
            if place == -1:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return function(), place < 0
    except Interrupt as error:
        return error, place < 0
    finally:
        sys.settrace(before)


def test_an_exception_at_any_place_stops_a_training_whole_or_not_at_all(monkeypatch):
    """The next one has a worker, and is right."""
    case, raised, place, before = replace(CASE, threads=2), True, 0, threading.stack_size(2**18)
    alone = train(kernels, replace(case, threads=1))
    while raised:
        workers = pool.Pool()
        monkeypatch.setattr(pool, "pools", [workers])
        outcome, raised = interrupted_at(place, lambda: train(kernels, case), ("run", "grow", "move"))
        if not isinstance(outcome, Interrupt):
            assert_same_bits(outcome, alone)
        assert set(workers.boxes[:, MAILBOX.owner].tolist()) <= {FREE, pool.NOBODY}
        assert_same_bits(train(kernels, case), alone)
        assert len(workers.workers) == 1
        place += 1
    threading.stack_size(before)
    assert place > 100


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity")
def test_workers_run_where_the_caller_may(workers):
    before = os.sched_getaffinity(0)
    train(kernels, CASE)
    until(lambda: len(workers.threads) == 2)
    try:
        for core in list(before)[:2]:
            os.sched_setaffinity(0, {core})
            train(kernels, CASE)
            assert [os.sched_getaffinity(thread) for thread in workers.threads] == [{core}] * 2
    finally:
        os.sched_setaffinity(0, before)


def test_a_worker_that_wakes_up_for_nothing_does_no_work_again(workers):
    """A leader may be so slow in waking it that it has done the work, and parked once more."""
    x, out, width = np.linspace(-3, 3, 64), np.zeros(64), jit.native_width()
    args = FUNCTIONS.index(exp), x, len(x), out, 1
    function, job = APPLY.prepare(args, width), APPLY.packed(*args)
    pool.run(function, job, 2)
    np.testing.assert_allclose(out, np.exp(x))
    [number], parked = workers.workers, MAILBOX.parked
    box = workers.boxes[number]
    for _ in range(5):
        until(lambda: box[parked])
        out[:] = box[parked] = 0
        ctypes.pythonapi.PyThread_release_lock(ctypes.c_void_p(int(box[MAILBOX.lock])))
        until(lambda: box[parked])
        assert not out.any()
    pool.run(function, job, 2)
    np.testing.assert_allclose(out, np.exp(x))


def test_mailboxes_may_run_out(workers, monkeypatch):
    """While a thread looks, others may have taken the last ones."""
    monkeypatch.setattr(pool.FOLLOW, "prepare", lambda *_: workers.unused.clear())
    assert_same_bits(train(kernels, CASE), train(kernels, replace(CASE, threads=1)))
    assert workers.workers == []


def test_idle_workers_take_no_time(workers):
    train(kernels, CASE)
    until(lambda: workers.boxes[workers.workers, MAILBOX.parked].all())
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.25  # one that is not idle takes 0.5
    assert_same_bits(train(kernels, CASE), train(kernels, replace(CASE, threads=1)))


def test_trainings_at_the_same_time_have_workers_each(workers, monkeypatch):
    monkeypatch.setattr(pool.Pool, "move", lambda self: None)
    workers.cores = set(range(8))  # as if there were so many
    case = replace(CASE, threads=2)
    alone, deadline = train(kernels, replace(case, threads=1)), time.monotonic() + SECONDS
    with ThreadPoolExecutor(4) as threads:
        while len(workers.workers) < 3 and time.monotonic() < deadline:
            for one in threads.map(lambda _: train(kernels, case), range(40)):
                assert_same_bits(one, alone)
    assert 3 <= len(workers.workers) <= 9
    assert_all_idle(workers)


EXIT = """
import sys, threading
from cases import Case, kernels, train
case = Case((21, 26, 19), 400, 300, threads=3)
train(kernels, case)
if sys.argv[1] == "running":
    def run():
        while True:
            train(kernels, case)
    threading.Thread(target=run, daemon=True).start()
    for _ in range(3):
        train(kernels, case)
"""


@pytest.mark.parametrize("what", ["idle", "running"])
def test_a_process_ends_whatever_workers_do(what):
    for _ in range(5):
        result = run_python("-c", EXIT, what)
        assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture
def no_more_threads():
    """None can be had, as no stack is so large."""
    before = threading.stack_size(2**46)
    yield
    threading.stack_size(before)


def test_a_worker_whose_start_is_interrupted_has_its_mailbox_alone(workers, monkeypatch):
    """Also where the handler's exception is of the kind that says that there are no more threads."""
    start = _thread.start_new_thread

    def interrupted(*arguments):
        start(*arguments)
        raise RuntimeError("of a signal's handler")

    monkeypatch.setattr(_thread, "start_new_thread", interrupted)
    with pytest.raises(RuntimeError, match="handler"):
        workers.grow(1)
    monkeypatch.undo()
    until(lambda: workers.threads)
    assert len(workers.unused) == MOST_THREADS - 1
    assert workers.workers == []


@pytest.mark.compiled
@pytest.mark.parametrize("kernel", WORKSPACES)
def test_where_no_thread_can_be_had_one_does_all(kernel, workers, no_more_threads):
    with pytest.raises(RuntimeError, match="thread"):
        _thread.start_new_thread(print, ())
    case = Case((21, 26, 19), 400, 300, kernel=kernel)
    assert_same_bits(train(kernels, replace(case, threads=3)), train(kernels, case))
    assert workers.workers == []
