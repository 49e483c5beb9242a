"""`evaluate`: all MOSES metrics of a list of SMILES in one pass."""

from __future__ import annotations

import datetime
import logging
import math
import platform
import random
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import rdBase

from hyperkit_mol.moses import _cache, _compat, _guacamol, _reference, data
from hyperkit_mol.moses._chemistry import PROPERTIES
from hyperkit_mol.moses._chemnet import frechet_distance
from hyperkit_mol.moses._features import Features, chemistry_pass, chemnet_moments, nearest
from hyperkit_mol.moses._novelty import canonical_train
from hyperkit_mol.moses._reference import Reference
from hyperkit_mol.moses._smiles_file import read_smiles
from hyperkit_mol.moses._statistics import cosine_of_counts, internal_diversity
from hyperkit_mol.moses._workers import Pool
from hyperkit_mol.moses.floor import training_floor
from hyperkit_mol.moses.results import Histogram, MosesReport

Progress = Callable[[str, int, int], None]

_SPLIT_METRICS = ("FCD", "SNN", "Frag", "Scaf")
_FEATURE_OF = {
    "SNN": "fingerprint",
    "Frag": "fragments",
    "Scaf": "scaffold",
    "IntDiv": "fingerprint",
    "IntDiv2": "fingerprint",
    "Filters": "filters",
    **{name: name for name in PROPERTIES},
}
_MANY = 200_000
log = logging.getLogger(__name__)
EXTRAS = ("GuacaMol/KL", "GuacaMol/FCD")


def metric_names(
    unique_k: Sequence[int] = (1000, 10000), *, scaffold_set: bool = True, train: bool = True
) -> list[str]:
    """Names of the metrics, in MOSES's order."""
    suffixes = ["Test", "TestSF"] if scaffold_set else ["Test"]
    return [
        "valid",
        *(f"unique@{k}" for k in unique_k),
        *(f"{name}/{suffix}" for suffix in suffixes for name in _SPLIT_METRICS),
        "IntDiv",
        "IntDiv2",
        "Filters",
        *PROPERTIES,
        *(["Novelty"] if train else []),
    ]


def select_metrics(metrics: Iterable[str], available: Sequence[str]) -> list[str]:
    """The chosen metrics in MOSES's order.

    ``FCD`` stands for ``FCD/Test`` and ``FCD/TestSF``, ``unique`` for every ``unique@k``; case does not
    matter.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    chosen: set[str] = set()
    for wanted in metrics:
        key = wanted.strip().lower()
        found = {
            name
            for name in available
            if key in (name.lower(), name.lower().partition("/")[0], name.lower().partition("@")[0])
        }
        if not found:
            raise ValueError(f"metrics: unknown metric {wanted!r}; known are {', '.join(available)}")
        chosen |= found
    if not chosen:
        raise ValueError("metrics: no metric chosen")
    return [name for name in available if name in chosen]


def evaluate(
    smiles: Sequence[str | None],
    *,
    metrics: Iterable[str] | None = None,
    reference: str | Path = "moses",
    train: str | Path | Sequence[str] | None = None,
    unique_k: Sequence[int] = (1000, 10000),
    n_jobs: int = 2,
    batch_size: int = 256,
    device: str = "cpu",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    source: str = "",
) -> MosesReport:
    """Compute the MOSES metrics of generated molecules.

    Names and values are those of molsets 0.3.1 (arXiv:1811.12823) to 1e-6; ``docs/moses.md`` lists where the
    original is wrong and ours differs. Nothing is removed from the input: metrics run on all valid molecules,
    duplicates included, as in MOSES.

    Parameters
    ----------
    smiles : sequence of str or None
        Generated SMILES, in the order of generation (``unique@k`` looks at the first k valid ones). None, an
        empty string and anything that RDKit does not parse count as invalid.
    metrics : iterable of str, optional
        Which to compute (default: all of MOSES's). ``FCD`` means ``FCD/Test`` and ``FCD/TestSF``;
        ``GuacaMol`` adds ``GuacaMol/KL`` and ``GuacaMol/FCD``, see `_guacamol`.
    reference : "moses" or path
        Reference molecules: MOSES's test and scaffold-test set, or a file of SMILES whose statistics are
        computed once and cached. With a file there is no ``TestSF``.
    train : path or sequence of str, optional
        Training molecules for ``Novelty``; by default MOSES's training set with ``reference="moses"``, and no
        Novelty otherwise.
    unique_k : sequence of int
    n_jobs : int
        Processes. The figures do not depend on it.
    batch_size : int
        Molecules in a batch of ChemNet.
    device : str
        Where ChemNet runs.
    limit : int, optional
        Evaluate only the first ``limit`` molecules.
    seed : int
        For the choice of the molecules that the report draws.
    progress : callable, optional
        Called as ``progress(stage, done, total)``.
    source : str
        Where the molecules came from, for the report.

    Returns
    -------
    MosesReport

    Raises
    ------
    ValueError
        If ``smiles`` is empty or an argument is out of range.
    MosesNotInstalledError
        If MOSES's data are not installed; the message has the command.
    """
    _check(smiles, unique_k, n_jobs, batch_size, limit)
    settings = {
        "reference": str(reference),
        "train": _describe(train),
        "unique_k": list(unique_k),
        "n_jobs": n_jobs,
        "batch_size": batch_size,
        "device": device,
        "limit": limit,
        "seed": seed,
    }
    with Pool(n_jobs) as pool:
        run = _Run(pool, batch_size, device, progress)
        return _evaluate(smiles, metrics, reference, train, unique_k, limit, seed, source, settings, run)


def _evaluate(
    smiles: Sequence[str | None],
    metrics: Iterable[str] | None,
    reference: str | Path,
    train: str | Path | Sequence[str] | None,
    unique_k: Sequence[int],
    limit: int | None,
    seed: int,
    source: str,
    settings: dict[str, Any],
    run: _Run,
) -> MosesReport:
    notes: list[str] = []
    given = len(smiles)
    if limit is None and given > _MANY:
        log.warning(
            "%s molecules: MOSES compares 30,000 (limit=30000); 300,000 distinct ones took 19 minutes of "
            "a core without FCD, and IntDiv grows with the square of their number",
            f"{given:,}",
        )
    if limit is not None and given > limit:
        smiles = smiles[:limit]
        notes.append(f"only the first {limit:,} of {given:,} molecules were evaluated (limit={limit})")

    moses = str(reference) == "moses"
    names = metric_names(unique_k, scaffold_set=moses, train=moses or train is not None)
    chosen = names if metrics is None else select_metrics(metrics, [*names, *EXTRAS])
    with run.stage("reference"):
        references = _references(reference, moses, run)
    with run.stage("chemistry"):
        needed = {_FEATURE_OF[base] for name in chosen if (base := name.partition("/")[0]) in _FEATURE_OF}
        if "GuacaMol/KL" in chosen:
            needed |= {"descriptors", "fingerprint"}
        features = chemistry_pass(smiles, needed, pool=run.pool, progress=run.tick("chemistry"))
    notes += features.notes()

    values: dict[str, float | None] = dict.fromkeys(chosen)
    undefined: dict[str, str] = {}
    if "valid" in values:
        values["valid"] = features.n_valid / features.n_total
    if features.n_valid == 0:
        undefined = {name: "no valid molecule" for name in chosen if name != "valid"}
    else:
        _unique(features, values, unique_k, notes)
        _per_molecule(features, values, undefined, references[0])
        _against_references(features, values, undefined, references, run)
        _diversity(features, values, run)
        _guacamol_kl(features, values, undefined, reference, run)
        if "Novelty" in values:
            with run.stage("novelty"):
                values["Novelty"] = _novelty(features, train, run)

    counts = {
        "given": given,
        "total": features.n_total,
        "valid": features.n_valid,
        "distinct": features.n_distinct,
    }
    counts.update({f"reference {ref.name}": ref.size for ref in references})
    if features.n_valid and features.n_total != 30_000 and moses:
        notes.append(
            "MOSES's published figures are for 30,000 generated molecules; these are for "
            f"{features.n_total:,} ({features.n_valid:,} valid). FCD and Scaf of "
            "sets of different sizes must not be compared."
        )
    return MosesReport(
        metrics=values,
        undefined=undefined,
        floor=training_floor(features.n_valid, chosen) if moses and features.n_valid else {},
        counts=counts,
        notes=notes,
        versions=versions(),
        data_hashes=data.data_hashes() | _file_hashes(() if moses else (reference,), train),
        settings=settings,
        timings=run.finish(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        histograms=_histograms(features, references[0]) if features.n_valid else {},
        samples=_samples(features, seed),
        source=source,
    )


def _describe(train: str | Path | Sequence[str] | None) -> str | None:
    if train is None or isinstance(train, str | Path):
        return None if train is None else str(train)
    return f"{len(train)} molecules"


def _check(
    smiles: Sequence[str | None], unique_k: Sequence[int], n_jobs: int, batch_size: int, limit: int | None
) -> None:
    if isinstance(smiles, str):
        raise TypeError("smiles must be a sequence of SMILES, got one string; for a file use evaluate_file")
    if len(smiles) == 0:
        raise ValueError("smiles is empty: there is nothing to evaluate")
    for index, text in enumerate(smiles):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"smiles[{index}] must be a string or None, got {type(text).__name__}")
    for name, value in (("n_jobs", n_jobs), ("batch_size", batch_size), *(("unique_k", k) for k in unique_k)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")


@dataclass
class _Run:
    """Settings, progress and the stopwatch."""

    pool: Pool
    batch_size: int
    device: str
    progress: Progress | None
    started: float = field(default_factory=time.perf_counter)
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str):
        begin = time.perf_counter()
        yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begin

    def tick(self, stage: str) -> Callable[[int, int], None] | None:
        report = self.progress
        if report is None:
            return None
        return lambda done, total: report(stage, done, total)

    def finish(self) -> dict[str, float]:
        self.timings["total"] = time.perf_counter() - self.started
        return {name: round(seconds, 3) for name, seconds in self.timings.items()}


def _references(reference: str | Path, moses: bool, run: _Run) -> list[Reference]:
    if moses:
        return [_reference.moses_reference("test"), _reference.moses_reference("test_scaffolds")]
    from hyperkit_mol.moses._custom import reference_from_file

    return [
        reference_from_file(
            Path(reference),
            pool=run.pool,
            batch_size=run.batch_size,
            device=run.device,
            progress=run.progress,
        )
    ]


def _unique(
    features: Features, values: dict[str, float | None], unique_k: Sequence[int], notes: list[str]
) -> None:
    canonical = features.valid_canonical()
    for k in unique_k:
        name = f"unique@{k}"
        if name not in values:
            continue
        first = canonical[:k]
        values[name] = len(set(first)) / len(first)
        if len(canonical) < k:
            notes.append(
                f"{name} is over the {len(canonical):,} valid molecules that there are, fewer than {k:,}"
            )


def _per_molecule(
    features: Features, values: dict[str, float | None], undefined: dict[str, str], reference: Reference
) -> None:
    from scipy.stats import wasserstein_distance

    if "Filters" in values:
        values["Filters"] = float(np.mean(features.expand(features.passes)))
    for name in PROPERTIES:
        if name not in values:
            continue
        found = features.expand(features.values[name])
        found = found[np.isfinite(found)]
        if len(found):
            values[name] = float(wasserstein_distance(reference.values[name], found))
        else:
            undefined[name] = f"{name} could not be computed for any molecule"


def _against_references(
    features: Features,
    values: dict[str, float | None],
    undefined: dict[str, str],
    references: list[Reference],
    run: _Run,
) -> None:
    suffixes = ("Test", "TestSF")[: len(references)]
    pairs = list(zip(suffixes, references, strict=True))
    for suffix, reference in pairs:
        for base, ours, theirs, what in (
            ("Frag", features.fragments, reference.fragments, "fragment"),
            ("Scaf", features.scaffolds, reference.scaffolds, "scaffold with two rings or more"),
        ):
            name = f"{base}/{suffix}"
            if name in values:
                values[name] = cosine_of_counts(ours, theirs)
                if values[name] is None:
                    side = "generated" if not ours else "reference"
                    undefined[name] = f"no {side} molecule has a {what}"
    wanted = [
        (suffix, reference)
        for suffix, reference in pairs
        if f"FCD/{suffix}" in values or (suffix == "Test" and "GuacaMol/FCD" in values)
    ]
    if wanted and features.n_valid < 2:
        names = [*(f"FCD/{suffix}" for suffix, _ in wanted), "GuacaMol/FCD"]
        undefined.update({name: "needs at least 2 valid molecules" for name in names if name in values})
    elif wanted:
        with run.stage("chemnet"):
            mean, covariance = chemnet_moments(
                features,
                device=run.device,
                n_jobs=run.pool.n_jobs,
                batch_size=run.batch_size,
                progress=run.tick("chemnet"),
            )
            for suffix, reference in wanted:
                distance = frechet_distance(mean, covariance, reference.mean, reference.covariance)
                if f"FCD/{suffix}" in values:
                    values[f"FCD/{suffix}"] = distance
                if suffix == "Test" and "GuacaMol/FCD" in values:
                    values["GuacaMol/FCD"] = math.exp(-0.2 * distance)
    wanted = [(suffix, reference) for suffix, reference in pairs if f"SNN/{suffix}" in values]
    if wanted:
        with run.stage("nearest"):
            found = nearest(
                features,
                [reference for _, reference in wanted],
                pool=run.pool,
                progress=run.tick("nearest"),
            )
            for (suffix, _), similarity in zip(wanted, found, strict=True):
                values[f"SNN/{suffix}"] = float(np.mean(features.expand(similarity).astype(np.float64)))


def _diversity(features: Features, values: dict[str, float | None], run: _Run) -> None:
    if "IntDiv" not in values and "IntDiv2" not in values:
        return
    with run.stage("diversity"):
        packed, weights = features.distinct_fingerprints()
        found = internal_diversity(packed, weights, n_jobs=run.pool.n_jobs, done=run.tick("diversity"))
    for name, value in (("IntDiv", found.first), ("IntDiv2", found.second)):
        if name in values:
            values[name] = value


def _guacamol_kl(
    features: Features,
    values: dict[str, float | None],
    undefined: dict[str, str],
    reference: str | Path,
    run: _Run,
) -> None:
    name = "GuacaMol/KL"
    if name not in values:
        return
    with run.stage("guacamol"):
        moses = str(reference) == "moses"
        path = data.split_path("test") if moses else Path(reference)
        theirs = _guacamol.reference_profile(
            f"{_cache.sha256(path)[:16]}-rdkit{rdBase.rdkitVersion}",
            lambda: data.load_split("test") if moses else read_smiles(path),
            pool=run.pool,
            progress=run.tick("guacamol"),
        )
        values[name] = _guacamol.kl_score(theirs, _guacamol.profile(features, run.pool.n_jobs))
    if values[name] is None:
        undefined[name] = "needs at least 2 distinct valid molecules"


def _file_hashes(
    references: Sequence[str | Path], train: str | Path | Sequence[str] | None
) -> dict[str, str]:
    files = [Path(entry) for entry in (*references, train) if isinstance(entry, str | Path)]
    return {str(file): _cache.sha256(file) for file in files}


def _novelty(features: Features, train: str | Path | Sequence[str] | None, run: _Run) -> float:
    distinct = set(features.valid_canonical())
    if train is None:
        known: Iterable[str] = canonical_train(run.pool, run.tick("training set"))
    else:
        from hyperkit_mol.moses._custom import canonical_strings

        known = canonical_strings(train, pool=run.pool, progress=run.tick("training set"))
    return 1.0 - len(distinct.intersection(known)) / len(distinct)


def _histograms(features: Features, reference: Reference, bins: int = 40) -> dict[str, Histogram]:
    result = {}
    for name in PROPERTIES:
        if name not in features.values:
            continue
        ours = features.expand(features.values[name])
        ours = ours[np.isfinite(ours)]
        theirs = reference.values[name]
        if not len(ours) or not len(theirs):
            continue
        # A handful of extreme molecules must not squeeze the picture into one bin.
        low, high = np.quantile(theirs, [0.001, 0.999])
        low, high = min(low, np.quantile(ours, 0.01)), max(high, np.quantile(ours, 0.99))
        edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
        shares = [
            np.histogram(np.clip(values, low, edges[-1]), edges)[0] / len(values) for values in (ours, theirs)
        ]
        result[name] = Histogram(edges.tolist(), shares[0].tolist(), shares[1].tolist())
    return result


def _samples(features: Features, seed: int, number: int = 24) -> list[str]:
    distinct = list(dict.fromkeys(features.valid_canonical()))
    return random.Random(seed).sample(distinct, min(number, len(distinct)))


def versions() -> dict[str, str | None]:
    """Versions of what the figures depend on."""
    from hyperkit._version import __version__

    return {
        "hyperkit": __version__,
        "python": platform.python_version(),
        **{
            name: _compat.package_version(name)
            for name in ("rdkit", "molsets", "fcd_torch", "torch", "numpy", "scipy")
        },
    }
