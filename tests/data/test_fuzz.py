"""Tables that hypothesis makes: what is written is read back equal, and damage is an error or leaves the rows alone.

`make fuzz` runs these with many more examples, for as long as one likes.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import awkward_tables as tables
import pytest
from datasets import ClassLabel, Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_tinybert.data.arguments import DataArguments
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.label_values import LabelOptions
from hf_tinybert.data.labels import read_labels
from hf_tinybert.data.loading import load_file, load_raw
from hf_tinybert.data.writing import write_file
from hf_tinybert.tasks import TASKS

fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def read(content: bytes, name: str, **options) -> Dataset:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return load_raw(DataArguments(train_file=str(path), **options)).splits["train"]


def assert_read(found: Dataset, texts: list[str], labels: list[str], kind: str) -> None:
    assert list(found["text"]) == texts
    assert [str(label) for label in found["label"]] == labels
    values = read_labels(found, "label", LabelOptions(column_given=True), InvalidRows("rows", skip=False))
    if kind == "numbers":
        assert values.kind == "regression"
        assert values.values == [float(label) for label in labels]
    else:
        assert values.kind == "single_label_classification"
        assert values.values == [label.strip() for label in labels]


@fuzz
@given(tables.tables(), tables.dialects, tables.encodings)
def test_delimited_text_is_read_back(table, dialect, encoding):
    kind, texts, labels = table
    content = tables.as_csv(list(zip(texts, labels, strict=True)), encoding, dialect)
    name = "rows.tsv" if dialect["delimiter"] == "\t" else "rows.csv"
    assert_read(read(content, name, quoting="quoted"), texts, labels, kind)


@fuzz
@given(tables.tables(), st.sampled_from(["lines", "rows", "data", "columns", "split"]))
def test_json_is_read_back(table, form):
    kind, texts, labels = table
    rows = list(zip(texts, labels, strict=True))
    content = tables.as_json_lines(rows) if form == "lines" else tables.as_json(rows, form)
    assert_read(read(content, "rows.jsonl" if form == "lines" else "rows.json"), texts, labels, kind)


@fuzz
@given(tables.tables())
def test_parquet_is_read_back(table):
    kind, texts, labels = table
    assert_read(read(tables.as_parquet(list(zip(texts, labels, strict=True))), "rows.parquet"), texts, labels, kind)


@fuzz
@given(tables.tables(), st.sampled_from([".csv", ".jsonl", ".parquet"]), st.booleans())
def test_what_is_written_is_read_back(table, ending, as_classes):
    """Augmentation's files, also with classes that have names."""
    kind, texts, labels = table
    dataset = Dataset.from_dict({"text": texts, "label": labels, "words": [[text, "x"] for text in texts]})
    if as_classes and kind == "names":
        dataset = dataset.cast_column("label", ClassLabel(names=sorted(set(labels))))
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{ending}"
        write_file(dataset, path)
        found = load_file(path)
        assert list(found["words"]) == [[text, "x"] for text in texts]
        values = read_labels(found, "label", LabelOptions(column_given=True), InvalidRows("rows", skip=False))
        assert list(found["text"]) == texts
        shown = [float(label) if kind == "numbers" else label.strip() for label in labels]
        assert values.values == shown


@fuzz
@given(tables.tables(), st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]), st.data())
def test_damage_is_an_error_or_says_what_it_cost(table, form, data):
    """Nothing but a ValueError with the place; and with invalid rows left out, every row is read or counted."""
    _, texts, labels = table
    rows = list(zip(texts, labels, strict=True))
    whole = {
        "csv": lambda: tables.as_csv(rows, "utf-8", {"delimiter": ","}),
        "tsv": lambda: tables.as_csv(rows, "utf-8", {"delimiter": "\t"}),
        "jsonl": lambda: tables.as_json_lines(rows),
        "json": lambda: tables.as_json(rows, "data"),
        "parquet": lambda: tables.as_parquet(rows),
    }[form]()
    damaged = data.draw(tables.damage(whole))
    options = {"skip_invalid_rows": data.draw(st.booleans()), "label_column": "label", "text_column": "text"}
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{form}"
        path.write_bytes(damaged)
        try:
            task = TASKS["text-classification"](DataArguments(train_file=str(path), **options), training=True)
        except ValueError as error:
            said, task = str(error), None
    if task is None:
        assert any(word in said for word in ("rows.", "column", "labels"))
        return
    found = task.splits["train"]
    assert len(found) == len(task.labels["train"].values)
    assert all(isinstance(text, str) for text in found["text"])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.conll"])
def test_noise_is_no_table(name):
    with pytest.raises(ValueError, match=name):
        read(bytes(range(256)) * 3, name)
