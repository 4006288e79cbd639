"""Shares: what each thread of the wide kernel does of a block's rows, and of the rows of the weights.

Cores differ, and others use a part of them: a thread's share is what it manages in the time of the others. Shares are of
outputs, so that no bit depends on them. They stay for many steps: a thread has its weights in its own cache, and packs the
factors of a product once. Tasks taken from a counter would move weights in every step, and pack factors for each task.

A share is a part of WHOLE. Threads read their own when a block begins; the first one may change them from when all have come
to its weights, until all have finished it. Measured with two threads, of which one had its core for half the time and took
2.7 times as long: steps took 0.55 of the time that they take with equal shares (784-128-10 and 784-512-512-10).
"""

import functools

from fastbp.kernels.control import carry, either, repeat, switch, when
from fastbp.kernels.numbers import ceil_div, choose, element, put, smaller, whole, widened
from fastbp.layout import LINE, LINES, OF_THREAD, SHARED, WHOLE

STEPS = 16  # over so many a thread's pace is averaged, and so often shares may change
LONGEST = 2**40  # ticks of a step, some minutes
LEAST_GAIN = 1 / 16  # of a step's time for which they do, and for which they are unequal: less may be chance


def place_of(rank, name):
    """Where a number of a thread stands in what threads tell each other."""
    return LINES + LINE * rank + getattr(OF_THREAD, name)


def equal(job, rank):
    """A thread's share where all are alike."""
    return WHOLE * rank // job.size, WHOLE * (rank + 1) // job.size


def of(job, rank):
    """A thread's share."""
    return element(job.sync, place_of(rank, "begin")), element(job.sync, place_of(rank, "end"))


def change(job, rank, begin, end):
    """Give a thread another share."""
    put(job.sync, place_of(rank, "begin"), begin)
    put(job.sync, place_of(rank, "end"), end)


def equalise(job):
    """Give every thread an equal share."""
    repeat(job.size, lambda rank: change(job, rank, *equal(job, rank)))


def begin(job):
    """Equal shares, unless as many threads come back to theirs; the next barrier lets all see them."""

    def all_new():
        equalise(job)
        repeat(job.size, lambda rank: put(job.sync, place_of(rank, "pace"), 0))
        put(job.sync, SHARED, job.size)

    when((job.rank == 0) * (element(job.sync, SHARED) != job.size), all_new)


def note(job, rows, ticks):
    """What the thread took for its rows; without any it seems faster and faster, but slowly, until it has some again."""
    at = place_of(job.rank, "pace")
    pace = element(job.sync, at)
    # a counter that was set back, or a thread that was away for hours, would give numbers that overflow
    now = switch(rows > 0, [lambda: pace - pace // STEPS, lambda: ticks % LONGEST * 1024 // rows])
    # however long a thread was away, it counts as twice as slow in that step
    put(job.sync, at, choose(pace == 0, now, pace - pace // STEPS + smaller(now, pace * 2) // STEPS))


def pace_of(job, rank):
    """A thread's pace and one tick more, so that it can be divided by."""
    return widened(element(job.sync, place_of(rank, "pace")) + 1)


def time_of(job, rank, units, begin, end):
    """What a thread would take for a share, half of which is of rows, in units, and half of weights, in smaller ones."""
    rows = (rounded(units, end) - rounded(units, begin)) * WHOLE // units
    return pace_of(job, rank) * widened(rows + end - begin)


def by_pace(job, values, body):
    """values = body(rank, begin, end, *values) for every thread, with the share that would go with its pace."""
    (speed,) = carry(job.size, (0.0,), lambda rank, speed: (speed + 1.0 / pace_of(job, rank),))

    def one(rank, begin, before, *values):
        before = before + 1.0 / pace_of(job, rank)
        end = choose(rank == job.size - 1, WHOLE, whole(before / speed * WHOLE))
        return end, before, *body(rank, begin, end, *values)

    return carry(job.size, (0, 0.0, *values), one)[2:]


def adapt(job, step, units):
    """Now and then, let shares follow the paces where the slowest thread gains by it; a block has so many units of rows."""

    def slowest(rank, begin, end, *most):
        times = [time_of(job, rank, units, *share) for share in (equal(job, rank), of(job, rank), (begin, end))]
        return tuple(choose(one > before, one, before) for one, before in zip(times, most, strict=True))

    def compare():
        alike, now, new = by_pace(job, (0.0, 0.0, 0.0), slowest)
        most = new * (1 + LEAST_GAIN)
        follow = functools.partial(by_pace, job, (), lambda *share: change(job, *share) or ())
        either(alike > most, lambda: when(now > most, follow), lambda: equalise(job))

    when((job.rank == 0) * (job.size > 1) * (step % STEPS == STEPS - 1), compare)


def rounded(count, at):
    """The whole number of `count` things that is nearest to a place in WHOLE."""
    return (count * at + WHOLE // 2) // WHOLE


def part(job, count, unit):
    """Where the part of `count` things begins and ends that is `job.share`, `unit` of which stay together."""
    units = ceil_div(count, unit)
    return tuple(smaller(count, rounded(units, at) * unit) for at in job.share)
