"""Loops and branches that depend on what is only known later; bodies are functions, which emit at once."""

import functools

from fastbp.kernels.tracing import Traced, bit, integer, loop, value_of


def repeat(count, body):
    """body(0), body(1) ... body(count - 1)."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            body(k)
        return

    def run(k, _):
        body(count.new(k))
        return []

    with count.builder.if_then(bit(count > 0)):
        loop(count.builder, count.value, [], run)


def carry(count, values, body):
    """values = body(k, *values) for k = 0 ... count - 1; the count is at least 1."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            values = body(k, *values)
        return values

    def run(k, current):
        return [value_of(one) for one in body(count.new(k), *map(count.new, current))]

    return tuple(map(count.new, loop(count.builder, count.value, list(map(value_of, values)), run)))


def carry_any(count, values, body):
    """`carry` for a count that may be 0."""
    return switch(count > 0, [lambda: values, lambda: carry(count, values, body)])


def until_zero(number, values, body):
    """(number, *values) = body(number, *values) until the number, an integer, is 0; the values."""
    if not isinstance(number, Traced):
        while number:
            number, *values = body(number, *values)
        return values
    builder, start = number.builder, [number.value, *map(value_of, values)]
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("while", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    phis = [builder.phi(value.type) for value in start]
    current = list(map(number.new, phis))
    builder.cbranch(bit(current[0]), inside, after)
    builder.position_at_end(inside)
    new = list(map(value_of, body(*current)))
    for phi, first, last in zip(phis, start, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return current[1:]


def when(flag, body):
    """Call body() if an integer flag says so."""
    if not isinstance(flag, Traced):
        if flag:
            body()
        return
    with flag.builder.if_then(bit(flag)):
        body()


def either(flag, yes, no):
    """Call yes() or no() as an integer flag says."""
    if not isinstance(flag, Traced):
        yes() if flag else no()
        return
    with flag.builder.if_else(bit(flag)) as (then, otherwise):
        with then:
            yes()
        with otherwise:
            no()


def switch(code, cases):
    """What cases[code]() gives: nothing, a value, or several values as a tuple or a list.

    A function that stands in several places is emitted once.
    """
    if not isinstance(code, Traced):
        return cases[int(code)]()
    builder = code.builder
    after = builder.append_basic_block("chosen")
    blocks = {case: builder.append_basic_block("case") for case in dict.fromkeys(cases)}
    branch = builder.switch(code.value, blocks[cases[-1]])
    for number, case in enumerate(cases[:-1]):
        branch.add_case(integer(number), blocks[case])
    results, ends = [], []
    for case, block in blocks.items():
        builder.position_at_end(block)
        results.append(case())
        ends.append(builder.block)
        builder.branch(after)
    builder.position_at_end(after)
    return joined(builder, results, ends)


def by_code(code, functions, run):
    """run(function), for the function that a code stands for; nothing where that is None."""
    switch(code, [(lambda: None) if function is None else functools.partial(run, function) for function in functions])


def joined(builder, results, ends):
    """The value that one of several blocks has left."""
    first = results[0]
    if first is None:
        return None
    if isinstance(first, (tuple, list)):
        return type(first)(joined(builder, one, ends) for one in zip(*results, strict=True))
    values = list(map(value_of, results))
    phi = builder.phi(values[0].type)
    for value, end in zip(values, ends, strict=True):
        phi.add_incoming(value, end)
    return Traced(builder, phi)


def in_groups(count, sizes, body):
    """body(size, first) for groups that make up `count`, of falling sizes, which are constants."""
    done = 0
    for size in sizes:
        groups = (count - done) // size
        repeat(groups, lambda i, size=size, done=done: body(size, done + i * size))
        done = done + groups * size


SIDE_BY_SIDE = (8, 4, 2, 1)  # vectors of a row that may be summed side by side


def side_by_side(vectors, body):
    """body(number, first) for groups of vectors, whose numbers are constants."""
    in_groups(vectors, SIDE_BY_SIDE, body)
