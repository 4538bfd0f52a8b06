"""Compare several SAEs: `consistency`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

import torch

from saematch.analysis.tables import Ledger
from saematch.dictionaries.rates import checked_rates
from saematch.dictionaries.result import Consistency, consistency_of
from saematch.dictionaries.study import ConsistencyProgress, Settings, Study
from saematch.errors import MatchError, refusals
from saematch.matching.backend import choose_backend, machine, versions
from saematch.matching.solver import Solver
from saematch.numeric.arrays import ArrayLike
from saematch.numeric.numbers import checked_count, checked_number
from saematch.options import BackendName, PrecisionName
from saematch.sae.autoencoder import SAE
from saematch.sources import SAEHandle, SourceLike
from saematch.sources.handle import SAEInMemory
from saematch.sources.names import check_names
from saematch.sources.search import search
from saematch.storage.folders import LocalFolder
from saematch.text import listing

THRESHOLD, SEEDS = 0.7, 3


def consistency(
    saes: Mapping[Any, SAE | SAEHandle | SourceLike],
    *,
    reference: Any = None,
    axis: str = "seed",
    threshold: float = THRESHOLD,
    nulls: int = SEEDS,
    margins: bool = False,
    firing_rates: Mapping[Any, ArrayLike] | None = None,
    out: str | os.PathLike[str] | None = None,
    max_rounds: int | None = None,
    time_limit: float | None = None,
    device: str | torch.device | None = None,
    backend: BackendName = "auto",
    precision: PrecisionName = "auto",
    progress: Callable[[ConsistencyProgress], None] | None = None,
) -> Consistency:
    """Measure how far SAEs of the same activations agree, by their weights: seeds, training steps, widths or layers.

    Every pair of SAEs is matched by the cosine of decoder rows, of encoder columns, and by the mean of both, each with
    its sign and up to its sign; every matching comes with a proof. The same is done with null models in place of the
    second SAE. `docs/consistency.md` says what each number means and how to read it.

    Args:
        saes: name -> SAE: an `SAE`, a source as in `load` that is read when it is needed, or a handle of
            `load_layers(…).handles`. At least two, of activations of the same width.
        reference: the name of the SAE with which all others are compared. By default, all pairs are compared.
        axis: what the SAEs differ in, for tables and figures: "seed", "step", "width", "layer" or any other text.
        threshold: the cosine above which matched features are shared.
        nulls: the number of seeds of each of the two null models; 0 leaves them out. A spread needs at least 2.
        margins: whether to compute margins of the matching of decoders, with passes over all pairs of features.
        firing_rates: name -> `(F,)`, how often each feature fires, in any unit: shared features are then counted by
            firing rate.
        out: a folder for `consistency.json` and the tables. Finished pairs are kept there: the same call resumes a
            comparison that was stopped.
        max_rounds: see `match`.
        time_limit: see `match`; for each matching.
        device: see `match`.
        backend: see `match`.
        precision: see `match`.
        progress: a function that is called when a matching or another step begins, and after each pass over all pairs.

    Raises:
        MatchError: for fewer than two SAEs, SAEs that cannot be read or compared, an argument that is not valid, or a
            folder that cannot be written.

    Examples:
        >>> import saematch as sm
        >>> layers = sm.load_layers("sample")
        >>> result = sm.consistency({"layer 8": layers[8], "layer 9": layers[9]}, axis="layer", nulls=1)
        >>> print(f"{result.pw_mcc_decoder:.3f}, and up to the sign {result.pw_mcc_decoder_absolute:.3f}")
        0.396, and up to the sign 0.398
        >>> pair = result.pairs[0]
        >>> print(f"shared: {pair.shared:.1%}; of random directions: {pair.null_random.mean['shared']:.1%}")
        shared: 2.4%; of random directions: 0.0%
    """
    # The SAEs, and which pairs of them are compared.
    handles = {str(name): handle_of(given, str(name)) for name, given in _items(saes)}
    if len(saes) < 2:
        raise MatchError(f"{len(saes)} SAE given; a comparison takes at least two")
    check_names(list(map(str, saes)))
    known = None if reference is None else str(reference)
    if known is not None and known not in handles:
        raise MatchError(f"reference is {known!r}; it must be one of the names {listing(handles)}")
    others = [name for name in handles if name != known]
    pairs = list(combinations(handles, 2)) if known is None else [(known, other) for other in others]
    # The options.
    wrong = f"threshold is {threshold!r:.40}; give a cosine from 0 to 1"
    threshold = checked_number(threshold, 0, 1, wrong)
    nulls = checked_count(
        nulls, 0, f"the number of null seeds is {nulls!r:.40}; give a whole number, or 0 for no null models"
    )
    if not isinstance(axis, str) or not axis:
        raise MatchError(f"axis is {axis!r:.40}; give a text that says what the SAEs differ in")
    solver = Solver(
        max_rounds=max_rounds, time_limit=time_limit, device=device, backend=backend, precision=precision
    ).checked()
    names = ("max_rounds", "time_limit", "device", "backend", "precision")
    limits = {name: getattr(solver, name) for name in names}
    chosen = choose_backend(backend, device, precision)
    settings = Settings(threshold, nulls, bool(margins), limits, chosen.device)
    rates = {str(name): checked_rates(values, str(name), handles) for name, values in (firing_rates or {}).items()}
    # The work.
    folder = None if out is None else LocalFolder(out)
    if folder is not None:  # refused before any work
        with refusals("cannot be written", folder, OSError):
            folder.path.mkdir(parents=True, exist_ok=True)
    ledger = None if folder is None else Ledger(folder)
    study = Study(handles, pairs, settings, ledger, (lambda _: None) if progress is None else progress)
    measured, partners = study.run()
    provenance = {"versions": versions(), "machine": machine(), "options": settings.record(), "backend": chosen.name}
    result = consistency_of(
        measured,
        partners,
        rates,
        axis=axis,
        threshold=threshold,
        reference=known,
        saes=[{"name": name, **study.records[name]} for name in handles],
        provenance={**provenance, "device": str(chosen.device), "precision": chosen.precision},
    )
    if folder is not None:
        result.save(folder.path)
    return result


def handle_of(given: Any, name: str) -> SAEHandle:
    """Return the handle of one SAE: of an object in memory, or of the one SAE that a source leads to."""
    if isinstance(given, SAEHandle):
        return given
    if isinstance(given, SAE):
        return SAEInMemory({0: given}, 0, 0)
    if not isinstance(given, str | os.PathLike):
        raise MatchError(f"{name} is a {type(given).__name__}; give an SAE, or a source that leads to one")
    found = search(given)[0]
    if len(found) > 1:
        shown = listing(sae.shown for sae in found)
        raise MatchError(f"{given}: {len(found)} SAEs in it, name one of them: {shown}")
    return found[0]


def _items(saes: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(saes, Mapping):
        raise MatchError(f"{saes!r:.200}: this takes a mapping of names to SAEs")
    return saes.items()
