"""The result directory: every file of it, written so that it is there whole or not at all."""

from __future__ import annotations

import importlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from higgsnb.errors import OptionError, first_line
from higgsnb.results import histograms
from higgsnb.selection import Selection
from higgsnb.storage import atomic_write

if TYPE_CHECKING:
    import pyarrow as pa

    from higgsnb.results.result import Result

SCHEMA_VERSION = 1


def write(result: Result, folder: str | Path, *, run: dict[str, Any]) -> list[Path]:
    """Write a result, complete or not, and return the files: `plots.save` adds the figure to them.

    ``folder`` is made if it does not exist, and files of the same names in it are replaced. What is not complete says
    so in every file. ``run`` is what differs from run to run (times, machine), a block of ``result.json``.
    """
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    label = {"complete": result.complete, "coverage": coverage(result), "simulated": result.simulated}
    written = [folder / name for name in ("result.json", "histograms.json", "candidates.parquet")]
    with atomic_write(written[0]) as temporary:
        content = {**document(result), "run": run}
        text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_write(written[1]) as temporary:
        documents = {"histograms": result.histograms, "weighted_histograms": result.weighted_histograms}
        histograms.save({kind: one for kind, one in documents.items() if one or kind == "histograms"}, temporary, label)
    with atomic_write(written[2]) as temporary, temporary.open("wb") as file:  # of a path pyarrow may make an address
        pq.write_table(candidates_table(result), file, compression="gzip")
    return written


def prepare(folder: Path) -> None:
    """Make a result directory; raises `OptionError`, before the work, if a result cannot be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OptionError(
            f"cannot write to {folder}: {error.strerror}", "Name another directory with --out."
        ) from error
    try:  # fails here, and not after the work; with ValueError where MPLBACKEND is wrong
        importlib.import_module("matplotlib.font_manager")
    except (OSError, RuntimeError) as error:  # neither a home nor a folder for temporary files
        message = f"there is no folder in which matplotlib could keep files: {first_line(error)}"
        raise OptionError(message, "Set HIGGSNB_CACHE to a folder that you may write to.") from error


def document(result: Result) -> dict[str, Any]:
    """Return the content of ``result.json`` without its ``run`` block: the same for the same inputs, however it ran.

    Lumi sections are in the form of a golden JSON, ``{run: [[first, last], …]}``, by dataset.
    """
    luminosity = {"source": result.luminosity.source, "shares": result.luminosity.shares}
    if result.campaign.has_sections:
        luminosity["processed"] = {name: sections.ranges() for name, sections in result.luminosity.processed.items()}
        luminosity["lost"] = {name: sections.ranges() for name, sections in result.luminosity.lost.items()}
    without_table = {name: sections.ranges() for name, sections in result.luminosity.without_table.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": result.complete,
        "simulated": result.simulated,
        "coverage": coverage(result),
        "luminosity": luminosity,
        "failed": [failure.as_dict() for failure in result.failed],
        "yields": _plain(result.yields),
        "windows": {name: _plain(yields) for name, yields in result.windows.items()},
        "unpredicted": list(result.missing_simulation),
        "cutflow": result.cutflow,
        **({"weighted_cutflow": result.weighted_cutflow} if result.weighted_cutflow else {}),
        "notes": {
            "unusable_values": result.invalid_values,
            "cuts_not_applied": result.not_applied,
            "outside_golden_json": result.rejected_by_golden_json,
            "duplicates_removed": result.duplicates_removed,
            "empty_files": list(result.empty_files),
            "luminosity": [f"{what}. {hint}" for what, hint in result.luminosity.notes],
            "sections_without_luminosity": without_table,
            "skimmed": {name: list(pair) for name, pair in result.skimmed.items()},
        },
        "doubts": [doubt._asdict() for doubt in result.doubts],
        "provenance": result.provenance,
    }


def coverage(result: Result) -> dict[str, list[float]]:
    """Return files, events and luminosity as [done, total]."""
    return {name: list(pair) for name, pair in result.coverage._asdict().items()}


def _plain(yields: Any) -> dict[str, dict[str, dict[str, float]]]:
    return {process: {channel: one._asdict() for channel, one in per.items()} for process, per in yields.items()}


def candidates_table(result: Result) -> pa.Table:
    """Return the selected candidates as an Arrow table, one row each; of an analysis of one's own, what it keeps.

    Leptons are in the order Z1 harder, Z1 softer, Z2 harder, Z2 softer. The weight is there if any dataset has weights.
    """
    import pyarrow as pa

    campaign, binning = result.campaign, result.layout.binning
    is_selection = isinstance(result.selection, Selection)
    is_kept = is_selection or result.selection.keep
    rows = result.candidates if is_kept else result.layout.empty()
    names, processes = [d.name for d in campaign.datasets], [d.process for d in campaign.datasets]
    columns: dict[str, Any] = {
        "dataset": [names[i] for i in rows.dataset],
        "process": [processes[i] for i in rows.dataset],
        "run": rows.run,
        "luminosityBlock": rows.luminosity_block,
        "event": rows.event,
        binning.category: [binning.regions[i] for i in rows.region],
    }
    if isinstance(result.selection, Selection):
        columns |= {name: getattr(rows, name) for name in ("mass_4l", "mass_z1", "mass_z2")}
        for place in range(4):
            for name in ("pt", "eta", "phi", "mass", "charge", "pdg_id"):
                columns[f"lep{place + 1}_{name}"] = getattr(rows, name)[:, place]
        columns |= {name: one for name, one in _own_columns(rows, result.cuts).items() if name not in columns}
    else:
        columns |= {name: getattr(rows, name) for name in result.selection.keep}
    if result.sums and hasattr(rows, "weight"):  # only of kept rows
        columns["weight"] = rows.weight
    text = {name: pa.array(columns[name], pa.string()) for name in ("dataset", "process", binning.category)}
    label = {
        "simulated": str(result.simulated).lower(),
        "complete": str(result.complete).lower(),
        "coverage": json.dumps(coverage(result), sort_keys=True),
        "campaign": campaign.name,
    }
    return pa.table({**columns, **text}).replace_schema_metadata(label)


def _own_columns(rows: Any, selection: Selection) -> dict[str, Any]:
    """Return what rows have for own axes, by name; with a number where a candidate has several values."""
    found: dict[str, Any] = {}
    for name, n_values in selection.own_columns.items():
        values = getattr(rows, name)
        if n_values == 1:
            found[name] = values
        elif not name.startswith("lepton_"):  # which are there by lepton
            found |= {f"{name}_{i + 1}": values[:, i] for i in range(n_values)}
    return found
