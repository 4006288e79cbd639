"""Files as people have them, through the command line."""

import bz2
import gzip
import json
import lzma
import os
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import draws
import numpy as np
import pytest

import fastbp
from fastbp import cli
from fastbp.datasets import TableFile, load_table


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train(run):
    """Train on a text for an epoch; the report, with what was said on standard error."""

    def train(text, target, *options, name="table.csv", epochs=1):
        content = text if isinstance(text, bytes) else text.encode()
        Path(name).write_bytes(content)
        status, out, err = run("train", name, "--target", target, "--epochs", epochs, "--save", "m.npz", "--json", *options)
        assert status == 0, err
        return json.loads(out) | {"err": err}

    return train


@pytest.fixture
def refused(run):
    """Try to train on a text; the error, which is one line."""

    def refused(text, target, *options):
        Path("table.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        status, out, err = run("train", "table.csv", "--target", target, "--epochs", 1, *options)
        assert (status, out) == (2, "")
        *notes, error = err.splitlines()
        assert error.startswith("fastbp: error: ")
        assert all(note.startswith("fastbp: warning: ") for note in notes)
        return error

    return refused


@pytest.fixture
def predict(run):
    """Predictions for a text by the model that was trained last."""

    def predict(text, *options):
        Path("rows.csv").write_text(text, encoding="utf-8")
        status, out, err = run("predict", "m.npz", "rows.csv", *options)
        assert status == 0, err
        return out.splitlines()

    return predict


def rows_of(report):
    return report["train_rows"] + report["test_rows"]


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


# ---- header ----------------------------------------------------------------------------------------------------------

KINDS = lines(*[f"{i / 8},{i % 7},{('red', 'blue')[i % 2]}" for i in range(1, 41)])


def test_a_file_without_a_header_is_predicted_by_one_without(train, predict):
    report = train("0,0,0\n0,1,0\n1,0,1\n1,1,0\n" * 10, "2", epochs=200)
    assert rows_of(report) == 40
    assert predict("1,0\n1,0\n1,0\n0,1\n") == ["1", "1", "1", "0"]
    assert predict("0,1\n1,0\n") == ["0", "1"]
    assert predict("0\n1\n".replace("\n", ",0\n")) == ["0", "1"]


def test_numbers_in_the_first_line_are_no_names(train):
    report = train("5,4,1,0,2\n" + lines(*[f"{i},{i * 2},{i % 3},1,{i % 5 + 0.5}" for i in range(40)]), "4")
    assert (rows_of(report), report["units"][0]) == (41, 4)


@pytest.mark.draw(3)
@pytest.mark.parametrize(
    ("first", "target", "options", "names", "rows"),
    [
        ("0,1,2\n", "2", [], "0,1,2", 40),
        ("0,1,2\n", "2", ["--no-header"], None, 41),
        ("1,0,2\n", "2", ["--no-header"], None, 41),
        ("2019,2020,kind\n", "kind", [], "2019,2020,kind", 40),
        ("2019,2020,2021\n", "2021", [], "2019,2020,2021", 40),
        ("2,1,0\n", "2", ["--header"], "2,1,0", 40),
        ("size,2,kind\n", "kind", [], "size,2,kind", 40),
        ("NA,3,red\n", "2", [], None, 41),
        ("?,3,red\n", "2", [], None, 41),
        (",3,red\n", "2", [], None, 41),
        ("<0.5,3,red\n", "2", [], None, 41),
        ('"si\nze","n, all",kind\n', "kind", [], '"si\nze","n, all",kind', 40),
        ("\n\nsize,n,kind\n", "kind", [], "size,n,kind", 40),
        ("kind,kind 2,x y\n", "x y", [], "kind,kind 2,x y", 40),
        ("", "2", [], None, 40),
    ],
)
def test_headers(train, predict, first, target, options, names, rows):
    report = train(first + KINDS, target, *options)
    assert rows_of(report) == rows
    # the model knows it, so that its own file has as many rows
    text = Path("table.csv").read_text()
    assert len(predict(text)) == rows
    assert len(predict((f"{names}\n" if names else "") + KINDS)) == 40


def test_words_that_come_again_are_no_header(train, refused):
    words = lines(*[f"{('a', 'b')[i % 2]},{('x', 'y', 'z')[i % 3]},{('yes', 'no')[i % 2]}" for i in range(40)])
    assert rows_of(train(words, "2")) == 40
    assert rows_of(train("letter,word,answer\n" + words, "answer")) == 40
    assert "got '2'; --no-header, if its first line is a row" in refused("letter,word,answer\n" + words, "2")
    assert "got 'anser': did you mean 'answer'?" in refused("letter,word,answer\n" + words, "anser")


def test_a_file_with_a_header_is_predicted_by_one_without(train, predict):
    train("kind,size,n\n" + lines(*[f"{('red', 'blue')[i % 2]},{(i % 2) * 5 + i / 100},{i % 7}" for i in range(40)]), "kind",
          epochs=200)  # fmt: skip
    # without the target, with it, and in another order with names
    assert predict("5.1,3\n0.1,3\n") == ["blue", "red"]
    assert predict("?,5.1,3\n?,0.1,3\n") == ["blue", "red"]
    assert predict("n,more,size\n3,1,5.1\n3,1,0.1\n") == ["blue", "red"]


# ---- missing ---------------------------------------------------------------------------------------------------------


def values(cell, n=40):
    """A table with one odd cell, on line 6, in its numeric target."""
    return "x,y\n" + lines(*[f"{i % 9},{cell if i == 4 else i * 1.5}" for i in range(n)])


@pytest.mark.draw(3)
@pytest.mark.parametrize("cell", ["NA", "nan", "NaN", "n/a", "", "NULL", "None", '""', "#N/A", " NA ", "<NA>"])
def test_missing_targets_are_left_out(train, cell):
    report = train(values(cell), "y")
    assert (report["task"], rows_of(report)) == ("regression", 39)
    assert report["err"] == "fastbp: warning: 1 of 40 rows are left out, because 'y' is missing there\n"
    assert train(values(cell), "y", "--task", "regression")["task"] == "regression"


@pytest.mark.parametrize("cell", ["?", "-", "<1.0", "inf", "1e999", "1_5", "١٢", "1e200", "unknown", "12 kg", "0x10", "--"])
@pytest.mark.parametrize("task", [(), ("--task", "regression")])
def test_odd_targets_are_named(refused, cell, task):
    error = refused(values(cell), "y", *task)
    assert f"table.csv line 6, column 'y': expected a finite number of at most 1e+150, got {cell!r}" in error
    assert ("--task classification" in error) == (task == ())


def test_the_line_is_right_behind_blank_lines_and_cells_with_line_ends(refused):
    text = 'sep=;\n"a\nb";y\n\n"1\n2";1\n\n\n' + lines(*[f"{i};{i}.5" for i in range(30)]) + "4;?\n"
    assert "line 39, column 'y'" in refused(text, "y")


@pytest.mark.parametrize("word", ["NA", "nan", "", "null", " ", "N/A"])
def test_missing_features_are_imputed(train, predict, word):
    text = "x,colour,flag,y\n" + lines(
        *[
            f"{word if i % 10 == 3 else i % 4 + 0.5},{word if i % 10 == 7 else 'rgb'[i % 3]},"
            f"{word if i % 10 == 5 else i % 2 == 0},{i % 2}"
            for i in range(60)
        ]
    )
    report = train(text, "y")
    assert report["columns"] == {"number": 1, "category": 1, "boolean": 1}
    assert report["units"][0] == 1 + 3 + 1
    assert report["err"] == ""
    assert len(predict(f"x,colour,flag\n{word},r,True\n1,{word},False\n{word},{word},{word}\n")) == 3


def test_missing_numbers_are_the_median_and_unknown_categories_nothing(train, predict):
    text = "x,colour,y\n" + lines(*[f"{i % 5},{'rgb'[i % 3]},{i % 5 + i % 3}" for i in range(90)])
    train(text, "y", "--task", "regression", epochs=30)
    assert predict("x,colour\n,r\n") == predict("x,colour\n2,r\n")
    assert predict("x,colour\n1,\n") == predict("x,colour\n1,mauve\n") != predict("x,colour\n1,r\n")


def test_words_among_numbers_are_missing_ones(train, predict, run):
    text = "power,y\n" + lines(*[f"{'?' if i % 20 == 7 else i % 9},{i % 2}" for i in range(100)])
    report = train(text, "y")
    assert report["columns"] == {"number": 1}
    assert "column 'power' holds numbers: what else stands there is taken for missing, '?' in " in report["err"]
    assert len(predict("power\n?\n3\n")) == 2
    Path("bad.csv").write_text("power\n3\nmuch\n")
    assert run("predict", "m.npz", "bad.csv") == (
        2, "", "fastbp: error: bad.csv line 3, column 'power': expected a finite number of at most 1e+150, got 'much'\n",
    )  # fmt: skip


def test_columns_without_values_are_left_out(train, predict):
    report = train("x,empty,y\n" + lines(*[f"{i % 9},,{i % 2}" for i in range(40)]), "y")
    assert report["left_out"] == {"empty": "has no values"}
    assert "column 'empty' is left out" in report["err"]
    assert len(predict("x\n1\n2\n")) == 2


def test_question_marks_are_predicted(train, run):
    train("x,y\n" + lines(*[f"{i % 9},{'ab'[i % 2]}" for i in range(40)]), "y")
    Path("new.csv").write_text("x,y\n1,?\n2,?\n3,\n")
    status, out, err = run("predict", "m.npz", "new.csv")
    assert (status, len(out.splitlines()), err) == (0, 3, "")
    Path("new.csv").write_text("x,y\n1,?\n2,c\n")
    assert run("predict", "m.npz", "new.csv")[2] == "accuracy 0.000 on 1 rows\n"


def test_one_row_has_no_r2(train, run):
    train(values(3.0), "y")
    Path("one.csv").write_text("x,y\n1,2\n")
    status, out, err = run("predict", "m.npz", "one.csv")
    assert (status, len(out.splitlines())) == (0, 1)
    assert [line.split()[0] for line in err.splitlines()] == ["R2", "RMSE", "MAE"]
    assert err.startswith("R2 undefined on 1 rows\n")
    assert json.loads(run("predict", "m.npz", "one.csv", "--json")[1])["r2"] is None
    Path("one.csv").write_text("x,y\n1,?\n")
    assert run("predict", "m.npz", "one.csv")[2] == ""


# ---- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.no_cover
@pytest.mark.draw(3)
@pytest.mark.parametrize(
    "labels",
    [
        ["02139", "10001"],
        ["007", "07", "7"],
        ["1_2", "12"],
        ["1e1", "10", "20"],
        ["12345678901234567", "12345678901234568"],
        ["٣", "3"],
        ["True", "False"],
        ["1e308", "2e307"],
        ["5%", "10%", "25%"],
        ["$5", "$10"],
        ["1.5.2020", "x"],
        ["rouge, noir", "bleu"],
        ['say ""so""', "no"],
        ["none", "some"],
        ["-1", "1"],
        ["<1", ">=1"],
        ["café", "naïve", "日本"],
        ["+1", "1"],
        ["1.0", "2.0"],
    ],
)
def test_labels_stay_what_they_were(train, run, labels):
    quoted = [f'"{label}"' for label in labels]
    text = "x,y\n" + lines(*[f"{i % len(labels)},{quoted[i % len(labels)]}" for i in range(30 * len(labels))])
    report = train(text, "y", epochs=300)
    assert report["task"] == "classification"
    out = run("predict", "m.npz", "table.csv", "--json")[1]
    written = [label.replace('""', '"') for label in labels]
    assert json.loads(out)["predictions"] == written * 30
    assert json.loads(out)["accuracy"] == 1


def test_spellings_of_a_whole_number_are_one_class(train, predict):
    train("x,y\n" + "0,1\n0,1.0\n1,2.00\n1,2\n" * 10, "y", epochs=300)
    assert predict("x\n0\n1\n") == ["1", "2"]


@pytest.mark.parametrize(
    ("spell", "advice"),
    [
        (lambda i: f'"{i},7"', "--decimal ,"),
        (lambda i: f'"1,{i + 100}"', "take it out"),
        (lambda i: f"${i}.5", "take the signs out"),
        (lambda i: f"{i}%", "take the signs out"),
        (lambda i: f"{i} €", "take the signs out"),
        (lambda i: f"id{i}", "ids"),
        (lambda i: f"{i:05}", "ids"),
        (lambda i: f"{10**16 + i}", "ids"),
        (lambda i: f"Mr. {i} Smith", "ids"),
        (lambda i: f"1_{i + 100}", "take the signs out"),
    ],
)
def test_a_class_for_every_row_is_refused(refused, train, spell, advice):
    text = "x,y\n" + lines(*[f"{i % 9},{spell(i)}" for i in range(40)])
    error = refused(text, "y")
    assert advice in error
    assert "--task classification" in error
    assert train(text, "y", "--task", "classification")["units"][-1] == 40


def test_decimal_commas_can_be_said(train, predict, run):
    text = "x;y\n" + lines(*[f"{i % 9},5;{i},25" for i in range(60)])
    report = train(text, "y", "--decimal", ",", epochs=1)
    assert (report["task"], report["columns"]) == ("regression", {"number": 1})
    (predicted,) = predict("x;y\n1,5;3,25\n")
    assert run("predict", "m.npz", "rows.csv")[2].endswith(f"MAE {abs(float(predicted) - 3.25):.3f} on 1 rows\n")
    # where there is but one column, commas separate nothing
    assert len(predict("x\n1,5\n")) == 1


@pytest.mark.parametrize(("spell", "advice"), [(lambda i: f'"{i},7"', "--decimal ,"), (lambda i: f"${i}", "take the signs")])
def test_numbers_in_disguise_are_no_categories(refused, spell, advice):
    error = refused("x,y\n" + lines(*[f"{spell(i)},{i % 2}" for i in range(40)]), "y")
    assert "column 'x'" in error
    assert advice in error


@pytest.mark.draw(3)
@pytest.mark.parametrize(
    "spell",
    [
        lambda i: f"2020-01-{i % 28 + 1:02}",
        lambda i: f"{i % 28 + 1}.3.2020",
        lambda i: f"3/{i % 28 + 1}/20",
        lambda i: f"2020-01-{i % 28 + 1:02} 12:30",
        lambda i: f"2020-01-{i % 28 + 1:02}T12:30:00Z",
        lambda i: f"{i % 24}:30",
        lambda i: f"Jan {i % 28 + 1} 2020",
        lambda i: f"{i % 28 + 1} March 2020",
    ],
)
def test_dates_are_refused_with_advice(refused, train, spell):
    text = "when,x,y\n" + lines(*[f"{spell(i)},{i % 5},{i % 2}" for i in range(40)])
    error = refused(text, "y")
    assert "column 'when' holds dates or times" in error
    assert "--ignore when" in error
    assert train(text, "y", "--ignore", "when,when", "--ignore", "y")["units"][0] == 1


def test_ids_are_named_and_left_out(train, predict):
    report = train(
        ",rownames,PassengerId,name,x,y\n" + lines(*[f"{i},{i + 1},{900 - i},Mr. {i},{i % 5},{i % 2}" for i in range(40)]),
        "y",
    )
    assert set(report["left_out"]) == {"Unnamed: 0", "rownames", "PassengerId", "name"}
    for name in report["left_out"]:
        assert f"column {name!r} is left out" in report["err"]
    assert len(predict("x\n1\n2\n")) == 2
    assert len(predict(Path("table.csv").read_text())) == 40


def test_rare_classes_are_on_both_sides(train):
    report = train("x,y\n" + lines(*[f"{i % 9},{'rare' if i < 3 else 'often'}" for i in range(200)]), "y")
    assert report["baseline_accuracy"] == 39 / 40
    # one of a kind is there to learn from
    report = train("x,y\n" + lines(*[f"{i % 9},{'once' if i < 1 else 'ab'[i % 2]}" for i in range(200)]), "y")
    assert report["units"][-1] == 3


@pytest.mark.parametrize("y", ["1e300", "1e308"])
def test_numbers_that_overflow_are_refused(refused, y):
    assert "line 2, column 'y'" in refused("x,y\n" + lines(*[f"{i % 9},{float(y) * (1 - i / 100)}" for i in range(40)]), "y")
    assert "line 2, column 'x'" in refused("x,y\n" + lines(*[f"{float(y) * (1 - i / 100)},{i % 2}" for i in range(40)]), "y")


def test_a_target_that_varies_in_test_rows_only_is_refused(refused):
    from fastbp.datasets import held_out

    varies = int(np.flatnonzero(held_out(0.2, 40))[0])
    text = "x,y\n" + lines(*[f"{i % 9},{1.5 + (i == varies)}" for i in range(40)])
    assert "same value in every training row" in refused(text, "y")


def test_constant_columns_do_not_hide_the_others(train, predict):
    # 14.62 everywhere, whose mean is not quite 14.62, then 14.63
    train("c,x,y\n" + lines(*[f"14.62,{i % 9},{i % 9 * 3 + 0.5}" for i in range(90)]), "y", epochs=50)
    predicted = np.array(predict("c,x\n14.63,1\n14.63,7\n"), float)
    np.testing.assert_allclose(predicted, [3.5, 21.5], atol=3)


# ---- separators and encodings ----------------------------------------------------------------------------------------

CITIES = lines("length,width,city", *[f"{i % 9}.5,{i % 4},{('Köln', 'Paris')[i % 2]}" for i in range(40)])


@pytest.mark.draw(3)
@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda text: text, []),
        (lambda text: text.replace(",", ";"), []),
        (lambda text: text.replace(",", "\t"), []),
        (lambda text: text.replace(",", "|"), []),
        (lambda text: text.replace(",", " ; "), []),
        (lambda text: text.replace(",", ";").replace(".5", ",5"), ["--decimal", ","]),
        (lambda text: "sep=;\n" + text.replace(",", ";"), []),
        (lambda text: "sep=,\r\n" + text.replace("\n", "\r\n"), []),
        (lambda text: text + "\n\n  \n", []),
        (lambda text: text.replace("\n", ",\n"), []),
        (lambda text: text.replace("length,width", '"length","width"').replace("Paris", '"Paris"'), []),
        (lambda text: text.replace("Paris", '"Pa,r;i|s"'), []),
        (lambda text: text.replace(",", ";").replace("length;width", '"length (cm, mean)";"width (cm, mean)"'), []),
        (lambda text: "\ufeff" + text, []),
        (lambda text: text.encode("latin-1"), []),
        (lambda text: text.encode("utf-16"), []),
        (lambda text: text.replace(",", "\t").encode("utf-16"), []),
        (lambda text: gzip.compress(text.encode()), []),
        (lambda text: bz2.compress(text.encode()), []),
        (lambda text: lzma.compress(text.encode()), []),
        (lambda text: gzip.compress(text.encode("latin-1")), []),
        (lambda text: text.replace("Paris", '"Pa\nris"'), []),
        (lambda text: text.rstrip("\n"), []),
        (lambda text: text.replace("\n", "\r\n"), []),
    ],
)  # fmt: skip
def test_files_as_people_write_them(train, change, options):
    report = train(change(CITIES), "city", *options)
    assert rows_of(report) == 40
    assert (report["task"], report["columns"]) == ("classification", {"number": 2})
    from fastbp import load

    assert load("m.npz").classes_[0] == "Köln"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3\n4,5\n", "line 3 has 1 cells, expected 2"),
        ("x,y\n1,2\n3,4,5\n4,5\n", "line 3 has 3 cells, expected 2"),
        ("x,y\n1,2,3\n3,4,5\n4,5,6\n", "line 2 has 3 cells, expected 2"),
        ('x,y\n"1,1",2\n3\n4,5\n', "line 3 has 1 cells, expected 2"),
        ("x,y\n\n1,2\n\n3\n", "line 5 has 1 cells, expected 2"),
        ("x,y\n1,2,\n3\n4,5\n", "line 3 has 1 cells, expected 2"),
        ('x,y\n1,2\n3,"4\n', "is not a CSV file"),
        (gzip.compress(CITIES.encode())[:-20], "is not a CSV file"),
        (b"PAR1 and so on", "table.csv"),
        (os.urandom(100) + b"\0", "is not a CSV file"),
    ],
)
def test_files_that_are_no_tables(refused, text, message):
    assert message in refused(text, "y")


def test_of_a_large_table_there_is_one_copy_at_a_time(tmp_path):
    """Beside the table itself, only the rows that are held out and the others."""
    import pandas as pd

    path, table = tmp_path / "large.csv", np.random.default_rng(0).normal(size=(20_000, 21))
    pd.DataFrame(table).rename(columns=str).to_csv(path, index=False)
    load_table(path, "20")  # imports what it needs
    peaks = []
    tracemalloc.start()
    try:
        for read in (pd.read_csv, lambda path: load_table(path, "20")):
            tracemalloc.reset_peak()
            read(path)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    pandas, ours = peaks
    assert ours < 1.5 * pandas


@pytest.mark.parametrize("first", ["length width city\n", ""])
def test_spaces_are_no_separators(refused, first):
    rows = "".join(f"{i % 9}.5  {i % 4} {('Rome', 'Paris')[i % 2]}\n" for i in range(40))
    assert "has one column, and spaces in it: put commas where columns end" in refused(first + rows, "city")


def test_parquet(train):
    pytest.importorskip("pyarrow")
    import io

    import pandas

    content = io.BytesIO()
    pandas.read_csv(io.StringIO(CITIES)).to_parquet(content)
    report = train(content.getvalue(), "city")
    assert rows_of(report) == 40
    assert (report["task"], report["columns"]) == ("classification", {"number": 2})


def test_more_rows_than_pandas_reads_at_a_time(train):
    # where a column is numbers in one part, and words in another
    rows = [f"{i % 9},{'a' if i > 150_000 else i % 5:},{i % 2}" for i in range(200_000)]
    Path("rows.csv").write_text("x,mixed,y\n" + lines(*rows))
    mixed = TableFile("rows.csv").read().frame["mixed"]
    assert set(mixed) == {"0", "1", "2", "3", "4", "a"}


def test_cells_may_be_long(train):
    words = [("1" * 300_000 + "x", "1 " * 100_000, "a,b;" * 50_000)[i % 3] for i in range(30)]
    report = train("x,text,y\n" + lines(*[f'{i % 9},"{word}",{i % 2}' for i, word in enumerate(words)]), "y")
    assert report["columns"] == {"number": 1, "category": 1}


# ---- the command line ------------------------------------------------------------------------------------------------


def shell(command, **options):
    """Run a line of shell where `fastbp` is this one."""
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent.parent)} | options.pop("env", {})
    command = command.replace("fastbp", f"{sys.executable} -m fastbp")
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment, **options)


posix = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


@posix
@pytest.mark.no_kernel
def test_pipes(train):
    train(CITIES, "city")
    Path("cities.csv").write_text(CITIES)
    for data in draws.some(("-", "/dev/stdin", "<(cat)"), 3, "pipes"):
        ended = shell(f"cat cities.csv | fastbp predict m.npz {data}")
        assert (ended.returncode, len(ended.stdout.splitlines())) == (0, 40), ended.stderr
    ended = shell("cat cities.csv | fastbp train - --target city --epochs 1 --json")
    assert json.loads(ended.stdout)["train_rows"] == 32


@pytest.mark.draw(4)
@posix
@pytest.mark.no_kernel
@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("fastbp train xor --epochs 5 >&-", 0),
        ("fastbp train xor --epochs 5 2>&-", 0),
        ("fastbp train nothing 2>&-", 2),
        ("fastbp train nothing >&- 2>&-", 2),
        ("mkdir gone; cd gone; rmdir ../gone; fastbp train xor --epochs 5", 0),
        ("mkdir gone; cd gone; rmdir ../gone; fastbp train xor --epochs 5 --save a.npz", 2),
        (f"fastbp {'a' * 300}", 2),
        (f"fastbp {'a' * 300}.py", 2),
        (f"fastbp train {'a' * 300}", 2),
        (f"fastbp train xor --save {'a' * 300}", 2),
        (f"fastbp predict {'a' * 300} xor", 2),
        ("PYTHONIOENCODING=ascii fastbp info", 0),
        ("PYTHONIOENCODING=ascii fastbp train wine --epochs 2", 0),
    ],
)
def test_nothing_ends_in_a_traceback(command, status):
    ended = shell(command)
    assert (ended.returncode, "Traceback" in ended.stderr) == (status, False), ended.stderr


@posix
@pytest.mark.no_kernel
def test_a_full_device_is_said():
    ended = shell("fastbp train xor --epochs 5 > /dev/full")
    assert (ended.returncode, "No space left" in ended.stderr, "Traceback" in ended.stderr) == (2, True, False)


@posix
@pytest.mark.no_kernel
def test_class_names_that_the_terminal_lacks_are_escaped(train):
    train("x,y\n" + "0,日本\n1,b\n" * 20, "y", epochs=300)
    ended = shell("fastbp predict m.npz table.csv", env={"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, set(ended.stdout.split())) == (0, {r"\u65e5\u672c", "b"})


def test_class_names_do_not_command_the_terminal(train, predict, run):
    train("x,y\n" + '0,\x1b[2Jred\n1,"two\nlines"\n' * 20, "y", epochs=300)
    assert predict("x\n0\n1\n") == [r"\x1b[2Jred", r"two\nlines"]
    assert run("predict", "m.npz", "rows.csv", "--proba")[1].splitlines()[0] == r"\x1b[2Jred,two\nlines"
    assert "\x1b" not in run("train", "\x1b[2J.csv")[2]


def test_probabilities(train, run):
    train("x,y\n" + "0,a\n1,b\n2,c\n" * 20, "y", epochs=100)
    Path("rows.csv").write_text("x\n0\n2\n")
    status, out, err = run("predict", "m.npz", "rows.csv", "--proba")
    names, *rows = [line.split(",") for line in out.splitlines()]
    assert (status, err, names) == (0, "", ["a", "b", "c"])
    probabilities = np.array(rows, float)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert probabilities.argmax(axis=1).tolist() == [0, 2]
    found = json.loads(run("predict", "m.npz", "rows.csv", "--proba", "--json")[1])
    np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
    train(values(1.0), "y")
    assert (
        run("predict", "m.npz", "rows.csv", "--proba")[2]
        == "fastbp: error: --proba needs a classifier of tables, got m.npz\n"
    )


def test_only_predictions_are_printed(train, run):
    train("x,y\n" + lines(*[f"{'?' if i == 5 else i % 9},{'ab'[i % 2]}" for i in range(40)]), "y")
    out = run("predict", "m.npz", "table.csv")[1]
    assert len(out.splitlines()) == 40
    assert set(out.split()) <= {"a", "b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("table.csv", "did you mean fastbp train table.csv --target COLUMN?"),
        ("trian xor", "'trian' is no command: did you mean 'train'?"),
        ("train irsi", "got 'irsi': did you mean 'iris'?"),
        ("train table.csv --target widht", "got 'widht': did you mean 'width'?"),
        ("train table.csv --target city --ignore lenght", "ignore must be a column .* did you mean 'length'?"),
        ("train iris --task regression", "--task is for files, got 'regression' with iris"),
        ("train iris --header", "--header is for files, got True with iris"),
        ("train table.csv --target city --bias", "--bias is for xor and iris, got it with table.csv"),
        ("train table.csv --target city --compare", "--compare is for xor and iris"),
        ("train table.csv --target city --save table.csv", "--save must not name the file that is read, got 'table.csv'"),
        ("train table.csv --target city --save ./table.csv", "--save must not name the file that is read"),
        ("train xor --plot same.png --save same.png", "--save and --plot must name two files"),
        ("train xor --plot same.png --save ./same.png", "--save and --plot must name two files"),
        ("predict table.csv table.csv", "table.csv is not a fastbp model file"),
    ],
)
def test_what_was_meant_is_said(run, arguments, message):
    Path("table.csv").write_text(CITIES)
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert re.search(message.replace("?", r"\?"), err)
    assert Path("table.csv").read_text() == CITIES


def test_other_files_are_no_scripts(run):
    Path("job.txt").write_text("print('run')")
    assert run("job.txt")[:2] == (2, "")


@pytest.mark.compiled
def test_the_model_is_saved_before_numpy_is_timed(run, monkeypatch):
    from fastbp.profiling import rivals

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rivals, "throughput", interrupt)
    assert run("train", "xor", "--epochs", 5, "--save", "xor.npz")[0] == 0
    assert run("train", "iris", "--epochs", 5, "--compare", "--save", "iris.npz")[0] == 130
    assert run("predict", "iris.npz", "iris")[0] == 0


def test_suffixes_in_capitals(run):
    assert run("train", "xor", "--epochs", 5, "--plot", "x.PNG")[0] == 0
    assert Path("x.PNG").read_bytes().startswith(b"\x89PNG")


def test_running_out_of_memory_is_said(run, monkeypatch):
    from fastbp import datasets

    def much(name):
        raise MemoryError

    monkeypatch.setattr(datasets, "load_named", much)
    assert run("train", "iris")[2].startswith("fastbp: error: out of memory")


def test_files_of_another_kind_say_who_reads_them(run, train):
    import fastbp

    assert run("train", "xor", "--epochs", 5, "--save", "xor.npz")[0] == 0
    net = fastbp.NeuralNetwork.load("xor.npz")
    outputs = [float(line) for line in run("predict", "xor.npz", "xor")[1].split()]
    assert outputs == (net.feedforward([[0, 0], [0, 1], [1, 0], [1, 1]]).ravel() >= 0.5).tolist()
    with pytest.raises(fastbp.ModelFileError, match="NeuralNetwork.load and fastbp predict read"):
        fastbp.MLPClassifier.load("xor.npz")
    train(CITIES, "city")
    with pytest.raises(fastbp.ModelFileError, match=r"a TabularClassifier, which TabularClassifier\.load reads"):
        fastbp.NeuralNetwork.load("m.npz")
    fastbp.MLPClassifier(max_iter=300, solver="lbfgs").fit([[0.0], [1.0]], ["a", "b"]).save("mlp.npz")
    assert "fastbp.load reads it" in run("predict", "mlp.npz", "xor")[2]


# --- what stands in columns -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["inf", "-inf", "Infinity"])
def test_a_word_for_infinity_is_missing_where_words_are(train, word):
    rows = [f"{'?' if i == 3 else word if i == 50 else i},{i * 2 + 0.5}" for i in range(200)]
    report = train("x,y\n" + "\n".join(rows), "y", epochs=40)
    assert report["test_r2"] > 0.9
    with pytest.warns(UserWarning, match="taken for missing"):
        x = fastbp.rows("table.csv", "y")
    assert len(np.unique(x[:])) > 150


def test_whole_numbers_with_a_gap_are_labels_as_they_stand(run, train, predict):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for first, apart in ((0, 1), (10**17, 8)):
        labels = pandas.array([None if i == 7 else first + i % 3 * apart for i in range(120)], "Int64")
        text = "x,y\n" + "\n".join(f"{i},{'' if label is pandas.NA else label}" for i, label in enumerate(labels))
        train(text, "y")
        expected = [*fastbp.load("m.npz").classes_]
        table = pandas.DataFrame({"x": range(120), "y": labels})
        table.to_parquet("t.parquet")
        status, _, err = run("train", "t.parquet", "--target", "y", "--epochs", 1, "--save", "p.npz")
        assert status == 0, err
        assert [*fastbp.load("p.npz").classes_] == expected == [str(first + i * apart) for i in range(3)]
        with pytest.warns(UserWarning, match="1 of 120 rows are left out"):
            assert [*fastbp.rows("t.parquet", "y").y.classes] == expected


@pytest.mark.parametrize("categorical", [False, True])
def test_bytes_are_categories_like_others(run, categorical):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    letters = pandas.Series([b"a", b"b"] * 60)
    table = pandas.DataFrame({"c": letters.astype("category") if categorical else letters, "y": ["no", "yes"] * 60})
    table.to_parquet("t.parquet")
    status, out, err = run("train", "t.parquet", "--target", "y", "--epochs", 30, "--json")
    assert status == 0, err
    assert json.loads(out)["test_accuracy"] == 1
    assert (fastbp.rows("t.parquet", "y")[:].sum(axis=1) == 1).all()


@pytest.mark.parametrize("large", ["18446744073709551615", "99999999999999999999999"])
def test_a_gap_beside_numbers_that_are_too_large_is_a_gap(train, predict, large):
    cells = [large, "none", "NA"]
    text = "c,x,y\n" + "\n".join(f"{cells[i % 3]},{i * 7 % 13},{['no', 'yes'][i % 3 == 2]}" for i in range(201))
    train(text, "y", epochs=30)
    model = fastbp.load("m.npz")
    assert model.preprocessing_.categories_["c"] == sorted(cells[:2])
    assert not fastbp.rows("table.csv", "y")[:][2, 1:].any()
    answers = [line.split(",")[-1] for line in text.splitlines()[1:]]
    assert np.mean([a == b for a, b in zip(predict(text), answers, strict=True)]) > 0.95


@pytest.mark.parametrize("word", ["?", "TRUE", "unknown"])
def test_words_among_numbers_with_decimal_commas(train, predict, word):
    rows = [f"{word if i % 25 == 3 else f'{i},5'};{i * 2}" for i in range(150)]
    report = train("x;y\n" + "\n".join(rows), "y", "--decimal", ",", epochs=40)
    assert report["test_r2"] > 0.9
    alone, together = predict(f"x;y\n{word};\n"), predict(f"x;y\n{word};\n5,5;\n")
    assert alone == together[:1]
    (other,) = predict("x;y\n5,5;\n")
    assert other == together[1]
    with pytest.warns(UserWarning, match="taken for missing"):
        x = fastbp.rows("table.csv", "y", decimal=",")
    assert len(np.unique(x[:])) > 100


def test_categories_stay_as_they_stand_where_decimals_have_commas(train, predict):
    sizes = ["1,5", "2,5", "small", "large"]
    text = "num;size;t\n" + "\n".join(f"{i},5;{sizes[i % 4]};{['yes', 'no'][i % 2]}" for i in range(200))
    train(text, "t", "--decimal", ",", epochs=40)
    assert fastbp.load("m.npz").preprocessing_.categories_["size"] == sorted(sizes)
    assert predict(text) == ["yes", "no"] * 100
    assert predict("num;size\n3,5;1,5\n") == ["yes"]


def test_labels_that_were_an_index_are_whole(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for first in (1, 2**60 + 1):
        labels = pandas.array([first, first + 1, None, first + 2] * 50, dtype="Int64")
        pandas.DataFrame({"x": np.arange(200.0), "t": labels}).set_index("t").to_parquet("ix.parquet")
        with pytest.warns(UserWarning, match="50 of 200 rows are left out"):
            expected = load_table("ix.parquet", target="t", task="classification").class_names
        with pytest.warns(UserWarning, match="50 of 200 rows are left out"):
            rows = fastbp.rows("ix.parquet", "t", task="classification")
        assert tuple(rows.y.classes) == expected == tuple(str(first + i) for i in range(3))


@pytest.mark.parametrize(
    "labels", [["Market 10", "Mar 30", "x 2"], ["16:09", "16:10", "21:09"], ["1.2.34", "1.2.35", "2.0.10"]]
)
def test_few_labels_that_look_like_dates_are_classes(train, labels):
    train("x,y\n" + "\n".join(f"{i},{labels[i % 3]}" for i in range(90)), "y")
    assert [*fastbp.load("m.npz").classes_] == sorted(labels)


def test_a_prediction_does_not_depend_on_what_other_rows_hold(train, predict):
    rows = [f"{'TRUE' if i % 25 == 3 else i},{i % 5},{i * 2}" for i in range(150)]
    train("x,z,y\n" + "\n".join(rows), "y", epochs=20)
    assert predict("x,z\nTRUE,3\n") == predict("x,z\nTRUE,3\n5,1\n")[:1]


def test_spaces_around_booleans(train, predict):
    rows = [f"{['TRUE', 'FALSE '][i % 2]},{['yes', 'no'][i % 2]}" for i in range(100)]
    report = train("b,y\n" + "\n".join(rows), "y", epochs=30)
    assert report["used"] == {"b": "boolean"}
    assert predict("b\nTRUE\n FALSE\n") == ["yes", "no"]


@pytest.mark.parametrize("spell", [
    "1:{0:02d} PM", "10:{0:02d}:00+02:00", "10:{0:02d}Z", "202401{1:02d}T1015{0:02d}Z", "{1}. Januar 2024",
    "Mon, {1:02d} Jan 2024 10:{0:02d}", "20{1:02d}-05", "2024年1月{1}日",
])  # fmt: skip
def test_clocks_and_dates_of_all_kinds_are_refused(refused, spell):
    cells = [spell.format(i % 60, i % 28 + 1) for i in range(60)]
    assert "holds dates or times such as" in refused("t;y\n" + "\n".join(f"{cell};{i}" for i, cell in enumerate(cells)), "y")


def test_dates_are_no_target(refused, train):
    text = "x,y\n" + "\n".join(f"{i},2024-01-{i % 28 + 1:02d}" for i in range(280))
    assert "holds dates or times such as" in refused(text, "y")
    train(text, "y", "--task", "classification")


def test_scores_beyond_floats_are_none(train, run):
    train("x,y\n" + "\n".join(f"{i},{i * 2 + 0.5}" for i in range(60)), "y")
    Path("rows.csv").write_text("x,y\n1,1e200\n2,3\n", encoding="utf-8")
    status, out, err = run("predict", "m.npz", "rows.csv", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert len(found["predictions"]) == 2
    assert None in found.values()


def test_an_encoding_that_proves_wrong_late():
    Path("late.csv").write_bytes("prénom,y\n".encode() + b"a,1.5\nb,2.5\n" * 100_000 + b"\xe9,3.5\n")
    assert fastbp.rows("late.csv", "y").shape[0] == 200_001
