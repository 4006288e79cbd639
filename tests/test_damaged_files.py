"""Files that hold anything: each is refused with a ModelFileError, or is a model that predicts."""

import hashlib
import json
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_estimator_file import MODELS
from test_model_file import make_model

import fastbp
from fastbp import files, lessons
from fastbp.files import DIGITS, ModelFileError

KINDS = ("a network", "multiclass", "frame", "columns of text", "class weights", "validation", "lbfgs", "adaptive")
EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a sound file of each kind."""
    path = tmp_path_factory.mktemp("whole") / "file.npz"

    def saved(kind):
        if kind == "a network":
            lessons.save_model(path, make_model())
        else:
            MODELS[kind]().save(path)
        return path.read_bytes()

    return {kind: saved(kind) for kind in KINDS}


def is_refused(path, kind):
    """Whether loading raises a ModelFileError that names the file; what is loaded predicts, and other errors go through."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy on headers of arrays that are none
            loaded = lessons.load_model(path) if kind == "a network" else fastbp.load(path)
    except ModelFileError as error:
        return str(path) in str(error)
    features = len(loaded.feature_names) if kind == "a network" else loaded.n_features_in_
    with np.errstate(all="ignore"):
        assert len(loaded.predict(np.ones((4, features)))) == 4
    return False


def seal(content):
    """The same bytes with a checksum that fits: whoever damages a file on purpose can do that."""
    return content[:-DIGITS] + hashlib.sha256(content[:-DIGITS]).hexdigest().encode()


DAMAGES = st.sampled_from(["change", "cut", "insert", "remove", "exchange"])


@st.composite
def damages(draw, content):
    """A few bytes changed, taken out, put in or exchanged, or the file cut short."""
    for _ in range(draw(st.integers(1, 3))):
        kind, at = draw(DAMAGES), draw(st.integers(0, len(content) - 1))
        length = draw(st.sampled_from([1, 4, 8, 64]))
        if kind == "change":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 1 :]
        elif kind == "cut":
            content = content[: at + 1]
        elif kind == "insert":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at:]
        elif kind == "remove":
            content = content[:at] + content[at + min(length, len(content) - 1) :]
        else:
            other = draw(st.integers(0, at))
            one, two = content[at : at + length], content[other : other + length]
            content = content[:other] + one + content[other + length : at] + two + content[at + length :]
        content = content or b"x"
    return content


@EXAMPLES
@given(st.data(), st.sampled_from(KINDS), st.booleans())
def test_damaged_bytes(whole, tmp_path, data, kind, sealed):
    content = data.draw(damages(whole[kind]))
    (tmp_path / "file.npz").write_bytes(seal(content) if sealed else content)
    refused = is_refused(tmp_path / "file.npz", kind)
    assert refused or sealed or content == whole[kind]


def parts(value, place=()):
    """Where every part of a header is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*place, key)
        yield from parts(part, (*place, key))


WORDS = st.sampled_from(["", "a", "nan", "inf", "float32", "object", "softmax", "relu", "log_loss", "header", "coefs_.0"])
NUMBERS = st.sampled_from([0, 1, -1, 2, 3, 7, 10**6, 2**63, 10**400, 0.5, -1.5, 1e308])
PLAIN = st.one_of(st.none(), st.booleans(), WORDS, NUMBERS)
CODED = [st.builds(lambda content, kind=kind: {kind: content}, PLAIN | st.lists(PLAIN, max_size=2))
         for kind in ("float", "array", "scalar", "scalars", "tuple", "objects", "dict")]  # fmt: skip
ANYTHING = st.one_of(PLAIN, st.lists(PLAIN, max_size=3), *CODED)


@st.composite
def other_headers(draw, header):
    header = json.loads(json.dumps(header))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(list(parts(header))))
        part = header
        for key in way:
            part = part[key]
        if draw(st.booleans()):
            part[last] = draw(ANYTHING)
        else:
            del part[last]
    return header


TYPES = st.sampled_from(["f4", "f8", "f2", "i8", "i1", "u8", "?", "c16", ">f8", "U3", "S2", "M8[s]", "m8[D]"])
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (3, 4), (4, 3), (3, 0), (0, 3), (1, 1, 1), (10**9, 0), (0, 10**9)])


@st.composite
@np.errstate(all="ignore")  # nan as an integer, infinity times 0
def other_arrays(draw, arrays):
    arrays, names = dict(arrays), sorted(arrays)
    for _ in range(draw(st.integers(0, 2))):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        kind = draw(st.sampled_from(["swap", "type", "shape", "less", "transposed", "times"]))
        array = arrays[name]
        if kind == "swap":
            arrays[name], arrays[other] = arrays[other], array
        elif kind == "type" and array.dtype.kind in "fiub":
            arrays[name] = array.astype(draw(TYPES))
        elif kind == "shape":
            arrays[name] = np.zeros(draw(SHAPES), array.dtype)
        elif kind == "less" and array.ndim:
            arrays[name] = array[:-1]
        elif kind == "transposed":
            arrays[name] = array.T
        elif kind == "times" and array.dtype.kind == "f":
            arrays[name] = array * draw(st.sampled_from([np.nan, np.inf, 0, -1]))
    return arrays


@EXAMPLES
@given(st.data(), st.sampled_from(KINDS))
def test_other_contents(whole, tmp_path, data, kind):
    path = tmp_path / "file.npz"
    path.write_bytes(whole[kind])
    with np.load(path) as contents:
        arrays = dict(contents)
    header = json.loads(str(arrays.pop("header")))
    files.write(path, data.draw(other_headers(header)), data.draw(other_arrays(arrays)))
    is_refused(path, kind)


def test_a_small_file_never_asks_for_much(whole, tmp_path):
    path = tmp_path / "file.npz"
    path.write_bytes(whole["lbfgs"])
    with np.load(path) as contents:
        arrays = dict(contents)
    header = json.loads(str(arrays.pop("header")))
    for shape in [(10**9, 0), (10**9, 0, 10**9), (0, 10**9)]:
        header["state"]["loss_curve_"] = {"scalars": "many"}
        files.write(path, header, arrays | {"many": np.zeros(shape)})
        with pytest.raises(ModelFileError, match="many is damaged: 0 bytes for float64 of shape"):
            fastbp.load(path)
