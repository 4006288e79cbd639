"""Time of the recipe for tables, epoch by epoch, beside the same recipe in PyTorch on one core each.

Both get the same inputs, initial weights, batches and step lengths, and judge the same rows after each epoch. That their
losses agree is checked before anything is timed.
"""

import argparse
import copy
import time
import warnings

import numpy as np
import tables
from sklearn.base import is_classifier
from sklearn.utils import check_random_state
from tabular import TABLES, splits

from fastbp import TabularClassifier, TabularRegressor
from fastbp.datasets import held_out
from fastbp.estimators.recipe import BETA_2, LABEL_SMOOTHING, Recipe, soft, wave

NAMES = ("wine", "hitters", "titanic", "concrete", "digits", "credit", "bikes")
# Of the loss of the first epoch: rounding errors double within a few steps, and later epochs differ by some thousandths.
TOLERANCE = 1e-3


def prepared(table, epochs):
    """A function that makes a `Recipe` of a table's first split, the same one each time."""
    frame, y = table.read()
    train, _ = splits(table, y)[0]
    frame, y = frame.iloc[train], y[train]
    est = (TabularRegressor if table.values else TabularClassifier)(random_state=0, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        est.fit(frame, y)
        Z = est._read(frame)
    held = held_out(0.1, len(Z), None if table.values else y, check_random_state(0))
    targets = est._targets(y, ~held)
    network = est.network_.set_params(max_iter=epochs, n_iter_no_change=np.inf)

    def make():
        rows = (Z[~held], targets[~held], None), (Z[held], targets[held], None)
        return Recipe(copy.deepcopy(network), *rows[0], rows[1], check_random_state(1))

    return make


def with_torch(recipe):
    """Train as a recipe would, in PyTorch; returns the loss of each epoch."""
    import torch

    torch.set_num_threads(1)
    F, est = torch.nn.functional, recipe.est
    draw = copy.deepcopy(recipe.random_state)  # of the orders that the recipe has not drawn yet
    X, held = torch.from_numpy(recipe.rows.X), torch.from_numpy(recipe.validation.X)
    Y = torch.from_numpy(soft(recipe.rows.Y, LABEL_SMOOTHING) if is_classifier(est) else recipe.rows.Y)
    targets = torch.from_numpy(recipe.validation.Y)
    kinds = {"softmax": F.cross_entropy, "logistic": F.binary_cross_entropy_with_logits}
    loss_of = kinds.get(est.out_activation_, lambda z, y: F.mse_loss(z, y) / 2)
    weights = [torch.from_numpy(W.copy()).requires_grad_() for W in est.coefs_]
    biases = [torch.from_numpy(b.copy()).requires_grad_() for b in est.intercepts_]
    adam = torch.optim.Adam(weights + biases, lr=est.learning_rate_init, betas=(0.9, BETA_2), eps=est.epsilon)
    losses, least, best = [], np.inf, None

    def outputs(a):
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            a = F.selu(torch.addmm(b, a, W))
        return torch.addmm(biases[-1], a, weights[-1])

    for epoch in range(est.max_iter):
        adam.param_groups[0]["lr"] = est.learning_rate_init * wave((epoch + 0.5) / est.max_iter)
        total, order = 0.0, torch.from_numpy(draw.permutation(len(X)))
        for batch in order.split(est.batch_size):
            adam.zero_grad()
            loss = loss_of(outputs(X[batch]), Y[batch])
            loss.backward()
            adam.step()
            total += loss.item() * len(batch)
        losses.append(total / len(X))
        with torch.no_grad():
            judged = loss_of(outputs(held), targets).item()
            if judged <= least:
                least, best = judged, [parameter.clone() for parameter in weights + biases]
    assert best is not None
    return losses


def with_fastbp(recipe):
    recipe.train()
    return recipe.est.loss_curve_


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=NAMES, help="names of tables")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    lines, ratios = [], []
    for table in TABLES:
        if table.name not in options.only:
            continue
        make, times = prepared(table, options.epochs), {with_fastbp: [], with_torch: []}
        ours, theirs = (how(make())[0] for how in times)
        if not np.isclose(ours, theirs, rtol=TOLERANCE):
            raise SystemExit(f"{table.name}: losses differ, {ours} and {theirs}")
        for _ in range(options.rounds):
            for how, seconds in times.items():
                recipe = make()
                start = time.perf_counter()
                how(recipe)
                seconds.append((time.perf_counter() - start) / options.epochs)
        fast, slow = (np.median(seconds) for seconds in times.values())
        ratios.append(slow / fast)
        rows = len(make().rows.X)
        lines.append([table.name, f"{rows:,}", tables.microseconds(fast), tables.microseconds(slow), f"{slow / fast:.1f}"])
    print(tables.table(["table", "rows", "fastbp, us per epoch", "torch", "ratio"], lines))
    print(f"geometric mean of the ratios: {np.exp(np.mean(np.log(ratios))):.1f}")


if __name__ == "__main__":
    main()
