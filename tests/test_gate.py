"""Whatever a kernel is given that it cannot rely on is an error that names the argument, before anything is read."""

import random

import numpy as np
import pytest
from cases import CASES, Case, with_indices

from fastbp import kernels
from fastbp.layout import CURSOR, PLACE, PLAN, RECORD
from fastbp.rule import RULE

NAMES = "layers", "params", "state", "X", "Y", "weights", "order", "batch_size", "rule", "blocks", "cursor", "record", "work"
WORK = "memory", "plan", "places", "table", "totals", "sync"
DRAWS = 12


def arguments(case, epochs=2):
    """What `kernels.train` takes for a case and so many epochs, and `kernels.forward` in part."""
    workspace = case.workspace()
    case.parameters(workspace.params)
    X, Y = case.rows()
    return {
        "layers": case.layout.layers,
        "params": workspace.params,
        "state": workspace.state,
        "X": X,
        "Y": Y,
        "weights": case.weights(),
        "order": case.order(),
        "batch_size": case.batch_size,
        "rule": case.rule,
        "blocks": epochs * workspace.blocks_per_epoch,
        "cursor": np.zeros(len(CURSOR), np.int64),
        "record": np.zeros((epochs, len(RECORD))),
        "work": workspace.arrays,
    }


def strided(array):
    """The same numbers, not side by side."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


def misaligned(array):
    """The same numbers, a byte beside where they should stand."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    copy = np.frombuffer(memory, array.dtype, array.size, offset=1).reshape(array.shape)
    copy[...] = array
    return copy


def frozen(array):
    copy = array.copy()
    copy.flags.writeable = False
    return copy


# Ways to be another array than a kernel relies on.
WRONGS = {
    "other numbers": lambda array: np.clip(array, -9, 9).astype({"f": "int64", "i": "float64"}[array.dtype.kind]),
    "other bytes": lambda array: array.astype(array.dtype.newbyteorder()),
    "strided": strided,
    "misaligned": misaligned,
    "a dimension more": lambda array: array[None],
    "fewer columns": lambda array: np.ascontiguousarray(array[..., :-1]),
    "more columns": lambda array: np.concatenate([array, array[..., -1:]], axis=-1),
    "fewer rows": lambda array: array[:-1],
    "a list": lambda array: array.tolist(),
    "nothing": lambda array: None,
}
WRITTEN = "params", "state", "cursor", "record"
ARRAYS = "layers", "params", "state", "X", "Y", "weights", "order", "rule", "cursor", "record"


def assert_refused(function, given, names, case):
    """The error begins with one of the names."""
    with pytest.raises(ValueError, match=f"^({names}).* must be ") as caught:
        function(**given)
    assert "got" in str(caught.value), case


# What the error may name: where two lengths do not go together, either may be the wrong one.
PARTNERS = {"layers": "layers|params|X|Y|out|work", "X": "X|Y|out|weights"}


def drawn_cases(number=DRAWS):
    return random.sample([case for case in CASES if not case.sparse and case.n_rows > 1], number)


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("name", ARRAYS)
def test_another_array_is_refused(name, wrong):
    for case in drawn_cases():
        right = arguments(case)
        array = right[name]
        if array.size < 2 or (name == "order" and wrong == "fewer rows"):  # of orders there are as many as are left
            continue
        assert_refused(kernels.train, right | {name: WRONGS[wrong](array)}, PARTNERS.get(name, name), case)


@pytest.mark.parametrize("name", WRITTEN)
def test_an_array_that_cannot_be_written_is_refused(name):
    for case in drawn_cases():
        right = arguments(case)
        if right[name].size:
            with pytest.raises(ValueError, match=name):
                kernels.train(**right | {name: frozen(right[name])})


def other_layers(column, change):
    def changed(right):
        layers = right["layers"].copy()
        layers[-1, column] += change
        return {"layers": layers}

    return changed


def other_rule(place, value):
    def changed(right):
        rule = right["rule"].copy()
        rule[place] = value
        return {"rule": rule}

    return changed


def other_cursor(place, value):
    def changed(right):
        cursor = right["cursor"].copy()
        cursor[place] = value
        return {"cursor": cursor}

    return changed


def replaced(place, value):
    def changed(array):
        array = array.copy()
        array[place] = value
        return array

    return changed


def other_work(place, change):
    def changed(right):
        work = list(right["work"])
        work[place] = change(work[place])
        return {"work": tuple(work)}

    return changed


def other_order(value):
    def changed(right):
        n_rows = len(right["X"])
        order = np.tile(np.arange(n_rows), (2, 1))
        order[1, n_rows // 2] = value(n_rows)
        return {"order": order}

    return changed


# What is wrong, and what the error names.
MISTAKES = {
    "a layer of more inputs": (other_layers(0, 1), "layers|X"),
    "a layer of more rows": (other_layers(1, 1), "layers"),
    "a layer of many more outputs": (other_layers(2, 1000), "layers"),
    "a layer elsewhere": (other_layers(3, 1 << 40), "layers"),
    "a layer before the first number": (other_layers(3, -(1 << 40)), "layers"),
    "an odd stride": (other_layers(4, 1), "layers"),
    "an unknown activation": (other_layers(5, 100), "layers"),
    "an unknown head": (other_rule(RULE.head, 100), "rule"),
    "half a head": (other_rule(RULE.head, 0.5), "rule"),
    "an unknown solver": (other_rule(RULE.solver, -1), "rule"),
    "nan for a solver": (other_rule(RULE.solver, np.nan), "rule"),
    "a dropout of 1": (other_rule(RULE.dropout, 1), "rule"),
    "a row beyond the last": (other_order(lambda n: n), "order"),
    "a row before the first": (other_order(lambda n: -1), "order"),
    "no batch": (lambda right: {"batch_size": 0}, "batch_size"),
    "a batch of more than all rows": (lambda right: {"batch_size": len(right["X"]) + 1}, "batch_size"),
    "a negative number of blocks": (lambda right: {"blocks": -1}, "blocks"),
    "more epochs than records": (lambda right: {"blocks": 2 * right["blocks"] + 1}, "record|order"),
    "a later epoch": (other_cursor(CURSOR.epoch, 1), "record|order"),
    "an epoch before the first": (other_cursor(CURSOR.epoch, -1), "cursor"),
    "a row of the cursor beyond the last": (other_cursor(CURSOR.row, 1 << 40), "cursor"),
    "a batch after its rows": (other_cursor(CURSOR.batch, 1), "cursor"),
    "a block before the first": (other_cursor(CURSOR.block, -1), "cursor"),
    "no rows": (
        lambda right: {name: right[name][:0] for name in ("X", "Y", "weights")} | {"order": right["order"][:, :0]},
        "batch_size",
    ),
    "less memory": (other_work(0, lambda memory: memory[: memory.size // 4]), "work|layers|X"),
    "a little less memory": (other_work(0, lambda memory: memory[: -64 // memory.itemsize]), "work|layers|X"),
    "memory of another type": (other_work(0, lambda memory: memory.astype(np.int32)), "work's memory"),
    "a shorter plan": (other_work(1, lambda plan: plan[:-1]), "work's plan"),
    "an unknown kernel": (other_work(1, lambda plan: np.concatenate([[7], plan[1:]])), "work's plan"),
    "more threads": (other_work(1, lambda plan: np.concatenate([plan[:1], [100], plan[2:]])), "work's plan"),
    "a plan of other threads' places before the first": (other_work(1, replaced(PLAN.private, -1)), "work's plan"),
    "places elsewhere": (other_work(2, lambda places: places + (1 << 40)), "layers"),
    "places of fewer layers": (other_work(2, lambda places: places[:-1]), "work's places"),
    "fewer numbers between threads": (other_work(5, lambda sync: sync[:16]), "work's sync"),
    "a part of the workspace": (lambda right: {"work": tuple(right["work"][:5])}, "work"),
    "the workspace of a smaller network": (
        lambda right: {"work": Case((1, 2, 1), 2, 1, dtype=str(right["params"].dtype)).workspace().arrays},
        "params|layers|work",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_number_is_refused(mistake):
    change, names = MISTAKES[mistake]
    for case in drawn_cases():
        right = arguments(case)
        before = right["params"].copy()
        assert_refused(kernels.train, right | change(right), names, case)
        assert right["params"].tobytes() == before.tobytes()


def test_what_is_right_passes_the_gate():
    for case in drawn_cases():
        right = arguments(case)
        kernels.train(**right)
        assert right["cursor"][CURSOR.epoch] == 2


def test_a_workspace_is_checked_for_every_kind_of_batch():
    """It is remembered what it was found to be right for."""
    case = Case((3, 5, 4), 2000, 900)
    right = arguments(case)
    kernels.train(**right | {"blocks": 1})
    fresh = {"cursor": np.zeros(len(CURSOR), np.int64), "batch_size": 2000, "blocks": 1}
    with pytest.raises(ValueError, match="batch_size"):
        kernels.train(**right | fresh)
    drops = {"rule": other_rule(RULE.dropout, 0.5)(right)["rule"], "cursor": np.zeros(len(CURSOR), np.int64)}
    with pytest.raises(ValueError, match="dropout"):
        kernels.train(**right | drops)
    with pytest.raises(ValueError, match="sync"):
        kernels.train(**right | {"cursor": np.zeros(len(CURSOR), np.int64)}, marked=True)
    with pytest.raises(ValueError, match="layers"):
        kernels.train(**right | other_layers(0, 1)(right))


def test_a_workspace_of_fewer_inputs_is_refused():
    """Layers of both networks have as many parameters, and no layer here has more outputs than there."""
    right = arguments(Case((6, 3, 3), 40, 13))
    others = Case((3, 6, 3), 40, 13).workspace().arrays
    with pytest.raises(ValueError, match="^layers must be those that the workspace was made for"):
        kernels.train(**right | {"work": others})


def test_a_workspace_for_fewer_rows_is_refused():
    """It keeps them, side by side, from epoch to epoch."""
    right, fewer = arguments(Case((3, 6, 3), 40, 13)), Case((3, 6, 3), 26, 13).workspace().arrays
    with pytest.raises(ValueError, match="^X must be of no more rows than this workspace was made for"):
        kernels.train(**right | {"work": fewer})


# Entries of a plan that say where, or how much.
USED = {
    "narrow": "block_rows columns direct grad panel panel_size n_partials private transposed zeros",
    "wide": "block_rows grad targets row_weights pack pack_size panels panel_rows sums zeros",
    "online": "block_rows grad targets zeros",
}


@pytest.mark.parametrize("kernel", USED)
def test_every_place_of_a_workspace_is_checked(kernel):
    case = Case((70, 60, 50), 400, 1 if kernel == "online" else 400, kernel=kernel, threads=2)
    right = arguments(case)
    for wrong in (-1, 1 << 40):
        for name in USED[kernel].split():
            given = right | other_work(1, replaced(getattr(PLAN, name), wrong))(right)
            assert_refused(kernels.train, given, "work's plan|layers", (name, wrong))
        for column in PLACE:
            if (kernel, column) not in {("narrow", PLACE.valid), ("online", PLACE.seen)}:
                given = right | other_work(2, replaced((1, column), wrong))(right)
                assert_refused(kernels.train, given, "layers", (column, wrong))


@pytest.mark.parametrize(("name", "wrong"), [("block_rows", 47), ("n_partials", 0), ("direct", 16), ("direct", 64)])
def test_plans_that_no_workspace_has_are_refused(name, wrong):
    right = arguments(Case((15, 2), 50, 40, shuffled=True, dtype="float32"))
    assert_refused(
        kernels.train, right | other_work(1, replaced(getattr(PLAN, name), wrong))(right), "work's plan|layers", name
    )


@pytest.mark.parametrize("batch_size", [16, 400])
def test_a_pack_without_room_is_refused(batch_size):
    """Factors are copied there, sums and bits stand there."""
    case = Case((70, 60, 50), 400, batch_size, kernel="wide")
    right = arguments(case)
    size = case.workspace().plan.pack_size
    for wrong in (0, size - 1):
        given = right | other_work(1, replaced(PLAN.pack_size, wrong))(right)
        assert_refused(kernels.train, given, "work's plan", wrong)


# --- sparse rows ------------------------------------------------------------------------------------------------------

SPARSE = Case((9, 5, 3), 40, 13, kernel="wide", sparse=True)


def part(name, change):
    def changed(X):
        setattr(X, name, change(getattr(X, name)))

    return changed


PARTIALS = {
    "data strided": part("data", strided),
    "indices strided": part("indices", strided),
    "indptr strided": part("indptr", strided),
    "data of another type": part("data", lambda array: array.astype(np.float32)),
    "fewer data": part("data", lambda array: array[:-1]),
    "fewer indices": part("indices", lambda array: array[:-1]),
    "fewer rows": part("indptr", lambda array: array[:-1]),
    "short indices": part("indices", lambda array: array.astype(np.int16)),
    "indices of two types": part("indptr", lambda array: array.astype(np.int64)),
    "a column beyond the last": part("indices", replaced(3, 9)),
    "a column before the first": part("indices", replaced(3, -1)),
    "a first row elsewhere": part("indptr", replaced(0, 1)),
    "a falling row": part("indptr", replaced(2, 1000)),
    "a last row beyond the values": part("indptr", replaced(-1, 1000)),
}


@pytest.mark.parametrize("wrong", PARTIALS)
def test_other_parts_of_a_sparse_matrix_are_refused(wrong):
    right, X = arguments(SPARSE), with_indices(SPARSE.rows()[0], "int32")
    kernels.train(**right | {"X": X})
    PARTIALS[wrong](X)
    out = np.empty((40, 3))
    with pytest.raises(ValueError, match=r"^X"):
        kernels.train(**right | {"X": X, "cursor": np.zeros(len(CURSOR), np.int64)})
    with pytest.raises(ValueError, match=r"^X"):
        kernels.forward(right["layers"], right["params"], X, out, right["rule"], right["work"])


def test_dense_rows_need_a_workspace_for_them():
    case = Case((300, 20, 3), 40, 13, kernel="wide", sparse=True)
    right = arguments(case)
    for work in (right["work"], tuple(right["work"])):
        kernels.train(**right | {"work": work, "cursor": np.zeros(len(CURSOR), np.int64)})
        dense = {"X": right["X"].toarray(), "work": work, "cursor": np.zeros(len(CURSOR), np.int64)}
        with pytest.raises(ValueError, match="^X must be sparse for this workspace"):
            kernels.train(**right | dense)


def test_other_sparse_matrices_are_refused():
    right = arguments(SPARSE)
    with pytest.raises(ValueError, match=r"^X must be an array or a CSR matrix"):
        kernels.train(**right | {"X": right["X"].tocsc()})
    with pytest.raises(ValueError, match=r"^X must be of 9 columns"):
        kernels.train(**right | {"X": right["X"][:, :8]})
    narrow = arguments(Case((9, 5, 3), 40, 13))
    with pytest.raises(ValueError, match="^X must be dense"):
        kernels.train(**narrow | {"X": right["X"]})


@pytest.mark.parametrize("name", ["layers", "params", "X", "out", "rule"])
@pytest.mark.parametrize("wrong", WRONGS)
def test_predictions_have_the_same_gate(name, wrong):
    for case in drawn_cases():
        if case.kernel == "online":
            continue
        case = Case(case.units, case.n_rows, case.n_rows, dtype=case.dtype, kernel=case.kernel)
        right = {one: value for one, value in arguments(case).items() if one in ("layers", "params", "X", "rule", "work")}
        right["out"] = np.zeros((case.n_rows, case.units[-1]), case.dtype)
        kernels.forward(**right)
        if right[name].size > 1 and (name, wrong) != ("X", "fewer rows"):
            assert_refused(kernels.forward, right | {name: WRONGS[wrong](right[name])}, PARTNERS.get(name, name), case)
