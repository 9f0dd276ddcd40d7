"""A processor of coffea: the NanoEvents that it is given, and its output as bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from higgsnb.errors import AnalysisError
from higgsnb.text import shown


def process(processor: Any, columns: Any, metadata: Mapping[str, Any]) -> bytes:
    """Return the output of a processor for some events, which are flat columns, as bytes."""
    return zlib.compress(_to_json("output", processor.process(_nano_events(columns, metadata))).encode(), 1)


def total(processor: Any, outputs: Iterable[bytes]) -> Any:
    """Return the sum of some outputs, added in their order, after ``postprocess``; None of none."""
    from coffea.processor import accumulate

    found = accumulate(_from_json(json.loads(zlib.decompress(output))) for output in outputs)
    after = None if found is None else processor.postprocess(found)
    return found if after is None else after


def _nano_events(columns: Any, metadata: Mapping[str, Any]) -> Any:
    """Return columns as NanoEvents."""
    import awkward as ak
    from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
    from coffea.nanoevents.mapping import SimplePreloadedColumnSource

    found = {f"n{name}": ak.Array(np.diff(offsets)) for name, offsets in columns.offsets.items()}
    for name, column in columns.items():
        content = ak.contents.NumpyArray(column)
        if collection := columns.collection(name):
            content = ak.contents.ListOffsetArray(ak.index.Index64(columns.offsets[collection]), content)
        found[name] = ak.Array(content)
    documented = {name: ak.with_parameter(column, "__doc__", name) for name, column in found.items()}  # as in a file
    source = SimplePreloadedColumnSource(documented, "", len(columns.entry), "/Events")
    schema = type("Schema", (NanoAODSchema,), {"warn_missing_crossrefs": False})  # of columns that are not asked for
    return NanoEventsFactory.from_preloaded(source, schemaclass=schema, metadata=dict(metadata)).events()


def _to_json(where: str, value: Any) -> str:
    """Return an output as JSON: pairs of a kind and a value; raise `AnalysisError` for what cannot be kept."""
    from boost_histogram import Histogram
    from uhi.io.json import default

    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        inside = (f"{json.dumps(key)}: {_to_json(f'{where}[{key!r}]', one)}" for key, one in value.items())
        return f'["dict", {{{", ".join(inside)}}}]'
    if isinstance(value, Histogram):
        content = json.dumps(value._to_uhi_(), default=default)
        if _histogram(content) == value:  # not if it holds means; nor, with boost-histogram 1.6, if an axis can grow
            return json.dumps(["histogram", content])
    elif isinstance(value, Real | np.bool_):
        return json.dumps(["number", int(value) if isinstance(value, Integral | np.bool_) else float(value)])
    hint = "Return dictionaries of strings, with histograms of counts or of sums of weights, and numbers."
    raise AnalysisError(f"{where} is {shown(value, 60)}, which cannot be kept", hint)


def _from_json(pair: list[Any]) -> Any:
    """Return what `_to_json` has written."""
    kind, value = pair
    if kind == "dict":
        return {key: _from_json(one) for key, one in value.items()}
    return _histogram(value) if kind == "histogram" else value


def _histogram(content: str) -> Any:
    import hist
    from boost_histogram.serialization import from_uhi
    from uhi.io.json import object_hook

    return hist.Hist(from_uhi(json.loads(content, object_hook=object_hook)))
