"""Functions of vectors: activations, their derivatives and losses.

Each is straight-line code, the same for every lane. A NaN stays a NaN; results below the normal numbers are 0. The errors
given in units in the last place (ULP) hold wherever the exact result is a normal number.

Sources. Exponential: range reduction to |r| <= ln(2)/2 by two-part subtraction of n*ln(2) (Cody and Waite, Software Manual
for the Elementary Functions, 1980), then a minimax polynomial for e**r with its first two coefficients held at 1; with a
table of powers, n is a multiple of 1/16 and r as much smaller (Tang, ACM TOMS 15, 1989).
e**x - 1: put together from 2**n and e**r - 1 (Tang, ACM TOMS 18, 1992). Logarithm: log(1 + f) = 2 atanh(s) with
s = f / (2 + f), written so that f itself is added last (Tang, ACM TOMS 16, 1990).
"""

import functools
import math
from fractions import Fraction

import numpy as np
from llvmlite import ir

from fastbp.kernels.control import by_code, repeat
from fastbp.kernels.jit import has_avx512
from fastbp.kernels.tracing import word
from fastbp.kernels.vectors import fma, full_like, is_float32, lanes, load, picked, select, store

# --- bits --------------------------------------------------------------------------------------------------------------


@word(lambda x, number: ~(x < number))
def at_least(x, number):
    """Mask of the lanes where not x < number: a NaN counts."""
    return x.new(x.builder.fcmp_unordered(">=", x.value, x.like(number)))


@word(lambda x, number: ~(x <= number))
def beyond(x, number):
    """Mask of the lanes where not x <= number: a NaN counts."""
    return x.new(x.builder.fcmp_unordered(">", x.value, x.like(number)))


def float_format(x):
    """Bits of an element, bits of its mantissa, bias of its exponent."""
    return (32, 23, 127) if is_float32(x) else (64, 52, 1023)


@word(lambda x: x.view(f"uint{float_format(x)[0]}"))
def bits_of(x):
    """The bits of floats, as integers."""
    return x.new(x.builder.bitcast(x.value, ir.VectorType(ir.IntType(float_format(x)[0]), x.type.count)))


@word(lambda bits, like: bits.view(like.dtype))
def floats_of(bits, like):
    """The floats that have these bits."""
    return bits.new(bits.builder.bitcast(bits.value, like.type))


def exponent_bias(x):
    """What stands in the exponent's place of 1 in the type of x."""
    return float_format(x)[2]


def power_of_two(k):
    """2**(k - `exponent_bias`) for an integer k that stands in the low bits of a float; right if that is a normal number."""
    return times_power_of_two(full_like(k, 0), k)


def times_power_of_two(x, k, finer=0):
    """x * 2**(k >> finer) for an integer k in the low bits of a float; right while x and the result are normal numbers.

    A NaN may become anything.
    """
    return floats_of(bits_of(x) + (bits_of(k) >> finer << float_format(x)[1]), x)


def mantissa_and_exponent(x):
    """x = m * 2**k with m from sqrt(1/2) to sqrt(2) and a whole number k, both as floats; right for positive normal x.

    Adding to the bits of x what makes those of sqrt(1/2) into those of 1 leaves k + bias alone in the exponent's place, and
    m less sqrt(1/2), as integers, in the mantissa's. Put below a large power of two, the integer becomes a float.
    """
    bits, mantissa, bias = float_format(x)
    low = int(np.array(0.5**0.5, f"float{bits}").view(f"uint{bits}"))
    moved = bits_of(x) + ((bias << mantissa) - low)
    m = floats_of((moved & (1 << mantissa) - 1) + low, x)
    k = floats_of((moved >> mantissa) | (bias + mantissa << mantissa), x)
    return m, k - (2.0**mantissa + bias)


def polynomial(x, coefficients):
    """c[0] + c[1] x + c[2] x**2 + ...: even and odd powers apart, each by Horner's rule in x**2.

    The chain of dependent operations is half as long as with Horner's rule alone, for one multiplication more.
    """
    square = x * x

    def horner(terms):
        return functools.reduce(lambda result, term: fma(square, result, term), reversed(terms))

    return fma(x, horner(coefficients[1::2]), horner(coefficients[::2]))


# --- exponential and logarithm ----------------------------------------------------------------------------------------

# (e**r - 1 - r) / r**2 on |r| <= ln(2)/2; relative error of e**r 3.1e-9 (float32) and 3.6e-18 (float64) before rounding.
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
# With a table of 2**FINER powers from 1 to 2, the same on |r| <= ln(2)/32; relative error of e**r 1.6e-9 and 1.2e-17.
FINER = 4
EXP_FINER_FLOAT32 = (0.5000161528587341, 0.166667178273201)
EXP_FINER_FLOAT64 = (
    0.49999999999999606,
    0.1666666666441788,
    0.04166666669325476,
    0.008333471923505205,
    0.0013888593997557683,
)
# (2 atanh(s) - 2s) / s**3 in powers of s**2 on 0 <= s <= 1/3; relative error of the whole 5.6e-9 and 2.1e-18.
ATANH_FLOAT32 = (
    0.666664183139801,
    0.40021535754203796,
    0.28001677989959717,
    0.2801266610622406,
)
ATANH_FLOAT64 = (
    0.6666666666666631,
    0.40000000000155267,
    0.2857142854809786,
    0.2222222395496642,
    0.1818174443036625,
    0.15386549473756675,
    0.13301106653152156,
    0.12105065351113067,
    0.08344428849460572,
    0.17010791291149965,
)
LOG2_E = 1.4426950408889634
# ln(2) in two parts; n times the upper one is exact for every exponent n.
LN2_FLOAT32 = 0.693145751953125, 1.428606765330187e-06
LN2_FLOAT64 = 0.6931471803691238, 1.9082149292705877e-10
# Adding 1.5 * 2**(mantissa bits) rounds to an integer and leaves it in the low bits of the sum.
ROUND_FLOAT32, ROUND_FLOAT64 = 12582912.0, 6755399441055744.0

# Smallest and largest positive normal numbers, and the arguments from and to which e**x is one.
NORMAL_FLOAT32, NORMAL_FLOAT64 = (2.0**-126, 2.0**128 - 2.0**104), (2.0**-1022, 2.0**1023 * (2 - 2.0**-52))
EXP_RANGE_FLOAT32 = (-87.33654, 88.72283)
EXP_RANGE_FLOAT64 = (-708.3964185322641, 709.782712893384)
# Below the first argument the logistic function is no longer a normal number; far below the second it rounds to 1.
LOGISTIC_RANGE_FLOAT32 = (-87.33654, 87.0)
LOGISTIC_RANGE_FLOAT64 = (-708.3964185322641, 708.0)
# From here on 1 + e**-x rounds to 1, and e**x + 2 to e**x.
FAR_FLOAT32, FAR_FLOAT64 = 20.0, 40.0

LEAKY_SLOPE = 0.01
SELU_SLOPE, SELU_LIMIT = 1.0507009873554805, 1.7580993408473768


# --- elementary functions ---------------------------------------------------------------------------------------------


@functools.cache
def powers_of_two(single):
    """2**(j / 2**FINER) for each j, rounded to float32 or float64, and as a share of it what rounding has taken away."""
    one = 1 << 120
    roots = [1 << (j + (120 << FINER)) for j in range(1 << FINER)]
    for _ in range(FINER):
        roots = list(map(math.isqrt, roots))
    rounded = [float(np.float32(root / one)) if single else root / one for root in roots]
    return rounded, [float(Fraction(root, one) / Fraction(power) - 1) for root, power in zip(roots, rounded, strict=True)]


def exp_terms(x, factor=1, offset=0, finer=0, lost=None):
    """e**(factor * x) = (1 + factor * p) * 2**(n / 2**finer): p, and n + offset in the low bits of a float.

    The factor is a power of two or the negative of one, which costs nothing here. Where n is 0, p is relatively accurate.
    With a table of what the powers have `lost`, p has that as well.
    """
    if is_float32(x):
        rounding, (upper, lower), coefficients = ROUND_FLOAT32, LN2_FLOAT32, EXP_FINER_FLOAT32 if finer else EXP_FLOAT32
    else:
        rounding, (upper, lower), coefficients = ROUND_FLOAT64, LN2_FLOAT64, EXP_FINER_FLOAT64 if finer else EXP_FLOAT64
    steps = factor * 2**finer
    shifted = fma(x, steps * LOG2_E, rounding + offset)
    n = shifted - (rounding + offset)
    r = fma(n, -lower / steps, fma(n, -upper / steps, x))
    first = r + picked(shifted, [one / factor for one in lost]) if lost else r
    return fma(r * r, polynomial(r, [c * factor ** (i + 1) for i, c in enumerate(coefficients)]), first), shifted


def exp_parts(x, factor):
    """p of `exp_terms`, and 2**n as a float; right while e**(factor * x) and 2**n are normal numbers."""
    p, exponent = exp_terms(x, factor, exponent_bias(x))
    return p, power_of_two(exponent)


def exp_factors(x, factor=1, exact=False):
    """e**(factor * x) = (1 + factor * p) * power, where that and `power` are normal numbers: p and power.

    With AVX-512 powers from a table make the polynomial shorter. What rounding them has taken away is in p if it has to be
    `exact`.
    """
    if not has_avx512():
        return exp_parts(x, factor)  # LLVM would gather, lane by lane
    powers, lost = powers_of_two(is_float32(x))
    p, n = exp_terms(x, factor, 0, FINER, lost if exact else None)
    return p, times_power_of_two(picked(n, powers), n, FINER)


def exp_of_negative(x, exact=True):
    """e**x for x <= 0, at most 1.1 ULP, or 1.2 ULP if it need not be `exact`; NaN stays NaN."""
    lowest, _ = EXP_RANGE_FLOAT32 if is_float32(x) else EXP_RANGE_FLOAT64
    p, power = exp_factors(x, exact=exact)
    return select(at_least(x, lowest), fma(power, p, power), 0)


def exp(x):
    """e**x, at most 1.1 ULP."""
    lowest, highest = EXP_RANGE_FLOAT32 if is_float32(x) else EXP_RANGE_FLOAT64
    # to add n to the exponent last also serves e**x near the largest number, where 2**n is too large for one
    if has_avx512():
        powers, lost = powers_of_two(is_float32(x))
        p, n = exp_terms(x, finer=FINER, lost=lost)
        power = picked(n, powers)
        result = times_power_of_two(fma(power, p, power), n, FINER)
    else:
        p, n = exp_terms(x)
        result = times_power_of_two(1 + p, n)
    return select(beyond(x, highest), x + math.inf, select(at_least(x, lowest), result, 0))


def expm1(x, factor=1):
    """(e**(factor * x) - 1) / factor, relatively accurate near x = 0, where n = 0; right where `exp_parts` is."""
    p, power = exp_parts(x, factor)
    return fma(power, p, fma(power, 1 / factor, -1 / factor))


def log1p_terms(f):
    """log(1 + f) = f - s * c for sqrt(1/2) - 1 <= f <= 1: s and c."""
    coefficients = ATANH_FLOAT32 if is_float32(f) else ATANH_FLOAT64
    s = f / (2 + f)
    square = s * s
    return s, f - square * polynomial(square, coefficients)


def log1p(u):
    """log(1 + u) for 0 <= u <= 1."""
    s, c = log1p_terms(u)
    return fma(-s, c, u)


def log_of_normal(x):
    """The natural logarithm of positive normal numbers, at most 1 ULP; inf and NaN stay."""
    _, largest = NORMAL_FLOAT32 if is_float32(x) else NORMAL_FLOAT64
    upper, lower = LN2_FLOAT32 if is_float32(x) else LN2_FLOAT64
    m, k = mantissa_and_exponent(x)
    f = m - 1
    s, c = log1p_terms(f)
    return select(beyond(x, largest), x, fma(k, upper, f - fma(s, c, k * -lower)))


def log(x):
    """The natural logarithm, at most 1 ULP; -inf of 0 and of what is below the normal numbers."""
    smallest, _ = NORMAL_FLOAT32 if is_float32(x) else NORMAL_FLOAT64
    return select(x < smallest, select(x < 0, full_like(x, math.nan), -math.inf), log_of_normal(x))


# --- activations ------------------------------------------------------------------------------------------------------


def identity(z):
    """The value z itself."""
    return z


def logistic(z):
    """1 / (1 + e**-z), at most 3 ULP (float32) and 2.5 ULP (float64); 0 where the result would not be a normal number."""
    lowest, highest = LOGISTIC_RANGE_FLOAT32 if is_float32(z) else LOGISTIC_RANGE_FLOAT64
    # both written so that a NaN passes through
    p, power = exp_factors(select(z > highest, highest, z), -1)
    if has_avx512():  # one rounding less, for that of the table's power; the larger number is added last
        total = fma(-p, power, select(power < 1, power, 1)) + select(power > 1, power, 1)
    else:
        total = fma(1 - p, power, 1)  # 1 + power would round twice where power is tiny
    return select(at_least(z, lowest), 1 / total, 0)


def tanh(z):
    """t / (t + 1) with t = (e**2z - 1) / 2, at most 3 ULP."""
    far = (FAR_FLOAT32 if is_float32(z) else FAR_FLOAT64) / 2
    z = select(z > far, far, z)
    z = select(z < -far, -far, z)
    t = expm1(z, 2)
    return t / (t + 1)


def relu(z):
    """max(z, 0)."""
    return select(z < 0, 0, z)


def leaky_relu(z):
    """z, or a small part of it if it is negative."""
    part = z * LEAKY_SLOPE
    return select(part > z, part, z)


def elu(z):
    """z, or e**z - 1 if it is negative; at most 1.5 ULP."""
    far = -(FAR_FLOAT32 if is_float32(z) else FAR_FLOAT64)
    return select(z > 0, z, expm1(select(z < far, far, z)))


def negative_size(z):
    """-|z|."""
    negative = -z
    return select(z > negative, negative, z)


def softplus(z):
    """log(1 + e**z) = max(z, 0) + log(1 + e**-|z|), at most 2 ULP."""
    return relu(z) + log1p(exp_of_negative(negative_size(z)))


def logistic_and_rest(z):
    """s(z), at most 2.5 ULP, and log(1 + e**-|z|), which is what softplus has beyond relu, both from the same power."""
    power = exp_of_negative(negative_size(z))
    return select(z < 0, power, 1) / (1 + power), log1p(power)


def selu(z):
    """A multiple of z, or of e**z - 1 if it is negative; at most 3 ULP."""
    far = -(FAR_FLOAT32 if is_float32(z) else FAR_FLOAT64)
    return select(z > 0, z * SELU_SLOPE, expm1(select(z < far, far, z)) * SELU_LIMIT)


# --- derivatives, from the result a = s(z) ----------------------------------------------------------------------------


def identity_derivative(a):
    return full_like(a, 1)


def logistic_derivative(a):
    """s'(z) = a (1 - a) from a = s(z)."""
    return a * (1 - a)  # fma(-a, a, a) would be right, but that of plain Python is not exact enough for it


def tanh_derivative(a):
    return (1 - a) * (1 + a)


def relu_derivative(a):
    """1 or 0; what is not positive is 0 already, or NaN."""
    return select(a > 0, 1, a)


def leaky_relu_derivative(a):
    """1 or the slope, which it is at 0 as well."""
    return select(a > 0, 1, full_like(a, LEAKY_SLOPE))


def elu_derivative(a):
    return select(a > 0, 1, a + 1)


def softplus_derivative(a):
    """1 - e**-a; at most 1.5 ULP."""
    far = FAR_FLOAT32 if is_float32(a) else FAR_FLOAT64
    return expm1(select(a > far, far, a), -1)


def selu_derivative(a):
    return select(a > 0, SELU_SLOPE, a + SELU_LIMIT)


# in the order of the codes of the activations
ACTIVATIONS = identity, logistic, tanh, relu, leaky_relu, elu, softplus, selu
DERIVATIVES = (
    identity_derivative,
    logistic_derivative,
    tanh_derivative,
    relu_derivative,
    leaky_relu_derivative,
    elu_derivative,
    softplus_derivative,
    selu_derivative,
)
RELU = ACTIVATIONS.index(relu)
FUNCTIONS = (*ACTIVATIONS, *DERIVATIVES, exp, log)


def apply(job):
    """FUNCTIONS[code] of each of n numbers in x, a multiple of LANES, into `out`; so many times."""

    def over(function):
        def vector(v):
            at = v * lanes(job.x)
            store(job.out, at, function(load(job.x, at)))

        repeat(job.times, lambda _: repeat(job.n // lanes(job.x), vector))

    by_code(job.code, FUNCTIONS, over)
