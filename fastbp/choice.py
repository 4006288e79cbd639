"""Which kernel a network and its batches call for."""

from fastbp.kernels import jit
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace, narrow_width, weights_of

# Costs are counted in multiply-adds of vectors. The coefficients were fitted to the ratio of both kernels' times in 5,734
# steps (332 networks of 1 to 3 layers and up to 16,000 weights, 2 to 500 rows, both float types, on a core with AVX-512):
# the chosen kernel takes 0.9% longer than the better one on average, and over 15% longer in 2% of the steps. When a kernel
# changes, bench/test_choice.py tells whether they still hold.
# Beyond so many weights the wide kernel's blocking for the caches, which no term tells of, decides. Up to 21,000, in 12
# steps of networks as a table's (13-128-128-3, 64 rows), the wide kernel took 2 to 12% longer, as the costs say.
NARROW_WEIGHTS = 21_000
# A prediction's kernel must not depend on its rows: each is the one that would train with so many of them.
PREDICTED_ROWS = 256
# For a dense batch of one row the online kernel is the fastest one whatever the number of weights. A step in us, float32,
# with it and with the wide one: 2-4-1 0.17, 0.58; 20-16-1 0.26, 0.77; 64-100-10 0.95, 2.4; 784-30-10 4.6, 5.2;
# 784-128-10 17, 19; 512-512-10 48, 54. The narrow one took 0.31 for the first of these and 0.95 for the second.


def narrow_cost(layers, rows, itemsize):
    """Of a step whose vectors hold samples: products, the update, activations and inputs, and what each layer takes."""
    width = narrow_width(rows, itemsize)
    weights = [layer.n_in * layer.n_out for layer in layers]
    vectors, units = -(-rows * itemsize // width), sum(layer.n_out for layer in layers)
    products = vectors * (3 * sum(weights) - weights[0])  # the first layer passes no delta on
    update = jit.native_width() // width * sum(weights)
    return products + update + vectors * (24 * units + 14 * layers[0].n_in) + 1400 * len(layers)


def wide_cost(layers, rows, itemsize):
    """Of a step whose vectors hold units: products, the update, activations, rows, and what each layer takes."""
    vectors = [-(-layer.n_out * itemsize // jit.native_width()) for layer in layers]
    weights = sum(layer.n_in * count for layer, count in zip(layers, vectors, strict=True))
    passed_on = sum(layer.n_out * count for layer, count in zip(layers[1:], vectors[:-1], strict=True))
    return rows * (2 * weights + passed_on) + 2 * weights + rows * (24 * sum(vectors) + 80) + 2500 * len(layers)


def wide_to_narrow(layout, rows):
    """How many times as long as in the narrow kernel a step of some rows should take in the wide one."""
    layers, itemsize = layout.rows, layout.dtype.itemsize
    return wide_cost(layers, rows, itemsize) / narrow_cost(layers, rows, itemsize)


def choice_for_training(layout, batch_size, sparse=False, dropout=False):
    """The workspace, and with it the kernel, that is the fastest for training with such batches, and why, in words."""
    weights = weights_of(layout)
    if sparse:
        return WideWorkspace, "X is sparse, which only the wide kernel reads"
    if batch_size == 1 and not dropout:
        return OnlineWorkspace, "a step takes one row, for which each weight is read once"
    if weights > NARROW_WEIGHTS:
        return WideWorkspace, f"{weights:,} weights are more than {NARROW_WEIGHTS:,}"
    ratio, step = wide_to_narrow(layout, batch_size), f"a step of {batch_size:,} rows and {weights:,} weights"
    if ratio < 1:
        return WideWorkspace, f"{step} should take {1 / ratio:.1f} times as long in the narrow kernel"
    return NarrowWorkspace, f"{step} should take {ratio:.1f} times as long in the wide kernel"


def workspace_for_training(layout, n_rows, batch_size, sparse=False, **options):
    """The workspace, and with it the kernel, for training a network; arguments as `Workspace`."""
    kind, _ = choice_for_training(layout, batch_size, sparse, options.get("dropout", False))
    return kind(layout, n_rows, batch_size, sparse=sparse, **options)


def workspace_for_prediction(layout, n_rows, threads=1, sparse=False):
    """The same for `forward`: by the network alone, so that a row's result does not depend on how many others there are."""
    kind, _ = choice_for_training(layout, PREDICTED_ROWS, sparse)
    return kind(layout, n_rows, n_rows, True, threads=threads, sparse=sparse)
