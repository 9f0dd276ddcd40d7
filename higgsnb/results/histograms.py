"""Counts as `hist` objects, and saving them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import hist

    from higgsnb.selection import Axis, Binning

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def to_hist(counts: Mapping[str, Integers], binning: Binning) -> dict[str, hist.Hist[Any]]:
    """Return `hist.Hist` objects with the axes dataset, channel or region, and variable.

    ``counts`` (n_regions, size) int64 are those of each dataset, by name.
    """
    import hist

    found = {}
    for axis in binning.axes:
        found[axis.name] = hist.Hist(
            hist.axis.StrCategory(list(counts), name="dataset", label="dataset", growth=not counts),
            hist.axis.StrCategory(binning.regions, name=binning.category, label=binning.category),
            _axis(axis),
            storage=hist.storage.Int64(),
            name=axis.name,
            label=axis.title,
        )
        for index, array in enumerate(counts.values()):
            found[axis.name].view(flow=True)[index, : len(binning.regions), :] = binning.counts_of(array, axis.name)
    return found


def to_weighted_hist(
    sums: Mapping[str, tuple[Floats, Floats]], binning: Binning, copies: tuple[str, ...]
) -> dict[str, hist.Hist[Any]]:
    """Return `hist.Hist` objects of sums of weights with the axes dataset, variation, channel or region, and variable.

    ``sums`` are Σw and Σw², (n_copies, n_regions, size) each, of each weighted dataset, by name.
    """
    import hist

    found = {}
    for axis in binning.axes:
        found[axis.name] = hist.Hist(
            hist.axis.StrCategory(list(sums), name="dataset", label="dataset"),
            hist.axis.StrCategory(copies, name="variation", label="variation"),
            hist.axis.StrCategory(binning.regions, name=binning.category, label=binning.category),
            _axis(axis),
            storage=hist.storage.Weight(),
            name=axis.name,
            label=axis.title,
        )
        view: Any = found[axis.name].view(flow=True)
        for index, (values, variances) in enumerate(sums.values()):
            inside = (index, slice(len(copies)), slice(len(binning.regions)))
            view.value[inside] = binning.counts_of(values, axis.name)
            view.variance[inside] = binning.counts_of(variances, axis.name)
    return found


def _axis(axis: Axis) -> Any:
    import hist

    if axis.boundaries:
        return hist.axis.Variable(axis.boundaries, name=axis.variable, label=axis.title)
    return hist.axis.Regular(axis.bins, axis.start, axis.stop, name=axis.variable, label=axis.title)


def save(documents: Mapping[str, Mapping[str, hist.Hist[Any]]], path: Path, metadata: Mapping[str, Any]) -> None:
    """Write histograms as UHI JSON, ``{kind: {name: …}, **metadata}``: the same bytes for the same counts."""
    from uhi.io.json import default

    kinds = {kind: {name: one._to_uhi_() for name, one in histograms.items()} for kind, histograms in documents.items()}
    document = {**kinds, **metadata}
    path.write_text(json.dumps(document, default=default, sort_keys=True, indent=None) + "\n", encoding="utf-8")
