"""Which collisions are kept: named selections as data.

A `Selection` is a frozen table of numbers; `kernel.select` applies it to the leptons of a chunk of events. Three
algorithms choose the four leptons, after which the same cuts follow in the same order (`Cut`):

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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from higgsnb.errors import SelectionError, did_you_mean

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

CHANNELS = ("4mu", "4e", "2e2mu")
FOUR_MUONS, FOUR_ELECTRONS, TWO_EACH = 0, 1, 2
MUON, ELECTRON = 13, 11
ALGORITHMS = ("open2012", "aod2012", "df103")
OPEN2012, DF103 = 0, 2
LARGEST = 1e12
"""Largest value of a cut: larger than any momentum, mass or ratio, and still a plain number in every file."""
SENTINEL = -999.0
"""What the outreach files hold where a quantity does not exist."""

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


CUT_NAMES = (
    "all",
    "leptons",
    "good leptons",
    "charge",
    "z1 mass",
    "z2 mass",
    "lepton pt",
    "delta r",
    "dilepton mass",
    "mass 4l",
    "best candidate",
    "unique",
)
"""Names of `Cut`, as they stand in every cutflow. ``unique`` is counted once all primary datasets are known."""

QUANTITIES = ("pt", "eta", "phi", "mass", "charge", "dxy", "dxy_error", "dz", "dz_error", "isolation")
"""Quantities of a lepton that cuts use, in the order of `Flavour` and of `Candidates.invalid_values`."""


class Flavour(NamedTuple):
    """The columns of one flavour, each (n_leptons,), as the kernel takes them."""

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
    1,) int64 and say where each event's leptons start; every other column is (n_leptons,). Momenta and masses in GeV,
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
    """What `kernel.select` found: one row per selected event and channel.

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
        """Check the numbers once, here, so that the kernel can trust them."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(self.name, field, getattr(self, field.name)))
        if self.algorithm not in ALGORITHMS:
            raise SelectionError(
                f"selection {self.name!r}: algorithm {self.algorithm!r} is not one of {', '.join(ALGORITHMS)}"
            )
        if self.integer_pairing and self.algorithm != "df103":
            raise SelectionError(
                f"selection {self.name!r}: integer_pairing belongs to the algorithm df103, not {self.algorithm}"
            )
        if self.lepton_pt_subleading > self.lepton_pt_leading:
            raise SelectionError(
                f"selection {self.name!r}: lepton_pt_subleading = {self.lepton_pt_subleading} is above "
                f"lepton_pt_leading = {self.lepton_pt_leading}"
            )
        for low, high in (("z1_mass_min", "z1_mass_max"), ("z2_mass_min", "z2_mass_max")):
            if getattr(self, low) >= getattr(self, high):
                raise SelectionError(
                    f"selection {self.name!r}: {low} = {getattr(self, low)} is not below {high} = {getattr(self, high)}"
                )

    def replace(self, **changes: float | str | bool) -> Selection:
        """Return a copy with some cuts changed; an unknown cut is an error that names the nearest one.

        Raises
        ------
        SelectionError
            If a name is not a cut of a selection or a value makes no sense.
        """
        _check_names(self.name, changes)
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """Return every cut by its name, as it stands in the provenance of a result."""
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
        cuts = {
            name: value for name, value in self.as_dict().items() if name not in ("name", "version", "title", "source")
        }
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
    """Return a cut as the type it should have, a whole number as float; raise SelectionError for anything else."""
    good, expected = {
        "bool": (isinstance(value, bool), "true or false"),
        "int": (isinstance(value, int) and not isinstance(value, bool), "a whole number"),
        "str": (isinstance(value, str) and bool(value), "a text"),
        "float": (_is_limit(value), f"a number from 0 to {LARGEST:g} (a limit that large is no limit)"),
    }[str(field.type)]
    if not good:
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:40]}…"
        raise SelectionError(f"selection {selection!r}: {field.name} = {shown}; expected {expected}")
    return float(value) if field.type == "float" else value


def _is_limit(value: Any) -> bool:
    """Whether a value is a number that a cut can have; of numpy, too."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(0 <= value <= LARGEST)


def _check_names(selection: str, given: dict[str, Any]) -> None:
    """Raise SelectionError if a name is not a field of a selection."""
    known = [field.name for field in dataclasses.fields(Selection)]
    for name in given:
        if name not in known:
            raise SelectionError(f"selection {selection!r} has no cut {name!r}", did_you_mean(name, known))


def names() -> tuple[str, ...]:
    """Return the names of the shipped selections."""
    return tuple(_shipped())


def _shipped() -> dict[str, dict[str, Any]]:
    """Read the shipped selections."""
    return tomllib.loads(resources.files("higgsnb.selection").joinpath("selections.toml").read_text(encoding="utf-8"))


def load(name: str | Path) -> Selection:
    """Return a selection by its name, or from a TOML file.

    The file holds the cuts of one selection at top level; ``base = "open2012"`` takes all that it does not name from
    there.

    Raises
    ------
    SelectionError
        If there is no such selection, or the file has unknown cuts or wrong values.
    FileNotFoundError
        If a file is named and does not exist.
    """
    shipped = _shipped()
    if str(name) in shipped:
        return Selection(name=str(name), **shipped[str(name)])
    if str(name).endswith(".toml"):
        return _load_file(Path(name), shipped)
    raise SelectionError(
        f"no selection {str(name)!r}",
        f"{did_you_mean(str(name), shipped)} A selection of your own is given by the path of its .toml file.",
    )


def _load_file(path: Path, shipped: dict[str, dict[str, Any]]) -> Selection:
    """Read a selection of the user's own."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no selection file at {path}; known by name: {', '.join(shipped)}") from None
    except OSError as error:
        raise SelectionError(f"{path}: cannot be read: {error.strerror}; give the path of a TOML file") from error
    except ValueError as error:  # not TOML, not UTF-8, a number of a thousand digits
        raise SelectionError(f"{path}: not valid TOML: {str(error)[:120]}") from error
    base = table.pop("base", "open2012")
    if not isinstance(base, str) or base not in shipped:
        raise SelectionError(f"{path}: base = {base!r} is not one of {', '.join(shipped)}")
    _check_names(str(path), table)
    merged = {"name": path.stem, **shipped[base], "title": f"{path.stem} (from {base})", "source": path.name, **table}
    return Selection(**merged)


def missing_quantities(leptons: Leptons) -> tuple[str, ...]:
    """Return the quantities that the schema of these leptons does not have, whose cuts are therefore not applied."""
    return tuple(name for name in Leptons._fields if getattr(leptons, name) is None)
