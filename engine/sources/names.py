"""The names of the SAEs of a run: layers are called by their numbers, and other SAEs, such as checkpoints, by names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from saematch.errors import MatchError
from saematch.numeric.numbers import whole_number
from saematch.options import SiteName
from saematch.options import names as names_of
from saematch.text import listing, shorten

if TYPE_CHECKING:
    from saematch.sources.layers import Layers

_MOST_LETTERS = 200  # of a name
_DIGITS = re.compile("[0-9]{1,9}")  # of the number of a layer
SITES = names_of(SiteName)
_SITE = re.compile(rf"({'|'.join(SITES)})\.(0|[1-9][0-9]{{0,8}})")


class LayerSite(NamedTuple):
    """A site of a layer: the residual stream after the layer, or what its attention or its MLP adds to that stream.

    >>> LayerSite.of("mlp.8"), LayerSite(8, "mlp").name, LayerSite.of("step_8")
    (LayerSite(layer=8, site='mlp'), 'mlp.8', None)
    """

    layer: int
    site: SiteName

    @classmethod
    def of(cls, name: str) -> LayerSite | None:
        """Return the site that the name of an SAE means; None if it means none."""
        match = _SITE.fullmatch(name)
        return None if match is None else cls(int(match[2]), cast(SiteName, match[1]))

    @property
    def name(self) -> str:
        """The name of an SAE of this site."""
        return f"{self.site}.{self.layer}"

    @property
    def place(self) -> tuple[int, int]:
        """The place in the order in which a model computes its sites; the residual stream is the last of a layer."""
        return self.layer, ("attention", "mlp", "residual").index(self.site)


@dataclass(frozen=True)
class Names:
    """The names of the SAEs of a run, and what the SAEs differ in.

    In a run of named SAEs, SAE number i has the name `names[i]`, from 0.

    Attributes:
        names: the names of the SAEs, in their order; empty if numbers say which SAE is meant, as in a run of layers.
        axis: what the SAEs differ in, such as "layer", "step" or "seed".

    Examples:
        >>> of_layers, of_steps = Names(), Names(("step_1000", "final"), "step")
        >>> of_layers.title(8), of_layers.titles((8, 9)), of_layers.several
        ('layer 8', 'layers 8 and 9', 'layers')
        >>> of_steps.title(1), of_steps.titles((0, 1)), of_steps.several
        ('final', 'step_1000 and final', 'SAEs')
        >>> of_steps.number("final"), of_steps.key(1), of_layers.key(8)
        (1, 'final', 8)
    """

    names: tuple[str, ...] = ()
    axis: str = "layer"

    @classmethod
    def of(cls, sources: Layers, targets: Layers | None = None, axis: str | None = None) -> Names:
        """Return the names of one or two sets of SAEs. SAEs of both sets that have one name have one number.

        Raises:
            MatchError: if only one of the sets has names, or if `axis` is not a text for tables.
        """
        if targets is not None and bool(sources.names) != bool(targets.names):
            raise MatchError("one set of SAEs has names and the other has layer numbers; give both names, or neither")
        names = tuple(dict.fromkeys((*sources.names, *(() if targets is None else targets.names))))
        if axis is None:
            axis = "layer" if not names else "site" if cls(names).sites else "SAE"
        if not isinstance(axis, str) or not _is_name(axis):
            raise MatchError(f"axis is {axis!r:.40}; give a short text that says what the SAEs differ in, like step")
        return cls(names, axis)

    @property
    def of_layers(self) -> bool:
        """Whether the SAEs are those of the layers of a model."""
        return not self.names and self.axis == "layer"

    @property
    def several(self) -> str:
        """The word for several of the SAEs: "layers" or "SAEs"."""
        return "layers" if self.of_layers else "SAEs"

    @property
    def sites(self) -> dict[int, LayerSite]:
        """Number of an SAE -> its site, if all names mean sites, like "mlp.8"; otherwise empty.

        >>> Names(("mlp.8", "residual.8"), "site").sites[0]
        LayerSite(layer=8, site='mlp')
        """
        found = {number: site for number, name in enumerate(self.names) if (site := LayerSite.of(name)) is not None}
        return found if len(found) == len(self.names) else {}

    def number(self, given: Any) -> int:
        """Return the number of an SAE that a caller names, or gives the number of.

        Raises:
            MatchError: if there is no SAE of that name, or this is not a number.
        """
        number = self.names.index(given) if isinstance(given, str) and given in self.names else whole_number(given)
        if number is None and not self.names:
            raise MatchError(f"{self.axis} {given!r:.40} is not a whole number")
        if number is None or (self.names and not 0 <= number < len(self.names)):
            raise MatchError(f"no SAE of this run is called {given!r:.40}; there are {listing(self.names)}")
        return number

    def pair(self, given: Any) -> tuple[int, int] | None:
        """Return a pair of SAEs by their numbers, if a caller gives it by their names; None for anything else."""
        try:
            a, b = map(self.number, given if isinstance(given, list | tuple) else ())
        except (ValueError, TypeError):  # a `MatchError` is a `ValueError`
            return None
        return a, b

    def key(self, number: int) -> int | str:
        """Return what tables call an SAE: its number, or its name if it has one."""
        return self.names[number] if 0 <= number < len(self.names) else number

    def keys(self, pair: tuple[int, int]) -> tuple[int | str, int | str]:
        """Return what tables call the two SAEs of a pair."""
        return self.key(pair[0]), self.key(pair[1])

    def title(self, number: int) -> str:
        """Return what sentences call an SAE: "layer 8", "step 1000" or "step_1000"."""
        key = str(self.key(number))
        return f"{self.axis} {key}" if key.isdecimal() else key

    def titles(self, pair: tuple[int, int]) -> str:
        """Return what sentences call the two SAEs of a pair: "layers 8 and 9" or "step_1000 and step_2000"."""
        if self.of_layers:
            return f"layers {pair[0]} and {pair[1]}"
        return f"{self.title(pair[0])} and {self.title(pair[1])}"

    def pair_name(self, pair: tuple[int, int]) -> str:
        """Return the name of a pair in messages: "8-9" or "step_1000-step_2000"."""
        return "-".join(map(str, self.keys(pair)))


LAYERS = Names()


def numbered(keys: Collection[Any]) -> tuple[list[int], list[str]] | None:
    """Return the numbers of SAEs by the keys of a mapping, and their names, if the keys are names.

    Keys that are all whole numbers, given as numbers or as digits, are numbers of layers. None stands for keys that are
    neither all numbers nor all texts, or of which two are the same number.

    >>> numbered(["8", 9]), numbered(["step_1000", "2000"]), numbered(["a", 2])
    (([8, 9], []), ([0, 1], ['step_1000', '2000']), None)

    Raises:
        MatchError: if a text cannot be a name.
    """
    numbers = [int(key) if isinstance(key, str) and _DIGITS.fullmatch(key) else whole_number(key) for key in keys]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers):
        return (known, []) if len(set(known)) == len(known) else None
    names = [key for key in keys if isinstance(key, str)]
    if len(names) < len(keys):
        return None
    check_names(names)
    return list(range(len(names))), names


def check_names(names: Sequence[str]) -> None:
    """Raise `MatchError` unless all names are different texts that tables and messages can hold."""
    bad = [name for name in names if not _is_name(name)]
    if bad:
        shown = ascii(shorten(bad[0], 40))
        raise MatchError(
            f"{shown} cannot be a name: choose one of 1 to {_MOST_LETTERS} letters, without ';' and control characters"
        )
    for name, times in Counter(names).most_common(1):
        if times > 1:
            raise MatchError(f"two SAEs have the name {name!r}; give each a name of its own")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _MOST_LETTERS and ";" not in text and text.isprintable()
