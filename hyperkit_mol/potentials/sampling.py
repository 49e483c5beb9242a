"""Geometries around a molecule's conformers, labelled: by molecular dynamics, or along normal modes.

What a labelling process runs. It imports neither torch nor, before it is asked for, the method: the process
must set its number of threads first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hyperkit_mol.potentials.conformers import embed
from hyperkit_mol.potentials.dft import DFTSettings, check_dft, dft_calculator
from hyperkit_mol.potentials.errors import DataError, StructureError

__all__ = [
    "METHODS",
    "SAMPLINGS",
    "LabelSettings",
    "calculator",
    "check_method",
    "labelled",
    "normal_modes",
    "relabelled",
    "sample_molecule",
    "unpaired_electrons",
]

METHODS = {"gfn2": "GFN2-xTB", "gfn1": "GFN1-xTB", "dft": "DFT"}
SAMPLINGS = ("md", "normal-modes")

# In sums of covalent radii: with a longer gap a molecule has come apart, a shorter distance is no geometry.
# At 600 K bonds stay within 0.8 to 1.3; a proton between two oxygens may be at 1.4 from both.
_APART, _OVERLAP = 1.7, 0.55
_STEP = 0.01  # Å, finite differences of forces
_PART = 4  # frames of a run in one task, where labels are dear and geometries cheap
_SOFTEST = (
    50.0  # 1/cm: the harmonic picture of a softer mode (a turning group) ends in straight displacements
)


@dataclass(frozen=True)
class LabelSettings:
    """What decides the labelled frames of a molecule.

    Parameters
    ----------
    method : str
        Of the labels: ``gfn2``, ``gfn1``, ``dft``, or ``module:function``, where
        ``function(charge, unpaired)`` returns an ASE calculator.
    sampling : {"md", "normal-modes"}
    conformers : int
        Starting conformers of a molecule.
    samples : int
        Labelled frames of a molecule, spread evenly over conformers and temperatures.
    temperatures : tuple of float
        K.
    seed : int
    timestep : float
        fs (dynamics).
    interval : int
        Steps from one saved frame to the next (dynamics).
    equilibration : int
        Steps before the first interval (dynamics).
    friction : float
        Of the Langevin thermostat, 1/fs.
    sample_with : str, optional
        Method that the geometries are sampled with. GFN2-xTB if left out and the labels are by ``dft``,
        otherwise the method of the labels.
    dft : DFTSettings
        Level of theory of ``dft``.

    Raises
    ------
    DataError
        Naming the value and what is accepted.
    """

    method: str = "gfn2"
    sampling: Literal["md", "normal-modes"] = "md"
    conformers: int = 4
    samples: int = 100
    temperatures: tuple[float, ...] = (300.0,)
    seed: int = 0
    timestep: float = 1.0
    interval: int = 50
    equilibration: int = 200
    friction: float = 0.01
    sample_with: str | None = None
    dft: DFTSettings = field(default_factory=DFTSettings)

    def __post_init__(self) -> None:
        for name in ("method", "sample_with"):
            value = getattr(self, name)
            if value is not None and value not in METHODS and ":" not in value:
                raise DataError(
                    f"{name} must be {', '.join(METHODS)}, or module:function for an ASE calculator of your "
                    f"own; got {value!r}"
                )
        if self.dft != DFTSettings() and "dft" not in (self.method, self.sampler):
            raise DataError(
                f"functional, basis and dispersion are settings of method dft; got method {self.method!r}"
            )
        if self.sampling not in SAMPLINGS:
            raise DataError(f"sampling must be {' or '.join(SAMPLINGS)}, got {self.sampling!r}")
        for name in ("conformers", "samples", "interval"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("seed", "equilibration"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name, value in (("timestep", self.timestep), ("friction", self.friction)):
            if not (np.isfinite(value) and value > 0):
                raise DataError(f"{name} must be > 0, got {value}")
        if not self.temperatures:
            raise DataError("temperatures must not be empty")
        for value in self.temperatures:
            if not 0 < value <= 5000:
                raise DataError(f"temperature must be > 0 and <= 5000 K, got {value:g}")

    @property
    def sampler(self) -> str:
        """The method that geometries are sampled with."""
        return self.sample_with or ("gfn2" if self.method == "dft" else self.method)

    def called(self, method: str) -> str:
        """What frames say of a method: its name, with the level of theory."""
        return f"dft {self.dft.name}" if method == "dft" else method

    def parts(self, frames: int) -> list[tuple[int, int]]:
        """First and one past the last frame of each task of a run.

        Where geometries are cheap and labels dear, a run is cut: each part samples its geometries anew and
        labels a few, so that processes share a molecule and little is lost when one is killed.
        """
        if self.sampler == self.method:
            return [(0, frames)]
        return [(k, min(k + _PART, frames)) for k in range(0, frames, _PART)]

    def runs(self) -> list[tuple[int, float, int]]:
        """Conformer, temperature and number of frames of each run of a molecule."""
        pairs = [(k, t) for k in range(self.conformers) for t in self.temperatures]
        each, more = divmod(self.samples, len(pairs))
        found = [(k, t, each + (r < more)) for r, (k, t) in enumerate(pairs)]
        return [run for run in found if run[2]]


def check_method(method: str, dft: DFTSettings | None = None) -> None:
    """Refuse a method that no process could load.

    Parameters
    ----------
    method : str
    dft : DFTSettings, optional
        Level of theory of method ``dft``.

    Raises
    ------
    ImportError
        With the command that installs it.
    DataError
        If a ``module:function`` cannot be found, or there is no such level of theory.
    """
    if method == "dft":
        return check_dft(dft or DFTSettings())
    if method in METHODS:
        if find_spec("tblite") is None:
            raise ImportError(f"method {method} needs tblite: pip install tblite")
        return
    module, _, function = method.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as err:
        raise DataError(f"method {method!r} cannot be loaded: {err}") from err
    if not callable(found):
        raise DataError(f"method {method!r} is not a function")


def calculator(method: str, charge: int, unpaired: int, dft: DFTSettings | None = None) -> Any:
    """ASE calculator of a method for a total charge and a number of unpaired electrons.

    Parameters
    ----------
    method : str
        See :class:`LabelSettings`.
    charge, unpaired : int
    dft : DFTSettings, optional
        Level of theory of method ``dft``.
    """
    if method == "dft":
        return dft_calculator(dft or DFTSettings(), charge, unpaired)
    if method in METHODS:
        from tblite.ase import TBLite

        return TBLite(method=METHODS[method], charge=charge, multiplicity=unpaired + 1, verbosity=0)
    module, _, function = method.partition(":")
    return getattr(import_module(module), function)(charge, unpaired)


def unpaired_electrons(numbers: npt.NDArray[Any], charge: int, spin: int) -> int:
    """Unpaired electrons, from a spin number of either convention.

    Data sets count unpaired electrons (0, 1, 2) or give the multiplicity (1, 2, 3); the number of electrons
    tells which, since it is even exactly where the unpaired ones are. A spin of 0 with an odd number is a
    doublet.
    """
    odd = (int(np.sum(numbers)) - charge) % 2
    if spin % 2 == odd:
        return spin
    return max(spin - 1, odd)


def _radii(numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    from ase.data import covalent_radii

    return covalent_radii[numbers]


def _fault(atoms: Any, pieces: int) -> str | None:
    """What is wrong with a geometry that should be `pieces` molecules; None if nothing."""
    from scipy.sparse.csgraph import connected_components

    positions = atoms.get_positions()
    if not np.isfinite(positions).all():
        return "positions are no longer finite"
    if len(atoms) == 1:
        return None
    radius = _radii(atoms.get_atomic_numbers())
    ratio = atoms.get_all_distances() / (radius[:, None] + radius)
    np.fill_diagonal(ratio, 1.0)
    if ratio.min() < _OVERLAP:
        i, j = np.unravel_index(ratio.argmin(), ratio.shape)
        return f"atoms {i} and {j} ran into each other"
    if connected_components(ratio < _APART)[0] > pieces:
        return "the molecule came apart"
    return None


def _set_apart(atoms: Any, pieces: Sequence[Sequence[int]], random: np.random.Generator) -> None:
    """Move the molecules of a salt or mixture away from each other: RDKit puts them all in one place."""
    radius = _radii(atoms.get_atomic_numbers())
    placed = list(pieces[0])
    for piece in map(list, pieces[1:]):
        direction = random.normal(size=3)
        direction /= np.linalg.norm(direction)
        while True:
            gap = np.linalg.norm(atoms.positions[piece][:, None] - atoms.positions[placed], axis=-1)
            if (gap / (radius[piece][:, None] + radius[placed])).min() > 1.8:
                break
            atoms.positions[piece] += 0.2 * direction
        placed += piece


def _relax(atoms: Any, fmax: float, steps: int) -> float:
    """Go down in energy; the largest force that is left, eV/Å."""
    from ase.optimize import BFGS

    BFGS(atoms, logfile=None).run(fmax=fmax, steps=steps)
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


def sample_molecule(
    smiles: str,
    settings: LabelSettings,
    conformer: int = 0,
    temperature: float = 300.0,
    frames: int = 10,
    index: int = 0,
) -> Iterator[Any]:
    """Yield frames of one run: a conformer at a temperature, with the labels of the sampling method.

    The starting conformer (ETKDG) is relaxed by that method first. The same arguments give the same frames,
    and fewer frames are the first of more. Other labels are put on by :func:`relabelled`.

    Parameters
    ----------
    smiles : str
    settings : LabelSettings
    conformer, temperature, frames : int, float, int
        See :meth:`LabelSettings.runs`.
    index : int
        Of the molecule in its file; part of the random seed.

    Yields
    ------
    ase.Atoms
        With energy (eV) and forces (eV/Å) as results, and in ``info``: ``charge``, ``spin`` (unpaired
        electrons: 0 for closed shells), ``smiles``, ``conformer``, ``temperature``, ``method``.

    Raises
    ------
    StructureError
        If there is no conformer, or it ends in no geometry.
    """
    from ase import Atoms
    from rdkit import Chem
    from rdkit.Chem import Descriptors

    seeds = np.random.SeedSequence([settings.seed, index, conformer])
    molecule = embed(smiles, int(seeds.generate_state(1)[0]) % (2**31 - 1))
    numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
    charge = Chem.GetFormalCharge(molecule)
    unpaired = Descriptors.NumRadicalElectrons(molecule)
    unpaired += (int(numbers.sum()) - charge - unpaired) % 2
    pieces = Chem.GetMolFrags(molecule)
    atoms = Atoms(numbers, molecule.GetConformer().GetPositions())
    atoms.info = {
        "charge": charge,
        "spin": unpaired,
        "smiles": smiles,
        "conformer": conformer,
        "temperature": temperature,
        "method": settings.called(settings.sampler),
    }
    atoms.calc = calculator(settings.sampler, charge, unpaired, settings.dft)
    random = np.random.default_rng([settings.seed, index, conformer, round(temperature * 1000)])
    _set_apart(atoms, pieces, np.random.default_rng(seeds))
    sample = _dynamics if settings.sampling == "md" else _displaced
    yield from sample(atoms, settings, temperature, frames, random, lambda a: _fault(a, len(pieces)))


def labelled(atoms: Any, centred: bool = False) -> Any:
    """A copy that keeps the energy and forces which the calculator finds.

    Parameters
    ----------
    atoms : ase.Atoms
    centred : bool
        Move the centre of mass of the copy to the origin: a molecule without walls drifts.

    Raises
    ------
    StructureError
        If they are not finite.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    energy, forces = float(atoms.get_potential_energy()), np.array(atoms.get_forces(), dtype=float)
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise StructureError("the energy or a force is not finite")
    copy = Atoms(atoms.get_atomic_numbers(), atoms.get_positions(), cell=atoms.cell, pbc=atoms.pbc)
    if centred:
        copy.positions -= copy.get_center_of_mass()
    copy.info = dict(atoms.info)
    copy.calc = SinglePointCalculator(copy, energy=energy, forces=forces)
    return copy


def relabelled(atoms: Any, settings: LabelSettings) -> Any:
    """A copy of a sampled frame with the labels of the settings' method.

    Parameters
    ----------
    atoms : ase.Atoms
        With ``charge`` and ``spin`` (unpaired electrons) in ``info``.
    settings : LabelSettings

    Raises
    ------
    StructureError
        If the method does not converge (or whatever it raises itself).
    """
    copy = atoms.copy()
    charge, unpaired = copy.info["charge"], copy.info["spin"]
    copy.info |= {
        "method": settings.called(settings.method),
        "sampled_with": settings.called(settings.sampler),
    }
    copy.calc = calculator(settings.method, charge, unpaired, settings.dft)
    return labelled(copy)


def _dynamics(
    atoms: Any,
    settings: LabelSettings,
    temperature: float,
    frames: int,
    random: np.random.Generator,
    fault: Callable[[Any], str | None],
) -> Iterator[Any]:
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    _relax(atoms, 0.1, 200)
    if (wrong := fault(atoms)) is not None:
        raise StructureError(f"{wrong} while it was relaxed")
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=random)
    # ASE's way of holding the centre of mass does not sample the canonical distribution of a small molecule.
    free = {"fixcm": False} if "fixcm" in signature(Langevin).parameters else {}
    dynamics = Langevin(
        atoms,
        settings.timestep * units.fs,
        temperature_K=temperature,
        friction=settings.friction / units.fs,
        rng=random,
        logfile=None,
        **free,
    )
    time = 0.0
    for steps in [settings.equilibration + settings.interval, *[settings.interval] * (frames - 1)]:
        dynamics.run(steps)
        time += steps * settings.timestep
        if (wrong := fault(atoms)) is not None:
            raise StructureError(f"{wrong} after {time:g} fs")
        yield labelled(atoms, centred=True)


def normal_modes(atoms: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Vibrations by central differences of the forces (6n evaluations).

    Parameters
    ----------
    atoms : ase.Atoms
        At a minimum, with a calculator.

    Returns
    -------
    wavenumbers : array
        ``(m,)``, 1/cm, ascending, negative where imaginary; translations and rotations are projected out.
    displacements : array
        ``(m, n, 3)``, what one unit of the mass-weighted coordinate (amu^½ Å) moves each atom by, in Å.
    """
    from ase import units

    n, start = len(atoms), atoms.get_positions()
    hessian = np.empty((3 * n, 3 * n))
    for i in range(3 * n):
        pair = []
        for sign in (1, -1):
            moved = start.copy()
            moved.flat[i] += sign * _STEP
            atoms.set_positions(moved)
            pair.append(atoms.get_forces().ravel())
        hessian[i] = -(pair[0] - pair[1]) / (2 * _STEP)
    atoms.set_positions(start)
    root = np.sqrt(np.repeat(atoms.get_masses(), 3))
    hessian = (hessian + hessian.T) / 2 / np.outer(root, root)
    centred = start - atoms.get_center_of_mass()
    rigid = [np.tile(axis, n) for axis in np.eye(3)] + [np.cross(axis, centred).ravel() for axis in np.eye(3)]
    left, size, _ = np.linalg.svd(np.array(rigid).T * root[:, None], full_matrices=True)
    # Columns beyond the rank (5 for a linear molecule) span the vibrations.
    inner = left[:, int((size > 1e-6 * size.max()).sum()) :]
    values, vectors = np.linalg.eigh(inner.T @ hessian @ inner)
    to_energy = units._hbar * 1e10 / np.sqrt(units._e * units._amu) / units.invcm
    wavenumbers = np.sign(values) * np.sqrt(np.abs(values)) * to_energy
    return wavenumbers, ((inner @ vectors) / root[:, None]).T.reshape(-1, n, 3)


def _displaced(
    atoms: Any,
    settings: LabelSettings,
    temperature: float,
    frames: int,
    random: np.random.Generator,
    fault: Callable[[Any], str | None],
) -> Iterator[Any]:
    from ase import units

    left = _relax(atoms, 0.01, 500)
    wrong = fault(atoms)
    if wrong is not None or left > 0.1:
        raise StructureError(f"{wrong or f'no minimum is reached: a force of {left:.2f} eV/Å is left'}")
    wavenumbers, modes = normal_modes(atoms)
    # Classical: <q²> = kT/ω² in mass-weighted coordinates.
    unit = units._hbar * 1e10 / np.sqrt(units._e * units._amu)
    omega = np.maximum(np.abs(wavenumbers), _SOFTEST) * units.invcm / unit
    width = np.sqrt(units.kB * temperature) / omega
    start = atoms.get_positions()
    for _ in range(frames):
        for _ in range(50):
            atoms.set_positions(start + np.tensordot(random.normal(size=len(width)) * width, modes, 1))
            if (wrong := fault(atoms)) is None:
                break
        else:
            raise StructureError(f"{wrong} in each of 50 displacements")
        yield labelled(atoms, centred=True)
