"""Motif tree -> molecule: the inverse of :mod:`hyperkit_mol.chem.fragment`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rdkit import Chem

from hyperkit_mol.chem.fragment import MotifTree
from hyperkit_mol.chem.motif import Motif

__all__ = ["assemble", "assemble_smiles", "tree_to_mol"]

_ORDER = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}


def assemble(
    motifs: Sequence[Motif], attach: Sequence[int], parent: Sequence[int], site: Sequence[int]
) -> Chem.Mol:
    """Join motifs by single bonds, a hydrogen of each side given up for every bond.

    Parameters
    ----------
    motifs, attach, parent, site
        A motif tree as in :class:`~hyperkit_mol.chem.fragment.MotifTree`, motifs given as objects.

    Returns
    -------
    rdkit.Chem.Mol
        The sanitised molecule.

    Raises
    ------
    ValueError
        If an attachment names an atom that the motif lacks or that has no hydrogen left.
    """
    mol = Chem.RWMol()
    offsets: list[int] = []
    taken: dict[int, int] = {}
    n = 0
    for motif in motifs:
        offsets.append(n)
        n += len(motif)
    joins = []
    for node in range(1, len(motifs)):
        p = parent[node]
        if not 0 <= p < node:
            raise ValueError(f"parent[{node}] must be an earlier node, got {p}")
        for owner, atom in ((p, site[node]), (node, attach[node])):
            if not 0 <= atom < len(motifs[owner]):
                raise ValueError(f"node {owner} ({motifs[owner].smiles}) has no atom {atom}")
            a = offsets[owner] + atom
            taken[a] = taken.get(a, 0) + 1
            if taken[a] > motifs[owner].atoms[atom].hydrogens:
                raise ValueError(f"atom {atom} of node {owner} ({motifs[owner].smiles}) has no hydrogen left")
        joins.append((offsets[p] + site[node], offsets[node] + attach[node]))
    for offset, motif in zip(offsets, motifs, strict=True):
        for i, kind in enumerate(motif.atoms):
            atom = Chem.Atom(kind.number)
            if kind.charge:
                atom.SetFormalCharge(kind.charge)
            if kind.isotope:
                atom.SetIsotope(kind.isotope)
            if kind.radicals:
                atom.SetNumRadicalElectrons(kind.radicals)
            if kind.bracket:
                atom.SetNoImplicit(True)
                atom.SetNumExplicitHs(kind.hydrogens - taken.get(offset + i, 0))
            mol.AddAtom(atom)
        for i, j, order in motif.bonds:
            mol.AddBond(offset + i, offset + j, _ORDER[order])
    for i, j in joins:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return mol


def tree_to_mol(tree: MotifTree, motif: Callable[[str], Motif]) -> Chem.Mol:
    """The molecule of a tree; `motif` reads a motif's SMILES (``Fragmenter.motif``)."""
    return assemble([motif(s) for s in tree.motifs], tree.attach, tree.parent, tree.site)


def assemble_smiles(
    motifs: Sequence[Motif], attach: Sequence[int], parent: Sequence[int], site: Sequence[int]
) -> str:
    """Canonical SMILES of :func:`assemble`."""
    return Chem.MolToSmiles(assemble(motifs, attach, parent, site))
