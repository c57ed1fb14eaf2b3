"""The page: metadata by the Hub's rules, and nothing that was not measured."""

from __future__ import annotations

import dataclasses

import hub_server
import pytest
from huggingface_hub import ModelCard

from hf_tinybert.benchmark.comparison import Comparison, ModelFacts
from hf_tinybert.layer_mapping import LayerMapping
from hf_tinybert.model_card import CardFacts, Scores, page, write
from hf_tinybert.models.loading import PIPELINE_TAGS

BARE = CardFacts(
    name="small",
    model_id="me/small",
    pipeline_tag="text-classification",
    teachers=["sha256:0123456789abcdef"],
    teacher_shape="BertForSequenceClassification with 12 layers, 768 wide",
    student_shape="BertForSequenceClassification with 4 layers, 312 wide",
)
FULL = dataclasses.replace(
    BARE,
    teachers=["me/teacher", "you/teacher"],
    levels=["embeddings", "hidden states"],
    mapping=LayerMapping({0: 0, 1: 3, 2: 6}),
    phases="first the intermediate layers, then the predictions",
    init="teacher",
    comparison=Comparison(
        "accuracy",
        "eval",
        32,
        2,
        teacher=ModelFacts("teacher", 110_000_000, 85_000_000, 440_000_000, 40.0, 0.9),
        student=ModelFacts("student", 14_350_000, 4_800_000, 57_000_000, 4.0, 0.87),
        machine="Some CPU",
    ),
    scores=[
        Scores(
            "eval", {"accuracy": 0.87, "agreement": 0.91, "kl": 0.1, "runtime": 3.0, "loss": 0.3}, {"accuracy": 0.9}
        )
    ],
    training_rows=10_000,
    arguments={"learning_rate": 1e-4},
    versions={"torch": "2.13.0"},
    max_length=512,
    language=["en", "de"],
    license="apache-2.0",
    tags=["requests"],
    datasets=["clinc_oos"],
    dataset_name="CLINC150",
    pictures={"pictures/losses.png": "The losses."},
)


def test_the_hub_takes_the_metadata_and_reads_the_results():
    card = page(FULL)
    assert hub_server.card_errors(str(card)) == []
    data = ModelCard(str(card)).data
    assert data.base_model == ["me/teacher", "you/teacher"]
    assert data["base_model_relation"] == "finetune"
    assert data.library_name == "transformers"
    assert data.language == ["en", "de"]
    assert {"tinybert", "requests"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("accuracy", 0.87, "clinc_oos")
    assert (result.dataset_name, result.dataset_split) == ("CLINC150", "eval")


def test_the_table_says_what_was_measured():
    text = page(FULL).text
    assert "| accuracy (eval) | 0.9000 | 0.8700 | 96.7% retained |" in text
    assert "| parameters | 110.0M | 14.3M | 7.7 times fewer |" in text
    assert "| size on disk | 440.0 MB | 57.0 MB | 7.7 times smaller |" in text
    assert "| latency, 32 tokens | 40.00 ms | 4.00 ms | 10.0 times faster |" in text
    assert "on Some CPU with 2 threads" in text
    assert "student and teacher agree on 91.0% of" in text
    assert "| layer 1 | layer 3 |" in text
    assert "![The losses.](pictures/losses.png)" in text
    assert "10,000" in text
    assert "runtime" not in text


def test_what_was_not_measured_is_left_out():
    card = page(BARE)
    assert hub_server.card_errors(str(card)) == []
    assert card.data.base_model is None
    assert "base_model" not in str(card)
    for word in ("retained", "faster", "| layer", "Training arguments", "None", "model-index", "sha256", "Matched"):
        assert word not in str(card), word
    assert "distilled from a model that is not on the Hub (BertForSequenceClassification with 12" in card.text


@pytest.mark.parametrize("tag", sorted(PIPELINE_TAGS.values()))
@pytest.mark.parametrize("facts", [BARE, FULL], ids=["bare", "full"])
def test_a_page_for_every_task(facts, tag):
    card = page(dataclasses.replace(facts, pipeline_tag=tag))
    assert hub_server.card_errors(str(card)) == []
    assert 'me/small")' in card.text
    assert "\n\n\n" not in card.text
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_teacher_that_was_not_measured_leaves_a_dash():
    scores = [Scores("eval", {"accuracy": 0.87})]
    assert "| accuracy (eval) | - | 0.8700 |  |" in page(dataclasses.replace(BARE, scores=scores)).text


def test_no_share_of_an_error_is_retained():
    scores = [Scores("eval", {"mse": 0.4, "pearson": 0.8}, {"mse": 0.2, "pearson": 0.9})]
    text = page(dataclasses.replace(BARE, scores=scores)).text
    assert "| mse (eval) | 0.2000 | 0.4000 |  |" in text
    assert "| pearson (eval) | 0.9000 | 0.8000 | 88.9% retained |" in text


def test_what_levels_measure_is_no_score_of_the_task():
    of_levels = {"loss_hidden_1": 1.0, "loss_vectors": 0.5, "cosine_hidden_12": 0.9, "attention_overlap_2": 0.8}
    of_levels["cosine_embedding"] = 0.95
    scores = Scores("eval", {"spearman": 0.8, **of_levels, "cosine_vectors": 0.9, "cosine_of_mine": 0.7})
    assert scores.names == ["spearman", "cosine_vectors", "cosine_of_mine"]


def test_teachers_on_the_hub_and_off_it_are_both_named():
    text = page(dataclasses.replace(BARE, teachers=["me/teacher", "sha256:0123"])).text
    assert "[me/teacher](https://huggingface.co/me/teacher) and a model that is not on the Hub" in text


@pytest.mark.parametrize(
    ("sentences", "words"), [(True, "SentenceTransformer("), (False, "AutoModel.from_pretrained(")]
)
def test_a_model_without_a_head_is_a_sentence_encoder_where_its_folder_says_so(sentences, words):
    text = page(dataclasses.replace(BARE, pipeline_tag="feature-extraction", sentences=sentences)).text
    assert words in text


def test_it_is_written_whole(tmp_path):
    write(FULL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == str(page(FULL))
