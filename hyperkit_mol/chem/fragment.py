"""Molecule -> motif tree, in a canonical form that does not depend on the input's atom order.

Two atoms belong to the same motif when their bond is in a ring, or is not single, or joins opposite charges
(so that a nitro group stays whole). Contracting the motifs leaves a tree whose edges are acyclic single
bonds. The tree is rooted at its centroid by heavy atoms and written depth first; each node's symmetry is
used up to give the smallest list of attachment sites, so that one molecule has one tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rdkit import Chem

from hyperkit_mol.chem.motif import Motif

__all__ = ["Fragmenter", "MotifTree", "UnsupportedMolecule"]

_BOND_CODE = {
    Chem.BondType.SINGLE: 1,
    Chem.BondType.DOUBLE: 2,
    Chem.BondType.TRIPLE: 3,
    Chem.BondType.AROMATIC: 4,
}
_BOND_TYPE = {v: k for k, v in _BOND_CODE.items()}
_SINGLE = Chem.BondType.SINGLE


class UnsupportedMolecule(ValueError):
    """A molecule that has no motif tree; `reason` is a short fixed text that can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class MotifTree:
    """A motif tree, nodes in depth-first order, the root first.

    Attributes
    ----------
    motifs : list of str
        Canonical SMILES of each node's motif.
    attach : list of int
        Atom by which the node hangs on its parent (-1 for the root), the smallest of its symmetry orbit.
    parent : list of int
        Index of the parent (-1 for the root).
    site : list of int
        Atom of the parent that the node is bonded to (-1 for the root). The children of a node come in
        increasing order of their sites.
    """

    motifs: list[str]
    attach: list[int]
    parent: list[int]
    site: list[int]

    def __len__(self) -> int:
        return len(self.motifs)


class Fragmenter:
    """Turns molecules into motif trees; remembers the motifs that it has seen.

    Parameters
    ----------
    max_atoms : int
        Heavy atoms above which a molecule is refused.
    keep_largest_fragment : bool
        Of a salt or mixture, take the fragment with most heavy atoms instead of refusing it.
    """

    def __init__(self, max_atoms: int = 96, keep_largest_fragment: bool = False) -> None:
        if max_atoms < 1:
            raise ValueError(f"max_atoms must be >= 1, got {max_atoms}")
        self.max_atoms = max_atoms
        self.keep_largest_fragment = keep_largest_fragment
        self._by_smiles: dict[str, Motif] = {}
        self._by_key: dict[Any, tuple[Motif, tuple[int, ...]]] = {}

    def motif(self, smiles: str) -> Motif:
        """The motif of a canonical SMILES, read once."""
        motif = self._by_smiles.get(smiles)
        if motif is None:
            motif = self._by_smiles[smiles] = Motif.from_smiles(smiles)
        return motif

    def parse(self, smiles: str) -> Chem.Mol:
        """SMILES -> molecule without stereochemistry.

        Raises
        ------
        UnsupportedMolecule
            If RDKit cannot read it, or if it is a salt, empty, or too large.
        """
        if len(smiles) > 4 * self.max_atoms and "." not in smiles:
            # Finding the rings of hundreds of nested ones takes RDKit seconds; counting atoms takes none.
            raw = Chem.MolFromSmiles(smiles, sanitize=False)
            if raw is not None and raw.GetNumHeavyAtoms() > self.max_atoms:
                raise UnsupportedMolecule(f"more than {self.max_atoms} heavy atoms")
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise UnsupportedMolecule("not a SMILES that RDKit can read")
        if "." in smiles and len(frags := Chem.GetMolFrags(mol, asMols=True)) > 1:
            if not self.keep_largest_fragment:
                raise UnsupportedMolecule("salt or mixture (more than one fragment)")
            mol = max(frags, key=lambda m: (m.GetNumHeavyAtoms(), Chem.MolToSmiles(m)))
        n = mol.GetNumAtoms()
        if n == 0:
            raise UnsupportedMolecule("no atoms")
        if n > self.max_atoms:
            raise UnsupportedMolecule(f"more than {self.max_atoms} heavy atoms")
        return mol

    def tree(self, smiles: str) -> MotifTree:
        """SMILES -> canonical motif tree. See :meth:`parse` for what is raised."""
        return self.tree_of(self.parse(smiles))

    def tree_of(self, mol: Chem.Mol) -> MotifTree:
        """Molecule -> canonical motif tree; stereochemistry is ignored.

        Raises
        ------
        UnsupportedMolecule
            For explicit hydrogens, dummy atoms, and bonds other than single, double, triple, aromatic.
        """
        n = mol.GetNumAtoms()
        kinds = []
        for a in mol.GetAtoms():
            z = a.GetAtomicNum()
            if z < 2:
                raise UnsupportedMolecule("explicit hydrogen or dummy atom")
            kinds.append(
                (
                    z,
                    a.GetFormalCharge(),
                    a.GetIsotope(),
                    a.GetNumRadicalElectrons(),
                    a.GetIsAromatic(),
                    a.GetTotalNumHs(),
                )
            )
        group = list(range(n))

        def find(i: int) -> int:
            while group[i] != i:
                group[i] = group[group[i]]
                i = group[i]
            return i

        inner: list[tuple[int, int, int]] = []
        cuts: list[tuple[int, int]] = []
        for b in mol.GetBonds():
            i, j, kind = b.GetBeginAtomIdx(), b.GetEndAtomIdx(), b.GetBondType()
            if kind == _SINGLE and not b.IsInRing() and kinds[i][1] * kinds[j][1] >= 0:
                cuts.append((i, j))
                continue
            code = _BOND_CODE.get(kind)
            if code is None:
                raise UnsupportedMolecule(f"bond type {kind.name.lower()}")
            inner.append((i, j, code))
            a, c = find(i), find(j)
            if a != c:
                group[a] = c
        if len(cuts) == n - 1:
            order = range(n)
        else:
            order = list(Chem.CanonicalRankAtoms(mol, breakTies=True, includeChirality=False))
        hydrogens = [k[5] for k in kinds]
        for i, j in cuts:
            hydrogens[i] += 1
            hydrogens[j] += 1
        members: dict[int, list[int]] = {}
        for i in range(n):
            members.setdefault(find(i), []).append(i)
        bonds_of: dict[int, list[tuple[int, int, int]]] = {}
        for bond in inner:
            bonds_of.setdefault(find(bond[0]), []).append(bond)

        motifs: list[Motif] = []
        where = [(0, 0)] * n  # atom -> (node, atom of the motif)
        for node, (root, atoms) in enumerate(members.items()):
            if len(atoms) == 1:
                i = atoms[0]
                motif, mapping = self._lookup((kinds[i][:5], hydrogens[i]), [kinds[i]], [hydrogens[i]], [])
                where[i] = (node, 0)
            else:
                atoms.sort(key=order.__getitem__)
                local = {a: k for k, a in enumerate(atoms)}
                bonds = sorted(
                    (min(local[i], local[j]), max(local[i], local[j]), code) for i, j, code in bonds_of[root]
                )
                own = [kinds[i] for i in atoms]
                hs = [hydrogens[i] for i in atoms]
                key = (tuple((k[:5], h) for k, h in zip(own, hs, strict=True)), tuple(bonds))
                motif, mapping = self._lookup(key, own, hs, bonds)
                for k, a in enumerate(atoms):
                    where[a] = (node, mapping[k])
            motifs.append(motif)
        edges: list[list[tuple[int, int, int]]] = [[] for _ in motifs]  # (own atom, other node, its atom)
        for i, j in cuts:
            (u, a), (v, b) = where[i], where[j]
            edges[u].append((a, v, b))
            edges[v].append((b, u, a))
        return _linearise(motifs, edges)

    def _lookup(
        self, key: Any, kinds: list, hydrogens: list[int], bonds: list
    ) -> tuple[Motif, tuple[int, ...]]:
        hit = self._by_key.get(key)
        if hit is None:
            hit = self._by_key[key] = self._build(kinds, hydrogens, bonds)
        return hit

    def _build(self, kinds: list, hydrogens: list[int], bonds: list) -> tuple[Motif, tuple[int, ...]]:
        """Canonicalise a fragment: its motif, and where each of its atoms went."""
        mol = Chem.RWMol()
        for (z, charge, isotope, radicals, aromatic, _), h in zip(kinds, hydrogens, strict=True):
            atom = Chem.Atom(z)
            atom.SetFormalCharge(charge)
            atom.SetIsotope(isotope)
            atom.SetNumRadicalElectrons(radicals)
            atom.SetIsAromatic(aromatic)
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(h)
            mol.AddAtom(atom)
        for i, j, code in bonds:
            mol.AddBond(i, j, _BOND_TYPE[code])
        try:
            Chem.SanitizeMol(mol)
            smiles = Chem.MolToSmiles(mol)
            motif = self.motif(smiles)
        except (ValueError, RuntimeError) as err:
            raise UnsupportedMolecule("a motif that RDKit cannot sanitise on its own") from err
        written = list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
        mapping = [0] * len(kinds)
        for position, atom in enumerate(written):
            mapping[atom] = position
        read = [motif.atoms[mapping[i]] for i in range(len(kinds))]
        if [(a.charge, a.hydrogens) for a in read] != [
            (k[1], h) for k, h in zip(kinds, hydrogens, strict=True)
        ]:
            # RDKit reads its own SMILES with other hydrogens or charges: seen for exotic valences only.
            raise UnsupportedMolecule("a motif that does not survive its own SMILES")
        return motif, tuple(mapping)


def _linearise(motifs: list[Motif], edges: list[list[tuple[int, int, int]]]) -> MotifTree:
    """Root at the centroid and write depth first in canonical order."""
    if len(motifs) == 1:
        return MotifTree([motifs[0].smiles], [-1], [-1], [-1])
    candidates = _centroids(motifs, edges)
    codes = [_code(motifs, edges, node, -1, -1) for node in candidates]
    code = min(codes)
    tree = MotifTree([], [], [], [])
    _write(code, -1, -1, tree)
    return tree


def _centroids(motifs: list[Motif], edges: list[list[tuple[int, int, int]]]) -> list[int]:
    """The one or two nodes whose removal leaves the smallest largest component, by heavy atoms."""
    order, parent = [0], [-1] * len(motifs)
    for u in order:
        for _, v, _ in edges[u]:
            if v != parent[u]:
                parent[v] = u
                order.append(v)
    total = sum(map(len, motifs))
    below = [len(m) for m in motifs]
    largest = [0] * len(motifs)
    for u in reversed(order):
        p = parent[u]
        largest[u] = max(largest[u], total - below[u])
        if p >= 0:
            below[p] += below[u]
            largest[p] = max(largest[p], below[u])
    best = min(largest)
    return [u for u, size in enumerate(largest) if size == best]


# A code is (heavy atoms below, motif, attach, ((site, code of the child), ...)): comparing codes compares
# trees, whatever the order in which the input listed its atoms.
_Code = tuple[int, str, int, tuple[tuple[int, Any], ...]]


def _code(
    motifs: list[Motif], edges: list[list[tuple[int, int, int]]], node: int, parent: int, attach: int
) -> _Code:
    motif = motifs[node]
    children = [(atom, _code(motifs, edges, v, node, b)) for atom, v, b in edges[node] if v != parent]
    size = len(motif) + sum(c[1][0] for c in children)
    if len(motif) == 1:
        listed = tuple(sorted(children)) if len(children) > 1 else tuple(children)
    else:
        listed = min(
            tuple(sorted((move[atom], code) for atom, code in children)) for move in motif.moves(attach)
        )
    return (size, motif.smiles, -1 if attach < 0 else motif.orbit[attach], listed)


def _write(code: _Code, parent: int, site: int, tree: MotifTree) -> None:
    index = len(tree.motifs)
    tree.motifs.append(code[1])
    tree.attach.append(code[2])
    tree.parent.append(parent)
    tree.site.append(site)
    for where, child in code[3]:
        _write(child, index, where, tree)
