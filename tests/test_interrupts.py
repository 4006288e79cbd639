"""No exception that a signal's handler raises, at whatever place, crashes, hangs or leaves halves of a training behind."""

import _thread
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest
from cases import WORKSPACES, Case, assert_same_bits, train
from processes import run_python

from fastbp import kernels

ROUNDS, SECONDS = 120, 300


@pytest.mark.compiled
@pytest.mark.skipif(os.name != "posix", reason="needs a timer that sends signals")
def test_an_interrupt_leaves_what_belongs_together():
    seed = str(random.randrange(10**6))
    result = run_python("-m", "interrupts", ROUNDS, seed, timeout=SECONDS)
    assert result.returncode == 0, f"seed {seed}\n" + result.stdout[-500:] + result.stderr[-2000:]
    interrupted, came_out = map(int, result.stdout.splitlines()[-1].split())
    assert interrupted == ROUNDS
    assert came_out > 0


class Interrupt(BaseException):
    pass


def interrupted_at(place, function, name):
    """Call a function and raise an Interrupt at the bytecode with this number of the function `name`.

    Returns what the call did, or the Interrupt that came out, and whether there are so many.
    """

    def trace(frame, event, argument):
        nonlocal place
        if event == "call":
            if frame.f_code.co_name != name:
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


def assert_no_thread_is_left(before):
    deadline = time.monotonic() + 10
    while _thread._count() > before:
        assert time.monotonic() < deadline, "a thread is left"


def test_the_wait_for_a_thread_survives_an_exception_at_any_place():
    """It is raised when the work is done, or the work never begins."""
    for place in range(10_000):
        begun, done, before = [], [], _thread._count()

        def work(begun=begun, done=done):
            begun.append(True)
            time.sleep(2e-3)
            done.append(True)

        outcome, raised = interrupted_at(place, lambda: kernels.undisturbed(work), "undisturbed")
        assert begun == done
        assert outcome is True or (raised and isinstance(outcome, Interrupt))
        assert_no_thread_is_left(before)
        assert begun == done
        if not raised:
            break
    assert done
    assert place > 30


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_the_wait_for_a_thread_survives_two_exceptions_at_once():
    def handler(number, frame):
        raise Interrupt(number)

    numbers = {signal.SIGUSR1, signal.SIGUSR2}
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        for _ in range(20):
            done, count = [], _thread._count()

            def work(done=done):
                time.sleep(1e-3)
                signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # so that the thread that waits takes both
                for number in numbers:
                    os.kill(os.getpid(), number)
                time.sleep(1e-3)
                done.append(True)

            with pytest.raises(Interrupt):
                kernels.undisturbed(work)
            assert done
            assert_no_thread_is_left(count)
    finally:
        for number in numbers:
            signal.signal(number, before[number])


def test_what_fails_in_the_thread_is_raised():
    def fail():
        raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        kernels.undisturbed(fail)


@pytest.fixture
def no_more_threads():
    """None can be had, as no stack is so large."""
    before = threading.stack_size(2**46)
    yield
    threading.stack_size(before)


@pytest.mark.compiled
@pytest.mark.parametrize("kernel", WORKSPACES)
def test_where_no_thread_can_be_had_one_does_all(kernel, no_more_threads):
    with pytest.raises(RuntimeError, match="thread"):
        _thread.start_new_thread(print, ())
    done = []
    assert kernels.undisturbed(lambda: done.append(True)) is False
    assert done == []
    kernels.in_threads(3, lambda *ranks: done.append(ranks))
    assert done == [(0, 1)]
    case = Case((21, 26, 19), 400, 300, kernel=kernel)
    assert_same_bits(train(kernels, replace(case, threads=3)), train(kernels, case))
