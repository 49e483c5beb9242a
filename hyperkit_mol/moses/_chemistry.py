"""One pass over the molecules: each is parsed once and everything that RDKit computes is taken from it.

This file runs inside worker processes (`_worker`), so it imports nothing that imports torch: a worker starts
in the time that RDKit takes to import.

What is computed follows MOSES (arXiv:1811.12823) and, where the paper is silent, what molsets 0.3.1
computes: every feature is taken from the molecule parsed from its *canonical* SMILES.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import QED, rdFingerprintGenerator, rdMolDescriptors, rdqueries
from rdkit.Chem.rdmolops import FragmentOnBRICSBonds
from rdkit.Chem.Scaffolds import MurckoScaffold

from hyperkit_mol.moses._smarts import Look, PatternScreen

FINGERPRINT_BITS = 1024
PROPERTIES = ("logP", "SA", "QED", "weight")
DESCRIPTORS = (
    "BertzCT",
    "MolLogP",
    "MolWt",
    "TPSA",
    "NumHAcceptors",
    "NumHDonors",
    "NumRotatableBonds",
    "NumAliphaticRings",
    "NumAromaticRings",
)
FEATURES = frozenset({*PROPERTIES, "fingerprint", "fragments", "scaffold", "filters", "descriptors"})

_ALLOWED_ATOMS = frozenset({1, 6, 7, 8, 9, 16, 17, 35})  # H C N O F S Cl Br
_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=FINGERPRINT_BITS)
_UNKNOWN_FRAGMENT = -4.0


def canonical(smiles: str | None) -> tuple[str | None, Chem.Mol | None]:
    """Canonical SMILES and molecule as MOSES sees them, or two Nones.

    MOSES replaces each input by its canonical SMILES and parses that again. The second parse is skipped
    where the input is canonical already, since it would read the same string.
    """
    if not smiles:
        return None, None
    try:
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            return None, None
        text = Chem.MolToSmiles(mol)
        if text != smiles:
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                return None, None
            text = Chem.MolToSmiles(mol)
    except (ValueError, RuntimeError, UnicodeError, TypeError):
        return None, None
    except Exception as error:  # Boost.Python's ArgumentError (bytes that are no text) has no public name
        if type(error).__module__ == "Boost.Python":
            return None, None
        raise
    return text, mol


# Kept for the life of the process: evaluating small sets again and again must not compile them again.
@lru_cache(maxsize=2)
def _filter_screen(smarts: tuple[str, ...]) -> PatternScreen:
    return PatternScreen(smarts, explicit_hydrogens=True)


@lru_cache(maxsize=1)
def _alert_screen() -> PatternScreen:
    return PatternScreen(QED.StructuralAlerts, explicit_hydrogens=False)


class Pass:
    """The chemistry pass with its tables loaded.

    Parameters
    ----------
    filters : sequence of str
        SMARTS of the filters (MCF and PAINS).
    scores : tuple of str
        Paths of the SA score's sorted fragment ids and their scores (``.npy``), memory-mapped so that
        workers share one copy.
    features : collection of str
        Which of `FEATURES` to compute.
    """

    def __init__(self, filters: Sequence[str], scores: tuple[str, str], features: Iterable[str]) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
        self._filters = tuple(filters)
        self._scores = scores
        self.features = frozenset(features)

    @cached_property
    def filters(self) -> PatternScreen:
        return _filter_screen(self._filters)

    @cached_property
    def alerts(self) -> PatternScreen:
        return _alert_screen()

    @cached_property
    def fragment_scores(self) -> tuple[np.ndarray, np.ndarray]:
        ids, scores = (np.load(path, mmap_mode="r") for path in self._scores)
        return ids, scores

    def __call__(self, smiles: Sequence[str | None], weights: Sequence[int]) -> dict[str, Any]:
        """Features of a chunk.

        Parameters
        ----------
        smiles : sequence of str or None
            Distinct inputs.
        weights : sequence of int
            How often each occurs; the fragment and scaffold counts are weighted by it.

        Returns
        -------
        dict
            ``canonical`` (list, None where invalid), one array a row per input for each feature, and
            ``fragments`` and ``scaffolds`` as counts; ``errors`` lists (SMILES, feature, reason).
        """
        result = _ChunkResult(len(smiles))
        for row, (text, weight) in enumerate(zip(smiles, weights, strict=True)):
            text, mol = canonical(text)
            if mol is None or text is None:
                continue
            result.canonical[row] = text
            self._molecule(result, row, weight, _Molecule(mol, text))
        return result.packed(self.features)

    def _molecule(self, result: _ChunkResult, row: int, weight: int, molecule: _Molecule) -> None:
        # Stereo perception inside the SA score marks the molecule, so SA comes last.
        for feature in (
            "fingerprint",
            "fragments",
            "scaffold",
            "filters",
            "logP",
            "QED",
            "weight",
            "descriptors",
            "SA",
        ):
            if feature not in self.features:
                continue
            try:
                if feature == "fingerprint":
                    result.fingerprints[row] = _fold(molecule.morgan)
                elif feature == "fragments":
                    for fragment in brics_fragments(molecule.mol):
                        result.fragments[fragment] += weight
                elif feature == "scaffold":
                    scaffold = murcko_scaffold(molecule.mol)
                    if scaffold is not None:
                        result.scaffolds[scaffold] += weight
                elif feature == "filters":
                    result.passes[row] = self.passes_filters(molecule)
                elif feature == "descriptors":
                    result.descriptors[row] = descriptors(molecule)
                else:
                    result.values[feature][row] = getattr(self, f"_{feature.lower()}")(molecule)
            except (ValueError, RuntimeError, ArithmeticError) as error:
                result.errors.append((molecule.smiles, feature, str(error).strip().split("\n")[0]))

    def passes_filters(self, molecule: _Molecule) -> bool:
        """MOSES's filter: small rings, no charge, eight elements, no MCF or PAINS match."""
        mol = molecule.mol
        if any(len(ring) >= 8 for ring in mol.GetRingInfo().AtomRings()):
            return False
        if molecule.look.charged or not _ALLOWED_ATOMS.issuperset(molecule.look.elements):
            return False
        filters = self.filters
        for index in filters.candidates(mol, molecule.look):
            if molecule.with_hydrogens.HasSubstructMatch(filters.patterns[index]):
                return False
        # The original also requires that the SMILES without stereochemistry parses.
        flat = Chem.MolToSmiles(mol, isomericSmiles=False) if molecule.isomeric else molecule.smiles
        return flat == molecule.smiles or Chem.MolFromSmiles(flat) is not None

    def _logp(self, molecule: _Molecule) -> float:
        return molecule.logp

    def _weight(self, molecule: _Molecule) -> float:
        return rdMolDescriptors._CalcMolWt(molecule.mol)

    def _qed(self, molecule: _Molecule) -> float:
        """RDKit's QED from shared parts, with its alerts behind the screen."""
        mol = molecule.mol
        if molecule.look.elements[1]:  # explicit hydrogens (isotopes, H2) take RDKit's own, slower way
            return QED.qed(mol)
        alerts = self.alerts
        found = sum(
            mol.HasSubstructMatch(alerts.patterns[index]) for index in alerts.candidates(mol, molecule.look)
        )
        aromatic = Chem.DeleteSubstructs(Chem.Mol(mol), QED.AliphaticRings)
        return QED.qed(
            mol,
            qedProperties=QED.QEDproperties(
                MW=rdMolDescriptors._CalcMolWt(mol),
                ALOGP=molecule.logp,
                HBA=sum(len(mol.GetSubstructMatches(pattern)) for pattern in QED.Acceptors),
                HBD=rdMolDescriptors.CalcNumHBD(mol),
                PSA=rdMolDescriptors.CalcTPSA(mol),
                ROTB=rdMolDescriptors.CalcNumRotatableBonds(
                    mol, rdMolDescriptors.NumRotatableBondsOptions.Strict
                ),
                AROM=len(Chem.GetSSSR(aromatic)),
                ALERTS=found,
            ),
        )

    def _sa(self, molecule: _Molecule) -> float:
        """Synthetic accessibility, Ertl and Schuffenhauer, J. Cheminf. 1:8 (2009), as RDKit ships it."""
        mol = molecule.mol
        elements = molecule.morgan
        ids, scores = self.fragment_scores
        keys = np.fromiter(elements.keys(), dtype=np.uint32, count=len(elements))
        counts = np.fromiter(elements.values(), dtype=np.float64, count=len(elements))
        place = np.minimum(np.searchsorted(ids, keys), len(ids) - 1)
        contributions = np.where(ids[place] == keys, scores[place], _UNKNOWN_FRAGMENT)
        fragment_score = float((contributions * counts).sum() / counts.sum())

        atoms = mol.GetNumAtoms()
        stereo = stereocentres(mol)
        macrocycle = any(len(ring) > 8 for ring in mol.GetRingInfo().AtomRings())
        penalty = (
            (atoms**1.005 - atoms)
            + math.log10(stereo + 1)
            + math.log10(rdMolDescriptors.CalcNumSpiroAtoms(mol) + 1)
            + math.log10(rdMolDescriptors.CalcNumBridgeheadAtoms(mol) + 1)
            + (math.log10(2) if macrocycle else 0.0)
        )
        symmetry = 0.5 * math.log(atoms / len(elements)) if atoms > len(elements) else 0.0
        raw = fragment_score - penalty + symmetry
        # Raw scores of -4 to 2.5 map to 10 (hard) to 1 (easy); the hard end is compressed.
        score = 11.0 - (raw + 5.0) / 6.5 * 9.0
        if score > 8.0:
            score = 8.0 + math.log(score - 8.0)
        return min(max(score, 1.0), 10.0)


class Canonical:
    """Canonical SMILES of a chunk; None where a string does not parse."""

    def __init__(self) -> None:
        RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]

    def __call__(self, smiles: Sequence[str]) -> list[str | None]:
        return [canonical(text)[0] for text in smiles]


@dataclass
class _Molecule:
    """A molecule with what several features share, computed on first use."""

    mol: Chem.Mol
    smiles: str

    @cached_property
    def morgan(self) -> dict[int, int]:
        return _MORGAN.GetSparseCountFingerprint(self.mol).GetNonzeroElements()

    @cached_property
    def with_hydrogens(self) -> Chem.Mol:
        return Chem.AddHs(self.mol)

    @cached_property
    def logp(self) -> float:
        # What RDKit would add for itself, the filters need too.
        return rdMolDescriptors.CalcCrippenDescriptors(self.with_hydrogens, includeHs=False)[0]

    @cached_property
    def look(self) -> Look:
        return Look(self.mol)

    @property
    def isomeric(self) -> bool:
        return any(mark in self.smiles for mark in "@/\\[")


@dataclass
class _ChunkResult:
    size: int
    canonical: list[str | None] = field(init=False)
    fingerprints: np.ndarray = field(init=False)
    passes: np.ndarray = field(init=False)
    descriptors: np.ndarray = field(init=False)
    values: dict[str, np.ndarray] = field(init=False)
    fragments: Counter[str] = field(default_factory=Counter)
    scaffolds: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.canonical = [None] * self.size
        self.fingerprints = np.zeros((self.size, FINGERPRINT_BITS // 8), dtype=np.uint8)
        self.passes = np.zeros(self.size, dtype=bool)
        self.descriptors = np.full((self.size, len(DESCRIPTORS)), np.nan)
        self.values = {name: np.full(self.size, np.nan) for name in PROPERTIES}

    def packed(self, features: frozenset[str]) -> dict[str, Any]:
        """What travels back to the parent, without arrays that were not asked for."""
        result: dict[str, Any] = {"canonical": self.canonical, "errors": self.errors}
        if "fingerprint" in features:
            result["fingerprints"] = self.fingerprints
        if "filters" in features:
            result["passes"] = self.passes
        if "descriptors" in features:
            result["descriptors"] = self.descriptors
        if "fragments" in features:
            result["fragments"] = dict(self.fragments)
        if "scaffold" in features:
            result["scaffolds"] = dict(self.scaffolds)
        result.update({name: self.values[name] for name in PROPERTIES if name in features})
        return result


def _fold(elements: dict[int, int]) -> np.ndarray:
    """Morgan environments folded to a packed bit vector, as RDKit folds them."""
    bits = np.zeros(FINGERPRINT_BITS, dtype=np.uint8)
    bits[np.fromiter(elements, dtype=np.uint64, count=len(elements)) % FINGERPRINT_BITS] = 1
    return np.packbits(bits)


def _stereo_query() -> Chem.QueryAtom:
    query = rdqueries.HasPropQueryAtom("_ChiralityPossible")
    query.ExpandQuery(rdqueries.HasPropQueryAtom("_CIPCode"), Chem.CompositeQueryType.COMPOSITE_OR)
    return query


_STEREO = _stereo_query()


def stereocentres(mol: Chem.Mol) -> int:
    """Number of tetrahedral centres, assigned or not, as ``FindMolChiralCenters`` counts them.

    RDKit's function looks at each atom from Python, six times slower; where the newer stereochemistry is
    switched on, it is used all the same. Marks the molecule.
    """
    if not Chem.GetUseLegacyStereoPerception():
        return len(Chem.FindMolChiralCenters(mol, includeUnassigned=True))
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True, flagPossibleStereoCenters=True)
    return len(mol.GetAtomsMatchingQuery(_STEREO))


def brics_fragments(mol: Chem.Mol) -> list[str]:
    """BRICS fragments as SMILES with their attachment points."""
    return Chem.MolToSmiles(FragmentOnBRICSBonds(mol)).split(".")


def murcko_scaffold(mol: Chem.Mol, min_rings: int = 2) -> str | None:
    """Bemis-Murcko scaffold as SMILES, or None when it has fewer than ``min_rings`` rings."""
    try:
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):
        return None
    if scaffold.GetRingInfo().NumRings() < min_rings:
        return None
    return Chem.MolToSmiles(scaffold) or None


def descriptors(molecule: _Molecule) -> list[float]:
    """The nine physicochemical descriptors of GuacaMol's KL benchmark."""
    from rdkit.Chem import GraphDescriptors

    mol = molecule.mol
    return [
        GraphDescriptors.BertzCT(mol),
        molecule.logp,
        rdMolDescriptors._CalcMolWt(mol),
        rdMolDescriptors.CalcTPSA(mol),
        rdMolDescriptors.CalcNumHBA(mol),
        rdMolDescriptors.CalcNumHBD(mol),
        rdMolDescriptors.CalcNumRotatableBonds(mol),
        rdMolDescriptors.CalcNumAliphaticRings(mol),
        rdMolDescriptors.CalcNumAromaticRings(mol),
    ]
