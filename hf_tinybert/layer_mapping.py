"""The layer mapping: the function g(m) of the paper (section 3.1), from student layers to teacher layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

STRATEGIES = ("uniform", "first", "last")


class LayerMapping(Mapping[int, int]):
    """A mapping g from student layers to teacher layers.

    Layer 0 is the embedding block, layers 1..M (student) and 1..N (teacher) are the transformer layers,
    counted as in the paper. A student layer without an entry gets no embedding, hidden or attention loss.
    The prediction level is always matched (g(M + 1) = N + 1) and is not part of the mapping.

    Args:
        pairs: `{student_layer: teacher_layer}`, for example `{0: 0, 1: 3, 2: 6, 3: 9, 4: 12}`.

    Raises:
        ValueError: a layer is not an integer, is negative, or the embedding block is paired with a layer.
    """

    def __init__(self, pairs: Mapping[int, int]) -> None:
        """Check the pairs as far as that is possible without the models."""
        checked: dict[int, int] = {}
        for student, teacher in pairs.items():
            if isinstance(student, bool) or isinstance(teacher, bool):
                raise ValueError(f"Layer mapping: layers are whole numbers, got {student!r}: {teacher!r}.")
            try:
                checked[int(str(student))] = int(str(teacher))
            except ValueError:
                raise ValueError(f"Layer mapping: layers are whole numbers, got {student!r}: {teacher!r}.") from None
        if not checked:
            raise ValueError("Layer mapping: no layers given, expected for example {0: 0, 1: 3, 2: 6}.")
        for student, teacher in checked.items():
            if student < 0 or teacher < 0:
                raise ValueError(f"Layer mapping: layers count from 0 (the embeddings), got {student}:{teacher}.")
            if (student == 0) != (teacher == 0):
                raise ValueError(
                    f"Layer mapping: the embedding block (0) can only be matched with the embedding block, "
                    f"got {student}:{teacher}."
                )
        self._pairs = dict(sorted(checked.items()))

    @classmethod
    def uniform(cls, student_layers: int, teacher_layers: int) -> LayerMapping:
        """The paper's mapping, g(m) = m * N / M, rounded down where M does not divide N.

        12 to 4 gives 3, 6, 9, 12; 6 to 4 gives 1, 3, 4, 6. The last layers are always matched with each other.
        """
        cls._check_depths("uniform", student_layers, teacher_layers)
        return cls({m: m * teacher_layers // student_layers for m in range(student_layers + 1)})

    @classmethod
    def first(cls, student_layers: int, teacher_layers: int) -> LayerMapping:
        """The teacher's first M layers, g(m) = m (the paper's "bottom" mapping, table 4)."""
        cls._check_depths("first", student_layers, teacher_layers)
        return cls({m: m for m in range(student_layers + 1)})

    @classmethod
    def last(cls, student_layers: int, teacher_layers: int) -> LayerMapping:
        """The teacher's last M layers, g(m) = m + N - M (the paper's "top" mapping, table 4)."""
        cls._check_depths("last", student_layers, teacher_layers)
        shift = teacher_layers - student_layers
        return cls({0: 0} | {m: m + shift for m in range(1, student_layers + 1)})

    @classmethod
    def parse(cls, text: str) -> LayerMapping:
        """Read an explicit mapping written as `"0:0,1:3,2:6"`.

        Raises:
            ValueError: the text is not a comma-separated list of `student:teacher` pairs.
        """
        pairs: dict[int, int] = {}
        for part in text.split(","):
            student, colon, teacher = part.strip().partition(":")
            if not (colon and student.strip().isdigit() and teacher.strip().isdigit()):
                raise ValueError(
                    f"Layer mapping {text!r}: expected one of {', '.join(STRATEGIES)}, or pairs "
                    f"student:teacher such as '0:0,1:3,2:6,3:9,4:12'; could not read {part.strip()!r}."
                )
            if int(student) in pairs:
                raise ValueError(f"Layer mapping {text!r}: student layer {int(student)} is given twice.")
            pairs[int(student)] = int(teacher)
        return cls(pairs)

    @classmethod
    def from_spec(
        cls, spec: str | Mapping[int, int] | LayerMapping, student_layers: int, teacher_layers: int
    ) -> LayerMapping:
        """Make a mapping from a strategy name, a written mapping or a dict, checked against both depths.

        Args:
            spec: `"uniform"`, `"first"`, `"last"`, `"0:0,1:3,..."` or `{0: 0, 1: 3, ...}`.
            student_layers: M, the number of the student's transformer layers.
            teacher_layers: N, the number of the teacher's transformer layers.

        Raises:
            ValueError: the spec cannot be read, or names a layer that a model does not have.
        """
        if isinstance(spec, str):
            name = spec.strip().lower()
            if name in STRATEGIES:
                mapping: LayerMapping = getattr(cls, name)(student_layers, teacher_layers)
            else:
                mapping = cls.parse(spec)
        elif isinstance(spec, Mapping):
            mapping = cls(spec)
        else:
            raise ValueError(f"Layer mapping: expected a name, pairs as text or a dict, got {spec!r}.")
        return mapping.validate(student_layers, teacher_layers)

    def validate(self, student_layers: int, teacher_layers: int) -> LayerMapping:
        """Return self if every layer exists in its model, raise a ValueError showing both ranges if not."""
        for student, teacher in self._pairs.items():
            if student > student_layers or teacher > teacher_layers:
                raise ValueError(
                    f"Layer mapping {student}:{teacher} is out of range: the student has layers "
                    f"0..{student_layers} and the teacher 0..{teacher_layers} (0 is the embedding block)."
                )
        return self

    @staticmethod
    def _check_depths(name: str, student_layers: int, teacher_layers: int) -> None:
        if not 1 <= student_layers <= teacher_layers:
            raise ValueError(
                f"The {name!r} mapping needs a student with 1 to {teacher_layers} layers (the teacher has "
                f"{teacher_layers}), got {student_layers}. Give an explicit mapping for a deeper student."
            )

    @property
    def has_embeddings(self) -> bool:
        """Whether the embedding level (0:0) is matched."""
        return 0 in self._pairs

    @property
    def layers(self) -> dict[int, int]:
        """The pairs of transformer layers, without the embedding block."""
        return {student: teacher for student, teacher in self._pairs.items() if student > 0}

    def to_string(self) -> str:
        """The mapping as it is written on the command line, `"0:0,1:3,..."`."""
        return ",".join(f"{student}:{teacher}" for student, teacher in self._pairs.items())

    def __getitem__(self, student_layer: int) -> int:
        """The teacher layer of a student layer."""
        return self._pairs[student_layer]

    def __iter__(self) -> Iterator[int]:
        """Iterate over the mapped student layers, in order."""
        return iter(self._pairs)

    def __len__(self) -> int:
        """The number of mapped student layers, the embedding block included."""
        return len(self._pairs)

    def __eq__(self, other: object) -> bool:
        """Equal to any mapping of the same pairs."""
        return isinstance(other, Mapping) and self._pairs == dict(other)

    def __hash__(self) -> int:
        """Hash of the pairs."""
        return hash(tuple(self._pairs.items()))

    def __repr__(self) -> str:
        """`LayerMapping({0: 0, 1: 3})`."""
        return f"LayerMapping({self._pairs})"

    def __str__(self) -> str:
        """A table with a row for every mapped student layer."""
        rows = [("student", "teacher")]
        for student, teacher in self._pairs.items():
            rows.append(("embeddings", "embeddings") if student == 0 else (f"layer {student}", f"layer {teacher}"))
        width = max(len(left) for left, _ in rows)
        return "\n".join(f"{left:<{width}}  {right}" for left, right in rows)
