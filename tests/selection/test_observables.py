"""Quantities of candidates against `vector`, against decays made with known angles, and what is refused."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import vector
from generators import Drawn, clean_zz_events, electron, muon, one_event, pack

import higgsnb as hn
from higgsnb import selection as hs
from higgsnb.errors import AnalysisError, SelectionError
from higgsnb.selection import Candidates, Leptons, Selection
from higgsnb.selection.observables import QUANTITIES

OPEN = hs.load("open2012")
ALL = {name: one.n_values for name, one in QUANTITIES.items()}
BARE = OPEN.replace(
    z1_mass_min=0, z2_mass_min=0, z1_mass_max=1000, z2_mass_max=1000, dilepton_mass_min=0, delta_r_min=0,
    lepton_pt_leading=0, lepton_pt_subleading=0, muon_pt_min=0, electron_pt_min=0, muon_eta_max=100,
    electron_eta_max=100, mass_4l_min=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def chosen() -> tuple[Leptons, Candidates, dict[str, Any]]:
    leptons = pack(clean_zz_events(400, seed=3))
    candidates = hs.select(leptons, OPEN)
    assert len(candidates.channel) > 100
    return leptons, candidates, hs.observe(leptons, candidates, ALL, ())


def legs(found: dict[str, Any], row: int) -> list[vector.MomentumObject4D]:
    """The four leptons of a candidate."""
    return [
        vector.obj(**{name: float(found[f"lepton_{name}"][row, i]) for name in ("pt", "eta", "phi", "mass")})
        for i in range(4)
    ]


def test_quantities_are_those_of_vector(chosen: tuple[Leptons, Candidates, dict[str, Any]]) -> None:
    _, candidates, found = chosen
    for row in range(len(candidates.channel)):
        a, b, c, d = legs(found, row)
        z1, z2, higgs = a + b, c + d, a + b + c + d
        pairs = list(combinations(zip((a, b, c, d), found["lepton_charge"][row], strict=True), 2))
        expected = {
            "mass_4l": higgs.mass, "mass_z1": z1.mass, "mass_z2": z2.mass, "pt_4l": higgs.pt, "eta_4l": higgs.eta,
            "phi_4l": higgs.phi, "rapidity_4l": higgs.rapidity, "pt_z1": z1.pt, "pt_z2": z2.pt,
            "mass_ll_min": min((one + other).mass for (one, p), (other, q) in pairs if p + q == 0),
            "delta_r_ll_min": min(one.deltaR(other) for (one, _), (other, _) in pairs),
            "lep1_pt": a.pt, "lep4_eta": d.eta, "cos_theta_star": z1.boostCM_of(higgs).costheta,
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-6, abs=1e-6), name
        for number, (mine, other, pair) in enumerate(((z1, z2, (a, b)), (z2, z1, (c, d))), 1):
            charges = found["lepton_charge"][row, 2 * number - 2 : 2 * number]
            lepton = pair[int(np.argmin(charges))].boostCM_of(mine)
            recoil = other.boostCM_of(mine)
            cosine = -lepton.to_3D().unit().dot(recoil.to_3D().unit())
            assert found[f"cos_theta_{number}"][row] == pytest.approx(cosine, abs=1e-6)
    assert set(np.unique(np.abs(found["lepton_pdg_id"]))) == {11, 13}
    assert (found["lepton_pdg_id"] * found["lepton_charge"] < 0).all()  # a μ⁻ has the number 13


def decay(cos_star: float, cos_1: float, cos_2: float, alpha: float, beta: float, boost: Any) -> Drawn:
    """H → ZZ → 4ℓ with these angles: ℓ⁻ of Z1 (Z2) has the azimuth alpha (beta) around the flight of Z1."""
    mass, m1, m2 = 125.0, 90.0, 28.0
    p = math.sqrt((mass**2 - (m1 + m2) ** 2) * (mass**2 - (m1 - m2) ** 2)) / (2 * mass)
    along = np.array([math.sqrt(1 - cos_star**2), 0.0, cos_star])
    across = np.cross([0.0, 0.0, 1.0], along)
    y = across / np.linalg.norm(across)
    x, found = np.cross(y, along), []
    for m, sign, cosine, azimuth, maker in ((m1, 1, cos_1, alpha, muon), (m2, -1, cos_2, beta, electron)):
        z = vector.obj(**dict(zip(("px", "py", "pz"), sign * p * along, strict=True)), mass=m)
        sine = math.sqrt(1 - cosine**2)
        direction = sine * (math.cos(azimuth) * x + math.sin(azimuth) * y) + sign * cosine * along
        for charge in (-1, 1):
            px, py, pz = -charge * direction * m / 2
            lepton = vector.obj(px=px, py=py, pz=pz, E=m / 2).boost_p4(z).boost(boost)
            found.append(replace(maker(lepton.pt, lepton.eta, lepton.phi, charge), mass=0.0))
    return found


def test_angles_are_those_that_the_decay_was_made_with() -> None:
    rng = np.random.default_rng(5)
    for number in range(60):
        cosines, (alpha, beta) = rng.uniform(-0.95, 0.95, 3), rng.uniform(-3.1, 3.1, 2)
        boost = vector.obj(x=0.0, y=0.0, z=rng.uniform(-0.6, 0.6))
        leptons = one_event(*decay(*cosines, alpha, beta, boost))
        candidates = hs.select(leptons, BARE)
        assert len(candidates.channel) == 1, number
        found = hs.observe(leptons, candidates, ALL, ())
        for name, value in zip(("cos_theta_star", "cos_theta_1", "cos_theta_2"), cosines, strict=True):
            assert found[name][0] == pytest.approx(value, abs=2e-5)
        for name, value in (("phi_planes", alpha - beta), ("phi_1", math.pi - alpha)):
            assert math.remainder(found[name][0] - value, 2 * math.pi) == pytest.approx(0.0, abs=1e-4), name


def test_photon_is_part_of_what_the_masses_have(chosen: tuple[Leptons, Candidates, dict[str, Any]]) -> None:
    leptons, candidates, bare = chosen
    n = len(leptons.muon_pt)
    photons = {"muon_photon_pt": np.full(n, 9.0, np.float32), "muon_photon_eta": leptons.muon_eta}
    radiating = leptons._replace(**photons, muon_photon_phi=leptons.muon_phi)
    found = hs.observe(radiating, candidates, ALL, ())
    row = int(np.flatnonzero((candidates.flavour == 13).all(axis=1))[0])
    dressed = sum((one.scale(1 + 9.0 / one.pt) for one in legs(found, row)), vector.obj(px=0, py=0, pz=0, E=0))
    assert found["pt_4l"][row] == pytest.approx(dressed.pt, rel=1e-3)
    for name in ("lepton_pt", "mass_ll_min", "delta_r_ll_min"):
        assert np.array_equal(found[name], bare[name])


def balance(mass_z1: Any, lepton_pt: Any) -> Any:
    return (lepton_pt[:, 0] - lepton_pt[:, 1]) / mass_z1


@numba.njit
def hardest(lepton_pt: Any) -> Any:
    found = np.zeros(len(lepton_pt))
    for i in range(len(lepton_pt)):
        found[i] = lepton_pt[i].max()
    return found


def test_observables_are_expressions_and_functions(chosen: tuple[Leptons, Candidates, dict[str, Any]]) -> None:
    leptons, candidates, found = chosen
    one = OPEN.replace(observables={"ratio": "mass_z2/mass_z1", "balance": balance, "hardest": hardest})
    assert one.own_columns == {"ratio": 1, "balance": 1, "hardest": 1}
    for other in (one, one.pinned(), pickle.loads(pickle.dumps(one))):  # noqa: S301
        assert other.digest == one.digest
        mine = hs.observe(leptons, candidates, other.own_columns, other.observables)
        assert np.array_equal(mine["ratio"], candidates.mass_z2 / candidates.mass_z1)
        pt = found["lepton_pt"]
        assert np.array_equal(mine["balance"], (pt[:, 0] - pt[:, 1]) / candidates.mass_z1)
        assert np.array_equal(mine["hardest"], pt.max(axis=1))


def test_no_candidates_have_no_values() -> None:
    leptons = one_event(muon(20.0, 0.0, 0.0, 1))
    one = OPEN.replace(observables={"balance": balance}, axes=[hn.Axis("phi", 9, -4, 4, variable="lepton_phi")])
    found = hs.observe(leptons, hs.select(leptons, one), one.own_columns, one.observables)
    assert {name: values.shape for name, values in found.items()} == {"balance": (0,), "lepton_phi": (0, 4)}


FACTOR = 2.0


def scaled(mass_4l: Any) -> Any:
    return FACTOR * mass_4l


def test_digest_has_the_axes_and_the_observables(monkeypatch: pytest.MonkeyPatch) -> None:
    axis = hn.Axis("pt_4l", 50, 0, 200)
    some = [
        OPEN, OPEN.replace(axes=[axis]), OPEN.replace(axes=[replace(axis, stop=100.0)]),
        OPEN.replace(axes=[hn.Axis("other", 50, 0, 200, variable="pt_4l")]),
        OPEN.replace(axes=[hn.Axis("pt_4l", 50, 0, 200, variable="pt_z1")]),
        OPEN.replace(observables={"x": "pt_4l"}), OPEN.replace(observables={"x": "pt_z1"}),
        OPEN.replace(observables={"x": scaled}),
    ]  # fmt: skip
    digests = [one.digest for one in some]
    assert len(set(digests)) == len(some)
    assert OPEN.replace(axes=[axis]).replace(axes=()).digest == OPEN.digest
    pinned = some[-1].pinned()
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert some[-1].digest != digests[-1]
    assert pinned.digest == digests[-1]


def test_axes_of_a_file_are_those_of_python(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "open2012"\n[observables]\nratio = "mass_z2 / mass_z1"\n'
        '[[axes]]\nname = "pt_4l"\nbins = 50\nstart = 0\nstop = 200\n'
        '[[axes]]\nname = "ratio"\nbins = [0, 0.25, 1]\nlabel = "m(Z2) / m(Z1)"\n'
    )
    axes = [hn.Axis("pt_4l", 50, 0, 200), hn.Axis("ratio", [0, 0.25, 1], label="m(Z2) / m(Z1)")]  # type: ignore[arg-type]
    mine = OPEN.replace(axes=axes, observables={"ratio": "mass_z2 / mass_z1"})
    found = hs.load(path)
    assert found.digest == mine.digest
    assert found.axes == mine.axes
    assert found.axes[0].title == "four-lepton transverse momentum [GeV]"  # it comes with the quantity
    assert Selection(**found.as_dict()) == found


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown quantity": ({"axes": [hn.Axis("pt_4", 5, 0, 1)]}, "'pt_4', which is no quantity.*Did you mean pt_4l"),
    "name of another axis": ({"axes": [hn.Axis("mass_4l", 5, 0, 1)]}, "new names, not 'mass_4l'"),
    "twice": ({"axes": [hn.Axis("pt_4l", 5, 0, 1)] * 2}, "new names, not 'pt_4l'"),
    "no axis": ({"axes": [5]}, "axes, not 5"),
    "no list": ({"axes": {"name": "pt_4l"}}, "a list of axes"),
    "unknown key": ({"axes": [{"name": "pt_4l", "bin": 5}]}, "keys of an axis, not 'bin'.*bins"),
    "no bins": ({"axes": [{"name": "pt_4l"}]}, "axes with a bins"),
    "no number": ({"axes": [{"name": "pt_4l", "bins": "many"}]}, "an axis; "),
    "no end": ({"axes": [{"name": "pt_4l", "bins": 5}]}, "an axis; axis 'pt_4l': its bin edges"),
    "three leptons": ({"axes": [hn.Axis("l", 5, 0, 1, variable="lepton_pt", per_event=3)]}, "per_event = 3"),
    "unknown in an expression": ({"observables": {"x": "mass_z3 / 2"}}, "an expression for 'x'.*mass_z3"),
    "four values": ({"observables": {"x": "lepton_pt / 2"}}, "an expression for 'x'.*lepton_pt"),
    "no syntax": ({"observables": {"x": "mass_z1 +"}}, "an expression for 'x'"),
    "known name": ({"observables": {"mass_4l": "mass_z1"}}, "new names, not 'mass_4l'"),
    "column": ({"observables": {"weight": "mass_z1"}}, "new names, not 'weight'"),
    "no name": ({"observables": {"a b": "mass_z1"}}, "names of observables, not 'a b'"),
    "keyword": ({"observables": {"class": "mass_z1"}}, "names of observables, not 'class'"),
    "number": ({"observables": {"x": 5}}, "an observable 'x', not 5"),
    "list": ({"observables": ["mass_z1"]}, "new names, not"),
    "text": ({"observables": "mass_z1"}, "observables by name"),
    "unknown argument": ({"observables": {"x": lambda mass_z3: mass_z3}}, "not 'mass_z3'.*Did you mean mass_z"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_filled_is_refused(case: str) -> None:
    changes, expected = REFUSED[case]
    with pytest.raises(SelectionError) as caught:
        OPEN.replace(**changes)
    message = f"{caught.value.message} {caught.value.hint}"
    assert re.search(expected, message), message
    assert "\n" not in message


def too_short(mass_4l: Any) -> Any:
    return mass_4l[:-1]


def failing(mass_4l: Any) -> Any:
    return mass_4l.no_such


def texts(mass_4l: Any) -> Any:
    return np.array(["a"] * len(mass_4l))


@pytest.mark.parametrize("function", [too_short, failing, texts])
def test_wrong_values_name_the_observable(chosen: tuple[Leptons, Candidates, dict[str, Any]], function: Any) -> None:
    leptons, candidates, _ = chosen
    with pytest.raises(AnalysisError, match="observable 'mine'"):
        hs.observe(leptons, candidates, {"mine": 1}, (("mine", function),))
