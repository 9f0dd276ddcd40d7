"""Small files in the outreach schema for the tests, made from columns, and campaigns around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from higgsnb.datasets import Campaign, Dataset, File
from higgsnb.events.schema import BRANCHES
from higgsnb.selection import Leptons

COUNTERS = {"muon_offsets": "Muon", "electron_offsets": "Electron"}
SCALARS = ("run", "luminosity_block", "event")


def branches(leptons: Leptons) -> dict[str, Any]:
    """The branches of the outreach schema that hold these leptons (those that are read, not all 32)."""
    muons, electrons = np.diff(leptons.muon_offsets), np.diff(leptons.electron_offsets)
    found: dict[str, Any] = {}
    for column, branch in BRANCHES.items():
        values = getattr(leptons, column)
        if column in SCALARS:
            found[branch] = values.astype({"run": np.int32, "luminosity_block": np.uint32, "event": np.uint64}[column])
        elif column not in COUNTERS:
            found[branch] = ak.unflatten(values, muons if column.startswith("muon") else electrons)
    return found


def write(
    path: Path, leptons: Leptons, *, leave_out: tuple[str, ...] = (), basket: int | None = None,
    compression: Any = None, weights: Any = None, runs: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a file with a tree ``Events``, and maybe generator weights and a tree ``Runs``, as NanoAOD has them.

    ``basket`` is the number of events in a cluster of baskets.
    """
    columns = {name: values for name, values in branches(leptons).items() if name not in leave_out}
    if weights is not None:
        columns["genWeight"] = ak.Array(np.asarray(weights, np.float32))
    zipped: dict[str, Any] = {name: values for name, values in columns.items() if "_" not in name}
    for flavour in ("Muon", "Electron"):
        fields = {name.removeprefix(f"{flavour}_"): v for name, v in columns.items() if name.startswith(f"{flavour}_")}
        if fields:
            zipped[flavour] = ak.zip(fields)
    with uproot.recreate(path, compression=compression or uproot.ZLIB(1)) as file:
        step = basket or max(1, leptons.n_events)
        tree = file.mktree("Events", {name: ak.type(values).content for name, values in zipped.items()})
        for start in range(0, leptons.n_events, step):
            tree.extend({name: values[start : start + step] for name, values in zipped.items()})
        if runs is not None:
            file["Runs"] = {name: np.asarray(values) for name, values in runs.items()}
    return path


def with_other_runs(path: Path, add: int) -> bytes:
    """Return the bytes of such an uncompressed file with ``add`` added to all run numbers: same size, same UUID."""
    content = bytearray(path.read_bytes())
    with uproot.open(path) as file:
        branch = file["Events"]["run"]
        seeks, sizes = branch.member("fBasketSeek"), branch.member("fBasketBytes")
        for seek, size in zip(seeks[: branch.num_baskets], sizes, strict=False):
            start = int(seek) + int.from_bytes(content[seek + 14 : seek + 16])  # the length of the key, see TKey
            runs = np.frombuffer(content[start : seek + size], ">i4") + np.int32(add)
            content[start : seek + size] = runs.astype(">i4").tobytes()
    return bytes(content)


def events_of(leptons: Leptons, start: int, stop: int) -> Leptons:
    """Some events of a chunk."""
    columns: dict[str, Any] = {name: getattr(leptons, name)[start:stop] for name in SCALARS}
    for flavour in ("muon", "electron"):
        offsets = getattr(leptons, f"{flavour}_offsets")[start : stop + 1]
        columns[f"{flavour}_offsets"] = offsets - offsets[0]
        for name in Leptons._fields:
            stored = getattr(leptons, name)
            if name.startswith(flavour) and not name.endswith("offsets") and stored is not None:
                columns[name] = stored[offsets[0] : offsets[-1]]
    return Leptons(**columns)


def campaign(*datasets: Dataset, **options: Any) -> Campaign:
    """A campaign of these datasets at 10 /fb."""
    defaults: dict[str, Any] = {
        "name": "test", "title": "test", "schema": "outreach", "luminosity_fb": 10.0, "luminosity_uncertainty": 0.02,
        "energy_tev": 8.0, "selection": "open2012", "primary_dataset_precedence": ("DoubleMu", "DoubleElectron"),
    }  # fmt: skip
    return Campaign(datasets=datasets, **{**defaults, **options})


def dataset(name: str, process: str, *paths: Path, **options: Any) -> Dataset:
    """A dataset of these files."""
    return Dataset(name=name, process=process, files=tuple(File(url=str(path)) for path in paths), **options)


HEAD = """
[campaign]
name = "test"
schema = "outreach"
luminosity_fb = 10.0
luminosity_uncertainty = 0.02
energy_tev = 8
"""


def to_toml(one: Campaign, path: Path) -> Path:
    """Write such a campaign as a TOML file."""
    text = HEAD
    for d in one.datasets:
        text += f'[[dataset]]\nname = "{d.name}"\nprocess = "{d.process}"\n'
        text += f'primary_dataset = "{d.primary_dataset}"\n' if d.primary_dataset else "cross_section_pb = 1.0\n"
        text += "".join(f'[[dataset.file]]\nurl = "{file.url}"\n' for file in d.files)
    path.write_text(text, encoding="utf-8")
    return path
