import json
import os
import zipfile

import numpy as np
import pytest

from fastbp import NeuralNetwork, files
from fastbp.files import ModelFileError
from fastbp.lessons import Model
from fastbp.lessons import load_model as load
from fastbp.lessons import save_model as save


def make_model(*, units=(3, 4, 3), bias=True, dtype="float64", classes=("a", "b", "c")):
    rng = np.random.default_rng(1)
    net = NeuralNetwork(units[0], units[1:-1], units[-1], bias=bias, dtype=dtype, random_state=1)
    names = tuple(f"feature {i}" for i in range(units[0]))
    return Model(net, names, "kind", classes, rng.normal(size=units[0]), rng.uniform(1, 2, units[0]), -3.0, 8.0)


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(20, 3))


def rewrite(path, header=None, **arrays):
    """Write a model file again with some of its header or arrays changed."""
    with np.load(path) as old:
        contents = dict(old)
    contents["header"] = np.array(json.dumps(json.loads(str(contents["header"])) | (header or {})))
    contents |= arrays
    contents = {name: array for name, array in contents.items() if array is not None}
    files.write(path, json.loads(str(contents.pop("header"))), contents)


def rewrite_unsealed(path, **header):
    """Write a model file again as numpy writes archives."""
    with np.load(path) as old:
        contents = dict(old)
    contents["header"] = np.array(json.dumps(json.loads(str(contents["header"])) | header))
    np.savez(path, **contents)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"bias": False},
        {"dtype": "float32"},
        {"units": (3, 1), "classes": ()},
        {"units": (3, 5, 2, 1), "classes": ("no", "yes")},
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path, rows, kind):
    model = make_model(**kind)
    save(tmp_path / "model.npz", model)
    again = load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    for ours, theirs in zip(again.net.weights + again.net.biases, model.net.weights + model.net.biases, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert len(again.net.biases) == len(model.net.biases)
    for name in ("feature_names", "target_name", "class_names", "target_low", "target_span"):
        assert getattr(again, name) == getattr(model, name)
    np.testing.assert_array_equal(again.input_mean, model.input_mean)
    np.testing.assert_array_equal(again.input_scale, model.input_scale)


def test_a_memory_beyond_floats_comes_back(tmp_path):
    net = NeuralNetwork(1, [], 1, out_activation="identity", solver="adam", dtype="float32", random_state=0)
    net.train([[1e10], [2e10]], [[1e12], [-3e12]], epochs=2, learning_rate=0.01)
    (_, ((squares,), _)), _ = net._moments
    assert np.isinf(squares).all()
    net.save(tmp_path / "model.npz")
    again = NeuralNetwork.load(tmp_path / "model.npz")
    for one in (net, again):
        one.train([[1.0], [2.0]], [[1.0], [0.0]], epochs=2, learning_rate=0.01)
    np.testing.assert_array_equal(again.weights[0], net.weights[0])
    np.testing.assert_array_equal(again.biases[0], net.biases[0])


def test_predictions_in_original_units(rows):
    model = make_model(units=(3, 2, 1), classes=())
    inputs = (rows - model.input_mean) / model.input_scale
    np.testing.assert_allclose(model.predict(rows), -3 + 8 * model.net.feedforward(inputs)[:, 0], rtol=1e-15)


def test_accuracy(rows):
    model = make_model()
    answers = model.predict(rows)
    assert set(answers) <= {"a", "b", "c"}
    assert model.accuracy(rows, answers) == 1
    assert model.accuracy(rows, np.where(answers == "a", "b", "a")) == 0


def test_targets_of_classes():
    assert make_model().targets(np.array(["c", "a"], object)).tolist() == [[0, 0, 1], [1, 0, 0]]
    classes = np.array(["yes", "no"], object)
    assert make_model(units=(3, 1), classes=("no", "yes")).targets(classes).tolist() == [[1], [0]]


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    save(path, make_model())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match=r"model\.npz"):
            load(path)


def test_every_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "model.npz"
    save(path, make_model())
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with pytest.raises(ModelFileError, match=r"model\.npz"):
            load(path)


def test_files_without_a_checksum_are_old_ones(tmp_path, rows):
    path = tmp_path / "model.npz"
    model = make_model()
    save(path, model)
    rewrite_unsealed(path)
    with pytest.raises(ModelFileError, match="4 without a checksum"):
        load(path)
    for version in (1, 2):
        rewrite_unsealed(path, format_version=version)
        np.testing.assert_array_equal(load(path).predict(rows), model.predict(rows))


@pytest.mark.parametrize("content", [b"", b"hello", b"a,b\n1,2\n", b"PK\x05\x06" + bytes(18), os.urandom(1000)])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "model.npz"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="is not a fastbp model file, or is damaged"):
        load(path)


def test_somebody_elses_arrays_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, weights_0=np.zeros(3))
    with pytest.raises(ModelFileError, match="is not a fastbp model file"):
        load(path)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = tmp_path / "model.npz"
    save(path, make_model())
    with np.load(path) as old:
        contents = dict(old) | {"weights_0": np.array([Trap()], dtype=object)}
    np.savez(path, **contents)
    with pytest.raises(ModelFileError):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": {"format": "cake"}}, "format .* got 'cake'"),
        ({"header": {"format_version": 5}}, "format_version must be at most 4, got 5"),
        ({"header": {"format_version": "new"}}, "format_version"),
        ({"header": {"units": [3, 4, 4]}}, r"weights_1 must be float64 of shape \(4, 4\), got float64 \(4, 3\)"),
        ({"header": {"units": [3]}}, "units"),
        ({"header": {"units": [3, 10**12, 3]}}, "weights_0"),
        ({"header": {"dtype": "float32"}}, "weights_0 must be float32"),
        ({"header": {"activation": "mystery"}}, "mystery"),
        ({"header": {"class_names": ["a"]}}, "class_names"),
        ({"header": {"feature_names": ["a"]}}, "feature_names"),
        ({"header": {"feature_names": "abc"}}, "feature_names .* got 'abc'"),
        ({"header": {"class_names": [1, 2, 3]}}, "class_names"),
        ({"header": {"target_name": None}}, "target_name"),
        ({"header": {"target_low": "nan"}}, "target_low"),
        ({"header": {"target_span": 10**400}}, "target_span"),
        ({"weights_0": np.full((3, 4), np.nan)}, "weights_0 must be finite"),
        ({"biases_1": None}, "biases_1"),
        ({"input_scale": np.array([1.0, 0.0, 1.0])}, "input_scale"),
        ({"input_mean": np.zeros(2)}, "input_mean"),
    ],
)
def test_contents_that_do_not_fit_are_refused(tmp_path, change, message):
    path = tmp_path / "model.npz"
    save(path, make_model())
    rewrite(path, **change)
    with pytest.raises(ModelFileError, match=message):
        load(path)


def test_compressed_members_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    save(path, make_model())
    with np.load(path) as old:
        contents = dict(old)
    np.savez_compressed(path, **contents)
    with pytest.raises(ModelFileError, match="must not be compressed"):
        load(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    save(path, make_model())
    before = path.read_bytes()

    def full_disk(stream, array, **options):
        stream.write(b"half a mod")
        raise OSError("No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(path, make_model(bias=False))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.npz"]


def test_a_link_keeps_pointing_at_the_file_it_names(tmp_path):
    save(tmp_path / "model.npz", make_model())
    (tmp_path / "latest.npz").symlink_to("model.npz")
    save(tmp_path / "latest.npz", make_model(bias=False))
    assert (tmp_path / "latest.npz").is_symlink()
    assert load(tmp_path / "model.npz").net.biases == []


def test_only_files_are_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="path must be a file, got .*folder"):
        save(tmp_path / "folder", make_model())


def test_the_file_is_a_plain_archive(tmp_path):
    save(tmp_path / "model.npz", make_model(bias=False))
    with zipfile.ZipFile(tmp_path / "model.npz") as archive:
        assert archive.testzip() is None
        names = {"header.npy", "weights_0.npy", "weights_1.npy", "input_mean.npy", "input_scale.npy"}
        assert set(archive.namelist()) == names


@pytest.mark.parametrize(("name", "value"), [
    ("dropout_seed", "x"), ("dropout_seed", -1), ("dropout_seed", 1.5), ("dropout_seed", 2**32), ("steps", 2**63),
])  # fmt: skip
def test_numbers_beyond_what_training_takes_are_refused(tmp_path, name, value):
    net = NeuralNetwork(3, 2, 1, solver="adam", dropout=0.1, random_state=0)
    net.train(np.ones((2, 3)), np.ones(2), 1)
    net.save(tmp_path / "model.npz")
    rewrite(tmp_path / "model.npz", {name: value})
    with pytest.raises(ModelFileError, match=name):
        NeuralNetwork.load(tmp_path / "model.npz")
