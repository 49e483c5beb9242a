"""MkDocs hook: pages of parts that a checkout does not have are left out of the navigation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Pages that come with a part of the repository; every other page must be there.
PARTS = {"kernels.md", "graphs.md", "geometry/results.md", "model-card.md"}


def _there(entries: list[Any], folder: Path) -> list[Any]:
    out = []
    for entry in entries:
        title, target = next(iter(entry.items()))
        if isinstance(target, list):
            out.append({title: _there(target, folder)})
        elif target not in PARTS or (folder / target).exists():
            out.append(entry)
    return out


def on_config(config: Any) -> Any:
    """Called when the configuration has been read."""
    config["nav"] = _there(config["nav"], Path(config["docs_dir"]))
    return config
