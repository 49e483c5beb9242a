"""Units of a file's numbers, turned into the eV and Å that everything else is written in."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from hyperkit_mol.potentials.errors import DataError

__all__ = ["ENERGY_UNITS", "LENGTH_UNITS", "Units", "force_unit", "named_unit"]

# Accepted name -> other spellings of it, lower case.
ENERGY_UNITS: dict[str, tuple[str, ...]] = {
    "eV": ("ev",),
    "meV": ("mev",),
    "kcal/mol": ("kcal/mol", "kcal mol-1"),
    "kJ/mol": ("kj/mol", "kj mol-1"),
    "Hartree": ("hartree", "ha", "eh", "a.u.", "au"),
}
LENGTH_UNITS: dict[str, tuple[str, ...]] = {
    "Å": ("å", "a", "ang", "angstrom", "ångström", "ångstrom"),
    "bohr": ("bohr", "a0", "a.u.", "au"),
    "nm": ("nm", "nanometer", "nanometre"),
}


def named_unit(value: str, accepted: dict[str, tuple[str, ...]], argument: str) -> str:
    """The accepted name of a unit, whatever its spelling or case.

    Raises
    ------
    DataError
        Listing what is accepted.

    Examples
    --------
    >>> named_unit("ANGSTROM", LENGTH_UNITS, "length_unit")
    'Å'
    """
    # NFKC: the Ångström sign (U+212B) and the letter (U+00C5) look the same.
    text = unicodedata.normalize("NFKC", str(value)).strip().lower()
    for name, spellings in accepted.items():
        if text in spellings:
            return name
    raise DataError(f"{argument} must be one of {', '.join(accepted)}, got {value!r}")


def force_unit(value: str) -> str:
    """The accepted name of a force unit: an energy unit, a slash, a length unit.

    Raises
    ------
    DataError
        Listing what is accepted.

    Examples
    --------
    >>> force_unit("kcal/mol/A")
    'kcal/mol/Å'
    """
    energy, slash, length = str(value).rpartition("/")
    try:
        if not slash:
            raise DataError("no slash")
        return f"{named_unit(energy, ENERGY_UNITS, '')}/{named_unit(length, LENGTH_UNITS, '')}"
    except DataError:
        raise DataError(
            "force_unit must be an energy and a length unit, such as Hartree/bohr or kcal/mol/Å (energies: "
            f"{', '.join(ENERGY_UNITS)}; lengths: {', '.join(LENGTH_UNITS)}), got {value!r}"
        ) from None


@dataclass(frozen=True)
class Units:
    """What a file's numbers are in.

    Parameters
    ----------
    energy : str
        eV, meV, kcal/mol, kJ/mol or Hartree; any case.
    length : str
        Å (also ``A``, ``angstrom``), bohr or nm; of positions and cells.
    force : str, optional
        ``energy/length`` unless given, such as ``Hartree/bohr`` in a file whose positions are in Å.

    Raises
    ------
    DataError
        For a unit that is not known; the message lists the accepted ones.

    Examples
    --------
    >>> Units("kcal/mol").force_name
    'kcal/mol/Å'
    """

    energy: str = "eV"
    length: str = "Å"
    force: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "energy", named_unit(self.energy, ENERGY_UNITS, "energy_unit"))
        object.__setattr__(self, "length", named_unit(self.length, LENGTH_UNITS, "length_unit"))
        if self.force is not None:
            object.__setattr__(self, "force", force_unit(self.force))

    @property
    def force_name(self) -> str:
        """Unit of the forces, spelled out."""
        return self.force or f"{self.energy}/{self.length}"

    def factors(self) -> tuple[float, float, float]:
        """What energies, lengths and forces are multiplied by to be in eV, Å and eV/Å (ASE's constants)."""
        energy, _, length = self.force_name.rpartition("/")
        return _energy(self.energy), _length(self.length), _energy(energy) / _length(length)


def _energy(name: str) -> float:
    from ase import units

    # Exactly 1, not 1.0000000000000002: numbers in eV must come through as they are.
    table = {
        "eV": 1.0,
        "meV": 1e-3,
        "kcal/mol": units.kcal / units.mol,
        "kJ/mol": units.kJ / units.mol,
        "Hartree": units.Hartree,
    }
    return table[name]


def _length(name: str) -> float:
    from ase import units

    return {"Å": 1.0, "bohr": units.Bohr, "nm": units.nm}[name]
