"""The cuts that can be moved in the explorer, with their ranges."""

from __future__ import annotations

from dataclasses import dataclass

from higgsnb.selection import Selection


@dataclass(frozen=True)
class Control:
    """A cut with its label, unit and range, the quantity it applies to, and the ``axis`` on which that is drawn."""

    cut: str
    group: str
    label: str
    unit: str
    low: float
    high: float
    step: float
    quantity: str
    axis: tuple[float, float]

    @property
    def is_lower_limit(self) -> bool:
        """Whether the quantity has to exceed the cut."""
        return not self.cut.endswith("_max")


_PT, _ETA, _ISO = "transverse momentum", "pseudorapidity |η|", "isolation"
CONTROLS = (
    Control("muon_pt_min", "Muons", f"{_PT} above", "GeV", 0, 40, 0.5, "pT of the softest muon", (0, 60)),
    Control("muon_eta_max", "Muons", f"{_ETA} below", "", 0.5, 2.5, 0.1, "largest muon |η|", (0, 2.5)),
    Control("muon_isolation_max", "Muons", f"{_ISO} below", "", 0.05, 1, 0.05, "largest isolation of a muon", (0, 1)),
    Control("electron_pt_min", "Electrons", f"{_PT} above", "GeV", 0, 40, 0.5, "pT of the softest electron", (0, 60)),
    Control("electron_eta_max", "Electrons", f"{_ETA} below", "", 0.5, 2.5, 0.1, "largest electron |η|", (0, 2.5)),
    Control(
        "electron_isolation_max", "Electrons", f"{_ISO} below", "", 0.05, 1, 0.05, "largest isolation of an electron",
        (0, 1),
    ),
    Control("dxy_max", "Vertex", "impact parameter |dxy| below", "cm", 0.01, 1, 0.01, "largest |dxy|", (0, 1)),
    Control("dz_max", "Vertex", "impact parameter |dz| below", "cm", 0.05, 2, 0.05, "largest |dz|", (0, 2)),
    Control("sip_max", "Vertex", "significance of both below", "", 1, 10, 0.5, "largest significance", (0, 10)),
    Control("z1_mass_min", "Z bosons", "mass of Z1 above", "GeV", 4, 90, 1, "mass of Z1", (0, 150)),
    Control("z1_mass_max", "Z bosons", "mass of Z1 below", "GeV", 92, 200, 1, "mass of Z1", (0, 200)),
    Control("z2_mass_min", "Z bosons", "mass of Z2 above", "GeV", 0, 60, 1, "mass of Z2", (0, 150)),
    Control("z2_mass_max", "Z bosons", "mass of Z2 below", "GeV", 61, 200, 1, "mass of Z2", (0, 200)),
    Control("lepton_pt_leading", "Four leptons", "leading pT above", "GeV", 0, 60, 1, "leading pT", (0, 150)),
    Control("lepton_pt_subleading", "Four leptons", "subleading pT above", "GeV", 0, 40, 1, "subleading pT", (0, 100)),
    Control("delta_r_min", "Four leptons", "separation ΔR above", "", 0, 0.5, 0.01, "smallest ΔR", (0, 2)),
    Control("dilepton_mass_min", "Four leptons", "mass of any pair above", "GeV", 0, 12, 0.5, "lightest pair", (0, 60)),
    Control("mass_4l_min", "Four leptons", "four-lepton mass above", "GeV", 0, 150, 5, "four-lepton mass", (0, 300)),
)  # fmt: skip
"""The cuts that can be moved, in the order in which they are applied."""


def control(cut: str) -> Control:
    """Return the control of a cut; raise KeyError, which lists the known ones, if there is none."""
    for one in CONTROLS:
        if one.cut == cut:
            return one
    raise KeyError(f"no control for {cut!r}; known: {', '.join(one.cut for one in CONTROLS)}")


def loosest(first: Selection, *others: Selection) -> Selection:
    """Return the first selection with each cut as loose as its control and all the selections allow."""
    ends = {}
    for one in CONTROLS:
        choose, end = (min, one.low) if one.is_lower_limit else (max, one.high)
        ends[one.cut] = choose(float(end), *(getattr(selection, one.cut) for selection in (first, *others)))
    return first.replace(**ends)


def range_of(one: Control, reach: Selection) -> dict[str, float]:
    """Return the range of a control, widened to the cuts that the events in memory have passed."""
    value = getattr(reach, one.cut)
    return {"low": min(one.low, value), "high": max(one.high, value)}


def without(selection: Selection, cut: str, reach: Selection) -> Selection:
    """Return a selection with one cut at the loose end of its range, or unchanged if it is looser than that.

    The cut on the leading lepton cannot be looser than that on the subleading one.
    """
    if cut == "lepton_pt_leading":
        return selection.replace(lepton_pt_leading=selection.lepton_pt_subleading)
    one, value = control(cut), getattr(selection, cut)
    ends = range_of(one, reach)
    return selection.replace(**{cut: min(ends["low"], value) if one.is_lower_limit else max(ends["high"], value)})
