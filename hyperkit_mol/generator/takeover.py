"""An autoencoder that is taken over from another run, and the ways in which the new one may be more."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hyperkit_mol.generator.checkpoint import load_model_files
from hyperkit_mol.generator.model import MoleculeGenerator
from hyperkit_mol.runs import RunError, read_checkpoint

_LOG_WEIGHT = -4.5  # of the residuals of blocks that are added to a trained decoder


def take_autoencoder(model: MoleculeGenerator, source: Path) -> int:
    """Give `model` the autoencoder of a model folder, or of a run that may still be going on.

    Returns
    -------
    int
        Steps that it was trained for.

    Raises
    ------
    RunError
        If there is none, or if it has another vocabulary or other sizes.
    """
    folder = source / "model" if (source / "model").is_dir() else source
    checkpoint = source / "autoencoder" / "last.ckpt"
    prefix = "autoencoder."
    if (folder / "model.json").is_file():
        files = load_model_files(folder)
        weights, digest, steps = (
            files.weights,
            files.vocabulary.digest,
            files.info.get("autoencoder_steps", 0),
        )
    elif checkpoint.is_file():
        found = read_checkpoint(checkpoint)
        weights, digest, prefix = found["state_dict"], found.get("vocabulary"), "model."
        steps = found.get("before", 0) + found["step"]
    else:
        raise RunError(f"{source}: neither a model folder nor a run with an autoencoder's checkpoint")
    if digest is not None and digest != model.vocabulary.digest:
        raise RunError(
            f"{source} was trained with another vocabulary: give the same data.source, data.limit, "
            "data.min_count and seed"
        )
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    try:
        model.autoencoder.load_state_dict(_fitted(own, model.autoencoder.state_dict()))
    except RuntimeError as err:
        raise RunError(f"{source}: the autoencoder does not fit the configuration ({err})") from err
    return int(steps)


def _fitted(own: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that were taken over, with what their model did not have yet."""
    # A normal posterior can begin from an autoencoder of points: its widths begin at their start. And a
    # decoder that is told the mass from one that was not.
    new = tuple(k for k in fresh if k.startswith(("tree_scale.", "graph_scale.", "decoder.mass.")))
    own = {k: fresh[k] for k in new} | own
    joint = own.get("joint.weight")
    if joint is not None and joint.shape[1] + 1 == fresh["joint.weight"].shape[1]:
        # So can a decoder of faded latents from one that knew none: what it is told counts for nothing yet.
        own["joint.weight"] = torch.nn.functional.pad(joint, (0, 1))
    relation = own.get("decoder.relation")
    more = 0 if relation is None else len(fresh["decoder.relation"]) - len(relation)
    if relation is not None and more > 0:
        # And a deeper decoder: the added blocks say little at first, so that they are nearly the identity.
        own["decoder.relation"] = torch.cat([relation, fresh["decoder.relation"][len(relation) :]])
        added = tuple(f"decoder.blocks.{k}." for k in range(len(relation), len(relation) + more))
        for k, v in fresh.items():
            if k.startswith(added):
                own[k] = torch.full_like(v, _LOG_WEIGHT) if k.endswith(".log_weight") else v
    return own
