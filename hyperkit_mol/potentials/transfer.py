"""Beginning a training with the weights of another potential."""

from __future__ import annotations

import torch
from torch import nn

from hyperkit_mol.potentials.errors import ModelError
from hyperkit_mol.potentials.potential import Potential

__all__ = ["take_weights"]


def _readouts(potential: Potential) -> list[nn.Linear]:
    """The last layers, of the energy and, where there is one, of the direct forces."""
    return potential.backbone.readouts()  # pyright: ignore[reportCallIssue, reportReturnType]


def take_weights(new: Potential, old: Potential) -> list[str]:
    """Copy the weights of `old` into `new`, element by element where embeddings are concerned.

    References, shift and scale stay those of `new`: a network's output is relative to them, so that a
    potential trained on semi-empirical labels can go on with labels of another level of theory. Its last
    layers are multiplied by the ratio of the two scales, so that `new` begins with the forces of `old`.

    Returns
    -------
    list of str
        Symbols of elements that `old` did not know; their embeddings begin at random.

    Raises
    ------
    ModelError
        If the two differ in more than forces (conservative or direct).
    """
    mine, theirs = (p.config.model_dump(exclude={"forces", "curvature"}) for p in (new, old))
    different = [k for k, v in mine.items() if theirs[k] != v]
    if different:
        values = "; ".join(f"{k} is {theirs[k]}, the new one has {mine[k]}" for k in different)
        raise ModelError(f"training.start: that model's {values}")
    place = {z: k for k, z in enumerate(old.elements)}
    shared = [z for z in new.elements if z in place]
    if not shared:
        raise ModelError("training.start: that model knows none of the elements in the data")
    target, source = new.backbone.state_dict(), old.backbone.state_dict()
    rows = torch.tensor([new.elements.index(z) for z in shared])
    from_rows = torch.tensor([place[z] for z in shared])
    with torch.no_grad():
        for name, value in target.items():
            if name not in source:  # a head for direct forces
                continue
            if name == "element.weight":
                value[rows] = source[name][from_rows].to(value.dtype)
            elif name == "pair.weight":
                n, m = len(new.elements), len(old.elements)
                into = (rows[:, None] * n + rows).flatten()
                value[into] = source[name][(from_rows[:, None] * m + from_rows).flatten()].to(value.dtype)
            elif source[name].shape == value.shape:
                value.copy_(source[name])
        ratio = old.normalization.scale / new.normalization.scale
        # A head for direct forces that only one of the two has was not copied.
        both = min(len(_readouts(new)), len(_readouts(old)))
        for layer in _readouts(new)[:both]:
            for p in layer.parameters():
                p.mul_(ratio)
    from rdkit import Chem

    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return [symbol(z) for z in new.elements if z not in place]
