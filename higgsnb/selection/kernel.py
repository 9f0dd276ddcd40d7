"""`select`: apply a selection to a chunk of events. The steps are in `pairings`, the rules in `rules`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from higgsnb.errors import OptionError
from higgsnb.selection import compiled, pairings
from higgsnb.selection.cuts import Selection, load, names
from higgsnb.selection.leptons import CHANNELS, Candidates, Leptons
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
    columns: dict[str, Any] = {name: offsets if name.endswith("_offsets") else empty for name in Leptons._fields}
    shipped = (load(name) for name in names())
    with _ONE_AT_A_TIME:
        select(Leptons(**columns), next(found for found in shipped if found.algorithm == algorithm))


def select(leptons: Leptons, selection: Selection, primary_dataset: str | None = None) -> Candidates:
    """Apply a selection to a chunk of events; the candidates are in the order of the events.

    ``primary_dataset`` is that of the events (``"DoubleMu"``, …; None: no such); it decides the channels in ``aod2012``
    and ``df103``.

    Raises
    ------
    UnreadableError
        If an event has more good leptons than can be paired.
    OptionError
        If compilation is switched off.
    """
    if compiled.is_disabled():
        message = "NUMBA_DISABLE_JIT is set, but the selection runs as compiled code only"
        raise OptionError(message, "Remove NUMBA_DISABLE_JIT from the environment.")
    blocks = [
        block
        for first in range(0, max(leptons.n_events, 1), BLOCK)
        for block in _select(leptons, first, min(first + BLOCK, leptons.n_events), selection, primary_dataset)
    ]
    if len(blocks) == 1:
        return blocks[0]
    rows = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in Candidates._fields[:-2]}
    return Candidates(
        **rows,
        cutflow=np.sum([block.cutflow for block in blocks], axis=0),
        invalid_values=np.sum([block.invalid_values for block in blocks], axis=0),
    )


def _select(
    leptons: Leptons, first: int, last: int, selection: Selection, primary_dataset: str | None
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
        yield from _select(leptons, first, middle, selection, primary_dataset)
        yield from _select(leptons, middle, last, selection, primary_dataset)
        return
    flags = np.empty(len(found.leptons), np.uint8)
    measured = (found.leptons, found.isolation, found.dxy, found.dz, found.sip)
    pairings.flag_leptons(*measured, cuts, 0, len(flags), flags)
    one_per_event = selection.one_per_event
    paired = pairings.pair_all(found, numbers, selection.z_mass) if one_per_event else pairings.room(found)
    wanted = np.isin(np.arange(len(CHANNELS)), channels)
    candidates, passed = pairings.list_candidates(found, 0, len(which), cuts, wanted, flags, paired)
    selected, counts = np.empty((len(candidates), 2), np.int64), np.zeros((len(CHANNELS), 1), np.int64)
    n = pairings.choose(candidates, paired.rows, cuts, one_per_event, passed, counts, selected)
    event, row = selected[:n].T
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
        cutflow=pairings.cutflow(passed, events.n_events, enough_stored[int(whole_event)], channels),
        invalid_values=invalid,
    )
