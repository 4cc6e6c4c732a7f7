"""danlu: raw zh/en text to a served chat model, with proof of what each step did.

    import danlu

    model = danlu.load("runs/tiny")
    model.chat([{"role": "user", "content": "你好"}])

    recipe = danlu.load_recipe("recipes/tiny.yaml", ["out=runs/mine"])
    danlu.run(recipe)

`danlu.stages` has one function a stage, with the settings that the recipe's sections have.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "load": ("danlu.infer.model", "load"),
    "load_recipe": ("danlu.recipe.settings", "load_recipe"),
    "run": ("danlu.recipe.run", "run_recipe"),
    "stages": ("danlu.recipe.stages", None),
}


def __getattr__(name: str) -> Any:
    """Gives the names above when they are first asked for, so that importing danlu loads nothing heavy."""
    if name not in _PLACES:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    module, member = _PLACES[name]
    loaded = importlib.import_module(module)
    return getattr(loaded, member) if member else loaded
