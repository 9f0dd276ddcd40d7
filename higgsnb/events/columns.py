"""What to read of a file, and what was read: any columns of the events that pass a preselection."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.text import shown

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

IDENTIFIERS = {"run": np.dtype(np.int64), "luminosityBlock": np.dtype(np.int64), "event": np.dtype(np.uint64)}
"""What identifies an event of data: columns that always come, whatever a file calls them, and their types."""

TRIGGER = "HLT_"
"""How the names of triggers begin; one that a file lacks has not fired."""
COLLECTIONS = (
    "Muon", "Electron", "LowPtElectron", "Photon", "FsrPhoton", "Tau", "boostedTau", "Jet", "FatJet", "SubJet",
    "IsoTrack", "SV", "OtherPV", "TrigObj", "CorrT1METJet", "SoftActivityJet",
    "GenPart", "GenJet", "GenJetAK8", "GenVisTau", "GenDressedLepton", "GenIsolatedPhoton", "LHEPart",
)  # fmt: skip
"""Collections of NanoAOD, of which a file may have nothing: then each event has none."""


class Condition(Protocol):
    """A preselection: a condition on columns with one value per event, such as a `selection.Expression`.

    Called with an array (n,) for each of its ``names``, it returns which of the n events pass. Equal conditions have
    equal hashes; ``repr`` says what is required.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it needs."""

    def __call__(self, columns: Mapping[str, Array]) -> Any:
        """Return which events pass: (n,) bool."""


@dataclass(frozen=True)
class AllOf:
    """The condition that all of some conditions hold."""

    conditions: tuple[Condition, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return tuple(dict.fromkeys(name for one in self.conditions for name in one.names))

    def __call__(self, columns: Mapping[str, Array]) -> Any:
        """Return which events pass."""
        return np.logical_and.reduce([one(columns) for one in self.conditions])

    def __repr__(self) -> str:
        return " and ".join(f"({one!r})" for one in self.conditions)


@dataclass(frozen=True)
class Columns:
    """What to read: columns by the names of their branches, of events that pass a preselection (None: of all events).

    A column has one value per event (``MET_pt``, ``HLT_IsoMu24``, the counter ``nMuon``) or one per object
    (``Muon_pt``). The name of a field in a record can be written with a dot: ``Muon.pt`` is ``Muon_pt``. Run, lumi
    section and event number come in any case. A preselection is on columns with one value per event; events that fail
    it are not decoded.
    """

    names: tuple[str, ...] = ()
    preselection: Condition | None = None

    def __post_init__(self) -> None:
        """Write all names in one way; raise `OptionError` for something else than names."""
        given: Any = self.names
        names: tuple[Any, ...] = (given,) if isinstance(given, str) else tuple(given)
        wrong = next((name for name in names if not isinstance(name, str) or not name.strip(" .")), None)
        if wrong is not None:
            raise OptionError(f"columns: {shown(wrong)} is not the name of a column", 'Give names such as "Muon_pt".')
        object.__setattr__(self, "names", tuple(dict.fromkeys(name.strip().replace(".", "_") for name in names)))

    @property
    def tested(self) -> tuple[str, ...]:
        """The columns that the preselection needs."""
        return () if self.preselection is None else tuple(self.preselection.names)

    def passing(self, columns: Mapping[str, Array], n_events: int) -> npt.NDArray[np.bool_]:
        """Return which of ``n_events`` events pass the preselection, given the `tested` columns, each (n_events,)."""
        if self.preselection is None:
            return np.ones(n_events, np.bool_)
        return np.broadcast_to(np.asarray(self.preselection(columns), np.bool_), (n_events,))


class EventColumns(NamedTuple):
    """What was read of a chunk: the columns of its preselected events.

    Attributes
    ----------
    entries
        (n,) int64, the indices of the events in their file.
    n_events
        How many events the chunk has, preselected or not.
    flat
        Columns with one value per event, (n,): those asked for, and ``run`` and ``luminosityBlock``, int64, and
        ``event``, uint64. Counters (``nMuon``) are int64.
    jagged
        Columns with one value per object, (n_objects,), of the type that the file has.
    offsets
        By collection (``Muon``), where the objects of each event start: (n + 1,) int64.
    missing
        What was asked for and is not in the file, but need not be: triggers (``HLT_…``), which have not fired, and
        whole collections (``Electron``), of which each event has none.
    reader
        "baskets" or "pages" (the fast readers of TTree and RNTuple), "uproot" (for files of a form that these do not
        know) or "csv".
    integrity
        Which checksums covered the bytes: those of the whole "file", of its "blocks", or "none".
    """

    entries: Integers
    n_events: int
    flat: dict[str, Array]
    jagged: dict[str, Array]
    offsets: dict[str, Integers]
    missing: frozenset[str]
    reader: str
    integrity: str

    def collection(self, name: str) -> str:
        """Return the collection of a jagged column; KeyError if there is no such column."""
        if name not in self.jagged:
            raise KeyError(f"no jagged column {name!r}; there are {', '.join(self.jagged) or 'none'}")
        return collection_of(name, self.offsets)


def collection_of(name: str, collections: Mapping[str, Any]) -> str:
    """Return which of some collections a column belongs to: the longest that its name begins with, before a ``_``."""
    return max((one for one in collections if name == one or name.startswith(f"{one}_")), key=len)


class Missing(NamedTuple):
    """What was asked for and is not there, but need not be: triggers and whole collections.

    ``empty`` are the jagged columns of the collections, each with its own.
    """

    names: frozenset[str]
    empty: Mapping[str, str]

    def flat(self, n_events: int) -> dict[str, Array]:
        """Return the triggers, which have not fired, and the counters, which are 0: each (n_events,)."""
        fired = {name: np.zeros(n_events, np.bool_) for name in self.names if name.startswith(TRIGGER)}
        counts = (name for name in self.names if not name.startswith(TRIGGER))
        return fired | {f"n{name}": np.zeros(n_events, np.int64) for name in counts}


NOTHING = Missing(frozenset(), {})


def find_missing(absent: Iterable[str], columns: Columns, present: Collection[str]) -> tuple[Missing, list[str]]:
    """Return what of ``absent`` need not be there, and what should.

    A collection of which nothing is ``present`` counts as none, if it is one of NanoAOD, or if both its counter and a
    column of it were asked for; one that is only counted is more likely misspelt.
    """
    asked = (*columns.names, *columns.tested)
    known = {name[1:] for name in asked if name[:1] == "n" and any(one.startswith(f"{name[1:]}_") for one in asked)}
    known |= set(COLLECTIONS)
    missing, wrong = list[str](), list[str]()
    empty: dict[str, str] = {}
    for name in absent:
        collection = name[1:] if name[:1] == "n" and name[1:] in known else name.partition("_")[0]
        if name.startswith(TRIGGER):
            missing.append(name)
        elif collection in known and not any(
            one == f"n{collection}" or one.startswith(f"{collection}_") for one in present
        ):
            missing.append(collection)
            empty |= {} if name == f"n{collection}" else {name: collection}
        else:
            wrong.append(name)
    return Missing(frozenset(missing), empty), wrong


def with_missing(found: EventColumns, names: Iterable[str], missing: Missing) -> EventColumns:
    """Return columns together with those that are missing, in the order of ``names``."""
    n_events, jagged, offsets = len(found.entries), dict(found.jagged), dict(found.offsets)
    flat = missing.flat(n_events) | found.flat
    for name, collection in missing.empty.items():
        jagged[name] = np.empty(0, type_in_nanoaod(name))
        offsets[collection] = np.zeros(n_events + 1, np.int64)
    flat = {
        name: flat[name].astype(IDENTIFIERS.get(name, flat[name].dtype), copy=False) for name in names if name in flat
    }
    return found._replace(flat=flat, jagged=jagged, offsets=offsets, missing=missing.names)


def type_in_nanoaod(name: str) -> np.dtype[Any]:
    """Return the type that a jagged column has in NanoAOD, by its name."""
    quantity = name.rpartition("_")[2]
    if re.search(r"charge|Charge|Idx|pdgId", quantity):
        return np.dtype(np.int32)
    is_flag = re.match(r"is[A-Z]", quantity) or re.search(r"(?<!high)(?<!high[A-Z])Id\d?$|Veto$", quantity)
    return np.dtype(np.bool_ if is_flag else np.float32)


def offsets_of(counts: npt.ArrayLike) -> Integers:
    """Return where each event's objects start, (n_events + 1,) int64, from their numbers."""
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(np.asarray(counts).astype(np.int64))))


def keep(columns: EventColumns, which: npt.NDArray[Any]) -> EventColumns:
    """Return some events only: ``which`` are their indices among those that were read, ascending, or a mask."""
    index = np.flatnonzero(which) if which.dtype == np.bool_ else which
    offsets, elements = {}, {}
    for collection, starts in columns.offsets.items():
        counts = starts[index + 1] - starts[index]
        offsets[collection] = offsets_of(counts)
        elements[collection] = np.arange(counts.sum()) + np.repeat(starts[index] - offsets[collection][:-1], counts)
    return columns._replace(
        entries=columns.entries[index],
        flat={name: values[index] for name, values in columns.flat.items()},
        jagged={name: values[elements[columns.collection(name)]] for name, values in columns.jagged.items()},
        offsets=offsets,
    )


def only(columns: EventColumns, names: Sequence[str]) -> EventColumns:
    """Return some of the columns, and what identifies the events."""
    flat = {name: columns.flat[name] for name in (*IDENTIFIERS, *names) if name in columns.flat}
    jagged = {name: columns.jagged[name] for name in names if name in columns.jagged}
    collections = dict.fromkeys(columns.collection(name) for name in jagged)
    return columns._replace(flat=flat, jagged=jagged, offsets={one: columns.offsets[one] for one in collections})
