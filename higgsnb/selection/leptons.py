"""Leptons as a selection takes them, and the candidates that it returns: columns, channels, flavours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

CHANNELS = ("4mu", "4e", "2e2mu")
FOUR_MUONS, FOUR_ELECTRONS, TWO_EACH = 0, 1, 2
MUON, ELECTRON = 13, 11
SENTINEL = -999.0
"""The value in the outreach files of a quantity that does not exist."""

QUANTITIES = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxy_error", "dz", "dz_error", "isolation")
"""Quantities of a lepton that cuts use, in the order of `Flavour` and of `Candidates.invalid_values`."""


class Flavour(NamedTuple):
    """The columns of one flavour, each (n_leptons,), as the rules take them."""

    pt: Floats
    eta: Floats
    phi: Floats
    mass: Floats
    charge: npt.NDArray[np.int32]
    dxy: Floats
    dxy_error: Floats
    dz: Floats
    dz_error: Floats
    isolation: Floats


class Leptons(NamedTuple):
    """The leptons of a chunk of events, as flat columns.

    ``run``, ``luminosity_block``, ``event`` are (n_events,); ``muon_offsets`` and ``electron_offsets`` are (n_events +
    1,) int64 and give where each event's leptons start; every other column is (n_leptons,). Momenta and masses in GeV,
    angles in radians, impact parameters in cm. A quantity that a schema does not have is None, and the cuts on it are
    not applied.
    """

    run: Integers
    luminosity_block: Integers
    event: npt.NDArray[np.uint64]
    muon_offsets: Integers
    muon_pt: Floats
    muon_eta: Floats
    muon_phi: Floats
    muon_mass: Floats
    muon_charge: npt.NDArray[np.int32]
    muon_dxy: Floats | None
    muon_dxy_error: Floats | None
    muon_dz: Floats | None
    muon_dz_error: Floats | None
    muon_isolation: Floats | None
    electron_offsets: Integers
    electron_pt: Floats
    electron_eta: Floats
    electron_phi: Floats
    electron_mass: Floats
    electron_charge: npt.NDArray[np.int32]
    electron_dxy: Floats | None
    electron_dxy_error: Floats | None
    electron_dz: Floats | None
    electron_dz_error: Floats | None
    electron_isolation: Floats | None

    @property
    def n_events(self) -> int:
        """Number of events in the chunk."""
        return len(self.run)


class Candidates(NamedTuple):
    """What `select` returns: one row per selected event and channel.

    ``event_index`` (n,) int64 index into the chunk's events; ``channel`` (n,) int8 index into `CHANNELS`; ``lepton``
    (n, 4) int64 index into the muon or electron columns and ``flavour`` (n, 4) int8 13 or 11, both in the order Z1
    harder, Z1 softer, Z2 harder, Z2 softer; ``mass_4l``, ``mass_z1``, ``mass_z2`` (n,) float64 in GeV. ``cutflow`` (3,
    len(Cut)) int64 counts events per channel (its last column, ``unique``, equals the one before until primary
    datasets are compared). ``invalid_values`` (2, len(QUANTITIES)) int64 counts muons and electrons with a sentinel or
    non-finite value, in events with enough leptons for a channel.
    """

    event_index: Integers
    channel: npt.NDArray[np.int8]
    lepton: Integers
    flavour: npt.NDArray[np.int8]
    mass_4l: npt.NDArray[np.float64]
    mass_z1: npt.NDArray[np.float64]
    mass_z2: npt.NDArray[np.float64]
    cutflow: Integers
    invalid_values: Integers


def missing_quantities(leptons: Leptons) -> tuple[str, ...]:
    """Return the quantities that the schema of these leptons does not have, whose cuts are therefore not applied."""
    return tuple(name for name in Leptons._fields if getattr(leptons, name) is None)
