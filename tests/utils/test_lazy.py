from __future__ import annotations

import sys
import types

import pytest

from hf_tinybert.utils.lazy import lazy_names


def test_a_name_is_imported_when_it_is_first_used(tmp_path, monkeypatch):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text(
        "from hf_tinybert.utils.lazy import lazy_names\n"
        "__getattr__, __dir__ = lazy_names(__name__, {'Bread': 'bakery', 'bakery': 'bakery'})\n"
    )
    (tmp_path / "shop" / "bakery.py").write_text("class Bread: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import shop

    assert "shop.bakery" not in sys.modules
    assert {"Bread", "bakery"} <= set(dir(shop))
    assert shop.Bread.__module__ == "shop.bakery"
    assert vars(shop)["Bread"] is shop.Bread
    assert isinstance(shop.bakery, types.ModuleType)
    with pytest.raises(AttributeError, match="module 'shop' has no attribute 'Cheese'"):
        _ = shop.Cheese
    for name in ("shop", "shop.bakery"):
        monkeypatch.delitem(sys.modules, name)


def test_what_is_listed_is_there():
    get, names = lazy_names("hf_tinybert", {"LayerMapping": "layer_mapping"})
    assert "LayerMapping" in names()
    assert get("LayerMapping").__name__ == "LayerMapping"
