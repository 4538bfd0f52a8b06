"""The choice among the SAEs of a source, by the options of its address: `?layer=8-13&l0=near:100&width=16k`."""

from __future__ import annotations

import math
import re

from saematch.errors import MatchError
from saematch.sources.address import Address
from saematch.sources.stored import StoredSAE
from saematch.text import listing, natural_key


def choose(saes: list[StoredSAE], address: Address) -> list[StoredSAE]:
    """Return the SAEs that the options of an address choose.

    Raises:
        MatchError: if an option chooses none; the message lists the values that there are.
    """
    # The L0 comes last: it chooses one SAE of each layer, among those that the other options leave.
    for name, wanted in sorted(address.choosing.items(), key=lambda option: option[0] == "l0"):
        if name == "l0" and (wanted in ("min", "max") or wanted.startswith("near:")):
            saes = _by_l0(saes, wanted, address)
        elif name == "layer":
            saes = _by_layer(saes, wanted, address)
        else:
            chosen = [sae for sae in saes if _value(sae, name) in (wanted, wanted.lower())]
            if not chosen:
                raise _nothing_chosen(name, wanted, {_value(sae, name) or "none" for sae in saes}, address)
            saes = chosen
    return saes


def _nothing_chosen(name: str, wanted: str, values: set[str], address: Address) -> MatchError:
    """Return the error for an option that chooses no SAE; it lists the values that would choose one."""
    shown = listing(sorted(values, key=natural_key), 30)
    return MatchError(f"{address}: there is no SAE of {name} {wanted}; there are {shown}")


def _value(sae: StoredSAE, name: str) -> str | None:
    """Return the value that the path of an SAE has for an option."""
    value = sae.captured.get(name)
    return value or {"l0": sae.checkpoint.l0, "width": sae.checkpoint.width}.get(name)


def _by_layer(saes: list[StoredSAE], wanted: str, address: Address) -> list[StoredSAE]:
    """Return the SAEs of some layers. A range of layers may have gaps; a layer that is listed must exist."""
    layers = _layers(wanted, address)
    chosen = [sae for sae in saes if sae.layer in layers]
    is_range = bool(re.search(r"\d-\d", wanted))
    if not chosen or not (is_range or layers <= {sae.layer for sae in saes}):
        for sae in saes:
            if sae.layer is None:
                sae.describe()  # a header that cannot be read is the reason why the layer is not known
        values = {"none" if sae.layer is None else str(sae.layer) for sae in saes}
        raise _nothing_chosen("layer", wanted, values, address)
    return chosen


def _layers(wanted: str, address: Address) -> set[int]:
    """Return the layers of an option such as "8-13" or "8,9". Raises `MatchError`."""
    parts = [re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part) for part in wanted.split(",")]
    if not all(parts):
        raise MatchError(f"{address}: layer={wanted}: give numbers or ranges, like 8-13 or 8,9")
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if not all(ranges):
        raise MatchError(f"{address}: layer={wanted}: a range goes upwards, like 8-13")
    return {layer for span in ranges for layer in span}


def _by_l0(saes: list[StoredSAE], wanted: str, address: Address) -> list[StoredSAE]:
    """Return, of all SAEs that differ in their L0 alone, the one with the L0 that is wanted. Raises `MatchError`."""
    # The L0 to be near to: "min" is near 0, and "max" near infinity.
    try:
        near = {"min": 0.0, "max": math.inf}.get(wanted)
        if near is None:
            near = float(wanted.removeprefix("near:"))
            if not math.isfinite(near):
                raise ValueError("not a finite number")
    except ValueError as error:
        raise MatchError(f"{address}: l0={wanted}: give a number, near:100, min or max") from error
    # The nearest SAE of each group; of two equally near ones, the one with the smaller L0.
    best: dict[tuple[int | None, str], tuple[float, float, StoredSAE]] = {}
    for sae in saes:
        l0 = sae.l0
        if l0 is None:
            raise MatchError(f"{address}: the L0 of {sae.shown} is not known; choose by name instead")
        distance = -l0 if near == math.inf else abs(l0 - near)
        group = sae.layer, sae.without_l0
        if group not in best or (distance, l0) < best[group][:2]:
            best[group] = distance, l0, sae
    return [sae for _, _, sae in best.values()]
