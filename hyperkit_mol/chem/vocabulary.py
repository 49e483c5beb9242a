"""The vocabulary: motifs, and labels, a label being a motif with the atom by which it hangs on its parent."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rdkit import Chem

from hyperkit_mol.chem.motif import AtomKind, Motif

__all__ = ["Vocabulary", "VocabularyError"]

_FORMAT = "hyperkit-vocabulary/1"


class VocabularyError(ValueError):
    """A vocabulary file that cannot be used."""


class Vocabulary:
    """Motifs and labels by falling frequency.

    Parameters
    ----------
    motifs : list of str
        Canonical SMILES.
    labels : list of (int, int)
        ``(motif, attach)``; ``attach`` is -1 for a root.
    label_counts : list of int
        How often each label was seen.
    """

    def __init__(
        self, motifs: list[str], labels: list[tuple[int, int]], label_counts: list[int] | None = None
    ) -> None:
        if not motifs or not labels:
            raise VocabularyError("a vocabulary needs at least one motif and one label")
        self.smiles = list(motifs)
        self.motifs = [Motif.from_smiles(s) for s in motifs]
        self.labels = [(int(m), int(a)) for m, a in labels]
        self.label_counts = list(label_counts) if label_counts is not None else [1] * len(labels)
        for m, a in self.labels:
            if not 0 <= m < len(motifs) or not -1 <= a < len(self.motifs[m]):
                raise VocabularyError(f"label ({m}, {a}) names a motif or an atom that does not exist")
        self._motif_id = {s: i for i, s in enumerate(self.smiles)}

    # -- building ---------------------------------------------------------------------------------------

    @classmethod
    def from_counts(cls, counts: Counter[tuple[str, int]], min_count: int = 1) -> Vocabulary:
        """Keep what was seen at least `min_count` times.

        A motif must reach the count by all its labels together; of a motif that is kept, every label seen is.
        """
        by_motif: Counter[str] = Counter()
        for (smiles, _), k in counts.items():
            by_motif[smiles] += k
        kept = sorted((s for s, k in by_motif.items() if k >= min_count), key=lambda s: (-by_motif[s], s))
        if not kept:
            raise VocabularyError(f"no motif was seen min_count = {min_count} times; lower min_count")
        index = {s: i for i, s in enumerate(kept)}
        labels = sorted(
            ((index[s], a, k) for (s, a), k in counts.items() if s in index),
            key=lambda row: (-row[2], row[0], row[1]),
        )
        return cls(kept, [(m, a) for m, a, _ in labels], [k for _, _, k in labels])

    # -- tables -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.motifs)

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return len(self.labels)

    @cached_property
    def label_motif(self) -> npt.NDArray[np.int64]:
        """Motif of each label, ``(num_labels,)``."""
        return np.array([m for m, _ in self.labels], dtype=np.int64)

    @cached_property
    def label_attach(self) -> npt.NDArray[np.int64]:
        """Attachment atom of each label, -1 for roots, ``(num_labels,)``."""
        return np.array([a for _, a in self.labels], dtype=np.int64)

    @cached_property
    def motif_size(self) -> npt.NDArray[np.int64]:
        """Heavy atoms of each motif."""
        return np.array([len(m) for m in self.motifs], dtype=np.int64)

    @cached_property
    def atom_offset(self) -> npt.NDArray[np.int64]:
        """Where each motif's atoms begin in the table of all motif atoms ("sites"), ``(motifs + 1,)``."""
        return np.concatenate([[0], np.cumsum(self.motif_size)])

    @cached_property
    def site_hydrogens(self) -> npt.NDArray[np.int64]:
        """Attachments that each site can take."""
        return np.array([a.hydrogens for m in self.motifs for a in m.atoms], dtype=np.int64)

    @cached_property
    def label_mass(self) -> npt.NDArray[np.float64]:
        """Molar mass that a node of each label adds, g/mol: its motif less two hydrogens for its bond."""
        table = Chem.GetPeriodicTable()
        hydrogen = table.GetAtomicWeight(1)

        def mass(a: AtomKind) -> float:
            own = (
                table.GetMassForIsotope(a.number, a.isotope) if a.isotope else table.GetAtomicWeight(a.number)
            )
            return own + hydrogen * a.hydrogens

        whole = [sum(map(mass, m.atoms)) for m in self.motifs]
        return np.array([whole[m] - (2 * hydrogen if a >= 0 else 0) for m, a in self.labels])

    @cached_property
    def atom_kinds(self) -> list[AtomKind]:
        """Distinct atom kinds, in a fixed order."""
        return sorted({a for m in self.motifs for a in m.atoms}, key=lambda k: (k.number, str(k)))

    @cached_property
    def site_kind(self) -> npt.NDArray[np.int64]:
        """Index into :attr:`atom_kinds` of each site."""
        index = {k: i for i, k in enumerate(self.atom_kinds)}
        return np.array([index[a] for m in self.motifs for a in m.atoms], dtype=np.int64)

    @cached_property
    def bond_offset(self) -> npt.NDArray[np.int64]:
        """Where each motif's bonds begin in :attr:`bonds`, ``(motifs + 1,)``."""
        return np.concatenate([[0], np.cumsum([len(m.bonds) for m in self.motifs])])

    @cached_property
    def bonds(self) -> npt.NDArray[np.int64]:
        """All motif bonds ``(i, j, type)``, type 1 to 3 by order and 4 for aromatic, ``(bonds, 3)``."""
        rows = [
            (i, j, 4 if (min(i, j), max(i, j)) in m.aromatic_bonds else order)
            for m in self.motifs
            for i, j, order in m.bonds
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def motif_id(self, smiles: str) -> int | None:
        """Index of a motif, or None."""
        return self._motif_id.get(smiles)

    # -- files ------------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The vocabulary as text, the same for the same vocabulary."""
        return json.dumps(
            {
                "format": _FORMAT,
                "motifs": self.smiles,
                "labels": [list(label) for label in self.labels],
                "label_counts": self.label_counts,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str, source: str = "vocabulary") -> Vocabulary:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        VocabularyError
            If the text is damaged or of another format.
        """
        try:
            data = json.loads(text)
            if data["format"] != _FORMAT:
                raise VocabularyError(f"{source}: format {data['format']!r}, expected {_FORMAT!r}")
            return cls(data["motifs"], [(m, a) for m, a in data["labels"]], data["label_counts"])
        except VocabularyError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError) as err:
            raise VocabularyError(f"{source}: damaged vocabulary ({err})") from err

    @cached_property
    def digest(self) -> str:
        """SHA-256 of :meth:`to_json`: two vocabularies with the same digest are the same."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.to_json())

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read from JSON."""
        return cls.from_json(path.read_text(), str(path))
