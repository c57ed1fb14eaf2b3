"""Text on disk becomes packed sequences, tokenised once or as it streams."""

from __future__ import annotations

import factories
import pytest
from datasets import Dataset, IterableDataset

from hf_tinybert.data import corpus
from hf_tinybert.data.arguments import CorpusArguments, DataArguments


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tinybert.utils.work_sharing.HF_HOME", str(tmp_path / "home"))


@pytest.fixture
def text(tmp_path):
    """The demo's requests, one a line, an empty line after every tenth."""
    lines = factories.requests(100)
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    paths = [tmp_path / "corpus" / "a.txt", tmp_path / "corpus" / "deep" / "b.txt"]
    for number, path in enumerate(paths):
        mine = lines[50 * number : 50 * number + 50]
        path.write_text("".join(f"{line}\n" + "\n" * (n % 10 == 9) for n, line in enumerate(mine)), encoding="utf-8")
    return tmp_path / "corpus"


def load(train=None, corpus_arguments=None, seed=0, **arguments):
    args = DataArguments(train_file=train and str(train), max_length=16, **arguments)
    return corpus.load(args, corpus_arguments or CorpusArguments(), factories.tokenizer(), seed)


def sequences(dataset):
    return [row["input_ids"] for row in dataset]


def real(packed):
    return [token for sequence in packed for token in sequence[1:-1]]


def test_a_folder_becomes_sequences_and_some_are_held_out(text):
    every, none = load(text, CorpusArguments(held_out=0))
    assert none is None
    packed = sequences(every)
    lines = [line for path in sorted(text.rglob("*.txt")) for line in path.read_text().splitlines() if line]
    assert real(packed) == factories.tokenizer()(" ".join(lines), add_special_tokens=False)["input_ids"]
    assert all(len(sequence) <= 16 for sequence in packed)
    assert sum(len(sequence) < 16 for sequence in packed) <= 10  # one for each document
    train, held_out = load(text, CorpusArguments(held_out=20))
    assert len(held_out) == 20
    assert sorted(sequences(train) + sequences(held_out)) == sorted(packed)
    assert sequences(load(text, CorpusArguments(held_out=20), seed=1)[1]) != sequences(held_out)


def test_a_stream_gives_the_same_sequences(text):
    packed = sequences(load(text, CorpusArguments(held_out=0))[0])
    train, held_out = load(text, CorpusArguments(held_out=7, streaming=True))
    assert isinstance(train, IterableDataset)
    assert sequences(held_out) == packed[:7]
    assert sorted(sequences(train)) == sorted(packed[7:])
    assert sequences(train) != packed[7:]


def test_rows_of_a_table_are_documents(tmp_path):
    path = tmp_path / "rows.jsonl"
    Dataset.from_dict({"text": ["a good film", "", "bad"], "other": [1, 2, 3]}).to_json(str(path))
    train, _ = load(path, CorpusArguments(held_out=0))
    assert len(train) == 2
    train, _ = load(path, CorpusArguments(held_out=0, documents="blank"))
    assert len(train) == 2
    assert train.column_names == ["input_ids"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_how_files_are_read_is_heard_for_plain_text(tmp_path, name):
    (tmp_path / name).write_bytes("text\nein müder Film\nnoch müder\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"utf-8"):
        load(tmp_path / name)
    train, _ = load(tmp_path / name, CorpusArguments(held_out=0), encoding="cp1252")
    assert "muder" in factories.tokenizer().decode(real(sequences(train)))


def test_an_evaluation_file_is_held_out(text):
    train, held_out = load(text / "a.txt", eval_file=str(text / "deep" / "b.txt"))
    packed = sequences(load(text, CorpusArguments(held_out=0))[0])
    assert sequences(train) + sequences(held_out) == packed


def test_few_sequences(text):
    assert len(load(text, max_train_samples=5)[0]) == 5
    assert len(sequences(load(text, CorpusArguments(streaming=True, held_out=7), max_train_samples=5)[0])) == 5


def test_fewer_than_wanted_are_held_out_with_a_warning(text, caplog):
    with caplog.at_level("WARNING"):
        train, held_out = load(text, CorpusArguments(held_out=100_000))
    assert abs(len(train) - len(held_out)) <= 1
    assert f"{len(held_out)} are held out, not 100000" in caplog.text


def test_it_is_tokenised_once(text, monkeypatch):
    first = sequences(load(text)[0])
    monkeypatch.setattr(corpus.Packer, "__call__", lambda *a: pytest.fail("tokenised again"))
    assert sequences(load(text)[0]) == first


def test_bad_input_is_refused(text, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "short.txt").write_text("film\n")
    for path, error, message in (
        (None, ValueError, "Give the text to learn from"),
        (tmp_path / "gone", FileNotFoundError, "gone does not exist"),
        (tmp_path / "gone.txt", FileNotFoundError, "does not exist"),
        (tmp_path / "empty.txt", ValueError, "There is no text in"),
        (tmp_path / "nothing", ValueError, "There is no text in"),
        (tmp_path / "short.txt", ValueError, "1 sequence of 16 tokens: there is too little"),
    ):
        with pytest.raises(error, match=message):
            load(path)
    with pytest.raises(ValueError, match=r"fewer than the 256 sequences of --held-out"):
        load(text, CorpusArguments(streaming=True))
    with pytest.raises(ValueError, match="No text column 'body': the data has the columns 'text"):
        load(text, text_column="body")


@pytest.mark.parametrize(
    ("arguments", "given", "max_steps", "message"),
    [
        (CorpusArguments(), {"test_file": "a.csv"}, 0, "--test-file is for tasks"),
        (CorpusArguments(), {"class_names": ["a"]}, 0, "--label-names is for tasks"),
        (CorpusArguments(), {"label_separator": ","}, 0, "--label-separator is for tasks"),
        (CorpusArguments(held_out=-1), {}, 0, "--held-out must not be negative"),
        (CorpusArguments(streaming=True), {}, 0, "say how long to train with --max-steps"),
    ],
)
def test_arguments_that_cannot_work(arguments, given, max_steps, message):
    with pytest.raises(ValueError, match=message):
        arguments.check(DataArguments(**given), max_steps)
