"""Tags of words: entities, parts of speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_tinybert.data import loading
from hf_tinybert.data.class_ids import class_ids
from hf_tinybert.data.label_values import MULTI_LABEL, LabelValues, flat, order_of
from hf_tinybert.data.loading import pick_column
from hf_tinybert.evaluation import metrics
from hf_tinybert.tasks.label_names import Labels, named
from hf_tinybert.tasks.task import Encoded, LazyAutoClass, Metric, Task, View
from hf_tinybert.utils.types import Columns

if TYPE_CHECKING:  # data are read without models
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedTokenizerBase

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "tags", "labels", "pos_tags")
#: Label of word pieces and special tokens that no loss and no metric looks at.
IGNORED = -100


class TokenClassification(Task):
    """A tag for each word; of a word's pieces the first one carries it.

    A text that is longer than the model's input is read in windows that overlap by `--doc-stride` tokens, or by half a
    window where that is less.
    """

    _names: tuple[str, ...] = ()
    auto = LazyAutoClass("AutoModelForTokenClassification")
    single_words = True

    def _check(self, splits: DatasetDict) -> DatasetDict:
        first, source = self.first(splits)
        self.words = pick_column(first, self.args.text_column, WORDS, "words", "--text-column", source)
        self.tags = pick_column(first, self.args.label_column, TAGS, "tags", "--label-column", source)
        return DatasetDict({name: self._read(name, dataset) for name, dataset in splits.items()})

    def _read(self, name: str, dataset: Dataset) -> Dataset:
        """A split with a list of words and a list of names of tags in each row."""
        loading.require_columns(name, dataset, (self.words, self.tags))
        invalid = self.invalid_rows(name)
        words, no_words = loading.lists_of_words(dataset, self.words, invalid)
        tags, no_tags = loading.lists_of_words(dataset, self.tags, invalid)
        rows = []
        for row in sorted(set(range(len(dataset))) - no_words - no_tags):
            if len(words[row]) != len(tags[row]):
                why = f"there are {len(words[row])} words in {self.words!r} and {len(tags[row])} tags in {self.tags!r}"
                invalid.found(f"row {row + 1}", why)
            else:
                rows.append(row)
        invalid.say()
        feature = getattr(dataset.features[self.tags], "feature", None)
        self._names = self._names or tuple(feature.names if isinstance(feature, ClassLabel) else ())
        kind = Features({self.words: List(Value("string")), self.tags: List(Value("string"))})
        columns = {
            self.words: [words[row] for row in rows],
            self.tags: [[t.strip() for t in tags[row]] for row in rows],
        }
        return Dataset.from_dict(columns, kind)

    def view(self, split: str) -> View:
        """Words and tags of a split."""
        dataset = self.splits[split]
        tags = list(dataset[self.tags])
        counts = Counter(tag for row in tags for tag in row)
        classes = Counter({name: counts[name] for name in sorted(counts, key=order_of)})
        texts = [(" ".join(words),) for words in dataset[self.words]]
        columns = [("words", self.words), ("tags", self.tags)]
        labels = [" ".join(row) for row in tags]
        return View("a tag for each word", columns, texts, labels, classes, in_windows=True)

    def config_kwargs(self) -> dict[str, object]:
        """Tags as the training data have them, sorted unless they are a ClassLabel."""
        rows = list(self.splits["train"][self.tags])
        found = LabelValues(MULTI_LABEL, rows, list(range(len(rows))), self._names)
        return named(
            Labels.from_values(found, f"The column {self.tags!r}", loading.words(self.args.class_names)).names or ()
        )

    def encode(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Encoded:
        """Word pieces, and the tag of each word at its first piece."""
        from transformers import DataCollatorForTokenClassification

        from hf_tinybert.models.loading import loses_spaces

        if not tokenizer.is_fast:
            raise ValueError("Token classification needs a fast tokenizer, which knows the words of its pieces.")
        if loses_spaces(tokenizer):
            raise ValueError(
                "This tokenizer would read words without the space that belongs to them: load it with "
                "add_prefix_space=True."
            )
        names = [config.id2label[index] for index in range(config.num_labels)]
        metrics.check_tags(names)
        encoded, measures = DatasetDict(), {}
        for name, dataset in self.examples.items():
            windows = self._windows(dataset, self._tag_ids(name, names), tokenizer, name)
            measures[name] = metric_of(names, list(windows["row"]))
            encoded[name] = windows.remove_columns(["row"])
        collator = DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8)
        leading = "f1" if metrics.are_entities(names) else "accuracy"
        return Encoded(encoded, collator, leading, measures, metrics.most_likely)

    def check_labels(self, config: PretrainedConfig) -> None:
        """Refuse tags that a model does not know."""
        for name in self.splits:
            self._tag_ids(name, [config.id2label[index] for index in range(config.num_labels)])

    def _tag_ids(self, name: str, names: list[str]) -> Mapping[str, int]:
        """The model's number of every tag of a split.

        Raises:
            ValueError: the model does not know a tag.
        """
        tags = flat(self.splits[name][self.tags])
        return class_ids(tags, names, f"The {name} data", loading.words(self.args.class_names))

    def _windows(
        self, dataset: Dataset, ids: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, name: str
    ) -> Dataset:
        """Word pieces of every text, in overlapping windows where it is long; `row` is the text's number."""
        length = self.args.max_length
        room = length - tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise ValueError(f"--max-length {length} leaves no room for a word beside the special tokens.")
        stride = min(self.args.doc_stride, room // 2)

        def tokenize(batch: Columns, numbers: list[int]) -> Columns:
            pieces = tokenizer(
                batch[self.words],
                is_split_into_words=True,
                truncation=True,
                max_length=length,
                stride=stride,
                return_overflowing_tokens=True,
            )
            of_row = pieces.pop("overflow_to_sample_mapping")
            words: list[list[list[int | None]]] = [[] for _ in numbers]
            for window, row in enumerate(of_row):
                words[row].append(pieces.word_ids(window))
            found: list[list[int]] = []
            for windows, tags in zip(words, cast("list[list[str]]", batch[self.tags]), strict=True):
                found += tags_of_windows(windows, [ids[tag] for tag in tags], stride)
            return {**pieces, "labels": found, "row": [numbers[row] for row in of_row]}

        return dataset.map(
            tokenize,
            batched=True,
            with_indices=True,
            remove_columns=dataset.column_names,
            desc=f"Tokenising {name}",
        )


def metric_of(names: list[str], rows: Sequence[int]) -> Metric:
    """The accuracy over words and, for tags such as B-person, the F1 of whole entities.

    Args:
        names: of the tags.
        rows: the text of each window; windows of one text follow each other.
    """

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        chosen, gold = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        return metrics.tags(*_whole_texts(chosen, gold, rows), names)

    return measure


def _whole_texts(
    chosen: npt.NDArray[np.int64], gold: npt.NDArray[np.int64], rows: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Predicted and right tags `[texts, words]`, of the words of all windows of a text; `IGNORED` behind its end."""
    kept = gold != IGNORED
    texts: dict[int, list[int]] = {}
    for window, row in enumerate(rows):
        texts.setdefault(row, []).append(window)
    longest = max(int(kept[windows].sum()) for windows in texts.values())
    whole = [np.full((len(texts), longest), IGNORED, dtype=np.int64) for _ in range(2)]
    for number, windows in enumerate(texts.values()):
        mask = kept[windows]
        for tags, of_window in zip(whole, (chosen, gold), strict=True):
            values = of_window[windows][mask]
            tags[number, : len(values)] = values
    return whole[0], whole[1]


def tags_of_windows(windows: Sequence[Sequence[int | None]], tags: Sequence[int], stride: int) -> list[list[int]]:
    """The tag of each word of a text at its first piece, in the window that shows most around it; `IGNORED` elsewhere.

    Args:
        windows: of each piece of each window its word, None for a special token.
        tags: of the words.
        stride: number of pieces by which consecutive windows overlap.
    """
    places = [[place for place, word in enumerate(window) if word is not None] for window in windows]
    starts, start = [], 0
    for inside in places:
        starts.append(start)
        start += len(inside) - stride
    total = starts[-1] + len(places[-1])
    words: dict[int, int] = {}
    for window, inside, first in zip(windows, places, starts, strict=True):
        for offset, place in enumerate(inside):
            word = window[place]
            assert word is not None
            words[first + offset] = word
    found = [[IGNORED] * len(window) for window in windows]
    for piece, word in words.items():
        if words.get(piece - 1) == word:
            continue
        shown = []
        for number, (inside, first) in enumerate(zip(places, starts, strict=True)):
            last = first + len(inside) - 1
            if first <= piece <= last:
                before = piece - first if first else total
                after = last - piece if last < total - 1 else total
                shown.append((min(before, after), -number))
        number = -max(shown)[1]
        found[number][places[number][piece - starts[number]]] = tags[word]
    return found
