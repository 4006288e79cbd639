"""The functions of vectors, held to their exact values."""

import decimal
import functools
import math
from decimal import Decimal

import draws
import numpy as np
import pytest

from fastbp.kernels import APPLY, pointwise
from fastbp.kernels.jit import PLAIN_PYTHON, has_avx512

DTYPES = ("float32", "float64")
NAMES = [function.__name__ for function in pointwise.FUNCTIONS]
LANES = 16

# ULP, wherever the exact result is a normal number.
LARGEST_ERROR = {
    "identity": 0,
    "logistic": 2.5,
    "tanh": 3,
    "relu": 0,
    "leaky_relu": 1,  # the slope is rounded, and the product
    "elu": 1.5,
    "softplus": 2,
    "selu": 3,  # an ulp of e**z - 1 may be nearly two of the product, which is rounded again
    "identity_derivative": 0,
    "logistic_derivative": 1.5,
    "tanh_derivative": 2,
    "relu_derivative": 0,
    "leaky_relu_derivative": 0.5,
    "elu_derivative": 0.5,
    "softplus_derivative": 1.5,
    "selu_derivative": 1.5,
    "exp": 1.5,
    "log": 1,
}
# Arguments outside have no result, or are no result of the activation.
DOMAIN = {
    "log": (0, np.inf),
    "logistic_derivative": (0, 1),
    "tanh_derivative": (-1, 1),
    "relu_derivative": (0, np.inf),
    "elu_derivative": (-1, np.inf),
    "softplus_derivative": (0, np.inf),
    "selu_derivative": (-1.25, np.inf),  # below, the limit's own rounding error shows in the small difference
}


def values(name, z, width=None):
    """What the kernels compute for each number."""
    padded = np.zeros(-(-len(z) // LANES) * LANES, z.dtype)
    padded[: len(z)] = z
    out = np.full_like(padded, np.nan)
    APPLY(NAMES.index(name), padded, len(padded), out, 1, width=width)
    return out[: len(z)]


# --- exact values, to at least 25 digits ------------------------------------------------------------------------------


def expm1(x):
    return x * (1 + x / 2 * (1 + x / 3)) if abs(x) < Decimal("1e-10") else x.exp() - 1


def log1p(u):
    return u * (1 - u / 2 + u * u / 3) if u < Decimal("1e-10") else (1 + u).ln()


def tanh(z):
    t = expm1(-2 * abs(z))
    return (-t / (2 + t)).copy_sign(z)


SELU_SLOPE = Decimal("1.0507009873554804934193349852946")
SELU_LIMIT = SELU_SLOPE * Decimal("1.6732632423543772848170429916717")
EXACT = {
    "identity": lambda z: z,
    "logistic": lambda z: (1 if z >= 0 else z.exp()) / (1 + (-abs(z)).exp()),
    "tanh": tanh,
    "relu": lambda z: max(z, Decimal(0)),
    "leaky_relu": lambda z: z if z > 0 else z / 100,
    "elu": lambda z: z if z > 0 else expm1(z),
    "softplus": lambda z: max(z, Decimal(0)) + log1p((-abs(z)).exp()),
    "selu": lambda z: SELU_SLOPE * z if z > 0 else SELU_LIMIT * expm1(z),
    "identity_derivative": lambda a: Decimal(1),
    "logistic_derivative": lambda a: a * (1 - a),
    "tanh_derivative": lambda a: 1 - a * a,
    "relu_derivative": lambda a: Decimal(a > 0),
    "leaky_relu_derivative": lambda a: Decimal(1) if a > 0 else Decimal("0.01"),
    "elu_derivative": lambda a: Decimal(1) if a > 0 else 1 + a,
    "softplus_derivative": lambda a: -expm1(-a),
    "selu_derivative": lambda a: SELU_SLOPE if a > 0 else SELU_LIMIT + a,
    "exp": lambda x: min(x, Decimal(1000)).exp(),
    "log": lambda x: x.ln(),
}


def exact_values(name, z):
    with decimal.localcontext(prec=40):
        return [EXACT[name](Decimal(float(value))) for value in z]


@pytest.mark.parametrize("activation", [function.__name__ for function in pointwise.ACTIVATIONS])
def test_the_exact_derivative_is_the_slope_of_the_exact_function(activation):
    with decimal.localcontext(prec=60):
        s, derivative, h = EXACT[activation], EXACT[activation + "_derivative"], Decimal("1e-20")
        for z in map(Decimal, ("-30", "-2", "-0.3", "0.001", "0.7", "5")):
            slope = (s(z + h) - s(z - h)) / (2 * h)
            assert abs(derivative(s(z)) - slope) <= Decimal("1e-25")


def test_each_activation_has_its_derivative():
    names = [function.__name__ for function in pointwise.ACTIVATIONS]
    assert names == ["identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "selu"]
    assert [function.__name__ for function in pointwise.DERIVATIVES] == [f"{name}_derivative" for name in names]


# --- accuracy ---------------------------------------------------------------------------------------------------------


def arguments(name, dtype):
    """The whole range, denser around 0 and 1, and the neighbourhood of every kind of place where something changes."""
    finfo, points, random = np.finfo(dtype), 200 if PLAIN_PYTHON else 600, np.random.default_rng(0)
    lowest, highest, digits = np.log(float(finfo.tiny)), np.log(float(finfo.max)), -np.log2(float(finfo.eps))
    below_one = np.geomspace(finfo.eps / 2, 1, points)
    # n of e**x = m * 2**n changes at half an integer times ln(2), k of x = m * 2**k at sqrt(2) times a power of two
    half = np.floor([*np.arange(-digits - 5, digits + 5), *np.arange(lowest, highest, 20) / np.log(2)]) + 0.5
    ends = [0, 1, lowest, highest, -highest, finfo.tiny, finfo.max, *np.outer([10, 20, 40, 87, 708], [-1, 1]).ravel()]
    with np.errstate(all="ignore"):
        spread = np.exp(np.linspace(lowest, highest, points))
        spots = np.concatenate([half * np.log(2), half * np.log(2) / 2, 2.0**half, ends]).astype(dtype)
        neighbours = [spots + k * np.spacing(spots) for k in (-2, -1, 0, 1, 2)]
    uniform = [random.uniform(-size, size, points) for size in (1, 25, 1.1 * highest)]
    for_each_sign = [spread, below_one, 1 - below_one]
    z = [*neighbours, *uniform, *for_each_sign, *np.negative(for_each_sign), 1 + below_one]
    z = np.concatenate(z).astype(dtype)
    low, high = DOMAIN.get(name, (-np.inf, np.inf))
    return z[(z >= max(low, finfo.tiny) if name == "log" else z >= low) & (z <= high) & np.isfinite(z)]


def error_in_ulp(ours, exact):
    """Distance in units of the last place of the exact value."""
    below = abs(type(ours)(exact))
    if Decimal(float(below)) > abs(exact):
        below = np.nextafter(below, type(ours)(0))
    # not numpy.spacing, which has no answer for the largest number
    finfo = np.finfo(below)
    last_place = max(math.ldexp(1, math.frexp(below)[1] - 1 - finfo.nmant), float(finfo.smallest_subnormal))
    return float(abs(Decimal(float(ours)) - exact) / Decimal(last_place))


def assert_accurate(name, ours, exact):
    finfo = np.finfo(ours.dtype)
    size = np.array([float(abs(value)) for value in exact])
    normal = (size >= finfo.tiny) & (size <= finfo.max)
    assert np.sum(normal) > 0.3 * len(size)
    errors = [error_in_ulp(ours[i], exact[i]) for i in np.flatnonzero(normal)]
    assert np.max(errors) <= LARGEST_ERROR[name], f"{np.max(errors)} ULP"
    assert np.all(np.abs(ours[size < finfo.tiny]) <= finfo.tiny)
    assert np.all(ours[size > finfo.max] == np.inf)


@pytest.mark.draw(6)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name, dtype):
    z = arguments(name, dtype)
    assert_accurate(name, values(name, z), exact_values(name, z))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_corrupted_value_is_rejected(name, dtype):
    z = np.array([0.125, 0.25, 0.375, 0.5, 0.625], dtype)
    ours, exact = values(name, z), exact_values(name, z)
    assert_accurate(name, ours, exact)
    for wrong in (ours[2] + 4 * np.spacing(ours[2]), -ours[2], np.nan, np.inf, 0):
        corrupted = ours.copy()
        corrupted[2] = wrong
        with pytest.raises(AssertionError):
            assert_accurate(name, corrupted, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sign", [1, -1])
def test_errors_are_counted_in_ulp(sign, dtype):
    half, roundoff = np.array(sign * 0.5, dtype)[()], np.finfo(dtype).eps / 2
    exact = Decimal("0.5") * sign
    assert error_in_ulp(half, exact) == 0
    assert error_in_ulp(np.nextafter(half, half + half), exact) == 1
    assert error_in_ulp(half - half * roundoff, exact) == 0.5
    assert error_in_ulp(half + half, sign * (1 - Decimal(float(roundoff)) / 4)) == pytest.approx(0.25)


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_a_vector_changes_no_bit(name, dtype):
    z = arguments(name, dtype)[::7]
    assert values(name, z, width=32).tobytes() == values(name, z, width=64).tobytes()


# --- powers from a table ----------------------------------------------------------------------------------------------

TABLE_ULP = {"exp": 0.75, "logistic": 2.5, "softplus": 2}  # of those who take them, where there is a table


def around_each_power(dtype, per_place=4):
    """Arguments of e**z all over the range: drawn at, and on both sides of, the places where its power changes."""
    rng, finfo = np.random.default_rng(draws.SEED), np.finfo(dtype)
    low, high = (math.ceil(16 * np.log2(float(end))) for end in (finfo.tiny, finfo.max))
    powers = np.concatenate([rng.choice(np.arange(low + j, high - 16, 16), per_place) for j in range(16)])
    places = np.add.outer(powers, [0, -0.5, 0.5, *rng.uniform(-0.5, 0.5, 3)]).ravel() * np.log(2) / 16
    ends = np.log([float(finfo.tiny), float(finfo.max)])
    z = np.concatenate([places, np.linspace(ends - 1, ends, 20).ravel(), np.negative(ends)]).astype(dtype)
    return np.concatenate([z + k * np.spacing(z) for k in (-1, 0, 1)])


def assert_accurate_around_powers(function, name, dtype):
    z = around_each_power(dtype)
    exact, largest = exact_values(name, z), TABLE_ULP[name] if has_avx512() else LARGEST_ERROR[name]
    with np.errstate(all="ignore"):
        ours = function(z)
    size = np.array([float(abs(value)) for value in exact])
    normal = np.flatnonzero((size >= np.finfo(dtype).tiny) & (size <= np.finfo(dtype).max))
    errors = [error_in_ulp(ours[i], exact[i]) for i in normal]
    assert np.max(errors) <= largest, f"{np.max(errors)} ULP at {z[normal[np.argmax(errors)]]!r}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE_ULP)
def test_accuracy_around_each_power(name, dtype):
    assert_accurate_around_powers(functools.partial(values, name), name, dtype)


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TABLE_ULP)
def test_powers_do_not_depend_on_the_vector(name, dtype):
    z = around_each_power(dtype)
    assert values(name, z, width=16).tobytes() == values(name, z, width=32).tobytes() == values(name, z, width=64).tobytes()


@pytest.mark.skipif(not has_avx512(), reason="there is no table")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", range(16))
def test_a_corrupted_power_is_rejected(place, dtype, monkeypatch):
    function = pointwise.exp
    assert_accurate_around_powers(function, "exp", dtype)
    powers, lost = pointwise.powers_of_two(dtype == "float32")
    ulp = float(np.spacing(np.array(powers[place], dtype)))
    for wrong in (0, 1):
        tables = [*powers], [*lost]
        tables[wrong][place] += ulp
        monkeypatch.setattr(pointwise, "powers_of_two", lambda single, tables=tables: tables)
        with pytest.raises(AssertionError):
            assert_accurate_around_powers(function, "exp", dtype)


@pytest.mark.skipif(not has_avx512(), reason="there is no table")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_power_and_what_it_has_lost_are_the_exact_one(dtype):
    with decimal.localcontext(prec=40):
        for j, (power, lost) in enumerate(zip(*pointwise.powers_of_two(dtype == "float32"), strict=True)):
            exact = Decimal(2) ** (Decimal(j) / 16)
            assert power == np.array(float(exact), dtype)
            assert abs(Decimal(power) * (1 + Decimal(lost)) / exact - 1) < Decimal(float(np.finfo(dtype).eps)) / 10**16


# --- for heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_heads_take_is_as_accurate(dtype):
    z = np.concatenate([around_each_power(dtype), arguments("softplus", dtype)])
    ours, rest = pointwise.logistic_and_rest(z)
    assert_accurate("logistic", ours, exact_values("logistic", z))
    assert_accurate("softplus", rest, exact_values("softplus", -np.abs(z)))
    below = z[z <= 0]
    for exact in (True, False):
        assert_accurate("exp", pointwise.exp_of_negative(below, exact), exact_values("exp", below))
    assert np.all(np.isnan(pointwise.exp_of_negative(np.full(LANES, np.nan, dtype))))
    assert np.all(np.isnan(pointwise.logistic_and_rest(np.full(LANES, np.nan, dtype))))
    x = arguments("log", dtype)
    assert pointwise.log_of_normal(x).tobytes() == pointwise.log(x).tobytes()
    assert np.all(np.isnan(pointwise.log_of_normal(np.full(LANES, np.nan, dtype))))


# --- limits -----------------------------------------------------------------------------------------------------------

INF, MAX, TINY, SELU = np.inf, "max", "tiny", float(SELU_LIMIT)
LIMITS = {
    "identity": [(-INF, -INF), (0, 0), (MAX, MAX), (INF, INF)],
    "logistic": [(-INF, 0), ("-max", 0), (-1e4, 0), (-0.0, 0.5), (0, 0.5), (1e4, 1), (MAX, 1), (INF, 1)],
    "tanh": [(-INF, -1), ("-max", -1), (-30, -1), (-0.0, 0), (0, 0), (TINY, TINY), (30, 1), (MAX, 1), (INF, 1)],
    "relu": [(-INF, 0), ("-max", 0), (-1, 0), (0, 0), (TINY, TINY), (MAX, MAX), (INF, INF)],
    "leaky_relu": [(-INF, -INF), (0, 0), (TINY, TINY), (MAX, MAX), (INF, INF)],
    "elu": [(-INF, -1), ("-max", -1), (-50, -1), (0, 0), ("-tiny", "-tiny"), (TINY, TINY), (MAX, MAX), (INF, INF)],
    "softplus": [(-INF, 0), ("-max", 0), (-1e4, 0), (1e4, 1e4), (MAX, MAX), (INF, INF)],
    "selu": [(-INF, -SELU), ("-max", -SELU), (-50, -SELU), (0, 0), (MAX, INF), (INF, INF)],
    "identity_derivative": [(-INF, 1), (0, 1), (INF, 1)],
    "logistic_derivative": [(0, 0), (0.5, 0.25), (1, 0)],
    "tanh_derivative": [(-1, 0), (0, 1), (1, 0)],
    "relu_derivative": [(0, 0), (TINY, 1), (INF, 1)],
    "leaky_relu_derivative": [(-INF, 0.01), ("-tiny", 0.01), (0, 0.01), (TINY, 1), (INF, 1)],
    "elu_derivative": [(-1, 0), (0, 1), (TINY, 1), (INF, 1)],
    "softplus_derivative": [(0, 0), (TINY, TINY), (50, 1), (MAX, 1), (INF, 1)],
    "selu_derivative": [(-SELU, 0), (0, SELU), (TINY, float(SELU_SLOPE)), (INF, float(SELU_SLOPE))],
    "exp": [(-INF, 0), ("-max", 0), (-1e4, 0), (-0.0, 1), (0, 1), (1e4, INF), (MAX, INF), (INF, INF)],
    "log": [(-INF, np.nan), ("-tiny", np.nan), (-0.0, -INF), (0, -INF), (1, 0), (INF, INF)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_limits(name, dtype):
    finfo = np.finfo(dtype)
    named = {"max": finfo.max, "-max": -finfo.max, "tiny": finfo.tiny, "-tiny": -finfo.tiny}
    z, expected = np.array([[named.get(number, number) for number in pair] for pair in LIMITS[name]]).T.astype(dtype)
    np.testing.assert_array_equal(values(name, z), expected)


# The next layer's errors are NaN already, and with them the product with these two.
HIDING = ("identity_derivative", "leaky_relu_derivative")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in HIDING])
def test_nan_stays_nan_and_in_its_lane(name, dtype):
    plain = np.array(0x7FC00000 if dtype == "float32" else 0x7FF8 << 48, dtype.replace("float", "uint"))
    for nan in (plain, plain + 1, plain + 0x12345):
        for place in (0, 5, LANES - 1, LANES + 2):
            z = np.linspace(0.1, 0.9, 3 * LANES).astype(dtype)
            expected = values(name, z)
            z[place], expected[place] = nan.view(dtype), np.nan
            np.testing.assert_array_equal(values(name, z), expected)
