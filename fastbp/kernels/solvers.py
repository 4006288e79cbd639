"""Solvers: what becomes of a weight once its gradient is known, while both are in registers.

The equations are (7) in `fastbp.reference`. A solver is a function of the gradient of LANES weights and their place.
"""

import functools
import operator

from fastbp.kernels.control import in_groups, switch, until_zero
from fastbp.kernels.numbers import choose, whole
from fastbp.kernels.tracing import Names
from fastbp.kernels.vectors import fma, is_float32, lanes, load, select, splat, square_root, store
from fastbp.rule import SOLVERS

SGD, ADAM = map(SOLVERS.index, ("sgd", "adam"))
NOTHING = 2.0**-60  # adding it to 1 changes nothing
# The least epsilon of Adam: the root of the smallest normal number. A second moment below that one is taken for 0, so that a
# smaller epsilon would divide by next to nothing where gradients are tiny, and by 0 in the padding.
EPSILON_FLOAT32, EPSILON_FLOAT64 = 2.0**-63, 2.0**-511


def no_less(epsilon):
    """An epsilon of Adam that is the least one at least."""
    least = EPSILON_FLOAT32 if is_float32(epsilon) else EPSILON_FLOAT64
    return select(epsilon > least, epsilon, least)


class Solver(Names):
    """A solver in the form in which kernels use it, with vectors of one value.

    code          of `fastbp.rule.SOLVERS`
    first, first_gain    decay of the first moment, and what the gradient adds to it
    second, second_gain  the same for the second moment
    epsilon       never below the least one
    rate          of the step that is taken: the step length, negative
    decay         the factor of the L2 term
    """

    def __init__(self, job):
        rule, memory = job.rule, job.memory
        super().__init__(
            code=whole(rule.solver),
            first=splat(memory, rule.momentum),
            first_gain=splat(memory, 1.0 - rule.momentum),
            second=splat(memory, rule.beta_2),
            second_gain=splat(memory, 1.0 - rule.beta_2),
            epsilon=no_less(splat(memory, rule.epsilon)),
        )

    def at(self, **changes):
        """The same with other values, such as those of a step."""
        result = Solver.__new__(Solver)
        vars(result).update(vars(self), **changes)
        return result


def update(job, solver, over, decays=True):
    """(7), where over(step) calls step with every vector of gradients and its place among the parameters.

    SOLVERS[0] stores the gradients at `job.plan.grad` instead. Where they do not decay, the gradients have no L2 term.
    """
    params, state, size = job.params, job.state, job.plan.size

    def gradient_only(g, w, place):
        store(job.memory, job.plan.grad + place, g)

    def sgd(g, w, place):
        store(params, place, fma(g, solver.rate, w))

    def momentum(g, w, place):
        v = fma(load(state, place), solver.first, g * solver.rate)
        store(state, place, v)
        store(params, place, w + v)

    def nesterov(g, w, place):
        step = g * solver.rate
        v = fma(load(state, place), solver.first, step)
        store(state, place, v)
        store(params, place, w + fma(v, solver.first, step))

    def adam(g, w, place):
        m = fma(load(state, place), solver.first, g * solver.first_gain)
        v = fma(load(state, size + place), solver.second, g * (g * solver.second_gain))
        store(state, place, m)
        store(state, size + place, v)
        store(params, place, fma(m, solver.rate / (square_root(v) + solver.epsilon), w))

    def each(one):
        def run():
            def step(g, place):
                w = load(params, place)
                one(fma(w, solver.decay, g) if decays else g, w, place)

            over(step)

        return run

    switch(solver.code, [each(one) for one in (gradient_only, sgd, momentum, nesterov, adam)])


def descend(job, solver, at, elements, shrink=(), decays=False):
    """(7) for some elements of the parameters from `at` on, from the stored gradient times factors, one after the other."""
    L = lanes(job.memory)

    def over(step):
        def some(count, first):
            for v in range(count):
                place = at + (first + v) * L
                step(functools.reduce(operator.mul, shrink, load(job.memory, job.plan.grad + place)), place)

        in_groups(elements // L, (4, 1), some)

    update(job, solver, over, decays)


def power(base, exponent):
    """By squaring, so that the same step has the same factor wherever a call began; 0 where 1 less the result is 1.

    Squared on, the base would soon be no normal number, and processors are slow with these.
    """

    def square(exponent, base, result):
        nothing = base < NOTHING
        result = choose(nothing, 0.0, choose(exponent % 2, result * base, result))
        return choose(nothing, 0, exponent // 2), base * base, result

    return until_zero(exponent, (base, 1.0), square)[1]


def step_length(rule, step):
    """The factor of the gradient, or of what the solver makes of it, in the `step`-th step, from 1."""

    def adam():
        return -rule.learning_rate * square_root(1.0 - power(rule.beta_2, step)) / (1.0 - power(rule.momentum, step))

    return switch(rule.solver == ADAM, [lambda: -rule.learning_rate, adam])
