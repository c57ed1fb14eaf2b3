"""Which of a model's classes the labels of a data set are, by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from hf_tinybert.data.label_values import WHOLE, is_number, order_of


def class_ids(values: Iterable[str], names: Sequence[str], source: str, given: Sequence[str] = ()) -> dict[str, int]:
    """The number of a model's class for each label of a data set, by name.

    A label is the class of its name; `1.0` is the class `1`. Where the names say nothing of numbers, whole numbers
    from 0 are the classes' own; where each holds one number (`1 star`, ...), they are those. A model whose classes
    have no names but `LABEL_0`, ... takes them from `given`.

    Args:
        values: labels, without spaces around them.
        names: of the model's classes, in their order.
        source: of the labels, for messages.
        given: names for a model that has none.

    Raises:
        ValueError: a label is no class of the model; the message has both lists.
    """
    values = sorted(set(values), key=order_of)
    known = [str(name).strip() for name in names]
    unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(known))
    if unnamed and given:
        if len(given) != len(known):
            raise ValueError(f"--label-names has {len(given)} names, and the model {len(known)} classes.")
        known, unnamed = list(given), False
    by_name = {name: index for index, name in enumerate(known)}
    plain = {value: _plain(value) for value in values}
    found = [
        {value: by_name[value] for value in values if value in by_name},
        {value: by_name[one] for value, one in plain.items() if one in by_name},
    ]
    if all(WHOLE.fullmatch(one) for one in plain.values()):
        by_number = _numbers_of(known, unnamed)
        found.append({value: by_number[int(one)] for value, one in plain.items() if int(one) in by_number})
    best = max(found, key=len)
    if len(best) == len(values):
        return best
    advice = " Its classes have no names: give them with --label-names, in its order." if unnamed else ""
    unknown = [value for value in values if value not in best]
    raise ValueError(
        f"{source} has {len(unknown)} label(s) that the model was not trained for: {_listed(unknown, 5)}. "
        f"It knows: {_listed(known)}.{advice}"
    )


def _numbers_of(names: Sequence[str], unnamed: bool) -> dict[int, int]:
    """Number -> class: the only one in each name, or, where the names say nothing of numbers, the class's own."""
    numbers = [[] if unnamed else re.findall(r"[+-]?\d+", name) for name in names]
    if not any(numbers):
        return {index: index for index in range(len(names))}
    spoken = {int(found[0]): index for index, found in enumerate(numbers) if len(found) == 1}
    return spoken if len(spoken) == len(names) else {}


def _plain(value: str) -> str:
    """A whole number as it is written without decimals."""
    return (
        str(int(float(value)))
        if is_number(value) and math.isfinite(float(value)) and float(value).is_integer()
        else value
    )


def _listed(names: Sequence[str], at_most: int = 10) -> str:
    return ", ".join(names[:at_most]) + (", ..." if len(names) > at_most else "")
