"""Any analysis as data plus one function: which columns, which events, what to count.

`Analysis` says what to read and what to fill; its function takes the preselected events of a chunk and returns what it
selected of them, a `Selected`. A `Selection` of four leptons is such an analysis whose function is compiled.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import AnalysisError, OptionError, did_you_mean
from higgsnb.selection.binning import Axis, Binning
from higgsnb.selection.expressions import Expression, parse
from higgsnb.text import is_one_line, shown

if TYPE_CHECKING:
    from higgsnb.selection.identity import Identity, Line

FORMS = ("awkward", "flat")
NOMINAL = "nominal"
RESERVED = {
    "dataset", "process", "file", "entry", "run", "luminosity_block", "luminosityBlock", "event", "region", "places",
    "weight", "weights", "regions", "index", "count", "rows",
}  # fmt: skip
"""Names of columns that every row has, or that a table or a `Selected` uses."""
AXES_OF_ALL = {"dataset", "variation", "region", "weight", "weights", "regions"}
"""What no axis can have as its variable: the other axes of its histogram, and what else a `Selected` has."""
MOST_NAMES = 200
"""Most variations or kept columns of an analysis."""
MOST_REGIONS = 128
"""Most regions: a row has the index of its own as int8."""


class Sample(NamedTuple):
    """The dataset that the events of a chunk are of; ``primary_dataset`` is None where the catalogue names none."""

    name: str
    process: str
    is_data: bool
    primary_dataset: str | None


@dataclass(frozen=True)
class Shift:
    """A source of uncertainty that changes columns: the scale of a momentum, a resolution.

    ``columns`` gives, for each column that changes, (up, down): a factor each, or a function of the columns by name
    that returns the changed one, (n_objects,). The analysis runs again with the changed columns; the preselection does
    not, so that it must not depend on them.
    """

    name: str
    columns: Mapping[str, tuple[Any, Any]]

    def __post_init__(self) -> None:
        """Write the names in one way; raise `OptionError` if a column has something else than up and down."""
        name = _text("Shift: name", self.name)
        given: Any = self.columns
        if not isinstance(given, Mapping) or not given:
            hint = 'Give the changes of each: {"Muon_pt": (1.01, 0.99)}.'
            raise OptionError(f"{name}: columns = {shown(given)}", hint)
        for column, pair in given.items():
            if (
                not isinstance(pair, tuple | list)
                or len(pair) != 2
                or not all(callable(one) or _is_factor(one) for one in pair)
            ):
                hint = "Give (up, down): a factor each, or a function of the columns by name."
                raise OptionError(f"{name}: the changes of {column} are {shown(pair)}", hint)
        object.__setattr__(self, "columns", {_plain(one): pair for one, pair in given.items()})

    def changed(self, columns: Mapping[str, npt.NDArray[Any]], direction: int) -> dict[str, npt.NDArray[Any]]:
        """Return the changed columns, up (``direction`` 0) or down (1), in the type of the column.

        Raises `AnalysisError` if a function returns an array of another length, or what the type does not hold.
        """
        found = {}
        for name, pair in self.columns.items():
            change, column = pair[direction], columns[name]
            values = np.asarray(change(columns) if callable(change) else column * change)
            if values.shape != column.shape or values.dtype.kind not in "fiub":
                what = f"{self.name} makes of {name} an array {values.shape} of type {values.dtype}"
                raise AnalysisError(what, f"Return one number for each of its {column.size:,} values.")
            found[name] = values.astype(column.dtype)
            if column.dtype.kind in "iub" and not np.array_equal(found[name], values):
                what = f"{self.name} makes of {name} numbers that are not whole, which its type {column.dtype} is"
                raise AnalysisError(what, "Return whole numbers, or shift something else.")
        return found


class Selected:
    """What a function selected of the events it was given.

    Parameters
    ----------
    events
        Which events: a mask, (n_events,) bool; or their indices, each once; or the events that are left, as records.
        Everything else is aligned with these n events.
    quantities
        By name: (n,) numbers, or (n, k), or lists of at most ``per_event`` numbers. NaN and None are in no bin.
    regions
        By name, as the analysis declares them: (n,) bool, or a list of such masks, one for each cut. May be left out if
        there is one region: all events.
    weights
        By name of the source: (nominal, up, down), each (n,); or nominal alone, a factor without uncertainty.
    """

    def __init__(
        self,
        events: Any,
        /,
        *,
        regions: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        **quantities: Any,
    ) -> None:
        named: dict[str, Any] = {"regions": regions, "weights": weights}
        for name, given in named.items():
            if given is not None and not isinstance(given, Mapping):
                what = f"Selected: {name} = {shown(given, 40)}"
                raise AnalysisError(what, f'Give the name of each: {name}={{"…": …}}.')
        if "weight" in quantities:
            hint = 'Weights have names: weights={"…": …}.'
            raise AnalysisError("Selected: no quantity can be called weight", hint)
        self.events, self.regions, self.weights, self.quantities = events, regions, dict(weights or {}), quantities
        self.output = b""

    def __repr__(self) -> str:
        """Return the names of what it has."""
        named = {"quantities": self.quantities, "regions": self.regions or {}, "weights": self.weights}
        parts = [f"{what} {', '.join(some)}" for what, some in named.items() if some]
        return f"<Selected: {'; '.join(parts)}>"


class Processor:
    """A processor of coffea as the function of an analysis: all events are selected, and its output goes along."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, columns: Any, sample: Sample) -> Selected:
        """Give the events to the processor, if there are any."""
        from higgsnb.selection.processors import process

        n = len(columns.entry)
        found = Selected(np.ones(n, np.bool_), events=np.zeros(n))
        found.output = process(self.processor, columns, {"dataset": sample.name, **sample._asdict()}) if n else b""
        return found

    def total(self, outputs: Iterable[bytes]) -> Any:
        """Return the sum of outputs, see `processors.total`."""
        from higgsnb.selection.processors import total

        return total(self.processor, outputs)


class Analysis:
    """An analysis: what to read, the function that selects, and what to count of what it selected.

    Parameters
    ----------
    name, title, version
        What it is called in results and figures.
    function
        ``function(events)`` or ``function(events, sample)``, which returns a `Selected`. In the form "awkward",
        ``events`` are records: ``events.Muon.pt``, four-vectors where a collection has pt, eta and phi, through
        `vector`; with ``events.entry``, their indices in the file. In the form "flat" they are columns by name, flat
        NumPy arrays, with ``events.offsets["Muon"]``, (n_events + 1,) int64: for compiled functions. Each event has to
        be treated alone, and the arrays cannot be written to.
    columns
        Branches to read, of each event (``MET_pt``) or of each object (``Muon_pt``); ``run``, ``luminosityBlock`` and
        ``event`` always come with them.
    simulation_columns
        Further branches, which only simulation has, such as ``Pileup_nTrueInt``: they are not read of data.
    axes
        The histograms, each filled once per region.
    preselection
        A condition on columns with one value per event: ``"nMuon >= 2 and HLT_IsoMu24"``; or one for each primary
        dataset, with ``"*"`` for simulation and all others. Events that fail it never reach the function, and are
        hardly read. A trigger path (``HLT_…``) that a file lacks has not fired.
    regions
        Their names; or names with the names of their cuts, for the cutflow. An event may be in several regions.
    keep
        Quantities to keep of each event, one number each, for ``result.candidates`` and Parquet.
    variations
        Sources of uncertainty: names of weights that the function returns, or a `Shift`. Each gets its own histograms,
        up and down. They are for simulation; data have weight 1.
    primary_datasets
        From which primary datasets a region is taken, for regions that are not taken from all.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        columns: Sequence[str],
        axes: Sequence[Axis],
        simulation_columns: Sequence[str] = (),
        preselection: str | Mapping[str, str] = "",
        regions: Sequence[str] | Mapping[str, Sequence[str]] = ("selected",),
        keep: Sequence[str] = (),
        variations: Sequence[str | Shift] = (),
        form: str = "awkward",
        primary_datasets: Mapping[str, Sequence[str]] | None = None,
        title: str = "",
        version: int = 1,
    ) -> None:
        self.name, self.title, self.version, self.form = _text("name", name), title or name, version, form
        self.function: Any = function
        self._columns = _branches("columns", columns)
        self._simulated = _branches("simulation_columns", simulation_columns)
        self.cuts = {region: _names(f"cuts of {region}", cuts) for region, cuts in _with_cuts(regions).items()}
        self.keep = _names("keep", keep)
        listed = [] if isinstance(variations, str) else variations
        self.shifts = tuple(one for one in listed if isinstance(one, Shift))
        sources = [one.name if isinstance(one, Shift) else one for one in listed]
        self.sources = _names("variations", sources or variations)
        self.primary_datasets = {name: tuple(some) for name, some in (primary_datasets or {}).items()}
        given = preselection if isinstance(preselection, Mapping) else {"*": preselection}
        self._preselections = {key: _condition(text) for key, text in given.items()}
        self._axes = _with_names(axes)
        self._pinned: Identity | None = None
        self._captured: tuple[Line, ...] | None = None
        self._check()

    @classmethod
    def from_coffea(
        cls,
        processor: Any,
        *,
        columns: Sequence[str],
        simulation_columns: Sequence[str] = (),
        preselection: str | Mapping[str, str] = "",
        name: str = "",
    ) -> Analysis:
        """Return the analysis that is a ``coffea.processor.ProcessorABC``, which runs unchanged (it needs coffea).

        Its ``process`` gets NanoEvents with these columns, a chunk at a time, and with ``events.metadata["dataset"]``
        and the rest of the `Sample`. The sum of what it returns is ``result.output``, after ``postprocess``.

        Each chunk is in the sum exactly once, in the order of the catalogue: the same chunks give the same numbers. But
        weights are added as floating-point numbers, so that chunks of another size may change their last digits; an
        event that is in two primary datasets is in the output twice; and nothing is normalised.
        """
        named = name or type(processor).__name__
        more: dict[str, Any] = {"simulation_columns": simulation_columns, "preselection": preselection, "form": "flat"}
        more["axes"] = [Axis("events", 1, -0.5, 0.5, label="events given to the processor")]
        return cls(named, Processor(processor), columns=columns, **more)

    def _check(self) -> None:
        """Raise `OptionError` for what does not fit together."""
        if self.form not in FORMS:
            raise OptionError(f"form = {shown(self.form)}", f"Give one of {', '.join(FORMS)}.")
        if not callable(self.function):
            hint = "Give a function that takes events and returns higgsnb.Selected(…)."
            raise OptionError(f"analysis {self.name!r}: {shown(self.function)} is not a function", hint)
        self._check_names()
        for shift in self.shifts:
            for column in shift.columns:
                if column not in self.columns:
                    raise OptionError(f"{shift.name}: no column {column!r}", did_you_mean(column, self.columns))
                if any(one and column in one.names for one in self._preselections.values()):
                    what = f"{shift.name} changes {column}, which the preselection uses"
                    raise OptionError(what, "Cut on it in the function.")

    def _check_names(self) -> None:
        if len(self.cuts) > MOST_REGIONS:
            raise OptionError(f"regions: {len(self.cuts)}", f"Give at most {MOST_REGIONS}, or make several analyses.")
        for kept in self.keep:
            is_name = kept.isidentifier() and not keyword.iskeyword(kept) and not kept.startswith("_")
            if not is_name or kept in RESERVED:
                raise OptionError(f"keep: {kept!r} cannot be the name of a column", "Call the quantity something else.")
        for region in self.primary_datasets:
            if region not in self.cuts:
                raise OptionError(f"primary_datasets: no region {region!r}", did_you_mean(region, self.cuts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The branches that are read beside the numbers of the event."""
        return (*self._columns, *self._simulated)

    def columns_of(self, primary_dataset: str | None, *, is_data: bool) -> tuple[str, ...]:  # noqa: ARG002
        """Return those of `columns` that are read of data of a primary dataset, or of simulation."""
        return self._columns if is_data else self.columns

    # -- what is counted

    @cached_property
    def binning(self) -> Binning:
        """The histograms of each region."""
        return Binning(self._axes, tuple(self.cuts))

    @property
    def regions(self) -> tuple[str, ...]:
        """The names of the regions."""
        return self.binning.regions

    @property
    def copies(self) -> tuple[str, ...]:
        """The nominal histograms and those of each variation: ``("nominal", "pileup_up", "pileup_down", …)``."""
        return (NOMINAL, *(f"{source}_{way}" for source in self.sources for way in ("up", "down")))

    def cut_names(self, region: str) -> tuple[str, ...]:
        """Return the rows of the cutflow of a region; the first are all events, the last those without duplicates."""
        return ("all", "preselected", *(self.cuts[region] or ("selected",)), "unique")

    @property
    def one_per_event(self) -> bool:
        """Whether an event is compared whatever its region; here it may be in several."""
        return False

    def channels(self, primary_dataset: str | None) -> tuple[int, ...]:
        """Return the regions, by index, that are taken from a primary dataset."""
        taken = self.primary_datasets
        return tuple(
            index
            for index, region in enumerate(self.regions)
            if primary_dataset is None or primary_dataset in taken.get(region, (primary_dataset,))
        )

    def preselection(self, primary_dataset: str | None, *, is_data: bool) -> Expression | None:
        """Return what an event has to pass to reach the function."""
        key = primary_dataset if is_data and primary_dataset in self._preselections else "*"
        return self._preselections.get(str(key))

    # -- what it is

    @property
    def identity(self) -> Identity:
        """What its functions are, now, or when it was `pinned`; raises `SelectionError` if that cannot be told."""
        from higgsnb.selection.identity import identify

        if self._pinned is not None:
            return self._pinned
        return identify(self._functions if self.shifts else self.function)  # messages name the function

    @property
    def captured(self) -> tuple[Line, ...]:
        """What its function holds or finds outside itself, see `captured_digest`: now, or when it was `pinned`."""
        from higgsnb.selection.identity import captured_digest

        if self._pinned is None:
            return captured_digest(self.function)
        if self._captured is None:
            self._captured = captured_digest(self.function)
        return self._captured

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of the installed packages that its functions use, by name."""
        return dict(self.identity.libraries)

    @property
    def _functions(self) -> tuple[Any, ...]:
        """Everything of it that is code, or may be."""
        return (self.function, *(tuple(sorted(shift.columns.items())) for shift in self.shifts))

    def pinned(self) -> Analysis:
        """Return a copy with the functions as they are now: whatever their globals become, it counts the same."""
        if self._pinned is not None:
            return self
        from higgsnb.selection.identity import pack, unpack_once

        found = object.__new__(type(self))
        found.__dict__.update(self.__dict__)
        found._pinned = self.identity
        found.function, *changes = unpack_once(pack(self._functions))
        found.shifts = tuple(Shift(one.name, dict(some)) for one, some in zip(self.shifts, changes, strict=True))
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return what is sent to workers: the functions by value."""
        from higgsnb.selection.identity import pack

        shifts = [shift.name for shift in self.shifts]
        return {**self.pinned().__dict__, "function": pack(self._functions), "shifts": shifts, "_captured": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from higgsnb.selection.identity import unpack_once

        self.__dict__.update(state)
        self.function, *changes = unpack_once(state["function"])
        self.shifts = tuple(Shift(name, dict(some)) for name, some in zip(state["shifts"], changes, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return everything that decides what is counted, for the provenance of a result."""
        identity = self.identity
        return {
            "name": self.name, "version": self.version, "title": self.title, "form": self.form,
            "columns": list(self._columns), "simulation_columns": list(self._simulated), "keep": list(self.keep),
            "preselection": {key: None if one is None else one.text for key, one in self._preselections.items()},
            "regions": {region: list(cuts) for region, cuts in self.cuts.items()},
            "axes": [[axis.name, axis.variable, axis.per_event, axis.edges.tolist()] for axis in self._axes],
            "variations": list(self.sources),
            "primary_datasets": {region: list(some) for region, some in self.primary_datasets.items()},
            "function": {"sha256": identity.digest, "source": identity.source, "libraries": dict(identity.libraries)},
        }  # fmt: skip

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything that can change what is counted."""
        content = {key: value for key, value in self.as_dict().items() if key not in ("name", "version", "title")}
        content["function"] = content["function"]["sha256"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"<Analysis {self.name!r}: {', '.join(self.regions)}; {', '.join(axis.name for axis in self._axes)}>"


def _text(what: str, value: Any) -> str:
    """Return a name; raise `OptionError` if it is none."""
    if not isinstance(value, str) or not value.strip() or not is_one_line(value):
        raise OptionError(f"{what}: {shown(value)} is not a name", "Give a string of one line.")
    return value


def _with_names(axes: Any) -> tuple[Axis, ...]:
    """Return axes, at least one, each with a name of its own; raise `OptionError` for anything else."""
    hint = 'Give a list: [higgsnb.Axis("mass", 60, 60, 120)].'
    if isinstance(axes, str) or not isinstance(axes, Sequence) or not axes:
        raise OptionError(f"axes = {shown(axes)}", hint)
    for axis in axes:
        if not isinstance(axis, Axis):
            raise OptionError(f"axes: {shown(axis)} is no axis", hint)
        if axis.variable in AXES_OF_ALL:
            hint = "Call the quantity something else."
            raise OptionError(f"axis {axis.name!r}: no quantity can be called {axis.variable}", hint)
    _names("axes", [axis.name for axis in axes])
    return tuple(axes)


def _is_factor(value: Any) -> bool:
    """Whether something is a number by which a column can be multiplied."""
    return isinstance(value, Real) and math.isfinite(value)


def _condition(text: Any) -> Expression | None:
    """Return a preselection, None for an empty text; raise `OptionError` for something else than a condition."""
    if not isinstance(text, str):
        hint = 'Give a condition on columns with one value per event: "nMuon >= 2".'
        raise OptionError(f"preselection = {shown(text)}", hint)
    found = parse(text) if text.strip() else None
    if found is not None and not found.is_condition:
        raise OptionError(f"preselection {text!r} is a number", f'Compare it with one: "{text} > 0".')
    return found


def _names(what: str, values: Any) -> tuple[str, ...]:
    """Return names, each once; raise `OptionError` if they are something else."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise OptionError(f"{what} = {shown(values)}", 'Give a list of names: ["…", "…"].')
    found = tuple(_text(what, value) for value in values)
    if len(set(found)) < len(found) or len(found) > MOST_NAMES:
        twice = [name for name in found if found.count(name) > 1][:1]
        raise OptionError(f"{what}: {', '.join(twice) or len(found)}", f"Give each once, at most {MOST_NAMES}.")
    return found


def _branches(what: str, values: Any) -> tuple[str, ...]:
    """Return names of branches; raise `OptionError` for something else, and for patterns."""
    found = _names(what, values)
    for name in found:
        if any(sign in name for sign in "*?["):
            raise OptionError(f"{what}: {name!r} is a pattern", 'Name each branch: ["Muon_pt", "Muon_eta", …].')
    return _names(what, [_plain(name) for name in found])


def _plain(name: str) -> str:
    """Return the name of a branch as it is in a flat file: ``Muon.pt`` is ``Muon_pt``."""
    return name.strip().replace(".", "_")


def _with_cuts(regions: Any) -> dict[str, Sequence[str]]:
    """Return regions with the names of their cuts."""
    found = dict(regions) if isinstance(regions, Mapping) else dict.fromkeys(_names("regions", regions), ())
    if not found:
        raise OptionError("regions: none", 'Give at least one, or leave it out: it is called "selected".')
    return {region: found[region] for region in _names("regions", tuple(found))}
