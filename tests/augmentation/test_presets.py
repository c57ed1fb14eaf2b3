import pytest

from hf_tinybert.augmentation import paper_settings


@pytest.mark.parametrize(("task", "n"), [("sst2", 20), ("cola", 30), ("rte", 30), ("mnli", 10), ("qqp", 10)])
def test_the_papers_numbers(task, n):
    assert paper_settings(task) == {"n": n, "k": 15, "p": 0.4}


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="no settings for 'sst-2', expected one of cola, sst2"):
        paper_settings("sst-2")
