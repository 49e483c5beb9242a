"""Reference and training molecules that are not MOSES's: read, computed once, cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hyperkit_mol.moses._chemistry import PROPERTIES
from hyperkit_mol.moses._features import chemistry_pass, chemnet_moments
from hyperkit_mol.moses._nearest import bit_columns
from hyperkit_mol.moses._reference import Reference, custom_reference
from hyperkit_mol.moses._smiles_file import read_smiles
from hyperkit_mol.moses._workers import Job, Pool

Progress = Callable[[str, int, int], None]
_CHUNK = 2000


def reference_from_file(
    path: Path, *, pool: Pool, batch_size: int, device: str, progress: Progress | None = None
) -> Reference:
    """Statistics of the molecules of a file, from the cache where the same molecules were seen before.

    Raises
    ------
    ValueError
        If fewer than two of its molecules are valid.
    """
    if not path.is_file():
        raise FileNotFoundError(f"reference {path}: no such file (give a file of SMILES, or 'moses')")
    smiles = read_smiles(path)

    def tick(stage: str) -> Callable[[int, int], None] | None:
        report = progress
        return None if report is None else (lambda done, total: report(stage, done, total))

    def compute(molecules: Sequence[str]) -> Reference:
        needed = {*PROPERTIES, "fingerprint", "fragments", "scaffold"}
        found = chemistry_pass(molecules, needed, pool=pool, progress=tick("reference"))
        if found.n_valid < 2:
            raise ValueError(f"reference {path}: needs at least 2 valid molecules, has {found.n_valid}")
        mean, covariance = chemnet_moments(
            found,
            device=device,
            n_jobs=pool.n_jobs,
            batch_size=batch_size,
            progress=tick("reference ChemNet"),
        )
        assert found.fingerprints is not None
        columns = bit_columns(np.unique(found.fingerprints, axis=0))
        values = {name: found.expand(found.values[name]) for name in PROPERTIES}
        return Reference(
            name=path.name,
            size=found.n_valid,
            mean=mean,
            covariance=covariance,
            columns=columns.columns,
            starts=columns.starts,
            popcounts=columns.popcounts,
            fragments=dict(found.fragments),
            scaffolds=dict(found.scaffolds),
            values={name: array[np.isfinite(array)] for name, array in values.items()},
        )

    return custom_reference(path.name, smiles, compute)


def canonical_strings(
    train: str | Path | Sequence[str],
    *,
    pool: Pool,
    progress: Callable[[int, int], None] | None = None,
) -> set[str]:
    """Canonical SMILES of training molecules given as a file or a list; invalid ones are left out."""
    if isinstance(train, str | Path):
        train = read_smiles(train)
    distinct = list(dict.fromkeys(train))
    chunks = [(distinct[at : at + _CHUNK],) for at in range(0, len(distinct), _CHUNK)]
    finished = 0

    def tick(index: int) -> None:
        nonlocal finished
        finished += len(chunks[index][0])
        if progress is not None:
            progress(finished, len(distinct))

    parts = pool.map(Job("hyperkit_mol.moses._chemistry", "Canonical"), chunks, done=tick)
    return {form for part in parts for form in part if form is not None}
