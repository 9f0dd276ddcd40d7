"""Named selections: which events to keep, as data.

A `Selection` is a frozen table of numbers; `select` applies it to the leptons of a chunk of events. One of three
algorithms chooses the four leptons; the same cuts follow in the same order (`Cut`):

``open2012``
    All pairs of Z candidates made of good leptons; one candidate per event.
``aod2012``
    The four good leptons of highest pT, per channel (CERN Open Data record 5501).
``df103``
    Every lepton of the event has to be good (ROOT tutorial df103).

Everything is computed in float64 from the stored float32 values. Windows are open intervals.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import tomllib
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb.errors import MissingFileError, SelectionError, did_you_mean
from higgsnb.selection.leptons import FOUR_ELECTRONS, FOUR_MUONS, TWO_EACH
from higgsnb.storage import expanded
from higgsnb.text import is_one_line, read_toml, shown

ALGORITHMS = ("open2012", "aod2012", "df103")
OPEN2012, DF103 = 0, 2
LARGEST = 1e12
"""Largest value of a cut, above any momentum, mass or ratio: a cut that large is no cut."""

PRIMARY_DATASET_CHANNELS = {"DoubleMu": (FOUR_MUONS, TWO_EACH), "DoubleElectron": (FOUR_ELECTRONS,)}
"""Channels that ``aod2012`` and ``df103`` take from a primary dataset; data that name none give all three."""


class Cut(IntEnum):
    """The cuts in the order in which they are applied.

    A number in the cutflow counts events that passed this and all before.
    """

    ALL = 0
    LEPTONS = 1
    GOOD_LEPTONS = 2
    CHARGE = 3
    Z1_MASS = 4
    Z2_MASS = 5
    LEPTON_PT = 6
    DELTA_R = 7
    DILEPTON_MASS = 8
    MASS_4L = 9
    BEST_CANDIDATE = 10
    UNIQUE = 11


CUT_NAMES = tuple(cut.name.lower().replace("_", " ") for cut in Cut)
"""Names of `Cut`, as printed in every cutflow. ``unique`` is counted once all primary datasets are known."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A named set of cuts. Momenta and masses in GeV, lengths in cm; ``replace`` makes a changed copy.

    ``sip_max`` limits √(dxy² + dz²) / √(σ_dxy² + σ_dz²). ``delta_r_min``, ``dilepton_mass_min`` and ``mass_4l_min`` are
    not applied where they are 0. ``integer_pairing`` repeats a truncation in ROOT's tutorial and has a meaning in
    ``df103`` only.
    """

    name: str
    version: int
    title: str
    source: str
    algorithm: str
    muon_pt_min: float
    muon_eta_max: float
    muon_isolation_max: float
    electron_pt_min: float
    electron_eta_max: float
    electron_isolation_max: float
    dxy_max: float
    dz_max: float
    sip_max: float
    z_mass: float
    z1_mass_min: float
    z1_mass_max: float
    z2_mass_min: float
    z2_mass_max: float
    lepton_pt_leading: float
    lepton_pt_subleading: float
    delta_r_min: float
    dilepton_mass_min: float
    mass_4l_min: float
    integer_pairing: bool = False

    def __post_init__(self) -> None:
        """Check the numbers, so that compiled code need not."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(self.name, field, getattr(self, field.name)))
        if self.algorithm not in ALGORITHMS:
            hint = did_you_mean(self.algorithm, ALGORITHMS)
            raise SelectionError(f"selection {self.name!r}: unknown algorithm {self.algorithm!r}", hint)
        if self.integer_pairing and self.algorithm != "df103":
            raise SelectionError(
                f"selection {self.name!r}: integer_pairing belongs to the algorithm df103, not {self.algorithm}",
                "Remove integer_pairing, or set it to false.",
            )
        if self.lepton_pt_subleading > self.lepton_pt_leading:
            raise SelectionError(
                f"selection {self.name!r}: lepton_pt_subleading = {self.lepton_pt_subleading} is above "
                f"lepton_pt_leading = {self.lepton_pt_leading}",
                "The cut on the hardest lepton has to be the higher one: change one of the two.",
            )
        for low, high in (("z1_mass_min", "z1_mass_max"), ("z2_mass_min", "z2_mass_max")):
            lower, upper = getattr(self, low), getattr(self, high)
            if lower >= upper:
                raise SelectionError(
                    f"selection {self.name!r}: {low} = {lower} is not below {high} = {upper}",
                    "No event would pass: change one of the two.",
                )

    def replace(self, **changes: float | str | bool) -> Selection:
        """Return a copy with some cuts changed.

        Raises
        ------
        SelectionError
            If a name is not a cut of a selection (the hint names the nearest one), or a value is out of range.
        """
        _check_names(self.name, changes)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name, for the provenance of a result."""
        return dataclasses.asdict(self)

    def _repr_html_(self) -> str:
        """Return the cuts as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{name}</td><td>{getattr(self, name):g}</td><td>{unit_of(name)}</td></tr>"
            for name in NUMBERS
            if name != "integer_pairing"
        )
        head = f"<b>{html.escape(self.name)}</b> (version {self.version}): {html.escape(self.title)}"
        return f"{head}<table><tr><th>cut</th><th>value</th><th>unit</th></tr>{rows}</table>"

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything in this selection that can change which events are kept."""
        labels = ("name", "version", "title", "source")
        cuts = {name: value for name, value in self.as_dict().items() if name not in labels}
        return hashlib.sha256(json.dumps(cuts, sort_keys=True).encode()).hexdigest()

    @property
    def one_per_event(self) -> bool:
        """Whether an event has at most one candidate (else one per channel)."""
        return self.algorithm == "open2012"

    def channels(self, primary_dataset: str | None) -> tuple[int, ...]:
        """Return the channels (indices into `CHANNELS`) that this selection takes from a primary dataset."""
        if self.algorithm == "open2012" or primary_dataset is None:
            return (FOUR_MUONS, FOUR_ELECTRONS, TWO_EACH)
        return PRIMARY_DATASET_CHANNELS.get(primary_dataset, ())


NUMBERS = tuple(field.name for field in dataclasses.fields(Selection) if field.type in ("float", "bool"))
"""The cuts of a `Selection`, without its name and the like."""


def unit_of(cut: str) -> str:
    """Return the unit of a cut: GeV, cm, or nothing for a pure number."""
    if "_pt_" in cut or "mass" in cut:
        return "GeV"
    return "cm" if cut in ("dxy_max", "dz_max") else ""


def _checked(selection: str, field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a value as the type of its field (an integer as float); raise SelectionError if it has another type."""
    is_limit = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and 0 <= value <= LARGEST
    good, expected = {
        "bool": (isinstance(value, bool), "true or false"),
        "int": (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63, "a whole number"),
        "str": (isinstance(value, str) and bool(value) and is_one_line(value), "a string of one line"),
        "float": (is_limit, f"a number from 0 to {LARGEST:g}"),
    }[str(field.type)]
    if not good:
        hint = f"Correct {field.name} in the selection."
        if field.type == "float":
            hint = "A cut that is not wanted is written as 0 (a minimum) or 1e12 (a maximum)."
        raise SelectionError(f"selection {selection!r}: {field.name} = {shown(value)}; expected {expected}", hint)
    return float(value) if field.type == "float" else value


def _check_names(selection: str, given: dict[str, Any]) -> None:
    """Raise SelectionError if a name is not a field of a selection."""
    known = [field.name for field in dataclasses.fields(Selection)]
    for name in given:
        if name not in known:
            raise SelectionError(f"selection {selection!r} has no cut {shown(name)}", did_you_mean(name, known))


def names() -> tuple[str, ...]:
    """Return the names of the shipped selections."""
    return tuple(_shipped())


def _shipped() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("higgsnb.selection").joinpath("selections.toml").read_text(encoding="utf-8"))


def load(name: str | Path) -> Selection:
    """Return a selection by its name, or from a TOML file.

    The file holds the cuts of one selection at top level; all others are those of ``base``, which is ``"open2012"``
    unless the file names another shipped selection.

    Raises
    ------
    SelectionError
        If there is no such selection, or the file has unknown cuts or invalid values.
    MissingFileError
        If a file is named and does not exist.
    """
    shipped = _shipped()
    if str(name) in shipped:
        return Selection(name=str(name), **shipped[str(name)])
    path, label = expanded(str(name)), str(name)
    if not label.endswith((".toml", ".toml.gz")):
        hint = f"{did_you_mean(str(name), shipped)} For your own selection, give the path of its .toml file."
        raise SelectionError(f"no selection {shown(str(name))}", hint)
    try:
        table = read_toml(path, label, SelectionError)
    except FileNotFoundError:
        hint = f"Give the path of a TOML file, or a name: {', '.join(shipped)}."
        raise MissingFileError(f"no selection file at {label}", hint) from None
    base = table.pop("base", "open2012")
    if not isinstance(base, str) or base not in shipped:
        raise SelectionError(f"{label}: no selection {shown(base)} to use as base", did_you_mean(str(base), shipped))
    _check_names(label, table)
    merged = {"name": path.stem, **shipped[base], "title": f"{path.stem} (from {base})", "source": path.name, **table}
    return Selection(**merged)
