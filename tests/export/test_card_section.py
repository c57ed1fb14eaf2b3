"""What a card says of ONNX files: what was measured, once, and the rest of the page as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factories
import hub_server
import pytest
from huggingface_hub import ModelCard

from hf_tinybert.export import Export, ExportedFile, export_onnx, exporters
from hf_tinybert.export.card_section import with_section
from hf_tinybert.model_card import CardFacts, Scores, write
from hf_tinybert.utils.latency import machine_name

EXPORT = Export(
    folder=Path("somewhere/mine"),
    exporter="optimum",
    files={
        "fp32": ExportedFile("onnx/model.onnx", None, None, 3.8e-6, 57_500_000, 9.004, {"accuracy (eval)": 0.81}),
        "int8": ExportedFile(
            "onnx/model_quantized.onnx", "O2", "dynamic", 0.59, 14_600_000, 4.2, {"accuracy (eval)": 0.8067}
        ),
    },
    length=128,
    machine="Some CPU",
    threads=2,
)
FACTS = CardFacts(
    name="small",
    model_id="me/small",
    pipeline_tag="text-classification",
    teachers=["me/teacher"],
    teacher_shape="BertForSequenceClassification with 12 layers, 768 wide",
    student_shape="BertForSequenceClassification with 4 layers, 312 wide",
    scores=[Scores("eval", {"accuracy": 0.81}, {"accuracy": 0.9})],
    phases="the layers alone",
    tags=["requests"],
)


@pytest.fixture
def card(tmp_path):
    write(FACTS, tmp_path)
    return (tmp_path / "README.md").read_text(encoding="utf-8")


def test_figures_and_examples(card):
    page = with_section(card, EXPORT, "text-classification")
    assert "| `onnx/model.onnx` | float32 | 57.5 MB | 3.8e-06 | 0.8100 | 9.00 ms |" in page
    assert (
        "| `onnx/model_quantized.onnx` | 8-bit, dynamic, fused operators | 14.6 MB | 0.59 | 0.8067 | 4.20 ms |" in page
    )
    assert "in ONNX Runtime on Some CPU with 2 threads." in page
    assert 'from_pretrained("me/small", subfolder="onnx", file_name="model_quantized.onnx")' in page
    assert 'await pipeline("text-classification", "me/small", { dtype: "q8" })' in page
    assert page.index("## How to use") < page.index("## ONNX and the browser") < page.index("## How it was made")
    assert "somewhere" not in page


def test_the_rest_stays_and_the_hub_takes_it(card):
    page = with_section(card, EXPORT, "text-classification")
    before, after = ModelCard(card), ModelCard(page)
    assert after.data.tags == [*before.data.tags, "onnx", "transformers.js"]
    known, now = before.data.to_dict(), after.data.to_dict()
    assert known | {"tags": None} == now | {"tags": None}
    assert hub_server.card_errors(page) == []
    start, end = page.index("<!-- onnx -->"), page.index("<!-- /onnx -->")
    left = page[:start].rstrip() + "\n\n" + page[end + len("<!-- /onnx -->") :].lstrip()
    assert ModelCard(left).text.strip() == before.text.strip()


def test_again_it_takes_the_place_of_the_old(card):
    once = with_section(card, EXPORT, "text-classification")
    assert with_section(once, EXPORT, "text-classification") == once
    other = Export(EXPORT.folder, "torch", {"fp32": EXPORT.files["fp32"]}, 64, "Other CPU", 1)
    again = with_section(once, other, "text-classification")
    assert again.count("## ONNX and the browser") == 1
    assert "Some CPU" not in again
    assert "on Other CPU with 1 thread." in again
    assert '{ dtype: "fp32" }' in again


@pytest.mark.parametrize(
    "page", ["", "Mine.\n", "# Mine\n\n## How it was made\n\nBy hand.\n", "---\na: [\n---\nMine.\n"]
)
def test_a_page_of_the_users_own(page):
    found = with_section(page, EXPORT, "question-answering")
    assert page.strip() in found.replace(found[found.index("<!-- onnx") : found.index("<!-- /onnx -->") + 16], "")
    assert "ORTModelForQuestionAnswering" in found
    assert '"mine"' in found


def test_a_section_whose_end_was_lost_takes_nothing_with_it(card):
    once = with_section(card, EXPORT, "text-classification")
    again = with_section(once.replace("<!-- /onnx -->", ""), EXPORT, "text-classification")
    assert "## Limits" in again
    assert "## Citation" in again


@pytest.mark.also_transformers("4.57")
@pytest.mark.skipif(not exporters.has_optimum(), reason="Optimum's ONNX Runtime models need transformers 4")
def test_the_example_runs(processes, classifier_folder, tmp_path):
    """The Python of the page, in a process of its own, beside the folder that it names."""
    shutil.copytree(classifier_folder, tmp_path / "small")
    (tmp_path / "small" / "README.md").write_text("# Mine\n", encoding="utf-8")
    done = export_onnx(tmp_path / "small", quantize="int8", threads=2)
    assert done.machine == machine_name("cpu")
    assert done.threads == 2
    page = (tmp_path / "small" / "README.md").read_text(encoding="utf-8")
    assert f"in ONNX Runtime on {done.machine} with 2 threads." in page
    code = page.split("```python\n")[1].split("```")[0]
    code += '\nimport json\nprint("ANSWER", json.dumps(pipe("I did not expect to like it.")))\n'
    ran = processes.run("-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.output
    (answer,) = json.loads(ran.stdout.split("ANSWER")[1])
    assert answer["label"] in factories.intents()
    assert 1 / 12 < answer["score"] <= 1
