"""`select`: apply a selection to a chunk of events. The steps are in `pairings`, the rules in `rules`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from higgsnb.errors import OptionError
from higgsnb.selection import branches, compiled, options, pairings
from higgsnb.selection.cuts import Cut, Selection, four_lepton_selection, load, names
from higgsnb.selection.leptons import CHANNELS, MUON, Candidates, Integers, Leptons, keep_events
from higgsnb.selection.rules import cuts_of

BLOCK = 65_536
"""Events that are selected at a time: what is kept of them needs little memory, however many survive."""
MOST_PAIRINGS = 1_000_000
"""Pairings made at a time, of 96 bytes each: a block of events that has more is halved."""

_ONE_AT_A_TIME = threading.Lock()
"""numba looks up types in a dictionary that grows when it first compiles or loads something."""


def is_compiled(algorithm: str) -> bool:
    """Whether the code for an algorithm lies on disk from an earlier run; if not, its first use takes some seconds."""
    function = "list_good" if algorithm == "open2012" else "pair_by_channel"
    return any(any(folder.glob(f"pairings.{function}-*.nbi")) for folder in compiled.FOLDERS)


@cache
def warm_up(algorithm: str) -> None:
    """Load the code for an algorithm (compile it, once on a machine), so that the first chunk takes no longer."""
    empty, offsets = np.zeros(0, np.float32), np.zeros(1, np.int64)
    stored = [name for name in Leptons._fields if name not in Leptons._field_defaults]
    columns: dict[str, Any] = {name: offsets if name.endswith("_offsets") else empty for name in stored}
    shipped = (load(name) for name in names())
    with _ONE_AT_A_TIME:
        select(Leptons(**columns), next(found for found in shipped if found.algorithm == algorithm))


def select(
    leptons: Leptons, selection: Selection, primary_dataset: str | None = None, *, reached: bool = False
) -> Candidates:
    """Apply a selection to a chunk of events; the candidates are in the order of the events.

    ``primary_dataset`` is that of the events (``"DoubleMu"``, …; None: no such); it decides the channels in ``aod2012``
    and ``df103``. ``reached`` asks for the last row of the cutflow that each event passes.

    Raises
    ------
    UnreadableError
        If an event has more good leptons than can be paired.
    SchemaError
        If the leptons lack a column that the selection needs, see `branches.to_leptons`.
    SelectionError
        If its ``pairing`` cannot be compiled.
    OptionError
        If compilation is switched off.
    """
    four_lepton_selection(selection, "Run it: engine.run(campaign, analysis).")
    if compiled.is_disabled():
        message = "NUMBA_DISABLE_JIT is set, but the selection runs as compiled code only"
        raise OptionError(message, "Remove NUMBA_DISABLE_JIT from the environment.")
    leptons = branches.used_by(leptons, selection)
    if not selection.event_level:
        return _select_all(leptons, selection, primary_dataset, reached)
    kept = np.arange(leptons.n_events) if leptons.passes is None else np.flatnonzero(leptons.passes)
    passing = keep_events(leptons, kept)
    found = _select_all(passing, selection, primary_dataset, reached)
    rows = np.zeros((len(CHANNELS), 2), np.int64)
    rows[list(selection.channels(primary_dataset))] = leptons.n_events, len(kept)
    # Indices are those of the whole chunk.
    event, is_muon = found.event_index[:, np.newaxis], found.flavour == MUON
    before = [leptons.muon_offsets[kept] - passing.muon_offsets[:-1]]
    before += [leptons.electron_offsets[kept] - passing.electron_offsets[:-1]]
    return found._replace(
        event_index=kept[found.event_index],
        lepton=found.lepton + np.where(is_muon, before[0][event], before[1][event]),
        cutflow=np.hstack([rows, found.cutflow[:, Cut.LEPTONS :]]),
        reached=_spread(found.reached + 1, kept, leptons.n_events) if reached else found.reached,
    )


def _spread(reached: npt.NDArray[Any], which: Integers, n: int) -> npt.NDArray[np.int8]:
    """Return what some events reached, (3, n_some), as (3, n), 0 for all others."""
    found = np.zeros((len(CHANNELS), n), np.int8)
    found[:, which] = reached
    return found


def _select_all(leptons: Leptons, selection: Selection, primary_dataset: str | None, reached: bool) -> Candidates:
    """Apply a selection to the events, block by block."""
    blocks = [
        block
        for first in range(0, max(leptons.n_events, 1), BLOCK)
        for block in _select(leptons, first, min(first + BLOCK, leptons.n_events), selection, primary_dataset, reached)
    ]
    if len(blocks) == 1:
        return blocks[0]
    rows = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in Candidates._fields[:-3]}
    return Candidates(
        **rows,
        cutflow=np.sum([block.cutflow for block in blocks], axis=0),
        invalid_values=np.sum([block.invalid_values for block in blocks], axis=0),
        reached=np.hstack([block.reached for block in blocks]),
    )


def _select(
    leptons: Leptons, first: int, last: int, selection: Selection, primary_dataset: str | None, is_wanted: bool
) -> Iterator[Candidates]:
    """Apply a selection to the events [first, last); ``event_index`` counts from the start of the chunk."""
    cuts, channels = cuts_of(selection), selection.channels(primary_dataset)
    whole_event = selection.algorithm == "df103"
    # Offsets stay those of the chunk, so the columns of leptons need no cutting.
    per_event: dict[str, Any] = {
        name: getattr(leptons, name)[first:last] for name in ("run", "luminosity_block", "event")
    }
    offsets = {name: getattr(leptons, name)[first : last + 1] for name in ("muon_offsets", "electron_offsets")}
    events = leptons._replace(**per_event, **offsets)
    found, which, enough_stored, invalid = pairings.preselect(events, cuts, any_pt=whole_event)
    numbers = pairings.count_all(found) if selection.one_per_event else np.zeros(0, np.int64)
    if numbers.sum() > MOST_PAIRINGS and last - first > 1:
        middle = (first + last) // 2
        yield from _select(leptons, first, middle, selection, primary_dataset, is_wanted)
        yield from _select(leptons, middle, last, selection, primary_dataset, is_wanted)
        return
    flags = np.empty(len(found.leptons), np.uint8)
    measured = (found.leptons, found.isolation, found.dxy, found.dz, found.sip)
    pairings.flag_leptons(*measured, cuts, 0, len(flags), flags)
    one_per_event = selection.one_per_event
    paired = pairings.pair_all(found, numbers, selection.z_mass) if one_per_event else pairings.room(found)
    wanted = np.isin(np.arange(len(CHANNELS)), channels)
    reached = np.zeros((len(which) if is_wanted else 0, 3), np.int8)
    listed = pairings.list_candidates(found, 0, len(which), cuts, wanted, flags, paired, reached)
    selected, passed, reached = _choose(found, paired.rows, *listed, reached, cuts, selection)
    event, row = selected.T
    chosen = {name: paired.rows[name][row] for name in ("a", "b", "c", "d", "channel", "mass_4l", "mass_z1", "mass_z2")}
    index = found.offsets[event, None] + np.stack([chosen[name] for name in "abcd"], axis=1)
    yield Candidates(
        event_index=which[event] + first,
        channel=chosen["channel"].astype(np.int8),
        lepton=found.leptons["place"][index],
        flavour=found.leptons["flavour"][index].astype(np.int8),
        mass_4l=chosen["mass_4l"],
        mass_z1=chosen["mass_z1"],
        mass_z2=chosen["mass_z2"],
        cutflow=_cutflow(passed, events.n_events, enough_stored[int(whole_event)], channels),
        invalid_values=invalid,
        reached=_reached(events, reached, which, channels, whole_event=whole_event) if is_wanted else reached.T,
    )


def _reached(
    events: Leptons, reached: npt.NDArray[np.int8], which: Integers, channels: tuple[int, ...], *, whole_event: bool
) -> npt.NDArray[np.int8]:
    """Return the last row of the cutflow that each event passes, (3, n_events), from that of preselected ones."""
    found = _spread(reached.T, which, events.n_events)
    muons, electrons = np.diff(events.muon_offsets), np.diff(events.electron_offsets)
    four = [n == 4 if whole_event else n >= 4 for n in (muons, electrons)]
    for channel, enough in enumerate((*four, (muons >= 2) & (electrons >= 2))):  # stored ones, in the order of CHANNELS
        stored = np.where(found[channel] > Cut.LEPTONS, found[channel], Cut.LEPTONS * enough)
        found[channel] = stored if channel in channels else 0
    return found


def _choose(
    found: pairings.Preselected,
    rows: npt.NDArray[Any],
    candidates: npt.NDArray[np.int32],
    passed: Integers,
    reached: npt.NDArray[np.int8],
    cuts: Any,
    selection: Selection,
) -> tuple[Integers, list[Integers], npt.NDArray[np.int8]]:
    """Apply the cuts on pairings to the candidates of `pairings.list_candidates`.

    Returns
    -------
    tuple
        Event and row of the selected ones, (n, 2) int64; the number of events by their last passed cut, (3, len(Cut)),
        and before it the same without the last of `options.cuts_on_candidates`, without the last two, and so on; and
        the last passed row of each event, in the rows with these cuts.
    """
    if len(found.bare):
        options.leave_out_photons(found, candidates, rows)
    counts, steps = [], []
    for is_passed in options.cuts_on_candidates(selection):
        steps.append(reached.copy())
        counts.append(_apply(candidates, rows, cuts, selection, passed, steps[-1])[1])
        candidates = candidates[is_passed(found, candidates, rows)]
    if selection.pairing is not None:
        candidates = _in_order_of(selection.pairing, found, candidates, rows, cuts)
    selected, last = _apply(candidates, rows, cuts, selection, passed, reached)
    first, *others = *steps, reached
    row = np.minimum(first, Cut.MASS_4L) + np.maximum(reached - Cut.MASS_4L, 0)
    for step in others:  # each of these cuts has a row of its own, before that of the best candidate
        row += step >= Cut.MASS_4L
    return selected, [*counts, last], row.astype(np.int8)


def _apply(
    candidates: npt.NDArray[np.int32],
    rows: npt.NDArray[Any],
    cuts: Any,
    selection: Selection,
    passed: Integers,
    reached: npt.NDArray[np.int8],
) -> tuple[Integers, Integers]:
    """Return the first candidate of each event (or channel) that passes, and ``passed`` with all events in place."""
    selected, counts, passed = np.empty((len(candidates), 2), np.int64), np.zeros((3, 1), np.int64), passed.copy()
    n = pairings.choose(candidates, rows, cuts, selection.one_per_event, passed, counts, selected, reached)
    return selected[:n], passed


def _in_order_of(
    pairing: Any, found: pairings.Preselected, candidates: npt.NDArray[np.int32], rows: npt.NDArray[Any], cuts: Any
) -> npt.NDArray[np.int32]:
    """Return the candidates of each event in the order of a user's function, those that pass all cuts first."""
    passing, scores = np.zeros(len(candidates), np.bool_), np.full(len(candidates), np.nan)
    with _ONE_AT_A_TIME:
        score_all = _compiled(pairing)
        pairings.list_passing(candidates, rows, cuts, passing)
    some = np.zeros(np.count_nonzero(passing))
    score_all(*options.arguments_of_pairing(found, candidates[passing], rows), some)
    scores[passing] = some
    return candidates[np.lexsort((scores, candidates[:, 0]))]


_OWN_PAIRINGS: dict[str, Any] = {}
"""Loops over the functions of users, by the digest of their identity."""
MOST_OWN_PAIRINGS = 16


def _compiled(pairing: Any) -> Any:
    """Return the loop over a user's function; one that arrives anew with every job is compiled once."""
    from higgsnb.selection.identity import identify

    digest = identify(pairing).digest
    if digest not in _OWN_PAIRINGS:
        while len(_OWN_PAIRINGS) >= MOST_OWN_PAIRINGS:
            del _OWN_PAIRINGS[next(iter(_OWN_PAIRINGS))]
        _OWN_PAIRINGS[digest] = compiled.loop_over(pairing)
    return _OWN_PAIRINGS[digest]


def _cutflow(reached: list[Integers], n_events: int, enough_stored: Integers, channels: tuple[int, ...]) -> Integers:
    """Return the cutflow, with a row for each of `options.cuts_on_candidates`: as without them up to there."""
    flows = [pairings.cutflow(passed, n_events, enough_stored, channels) for passed in reached]
    added = [flow[:, [Cut.MASS_4L]] for flow in flows[1:]]
    return np.hstack([flows[0][:, : Cut.BEST_CANDIDATE], *added, flows[-1][:, Cut.BEST_CANDIDATE :]])
