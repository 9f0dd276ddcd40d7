"""Single events made by hand."""

from __future__ import annotations

import numpy as np

from higgsnb.plots import Events
from higgsnb.selection import Leptons


def made(*flavours: list[tuple[float, float, float, int]]) -> Events:
    """One event of given muons and electrons, each (pt, eta, phi, charge); all isolated and prompt."""
    columns: dict[str, object] = {"run": np.array([1]), "luminosity_block": np.array([2])}
    columns["event"] = np.array([3], np.uint64)
    for name, leptons in zip(("muon", "electron"), flavours, strict=True):
        columns[f"{name}_offsets"] = np.array([0, len(leptons)])
        table = np.array(leptons, np.float32).reshape(-1, 4)
        columns |= {f"{name}_{q}": table[:, i] for i, q in enumerate(("pt", "eta", "phi"))}
        columns[f"{name}_charge"] = table[:, 3].astype(np.int32)
        for quantity, value in {
            "mass": 0,
            "dxy": 0,
            "dxy_error": 0.01,
            "dz": 0,
            "dz_error": 0.01,
            "isolation": 0,
        }.items():
            columns[f"{name}_{quantity}"] = np.full(len(table), value, np.float32)
    return Events(Leptons(**columns), "made by hand", simulated=True)
