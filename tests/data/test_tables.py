"""Reading delimited text: encoding, delimiter, quotes, header, and the width of rows."""

from __future__ import annotations

import pytest

from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.invalid_rows import InvalidRows
from hf_tinybert.data.tables import read_table


def read(tmp_path, content, name="rows.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    invalid = InvalidRows(path, options.get("skip_invalid_rows", False))
    table, notes = read_table(path, FileArguments(**options), invalid)
    return table.to_pylist(), notes, invalid.reasons


@pytest.mark.parametrize(
    ("header", "row", "name", "notes"),
    [
        ("text,label", "a,1", "f.csv", []),
        ("text;label", "a, b;1", "f.csv", ["separated by semicolons"]),
        ("text\tlabel", "a, b;c\t1", "f.csv", ["separated by tabs"]),
        ("text,label", "a,1", "f.tsv", ["separated by commas"]),
        ("id;text, raw;label", "1;a;2", "f.csv", ["separated by semicolons"]),
        ("sentence\tsaid, by; whom", "a\t1", "f.tsv", []),
    ],
)
def test_the_header_decides_the_delimiter(tmp_path, header, row, name, notes):
    rows, found, _ = read(tmp_path, f"{header}\n{row}\n", name)
    delimiter = "\t" if "\t" in header else ";" if ";" in header else ","
    assert rows == [dict(zip(header.split(delimiter), row.split(delimiter), strict=True))]
    assert found == notes


def test_a_delimiter_of_ones_own(tmp_path):
    assert read(tmp_path, "text|label\na,b|1\n", delimiter="|")[0] == [{"text": "a,b", "label": "1"}]
    assert read(tmp_path, "text\tlabel\na\t1\n", delimiter="tab")[0] == [{"text": "a", "label": "1"}]
    with pytest.raises(ValueError, match="--delimiter must be one character, or 'tab', got '::'"):
        read(tmp_path, "a::b\n", delimiter="::")


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;"])
def test_excels_line_is_no_row(tmp_path, line):
    assert read(tmp_path, f"{line}\r\ntext;label\r\na;1\r\n")[0] == [{"text": "a", "label": "1"}]


def test_rows_of_another_width(tmp_path):
    content = 'text,label\na,1\nb, c,2\n"d\ne",3\nf\ng,4,\n'
    with pytest.raises(
        ValueError, match=r"rows\.csv, line 3: it has 3 fields, the header 2: quote texts that contain commas"
    ):
        read(tmp_path, content)
    rows, _, reasons = read(tmp_path, content, skip_invalid_rows=True)
    assert [row["label"] for row in rows] == ["1", "3", "4"]
    assert [reason.split(":")[0] for reason in reasons] == ["line 3", "line 6"]


def test_names_of_columns(tmp_path):
    assert read(tmp_path, ",text,label\n0,a,1\n1,b,2\n")[0][1] == {"Unnamed: 0": "1", "text": "b", "label": "2"}
    assert read(tmp_path, "text,label,\na,1,\n")[0] == [{"text": "a", "label": "1"}]
    with pytest.raises(ValueError, match=r"two columns named 'a'.*--no-header"):
        read(tmp_path, "a,a\nx,y\n")
    assert read(tmp_path, "a,a\nx,y\n", no_header=True)[0] == [{"1": "a", "2": "a"}, {"1": "x", "2": "y"}]


def test_tabs_are_quoted_only_if_all_of_the_file_is(tmp_path):
    quoted = 'text\tlabel\n"a ""b""\nc"\t1\nd\t2\n'
    rows, notes, _ = read(tmp_path, quoted, "f.tsv")
    assert rows[0]["text"] == 'a "b"\nc'
    assert notes == ["quotes enclose fields"]
    rows, notes, _ = read(tmp_path, 'text\tlabel\n"a" b\t1\n"c\t2\n', "f.tsv")
    assert [row["text"] for row in rows] == ['"a" b', '"c']
    assert notes == ["quotes are part of the texts (--quoting)"]
    rows, _, _ = read(tmp_path, 'text\tlabel\n"a"\t1\n', "f.tsv", quoting="none")
    assert rows[0]["text"] == '"a"'


def test_quotes_that_do_not_close(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read behind line 2: a quote is never closed.*--quoting none"):
        read(tmp_path, 'text,label\na,1\n"b,2\nc,3\n')
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path, 'text,label\n"Kane" is great,1\n')
    assert read(tmp_path, 'text,label\n"Kane" is great,1\n', quoting="none")[0][0]["text"] == '"Kane" is great'


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_marks_of_encodings(tmp_path, encoding):
    assert read(tmp_path, "text,label\nmüde 🙂,1\n".encode(encoding))[0] == [{"text": "müde 🙂", "label": "1"}]


def test_other_encodings_are_named(tmp_path):
    content = "text,label\na,1\nmüde,2\n".encode("cp1252")
    with pytest.raises(ValueError, match=r"not in utf-8: line 3 has the byte 0xfc.*--encoding latin-1"):
        read(tmp_path, content)
    assert read(tmp_path, content, encoding="latin-1")[0][1]["text"] == "müde"
    with pytest.raises(ValueError, match="--encoding 'klingon' is no encoding"):
        read(tmp_path, content, encoding="klingon")


def test_long_fields_and_many_rows(tmp_path):
    text = "x" * 300_000
    rows, _, _ = read(tmp_path, f"text,label\n{text},1\n" + "a,2\n" * 120_000)
    assert rows[0]["text"] == text
    assert len(rows) == 120_001
