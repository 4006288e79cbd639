import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

from fastbp.datasets import NAMES, TableFile, load_named, load_table

FLOWERS = "length,width,species\n" + "".join(f"{i},{2 * i}.5,{'rose' if i % 2 else 'iris'}\n" for i in range(10))


@pytest.fixture
def write(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_xor_is_the_truth_table():
    xor = load_named("xor")
    assert xor.X_train.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert xor.y_train.tolist() == ["0", "1", "1", "0"]
    assert len(xor.X_test) == len(xor.y_test) == 0


def test_iris_is_split_as_the_founding_network_was():
    X, y = load_iris(return_X_y=True)
    iris = load_named("iris")
    expected = train_test_split(X, np.array(["setosa", "versicolor", "virginica"])[y], test_size=20, random_state=4)
    for ours, theirs in zip((iris.X_train, iris.X_test, iris.y_train, iris.y_test), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_data_set_is_complete(name):
    data = load_named(name)
    assert data.X_train.shape == (len(data.y_train), len(data.feature_names))
    assert data.X_test.shape == (len(data.y_test), len(data.feature_names))
    if data.class_names:
        assert set(data.y_train) == set(data.class_names)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="name must be one of xor, iris.* got 'mnist'"):
        load_named("mnist")


def test_csv_with_text_labels(write):
    data = load_table(write(FLOWERS), "species")
    assert data.feature_names == ("length", "width")
    assert data.class_names == ("iris", "rose")
    assert len(data.X_train) == 8
    assert len(data.X_test) == 2
    for X, y in ((data.X_train, data.y_train), (data.X_test, data.y_test)):
        np.testing.assert_array_equal(X["width"], 2 * X["length"] + 0.5)
        np.testing.assert_array_equal(y, np.where(X["length"] % 2, "rose", "iris"))


@pytest.mark.parametrize("separator", [";", "\t", " , "])
def test_csv_with_other_separators_a_mark_and_windows_lines(write, separator):
    text = "\ufeff" + FLOWERS.replace(",", separator).replace("\n", "\r\n") + "\r\n"
    data = load_table(write(text), "species")
    plain = load_table(write(FLOWERS), "species")
    np.testing.assert_array_equal(data.X_train, plain.X_train)
    assert data.feature_names == plain.feature_names


def test_csv_without_a_header_numbers_its_columns(write):
    table = TableFile(write("5.1,3.5,setosa\n4.9,3.0,setosa\n")).read()
    assert list(table.frame.columns) == ["0", "1", "2"]
    assert not table.has_header
    assert len(table.frame) == 2


def test_a_header_of_numbers_is_known_by_the_target(write):
    table = TableFile(write("2019,2020\n1,2\n")).read(expected=("2020",))
    assert list(table.frame.columns) == ["2019", "2020"]
    assert len(table.frame) == 1


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b", "a"], ("a", "b")),
        (["10", "9", "9", "10"], ("9", "10")),
        (["1", "1.0", "2", "2"], ("1", "2")),
        (["0.5", "1.5", "0.5", "1.5"], ()),
        (["1", "2", "3", "4"], ()),
        (["none", "1", "1", "none"], ("1", "none")),
    ],
)
def test_class_labels_are_told_from_numbers(write, labels, classes):
    path = write("x,y\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    assert load_table(path, "y").class_names == classes


def test_the_task_can_be_forced(write):
    path = write("x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(10)))
    assert load_table(path, "y", "regression").class_names == ()
    path = write("x,y\n" + "".join(f"{i},{i}\n" for i in range(10)))
    assert len(load_table(path, "y", "classification").class_names) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("x,y\n", "has a header but no rows"),
        ("x,y\n1,2\n", "must have at least 2 rows"),
        ("y\na\nb\n", "no column but the target 'y'"),
        ("x,z\n1,2\n3,4\n", r"target must be a column of .* \(x, z\), got 'y'"),
        ("x,x,y\n1,2,3\n4,5,6\n", "two columns called 'x'"),
        ("x,y\n1,2\n3\n", "line 3 has 1 cells, expected 2"),
        ("x,y\n1,a\ninf,b\n", "line 3, column 'x': expected a finite number of at most 1e\\+150, got inf"),
        ("x,y\n1,a\n2,\n", "at least 2 rows whose 'y' is known, got 1"),
        ("x,y\n1,a\n2,a\n", "same value in every row: 'a'"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is not a CSV file"),
    ],
)
def test_bad_csv_is_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_table(write(text), "y")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        load_table(tmp_path / "none.csv", "y")
