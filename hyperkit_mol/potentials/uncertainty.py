"""How sure a single potential is of an energy and of forces, from its last layer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hyperkit_mol.files import replacing
from hyperkit_mol.potentials.batch import AtomicBatch, Structure
from hyperkit_mol.potentials.errors import DataError, ModelError
from hyperkit_mol.potentials.escaip import EScAIP
from hyperkit_mol.potentials.potential import Potential

__all__ = ["FILE", "LastLayer", "energy_features", "head_forces"]

FILE = "last_layer.safetensors"
FORMAT = "hyperkit-last-layer/1"

Array = npt.NDArray[np.float64]
# Two numbers are fitted; fewer structures than this fit whatever they are given.
_FEWEST = 10
# Of the mean eigenvalue. float32 features are noise below the first.
_RIDGES = np.logspace(-10, 0, 41)


def _atomic_features(potential: Potential, batch: AtomicBatch) -> torch.Tensor:
    """``(N, width)``: the inputs of the last layer, times the presence of each atom, times the scale: eV."""
    backbone: Any = potential.backbone
    seen: list[torch.Tensor] = []
    (readout, *_) = backbone.readouts()
    handle = readout.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        out = backbone(batch)
    finally:
        handle.remove()
    atomic = seen[0].double()
    if out.presence is not None:
        atomic = atomic * out.presence.double().unsqueeze(-1)
    return potential.normalization.scale * atomic


def energy_features(potential: Potential, batch: AtomicBatch) -> Array:
    """What the energies are linear in: ``(B, width)`` with ``E = known + features @ w``, w the last weights.

    The inputs of the last layer, times the presence of each atom, summed over the atoms of a structure, times
    the scale: eV.
    """
    with torch.no_grad():
        atomic = _atomic_features(potential, batch)
    total = atomic.new_zeros(batch.size, atomic.shape[-1]).index_add(0, batch.index, atomic)
    return total.cpu().numpy()


def head_forces(potential: Potential, batch: AtomicBatch, heads: Array) -> Array:
    """Forces ``(K, N, 3)`` in eV/Å that other last weights, the rows of `heads` ``(K, width)``, would give.

    One forward pass, and a backward pass for each head.

    Raises
    ------
    ModelError
        If forces are direct: they are then no derivatives of what the last layer of the energy says.
    """
    if potential.config.forces != "conservative":
        raise ModelError("forces are direct: the energy's last layer says nothing of them")
    pieces = [batch]
    if isinstance(potential.backbone, EScAIP):
        pieces = batch.split(potential.backbone.rows(batch.neighbors.shape[1]))
    found = []
    for piece in pieces:
        positions = piece.positions.detach().requires_grad_()
        with torch.enable_grad():
            atomic = _atomic_features(potential, replace(piece, positions=positions))
            energies = atomic.sum(0) @ torch.as_tensor(heads.T, device=atomic.device)
        last = len(heads) - 1
        slopes = [
            torch.autograd.grad(energies[k], positions, retain_graph=k < last)[0] for k in range(len(heads))
        ]
        found.append(-torch.stack(slopes).double().cpu().numpy())
    return np.concatenate(found, 1)


def _features(potential: Potential, structures: Sequence[Structure], batch_size: int) -> Array:
    parts = [
        energy_features(potential, potential.prepare(list(structures[k : k + batch_size])))
        for k in range(0, len(structures), batch_size)
    ]
    return np.concatenate(parts)


def _fingerprint(potential: Potential) -> str:
    """Of the weights, whatever precision they were loaded in."""
    digest = hashlib.sha256()
    for name, value in sorted(potential.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class LastLayer:
    r"""Uncertainty of energies and forces by last-layer prediction rigidity.

    An energy is linear in the last weights, :math:`E = \phi^T w + \ldots`; with the rest of the network held
    fixed this is Bayesian linear regression. With the features :math:`\phi_k` of the training structures

    .. math:: \sigma^2(\phi) = \alpha^2\, \phi^T \left(\sum_k \phi_k \phi_k^T + \varsigma^2 1\right)^{-1} \phi

    grows where a structure's features point along directions that the training set hardly has. :math:`\alpha`
    and :math:`\varsigma` are those that make the errors on validation structures likeliest under normal
    distributions of these widths. It costs a forward pass, and no further training.

    A force is linear in the last weights as well, :math:`F = -(\partial\phi/\partial x)^T w`, so that its
    variance is the same form in :math:`\partial\phi/\partial x`, with an :math:`\alpha` of its own.

    Bigi, Chong, Ceriotti and Grasselli, *A prediction rigidity formalism for low-cost uncertainties in
    trained neural networks*, Mach. Learn.: Sci. Technol. 5, 045018 (2024), arXiv:2403.02251; the Bayesian
    last layer is older: Snoek et al., *Scalable Bayesian optimization using deep neural networks*, ICML 2015.

    Parameters
    ----------
    directions : array
        ``(width, width)``, eigenvectors of the training features' second moments as columns.
    strengths : array
        ``(width,)``, their eigenvalues plus :math:`\varsigma^2`.
    alpha : float
    fingerprint : str
        Of the weights that the features come from.
    info : dict
        Numbers of structures, the ridge, and what was found on validation.
    alpha_forces : float, optional
        None where forces could not be calibrated: direct ones, or validation structures without forces.
    """

    directions: Array
    strengths: Array
    alpha: float
    fingerprint: str
    info: dict[str, Any] = field(default_factory=dict)
    alpha_forces: float | None = None

    @classmethod
    def fit(
        cls,
        potential: Potential,
        train: Sequence[Structure],
        validation: Sequence[Structure],
        batch_size: int = 32,
    ) -> LastLayer:
        """Features of the training structures, and the two numbers that validation structures decide.

        Parameters
        ----------
        potential : Potential
        train : sequence of Structure
            Those that `potential` was trained on; their labels are not looked at.
        validation : sequence of Structure
            With energies; none that it was trained on, or the result is too sure of itself.
        batch_size : int

        Raises
        ------
        DataError
            For fewer than 10 validation structures, or some without an energy.
        """
        if not train:
            raise DataError("there are no training structures")
        if len(validation) < _FEWEST:
            raise DataError(
                f"at least {_FEWEST} validation structures are needed to calibrate, got {len(validation)}"
            )
        missing = [s.name for s in validation if s.energy is None]
        if missing:
            raise DataError(
                f"{missing[0]}: energy is missing ({len(missing)} validation structures have none)"
            )
        potential.eval().requires_grad_(False)
        phi, held = (_features(potential, s, batch_size) for s in (train, validation))
        values, directions = np.linalg.eigh(phi.T @ phi)
        values = np.maximum(values, 0.0)
        squares = np.square(held @ directions)
        labels = np.array([s.energy for s in validation], dtype=float)
        error = _energies(potential, validation, batch_size) - labels
        if not np.any(error):
            raise DataError(
                "the energy errors on the validation structures are all 0: nothing to calibrate by"
            )
        # For each ridge the likeliest alpha is known; what is left of the likelihood decides the ridge.
        best: tuple[float, float, Array] | None = None
        for ridge in _RIDGES * values.mean():
            shape = (squares / (values + ridge)).sum(-1)
            alpha2 = float(np.mean(np.square(error) / shape))
            loss = 0.5 * float(np.mean(np.log(2 * math.pi * alpha2 * shape))) + 0.5
            if math.isfinite(loss) and (best is None or loss < best[0]):
                best = loss, ridge, math.sqrt(alpha2) * np.sqrt(shape)
        if best is None:
            raise DataError("the energy errors on the validation structures are not finite numbers")
        loss, ridge, std = best
        alpha = float(std[0] / math.sqrt((squares[0] / (values + ridge)).sum()))
        # An even width for all structures is what anything better has to beat.
        even = 0.5 * float(np.log(2 * math.pi * np.mean(np.square(error)))) + 0.5
        info = {
            "train": len(train),
            "validation": len(validation),
            "ridge": float(ridge / values.mean()),
            "rmse_eV": float(np.sqrt(np.mean(np.square(error)))),
            "mean_std_eV": float(std.mean()),
            "within_1": float(np.mean(np.abs(error) < std)),
            "within_2": float(np.mean(np.abs(error) < 2 * std)),
            "loss": loss,
            "loss_even": even,
        }
        return cls(directions, values + ridge, alpha, _fingerprint(potential), info)._with_forces(
            potential, validation, batch_size
        )

    def _with_forces(
        self, potential: Potential, validation: Sequence[Structure], batch_size: int
    ) -> LastLayer:
        """The likeliest alpha of the forces on validation structures, where they have some."""
        if potential.config.forces != "conservative" or any(s.forces is None for s in validation):
            return self
        unit, errors, widths = replace(self, alpha_forces=1.0), [], []
        for k in range(0, len(validation), batch_size):
            some = list(validation[k : k + batch_size])
            batch = potential.prepare(some)
            forces = potential(batch).forces.detach().cpu().double().numpy()
            errors.append(forces - np.concatenate([np.asarray(s.forces) for s in some]))
            widths.append(np.sqrt(np.square(head_forces(potential, batch, unit.heads())).sum(0)))
        error, width = np.concatenate(errors), np.concatenate(widths)
        known = width > 0  # not of a lone atom
        if not known.any() or not np.any(error[known]):
            return self
        alpha = float(np.sqrt(np.mean(np.square(error[known] / width[known]))))
        std = alpha * width
        more = {
            "force_rmse_eV_per_A": float(np.sqrt(np.mean(np.square(error)))),
            "force_mean_std_eV_per_A": float(std.mean()),
            "force_within_1": float(np.mean(np.abs(error[known]) < std[known])),
            "force_within_2": float(np.mean(np.abs(error[known]) < 2 * std[known])),
        }
        return replace(self, alpha_forces=alpha, info=self.info | more)

    def heads(self, count: int | None = None) -> Array:
        """Last weights ``(K, width)`` whose forces, squared and summed, are the forces' variances.

        Parameters
        ----------
        count : int, optional
            Draw so many at random, the same ones always, for an estimate with a relative error of
            ``1/sqrt(2 count)`` in the standard deviation. None, or the width and above: the exact ones, as
            many as the last layer is wide.

        Raises
        ------
        ModelError
            If forces have not been calibrated.
        """
        if self.alpha_forces is None:
            raise ModelError(
                "this LastLayer has no calibration for forces: it needs conservative forces, and validation "
                "structures with forces; `hyperkit-mol potential uncertainty RUN` makes it anew"
            )
        exact = self.alpha_forces * (self.directions / np.sqrt(self.strengths)).T
        if count is None or count >= len(exact):
            return exact
        if count < 1:
            raise ValueError(f"count must be >= 1, got {count}")
        mixed = np.random.default_rng(0).normal(size=(count, len(exact))) / math.sqrt(count)
        return mixed @ exact

    def energy_std(self, features: Array) -> Array:
        """Standard deviations ``(B,)`` in eV for :func:`energy_features` ``(B, width)``."""
        return self.alpha * np.sqrt((np.square(features @ self.directions) / self.strengths).sum(-1))

    def check(self, potential: Potential, name: str = "this LastLayer") -> LastLayer:
        """Itself, if it was made for the weights of `potential`.

        Raises
        ------
        ModelError
        """
        if self.fingerprint != _fingerprint(potential):
            raise ModelError(f"{name} was made for other weights than those of this model: make it anew")
        return self

    def save(self, folder: str | Path) -> Path:
        """Write ``last_layer.safetensors`` into a model folder."""
        path = Path(folder) / FILE
        words = {
            "format": FORMAT,
            "alpha": repr(self.alpha),
            "fingerprint": self.fingerprint,
            "info": json.dumps(self.info),
        }
        if self.alpha_forces is not None:
            words["alpha_forces"] = repr(self.alpha_forces)
        tensors = {"directions": np.ascontiguousarray(self.directions), "strengths": self.strengths}
        with replacing(path) as temporary:
            save_file(tensors, str(temporary), words)
        path.chmod(0o644)  # safetensors leaves its files to the owner alone
        return path

    @classmethod
    def load(cls, folder: str | Path, potential: Potential) -> LastLayer:
        """Read what :meth:`save` wrote, for the `potential` of the same folder.

        Raises
        ------
        ModelError
            If there is none, it is damaged, or it was made for other weights.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            raise ModelError(
                f"{folder} has no {FILE}: make it with `hyperkit-mol potential uncertainty RUN` "
                "(the folder of the run, not of the model)"
            )
        try:
            with safe_open(str(path), "numpy") as file:
                words = file.metadata() or {}
                directions, strengths = file.get_tensor("directions"), file.get_tensor("strengths")
            if words.get("format") != FORMAT:
                raise ModelError(f"{path}: format {words.get('format')!r}, expected {FORMAT!r}")
            # Files from before forces had one lack the last.
            alphas = float(words["alpha"]), float(words.get("alpha_forces", "nan"))
            found = cls(
                directions,
                strengths,
                alphas[0],
                words["fingerprint"],
                json.loads(words["info"]),
                None if math.isnan(alphas[1]) else alphas[1],
            )
        except (SafetensorError, KeyError, ValueError, OSError) as err:
            if isinstance(err, ModelError):
                raise
            raise ModelError(f"{path}: damaged ({type(err).__name__}: {err})") from err
        return found.check(potential, str(path))


def _energies(potential: Potential, structures: Sequence[Structure], batch_size: int) -> Array:
    parts = []
    for k in range(0, len(structures), batch_size):
        with torch.no_grad():
            found = potential(potential.prepare(list(structures[k : k + batch_size])), forces=False)
        parts.append(found.energy.cpu().numpy())
    return np.concatenate(parts)
