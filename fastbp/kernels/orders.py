"""Random orders of rows as numpy's RandomState shuffles them, from the same random bits, in a fraction of its time.

The bits are those of the Mersenne twister (Matsumoto and Nishimura, "Mersenne twister: a 623-dimensionally equidistributed
uniform pseudo-random number generator", ACM TOMACS 8, 1998). Nothing here branches on them: numpy's time goes into
guesses of whether a number is drawn again.
"""

from fastbp.kernels.control import carry, repeat, switch, until_zero, when
from fastbp.kernels.numbers import choose, element, from_on, put
from fastbp.layout import TWISTER_WORDS

WORDS, DISTANCE = TWISTER_WORDS, 397  # of the twister's state, and from a word to the one that it is mixed with
UPPER, LOWER, MATRIX = 0x80000000, 0x7FFFFFFF, 0x9908B0DF


def twist(words, k, following, far):
    """The next value of a word of the state."""
    mixed = (element(words, k) & UPPER) | (element(words, following) & LOWER)
    put(words, k, element(words, far) ^ (mixed >> 1) ^ ((0 - (mixed & 1)) & MATRIX))


def renew(words, zero):
    """The next values of all words; `zero` is one that is only known later, so that loops stay loops."""
    before = WORDS - DISTANCE
    repeat(zero + before, lambda k: twist(words, k, k + 1, k + DISTANCE))
    repeat(zero + (DISTANCE - 1), lambda k: twist(words, k + before, k + (before + 1), k))
    twist(words, WORDS - 1, 0, DISTANCE - 1)
    return zero


def tempered(y):
    """A random number of 32 bits from a word of the state."""
    y = y ^ (y >> 11)
    y = y ^ ((y << 7) & 0x9D2C5680)
    y = y ^ ((y << 15) & 0xEFC60000)
    return y ^ (y >> 18)


def shuffle(job):
    """Each of `count` rows of `order`, of n numbers, becomes the row before it, shuffled; the first one is shuffled itself.

    words : INOUT int64 (WORDS + 1,); the twister's state, and how many words of it are used up. order : INOUT (count, n).
    """
    words, n = job.words, job.n
    mask = n - 1
    for places in (1, 2, 4, 8, 16):  # ones up to the first one of n - 1
        mask = mask | (mask >> places)

    def one(e, used):
        row, previous = from_on(job.order, e * n), choose(e > 0, e - 1, 0) * n
        when(e > 0, lambda: repeat(n, lambda k: put(row, k, element(job.order, previous + k))))

        def of_length(mask, i, used):
            """From row[i] on down, as long as its number has as many bits as `mask`, of ones."""

            def pick(left, used):
                """Let row[i] and a random row[j] of those up to it change places, or draw again."""
                used, i = switch(used == WORDS, [lambda: used, lambda: renew(words, used * 0)]), left + (mask >> 1)
                j = tempered(element(words, used)) & mask
                found = j <= i
                j = choose(found, j, i)
                mine, other = element(row, i), element(row, j)
                put(row, i, other)
                put(row, j, mine)
                return left - found, used + 1

            (used,) = until_zero(i - (mask >> 1), (used,), pick)
            return mask >> 1, mask >> 1, used

        _, used = until_zero(mask, (n - 1, used), of_length)
        return (used,)

    (used,) = carry(job.count, (element(words, WORDS),), one)
    put(words, WORDS, used)
