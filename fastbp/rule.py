"""What one optimiser step computes, as the numbers that a kernel is given.

Codes are places in the tuples below; `pointwise`, `losses` and `solvers` in `fastbp.kernels` hold the functions in the same
order.
"""

from dataclasses import dataclass

import numpy as np

from fastbp.layout import positions

# Of hidden layers.
ACTIVATIONS = ("identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "selu")
# What an output layer can be together with a loss; the first loss of an activation is the one that goes with every one.
HEADS = (
    ("logistic", "squared_error"),
    ("identity", "squared_error"),
    ("exp", "squared_error"),
    ("logistic", "log_loss"),
    ("exp", "poisson"),
    ("identity", "absolute_error"),
    ("logistic", "clipped_log_loss"),
    ("softmax", "squared_error"),
    ("softmax", "log_loss"),
    ("softmax", "clipped_log_loss"),
)
OUT_ACTIVATIONS = tuple(dict.fromkeys(activation for activation, _ in HEADS))
LOSSES = tuple(dict.fromkeys(loss for _, loss in HEADS))
# The first one leaves the gradient where it is and changes no weight.
SOLVERS = ("gradient_only", "sgd", "momentum", "nesterov", "adam")
MOMENTS = (0, 0, 1, 1, 2)  # values that a solver remembers per weight

# Entries of a rule's numbers.
RULE = positions("head solver learning_rate momentum beta_2 epsilon alpha max_norm dropout seed per_row by_rows")


@dataclass
class Rule:
    """Loss, solver and regularisation, as parameters of `fastbp.NeuralNetwork`."""

    out_activation: str = "logistic"
    loss: str = "squared_error"
    solver: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9  # beta_1 of "adam"
    beta_2: float = 0.999
    epsilon: float = 1e-8
    alpha: float = 0.0
    max_norm: float = np.inf  # which leaves all gradients as they are
    dropout: float = 0.0
    seed: int = 0  # of the dropout masks, 0 to 2**32 - 1
    # "sum", or the loss of a batch is divided by the batch's weight ("row"), times the number of outputs ("mean"). In the
    # record of an epoch a batch then counts with its weight ("mean"), or with its number of rows ("row").
    reduction: str = "sum"

    @property
    def moments(self):
        """How many values the solver remembers per weight."""
        return MOMENTS[SOLVERS.index(self.solver)]

    def values(self, n_out):
        """The rule as a tuple of numbers in the order of `RULE`, for a network with `n_out` outputs."""
        head, solver = HEADS.index((self.out_activation, self.loss)), SOLVERS.index(self.solver)
        per_row, by_rows = {"sum": 0, "mean": n_out, "row": 1}[self.reduction], self.reduction == "row"
        return (
            head, solver, self.learning_rate, self.momentum, self.beta_2, self.epsilon, self.alpha, self.max_norm,
            self.dropout, self.seed, per_row, by_rows,
        )  # fmt: skip

    def numbers(self, n_out):
        """The same as a float64 array."""
        return np.array(self.values(n_out), np.float64)
