"""The simulated campaign: honest physics, exact schema, the same bytes for the same seed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import uproot
from numpy.typing import NDArray
from scipy import stats

from higgsnb import datasets
from higgsnb.datasets import File
from higgsnb.datasets.toy import collisions, detector, physics, pseudodata, sizes, writer
from higgsnb.errors import MissingFileError, UnreadableError

Array = NDArray[Any]
CHANNELS = ("4mu", "4e", "2e2mu")
M_Z, WIDTH_Z, M_H = 91.1876, 2.4955, 125.0

LEPTON = {
    "pt": "float", "eta": "float", "phi": "float", "mass": "float", "charge": "int32_t",
    "dxy": "float", "dxyErr": "float", "dz": "float", "dzErr": "float", "pfRelIso03_all": "float",
}  # fmt: skip
SCHEMA = {
    "run": "int32_t", "luminosityBlock": "uint32_t", "event": "uint64_t",
    "PV_npvs": "int32_t", "PV_x": "float", "PV_y": "float", "PV_z": "float", "nMuon": "int32_t",
    **{f"Muon_{name}": f"{kind}[]" for name, kind in {**LEPTON, "pfRelIso04_all": "float"}.items()},
    "nElectron": "int32_t",
    **{f"Electron_{name}": f"{kind}[]" for name, kind in LEPTON.items()},
    "MET_pt": "float", "MET_phi": "float",
}  # fmt: skip


def flat_columns(path: Path) -> dict[str, Array]:
    """All branches of a file: per event, or one value per lepton."""
    with uproot.open(path) as file:
        arrays = file["Events"].arrays(library="ak")
        return {
            name: np.asarray(arrays[name].layout.content.data if arrays[name].ndim == 2 else arrays[name])
            for name in arrays.fields
        }


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default campaign."""
    return writer.make(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def columns(campaign: Path) -> dict[str, dict[str, Array]]:
    """Every file of the default campaign, read with plain uproot."""
    return {one.name: flat_columns(campaign / f"{one.name}.root") for one in pseudodata.DATASETS}


# --- a slow twin of the selection aod2012, from its text alone


class Lepton(NamedTuple):
    pt: float
    charge: int
    p4: Array


def vector(pt: float, eta: float, phi: float, mass: float) -> Array:
    momentum = pt * np.array([np.cos(phi), np.sin(phi), np.sinh(eta)])
    return np.array([np.sqrt(mass**2 + momentum @ momentum), *momentum])


def mass_of(*vectors: Array) -> float:
    total = np.sum(vectors, axis=0)
    return float(np.sqrt(max(0.0, total[0] ** 2 - total[1:] @ total[1:])))


def good_leptons(columns: dict[str, Array], name: str, limits: tuple[str, float, float]) -> dict[int, list[Lepton]]:
    isolation, pt_min, eta_max = limits
    c = {key: columns[f"{name}_{key}"].astype(float) for key in (*LEPTON, isolation)}
    event = np.repeat(np.arange(len(columns["nMuon"])), columns[f"n{name}"])
    with np.errstate(invalid="ignore"):
        sip = np.hypot(c["dxy"], c["dz"]) / np.hypot(c["dxyErr"], c["dzErr"])
    good = (c["pt"] > pt_min) & (abs(c["eta"]) < eta_max) & (c[isolation] != -999) & (c[isolation] < 0.4)
    good &= (abs(c["dxy"]) < 0.5) & (abs(c["dz"]) < 1.0) & (sip < 4.0)
    found: dict[int, list[Lepton]] = {}
    for i in np.flatnonzero(good):
        p4 = vector(*(c[key][i] for key in ("pt", "eta", "phi", "mass")))
        found.setdefault(int(event[i]), []).append(Lepton(c["pt"][i], int(c["charge"][i]), p4))
    return {key: sorted(leptons, key=lambda one: -one.pt) for key, leptons in found.items()}


def best_pairs(leptons: list[Lepton]) -> tuple[tuple[Lepton, Lepton], tuple[Lepton, Lepton]] | None:
    plus, minus = ([one for one in leptons if one.charge == sign] for sign in (1, -1))
    if len(plus) != 2 or len(minus) != 2:
        return None
    pairings = [((plus[0], minus[i]), (plus[1], minus[1 - i])) for i in (0, 1)]
    return min(pairings, key=lambda pairs: min(abs(mass_of(a.p4, b.p4) - M_Z) for a, b in pairs))


def mass_4l(pairs: tuple[tuple[Lepton, Lepton], tuple[Lepton, Lepton]]) -> float | None:
    z1, z2 = sorted(pairs, key=lambda pair: abs(mass_of(pair[0].p4, pair[1].p4) - M_Z))
    soft, hard = sorted(one.pt for one in z1)
    if not (hard > 20 and soft > 10 and 40 < mass_of(z1[0].p4, z1[1].p4) < 120):
        return None
    if not 12 < mass_of(z2[0].p4, z2[1].p4) < 120:
        return None
    mass = mass_of(*(one.p4 for one in (*z1, *z2)))
    return mass if mass > 70 else None


def aod2012(columns: dict[str, Array]) -> dict[str, Array]:
    """Mass of every selected candidate by channel, GeV."""
    muons = good_leptons(columns, "Muon", ("pfRelIso04_all", 5.0, 2.4))
    electrons = good_leptons(columns, "Electron", ("pfRelIso03_all", 7.0, 2.5))
    found: dict[str, list[float | None]] = {channel: [] for channel in CHANNELS}
    for channel, flavour in (("4mu", muons), ("4e", electrons)):
        pairs = [best_pairs(leptons[:4]) for leptons in flavour.values() if len(leptons) >= 4]
        found[channel] = [mass_4l(one) for one in pairs if one is not None]
    for event in sorted(muons.keys() & electrons.keys()):
        two, other = muons[event][:2], electrons[event][:2]
        if [sorted(one.charge for one in pair) for pair in (two, other)] == [[-1, 1], [-1, 1]]:
            found["2e2mu"].append(mass_4l(((two[0], two[1]), (other[0], other[1]))))
    return {channel: np.array([mass for mass in masses if mass]) for channel, masses in found.items()}


@pytest.fixture(scope="module")
def selected(columns: dict[str, dict[str, Array]]) -> dict[str, dict[str, Array]]:
    return {name: aod2012(found) for name, found in columns.items()}


def expected(selected: dict[str, dict[str, Array]], name: str, low: float, high: float) -> dict[str, float]:
    """Expected events by channel between two masses at the campaign's luminosity."""
    dataset = next(one for one in pseudodata.DATASETS if one.name == name)
    assert dataset.events is not None
    assert dataset.cross_section_pb is not None
    weight = dataset.cross_section_pb * dataset.scale * 11580.0 / dataset.events
    masses = selected[name]
    return {channel: weight * float(((m > low) & (m < high)).sum()) for channel, m in masses.items()}


# --- files


@pytest.mark.parametrize("name", [one.name for one in pseudodata.DATASETS])
def test_schema_is_the_outreach_one_exactly(campaign: Path, name: str) -> None:
    with uproot.open(campaign / f"{name}.root") as file:
        tree = file["Events"]
        assert list(tree.typenames().items()) == list(SCHEMA.items())
        assert len(SCHEMA) == 32
        assert "simulated" in tree.title
        assert tree.num_entries == writer.manifest(campaign)["files"][name]["events"]


def test_sizes_for_estimates_are_those_of_the_files(campaign: Path) -> None:
    made = writer.manifest(campaign)["files"]
    for name, (events, size) in sizes.SIZES.items():
        assert made[name]["events"] == pytest.approx(events, rel=0.01)
        assert made[name]["bytes"] == pytest.approx(size, rel=0.05)  # another library may compress otherwise
    assert sizes.SIZES.keys() == made.keys()


def test_sizes_for_estimates_fill_in_what_the_campaign_does_not_state() -> None:
    found = sizes.with_toy_sizes(datasets.load("toy"))
    assert (found.events, found.bytes) == tuple(map(sum, zip(*sizes.SIZES.values(), strict=True)))
    stated = File("toy:ZZTo4mu.root", events=7)
    others = (File("toy:absent.root"), File("/data/ZZTo4mu.root"))
    mine = replace(found, datasets=(replace(found.datasets[0], files=(stated, *others)),))
    assert sizes.with_toy_sizes(mine).files == (replace(stated, bytes=sizes.SIZES["ZZTo4mu"][1]), *others)


def test_manifest_says_simulated_and_describes_every_file(campaign: Path) -> None:
    manifest = json.loads((campaign / "manifest.json").read_text())
    assert manifest["simulated"] is True
    assert manifest["parameters"]["seed"] == writer.DEFAULT_SEED == 125
    assert set(manifest["files"]) == {one.name for one in pseudodata.DATASETS}
    for one in pseudodata.DATASETS:
        entry = manifest["files"][one.name]
        assert entry["bytes"] == (campaign / f"{one.name}.root").stat().st_size
        assert one.events in (None, entry["events"])
    assert sorted(path.suffix for path in campaign.iterdir()) == [".json", *[".root"] * 7]


def test_campaign_is_below_15_megabytes(campaign: Path) -> None:
    assert 5e6 < sum(path.stat().st_size for path in campaign.iterdir()) < 15e6


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_seed_gives_same_bytes_at_another_time_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = contents(writer.make(tmp_path / "a", events=4000, workers=2))
    clock = iter(range(1, 1_000_000))
    monkeypatch.setattr(uproot._util, "datetime_to_code", lambda _: next(clock))  # uproot's only clock
    assert contents(writer.make(tmp_path / "b", events=4000, workers=1)) == first
    assert next(clock) > 100, "the other clock was not used: the test proves nothing"
    assert contents(writer.make(tmp_path / "c", events=4000, workers=5)) == first


def test_other_seed_gives_other_collisions(tmp_path: Path) -> None:
    masses = [flat_columns(writer.make(tmp_path / str(s), seed=s, events=1000) / "ZZTo4mu.root") for s in (1, 2)]
    assert not np.array_equal(masses[0]["Muon_pt"][:50], masses[1]["Muon_pt"][:50])


def test_blocks_do_not_depend_on_how_many_follow() -> None:
    zz = pseudodata.DATASETS[1]
    short, long = (next(pseudodata.simulation_blocks(zz, n, 3)) for n in (physics.BLOCK, 2 * physics.BLOCK + 5))
    assert all(np.array_equal(short[name], long[name]) for name in short)


def test_event_count_scales_simulation_and_leaves_four_lepton_data(tmp_path: Path) -> None:
    half = writer.manifest(writer.make(tmp_path, events=writer.DEFAULT_EVENTS // 2))["files"]
    assert all(half[one.name]["events"] == one.events / 2 for one in pseudodata.DATASETS if one.events)
    sizes = [sum(len(block["event"]) for block, _ in pseudodata.data_blocks(n, 7)) for n in (100, 20_100)]
    assert sizes[1] - sizes[0] == 20_000


def test_event_count_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="events = 0: must be at least 1"):
        writer.make(tmp_path / "none", events=0)
    assert not (tmp_path / "none").exists()


def test_command_line_writes_the_campaign(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "higgsnb.datasets.toy", str(tmp_path), "--events", "900", "--seed", "4"]
    subprocess.run(command, check=True)
    assert writer.manifest(tmp_path)["parameters"] == {
        "version": writer.VERSION, "seed": 4, "events": 900, "luminosity_fb": 11.58,
    }  # fmt: skip


def test_timestamps_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.root"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UnreadableError, match=r"x\.root: not a ROOT file"):
        writer.fix_timestamps(path)


def test_ensure_makes_once_and_repairs_only_what_is_damaged(tmp_path: Path) -> None:
    path = writer.ensure("ZZTo4e", tmp_path)
    made, times = contents(tmp_path), {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()}
    assert writer.ensure("ZZTo4e", tmp_path) == path
    assert {one.name: one.stat().st_mtime_ns for one in tmp_path.iterdir()} == times
    damaged = bytearray(made[path.name])
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert writer.ensure("ZZTo4e", tmp_path).read_bytes() == made[path.name]
    assert contents(tmp_path) == made
    untouched = {one.name for one in tmp_path.iterdir() if one.stat().st_mtime_ns == times[one.name]}
    assert untouched == {f"{one.name}.root" for one in pseudodata.DATASETS} - {path.name}


def test_ensure_replaces_a_campaign_of_other_parameters(campaign: Path, tmp_path: Path) -> None:
    writer.make(tmp_path, seed=9, events=1000)
    assert writer.ensure("ZZTo4mu", tmp_path).read_bytes() == (campaign / "ZZTo4mu.root").read_bytes()


def test_ensure_of_an_unknown_name_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no dataset 'ZZTo4tau'\nIt has SMHiggsToZZTo4L, ZZTo4mu"):
        writer.ensure("ZZTo4tau", tmp_path)


# --- the detector's columns


def test_sentinels_stand_together_and_only_on_muons(columns: dict[str, dict[str, Array]]) -> None:
    for name, found in columns.items():
        no_isolation = found["Muon_pfRelIso03_all"] == -999
        no_track = found["Muon_dxy"] == -999
        assert np.array_equal(no_isolation, found["Muon_pfRelIso04_all"] == -999)
        assert all(np.array_equal(no_track, found[f"Muon_{key}"] == -999) for key in ("dxyErr", "dz", "dzErr"))
        assert no_isolation.any(), name
        assert no_track.any(), name
        assert not any((values == -999).any() for key, values in found.items() if key.startswith("Electron"))
        assert all(np.isfinite(values).all() for values in found.values())


def test_leptons_are_in_acceptance_and_sorted_by_momentum(columns: dict[str, dict[str, Array]]) -> None:
    for found in columns.values():
        for name, eta_max in (("Muon", 2.41), ("Electron", 2.51)):
            event = np.repeat(np.arange(len(found["event"])), found[f"n{name}"])
            same = event[1:] == event[:-1]
            assert (np.diff(found[f"{name}_pt"])[same] <= 0).all()
            assert np.abs(found[f"{name}_eta"]).max() < eta_max
            assert np.abs(found[f"{name}_phi"]).max() <= np.float32(np.pi)
            assert set(np.unique(found[f"{name}_charge"])) == {-1, 1}
        assert 15 < found["PV_npvs"].mean() < 20


def test_shortened_values_are_within_half_a_unit_and_keep_the_sentinel() -> None:
    values = np.random.default_rng(1).lognormal(0, 4, 5000).astype(np.float32)
    assert np.abs(detector._shorten(values, 11) / values.astype(float) - 1).max() <= 2**-12
    assert detector._shorten(np.array([-999.0, 0.0]), 11).tolist() == [-999.0, 0.0]


def test_prompt_leptons_pass_and_non_prompt_ones_mostly_fail() -> None:
    rng = np.random.default_rng(5)
    flavour = np.full(40_000, collisions.ELECTRON)
    rates = []
    for origin in (collisions.PROMPT, collisions.HEAVY, collisions.LIGHT):
        lepton = collisions._nonprompt(rng, flavour, floor=10.0, slope=10.0)
        found = detector.detect(rng, lepton._replace(origin=np.full(40_000, origin)))
        sip = np.hypot(found["Electron_dxy"], found["Electron_dz"])
        sip /= np.hypot(found["Electron_dxyErr"], found["Electron_dzErr"])
        rates.append(float(((found["Electron_pfRelIso03_all"] < 0.4) & (sip < 4)).mean()))
    assert rates[0] > 0.97
    assert 0.05 < rates[1] < 0.3
    assert 0.2 < rates[2] < 0.45


# --- the primary datasets


def identity(found: dict[str, Array]) -> list[tuple[int, int, int]]:
    return list(zip(*(found[key].tolist() for key in ("run", "luminosityBlock", "event")), strict=True))


def test_primary_datasets_overlap_with_identical_content(columns: dict[str, dict[str, Array]]) -> None:
    muon, electron = columns["Run2012_DoubleMu"], columns["Run2012_DoubleElectron"]
    common = set(identity(muon)) & set(identity(electron))
    assert 0.003 < len(common) / len(identity(electron)) < 0.05
    kept = [
        pseudodata.select_events(found, np.array([i in common for i in identity(found)])) for found in (muon, electron)
    ]
    assert all(np.array_equal(kept[0][name], kept[1][name]) for name in SCHEMA)


def test_primary_datasets_are_ordered_in_time_without_repetition(columns: dict[str, dict[str, Array]]) -> None:
    for name in ("Run2012_DoubleMu", "Run2012_DoubleElectron"):
        found = identity(columns[name])
        assert found == sorted(set(found))
        assert 193833 <= found[0][0] <= 196531  # 2012B
        assert 198022 <= found[-1][0] <= 203742  # 2012C


def test_first_tenth_of_both_primary_datasets_covers_the_same_period(columns: dict[str, dict[str, Array]]) -> None:
    sections = [(run, section) for run, first, last in pseudodata.RUNS for section in range(first, last + 1)]
    place = {section: i / len(sections) for i, section in enumerate(sections)}
    ends = [identity(columns[name]) for name in ("Run2012_DoubleMu", "Run2012_DoubleElectron")]
    tenths = [place[found[len(found) // 10][:2]] for found in ends]
    assert tenths == pytest.approx([0.1, 0.1], abs=0.01)


def test_runs_are_certified_by_the_public_golden_json(shared_data: Path) -> None:
    (path,) = (shared_data / "golden-json").glob("Cert_190456*")
    certified = json.loads(path.read_text())
    for run, first, last in pseudodata.RUNS:
        assert any(a <= first and last <= b for a, b in certified[str(run)]), run


def test_rejected_collisions_never_pass_however_many() -> None:
    rng, kept = np.random.default_rng(3), 0
    for _ in range(6):
        particles = collisions.spoil_surplus(collisions.with_soft(rng, collisions.rejected_collisions(rng, 10_000)))
        found = detector.detect(rng, particles)
        kept += sum(len(masses) for masses in aod2012(found).values())
        assert ((found["nMuon"] + found["nElectron"]) >= 4).mean() > 0.02
    assert kept == 0


def test_four_lepton_data_have_poisson_counts() -> None:
    mean = sum(one.expected for one in pseudodata.DATASETS)
    counts = [pseudodata._four_lepton_data(seed).n_events for seed in range(12)]
    assert abs(np.mean(counts) - mean) < 4 * np.sqrt(mean / 12)
    assert stats.chi2.sf(np.sum((np.array(counts) - mean) ** 2) / mean, 12) > 1e-3


# --- truth of H -> ZZ* -> 4l against analytic formulae


@pytest.fixture(scope="module")
def decays() -> tuple[Array, ...]:
    return physics.higgs_decays(np.random.default_rng(11), 120_000)


def analytic_rate(m1: Array, m2: Array) -> Array:
    """d2Gamma/dm1 dm2 of H -> Z* Z* (A. Djouadi, Phys. Rept. 457, eq. 2.35), arbitrary units."""
    s1, s2, h = m1**2, m2**2, M_H**2
    lam = np.maximum(0.0, (1 - s1 / h - s2 / h) ** 2 - 4 * s1 * s2 / h**2) * (m1 + m2 < M_H)
    breit_wigner = [m / ((m**2 - M_Z**2) ** 2 + (M_Z * WIDTH_Z) ** 2) for m in (m1, m2)]
    return np.asarray(np.sqrt(lam) * (lam + 12 * s1 * s2 / h**2) * breit_wigner[0] * breit_wigner[1])


def analytic_spectrum(edges: Array, *, heavier: bool) -> Array:
    """Probability per bin of the heavier or the lighter Z mass, by the midpoint rule."""
    grid = (np.arange(2500) + 0.5) * 0.05
    m1, m2 = np.meshgrid(grid, grid[grid > 0.2113], indexing="ij")
    rate = np.where(m1 >= m2, analytic_rate(m1, m2), 0.0)
    total, _ = np.histogram(m1 if heavier else m2, edges, weights=rate)
    return np.asarray(total / rate.sum())


@pytest.mark.parametrize("heavier", [True, False])
def test_z_masses_of_the_higgs_follow_the_analytic_rate(decays: tuple[Array, ...], heavier: bool) -> None:
    edges = np.array([48, 60, 70, 78, 84, *range(86, 97), 100, 112]) if heavier else np.arange(3.0, 61.0, 2.0)
    counts, _ = np.histogram(decays[0 if heavier else 1], edges)
    mean = analytic_spectrum(edges, heavier=heavier) * len(decays[0])
    assert mean.sum() > 0.97 * len(decays[0])
    assert stats.chi2.sf(np.sum((counts - mean) ** 2 / mean), len(mean)) > 1e-3


@pytest.mark.parametrize("which", [2, 3])
def test_z_decay_angles_are_the_mixture_of_helicities(decays: tuple[Array, ...], which: int) -> None:
    """Longitudinal Z give sin^2, transverse ones 1 + cos^2; the amplitudes are K/(m1 m2) and 1, 1."""
    m1, m2, cos = decays[0], decays[1], decays[which]
    longitudinal = ((M_H**2 - m1**2 - m2**2) / (2 * m1 * m2)) ** 2
    fraction = longitudinal / (longitudinal + 2)
    assert 0.5 < fraction.mean() < 0.8
    error = 4 * np.std(cos**2) / np.sqrt(len(cos))
    assert np.mean(cos**2) == pytest.approx(np.mean(fraction / 5 + (1 - fraction) * 2 / 5), abs=error)
    assert np.mean(cos) == pytest.approx(0, abs=4 * np.std(cos) / np.sqrt(len(cos)))


def dot(a: Array, b: Array) -> Array:
    return np.asarray(a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3])


def random_decays(n: int) -> Iterator[Array]:
    rng = np.random.default_rng(2)
    m1 = rng.uniform(1, 124, n)
    yield from (m1, rng.uniform(0, 1, n) * np.minimum(m1, 124.9 - m1))
    yield from (rng.uniform(-1, 1, n), rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n))


def test_squared_amplitude_is_that_of_the_four_vectors() -> None:
    m1, m2, cos1, cos2, phi = random_decays(2000)
    p1, p2, p3, p4 = collisions.four_leptons(np.full(2000, M_H), m1, m2, cos1=cos1, cos2=cos2, phi=phi).transpose(
        1, 0, 2
    )
    left, right = (-0.5 + 0.2315) ** 2, 0.2315**2
    amplitude = (left**2 + right**2) * dot(p1, p3) * dot(p2, p4) + 2 * left * right * dot(p1, p4) * dot(p2, p3)
    assert physics.higgs_amplitude(m1, m2, cos1, cos2, phi) == pytest.approx(amplitude, rel=1e-9, abs=1e-6)


def test_bound_of_the_amplitude_holds_and_is_reached() -> None:
    m1, m2, cos1, cos2, phi = random_decays(100_000)
    ratio = physics.higgs_amplitude(m1, m2, cos1, cos2, phi) / physics._amplitude_bound(m1, m2)
    assert ratio.max() <= 1 + 1e-12
    apart = m1**2 + m2**2 + 4 * m1 * m2 < M_H**2  # nearer to threshold the bound is a little too high
    assert apart.mean() > 0.5
    m1, m2, zero = m1[apart], m2[apart], np.zeros(apart.sum())
    reached = physics.higgs_amplitude(m1, m2, zero, zero, zero + np.pi)
    np.testing.assert_allclose(reached, physics._amplitude_bound(m1, m2), rtol=1e-9)


def test_four_momentum_is_conserved_and_boosts_leave_masses() -> None:
    m1, m2, cos1, cos2, phi = random_decays(2000)
    p = collisions.four_leptons(np.full(2000, M_H), m1, m2, cos1=cos1, cos2=cos2, phi=phi)
    assert p.sum(axis=1) == pytest.approx(np.array([[M_H], [0], [0], [0]]) * np.ones(2000), abs=1e-9)
    rest = p.copy()
    star = np.linspace(-1, 1, 2000)
    flying = collisions._in_flight(
        np.random.default_rng(1), p, m1 * 0 + M_H, star=star, scale=20.0, power=2.2, width=1.0
    )
    for i in range(4):
        for j in range(4):
            before, after = dot(rest[:, i], rest[:, j]), dot(flying[:, i], flying[:, j])
            assert after == pytest.approx(before, rel=1e-6, abs=1e-6 * flying[0].max() ** 2)


def truth_masses(particles: collisions.Particles) -> Array:
    """Mass of the collisions that have four leptons."""
    four = np.bincount(particles.event, minlength=particles.n_events) == 4
    order = np.argsort(particles.event, kind="stable")
    take = order[four[particles.event[order]]]
    pt, eta, phi = (c[take].astype(float).reshape(-1, 4) for c in (particles.pt, particles.eta, particles.phi))
    energy = (pt * np.cosh(eta)).sum(axis=1)
    momentum = [(pt * part).sum(axis=1) for part in (np.cos(phi), np.sin(phi), np.sinh(eta))]
    return np.asarray(np.sqrt(energy**2 - sum(part**2 for part in momentum)))


def test_generated_higgs_mass_is_125() -> None:
    particles = collisions.higgs_collisions(np.random.default_rng(4), 5000)
    masses = truth_masses(particles)
    assert np.mean(np.abs(masses - M_H) < 0.01) > 0.6  # those without taus, in single precision
    assert masses.max() < M_H + 0.01
    assert particles.event.max() < 5000


def test_higgs_transverse_momentum_is_like_gluon_fusion() -> None:
    particles = collisions.higgs_collisions(np.random.default_rng(4), 30_000)
    x, y = (
        np.bincount(particles.event, particles.pt * f(particles.phi), 30_000) + particles.missing[i]
        for i, f in enumerate((np.cos, np.sin))
    )
    pt = np.hypot(x, y)[np.bincount(particles.event, minlength=30_000) == 4]
    counts, edges = np.histogram(pt, np.arange(0, 60, 2.5))
    assert 7.5 <= edges[counts.argmax()] <= 15.0
    assert 0.02 < np.mean(pt > 100) < 0.1


def test_generated_continuum_has_the_z_peak_with_its_width() -> None:
    masses = truth_masses(collisions.zz_collisions(np.random.default_rng(8), 40_000, "ZZTo4mu"))
    assert len(masses) == 40_000
    counts, edges = np.histogram(masses, np.arange(86.0, 97.0, 0.25))
    assert edges[counts.argmax()] == pytest.approx(91.19, abs=0.5)
    half = edges[:-1][counts > counts.max() / 2]
    assert 1.5 < half[-1] - half[0] < 4.0  # the Breit-Wigner's width of 2.5 GeV at generator level
    assert 65 < masses.min() < 70


def test_selected_continuum_rises_at_the_threshold_of_two_z(selected: dict[str, dict[str, Array]]) -> None:
    below, above = (sum(expected(selected, f"ZZTo{c}", low, low + 20)[c] for c in CHANNELS) for low in (150, 190))
    assert 2.5 < above / below < 8


def test_lighter_pair_of_the_z_peak_falls_like_a_photon() -> None:
    """Single-resonant Z -> l l gamma*: dm2^2/m2^2, so equal numbers per octave where phase space is open."""
    m, _, m2, *_ = physics.single_resonant(np.random.default_rng(3), 200_000)
    low, high = (np.sum((m2 > edge) & (m2 < 1.5 * edge)) for edge in (4.0, 6.0))
    assert 0.6 < high / low < 1.0
    assert np.median(m) == pytest.approx(91.1, abs=0.2)


def test_vector_cosine_follows_one_plus_cosine_squared() -> None:
    cos = physics.vector_cosine(np.random.default_rng(1), 50_000)
    assert stats.kstest(cos, lambda c: (4 + 3 * c + c**3) / 8).pvalue > 1e-3


def test_tau_spectrum_has_the_mean_of_the_three_body_decay() -> None:
    x = collisions._tau_fraction(np.random.default_rng(1), 100_000)
    assert x.mean() == pytest.approx(0.35, abs=0.004)


# --- after reconstruction and selection


def test_mass_resolution_of_the_higgs_differs_by_channel(selected: dict[str, dict[str, Array]]) -> None:
    width = {}
    for channel, masses in selected["SMHiggsToZZTo4L"].items():
        low, middle, high = np.percentile(masses[(masses > 105) & (masses < 140)], [16, 50, 84])
        width[channel] = (high - low) / 2
        assert 124.0 < middle < 125.2, channel
    assert 0.9 < width["4mu"] < 1.5
    assert width["4mu"] < width["2e2mu"] < width["4e"] < 2.6


def test_expected_yields_are_those_of_the_public_example(selected: dict[str, dict[str, Array]]) -> None:
    """8.0 H and 66 ZZ between 70 and 181 GeV at 11.58/fb, cuts of record 5501."""
    higgs = expected(selected, "SMHiggsToZZTo4L", 70, 181)
    assert sum(higgs.values()) == pytest.approx(8.0, rel=0.05)
    assert higgs == pytest.approx({"4mu": 2.72, "4e": 1.60, "2e2mu": 3.68}, rel=0.08)
    zz = {c: expected(selected, f"ZZTo{c}", 70, 181)[c] for c in CHANNELS}
    assert sum(zz.values()) == pytest.approx(66, rel=0.05)
    assert zz == pytest.approx({"4mu": 27.0, "4e": 12.5, "2e2mu": 26.8}, rel=0.08)
    peak = sum(expected(selected, f"ZZTo{c}", 80, 100)[c] for c in CHANNELS)
    assert 0.42 < peak / sum(zz.values()) < 0.58
    zx = expected(selected, "ReducibleZX", 70, 181)
    assert 5 < sum(zx.values()) < 12
    assert zx["4e"] + zx["2e2mu"] > 2 * zx["4mu"]


def test_pseudo_data_are_typical_of_the_expectation(selected: dict[str, dict[str, Array]]) -> None:
    """4mu from DoubleMu, 4e from DoubleElectron: nearly free of losses by the trigger."""
    for channel, primary_dataset in (("4mu", "Run2012_DoubleMu"), ("4e", "Run2012_DoubleElectron")):
        for low, high in ((70, 118), (118, 130), (130, 800)):
            mean = sum(expected(selected, one.name, low, high)[channel] for one in pseudodata.DATASETS[:5])
            masses = selected[primary_dataset][channel]
            seen = int(((masses > low) & (masses < high)).sum())
            assert stats.poisson.cdf(seen, mean) > 0.02, (channel, low, seen, mean)
            assert stats.poisson.sf(seen - 1, mean) > 0.02, (channel, low, seen, mean)


def test_threads_that_need_the_campaign_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], writer.make

    def counted(folder: str | Path, **options: Any) -> Path:
        made.append(folder)
        return original(folder, **options)

    monkeypatch.setattr(writer, "make", counted)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda dataset: writer.ensure(dataset.name, tmp_path), writer.DATASETS))
    assert all(path.is_file() for path in paths)
    assert len(made) == 1
