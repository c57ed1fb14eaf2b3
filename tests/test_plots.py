from __future__ import annotations

import struct
import sys

import pytest
import torch
from PIL import Image

from hf_tinybert.benchmark.comparison import Comparison, ModelFacts
from hf_tinybert.plots import attention_picture, comparison_picture, curves_picture, layers_picture, sizes_picture

Figure = pytest.importorskip("matplotlib.figure").Figure

TEACHER = ModelFacts("teacher", 100, 50, 90_000_000, 6.0, 0.9)
STUDENT = ModelFacts("student", 10, 5, 30_000_000, 2.0, 0.88)
UNKNOWN = ModelFacts("nobody", 100, 50)


@pytest.mark.parametrize(
    "models",
    [(TEACHER, STUDENT), (TEACHER, UNKNOWN), (UNKNOWN, UNKNOWN)],
    ids=["pair", "gap", "nothing measured"],
)
def test_writes_a_png_in_one_go(models, tmp_path):
    path = tmp_path / "comparison.png"
    path.write_text("old")
    comparison_picture(Comparison("accuracy", "test", 32, 1, *models), path, "Teacher and student")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1500, 540)
    assert data[-8:-4] == b"IEND"
    assert [p.name for p in tmp_path.iterdir()] == ["comparison.png"]


@pytest.fixture
def saved(monkeypatch):
    """The figures that are saved."""
    import matplotlib.figure

    figures = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda figure, *a, **k: save(figure, *a, **k) or figures.append(figure)
    )
    return figures


@pytest.fixture
def texts(monkeypatch):
    """Every text of the pictures that are saved."""
    import matplotlib.figure

    seen = []
    save = matplotlib.figure.Figure.savefig

    def savefig(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        seen.extend(text.get_text() for text in figure.findobj(matplotlib.text.Text))

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return seen


def test_shows_the_words_and_numbers(tmp_path, texts):
    comparison = Comparison("accuracy", "test", 32, 1, teacher=TEACHER, student=STUDENT)
    comparison_picture(comparison, tmp_path / "comparison.png", "Intents")
    for text in (
        "Intents",
        "teacher",
        "student",
        "test accuracy\n97.8% retained",
        "file size (MB)\n3.0 times smaller",
        "latency (ms, 32 tokens)\n3.0 times faster",
        "90.0%",
        "88.0%",
        "90",
        "30",
        "6.0",
        "2.0",
    ):
        assert text in texts, text


def test_what_was_not_measured_is_said(tmp_path, texts):
    comparison = Comparison("f1", "eval", 32, 1, teacher=TEACHER, student=UNKNOWN)
    comparison_picture(comparison, tmp_path / "comparison.png", "Intents")
    assert texts.count("not measured") == 3
    assert {"eval f1", "file size (MB)", "latency (ms, 32 tokens)"} <= set(texts)


def test_without_a_metric_there_is_still_a_picture(tmp_path, texts):
    comparison = Comparison("", "", 32, 1, teacher=UNKNOWN, student=UNKNOWN)
    comparison_picture(comparison, tmp_path / "comparison.png", "Sizes")
    assert "score" in texts


def test_matched_layers_have_rings(tmp_path, saved):
    layers_picture(torch.tensor([[1.0, 0.25, 0.5], [0.0, 0.75, 0.125]]), {0: 0, 1: 2}, tmp_path / "layers.png")
    (axis,) = saved[0].axes
    assert [tuple(rings.get_offsets()[0]) for rings in axis.collections] == [(0, 0), (2, 1)]
    places = {tuple(map(int, text.get_position())): text.get_text() for text in axis.texts}
    assert places == {(0, 0): "1.00", (1, 0): "0.25", (2, 0): "0.50", (0, 1): "0.00", (1, 1): "0.75", (2, 1): "0.12"}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["emb", "1", "2"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["emb", "1"]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("teacher's layer", "student's layer")


def test_losses_are_drawn_level_by_level(tmp_path, texts):
    history = [
        {"loss": 3.0, "loss_hidden_1": 2.0, "loss_hidden_2": 1.0, "loss_embedding": 0.5, "step": 5},
        {"eval_loss": 1.0, "step": 5},
        {"loss": 2.0, "loss_prediction": 2.0, "loss_hard_label": 1.0, "loss_of_a_callback": 1.0, "step": 10},
    ]
    curves_picture(history, tmp_path / "losses.png")
    for text in ("hidden", "embedding", "prediction", "hard label", "of a callback", "layer 1", "layer 2", "step"):
        assert text in texts, text
    assert "loss" not in texts
    assert (tmp_path / "losses.png").read_bytes()[:4] == b"\x89PNG"


def test_attention_is_drawn_side_by_side(tmp_path, texts):
    both = (torch.full((2, 2), 0.5), torch.eye(2))
    attention_picture(["[CLS]", "yes"], {(1, 3): both, (2, 6): both}, tmp_path / "attention.png")
    for text in ("teacher, layer 3", "student, layer 1", "teacher, layer 6", "student, layer 2", "[CLS]", "yes"):
        assert text in texts, text


def test_no_point_lies_on_the_edge(tmp_path, saved):
    comparison = Comparison("accuracy", "eval", 32, 1, teacher=TEACHER, student=STUDENT)
    sizes_picture({"student": comparison}, tmp_path / "sizes.png")
    (figure,) = saved
    for axis, largest in zip(figure.axes, (90, 6.0), strict=True):
        places = [tuple(dots.get_offsets()[0]) for dots in axis.collections]
        assert {x for x, _ in places} == {largest, largest / 3}
        for x, y in places:
            assert 0 < x < 0.9 * axis.get_xlim()[1]
            assert axis.get_ylim()[0] < y < axis.get_ylim()[1]


def test_pictures_are_narrow_enough_for_a_phone(tmp_path):
    """Shown 380 points wide, 8 points of a picture 6.4 inches wide are still 6.6."""
    history = [{f"loss_{level}": 1.0, "step": 1} for level in ("embedding", "hidden_1", "attention_1", "prediction")]
    curves_picture(history, tmp_path / "losses.png")
    maps = {(layer, layer): (torch.eye(15), torch.eye(15)) for layer in (1, 2, 3, 4)}
    attention_picture([f"word{number}" for number in range(15)], maps, tmp_path / "attention.png")
    for name in ("losses.png", "attention.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width <= 6.4 * 130 + 1, name


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"^A picture needs matplotlib: pip install 'hf-tinybert\[plots\]'\.$"):
        comparison_picture(Comparison("accuracy", "test", 32, 1, TEACHER, STUDENT), tmp_path / "x.png", "x")
    assert not list(tmp_path.iterdir())


def test_the_marker_of_the_highest_loss_is_whole(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig

    def saved(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    history = [{"loss_embedding": value, "step": step} for step, value in enumerate((0.032, 0.030, 0.031), start=1)]
    curves_picture(history, tmp_path / "losses.png")
    lowest, highest = figures[0].axes[0].get_ylim()
    assert lowest == 0
    assert highest > 1.05 * 0.032
