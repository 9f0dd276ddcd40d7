"""`select`: apply a selection to a chunk of events. The steps are in `pairings`, the rules in `rules`."""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np

from higgsnb.selection import compiled, pairings
from higgsnb.selection.cuts import Selection, load, names
from higgsnb.selection.leptons import CHANNELS, Candidates, Leptons
from higgsnb.selection.rules import cuts_of

BLOCK = 65_536
"""Events that are selected at a time: what is kept of them needs little memory, however many survive."""

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
    """
    blocks = [
        _select(leptons, slice(first, first + BLOCK), selection, primary_dataset)
        for first in range(0, max(leptons.n_events, 1), BLOCK)
    ]
    if len(blocks) == 1:
        return blocks[0]
    rows = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in Candidates._fields[:-2]}
    return Candidates(
        **rows,
        cutflow=np.sum([block.cutflow for block in blocks], axis=0),
        invalid_values=np.sum([block.invalid_values for block in blocks], axis=0),
    )


def _select(leptons: Leptons, block: slice, selection: Selection, primary_dataset: str | None) -> Candidates:
    """Apply a selection to a block of events; ``event_index`` counts from the start of the chunk."""
    cuts, channels = cuts_of(selection), selection.channels(primary_dataset)
    whole_event = selection.algorithm == "df103"
    # Offsets stay those of the chunk, so the columns of leptons need no cutting.
    events = leptons._replace(
        run=leptons.run[block],
        muon_offsets=leptons.muon_offsets[block.start : block.stop + 1],
        electron_offsets=leptons.electron_offsets[block.start : block.stop + 1],
    )
    found, which, enough_stored, invalid = pairings.preselect(events, cuts, any_pt=whole_event)
    flags = np.empty(len(found.leptons), np.uint8)
    measured = (found.leptons, found.isolation, found.dxy, found.dz, found.sip)
    pairings.flag_leptons(*measured, cuts, 0, len(flags), flags)
    paired = pairings.pair_all(found, selection.z_mass) if selection.one_per_event else pairings.room(found)
    wanted = np.isin(np.arange(len(CHANNELS)), channels)
    candidates, passed = pairings.list_candidates(found, 0, len(which), cuts, wanted, flags, paired)
    selected, counts = np.empty((len(candidates), 2), np.int64), np.zeros((len(CHANNELS), 1), np.int64)
    n = pairings.choose(candidates, paired.rows, cuts, selection.one_per_event, passed, counts, selected)
    event, row = selected[:n].T
    chosen = {name: paired.rows[name][row] for name in ("a", "b", "c", "d", "channel", "mass_4l", "mass_z1", "mass_z2")}
    index = found.offsets[event, None] + np.stack([chosen[name] for name in "abcd"], axis=1)
    return Candidates(
        event_index=which[event] + block.start,
        channel=chosen["channel"].astype(np.int8),
        lepton=found.leptons["place"][index],
        flavour=found.leptons["flavour"][index].astype(np.int8),
        mass_4l=chosen["mass_4l"],
        mass_z1=chosen["mass_z1"],
        mass_z2=chosen["mass_z2"],
        cutflow=pairings.cutflow(passed, events.n_events, enough_stored[int(whole_event)], channels),
        invalid_values=invalid,
    )
