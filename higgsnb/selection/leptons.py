"""Leptons as a selection takes them, and the candidates that it returns: columns, channels, flavours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from higgsnb.selection.cuts import Selection

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

    The last columns are for selections that ask for them, see `branches.to_leptons`, and None otherwise. ``…_sip3d``:
    significance of the impact parameter in three dimensions. ``…_id``: 1 if a lepton passes identification and further
    cuts, 0 if not, -1 if a value that these need does not exist. ``muon_photon_…``: the photon that a muon has
    radiated, pt 0 if none; ``muon_isolation`` is then without such photons. ``passes``, (n_events,): whether an event
    passes triggers and event cuts.
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
    muon_sip3d: Floats | None = None
    muon_id: npt.NDArray[np.int8] | None = None
    muon_photon_pt: Floats | None = None
    muon_photon_eta: Floats | None = None
    muon_photon_phi: Floats | None = None
    electron_sip3d: Floats | None = None
    electron_id: npt.NDArray[np.int8] | None = None
    passes: npt.NDArray[np.bool_] | None = None

    @property
    def n_events(self) -> int:
        """Number of events in the chunk."""
        return len(self.run)


class Candidates(NamedTuple):
    """What `select` returns: one row per selected event and channel.

    ``event_index`` (n,) int64 index into the chunk's events; ``channel`` (n,) int8 index into `CHANNELS`; ``lepton``
    (n, 4) int64 index into the muon or electron columns and ``flavour`` (n, 4) int8 13 or 11, both in the order Z1
    harder, Z1 softer, Z2 harder, Z2 softer; ``mass_4l``, ``mass_z1``, ``mass_z2`` (n,) float64 in GeV. ``cutflow``
    int64 counts events per channel, (3, len(`Selection.cut_names`)); its last column, ``unique``, equals the one before
    until primary datasets are compared. ``invalid_values`` (2, len(`Selection.quantities`)) int64 counts muons and
    electrons with a sentinel or non-finite value, in events with enough leptons for a channel. ``reached``
    (3, n_events) int8, (3, 0) if it is not asked for, is the last row of the cutflow that each event passes in each
    channel.
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
    reached: npt.NDArray[np.int8] = np.empty((3, 0), np.int8)


def exists(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which values of a quantity exist: those that are finite and not the sentinel; as `rules.usable`."""
    return np.asarray(np.isfinite(values) & (values != SENTINEL))


def missing_quantities(leptons: Leptons, selection: Selection | None = None) -> tuple[str, ...]:
    """Return the quantities that the schema of these leptons does not have, whose cuts are therefore not applied.

    With a selection they are those that it uses.
    """
    used = Leptons._fields[: -len(Leptons._field_defaults)] if selection is None else selection.lepton_columns
    return tuple(name for name in used if getattr(leptons, name) is None)


def keep_events(leptons: Leptons, which: Integers) -> Leptons:
    """Return the leptons of some events only, given by their indices in ascending order, (n,) int64."""
    columns: dict[str, Any] = {}
    index = {}
    for flavour in ("muon", "electron"):
        offsets = getattr(leptons, f"{flavour}_offsets")
        counts = np.diff(offsets)[which]
        columns[f"{flavour}_offsets"] = np.concatenate(([0], np.cumsum(counts)))
        index[flavour] = np.repeat(offsets[which] - columns[f"{flavour}_offsets"][:-1], counts)
        index[flavour] += np.arange(counts.sum())
    for name in Leptons._fields:
        column = getattr(leptons, name)
        if name not in columns:
            columns[name] = None if column is None else column[index.get(name.partition("_")[0], which)]
    return Leptons(**columns)


def four_momenta(leptons: Leptons, candidates: Candidates) -> npt.NDArray[np.float64]:
    """Return energy, px, py, pz in GeV of the leptons of each candidate, (n, 4, 4) in the order of ``lepton``.

    A photon that a muon has radiated is part of it, as in the masses.
    """
    found = np.zeros((*candidates.lepton.shape, 4))
    for flavour, number in (("muon", MUON), ("electron", ELECTRON)):
        mine = candidates.flavour == number
        index = candidates.lepton[mine]
        pt, eta, phi, mass = (getattr(leptons, f"{flavour}_{name}")[index] for name in ("pt", "eta", "phi", "mass"))
        found[mine] = momentum(pt, eta, phi, mass)
        if flavour == "muon" and leptons.muon_photon_pt is not None:
            pt, eta, phi = (getattr(leptons, f"muon_photon_{name}")[index] for name in ("pt", "eta", "phi"))
            found[mine] += momentum(pt, eta, phi, 0.0)
    return found


def momentum(pt: npt.ArrayLike, eta: npt.ArrayLike, phi: npt.ArrayLike, mass: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return energy, px, py, pz, (n, 4) float64."""
    pt, eta, phi, mass = (np.asarray(values, np.float64) for values in (pt, eta, phi, mass))
    pz = pt * np.sinh(eta)
    return np.stack([np.sqrt(pt**2 + pz**2 + mass**2), pt * np.cos(phi), pt * np.sin(phi), pz], axis=-1)
