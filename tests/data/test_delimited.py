"""Text tables: header lines, delimiters, columns of text, and the same columns in prediction."""

import csv
import gzip
import io
import time

import numpy as np
import pytest

from nearlin.data import DataError, load, load_features

RNG = np.random.default_rng(5)


def write(path, text, encoding="utf-8"):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def refuses(path, says, read=load, **arguments):
    with pytest.raises(DataError, match=says) as caught:
        read(path, **arguments)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


X, Y = RNG.normal(0, 1, (7, 3)), RNG.normal(0, 1, (7, 2))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.tsv.gz", "A.CSV"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_with_several_targets(tmp_path, name, mark):
    delimiter = "\t" if "tsv" in name else ","
    lines = [delimiter.join(["p", "u", "q", "v", "w"]), *(delimiter.join(map(repr, row)) for row in _mixed().tolist())]
    path = write(tmp_path / name, mark + "\n".join(lines))
    for target in ("q,p", ("q", "p"), ["q", "p"]):
        data = load(path, target)
        np.testing.assert_array_equal(data.x, X)
        np.testing.assert_array_equal(data.y, Y[:, ::-1])
        assert (data.task, data.target_names, data.target_name) == ("regression", ("q", "p"), None)
    np.testing.assert_array_equal(load(path, "q").x, np.column_stack([Y[:, 0], X]))
    np.testing.assert_array_equal(load_features(path, "p,q", ("v", "u", "w")), X[:, [1, 0, 2]])


def _mixed():
    return np.column_stack([Y[:, 0], X[:, 0], Y[:, 1], X[:, 1:]])


def test_several_targets_are_numbers_and_distinct(tmp_path):
    path = write(tmp_path / "a.csv", "u,y,z\n1,2,a\n3,4,b\n")
    refuses(path, "line 2, column 'z': the text 'a'; expected a number", target="y,z")
    refuses(path, "the target 'y' is named twice", target="y,y")
    refuses(path, "no column 'w'", target="y,w")
    refuses(path, "the target names no column; expected at least one: the columns are u, y, z", target=())
    refuses(write(tmp_path / "c.csv", '"u\nv",y\n1,2\n'), r"the columns are 'u\\nv', y")
    refuses(path, "no column besides 'u', 'y', 'z'", target="u,y,z")
    refuses(
        write(tmp_path / "b.csv", "u,y,z\n1,2,3\n3,4,5\n"),
        "classification expects one target",
        target="y,z",
        task="classification",
    )


def test_a_name_with_a_comma_is_one_target(tmp_path):
    assert load(write(tmp_path / "a.csv", 'u,"a,b",a,b\n1,2.5,3,4\n4,5,6,7\n'), target="a,b").y.tolist() == [2.5, 5]


def test_ten_classes_of_text_and_of_numbers(tmp_path):
    kinds = [*range(10), *range(10)]
    rows = "".join(f"{j * j},{kind},k{kind}\n" for j, kind in enumerate(kinds))
    path = write(tmp_path / "a.csv", "u,number,name\n" + rows)
    for target, names in (("number", tuple(map(str, range(10)))), ("name", tuple(f"k{j}" for j in range(10)))):
        data = load(path, target)
        assert (data.task, data.class_names, data.y.tolist()) == ("classification", names, kinds)
    assert load(path, "number", task="regression").y.dtype == np.float64


def test_numbers_and_texts_are_classes_where_the_task_says_so(tmp_path):
    path = write(tmp_path / "a.csv", "u,y\n1,2\n2,X\n3,X\n4,2\n")
    refuses(path, "line 3, column 'y': the text 'X'; expected a number; text among numbers .* --task classification", target="y")
    data = load(path, "y", "classification")
    assert (data.class_names, data.y.tolist()) == (("2", "X"), [0, 1, 1, 0])


# ----------------------------------------------------------------------------------------------------- delimiters


@pytest.mark.parametrize(
    "text",
    [
        "\n\nu;v;y\n1;2;3\n4;5;6\n",
        '"u";"v";"y"\n1;2;3\n4;5;6\n',
        '"u";"v, w, x, z";y\n1;2;3\n4;5;6\n',
        "u;v, w, x;y\n1;2;3\n4;5;6\n",
        "u|v|y\n1|2|3\n4|5|6\n",
        "u v y\n1 2 3\n4  5 6\n",
        "u,v,y\r\n1,2,3\r\n4,5,6",
        "u,v,y\r1,2,3\r4,5,6\r",
        'u,"v\nw",y\n1,2,3\n4,5,6\n',
        "u, v, y\n 1 , 2,3\n4,5 ,6\n,,\n",
    ],
)
def test_the_delimiter_parts_whole_records(tmp_path, text):
    data = load(write(tmp_path / "a.csv", text), target="y")
    np.testing.assert_array_equal(data.x, [[1, 2], [4, 5]])
    np.testing.assert_array_equal(data.y, [3, 6])


def test_a_tsv_has_tabs_whatever_else_its_header_holds(tmp_path):
    data = load(write(tmp_path / "a.tsv", "u, in m, or so\ty\n1\t2\n4\t5\n"), target="y")
    assert (data.feature_names, data.x.tolist()) == (("u, in m, or so",), [[1], [4]])


# --------------------------------------------------------------------------------------------------------- header


HEADERLESS = {
    "numbers": "5.1,3.5,0\n4.9,3.0,1\n5.1,3.0,1\n5,3,0\n",
    "classes": "5.1,3.5,setosa\n4.9,3.0,virginica\n5.1,3.0,virginica\n5,3,setosa\n",
    "integers and classes": "5,3,yes\n4,3,no\n5,3,no\n5,3,yes\n",
    "texts alone": "p,x,yes\ne,x,no\np,b,no\ne,b,yes\n",
    "texts among the features": "red,5.1,3\nblue,5,2\nred,4,1\n",
}


@pytest.mark.parametrize("case", HEADERLESS)
def test_a_first_line_of_data_is_kept(tmp_path, case):
    path = write(tmp_path / "a.csv", HEADERLESS[case])
    rows = list(csv.reader(io.StringIO(HEADERLESS[case])))
    data = load(path, "label")
    assert len(data) == len(rows)
    if not case.startswith("texts"):
        np.testing.assert_array_equal(data.x, np.array([row[:-1] for row in rows], dtype=float))
        assert data.feature_names == ("x1", "x2")
        assert [data.class_names[y] for y in data.y] == [row[-1] for row in rows]
    for name in ("last", "label"):
        np.testing.assert_array_equal(load(path, name).x, data.x)
    if case == "numbers":
        np.testing.assert_array_equal(load(path, "first").y, load(path, "x1").y)
        assert load(path, "first").target_name == "x1"


HEADED = {
    "texts alone": "a,b,kind\nc,p,d\nc,q,e\ne,p,e\n",
    "a name among the cells": "a,b,kind\nc,1,d\nc,2,d\na,3,kind\n",
    "texts": "a,b,kind\nc,1,d\nc,2,e\ne,1,e\n",
    "pandas": "0,1,2,kind\n3,1,4,red\n1,5,9,blue\n2,6,5,red\n",
    "pixels": "label,1,2,3\nred,3,1,4\nblue,1,5,9\nblue,2,6,5\n",
    "years above numbers": "land,1990,2000,y\n7,3,1,4\n8,1,5,9\n9,2,6,5\n",
}


@pytest.mark.parametrize("case", HEADED)
def test_a_header_may_hold_numbers(tmp_path, case):
    header, *rows = csv.reader(io.StringIO(HEADED[case]))
    data = load(write(tmp_path / "a.csv", HEADED[case]), target=header[-1])
    assert len(data) == len(rows)
    assert {name.partition("=")[0] for name in data.feature_names} == set(header[:-1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,1,2\n3,1,4\n1,5,9\n", "the first line holds the numbers from 0 to 2 in order, which may be names or data"),
        ("5,7,land\n3,1,red\n1,5,blue\n", "the first line holds numbers and texts, which may be names or data"),
    ],
)
def test_what_may_be_a_header_or_not_is_refused(tmp_path, text, says):
    refuses(write(tmp_path / "a.csv", text), says, target="last")


def test_prediction_without_a_header_goes_by_position(tmp_path):
    train = load(write(tmp_path / "a.csv", "5.1,3.5,0\n4.9,3.0,1\n5.1,3.0,1\n5,3,0\n"), "label")
    new = write(tmp_path / "new.csv", "1,2\n5,4\n")
    np.testing.assert_array_equal(load_features(new, None, train.feature_names, 2), [[1, 2], [5, 4]])
    again = load_features(tmp_path / "a.csv", "last", train.feature_names, 2)
    np.testing.assert_array_equal(again, train.x)
    refuses(
        new, r"lacks the column\(s\) 'u', 'v' of the training data; found 'x1', 'label'", load_features, feature_names=("u", "v")
    )


def test_wide_headers_take_linear_time(tmp_path):
    names = [f"column {j}" for j in range(12000)]
    path = write(tmp_path / "a.csv", "\n".join([",".join([*names, "y"]), *2 * [",".join(["1"] * 12001)]]))
    started = time.process_time()
    assert load(path, "y").x.shape == (2, 12000)
    load_features(path, "y", tuple(names))
    assert time.process_time() - started < 2  # comparing every name with every other takes longer
    refuses(write(path, ",".join([*names, names[7]]) + "\n1\n"), "two columns called 'column 7'", target="y")


# --------------------------------------------------------------------------------------------------- columns of text

PETS = "kind,age,grey,y\ndog,2,true,1.5\ncat,3,false,2.5\ndog,4,true,0.5\nnewt,5,false,1\n"


def test_a_column_of_text_becomes_one_of_each_text(tmp_path):
    data = load(write(tmp_path / "a.csv", PETS), "y")
    assert data.feature_names == ("kind=cat", "kind=dog", "kind=newt", "age", "grey")
    rows = list(csv.DictReader(io.StringIO(PETS)))
    for values, row in zip(data.x, rows, strict=True):
        expected = [*(float(row["kind"] == kind) for kind in ("cat", "dog", "newt")), float(row["age"]), row["grey"] == "true"]
        assert values.tolist() == expected


def test_a_column_may_hold_twenty_texts(tmp_path):
    data = load(write(tmp_path / "a.csv", "u,y\n" + "".join(f"t{j},{j / 7}\n" for j in range(20))), "y")
    np.testing.assert_array_equal(np.sum(data.x, axis=0), np.ones(20))


def test_prediction_makes_the_same_columns(tmp_path):
    names = load(write(tmp_path / "a.csv", PETS), "y").feature_names
    x = load_features(write(tmp_path / "b.csv", "grey,age,kind\nFalse,7,newt\nTrue,8,cat\n"), None, names, 5)
    np.testing.assert_array_equal(x, [[0, 0, 1, 7, 0], [1, 0, 0, 8, 1]])
    unknown = write(tmp_path / "c.csv", "grey,age,kind\ntrue,7,newt\ntrue,8,cow\n")
    says = "line 3, column 'kind': the text 'cow', which the training data had not; expected one of 'cat', 'dog', 'newt'"
    refuses(unknown, says, load_features, feature_names=names)
    refuses(
        write(tmp_path / "d.csv", "grey,age,kind\ntrue,7,?\n"),
        "line 2, column 'kind': '\\?', a missing value",
        load_features,
        feature_names=names,
    )
    refuses(
        write(tmp_path / "e.csv", "grey,age\ntrue,7\n"),
        "lacks the column.s. 'kind=cat', 'kind=dog'",
        load_features,
        feature_names=names,
    )
    refuses(tmp_path / "a.csv", r"has the column\(s\) 'y', which the training data had not", load_features, feature_names=names)
    refuses(tmp_path / "b.csv", "column 'kind': the text 'newt'; expected a number", load_features, features=5)


BAD = {
    "empty": ("", "is empty"),
    "blank lines": ("\n\n", "is empty; expected a header"),
    "header alone": ("u,y\n", "no rows"),
    "no header": ("1,2\n3,4\n", "no column 'y'; without a header line the columns are called x1, label, or first and last"),
    "no such column": ("u,v\n1,2\n", "no column 'y'; the columns are u, v"),
    "target alone": ("y\n1\n", "at least one feature"),
    "text in a feature": ("u,y\n1,2\nred,3\n", "line 3, column 'u': the text 'red'"),
    "text in the target": ("u,y\n1,2\n2,red\n", "line 3, column 'y': the text 'red'"),
    "empty field": ("u,y\n1,2\n,3\n", "line 3, column 'u': an empty field"),
    "empty target": ("u,y\n1,a\n2,\n", "line 3, column 'y': an empty field"),
    "nan": ("u,y\nnan,2\n", "line 2, column 'u': 'nan'"),
    "inf": ("u,y\n1,inf\n", "line 2, column 'y': 'inf'"),
    "ragged": ("u,y\n1,2\n1,2,3\n", r"line 3: 3 field\(s\); expected 2"),
    "no class twice": ("u,y\n1,a\n2,b\n3,c\n", r"3 distinct values \('a', 'b', 'c'\) in as many rows"),
    "one class": ("u,y\n1,a\n2,a\n", r"1 distinct value\(s\) \('a'\)"),
    "double name": ("u,u,y\n1,2,3\n", "two columns called 'u'"),
    "no name": ("u,,y\n1,2,3\n", "has no name"),
    "many texts": ("u,y\n" + "".join(f"t{j},{j}\n" for j in range(21)), "column 'u' holds 21 distinct texts .* leave it out"),
    "equals": ("u=v,y\na,1\nb,2\n", "column 'u=v' holds texts, and its name holds a '='"),
    "same name": ("u=a,u,y\n1,a,1\n2,b,2\n", "gives two features the name 'u=a'"),
    "missing text": ("u,y\nred,1\nNA,2\n", "line 3, column 'u': 'NA', a missing value; expected a text"),
    "missing number": ("u,y\n1,1\nNA,2\n", "line 3, column 'u': 'NA', a missing value; expected a number"),
    "missing truth": ("u,y\ntrue,1\n,2\n", "line 3, column 'u': an empty field; expected a number"),
    "all missing": ("u,v,y\n?,1,1\n?,1,2\n", "line 2, column 'u': '\\?', a missing value; expected a number"),
    "number among texts": ("u,y\nred,1\n7,2\n", "line 2, column 'u': the text 'red'"),
    "truth among numbers": ("u,y\n1,1\ntrue,2\n", "line 3, column 'u': the text 'true'"),
    "underscore": ("u,y\n1,1\n1_0,2\n", "line 3, column 'u': the text '1_0'"),
    "underscored target": ("u,y\n1,1\n2,1_0\n", "line 3, column 'y': the text '1_0'"),
    "decimal comma": ("u;y\n1;1\n1,5;2\n", r"line 3, column 'u': the text '1,5'; expected a number \(with a decimal point\)"),
    "decimal commas": ("u;y\n0,5;1\n1,5;2\n", r"line 2, column 'u': the text '0,5'; expected a number \(with a decimal point\)"),
    "decimal comma of a target": ("u;y\n1;0,5\n2;1,5\n3;0,5\n", r"line 2, column 'y': the text '0,5'; .* a decimal point"),
    "missing class": ("u,y\n1,a\n2,null\n", "line 3, column 'y': 'null', a missing value; expected a class"),
    "missing target": ("u,y\n1,1\n2,nan\n", "line 3, column 'y': 'nan', a missing value; expected a number"),
    "infinite": ("u,y\n1,1\n-inf,2\n", "line 3, column 'u': '-inf'; expected a finite number"),
    "long field": ("u,y\n1," + "9" * 200000 + "\n", "line 2, is not of a CSV file: field larger than field limit"),
    "line in quotes": ('u,y\n"a\nb",1\n,2\n', "line 4, column 'u': an empty field"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables(tmp_path, case):
    text, says = BAD[case]
    refuses(write(tmp_path / "a.csv", text), says, target="y")


def test_utf_16_is_named(tmp_path):
    refuses(write(tmp_path / "a.csv", "u,y\n1,2\n", "utf-16"), "is not UTF-8 text but UTF-16", target="y")


@pytest.mark.nightly
def test_tables_as_pandas_writes_them(tmp_path):
    """Columns of text against its dummies; numbers to the last bit."""
    pandas = pytest.importorskip("pandas")
    for _ in range(50):
        rows, columns = RNG.integers(6, 30), RNG.integers(1, 6)
        frame = pandas.DataFrame(RNG.normal(0, 10.0 ** RNG.integers(-5, 6), (rows, columns)), columns=range(columns))
        frame["text"] = RNG.choice(["a b", "c,d", 'q"q', "é"], rows)
        frame["truth"] = RNG.random(rows) < 0.5
        frame["y"] = RNG.normal(0, 1, rows)
        path = tmp_path / RNG.choice(["p.csv", "p.csv.gz"])
        frame.to_csv(path, index=False, sep=str(RNG.choice(list(",;\t|"))))
        expected = pandas.get_dummies(frame.drop(columns="y"), columns=["text"], prefix_sep="=").astype(float)
        data = load(path, "y")
        found = pandas.DataFrame(data.x, columns=list(data.feature_names))[list(map(str, expected.columns))]
        np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())
        np.testing.assert_array_equal(data.y, frame["y"].to_numpy())
        np.testing.assert_array_equal(load_features(path, "y", data.feature_names), data.x)
