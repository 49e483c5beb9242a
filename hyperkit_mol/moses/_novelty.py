"""Which generated molecules are in the training set.

RDKit's canonical SMILES changed since 2020, so the stored training strings must be brought to today's form
before strings are compared. Of 1,584,663 only a few hundred differ; what is kept is the list of those, one
for each version of RDKit. The list for the version that hyperkit is tested with is in the package, any other
is computed once (some four core-minutes) and cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from rdkit import rdBase

from hyperkit_mol.moses import _cache, data
from hyperkit_mol.moses._workers import Job, Pool

_CHUNK = 5000


def _changes(train: Sequence[str], pool: Pool, done: Callable[[int, int], None] | None) -> dict[int, str]:
    """Canonical form by line of each training string that today's RDKit writes differently."""
    digest = _cache.sha256(data.split_path("train"))
    version = rdBase.rdkitVersion
    shipped = json.loads(files("hyperkit_mol.moses").joinpath("train_changes.json").read_text())
    if (shipped["train_sha256"], shipped["rdkit"]) == (digest, version):
        return dict(shipped["changes"])

    def build() -> list[tuple[int, str]]:
        chunks = [(list(train[at : at + _CHUNK]),) for at in range(0, len(train), _CHUNK)]
        finished = 0

        def tick(index: int) -> None:
            nonlocal finished
            finished += len(chunks[index][0])
            if done is not None:
                done(finished, len(train))

        forms = [
            form
            for part in pool.map(Job("hyperkit_mol.moses._chemistry", "Canonical"), chunks, done=tick)
            for form in part
        ]
        return [
            (line, new)
            for line, (old, new) in enumerate(zip(train, forms, strict=True))
            if new is not None and new != old
        ]

    def save(value: list[tuple[int, str]], path: Path) -> None:
        path.write_text(json.dumps(value))

    return dict(
        _cache.cached(
            f"train-changes-{digest[:16]}-rdkit{version}.json",
            build=build,
            save=save,
            load=lambda path: json.loads(path.read_text()),
        )
    )


def canonical_train(pool: Pool, done: Callable[[int, int], None] | None = None) -> Iterator[str]:
    """MOSES's training molecules as today's RDKit writes them.

    Parameters
    ----------
    pool : Pool
        Used where the list of changes must be computed first.
    done : callable, optional
        Called with (finished, total) meanwhile.
    """
    train = data.load_split("train")
    for line, form in _changes(train, pool, done).items():
        train[line] = form
    return iter(train)
