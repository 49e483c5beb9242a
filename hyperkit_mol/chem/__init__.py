"""SMILES <-> motif trees <-> integer arrays. No neural network in here."""
