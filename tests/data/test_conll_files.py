"""Reading words and tags."""

from __future__ import annotations

import pytest

from hf_tinybert.data.arguments import FileArguments
from hf_tinybert.data.loading import read_file


def read(tmp_path, content, columns=(None, None), **options):
    path = tmp_path / "words.conll"
    path.write_text(content, encoding="utf-8")
    found, source = read_file(path, FileArguments(**options), columns)
    return found[""].to_list(), source.notes


def test_first_and_last_column(tmp_path):
    rows, notes = read(tmp_path, "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nis VBZ B-VP O\n\nhere RB X O\n")
    assert rows == [{"tokens": ["EU", "is"], "tags": ["B-ORG", "O"]}, {"tokens": ["here"], "tags": ["O"]}]
    assert notes == ("columns separated by spaces",)


def test_words_may_hold_spaces_where_tabs_separate(tmp_path):
    assert read(tmp_path, "New York\tB-LOC\n")[0] == [{"tokens": ["New York"], "tags": ["B-LOC"]}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# a comment\nx O\n", ["x"]),
        ("# O\nx O\n", ["#", "x"]),
        ("# B-new\nx O\n", ["x"]),
        ("x O\n# O\ny O\n", ["x", "#", "y"]),
        ("#tag O\nx O\n", ["#tag", "x"]),
    ],
)
def test_what_a_comment_is(tmp_path, content, words):
    assert read(tmp_path, content)[0][0]["tokens"] == words


@pytest.mark.parametrize(
    ("line", "is_header"), [("Token Tag", True), ("word NER", True), ("Word runs", False), ("text O", False)]
)
def test_what_a_header_is(tmp_path, line, is_header):
    rows, notes = read(tmp_path, f"{line}\nx O\n")
    assert (rows[0]["tokens"] == ["x"]) == is_header
    assert any("header" in note for note in notes) == is_header


def test_another_number_of_columns(tmp_path):
    content = "a O\nNew York B-LOC\n\nb O\n"
    with pytest.raises(ValueError, match=r"words\.conll, line 2: 'New York B-LOC' has 3 columns, others 2"):
        read(tmp_path, content)
    assert read(tmp_path, content, skip_invalid_rows=True)[0] == [{"tokens": ["b"], "tags": ["O"]}]


CONLL_U = "# sent_id = 1\n1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n" + "".join(
    f"{number}\t{word}\t{word}\tVERB\t_\t_\t0\troot\t_\t_\n"
    for number, word in (("1", "do"), ("2", "n't"), ("2.1", "x"))
)


def test_conll_u_asks_for_its_columns(tmp_path):
    with pytest.raises(ValueError, match="10 columns, of which the first counts the words"):
        read(tmp_path, CONLL_U)
    assert read(tmp_path, CONLL_U, ("2", "4"))[0] == [{"2": ["do", "n't"], "4": ["VERB", "VERB"]}]
    with pytest.raises(ValueError, match="has columns 1 to 10, without names; got 'form'"):
        read(tmp_path, CONLL_U, ("form", "4"))


def test_a_delimiter_and_a_first_line_that_is_no_header(tmp_path):
    rows, notes = read(tmp_path, "New York;B-LOC\n", delimiter="semicolon")
    assert rows == [{"tokens": ["New York"], "tags": ["B-LOC"]}]
    assert notes == ("columns separated by ';'",)
    assert read(tmp_path, "New York\tB-LOC\n", delimiter="tab")[0] == rows
    assert read(tmp_path, "text tag\nx O\n", no_header=True)[0][0]["tokens"] == ["text", "x"]
