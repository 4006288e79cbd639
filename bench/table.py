"""The table of everything that is measured: each `Case` is one bench."""

from dataclasses import dataclass

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Case:
    """One implementation of one thing to do.

    Cases that differ in `implementation` alone do the same and stand side by side. `quick` ones are measured with --quick.
    """

    kind: str
    subject: str
    implementation: str
    dtype: str = "float64"
    batch: int = 0
    rows: int = 0
    threads: int = 1
    quick: bool = False

    @property
    def units(self):
        """Layer sizes, where the subject begins with a network."""
        return tuple(map(int, self.subject.split()[0].split("-")))

    @property
    def group(self):
        words = [f"{self.kind}: {self.subject}"] + [f"batch {self.batch}"] * bool(self.batch)
        return ", ".join([*words, f"{self.rows:,} rows", self.dtype] if self.rows else [*words, self.dtype])

    def __str__(self):
        sizes = [f"{self.batch}x{self.rows}"] * bool(self.rows)
        return "-".join([self.kind, self.subject, *sizes, self.dtype, self.implementation]).replace(" ", "_")


def side_by_side(implementations, quick=(), **case):
    """A case for each implementation; `quick` names those that a quick run measures."""
    return [Case(implementation=name, quick=name in quick, **case) for name in implementations]


COMPILED = ("torch", "jax")

FUNCTIONS = ("logistic", "tanh", "relu", "leaky_relu", "elu", "softplus", "selu", "exp", "log")
ELEMENTS = 65_536  # in and out stay in the L2 cache, and a call's own cost is a tenth
POINTWISE = [
    case
    for dtype in DTYPES
    for name in FUNCTIONS
    for case in side_by_side(
        ("fastbp", "reference", *COMPILED),
        ("fastbp", "reference") if name in ("logistic", "tanh") else (),
        kind="pointwise", subject=name, dtype=dtype, rows=ELEMENTS,
    )
]  # fmt: skip

# A small and a middling network, a batch at a time.
STEPS = [
    case
    for dtype in DTYPES
    for subject, batch in (("4-8-3", 16), ("64-100-10", 200))
    for solver in ("sgd", "momentum", "nesterov", "adam")
    for case in side_by_side(
        ("fastbp", "reference", "scikit-learn", *COMPILED),
        ("fastbp", "scikit-learn") if solver == "adam" else (),
        kind="step", subject=f"{subject} {solver}", dtype=dtype, batch=batch, rows=batch,
    )
]  # fmt: skip

# units and, where it is not logistic, what the hidden ones are; batch, rows of the data
NETWORKS = [
    ("2-4-1", 4, 4),
    ("20-16-1", 1, 64),
    ("4-2-3", 130, 130),
    ("784-30-10", 10, 1000),
    ("20-64-64-1", 64, 640),
    ("64-100-10", 200, 2000),
    ("784-128-10", 128, 1280),
    ("784-512-512-10", 256, 1024),
    ("784-128-10 relu", 128, 1280),
    ("784-512-512-10 relu", 256, 1024),
]
FOR_TWO_CORES = NETWORKS[3:]
QUICK_NETWORKS = ("2-4-1", "784-30-10", "64-100-10")
EPOCHS = [
    case
    for dtype in DTYPES
    for subject, batch, rows in NETWORKS
    for two, names in ((False, ("fastbp", "numpy", "reference", "scikit-learn", *COMPILED)), (True, ("fastbp n_jobs=2",)))
    if not two or (subject, batch, rows) in FOR_TWO_CORES
    for case in side_by_side(
        names,
        ("fastbp", "numpy", "scikit-learn") if subject in QUICK_NETWORKS else (),
        kind="epoch", subject=subject, dtype=dtype, batch=batch, rows=rows, threads=1 + two,
    )
]  # fmt: skip

FOUNDING = [
    case
    for subject, rows in (("xor", 4), ("iris", 130))
    for dtype, names in (("float64", ("numpy", "fastbp")), ("float32", ("fastbp",)))
    for case in side_by_side(names, names, kind="founding", subject=subject, dtype=dtype, batch=rows, rows=rows)
]

MEMBERS = [
    case
    for subject, batch, rows in (("2-4-1", 4, 4), ("20-16-1", 1, 1000), ("4-2-3", 10, 130), ("8-16-16-1", 8, 256))
    for dtype in DTYPES
    for threads, names in ((1, ("fastbp", "one by one", "jax")), (2, ("fastbp n_jobs=2",)))
    for case in side_by_side(
        names,
        names[:2] if (subject, threads) == ("2-4-1", 1) else (),
        kind="members", subject=subject, dtype=dtype, batch=batch, rows=rows, threads=threads,
    )
]  # fmt: skip

# data set and rows; "sparse" is a CSR matrix
DATA_SETS = {"iris": 150, "wine": 178, "diabetes": 442, "breast_cancer": 569, "digits": 1797, "sparse": 20_000}
FITS = [
    case
    for dtype in DTYPES
    for subject, rows in DATA_SETS.items()
    for case in side_by_side(
        ("fastbp", "scikit-learn"),
        ("fastbp", "scikit-learn") if subject in ("iris", "diabetes") else (),
        kind="fit", subject=subject, dtype=dtype, batch=min(200, rows), rows=rows,
    )
]  # fmt: skip

FASHION = side_by_side(
    ("fastbp", "scikit-learn", *COMPILED), ("fastbp",),
    kind="fashion", subject="784-128-10", dtype="float32", batch=128, rows=60_000,
)  # fmt: skip

PREDICTIONS = [
    case
    for dtype in DTYPES
    for rows in (1, 100_000)
    for case in side_by_side(
        ("fastbp", "reference", "scikit-learn", *COMPILED),
        ("fastbp", "scikit-learn"),
        kind="predict", subject="64-100-10", dtype=dtype, rows=rows,
    )
]  # fmt: skip

# A whole process each, from start to end.
START_UP = [
    *side_by_side(("python", "fastbp", "numpy", "scikit-learn", *COMPILED), ("fastbp",), kind="start-up", subject="import"),
    *side_by_side(("fastbp", "scikit-learn"), kind="start-up", subject="first fit"),
    *side_by_side(("fastbp",), kind="start-up", subject="first fit, empty cache"),
]

CASES = [*POINTWISE, *STEPS, *EPOCHS, *FOUNDING, *MEMBERS, *FITS, *FASHION, *PREDICTIONS, *START_UP]
