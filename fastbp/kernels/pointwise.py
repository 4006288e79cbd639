"""Functions of vectors: activations, their derivatives and losses.

Source of the exponential: range reduction to |r| <= ln(2)/2 by two-part subtraction of n*ln(2) (Cody and Waite, Software
Manual for the Elementary Functions, 1980), then a minimax polynomial for e**r with its first two coefficients held at 1.
"""

from fastbp.kernels.simd import at_least, fma, is_float32, polynomial, power_of_two, select, traced

# e**r on |r| <= ln(2)/2; relative error 3.1e-9 (float32) and 3.6e-18 (float64) before rounding.
EXP_FLOAT32 = (
    0.4999999344748157,
    0.16666520631426113,
    0.04166838812672027,
    0.008368716917760475,
    0.0013814594191411062,
)
EXP_FLOAT64 = (
    0.5000000000000011,
    0.16666666666666413,
    0.04166666666653016,
    0.008333333333494446,
    0.0013888888943629925,
    0.0001984126950660702,
    2.480149309902565e-05,
    2.755758635352228e-06,
    2.763024836847288e-07,
    2.5000066626477466e-08,
)
LOG2_E = 1.4426950408889634
# ln(2) in two parts; n times the upper one is exact for every exponent n.
LN2_FLOAT32 = 0.693145751953125, 1.428606765330187e-06
LN2_FLOAT64 = 0.6931471803691238, 1.9082149292705877e-10
# Adding 1.5 * 2**(mantissa bits) rounds to an integer and leaves it in the low bits of the sum.
ROUND_FLOAT32, ROUND_FLOAT64 = 12582912.0, 6755399441055744.0

# Below the first argument the logistic function is no longer a normal number; far below the second it rounds to 1.
LOGISTIC_RANGE_FLOAT32 = (-87.33654, 87.0)
LOGISTIC_RANGE_FLOAT64 = (-708.3964185322641, 708.0)


def exp_parts(x):
    """e**x as m * 2**n with m near 1: m, and 2**n as a float; right while e**x and 2**n are normal numbers."""
    if is_float32(x):
        rounding, (upper, lower), coefficients = ROUND_FLOAT32, LN2_FLOAT32, EXP_FLOAT32
    else:
        rounding, (upper, lower), coefficients = ROUND_FLOAT64, LN2_FLOAT64, EXP_FLOAT64
    shifted = fma(x, LOG2_E, rounding)
    n = shifted - rounding
    r = fma(n, -lower, fma(n, -upper, x))
    return 1 + fma(r * r, polynomial(r, coefficients), r), power_of_two(shifted)


def logistic(z):
    """1 / (1 + e**-z), at most 3 ULP (float32) and 2.5 ULP (float64); 0 where the result would not be a normal number."""
    lowest, highest = LOGISTIC_RANGE_FLOAT32 if is_float32(z) else LOGISTIC_RANGE_FLOAT64
    # both written so that a NaN passes through
    mantissa, power = exp_parts(-select(z > highest, highest, z))
    return select(at_least(z, lowest), 1 / fma(mantissa, power, 1), 0)


def logistic_derivative(a):
    """s'(z) from a = s(z)."""
    return a * (1 - a)


def hidden_delta(errors, a):
    """(5): the delta of a hidden unit from the weighted deltas of the layer above and its own activation."""
    return errors * logistic_derivative(a)


def output_delta(a, y, sample, scale, squares):
    """(4): delta, and `squares` plus (a - y)**2; `sample` is 0 in lanes that hold no sample."""
    error = a - y
    return (error * (sample * scale)) * logistic_derivative(a), fma(error * sample, error, squares)


def take_larger(a, j, best, winner):
    """The larger of `best` and `a`, and whose it is."""
    better = a > best
    return select(better, a, best), select(better, j, winner)


@traced
def count_hits(hits, winner, wanted, sample):
    """`hits` plus the samples whose winner is the wanted class."""
    return hits + select(winner == wanted, sample, 0)


@traced
def count_hits_of_one(hits, a, wanted, sample):
    """The same for a single output: classes 0 and 1, told apart at 0.5."""
    return fma(select(a >= 0.5, wanted, 1 - wanted), sample, hits)
