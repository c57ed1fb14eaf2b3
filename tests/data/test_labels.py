"""What columns of labels mean."""

from __future__ import annotations

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_tinybert.data.class_ids import class_ids
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_values import LabelOptions
from hf_tinybert.data.labels import read_labels


def read(values, feature=None, skip=False, model=None, **options):
    features = Features({"label": feature}) if feature is not None else None
    dataset = Dataset.from_dict({"label": values}, features=features)
    return read_labels(dataset, "label", LabelOptions(**options), InvalidRows("rows.csv", skip), model)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["b", "a"], "single", ("a", "b")),
        (["10", "9", "10"], "single", ("9", "10")),
        ([10, 9], "single", ("9", "10")),
        (["01", "1", "02"], "single", ("01", "1", "02")),
        (["-1", "1"], "single", ("-1", "1")),
        ([True, False], "single", ("False", "True")),
        (["1.0", "2"], "regression", None),
        (["1e3", "2"], "regression", None),
        ([1.0, 2.0], "regression", None),
        (["0", "1", "unknown"], "single", ("0", "1", "unknown")),
        (["NA", "yes"], "single", ("NA", "yes")),
        ([["a"], ["b", "a"], []], "multi", ("a", "b")),
        ([[0, 1], [1]], "multi", ("0", "1")),
        ([[0, 1, 1], [1, 0, 0]], "multi", ("0", "1", "2")),
        (['["a", "b"]', '["a"]'], "multi", ("a", "b")),
        (["['a', 'b']", "[]"], "multi", ("a", "b")),
    ],
)
def test_kinds_and_classes(values, kind, classes):
    found = read(values)
    assert found.kind.startswith(kind)
    assert classes is None or found.classes() == classes
    assert found.valid == list(range(len(values)))


@pytest.mark.parametrize("marker", ["NA", "n/a", "nan", "null", "None", "", "?"])
def test_markers_of_missing_numbers(marker):
    with pytest.raises(ValueError, match=r"rows\.csv, row 2: there is .* in the column 'label'"):
        read(["1.5", marker, "2"])
    found = read(["1.5", marker, "2"], skip=True)
    assert found.values == [1.5, 2.0]
    assert found.valid == [0, 2]


def test_without_any_label():
    assert read(["", "", ""]) is None
    assert read([None, None]) is None
    assert read([-1, -1], ClassLabel(names=["a", "b"])) is None


def test_an_empty_label_among_words():
    with pytest.raises(ValueError, match="row 2: there is no label"):
        read(["a", " ", "b"])


def test_class_labels_say_their_names_and_order():
    found = read([1, 0, 1], ClassLabel(names=["zebra", " ant", "never"]))
    assert found.values == ["ant", "zebra", "ant"]
    assert found.classes() == ("zebra", "ant", "never")
    several = read([[0], [1, 0]], List(ClassLabel(names=["x", "y"])))
    assert several.values == [["x"], ["y", "x"]]
    assert several.classes() == ("x", "y")


@pytest.mark.parametrize("values", [["3,10", "4"], ["3,1", "2.5"], [",5", "1"]])
def test_a_decimal_comma_is_asked_for(values):
    with pytest.raises(ValueError, match=r"decimal comma .*--decimal ,"):
        read(values)


def test_a_decimal_comma_that_is_given():
    assert read(["3,10", "-4", ",5"], decimal=",").values == [3.1, -4.0, 0.5]


def test_as_many_classes_as_rows():
    values = [f"id{number}" for number in range(20)]
    with pytest.raises(ValueError, match="another value in each of its 20 rows, so it is probably not the label"):
        read(values)
    assert len(read(values, column_given=True).classes()) == 20
    assert len(read(values[:19]).classes()) == 19
    with pytest.raises(ValueError, match="another value"):
        read([str(number) for number in range(30)])


def test_doubts():
    (doubt,) = read([str(number) for number in range(21)] * 2).doubts
    assert "21 different whole numbers" in doubt
    assert not read([str(number) for number in range(20)] * 2).doubts
    (doubt,) = read(["Neg", "neg", "pos"]).doubts
    assert doubt == "classes that differ in case only: Neg, neg"


def test_the_kind_that_is_asked_for():
    assert read(["1", "2"], kind="regression").values == [1.0, 2.0]
    assert read(["1.0", "2.5"], kind="single_label_classification").classes() == ("1.0", "2.5")
    with pytest.raises(ValueError, match="one label a text, and --problem-type asks for any number of labels"):
        read(["a", "b"], kind="multi_label_classification")
    with pytest.raises(ValueError, match=r"row 1: .* no number, 'a'"):
        read(["a", "1"], kind="regression")


def test_lists_of_two_classes_are_ambiguous():
    with pytest.raises(ValueError, match="--problem-type multi_label_classification; if every text has one"):
        read([[0, 1], [1, 0]])
    assert read([[0, 1], [1, 0]], kind="multi_label_classification").values == [["1"], ["0"]]
    assert read([[0, 1], [1, 0]], kind="single_label_classification").values == ["1", "0"]
    assert read([[0], [1]], kind="single_label_classification").values == ["0", "1"]


def test_multi_hot_lists_have_names():
    found = read([[0, 1, 1], [0, 0, 0]], names=("a", "b", "c"))
    assert found.values == [["b", "c"], []]
    assert found.classes() == ("a", "b", "c")
    with pytest.raises(ValueError, match="has 2 names, and the lists in the column 'label' 3 values"):
        read([[0, 1, 1], [0, 0, 0]], names=("a", "b"))
    assert read([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).values == [["0"], ["2"]]


def test_a_model_decides():
    assert read(["1.0", "0.0"], model=("single_label_classification", 2)).values == ["1.0", "0.0"]
    assert read(["1", "0"], model=("regression", 0)).values == [1.0, 0.0]
    assert read([[0, 1], [1, 0]], model=("multi_label_classification", 2)).values == [["1"], ["0"]]
    assert read([[0, 1], [1, 0]], model=("multi_label_classification", 5)).values == [["0", "1"], ["1", "0"]]
    with pytest.raises(ValueError, match="lists of labels, and the model was trained for one label a text"):
        read([["a"], ["b"]], model=("single_label_classification", 2))


def test_labels_in_one_column_with_a_separator():
    assert read(["a, b", "", "b"], separator=",").values == [["a", "b"], [], ["b"]]


def test_labels_in_several_columns():
    dataset = Dataset.from_dict({"a": ["1", "0", "2"], "b": ["0", "true", "1"]})
    options = LabelOptions(columns=("a", "b"))
    with pytest.raises(ValueError, match="row 3: the column 'a' holds '2'"):
        read_labels(dataset, "a", options, InvalidRows("rows.csv", skip=False))
    found = read_labels(dataset, "a", options, InvalidRows("rows.csv", skip=True))
    assert found.values == [["a"], ["b"]]
    assert found.valid == [0, 1]
    assert found.classes() == ("a", "b")


def test_a_missing_label_in_a_list():
    with pytest.raises(ValueError, match="row 2: a list in the column 'label' holds a missing label"):
        read([["a"], ["b", None]], List(Value("string")))
    with pytest.raises(ValueError, match="row 2: there is no list of labels"):
        read([["a"], None], List(Value("string")))


def test_invalid_rows_are_counted_and_the_first_five_listed(caplog):
    invalid = InvalidRows("rows.csv", skip=True)
    dataset = Dataset.from_dict({"label": ["1.5", *["NA"] * 7]})
    read_labels(dataset, "label", LabelOptions(), invalid)
    invalid.say()
    assert "rows.csv: 7 invalid row(s) are left out: row 2: there is 'NA'" in caplog.text
    assert "row 6" in caplog.text
    assert "row 7" not in caplog.text


# A model's classes


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        (["neg", "pos"], ["pos", "neg"], [1, 0]),
        (["0", "1"], ["pos", "neg"], [0, 1]),
        (["0.0", "1.0"], ["pos", "neg"], [0, 1]),
        (["0.0", "1.0"], ["1", "0"], [1, 0]),
        (["1", "5"], ["1", "2", "3", "4", "5"], [0, 4]),
        (["1", "5"], ["5 stars", "4 stars", "3 stars", "2 stars", "1 star"], [4, 0]),
        (["-1", "1"], ["-1", "1"], [0, 1]),
        (["-1", "1"], ["1", "-1"], [1, 0]),
        (["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"], [0, 2]),
        (["0", "1"], ["covid19", "flu"], None),
        (["neg"], [" neg ", "pos"], [0]),
    ],
)
def test_classes_of_a_model(values, names, expected):
    if expected is None:
        with pytest.raises(ValueError, match="not trained for"):
            class_ids(values, names, "The data")
    else:
        assert list(class_ids(values, names, "The data").values()) == expected


def test_other_names_are_refused_with_both_lists():
    with pytest.raises(ValueError, match=r"The data has 1 label\(s\) .*: bad\. It knows: pos, neg\.$"):
        class_ids(["bad", "pos"], ["pos", "neg"], "The data")
    with pytest.raises(ValueError, match="not trained for: 2"):
        class_ids(["1", "2"], ["pos", "neg"], "The data")


def test_a_model_without_names_takes_them():
    unnamed = ["LABEL_0", "LABEL_1"]
    with pytest.raises(ValueError, match="give them with --label-names, in its order"):
        class_ids(["neg", "pos"], unnamed, "The data")
    assert class_ids(["neg", "pos"], unnamed, "The data", ["pos", "neg"]) == {"neg": 1, "pos": 0}
    with pytest.raises(ValueError, match="--label-names has 3 names, and the model 2 classes"):
        class_ids(["neg"], unnamed, "The data", ["a", "b", "c"])
