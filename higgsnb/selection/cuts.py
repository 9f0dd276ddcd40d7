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

What a selection may have beside these cuts (identification, triggers, cuts on any column, another choice of the
candidate) is in optional fields, which are part of its digest only where they are set.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import pickle
import tomllib
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb.errors import MissingFileError, OptionError, SelectionError, did_you_mean
from higgsnb.selection import branches, observables
from higgsnb.selection.analysis import NOMINAL, Analysis
from higgsnb.selection.binning import FOUR_LEPTON_AXES, FOUR_LEPTON_WINDOWS, Axis, Binning
from higgsnb.selection.conditions import Identification, Pairing, Triggers, checked_option
from higgsnb.selection.expressions import Expression, parse
from higgsnb.selection.leptons import CHANNELS, FOUR_ELECTRONS, FOUR_MUONS, QUANTITIES, TWO_EACH
from higgsnb.selection.observables import Observables
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
class Selection(Analysis):
    """A named set of cuts. Momenta and masses in GeV, lengths in cm; ``replace`` makes a changed copy.

    ``sip_max`` limits √(dxy² + dz²) / √(σ_dxy² + σ_dz²). ``delta_r_min``, ``dilepton_mass_min`` and ``mass_4l_min`` are
    not applied where they are 0. ``integer_pairing`` repeats a truncation in ROOT's tutorial and has a meaning in
    ``df103`` only.

    What follows it is optional:

    ``smart_cut``
        In ``open2012``: a candidate falls if the other pairing of its four leptons, all of one flavour, has a mass
        nearer to ``z_mass`` than its Z1 has, and another one below 12 GeV.
    ``sip3d``
        Whether ``sip_max`` limits the stored significance ``…_sip3d``, and not the one computed from dxy and dz.
    ``fsr``
        Whether photons that muons have radiated are part of them, see `photons`: in the masses of Z1, Z2 and the four
        leptons, not in pT and in ``dilepton_mass_min``.
    ``lepton_pt_third``
        In ``open2012``: what the third lepton of the four needs in pT, in the order of pT.
    ``impact_parameter``
        Whether ``dxy_max``, ``dz_max`` and ``sip_max`` are applied; if not, nothing is read for them.
    ``muon_isolation``, ``electron_isolation``
        The column of the isolation; empty for none.
    ``muon_id``, ``electron_id``, ``muon_cuts``, ``electron_cuts``
        Identification, one condition, and further ones, on columns of a lepton: ``"mediumId"``, ``"sip3d < 4"``. A
        lepton that fails one is not good. Where releases have other columns, the identification is given by the name of
        the tree of events: ``{"mini": "isTightID", "analysis": "isMediumID"}``, see `of_tree`.
    ``event_cuts``
        Conditions on columns of the event: ``"HLT_IsoMu24"``, ``"MET_pt < 60"``.
    ``triggers``
        The trigger paths of each primary dataset, of which data of it need one; simulation needs one of all. A path
        that a file lacks has not fired.
    ``pairing``
        In ``open2012``: a function of (mass_z1, mass_z2, mass_4l, pt_sum_z1, pt_sum_z2), in GeV, that is compiled. Of
        the candidates of an event that pass all cuts the one for which it is smallest is taken, of equal ones, and of
        those for which it is NaN, the one that would be taken without it.
    ``axes``
        Further histograms of the candidates, filled by channel in the same pass. The variable of an `Axis` is one of
        `observables.QUANTITIES` (``lep1_pt``, ``lepton_phi``, ``pt_4l``, ``rapidity_4l``, ``mass_ll_min``,
        ``cos_theta_star``, …) or of ``observables``; rows have it as a column.
    ``observables``
        By name: an expression of these quantities, ``"mass_z2 / mass_z1"``; or a function whose arguments are called
        like those it needs, each an array (n,), or (n, 4) of ``lepton_…``, and which returns (n,) numbers, or (n, k) of
        an axis with that many values ``per_event``.
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
    smart_cut: bool = False
    sip3d: bool = False
    fsr: bool = False
    lepton_pt_third: float = 0.0
    impact_parameter: bool = True
    muon_isolation: str = "pfRelIso04_all"
    electron_isolation: str = "pfRelIso03_all"
    muon_id: Identification = ""
    electron_id: Identification = ""
    muon_cuts: tuple[str, ...] = ()
    electron_cuts: tuple[str, ...] = ()
    event_cuts: tuple[str, ...] = ()
    triggers: Triggers = ()
    pairing: Pairing | None = None
    axes: tuple[Axis, ...] = ()
    observables: Observables = ()

    def __post_init__(self) -> None:
        """Check the numbers, so that compiled code need not."""
        for field in dataclasses.fields(self):
            check = checked_option if field.name in OPTIONS and field.type not in ("bool", "float") else _checked
            object.__setattr__(self, field.name, check(self.name, field, getattr(self, field.name)))
        observables.check_variables(self.name, self.axes, self.observables)
        if self.algorithm not in ALGORITHMS:
            hint = did_you_mean(self.algorithm, ALGORITHMS)
            raise SelectionError(f"selection {self.name!r}: unknown algorithm {self.algorithm!r}", hint)
        of_open2012 = dict.fromkeys(("smart_cut", "pairing", "lepton_pt_third"), "open2012")
        for name, algorithm in {"integer_pairing": "df103", **of_open2012}.items():
            if getattr(self, name) and self.algorithm != algorithm:
                raise SelectionError(
                    f"selection {self.name!r}: {name} belongs to the algorithm {algorithm}, not {self.algorithm}",
                    f"Remove {name}, or take a selection with that algorithm.",
                )
        for softer, harder in (("subleading", "leading"), ("third", "subleading")):
            lower, upper = getattr(self, f"lepton_pt_{softer}"), getattr(self, f"lepton_pt_{harder}")
            if lower > upper:
                raise SelectionError(
                    f"selection {self.name!r}: lepton_pt_{softer} = {lower} is above lepton_pt_{harder} = {upper}",
                    "The cut on the harder lepton has to be the higher one: change one of the two.",
                )
        for low, high in (("z1_mass_min", "z1_mass_max"), ("z2_mass_min", "z2_mass_max")):
            lower, upper = getattr(self, low), getattr(self, high)
            if lower >= upper:
                raise SelectionError(
                    f"selection {self.name!r}: {low} = {lower} is not below {high} = {upper}",
                    "No event would pass: change one of the two.",
                )

    def replace(self, **changes: Any) -> Selection:
        """Return a copy with some cuts changed.

        Raises
        ------
        SelectionError
            If a name is not a cut of a selection (the hint names the nearest one), or a value is out of range.
        """
        _check_names(self.name, changes)
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name, the optional ones where they are set, for the provenance of a result."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in OPTIONS]
        found = {name: getattr(self, name) for name in (*names, *self.options)}
        for name in ("muon_cuts", "electron_cuts", "event_cuts"):
            if name in found:
                found[name] = list(found[name])
        for name in ("muon_id", "electron_id"):
            if not isinstance(found.get(name, ""), str):
                found[name] = dict(found[name])
        if "triggers" in found:
            found["triggers"] = {primary_dataset: list(paths) for primary_dataset, paths in self.triggers}
        if "axes" in found:
            found["axes"] = [_axis_as_dict(axis) for axis in self.axes]
        if "observables" in found:
            found["observables"] = {
                name: one if isinstance(one, str) else _identified(one) for name, one in self.observables
            }
        if self.pairing is not None:
            found["pairing"] = _identified(self.pairing)
        return found

    @property
    def _own_functions(self) -> dict[str, Any]:
        """The functions of the user in it: the pairing, and those of observables, by their name."""
        found = {} if self.pairing is None else {"": self.pairing}
        return found | {name: one for name, one in self.observables if not isinstance(one, str)}

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields, with functions as bytes, so that they get to processes that cannot import them."""
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if functions := self._own_functions:
            from higgsnb.selection.identity import pack

            packed = {name: pack(function) for name, function in functions.items()}
            state["pairing"] = packed.get("")
            state["observables"] = tuple((name, packed.get(name, one)) for name, one in self.observables)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the fields to those of `__getstate__`."""
        for name, value in state.items():
            object.__setattr__(self, name, value)
        if functions := self._own_functions:
            from higgsnb.selection.identity import unpack

            unpacked = {name: unpack(function) for name, function in functions.items()}
            object.__setattr__(self, "pairing", unpacked.get(""))
            observables = tuple((name, unpacked.get(name, one)) for name, one in self.observables)
            object.__setattr__(self, "observables", observables)

    def _repr_html_(self) -> str:
        """Return the cuts as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{name}</td><td>{getattr(self, name):g}</td><td>{unit_of(name)}</td></tr>"
            for name in NUMBERS
            if name != "integer_pairing"
        )
        for name in self.options:
            value = self.as_dict()[name]
            rows += f"<tr><td>{name}</td><td colspan=2>{html.escape(str(value))}</td></tr>"
        head = f"<b>{html.escape(self.name)}</b> (version {self.version}): {html.escape(self.title)}"
        return f"{head}<table><tr><th>cut</th><th>value</th><th>unit</th></tr>{rows}</table>"

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything in this selection that can change which events are kept."""
        labels = ("name", "version", "title", "source")
        cuts = {name: value for name, value in self.as_dict().items() if name not in labels}
        if self.pairing is not None:
            cuts["pairing"] = cuts["pairing"]["sha256"]
        for name, one in cuts.get("observables", {}).items():
            cuts["observables"][name] = one if isinstance(one, str) else {"sha256": one["sha256"]}
        return hashlib.sha256(json.dumps(cuts, sort_keys=True).encode()).hexdigest()

    @property
    def one_per_event(self) -> bool:
        """Whether an event has at most one candidate (else one per channel)."""
        return self.algorithm == "open2012"

    def channels(self, primary_dataset: str | None) -> tuple[int, ...]:
        """Return the channels (indices into `CHANNELS`) that this selection takes from a primary dataset."""
        if self.triggers and primary_dataset is not None and primary_dataset not in dict(self.triggers):
            return ()
        if self.algorithm == "open2012" or primary_dataset is None:
            return (FOUR_MUONS, FOUR_ELECTRONS, TWO_EACH)
        return PRIMARY_DATASET_CHANNELS.get(primary_dataset, ())

    @property
    def primary_dataset_precedence(self) -> tuple[str, ...]:
        """The primary datasets that it takes data from, the one that counts an event found in several first.

        Empty if it takes them from any, in the order of the campaign.
        """
        if self.triggers:
            return tuple(name for name, _ in self.triggers)
        return () if self.algorithm == "open2012" else tuple(PRIMARY_DATASET_CHANNELS)

    @property
    def options(self) -> tuple[str, ...]:
        """The optional fields that are set."""
        return tuple(name for name, neutral in OPTIONS.items() if getattr(self, name) != neutral)

    # -- what is read

    def of_tree(self, tree: str) -> Selection:
        """Return the selection for files whose events are in a tree of this name: with one identification.

        Raise `SelectionError` if it has none for these.
        """
        changes = {}
        for name in ("muon_id", "electron_id"):
            if not isinstance(given := getattr(self, name), str):
                if tree not in dict(given):
                    known = " and ".join(map(repr, dict(given)))
                    what = f"selection {self.name!r} has no {name} for files with tree {tree!r}, only for {known}"
                    hint = "If these are such files, give `tree` in the campaign; else take another selection."
                    raise SelectionError(what, hint)
                changes[name] = dict(given)[tree]
        return dataclasses.replace(self, **changes) if changes else self

    @property
    def trees(self) -> tuple[str, ...]:
        """The trees of events that it has an identification for; empty if there is one for all."""
        given = (one for one in (self.muon_id, self.electron_id) if not isinstance(one, str))
        return tuple(dict.fromkeys(tree for one in given for tree in dict(one)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The branches that are read: of each lepton or photon, and of each event for its cuts and triggers."""
        return branches.branches_of(self)

    def columns_of(self, primary_dataset: str | None, *, is_data: bool) -> tuple[str, ...]:
        """Return those of `columns` that are read of a dataset: of data, the triggers of its primary dataset only.

        Raise `SelectionError` for data of a primary dataset that has no triggers.
        """
        return branches.branches_of(self, primary_dataset, is_data=is_data)

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Those of `columns` that only an option needs; outreach files, such as those of ``toy``, lack most of them."""
        plain = dataclasses.replace(self, **OPTIONS).columns
        return tuple(name for name in self.columns if name not in plain)

    @property
    def lepton_columns(self) -> tuple[str, ...]:
        """The columns of `Leptons` that are used, beside the numbers of the event."""
        return (*branches.stored_columns(self), *branches.computed_columns(self))

    @property
    def quantities(self) -> tuple[str, ...]:
        """The quantities of a lepton whose invalid values are counted; "id" are all that only conditions use."""
        has_id = "muon_id" in self.lepton_columns or "electron_id" in self.lepton_columns
        return (*QUANTITIES, *(("sip3d",) if self.sip3d else ()), *(("id",) if has_id else ()))

    @property
    def event_level(self) -> bool:
        """Whether events have to pass triggers or event cuts."""
        return bool(self.triggers or self.event_cuts)

    def event_conditions(self, primary_dataset: str | None, *, is_data: bool) -> tuple[Expression, ...]:
        """Return what an event has to pass beside having enough leptons: one of its triggers, and the event cuts.

        Raise `SelectionError` for data of a primary dataset that has no triggers.
        """
        paths = dict(self.triggers)
        if is_data and paths and primary_dataset is not None:
            if primary_dataset not in paths:
                what = f"selection {self.name!r} has no triggers for primary dataset {shown(primary_dataset)}"
                raise SelectionError(what, did_you_mean(primary_dataset, paths))
            paths = {primary_dataset: paths[primary_dataset]}
        one_of = tuple(dict.fromkeys(path for some in paths.values() for path in some))
        fired = (Expression.any_of(one_of),) if one_of else ()
        return (*fired, *(parse(text, kind="condition") for text in self.event_cuts))

    def preselection(self, primary_dataset: str | None, *, is_data: bool) -> Expression:
        """Return what an event has to pass to be read: enough leptons for a channel, triggers, event cuts.

        Raise `SelectionError` for data of a primary dataset that has no triggers.
        """
        conditions = self.event_conditions(primary_dataset, is_data=is_data)
        return Expression.all_of([branches.ENOUGH_LEPTONS, *conditions])

    # -- what is counted

    @property
    def binning(self) -> Binning:
        """The histograms of each channel."""
        return Binning((*FOUR_LEPTON_AXES, *self.axes), CHANNELS, FOUR_LEPTON_WINDOWS, "channel")

    @property
    def copies(self) -> tuple[str, ...]:
        """The nominal histograms only: a selection has no variations of its own."""
        return (NOMINAL,)

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of the installed packages that its functions use, by name."""
        found: dict[str, str] = {}
        for function in self._own_functions.values():
            found |= _identified(function)["libraries"]
        return found

    @property
    def own_columns(self) -> dict[str, int]:
        """The columns of rows that own axes and observables add, and how many values of each a candidate has."""
        return observables.own_columns(self.axes, self.observables)

    def pinned(self) -> Selection:
        """Return a copy with the functions as they are now, whatever their globals become; itself if it has none."""
        return pickle.loads(pickle.dumps(self)) if self._own_functions else self  # noqa: S301 - our own

    def cut_names(self, _region: str = "") -> tuple[str, ...]:
        """Return the rows of the cutflow of a channel: `CUT_NAMES`, and those that an option adds.

        ``preselected`` are the events that pass triggers and event cuts. Leptons that fail ``muon_id``, ``muon_cuts``
        and the like are not among the ``good leptons``.
        """
        names = list(CUT_NAMES)
        added = [("third lepton pt", self.lepton_pt_third > 0), ("smart cut", self.smart_cut)]
        names[Cut.BEST_CANDIDATE : Cut.BEST_CANDIDATE] = [name for name, is_applied in added if is_applied]
        if self.event_level:
            names.insert(Cut.LEPTONS, "preselected")
        return tuple(names)

    @property
    def cut_notes(self) -> dict[str, str]:
        """What a row of the cutflow stands for in this selection, where it is more than its name says."""
        triggers = ["a trigger of the primary dataset"] if self.triggers else []
        variants = {f" ({tree})": self.of_tree(tree) for tree in self.trees} or {"": self}
        leptons = [f"{flavour}s{tree}: {cuts.text}" for flavour in ("muon", "electron")
                   for tree, one in variants.items() if (cuts := branches.lepton_cuts(one, flavour))]  # fmt: skip
        notes = {"preselected": [*triggers, *self.event_cuts], "good leptons": leptons}
        return {row: "; ".join(some) for row, some in notes.items() if some}


OPTIONS: dict[str, Any] = {
    field.name: field.default
    for field in dataclasses.fields(Selection)
    if field.default is not dataclasses.MISSING and field.name != "integer_pairing"
}
"""The optional fields of a `Selection`, with the value that each has where it is not set."""

NUMBERS = tuple(
    field.name
    for field in dataclasses.fields(Selection)
    if field.type in ("float", "bool") and field.name not in OPTIONS
)
"""The cuts of a `Selection`, without its name and the like."""


def _axis_as_dict(axis: Axis) -> dict[str, Any]:
    """Return what an axis is made of, as in a file."""
    bins: dict[str, Any] = {"bins": axis.bins, "start": axis.start, "stop": axis.stop}
    if axis.boundaries:
        bins = {"bins": list(axis.boundaries)}
    texts = {name: getattr(axis, name) for name in ("name", "variable", "label", "unit")}
    return {**texts, **bins, "per_event": axis.per_event}


def _identified(function: Any) -> dict[str, Any]:
    """Return what a function of the user is."""
    from higgsnb.selection.identity import identify

    identity = identify(function)
    return {"sha256": identity.digest, "source": identity.source, "libraries": identity.libraries}


def four_lepton_selection(
    analysis: Analysis, instead: str = "Give a four-lepton selection, or a result of one."
) -> Selection:
    """Return an analysis that is a `Selection`; raise `OptionError`, with what to do instead, for any other."""
    if not isinstance(analysis, Selection):
        name = getattr(analysis, "name", analysis)
        raise OptionError(f"{shown(name)} is not a four-lepton selection", instead)
    return analysis


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
