"""Workers: threads that wait for kernels to run, as long as the process lives.

Starting a thread takes longer than a small step; waking one up takes some microseconds, and none at all where it has just
been at work. Leading, posting and waiting are machine code (`fastbp.kernels.threads`), one call of it from Python's side, so
that no signal's handler can come between a call's begin and its end.
"""

import _thread
import contextlib
import ctypes
import os
import sys

import numpy as np

from fastbp.background import started
from fastbp.kernels.jit import Kernel, native_width
from fastbp.layout import FREE, LINE, MAILBOX, MOST_THREADS, aligned_zeros

LEAD = Kernel("threads", "lead", "boxes:int* count wanted function work got:int*")
FOLLOW = Kernel("threads", "follow", "box:int* times")
EVER = 2**62
NOBODY = -1  # owner of a mailbox that nobody looks into


class Pool:
    """The workers of a process.

    Attributes
    ----------
    boxes : ndarray of int64, shape (MOST_THREADS, LINE)
        A mailbox for each, which `fastbp.layout.MAILBOX` describes.
    unused : list of int
        Numbers of the mailboxes that have no worker.
    workers : list of int
        Numbers of those that have one. Where a signal's handler raises while a worker comes, its mailbox is in neither list.
    """

    def __init__(self):
        self.boxes = aligned_zeros(MOST_THREADS * LINE, np.int64).reshape(MOST_THREADS, LINE)
        self.boxes[:, MAILBOX.owner] = NOBODY
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.boxes))  # workers look into them until the process has ended
        self.unused, self.workers = list(range(MOST_THREADS)), []
        self.cores, self.threads = cores(), []

    def grow(self, count):
        """Have so many workers at least, or as many as can be had."""
        while len(self.workers) < count:
            FOLLOW.prepare((), native_width())  # so that nothing can fail in a worker
            try:
                number = self.unused.pop()  # at once, so that no mailbox ever has two workers
            except IndexError:  # other threads have taken them
                return
            box = self.boxes[number]
            box[MAILBOX.lock] = box[MAILBOX.lock] or locked()
            if not started(self.follow, box):
                self.unused.append(number)
                return
            box[MAILBOX.owner] = FREE
            self.workers.append(number)

    def follow(self, box):
        """What a worker does, whose thread this is."""
        self.threads.append(_thread.get_native_id())
        FOLLOW(box, EVER)

    def move(self):
        """Let workers run where the caller may."""
        now = cores()
        if now != self.cores:
            for thread in self.threads:
                with contextlib.suppress(OSError):  # where that is not allowed
                    os.sched_setaffinity(thread, now)
            self.cores = now

    def run(self, function, job, size):
        """Run a kernel, as `Kernel.prepare` and `Kernel.packed` give it and its job, in at most so many threads."""
        self.move()
        self.grow(size - 1)
        if not self.workers or sys.is_finalizing():  # when a thread that has just been started never comes to run
            function(job, 0, 1)
            return
        work, got = np.frombuffer(job, np.int64), np.zeros(1, np.int64)
        LEAD(self.boxes, MOST_THREADS, size - 1, function.address, work.ctypes.data, got)
        if got[0] < size:  # others had them: there may be as many as processors
            self.grow(min(len(self.workers) + size - int(got[0]), len(self.cores) - 1))


def cores():
    """The processors that this thread may run on, where the system tells; else numbers for all there are."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def locked():
    """Address of a lock of Python's that is taken."""
    allocate, acquire = ctypes.pythonapi.PyThread_allocate_lock, ctypes.pythonapi.PyThread_acquire_lock
    allocate.restype, acquire.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)
    lock = allocate()
    acquire(lock, 0)
    return lock


pools = [Pool()]  # that of this process


def run(function, job, size):
    """As `Pool.run`, with the workers of this process."""
    if not pools:
        pools.append(Pool())
    pools[0].run(function, job, size)


if hasattr(os, "register_at_fork"):
    # a new process has none of the other's threads, also where it has the other's number; no function of Python's, which a
    # signal's handler could break off
    os.register_at_fork(after_in_child=pools.clear)
