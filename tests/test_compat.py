from __future__ import annotations

import pytest
from transformers import TrainingArguments

from hf_tinybert import DistillationTrainingArguments, compat


@pytest.mark.parametrize("cls", [TrainingArguments, DistillationTrainingArguments])
def test_grouping_by_length_in_this_versions_spelling(tmp_path, cls):
    plain = cls(output_dir=str(tmp_path))
    grouped = cls(output_dir=str(tmp_path), **compat.group_by_length_argument())
    assert not compat.groups_by_length(plain)
    assert compat.groups_by_length(grouped)


def test_grouping_survives_json(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), **compat.group_by_length_argument())
    assert compat.groups_by_length(TrainingArguments(**args.to_dict()))


def test_warm_up_is_a_share_of_the_steps(tmp_path, recwarn):
    args = TrainingArguments(output_dir=str(tmp_path), **compat.warmup_argument(0.1))
    assert args.get_warmup_steps(200) == 20
    none = TrainingArguments(output_dir=str(tmp_path), **compat.warmup_argument(0.0))
    assert none.get_warmup_steps(200) == 0
    assert not [w for w in recwarn if "warmup" in str(w.message)]
