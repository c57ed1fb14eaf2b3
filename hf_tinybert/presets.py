"""The named sizes of students; light to import, for `--help`."""

from __future__ import annotations

#: name -> (layers, hidden size, feed-forward size, heads). The first two are the paper's (table 1).
PRESETS: dict[str, dict[str, int]] = {
    name: {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_attention_heads": heads,
    }
    for name, (layers, hidden, feed_forward, heads) in {
        "tinybert-4l-312d": (4, 312, 1200, 12),
        "tinybert-6l-768d": (6, 768, 3072, 12),
        "tinybert-6l-384d": (6, 384, 1536, 12),
        "tinybert-3l-384d": (3, 384, 1536, 12),
        "tinybert-3l-192d": (3, 192, 768, 12),
        "tinybert-6l-168d": (6, 168, 384, 12),
    }.items()
}
DEFAULT_PRESET = "tinybert-4l-312d"


def preset_sizes(name: str) -> dict[str, int]:
    """The sizes of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {name!r}; the presets are {', '.join(PRESETS)}.")
    return dict(PRESETS[name])
