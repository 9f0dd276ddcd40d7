"""Call the function of an analysis with events, and check what it returns."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb import events
from higgsnb.errors import AnalysisError, HiggsnbError, did_you_mean, first_line
from higgsnb.selection import Processor, Sample, Selected, Shift
from higgsnb.text import shown

if TYPE_CHECKING:
    from higgsnb.datasets import Chunk
    from higgsnb.events import EventColumns
    from higgsnb.selection import Analysis

PACKAGE = str(Path(__file__).parents[1])
"""Where this package lies: its lines are not those of a function."""

LOOKED_AT = 64
"""Events of each kind of which it is seen whether the others matter."""
SAME = 1e-3
"""Relative and absolute difference of two quantities that is none: compiled loops may round the last digit."""
COFFEA = {
    "delta_r": "a.deltaR(b)",
    "delta_phi": "a.deltaphi(b)",
    "metric_table": "pairs of ak.cartesian([a, b], nested=True), and deltaR of them",
    "nearest": "pairs of ak.cartesian([a, b], nested=True), and ak.argmin of their deltaR",
}
"""What vectors of coffea are asked for, and what it is called here."""

HINTS = {
    "truth value|bitwise_": "Join masks with & | ~, each comparison in parentheses: (pt > 20) & (abs(eta) < 2.4).",
    "too many jagged slice": "A mask of muons selects muons, events.Muon[mask]; one of events is ak.any(mask, axis=1).",
    "index out of range while": "Some events have fewer: keep those that have enough first, ak.num(muons) >= 2.",
    "do not have the same dimension": "Make both alike: met.to_Vector4D(eta=0, mass=0), or muons.to_Vector2D().",
    "read-?only": "Copy it before you change it: a = np.array(a). Other variations and regions use the same events.",
    "'FlatEvents'": 'In the form "flat" there are columns["Muon_pt"], columns.offsets["Muon"] and columns.entry.',
}
"""What to do about errors of awkward, vector and flat columns, by words of their messages."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Checked(NamedTuple):
    """What a function returned, checked: arrays of the n events that it selected.

    ``chosen`` (n,) int64, indices of the events it was given; ``quantities`` (n,) or (n, k) float64 by name, and how
    many values of each are ``invalid``; ``passed`` (n, n_cuts) bool by region, whether each cut and all before are
    passed; ``weights`` the nominal factors by name, each (n,); ``sources`` (n_sources, 3, n) float64, nominal, up and
    down, of the sources of uncertainty that are weights; ``output`` that of a processor of coffea.
    """

    chosen: Integers
    quantities: dict[str, Floats]
    invalid: dict[str, int]
    passed: dict[str, Mask]
    weights: dict[str, Floats]
    sources: Floats
    output: bytes

    def rows(self, analysis: Analysis, primary_dataset: str | None) -> tuple[npt.NDArray[np.int8], Integers]:
        """Return a row for each region that an event is in: the region, and the index among the n events."""
        taken = analysis.channels(primary_dataset)
        found = [np.flatnonzero(self.passed[analysis.regions[region]][:, -1]) for region in taken]
        region = np.repeat(np.array(taken, np.int8), [len(rows) for rows in found])
        return region, np.concatenate([*found, np.zeros(0, np.int64)])

    def values(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield everything that is said of the selected events, (n,) or (n, …), by name."""
        yield from self.quantities.items()
        yield from ((f"region {name}", masks) for name, masks in self.passed.items())
        yield from ((f"weight {name}", values) for name, values in self.weights.items())
        yield "weights of variations", self.sources.transpose(2, 0, 1)

    def factor(self, left_out: Collection[str] = ()) -> Floats:
        """Return the product of the nominal factors, (n,), without those of some sources."""
        product = np.ones(len(self.chosen))
        for name, nominal in self.weights.items():
            product = product if name in left_out else product * nominal
        return product

    def varied(self, analysis: Analysis) -> dict[str, Any]:
        """Return the sources of uncertainty that are weights, and the copies that they change: for `counted.weigh`.

        The copies of a shift are 0: they are filled by themselves.
        """
        first = np.array([1 + 2 * analysis.sources.index(name) for name in _weight_sources(analysis)], np.int64)
        columns = np.stack([first, first + 1], axis=1)
        return {"sources": self.sources, "columns": columns, "n_copies": len(analysis.copies)}


def _weight_sources(analysis: Analysis) -> list[str]:
    """Return the sources of uncertainty that are weights: those that are not shifts of columns."""
    return [name for name in analysis.sources if name not in {shift.name for shift in analysis.shifts}]


def call(analysis: Analysis, chunk: Chunk, read: EventColumns) -> Checked:
    """Give events to the function of an analysis, and return what it selected.

    Raises
    ------
    AnalysisError
        If the function raises an error (names its line), or returns something else than the analysis declares.
    """
    where = _where(analysis, chunk)
    given = events.records(read) if analysis.form == "awkward" else events.FlatEvents(read)
    sample = _sample_of(chunk)
    arguments = given, *(sample,)[: _n_more(analysis.function)]
    function, before = analysis.function, analysis.captured
    returned: Any = _guarded(analysis, chunk, function, before, lambda: function(*arguments))
    if not isinstance(returned, Selected):
        hint = "Return higgsnb.Selected(events, quantity=…)."
        raise AnalysisError(f"{where}: the function returned {shown(returned, 60)}", hint)
    check = _Check(analysis, sample, read, where)
    return check(returned)


def shifted(analysis: Analysis, chunk: Chunk, read: EventColumns, shift: Shift, direction: int) -> EventColumns:
    """Return events with the columns that a shift changes, up (``direction`` 0) or down (1); raises as `call` does."""
    given = events.FlatEvents(read)
    from higgsnb.selection import captured_digest

    before = captured_digest(shift.columns)
    changed = _guarded(analysis, chunk, shift.columns, before, lambda: shift.changed(given, direction))
    flat, jagged = ({name: changed.get(name, old) for name, old in some.items()} for some in (read.flat, read.jagged))
    return read._replace(flat=flat, jagged=jagged)


def check_alone(analysis: Analysis, chunk: Chunk, read: EventColumns, whole: Checked) -> None:
    """Raise AnalysisError if a function gives other results for some of the events than for ``whole``, all of them.

    Then they would depend on how the events are divided into chunks. Those in the first region and the others are tried
    apart: so their means differ from those of all.
    """
    inside = np.zeros(len(read.entries), np.bool_)
    inside[whole.chosen] = next(iter(whole.passed.values()))[:, -1]
    for some in (_spread(np.flatnonzero(inside)), _spread(np.flatnonzero(~inside))):
        if len(some) and not isinstance(analysis.function, Processor):
            _check_same(analysis, chunk, read, whole, some)


def _check_same(analysis: Analysis, chunk: Chunk, read: EventColumns, whole: Checked, some: Integers) -> None:
    """Raise AnalysisError if the function gives something else for some events alone."""
    part = call(analysis, chunk, events.keep(read, some))
    mine, theirs = np.argsort(some[part.chosen]), np.flatnonzero(np.isin(whole.chosen, some))
    theirs = theirs[np.argsort(whole.chosen[theirs])]
    where, index = _where(analysis, chunk), some[part.chosen][mine]
    hint = "Work on each event alone: no means over all, random numbers by default_rng([run, luminosityBlock, event])."
    if not np.array_equal(index, whole.chosen[theirs]):
        first = read.entries[np.setxor1d(index, whole.chosen[theirs])[0]]
        raise AnalysisError(f"{where}: entry {first} is selected or not depending on the events around it", hint)
    for (name, one), (_, other) in zip(part.values(), whole.values(), strict=True):
        differs = np.argwhere(~np.isclose(one[mine], other[theirs], rtol=SAME, atol=SAME, equal_nan=True))
        if len(differs):
            first = read.entries[index[differs[0, 0]]]
            raise AnalysisError(f"{where}: {name} of entry {first} depends on the events around it", hint)


def _spread(index: Integers) -> Integers:
    """Return some of the numbers, spread evenly, and not 0."""
    index = index[index > 0]
    return index[:: max(1, len(index) // LOOKED_AT)][:LOOKED_AT]


def _where(analysis: Analysis, chunk: Chunk) -> str:
    return f"analysis {analysis.name!r}, {chunk.file.url}, entries {chunk.start} to {chunk.stop}"


def _sample_of(chunk: Chunk) -> Sample:
    return Sample(chunk.dataset, chunk.process, chunk.is_data, chunk.primary_dataset)


def _guarded(analysis: Analysis, chunk: Chunk, functions: Any, before: Sequence[Any], called: Callable[[], Any]) -> Any:
    """Return what a call of the user's functions gives; AnalysisError if they fail, or change what they hold."""
    from higgsnb.selection import check_unchanged

    try:
        found = called()
        check_unchanged(functions, before)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(error, analysis, chunk) from error
    return found


def _failed(error: BaseException, analysis: Analysis, chunk: Chunk) -> AnalysisError:
    """Return what is raised for an error in the function: with its line there, and what to do about it."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(PACKAGE)]
    own = [one for one in frames if one.filename == frames[0].filename] or frames
    line = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    what = error.message if isinstance(error, HiggsnbError) else f"{type(error).__name__}: {first_line(error)}"
    hint = "Correct the function; finished chunks stay as long as it is not changed."
    if isinstance(error, HiggsnbError):
        hint = error.hint
    elif isinstance(error, AttributeError) and (found := re.search(r"no field named '(\w+)'", what)):
        hint = _no_field(found[1], analysis, _sample_of(chunk))
    else:
        said = "".join(traceback.format_exception_only(error))
        hint = next((one for words, one in HINTS.items() if re.search(words, said)), hint)
    return AnalysisError(f"{_where(analysis, chunk)}: {what}{line}", hint)


def _no_field(name: str, analysis: Analysis, sample: Sample) -> str:
    """Return what to do if events, or a collection, have no such field."""
    if name in COFFEA:
        return f"Vectors are those of scikit-hep: {COFFEA[name]}."
    columns = analysis.columns_of(sample.primary_dataset, is_data=sample.is_data)
    more = [column for column in analysis.columns if column not in columns]
    only = f" Data have no {', '.join(more)}: look at sample.is_data." if more else ""
    return f"The columns are {', '.join(columns)}: name those that are missing.{only}"


def _n_more(function: Callable[..., Any]) -> int:
    """Return how many arguments without default a function takes after the events: 0 or 1."""
    needed = [one for one in inspect.signature(function).parameters.values() if one.default is one.empty]
    return int(sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in needed) > 1)


class _Check:
    """Turn what a function returned into arrays, or say what is wrong with it."""

    def __init__(self, analysis: Analysis, sample: Sample, read: EventColumns, where: str) -> None:
        self._analysis, self._sample, self._read, self._where = analysis, sample, read, where

    def __call__(self, returned: Selected) -> Checked:
        index = self._index(returned.events)
        n, per_event = len(index), {**dict.fromkeys(self._analysis.keep, 1), **self._analysis.binning.variables}
        quantities, invalid = {}, {}
        for name, most in per_event.items():
            if name not in returned.quantities:
                raise self._error(f"no quantity {name!r}", did_you_mean(name, returned.quantities))
            quantities[name], invalid[name] = self._numbers(name, returned.quantities[name], n, most)
        passed, (weights, sources) = self._passed(returned.regions, n), self._weights(returned, index)
        return Checked(index, quantities, invalid, passed, weights, sources, returned.output)

    def _error(self, what: str, hint: str = "") -> AnalysisError:
        return AnalysisError(f"{self._where}: {what}", hint)

    def _index(self, chosen: Any) -> Integers:
        """Return the indices of the events that are left."""
        n = len(self._read.entries)
        if hasattr(chosen, "fields") and events.INDEX in chosen.fields:
            chosen = chosen[events.INDEX]
        found = _plain(chosen)
        if np.ma.is_masked(found):
            raise self._error("Selected: some of the events are None", "Leave them out: events[mask].")
        if found is not None and found.dtype == bool and found.shape == (n,):
            return np.flatnonzero(found)
        if found is not None and found.dtype.kind in "iu" and found.ndim == 1:
            index = found.astype(np.int64, copy=False)
            if _is_each_once(index, n):
                return index
        hint = "Give a mask over the events, their indices (each once), or the events that are left."
        raise self._error(f"Selected: of {n:,} events, those selected are given as {_described(chosen, found)}", hint)

    def _numbers(self, name: str, value: Any, n: int, most: int) -> tuple[Floats, int]:
        """Return a quantity as (n,) or (n, most) float64, NaN where there is none, and how many are not finite."""
        found = _plain(value)
        if found is None or found.dtype == object:
            found = _padded(value, most)
        if found is None or found.dtype.kind not in "fiub" or found.shape[:1] != (n,) or found.ndim > 2:
            what = f"{name} is {_described(value, found)}"
            raise self._error(what, f"Give one number for each of the {n:,} selected events.")
        if found.ndim == 2 and found.shape[1] > most:
            hint = f"Give fewer values, such as {name}[:, :{most}], or the axis per_event={found.shape[1]}."
            if name in self._analysis.keep:
                hint = "What is kept is one number per event."
            raise self._error(f"{name} has up to {found.shape[1]} values in an event, where {most} fit", hint)
        if name in self._analysis.keep and found.dtype.itemsize == 8 and found.dtype.kind in "iu":
            self._check_whole(name, found)
        values = np.ma.filled(found.astype(np.float64, copy=False), np.nan)
        given = np.ma.compressed(found) if np.ma.isMaskedArray(found) else values
        invalid = int(np.count_nonzero(~np.isfinite(given)))
        if most == 1 and values.ndim == 1:
            return values, invalid
        values = values.reshape(n, 1 if values.ndim < 2 else values.shape[1])
        if values.shape[1] < most:
            values = np.pad(values, ((0, 0), (0, most - values.shape[1])), constant_values=np.nan)
        return values.reshape((n,) if most == 1 else (n, most)), invalid

    def _check_whole(self, name: str, found: npt.NDArray[Any]) -> None:
        """Raise an error if whole numbers would be rounded, as they are kept as float64."""
        largest = max((abs(int(extreme)) for extreme in (found.min(initial=0), found.max(initial=0))), default=0)
        if largest > 2**53:
            hint = "Keep it in two parts; run, luminosityBlock and event are kept in any case."
            raise self._error(f"{name} is up to {largest}: what is kept holds whole numbers up to 2^53", hint)

    def _passed(self, regions: Mapping[str, Any] | None, n: int) -> dict[str, Mask]:
        """Return whether each cut of each region, and all before, are passed."""
        declared = self._analysis.cuts
        if regions is None and len(declared) == 1 and not any(declared.values()):
            regions = {name: np.ones(n, np.bool_) for name in declared}
        given = {} if regions is None else dict(regions)
        for name in (*given, *declared):
            if name not in declared:
                hint = f"{did_you_mean(name, declared)} Or name it in the analysis: regions={list(given)}."
                raise self._error(f"region {name!r} is not declared", hint)
            if name not in given:
                raise self._error(f"region {name!r} is not returned", f'Return regions={{"{name}": mask, …}}.')
        return {name: self._masks(name, given[name], n, max(1, len(cuts))) for name, cuts in declared.items()}

    def _masks(self, region: str, given: Any, n: int, n_cuts: int) -> Mask:
        masks = list(given) if isinstance(given, list | tuple) else [given]
        found = [_plain(mask) for mask in masks]
        if len(found) != n_cuts or any(one is None or one.dtype != bool or one.shape != (n,) for one in found):
            got = ", ".join(_described(mask, one) for mask, one in zip(masks, found, strict=True))
            wanted = f"a list of {n_cuts} masks, one for each cut," if n_cuts > 1 else "a mask"
            raise self._error(f"region {region!r} is given as {got}", f"Give {wanted} over the {n:,} events.")
        filled: list[Any] = [np.ma.filled(np.ma.asarray(one), False) for one in found]
        if n_cuts == 1:
            return np.asarray(filled[0])[:, np.newaxis]
        return np.asarray(np.logical_and.accumulate(np.stack(filled)).T)  # (n_cuts, n) in memory: five times as fast

    def _weights(self, returned: Selected, index: Integers) -> tuple[dict[str, Floats], Floats]:
        """Return the nominal factors, and nominal, up and down of each source of uncertainty; see `Checked`."""
        sources, n = _weight_sources(self._analysis), len(index)
        block = np.empty((len(sources), 3, n))
        found = {}
        for name, given in returned.weights.items():
            parts = list(given) if isinstance(given, tuple | list) else [given]
            if (len(parts) == 3) != (name in sources) or len(parts) not in (1, 3):
                is_source = "is" if name in sources else "is not"
                hint = "Give (nominal, up, down) for a source in variations, a factor alone otherwise."
                raise self._error(f"weight {name!r} has {len(parts)} part(s), and {is_source} in variations", hint)
            factors = block[sources.index(name)] if name in sources else np.empty((1, n))
            for place, part in zip(factors, parts, strict=True):
                place[:] = self._weight(name, part, index)
            found[name] = factors[0]
        missing = [name for name in sources if name not in found]
        if missing and self._sample.is_data:
            block[:] = 1.0  # nobody asks for them
        elif missing:
            hint = "Return weights={name: (nominal, up, down)}, or take it out of variations."
            raise self._error(f"no weights of {', '.join(missing)}", hint)
        return found, block

    def _weight(self, name: str, given: Any, index: Integers) -> npt.NDArray[Any]:
        """Return a factor as given, (n,) or one for all; of simulation, it has to be finite for all at ``index``."""
        values, n = _plain(given), len(index)
        if values is None or values.dtype.kind not in "fiub" or values.shape not in ((n,), ()):
            what = f"weight {name!r} is {_described(given, values)}"
            raise self._error(what, f"Give one number for each of the {n:,} selected events.")
        found = np.ma.filled(values.astype(np.float64), np.nan) if np.ma.is_masked(values) else values
        if not self._sample.is_data and not np.isfinite(found).all():
            first = int(np.flatnonzero(~np.isfinite(np.broadcast_to(found, (n,))))[0])
            one = "None" if np.ma.is_masked(values) else f"{np.broadcast_to(found, (n,))[first]}"
            hint = "Give each event a finite number; 1 if the weight is not for it."
            raise self._error(f"weight {name!r} of entry {self._read.entries[index[first]]} is {one}", hint)
        return found


def _is_each_once(index: Integers, n: int) -> bool:
    """Whether all of some indices are below n, from 0 on, and none occurs twice."""
    if not len(index) or ((index[1:] > index[:-1]).all() and index[0] >= 0 and index[-1] < n):
        return True
    if index.min() < 0 or index.max() >= n:
        return False
    seen = np.zeros(n, np.bool_)
    seen[index] = True
    return bool(np.count_nonzero(seen) == len(index))


def _described(value: Any, found: npt.NDArray[Any] | None) -> str:
    """Return what was given instead of an array of one value per event, in a few words."""
    if found is not None:
        shape = ("one value", f"{found.size:,} values")[found.ndim] if found.ndim < 2 else f"an array {found.shape}"
        return f"{shape} of type {found.dtype}"
    if getattr(value, "ndim", 1) > 1:
        return f"{shown(value, 40)}: one for each object, where one for each event is needed (ak.any(…, axis=1))"
    return shown(value, 40)


def _plain(value: Any) -> npt.NDArray[Any] | None:
    """Return an array of one or two dimensions as NumPy has it, masked where there is None; None if it is no such."""
    try:
        if type(value).__module__.startswith("awkward"):
            value = events.to_numpy(value)
        found: Any = np.asanyarray(value)
    except (ValueError, TypeError):
        return None
    return found  # type: ignore[no-any-return]


def _padded(value: Any, most: int) -> npt.NDArray[Any] | None:
    """Return lists of numbers as a masked array with as many columns as the longest has, at least ``most``."""
    try:
        return events.to_padded(value, most)
    except (ValueError, TypeError):
        return None
