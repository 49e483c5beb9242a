"""A motif: a small closed-shell molecule whose hydrogens mark where others may be attached.

A molecule is cut at every acyclic single bond (:mod:`hyperkit_mol.chem.fragment`). What is left, each cut
bond replaced by a hydrogen on either side, is a valid molecule of its own: a ring system with its exocyclic
double bonds, a carbonyl, a nitrile, a nitro group, one sp3 atom. Joining two motifs takes a hydrogen from
each and puts a single bond in their place, which never breaks a valence: that is why every tree of motifs
is a valid molecule, with nothing to check when it is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rdkit import Chem

__all__ = ["AtomKind", "Motif"]

# A motif with more automorphisms than this (none in MOSES or ZINC) keeps the first ones found: the tree is
# then still right, only no longer the same for every input order of the same molecule.
_MAX_AUTOMORPHISMS = 4096


@dataclass(frozen=True, slots=True)
class AtomKind:
    """What an atom of a motif is, apart from its bonds.

    Attributes
    ----------
    number : int
        Atomic number.
    charge : int
        Formal charge.
    isotope : int
        Mass number, 0 for the natural mixture.
    radicals : int
        Unpaired electrons.
    aromatic : bool
        Whether RDKit perceives the atom as aromatic.
    hydrogens : int
        Hydrogens on the atom in the motif, that is, how many attachments it can take.
    bracket : bool
        Whether SMILES needs a bracket, so that the hydrogen count must be kept by hand.
    """

    number: int
    charge: int
    isotope: int
    radicals: int
    aromatic: bool
    hydrogens: int
    bracket: bool


@dataclass(frozen=True)
class Motif:
    """A motif by its canonical SMILES, atoms in the order of that SMILES.

    Attributes
    ----------
    smiles : str
        RDKit's canonical SMILES of the motif.
    atoms : tuple of AtomKind
    bonds : tuple of (int, int, int)
        Kekulé bonds ``(i, j, order)``.
    aromatic_bonds : frozenset of (int, int)
        Bonds that are aromatic before kekulisation, ``i < j``.
    """

    smiles: str
    atoms: tuple[AtomKind, ...]
    bonds: tuple[tuple[int, int, int], ...]
    aromatic_bonds: frozenset[tuple[int, int]]

    @classmethod
    def from_smiles(cls, smiles: str) -> Motif:
        """Read a motif.

        Raises
        ------
        ValueError
            If RDKit cannot parse `smiles`.
        """
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise ValueError(f"motif must be a SMILES that RDKit can parse, got {smiles!r}")
        aromatic = frozenset(
            (min(b.GetBeginAtomIdx(), b.GetEndAtomIdx()), max(b.GetBeginAtomIdx(), b.GetEndAtomIdx()))
            for b in mol.GetBonds()
            if b.GetIsAromatic()
        )
        atoms = tuple(
            AtomKind(
                a.GetAtomicNum(),
                a.GetFormalCharge(),
                a.GetIsotope(),
                a.GetNumRadicalElectrons(),
                a.GetIsAromatic(),
                a.GetTotalNumHs(),
                a.GetNoImplicit(),
            )
            for a in mol.GetAtoms()
        )
        Chem.Kekulize(mol, clearAromaticFlags=True)
        bonds = tuple(
            (b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()
        )
        return cls(smiles, atoms, bonds, aromatic)

    def __len__(self) -> int:
        return len(self.atoms)

    @cached_property
    def automorphisms(self) -> tuple[tuple[int, ...], ...]:
        """Every relabelling of the atoms that leaves the motif as it is, the identity included.

        The molecule's hydrogen counts take part, so the two nitrogens of imidazole are not exchanged.
        """
        n = len(self.atoms)
        if n == 1:
            return ((0,),)
        mol = Chem.MolFromSmiles(self.smiles)
        adjacency = {(b.GetBeginAtomIdx(), b.GetEndAtomIdx()): b.GetBondType() for b in mol.GetBonds()}
        adjacency.update({(j, i): t for (i, j), t in list(adjacency.items())})
        found = []
        for perm in mol.GetSubstructMatches(mol, uniquify=False, maxMatches=_MAX_AUTOMORPHISMS):
            if all(self.atoms[i] == self.atoms[p] for i, p in enumerate(perm)) and all(
                adjacency.get((perm[i], perm[j])) == t for (i, j), t in adjacency.items()
            ):
                found.append(tuple(perm))
        identity = tuple(range(n))
        if identity not in found:
            found.append(identity)
        return tuple(sorted(found))

    @cached_property
    def orbit(self) -> tuple[int, ...]:
        """For each atom, the smallest atom that a symmetry of the motif maps it to."""
        return tuple(min(p[i] for p in self.automorphisms) for i in range(len(self.atoms)))

    @cached_property
    def _moves(self) -> dict[int, tuple[tuple[int, ...], ...]]:
        moves: dict[int, tuple[tuple[int, ...], ...]] = {-1: self.automorphisms}
        for atom, target in enumerate(self.orbit):
            moves[atom] = tuple(p for p in self.automorphisms if p[atom] == target)
        return moves

    def moves(self, atom: int) -> tuple[tuple[int, ...], ...]:
        """Symmetries that bring `atom` to the representative of its orbit (all of them for ``-1``)."""
        return self._moves[atom]
