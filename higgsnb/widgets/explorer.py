"""Two views for notebooks and dashboards: `CutExplorer` moves cuts, `EventDisplay` shows one event.

The numbers come from `explorer_data`; the drawing is in ``static/explorer.js``, which fetches nothing from the network.
Both views work in JupyterLab and in Voilà.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from higgsnb import datasets, engine, plots, storage
from higgsnb import selection as selections
from higgsnb.errors import OptionError, SelectionError
from higgsnb.plots import COLOURS, DETECTOR, LABELS, colour, coverage_text
from higgsnb.results import AXES, PreselectedEvents, Reselection, Result, check_options, stack_order
from higgsnb.selection import CHANNELS, Analysis, Selection
from higgsnb.widgets import explorer_data
from higgsnb.widgets.sliders import CONTROLS, loosest, range_of, without
from higgsnb.widgets.view import Pictured, static

if TYPE_CHECKING:
    from higgsnb.datasets import Campaign

SECONDS_AT_A_TIME = 0.05
"""Time slice for work done while the view is idle."""
_NEEDS = {
    "muon_isolation_max": ("muon_isolation",),
    "electron_isolation_max": ("electron_isolation",),
    "dxy_max": ("muon_dxy", "electron_dxy"),
    "dz_max": ("muon_dz", "electron_dz"),
    "sip_max": ("muon_dxy_error", "electron_dxy_error"),
}
"""Columns that a cut needs."""
_DETECTOR = [{"name": layer.name, "radius": layer.radius, "half": layer.half_length} for layer in DETECTOR]
"""The sketch of the detector, for the browser; the style sheet has its colours, in light and dark."""


class CutExplorer(Pictured):
    """A slider for every cut of a selection; spectrum, yields, cutflow and single events follow at once.

    ``selection`` is the current selection, ``select`` sets it, ``outcome`` holds its numbers, ``result()`` runs the
    full analysis with it, ``snippet`` is the code that repeats it.
    """

    _esm = static("explorer.js")
    _css = static("explorer.css")

    setup = traitlets.Dict(help="Constant: controls, selections, processes").tag(sync=True)
    base = traitlets.Unicode(help="Selection from which the cuts started").tag(sync=True)
    cuts = traitlets.Dict(help="Value of every control").tag(sync=True)
    kept = traitlets.Dict(help="Base and cuts of the selection to compare with; empty for none").tag(sync=True)
    variable = traitlets.Enum([axis.name for axis in AXES], "mass_4l", help="Name of the spectrum").tag(sync=True)
    focus = traitlets.Unicode("muon_pt_min", help="The cut that is being moved").tag(sync=True)
    bin = traitlets.Int(-1, help="Chosen bin of the spectrum; −1 for none").tag(sync=True)
    place: traitlets.List[int] = traitlets.List(
        traitlets.Int(), help="Chosen event: indices of dataset, event and channel; empty for none"
    ).tag(sync=True)
    asked = traitlets.Int(0, help="Number of the view's last request").tag(sync=True)
    rest = traitlets.Int(0, help="Number of times the view has become idle").tag(sync=True)
    view = traitlets.Dict(help="Numbers of the current selection").tag(sync=True)
    distribution = traitlets.Dict(help="Distribution of the quantity in focus after all other cuts").tag(sync=True)
    without = traitlets.Dict(help="Yields with one cut removed").tag(sync=True)
    listing = traitlets.Dict(help="Candidates in the chosen bin").tag(sync=True)
    event = traitlets.Dict(help="The chosen event").tag(sync=True)

    def __init__(
        self,
        source: Result | Campaign | str = "toy",
        selection: Selection | str | None = None,
        *,
        skims_folder: Path | None = None,
        workers: int | None = None,
    ) -> None:
        """Load the events and show them; raise ValueError or OSError as `engine.run` does.

        The source is a result of `engine.run`, whose events are read again; or a campaign or its name, which is
        analysed first. By default the first selection is that of the result or the campaign, the skims kept between
        runs are in the cache, and there is one thread per core. Own axes of a selection are left out.
        """
        self._skims = skims_folder
        if skims_folder is None:
            with suppress(OptionError):  # no folder to write to: they are not kept
                self._skims = storage.cache_folder("skims")
        self._workers = workers
        result = source if isinstance(source, Result) else self._analyse(source, selection)
        first = _selection(result.selection if selection is None else selection)
        check_options(first)
        self._bases = {name: one for name in selections.names() if not (one := selections.load(name)).options}
        base = _base_of(self._bases, first)
        if base is None:  # not a variant of a published selection
            base = f"{first.name} (yours)" if first.name in self._bases else first.name
            self._bases[base] = first
        reach = loosest(*self._bases.values(), first)
        self.sample = PreselectedEvents.load(result, loosest=reach, skims_folder=self._skims, workers=workers)
        self._result = result
        self._campaign_code = explorer_data.campaign_code(result.campaign)
        self._base, self._selected = base, first
        self._found: Reselection | None = None
        self._kept_view: tuple[Any, dict[str, Any] | None] = ((), None)
        self._distributions: dict[tuple[str, str], dict[str, Any]] = {}
        super().__init__(setup=_setup(result, self._bases, reach), base=base, cuts=_cuts(first))
        self._update()
        self._show_distribution()
        self.observe(self._update, ["cuts", "base", "asked"])
        self.observe(self._redraw, ["variable", "kept"])
        self.observe(self._show_distribution, ["focus"])
        self.observe(self._list, ["bin"])
        self.observe(self._show_event, ["place"])
        self.observe(self._update_without, ["rest"])

    def __repr__(self) -> str:
        return f"CutExplorer({self.sample.campaign.name}, {self._selected.name}: {self.view['summary']})"

    def _still(self) -> Any:
        if self._result.cuts.digest != self._selected.digest:
            self._result = self._analyse(self.sample.campaign, self._selected)
        return plots.mass_4l(self._result, histogram=self.variable)

    @property
    def selection(self) -> Selection:
        """The current selection; SelectionError if the cuts contradict each other."""
        return self._selection_of(self.base, self.cuts)

    def select(self, selection: Selection | str | None = None, **cuts: float) -> None:
        """Set a selection, or some cuts of the current one (of the last valid one if that is invalid).

        Raise SelectionError if there is no such selection or cut, or a value is invalid or looser than the events in
        memory allow.
        """
        wanted = (self._selected if selection is None else _selection(selection)).replace(**cuts)
        self.sample.check(wanted)
        base = _base_of(self._bases, wanted)
        if base is None:
            raise SelectionError(
                f"selection {wanted.name!r} differs from {', '.join(self._bases)} in more than the cuts with a slider",
                "Create a CutExplorer that starts from it.",
            )
        with self.hold_trait_notifications():
            self.base, self.cuts, self.asked = base, _cuts(wanted), self.asked + 1

    @property
    def outcome(self) -> Reselection:
        """The events kept by the selection; valid until the next access."""
        return self.sample.select(self.selection, slot="outcome")

    def result(self) -> Result:
        """Analyse the campaign with this selection; return the same numbers as a `Result`."""
        return self._analyse(self.sample.campaign, self.selection)

    @property
    def snippet(self) -> str:
        """The lines of Python that repeat this selection."""
        return explorer_data.snippet(self._campaign_code, self.selection)

    def _analyse(self, source: Campaign | str, selection: Selection | str | None) -> Result:
        campaign = datasets.load(source) if isinstance(source, str) else source
        chosen = _selection(campaign.selection if selection is None else selection)
        check_options(chosen)
        *_, result = engine.run(campaign, chosen, skims_folder=self._skims, workers=self._workers)
        return result

    def _selection_of(self, base: str, cuts: dict[str, Any]) -> Selection:
        if base not in self._bases:
            raise SelectionError(f"no selection {base!r}", f"Choose one of {', '.join(self._bases)}.")
        known = {one.cut for one in CONTROLS}
        return self._bases[base].replace(**{cut: value for cut, value in cuts.items() if cut in known})

    def _update(self, _change: Any = None) -> None:
        """Apply the selection and show its numbers; if it is invalid, show the error instead."""
        started = time.perf_counter()
        key = [self.base, str(sorted(self.cuts.items())), str(self.asked)]
        if self.view and self.view["key"] == key:
            return
        try:
            chosen = self.selection
            self.sample.check(chosen)
        except SelectionError as error:
            text = ". ".join(filter(None, (error.message, error.hint)))
            self.view = {**self.view, "error": text, "asked": self.asked, "key": key}
            return
        self._base, self._selected, self._found = self.base, chosen, None
        known = self._distributions.items()
        self._distributions = {key: one for key, one in known if key[1] == self._without_digest(chosen, key[0])}
        self.view = self._view(started) | {"key": key}
        self._show_distribution()
        self._list()
        self._show_event()

    def _view(self, started: float) -> dict[str, Any]:
        """Return the numbers of the last valid selection."""
        found = self._chosen()
        rows, lacking = explorer_data.yields(found), self.sample.basis.missing_simulation
        promise = explorer_data.expected_significance(rows, lacking=lacking)
        return {
            "error": "",
            "asked": self.asked,
            "base": self._base,
            "spectrum": explorer_data.spectrum(found, self.variable),
            "yields": rows,
            "cutflow": explorer_data.cutflow(found),
            "kept": self._kept(),
            "changes": explorer_data.changes(self._bases[self._base], self._selected),
            "snippet": explorer_data.snippet(self._campaign_code, self._selected),
            "summary": explorer_data.summary(rows, promise, lacking=lacking),
            "milliseconds": round(1000 * (time.perf_counter() - started), 2),
        }

    def _chosen(self) -> Reselection:
        """Return the events kept by the last valid selection, also after an interruption."""
        if self._found is None:
            self._found = self.sample.select(self._selected, slot="view")
        return self._found

    def _redraw(self, _change: Any = None) -> None:
        """Show another spectrum or another selection to compare with; an error stays."""
        kept = {name: self.view[name] for name in ("error", "key")}
        self.view = self._view(time.perf_counter()) | kept | {"redrawn": self.variable}
        self._list()

    def _kept(self) -> dict[str, Any] | None:
        """Return spectrum and yields of the selection to compare with."""
        if not self.kept:
            return None
        key = (self.variable, str(self.kept))
        if self._kept_view[0] != key:
            try:
                other = self._selection_of(str(self.kept.get("base")), dict(self.kept.get("cuts", {})))
                found = self.sample.select(other, slot="aside")
            except (TypeError, ValueError):  # of which SelectionError is one
                return None
            shown = {"spectrum": explorer_data.spectrum(found, self.variable), "yields": explorer_data.yields(found)}
            self._kept_view = (key, shown)
        return self._kept_view[1]

    def _without_digest(self, chosen: Selection, cut: str) -> str:
        return without(chosen, cut, self.sample.loosest).digest

    def _distribution(self, cut: str) -> dict[str, Any]:
        """Return the distribution without one cut; it does not depend on the value of this cut."""
        chosen = self._selected
        key = (cut, self._without_digest(chosen, cut))
        if key not in self._distributions:
            self._distributions[key] = explorer_data.n_minus_one(self.sample, chosen, cut)
        return self._distributions[key]

    def _show_distribution(self, _change: Any = None) -> None:
        if self.focus in {one.cut for one in CONTROLS}:
            self.distribution = self._distribution(self.focus)

    def _update_without(self, _change: Any = None) -> None:
        """Compute yields with one cut removed, for a time slice; the view repeats its request until all are done."""
        stop = time.perf_counter() + SECONDS_AT_A_TIME
        rows: dict[str, Any] = {}
        active = [one.cut for one in CONTROLS if one.cut not in self.setup["off"]]
        begun = False
        for cut in active:
            known = (cut, self._without_digest(self._selected, cut)) in self._distributions
            if known or not begun or time.perf_counter() < stop:
                rows[cut] = self._distribution(cut)["yields"]
                begun = begun or not known
        self.without = {"rows": rows, "complete": len(rows) == len(active), "rest": self.rest, "asked": self.asked}

    def _list(self, _change: Any = None) -> None:
        axis = next(axis for axis in AXES if axis.name == self.variable)
        if not 0 <= self.bin < axis.bins:
            self.listing = {}
            return
        low, high = axis.edges[self.bin : self.bin + 2]
        title = f"{axis.label[:1].upper()}{axis.label[1:]} from {low:g} to {high:g} {axis.unit}".strip()
        self.listing = explorer_data.candidates(self._chosen(), self.variable, self.bin) | {"title": title}

    def _show_event(self, _change: Any = None) -> None:
        """Show the chosen event; if the selection rejects it, keep showing the one before."""
        if len(self.place) == len(explorer_data.PLACE):
            self.event = explorer_data.event(self._chosen(), *self.place) or self.event
        elif not self.place:
            self.event = {}


class EventDisplay(Pictured):
    """One candidate of a result in the end view and the side view, with a table of its leptons."""

    _esm = static("explorer.js")
    _css = static("explorer.css")

    setup = traitlets.Dict(help="Constant").tag(sync=True)
    event = traitlets.Dict(help="The event that is shown").tag(sync=True)

    def __init__(self, result: Result, row: int = 0) -> None:
        """Show a row of ``result.candidates``.

        Raise IndexError if there is no such row, OptionError if the result is not one of a four-lepton selection.
        """
        instead = "The rows of any other analysis have no leptons: keep what you need of them, or plots.plot_event."
        selections.four_lepton_selection(result.selection, instead)
        self._result = result
        setup = {"kind": "event", "simulated": result.simulated, "note": _note(result), "detector": _DETECTOR}
        super().__init__(setup=setup)
        self.show(row)

    def __repr__(self) -> str:
        return f"EventDisplay({self.event['name']}, {self.event['channel']}: {self.event['mass_4l']:.2f} GeV)"

    def _still(self) -> Any:
        shown = self.event
        title = ": ".join(filter(None, [self.setup["note"], f"event {shown['name']}, {shown['mass_4l']:.2f} GeV"]))
        leptons = [tuple(one[name] for name in ("flavour", "pt", "eta", "phi", "charge")) for one in shown["leptons"]]
        return plots.plot_tracks(title, leptons)

    def show(self, row: int) -> None:
        """Show another row; raise IndexError if there is no such row."""
        processes = [dataset.process for dataset in self._result.campaign.datasets]
        self.event = explorer_data.event_of(self._result.candidates, row, processes)


def _selection(selection: Analysis | str) -> Selection:
    """Return a selection without its own axes; OptionError if it is another analysis."""
    found = selections.load(selection) if isinstance(selection, str) else selection
    instead = "Only those have cuts with a slider: change the function, and see it fill with LiveHistogram."
    return selections.four_lepton_selection(found, instead).replace(axes=(), observables=())


def _cuts(selection: Selection) -> dict[str, float]:
    """Return the value of every control."""
    return {one.cut: getattr(selection, one.cut) for one in CONTROLS}


def _base_of(bases: dict[str, Selection], one: Selection) -> str | None:
    """Return the name of a selection from which this one differs only in controls, preferably its own."""
    ordered = sorted(bases, key=lambda name: name != one.name)
    return next((name for name in ordered if bases[name].replace(**_cuts(one)).digest == one.digest), None)


def _note(result: Result) -> str:
    """Return the warnings: simulated data, incomplete result."""
    simulated = "Simulated collisions, no real data" if result.simulated else ""
    return " — ".join(filter(None, [simulated, coverage_text(result)]))


def _setup(result: Result, bases: dict[str, Selection], reach: Selection) -> dict[str, Any]:
    """Return what is sent to the view once."""
    campaign = result.campaign
    luminosity = f"{result.coverage.luminosity_fb[0]:.3g} fb⁻¹"
    energy = " and ".join(f"{energy:g}" for energy in campaign.energies_tev)
    lacking = [set(result.not_applied.get(dataset.name, ())) for dataset in campaign.datasets]
    off = [cut for cut, columns in _NEEDS.items() if lacking and all(set(columns) <= names for names in lacking)]
    ordered = stack_order({dataset.process for dataset in campaign.datasets if not dataset.is_data})
    others = [name for name in ordered if name not in COLOURS]
    return {
        "kind": "explorer",
        "title": campaign.title,
        "subtitle": f"{luminosity} of proton collisions at {energy} TeV. Move a cut to see its effect.",
        "simulated": result.simulated,
        "note": _note(result),
        "detector": _DETECTOR,
        "controls": [asdict(one) | range_of(one, reach) for one in CONTROLS],
        "off": dict.fromkeys(off, "not in these data"),
        "selections": [{"name": name, "title": one.title, "cuts": _cuts(one)} for name, one in bases.items()],
        "processes": [
            {"name": name, "label": LABELS.get(name, name), "colour": colour(name, others)} for name in ordered
        ],
        "channels": list(CHANNELS),
        "variables": [
            {"name": axis.name, "label": f"{axis.label} ({axis.start:g}–{axis.stop:g} {axis.unit})"} for axis in AXES
        ],
        "window": f"{explorer_data.WINDOW[0]:g}–{explorer_data.WINDOW[1]:g}",
    }
