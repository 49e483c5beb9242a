"""Substructure patterns behind a cheap screen that never hides a match.

Matching 502 filter patterns and 116 QED alerts one by one is most of the chemistry's time, and nearly all of
them fail. The screen looks at a molecule once: every atom is reduced to a *signature*, every bond to the
signatures of its ends and its own. A pattern can only match where each of its atoms and each of its bonds is
matched by some atom or bond of the molecule, and whether a query atom matches depends on the signature alone.
What a signature matches is asked of RDKit once and remembered, so that a molecule costs some dictionary
look-ups. Queries that see further than a signature (recursive SMARTS) count as matching anything.

Runs inside worker processes; imports RDKit and numpy only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rdkit import Chem

# Query primitives that the signatures below decide. Anything else makes its atom or bond a wildcard.
_ATOM_PRIMITIVES = frozenset(
    {
        "AtomNull",
        "AtomAnd",
        "AtomOr",
        "AtomAtomicNum",
        "AtomType",
        "AtomHCount",
        "AtomTotalDegree",
        "AtomFormalCharge",
        "AtomNegativeFormalCharge",
        "AtomIsotope",
        "AtomIsAromatic",
        "AtomAromatic",
        "AtomIsAliphatic",
        "AtomAliphatic",
        "AtomInRing",
        "AtomInNRings",
    }
)
_BOND_PRIMITIVES = frozenset(
    {
        "BondNull",
        "BondAnd",
        "BondOr",
        "BondOrder",
        "BondInRing",
        "SingleOrAromaticBond",
        "DoubleOrAromaticBond",
    }
)
# Bonds of these elements are single, double, triple or aromatic, never dative, so that their order says all.
_COVALENT = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 34, 35, 53})
# Signatures as small numbers, for the life of the process: there are only as many as kinds of atoms.
_SIGNATURES: dict[tuple, int] = {}


class PatternScreen:
    """Patterns with the screen before them.

    Parameters
    ----------
    patterns : sequence of str or Mol
        SMARTS.
    explicit_hydrogens : bool
        The patterns are matched on molecules with explicit hydrogens, while the screen sees them without.
        The number of neighbours then differs and is left out of the screen.
    """

    def __init__(self, patterns: Sequence[str | Chem.Mol], *, explicit_hydrogens: bool) -> None:
        known = set(_ATOM_PRIMITIVES)
        if not explicit_hydrogens:
            known.add("AtomExplicitDegree")
        self.patterns: list[Chem.Mol] = []
        self._atom_queries: list[tuple[Chem.Atom, int]] = []
        self._bond_queries: list[tuple[int, Chem.Bond | None, int]] = []
        self._atom_memory: dict[int, int] = {}
        self._bond_memory: dict[tuple[int, int, float, bool], int] = {}
        atom_index: dict[tuple[str, int], int] = {}
        bond_index: dict[tuple[int, str, int], int] = {}
        needs, counts = [], []
        for entry in patterns:
            query = Chem.MolFromSmarts(entry) if isinstance(entry, str) else entry
            if query is None:
                raise ValueError(f"not a SMARTS pattern: {entry}")
            self.patterns.append(query)
            need_atoms, need_bonds = self._register(query, known, atom_index, bond_index)
            needs.append((need_atoms, need_bonds))
            counts.append(_named_elements(query) + _ring_counts(query))
        self._atom_bytes = -(-max(len(self._atom_queries), 1) // 64) * 8
        self._bond_bytes = -(-max(len(self._bond_queries), 1) // 64) * 8
        self._needs = np.stack([self._words(atoms, bonds) for atoms, bonds in needs])
        self._elements = sorted({element for count in counts for element in count})
        self._counts = np.array([[count[element] for element in self._elements] for count in counts])

    def _register(
        self,
        query: Chem.Mol,
        known: set[str],
        atom_index: dict[tuple[str, int], int],
        bond_index: dict[tuple[int, str, int], int],
    ) -> tuple[int, int]:
        """Bits of the atom and bond queries that a match of the pattern needs."""
        need_atoms = need_bonds = 0
        place: dict[int, int | None] = {}
        for atom in query.GetAtoms():
            text = atom.DescribeQuery()
            if _only_hydrogen(text):
                continue
            hydrogens = sum(_only_hydrogen(other.DescribeQuery()) for other in atom.GetNeighbors())
            if not _primitives(text) <= known:
                if not hydrogens:
                    place[atom.GetIdx()] = None
                    continue
                text = ""  # a wildcard that still needs its hydrogens
            key = (text, hydrogens)
            if key not in atom_index:
                atom_index[key] = len(self._atom_queries)
                self._atom_queries.append((atom if text else None, hydrogens))  # type: ignore[arg-type]
            place[atom.GetIdx()] = atom_index[key]
            need_atoms |= 1 << atom_index[key]
        for bond in query.GetBonds():
            ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if any(end not in place or place[end] is None for end in ends):
                continue
            first, second = sorted((place[ends[0]], place[ends[1]]))  # type: ignore[type-var]
            text = bond.DescribeQuery()
            usable = _primitives(text) <= _BOND_PRIMITIVES
            key = (first, text if usable else "", second)
            if key not in bond_index:
                bond_index[key] = len(self._bond_queries)
                self._bond_queries.append((first, bond if usable else None, second))
            need_bonds |= 1 << bond_index[key]
        return need_atoms, need_bonds

    def _words(self, atoms: int, bonds: int) -> np.ndarray:
        data = atoms.to_bytes(self._atom_bytes, "little") + bonds.to_bytes(self._bond_bytes, "little")
        return np.frombuffer(data, dtype=np.uint64)

    def candidates(self, mol: Chem.Mol, look: Look) -> list[int]:
        """Indices of the patterns that may match the molecule (given without explicit hydrogens)."""
        if not look.covalent:
            return list(range(len(self.patterns)))
        found_atoms = found_bonds = 0
        memory = self._atom_memory
        per_atom = []
        for index, signature in enumerate(look.atoms):
            bits = memory.get(signature)
            if bits is None:
                bits = memory[signature] = self._match_atom(mol.GetAtomWithIdx(index))
            per_atom.append(bits)
            found_atoms |= bits
        remembered = self._bond_memory
        for begin, end, order, in_ring in look.bonds:
            key = (look.atoms[begin], look.atoms[end], order, in_ring)
            bits = remembered.get(key)
            if bits is None:
                bond = mol.GetBondBetweenAtoms(begin, end)
                bits = remembered[key] = self._match_bond(bond, per_atom[begin], per_atom[end])
            found_bonds |= bits
        absent = (self._needs & ~self._words(found_atoms, found_bonds)).any(axis=1)
        owned = np.array([look.counts[element] for element in self._elements])
        return np.flatnonzero(~absent & (self._counts <= owned).all(axis=1)).tolist()

    def _match_atom(self, atom: Chem.Atom) -> int:
        bits = 0
        hydrogens = atom.GetTotalNumHs(True)
        for index, (query, needed) in enumerate(self._atom_queries):
            if hydrogens >= needed and (query is None or query.Match(atom)):
                bits |= 1 << index
        return bits

    def _match_bond(self, bond: Chem.Bond, begin: int, end: int) -> int:
        bits = 0
        for index, (first, query, second) in enumerate(self._bond_queries):
            straight = begin >> first & 1 and end >> second & 1
            swapped = begin >> second & 1 and end >> first & 1
            if (straight or swapped) and (query is None or query.Match(bond)):
                bits |= 1 << index
        return bits


class Look:
    """Signatures of a molecule's atoms and bonds, shared by all screens.

    Attributes
    ----------
    atoms : list of int
        One signature an atom, by number.
    bonds : list of (begin, end, order, in ring)
    elements : Counter
        Atoms by atomic number.
    counts : Counter
        The same with the numbers of rings, see `_ring_counts`.
    charged : bool
    covalent : bool
        False when a bond's order may not tell its type; then the screen lets every pattern through.
    """

    __slots__ = ("atoms", "bonds", "charged", "counts", "covalent", "elements")

    def __init__(self, mol: Chem.Mol) -> None:
        rings = mol.GetRingInfo().AtomRings()
        membership = Counter([atom for ring in rings for atom in ring])
        ring_bonds = set()
        for ring in rings:
            ring_bonds.update(zip(ring, ring[1:] + ring[:1], strict=True))
        # One call for all bonds; asking each bond object costs more than the rest of the screen.
        orders = Chem.GetAdjacencyMatrix(mol, useBO=True)
        begins, ends = np.nonzero(np.triu(orders))
        degrees = np.count_nonzero(orders, axis=0).tolist()
        self.bonds = [
            (begin, end, order, (begin, end) in ring_bonds or (end, begin) in ring_bonds)
            for begin, end, order in zip(
                begins.tolist(), ends.tolist(), orders[begins, ends].tolist(), strict=True
            )
        ]
        self.charged = False
        self.atoms = []
        elements: Counter[int] = Counter()
        for index, atom in enumerate(mol.GetAtoms()):
            element, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
            elements[element] += 1
            if charge:
                self.charged = True
            signature = (
                element,
                atom.GetIsAromatic(),
                atom.GetTotalNumHs(True),  # with the degree it tells the number of all neighbours
                degrees[index],
                charge,
                atom.GetIsotope(),
                membership[index],
            )
            self.atoms.append(_SIGNATURES.setdefault(signature, len(_SIGNATURES)))
        self.elements = elements
        self.covalent = _COVALENT.issuperset(elements)
        self.counts = elements.copy()
        self.counts[_RINGS] = len(rings)
        self.counts[_FUSED] = sum(count >= 2 for count in membership.values())
        self.counts[_SMALL] = sum(len(ring) == 3 for ring in rings)


# Keys beside the atomic numbers in the counts that a pattern needs.
_RINGS, _FUSED, _SMALL = 1001, 1002, 1003


def _ring_counts(query: Chem.Mol) -> Counter[int]:
    """What a match of the query asks of a molecule's rings.

    A match is a subgraph: the molecule has at least as many independent rings; an atom with three ring bonds
    in the query has them in the molecule and so lies in two of its smallest rings; and a triangle is always
    among the smallest rings.
    """
    Chem.FastFindRings(query)
    rings = query.GetRingInfo()
    ring_bonds: Counter[int] = Counter()
    for bond in query.GetBonds():
        if rings.NumBondRings(bond.GetIdx()):
            ring_bonds.update([bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()])
    independent = query.GetNumBonds() - query.GetNumAtoms() + len(Chem.GetMolFrags(query))
    triangles = any(len(ring) == 3 for ring in rings.AtomRings())
    return Counter(
        {
            _RINGS: independent,
            _FUSED: sum(count >= 3 for count in ring_bonds.values()),
            _SMALL: int(triangles),
        }
    )


def _only_hydrogen(text: str) -> bool:
    return text.strip() in ("AtomAtomicNum 1 = val", "AtomType 1 = val")


def _primitives(text: str) -> set[str]:
    return {line.split()[0] for line in text.strip().split("\n")} if text.strip() else set()


def _named_elements(query: Chem.Mol) -> Counter[int]:
    """How many heavy atoms of each element every match of the query must have."""
    elements: Counter[int] = Counter()
    for atom in query.GetAtoms():
        # Only the root of the query tree, or a direct child of an 'and' at the root, binds the atom.
        root, *rest = atom.DescribeQuery().rstrip().split("\n")
        lines = [root]
        if root.strip() == "AtomAnd":
            lines = [line for line in rest if line.startswith("  ") and not line.startswith("   ")]
        for line in lines:
            words = line.split()
            if len(words) == 4 and words[0] in ("AtomAtomicNum", "AtomType") and words[2:] == ["=", "val"]:
                number = int(words[1]) % 1000  # AtomType is the atomic number plus 1000 if aromatic
                if number > 1:
                    elements[number] += 1
                break
    return elements
