"""Word vectors: reading files that people have, exact neighbours, and vectors made from a model's embeddings."""

from __future__ import annotations

import gzip
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from hf_tinybert.augmentation.word_vectors import WordVectors, whole_words

LINES = ["good 1 0.1", "bad -1 0.1", "great 1 0.2", "film 0 1", ". . 0.5 0.5", "movie 0.1 1"]


def written(path, lines, packed=False):
    text = "\n".join(lines) + "\n"
    if packed:
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def read(tmp_path, lines=LINES, name="vectors.txt", **kwargs):
    path = written(tmp_path / name, lines, packed=name.endswith(".gz"))
    return WordVectors.from_file(path, cache_dir=tmp_path / "cache", **kwargs)


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz"])
@pytest.mark.parametrize("header", [[], ["6 2"]])
def test_glove_and_word2vec_files(name, header, tmp_path):
    vectors = read(tmp_path, header + LINES, name)
    assert vectors.words == ["good", "bad", "great", "film", ". .", "movie"]
    assert vectors.neighbours(["good", "FILM", "unknown", ""], 1) == [["great"], ["movie"], [], []]
    assert read(tmp_path, header + LINES, name, max_words=2).words == ["good", "bad"]


def test_broken_lines_are_left_out_and_counted(tmp_path, caplog):
    broken = ["", "short 1", "word nan 1", "text a b", "zero 0 0", "good 5 5", " 1 2"]
    with caplog.at_level("WARNING"):
        vectors = read(tmp_path, LINES + broken)
    assert vectors.words == ["good", "bad", "great", "film", ". .", "movie"]
    assert "6 broken lines and 1 repeated words" in caplog.text


@pytest.mark.parametrize("lines", [[], ["no numbers here"], ["\x00\x01"]])
def test_a_file_without_vectors_is_refused(lines, tmp_path):
    with pytest.raises(ValueError, match="is a word and its numbers"):
        read(tmp_path, lines)
    assert not list(tmp_path.glob("cache/*"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt do not exist"):
        WordVectors.from_file(tmp_path / "nowhere.txt")


def test_the_index_is_kept_and_belongs_to_the_content(tmp_path):
    read(tmp_path)
    (kept,) = (tmp_path / "cache").iterdir()
    before = kept.stat().st_mtime_ns
    assert read(tmp_path).words == read(tmp_path).words
    assert kept.stat().st_mtime_ns == before
    assert read(tmp_path, ["other 1 2"]).words == ["other"]
    assert len(list((tmp_path / "cache").iterdir())) == 2


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 45), st.integers(0, 1000))
def test_neighbours_are_exact(n, d, k, seed):
    generator = np.random.default_rng(seed)
    table = generator.normal(size=(n, d)).astype(np.float32)
    vectors = WordVectors([f"w{number}" for number in range(n)], table)
    unit = vectors.unit.astype(np.float64)
    expected = [
        [f"w{other}" for other in np.argsort(-(unit @ unit[number]), kind="stable") if other != number][:k]
        for number in range(n)
    ]
    together = vectors.neighbours(vectors.words, k)
    assert [set(row) for row in together] == [set(row) for row in expected] or d == 1
    assert [vectors.neighbours([word], k)[0] for word in vectors.words] == together
    assert all(len(row) == min(k, n - 1) for row in together)


def test_keyed_vectors(tmp_path):
    keyed = SimpleNamespace(index_to_key=["a", "zero", "b", "c"], vectors=np.array([[1, 0], [0, 0], [1, 0.1], [0, 1]]))
    vectors = WordVectors.from_keyed_vectors(keyed)
    assert vectors.words == ["a", "b", "c"]
    assert vectors.neighbours(["a"], 5) == [["b", "c"]]


def test_a_models_embeddings(encoder, tokenizer):
    vectors = WordVectors.from_embeddings(AutoModel.from_pretrained(encoder), tokenizer)
    assert {"film", "monday", "quarter"} < set(vectors.words)
    assert not any(set("#[0123456789") & set(word) for word in vectors.words)
    (film, monday, several, nothing) = vectors.neighbours(["film", "Monday", "bedrooming", "😀"], 5)
    assert "films" in film
    assert {"tuesday", "sunday"} < set(monday)
    assert len(several) == 5
    assert nothing == []


def test_whole_words_are_words_by_themselves(tokenizer):
    whole = whole_words(tokenizer)
    assert tokenizer.convert_ids_to_tokens(whole["film"]) == "film"
    assert "##s" in tokenizer.get_vocab()
    assert "##s" not in whole
    assert len(whole) > 1000
    assert [tokenizer.tokenize(word) for word in list(whole)[::20]] == [[word] for word in list(whole)[::20]]
