"""Calls in other threads: what they return and raise, and that no interrupt leaves one of them behind."""

import _thread
import concurrent.futures.thread
import functools
import os
import signal
import sys
import threading
import time

import draws
import numpy as np
import pytest
from cases import Case, train
from interrupts import goes_on, only_parked_threads
from processes import run_python

from fastbp import MLPEnsembleRegressor, MLPRegressor, NeuralNetwork, background, kernels, search, train_many
from fastbp.background import Ahead, each
from fastbp.kernels import pool
from fastbp.profiling import machine

WAIT = 600  # longer than a process is ever stopped for
X, Y = np.random.default_rng(0).normal(size=(60, 3)), np.random.default_rng(1).uniform(size=(60, 1))


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_outcomes_are_in_order(threads):
    def slow(item):
        time.sleep(1e-3 * (5 - item))
        return item, _thread.get_ident()

    found = each(slow, range(5), threads)
    assert [item for item, _ in found] == [*range(5)]
    assert len({thread for _, thread in found} - {_thread.get_ident()}) in range(1, min(threads, 5) + 1)
    assert _thread.get_ident() not in {thread for _, thread in found}


def test_nothing_is_called_without_items():
    assert each(None, [], 2) == []


def test_calls_are_at_the_same_time():
    here = threading.Barrier(3, timeout=WAIT)
    assert sorted(each(lambda item: here.wait(), range(3), 3)) == [0, 1, 2]


def test_the_first_error_in_order_is_raised():
    begun, failed = [], threading.Event()

    def fails(item):
        begun.append(item)
        if item == 1:
            failed.wait(WAIT)
        elif item == 2:
            failed.set()
        raise ValueError(item)

    with pytest.raises(ValueError, match="1"):
        each(lambda item: fails(item) if item else None, range(100), 2)
    assert sorted(begun) == [1, 2]


def test_it_is_looked_at_meanwhile():
    looks = []
    each(lambda item: until(lambda: len(looks) > 2), range(2), 2, look=lambda: looks.append(None))
    assert len(looks) > 2


def test_an_exception_here_ends_the_calls():
    halt, ended = [], []

    def look():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each(lambda item: until(lambda: halt) or ended.append(item), range(100), 2, halt, look)
    assert sorted(ended) == [0, 1]
    assert halt == [-1]


def test_where_no_thread_can_be_had_it_is_called_here(monkeypatch):
    monkeypatch.setattr(background, "started", lambda *arguments: False)
    assert each(lambda item: (item, _thread.get_ident()), range(3), 2) == [(item, _thread.get_ident()) for item in range(3)]
    with pytest.raises(ValueError, match="mine"):
        each(lambda item: raised(ValueError("mine")), range(3), 2)


def test_cores_are_measured_one_after_the_other_where_no_thread_can_be_had(monkeypatch):
    monkeypatch.setattr(background, "started", lambda *arguments: False)
    monkeypatch.setattr(machine, "ARRIVAL_SECONDS", 0.05)
    calls = []
    assert machine.once([calls.append] * 3, 7) > 0
    assert calls == [7] * 3


def test_no_thread_of_a_size_that_cannot_be_had():
    before = threading.stack_size(2**46)
    try:
        assert not background.started(print)
        assert Ahead(_thread.get_ident).result() == _thread.get_ident()
    finally:
        threading.stack_size(before)


def until(condition):
    while not condition():
        time.sleep(1e-3)


def raised(error):
    raise error


# --- interrupts -------------------------------------------------------------------------------------------------------


def raised_at(number, error, work):
    """Do some work, in which an interrupt comes at its instruction of that number; whether it has so many.

    Those of the module and of Python's own threads count, not those of a garbage collection that comes meanwhile.
    """
    files = [background.__file__, threading.__file__, concurrent.futures.thread.__file__, concurrent.futures._base.__file__]
    seen = 0

    def trace(frame, event, arg):
        nonlocal seen
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        seen += event == "opcode"
        if seen == number:
            sys.settrace(None)
            raise error
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except error:
        pass
    finally:
        sys.settrace(before)
    return seen >= number


def ahead(calls):
    Ahead(lambda: calls.append(0) or time.sleep(1e-4)).result()


def calls_of_two(calls):
    assert each(lambda item: calls.append(item) or time.sleep(1e-4), range(2), 2) == [None] * 2


def many(calls):
    nets = [NeuralNetwork(3, 4, 1, random_state=seed) for seed in range(2)]
    train_many(nets, X, Y, 2, 1e-3, n_jobs=2, callback=goes_on)


def ensemble(calls):
    model = MLPEnsembleRegressor(hidden_layer_sizes=3, max_iter=1, n_estimators=2, n_jobs=2, verbose=0, random_state=0)
    model.fit(X, Y.ravel()).predict(X)


def searched(calls):
    search(MLPRegressor(hidden_layer_sizes=3, max_iter=1, early_stopping=True), {"alpha": [1e-4]}, X, Y.ravel(), 2, n_jobs=2)


def measured(calls):
    machine.once([lambda amount, number=number: calls.append(number) for number in range(2)], 1)


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore")  # what is not finished, or was interrupted
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("work", [ahead, calls_of_two, many, ensemble, searched, measured])
def test_an_interrupt_at_any_instruction_leaves_no_thread(work, error, monkeypatch):
    """A `threading.Thread` whose start is interrupted may wait for ever, and so does the end of the process."""
    unraisable, number = [], 0
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    work([])
    before, raised = set(sys._current_frames()), True
    while raised:
        number, calls = number + 1, []
        raised = raised_at(number, error, functools.partial(work, calls))
        assert only_parked_threads(before), f"a thread is left by an interrupt at instruction {number}"
        assert len({*calls}) == len(calls), f"something was called twice because of an interrupt at instruction {number}"
    assert number > 20
    assert not unraisable


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_forks_meanwhile_has_a_child_that_reads_by_itself():
    here, begun, forked = os.getpid(), threading.Event(), threading.Event()

    def read():
        if os.getpid() == here:
            begun.set()
            forked.wait(WAIT)
        return os.getpid()

    ahead = Ahead(read)
    begun.wait(WAIT)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # where it waits for a thread that is not there
        os._exit(ahead.result() != os.getpid())
    forked.set()
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert ahead.result() == here


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_right_after_a_thread_has_begun_or_ended():
    for _ in range(30):
        ahead = Ahead(os.getpid)
        child = os.fork()  # mostly before the new thread runs
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            os._exit(ahead.result() not in (os.getpid(), os.getppid()))
        _, status = os.waitpid(child, 0)
        assert status == 0
        assert ahead.result() == os.getpid()
    assert ahead.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
def test_a_new_process_has_no_workers_whatever_its_number():
    train(kernels, Case((40, 33, 3), 64, 64, threads=2))
    child = os.fork()
    if not child:
        os._exit(bool(pool.pools))
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert pool.pools


INTERRUPTED_FORKS = """
import os, random, signal, sys, threading
from fastbp.kernels import levels

def raises(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, raises)
sys.unraisablehook = lambda *_: None  # who is told of what a hook raises
drawn = random.Random(sys.argv[1])
for _ in range(300):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, drawn.uniform(1e-6, 1.5e-3))
            if os.fork() == 0:  # where there is no timer
                os._exit(0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
free = []
thread = threading.Thread(target=lambda: free.append(levels.BUILDING.acquire(timeout=5)))
thread.start()
thread.join()
print(free)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
def test_an_interrupt_near_a_fork_leaves_no_lock():
    result = run_python("-c", INTERRUPTED_FORKS, draws.SEED)
    assert result.stdout == "[True]\n", result.stderr[-2000:]
