"""Files in the form of ATLAS Open Data from known events: 2020 (tree ``mini``, MeV) and 2025 (``analysis``, GeV)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
import uproot
from known_events import MASS, KnownEvent, KnownLepton

Release = Literal["2020", "2025"]
TREES: dict[Release, str] = {"2020": "mini", "2025": "analysis"}
FLAGS: dict[Release, type] = {"2020": np.bool_, "2025": np.int32}
"""The type of a lepton's flags; analyses of 2025 take them as either."""
SCALE_FACTORS = ("PILEUP", "ELE", "MUON", "LepTRIGGER")


def scale_factors(event: KnownEvent) -> dict[str, float]:
    """Scale factors of a simulated event, all of them near 1 and exact in single precision."""
    return {name: 1 + ((event.number >> shift) % 8 - 4) / 64 for shift, name in enumerate(SCALE_FACTORS)}


def weight(event: KnownEvent) -> float:
    """The generator weight of a simulated event times its scale factors."""
    product = event.weight
    for factor in scale_factors(event).values():
        product *= factor
    return product


def write(
    path: Path, events: Sequence[KnownEvent], release: Release, *, simulated: bool = False, sum_of_weights: float = 1.0,
    cross_section_pb: float = 1.0, k_factor: float = 1.0, filter_efficiency: float = 1.0, vectors: bool = False,
) -> Path:  # fmt: skip
    """Write a file with the tree of a release; the constants of the sample stand beside each simulated event.

    Leptons are in branches counted by ``lep_n``; or, with ``vectors``, in ``std::vector``, as ATLAS writes them.
    """
    columns = _of_events(events)
    if simulated:
        constants = {"2020": {"XSection": cross_section_pb, "SumWeights": sum_of_weights}, "2025": {
            "xsec": cross_section_pb, "kfac": k_factor, "filteff": filter_efficiency, "sum_of_weights": sum_of_weights,
        }}[release]  # fmt: skip
        prefix = {"2020": "scaleFactor", "2025": "ScaleFactor"}[release]
        columns["mcWeight"] = np.array([event.weight for event in events], np.float32)
        for name in SCALE_FACTORS:
            columns[f"{prefix}_{name}"] = np.array([scale_factors(event)[name] for event in events], np.float32)
        columns |= {name: np.full(len(events), value, np.float64) for name, value in constants.items()}
    leptons = _of_leptons(events, release)
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        if vectors:
            from vector_branches import write_tree

            write_tree(file, TREES[release], columns | {"lep_n": _counts(events).astype(np.uint32)}, leptons)
            return path
        columns["lep"] = ak.zip({name.removeprefix("lep_"): values for name, values in leptons.items()})
        types = {
            name: ak.type(one).content if isinstance(one, ak.Array) else one.dtype for name, one in columns.items()
        }
        file.mktree(TREES[release], types, counter_name=lambda _: "lep_n").extend(columns)
    return path


def _counts(events: Sequence[KnownEvent]) -> Any:
    return np.array([len(event.leptons) for event in events], np.int64)


def _of_events(events: Sequence[KnownEvent]) -> dict[str, Any]:
    return {
        "runNumber": np.array([event.run for event in events], np.int32),
        "eventNumber": np.array([event.number for event in events], np.int32),
        "channelNumber": np.zeros(len(events), np.int32),
        "trigE": np.array(["trigE" in event.fired for event in events], np.bool_),
        "trigM": np.array(["trigM" in event.fired for event in events], np.bool_),
    }


def _of_leptons(events: Sequence[KnownEvent], release: Release) -> dict[str, ak.Array]:
    """The branches of leptons, hardest first; momenta in MeV in 2020, in GeV in 2025."""
    ordered = [sorted(event.leptons, key=lambda lepton: -lepton.pt) for event in events]
    flat = [lepton for leptons in ordered for lepton in leptons]
    unit = {"2020": 1000.0, "2025": 1.0}[release]

    def energy(lepton: KnownLepton) -> float:
        return float(np.hypot(lepton.pt * np.cosh(lepton.eta), MASS[lepton.flavour]))

    found: dict[str, tuple[Any, list[Any]]] = {
        "pt": (np.float32, [unit * one.pt for one in flat]),
        "eta": (np.float32, [one.eta for one in flat]),
        "phi": (np.float32, [one.phi for one in flat]),
        {"2020": "E", "2025": "e"}[release]: (np.float32, [unit * energy(one) for one in flat]),
        "charge": (np.int32, [one.charge for one in flat]),
        "type": ({"2020": np.uint32, "2025": np.int32}[release], [one.flavour for one in flat]),
        "z0": (np.float32, [0.1] * len(flat)),
    }
    flags = ["isTightID"] if release == "2020" else ["isLooseID", "isMediumID", "isTightID", "isLooseIso", "isTightIso"]
    for name in flags:
        of_all = "isLooseIso" if name == "isTightIso" else name
        found[name] = (FLAGS[release], [one.quality.get(of_all, True) for one in flat])
    matched = {"2020": "trigMatched", "2025": "isTrigMatched"}[release]
    found[matched] = (FLAGS[release], [one.quality.get("isTrigMatched", True) for one in flat])
    if release == "2020":  # cones in MeV; impact parameter in mm, and over its error
        for name in ("ptcone30", "etcone20"):
            found[name] = (np.float32, [unit * one.pt * one.quality.get(name, 0.02) for one in flat])
        found["trackd0pvunbiased"] = (np.float32, [0.01] * len(flat))
        found["tracksigd0pvunbiased"] = (np.float32, [0.7] * len(flat))
    else:
        found["d0"], found["d0sig"] = (np.float32, [0.01] * len(flat)), (np.float32, [0.7] * len(flat))
    counts = _counts(events)
    return {
        f"lep_{name}": ak.unflatten(ak.Array(np.array(values).astype(kind)), counts)
        for name, (kind, values) in found.items()
    }
