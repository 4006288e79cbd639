"""Calls in threads of their own, which come to an end whatever a signal's handler raises.

Handlers run in the main thread alone, between any two lines of Python. No `threading.Thread` is started here and no executor
of `concurrent.futures`: both wait for others, and hold what others wait for, in Python code. Where a handler raises there,
the new thread waits for ever, and so does the process at its end.
"""

import _thread
import atexit
import os
from collections import deque
from typing import Any

# A signal that another thread is given is seen after so long.
LOOK_SECONDS = 0.05


def started(function, *args):
    """Call it in a new thread; whether there was one to be had."""
    try:
        _thread.start_new_thread(function, args)
    except RuntimeError as error:
        place: Any = error.__traceback__
        if place.tb_next is not None:  # a signal's handler has raised it: the thread may be there
            raise
        return False
    return True


class Ahead:
    """What a function returns, called in a thread of its own, which ends by itself whatever happens here."""

    def __init__(self, function, *args):
        self.call, self.outcome, self.error, self.over = (function, args), None, None, False
        self.busy: Any = _thread.allocate_lock()  # taken until it is over
        self.busy.acquire()
        if not started(self.follow):
            self.busy = None
            return
        at_work.add(self)  # here as well: a process that is forked now has not seen the thread begin
        if self.over:
            at_work.discard(self)

    def run(self):
        """Call it."""
        function, args = self.call
        try:
            self.outcome = function(*args)
        except BaseException as error:
            self.error = error

    def follow(self):
        """What the thread does."""
        at_work.add(self)
        self.run()
        self.over = True
        self.busy.release()
        at_work.discard(self)

    def wait(self, seconds=-1):
        """Wait until the thread is at its end, or for so many seconds; whether it is, or there is none."""
        if self.busy is None:
            return True
        if not self.over and self.busy.acquire(timeout=seconds):  # which an interrupt may leave taken once it is over
            self.busy.release()
        return self.over

    def result(self):
        """Wait for it; what it raised is raised here."""
        if self.busy is None and not self.over:
            self.run()
        else:
            self.wait()
        if self.error is not None:
            raise self.error
        return self.outcome


# What threads are at work on in this process. Its end waits for them: what they call may not be there any more after it.
at_work: set = set()


@atexit.register
def wait_for_threads():
    """Wait until no thread is at work."""
    for one in list(at_work):
        one.wait()


def leave_work():
    """In a new process, where the threads are not, leave what they were at to whoever asks for it."""
    for one in at_work:
        one.busy = None
    at_work.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=leave_work)


def each(function, items, threads, halt=None, look=None):
    """What a function returns for each of some items, in order, called in so many threads, none of which is this one.

    What it raises first, in the order of items, is raised when all before are over. After that, or what is raised here, no
    call begins, and those that run come to their ends before it goes on, unless something is raised once more.

    Parameters
    ----------
    function : callable
        Called with an item.
    items : sequence
    threads : int
    halt : list or None
        Empty. When calls are to end it has the number of the one that raised something, or -1; calls of larger numbers may
        look at it.
    look : callable or None
        Called without arguments every LOOK_SECONDS.
    """
    halt = [] if halt is None else halt
    left, outcomes, errors = deque(enumerate(items)), dict[int, Any](), dict[int, BaseException]()
    running = _thread.allocate_lock()  # taken by the first thread, while any of them runs

    def work():
        while left and not halt:
            try:
                number, item = left.popleft()
            except IndexError:  # another thread was faster
                break
            try:
                outcomes[number] = function(item)
            except BaseException as error:
                errors[number] = error
                halt.append(number)

    def lead():
        if not running.acquire(blocking=False):  # there is nothing to do any more
            return
        try:
            others = [Ahead(work) for _ in range(min(threads, len(left)) - 1)]
            work()
            for one in others:
                one.wait()
        finally:
            running.release()

    if not left:
        return []
    try:
        ahead = Ahead(lead)
        while not ahead.wait(LOOK_SECONDS):
            if look is not None:
                look()
        ahead.result()
    except BaseException:
        halt.append(-1)  # first of all: a signal's handler may raise after any call
        while not running.acquire(timeout=LOOK_SECONDS):
            pass
        raise
    if errors:
        raise errors.pop(min(errors))
    return [outcomes[number] for number in range(len(outcomes))]
