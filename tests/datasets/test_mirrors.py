"""From plan to spectrum without the portal: mirrors of `cms2016` and of ATLAS's campaigns, whose events are known."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import atlas_files
import awkward as ak
import known_events
import mirrors
import numpy as np
import pytest
import uproot
from click.testing import CliRunner
from http_server import FileServer
from known_events import ELECTRON, MUON, KnownEvent
from mirrors import Mirror

from higgsnb import datasets, engine, selection
from higgsnb.cli import main
from higgsnb.datasets.files import retries
from higgsnb.errors import CampaignError, ChecksumError

SEED = 20161


@pytest.fixture(scope="module")
def cms(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    return mirrors.cms2016(tmp_path_factory.mktemp("cms2016"), SEED)


@pytest.fixture(scope="module", params=["atlas2020", "atlas2025"])
def atlas(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    return mirrors.atlas(tmp_path_factory.mktemp(request.param), request.param, SEED)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))


def use(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> datasets.Campaign:
    monkeypatch.setenv("HIGGSNB_MIRROR", str(mirror.folder))
    return datasets.load(mirror.campaign)


# --- the whole way


def test_mirror_of_cms2016_is_planned_fetched_and_run(cms: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = use(cms, monkeypatch)
    shipped = datasets.load("cms2016")
    assert [one.name for one in campaign.datasets][:10] == [one.name for one in shipped.datasets]
    assert [index.url for one in campaign.datasets[:10] for index in one.index] == [
        index.url for one in shipped.datasets for index in one.index
    ]
    answer = CliRunner().invoke(main, ["plan", str(cms.campaign), "--json"])
    assert answer.exit_code == 0
    total = json.loads(answer.output)["total"]
    expanded = datasets.expand(campaign)
    assert total["files"] == expanded.n_files >= 30
    assert total["events"] == sum(cms.copies.values()) + sum(map(len, cms.simulated.values()))
    fetched = CliRunner().invoke(main, ["fetch", str(cms.campaign), "Run2016H_MuonEG"])
    assert fetched.exit_code == 0
    names = [name for line in fetched.output.split() if (name := Path(line).name).endswith(".root")]
    assert sorted(names) == sorted(Path(file.url).name for file in expanded.dataset("Run2016H_MuonEG").files)


def test_what_is_fetched_suffices_without_the_portal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also golden JSON and luminosity table; from a web server, as a folder is not copied into the cache."""
    mirror = mirrors.cms2016(tmp_path / "mirror", 7, events=20, simulated=5)
    with FileServer() as server:
        for path in mirror.folder.rglob("*"):
            if path.is_file():
                server.add(f"/{path.relative_to(mirror.folder)}", path.read_bytes())
        monkeypatch.setenv("HIGGSNB_MIRROR", server.base)
        assert CliRunner().invoke(main, ["fetch", str(mirror.campaign), "--quiet"]).exit_code == 0
    monkeypatch.delenv("HIGGSNB_MIRROR")
    monkeypatch.setattr(retries, "BACKOFF", 0.001)
    campaign = datasets.load(mirror.campaign)
    data = replace(campaign, datasets=tuple(one for one in campaign.datasets if one.is_data))
    (*_, result) = engine.run(data, selection.load("open2012"))
    assert len(result.candidates.run) == len(mirror.expected(known_events.OPEN2012))
    assert result.coverage.luminosity_fb[1] == pytest.approx(mirror.luminosity_fb)


def test_data_of_cms2016_are_counted_once_over_five_primary_datasets(
    cms: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = use(cms, monkeypatch)
    data = replace(campaign, datasets=tuple(one for one in campaign.datasets if one.is_data))
    (*_, result) = engine.run(data, selection.load("open2012"))
    assert result.complete
    rows = result.candidates
    ids = list(zip(rows.run.tolist(), rows.luminosity_block.tolist(), rows.event.tolist(), strict=True))
    expected = cms.expected(known_events.OPEN2012)
    assert len(ids) == len(set(ids)) == len(expected) > 50
    assert set(ids) == set(expected)
    channels = [selection.CHANNELS[channel] for channel in rows.channel]
    assert channels == [expected[one].channel for one in ids]
    for masses, name in ((rows.mass_4l, "mass_4l"), (rows.mass_z1, "mass_z1"), (rows.mass_z2, "mass_z2")):
        assert masses == pytest.approx([getattr(expected[one], name) for one in ids], abs=2e-3)
    removed = sum(cms.copies[one] - 1 for one in ids)
    assert sum(result.duplicates_removed.values()) == removed > 20
    assert max(cms.copies[one] for one in ids) == 5
    outside = [event for event in cms.data if event.fails == "golden json"]
    assert sum(result.rejected_by_golden_json.values()) == sum(cms.copies[event.id] for event in outside) > 0


def test_luminosity_of_the_mirror_is_that_of_its_eras(cms: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = use(cms, monkeypatch)
    assert campaign.luminosity_fb == 0
    assert datasets.check_inputs(campaign).luminosity_fb == pytest.approx(cms.luminosity_fb, rel=1e-12)
    data = replace(campaign, datasets=tuple(one for one in campaign.datasets if one.is_data))
    (*_, result) = engine.run(data, selection.load("open2012"))
    assert result.coverage.luminosity_fb == pytest.approx((cms.luminosity_fb, cms.luminosity_fb), rel=1e-12)
    assert not any(doubt.kind == "golden JSON" for doubt in result.doubts)


def test_file_that_is_not_the_one_in_the_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrors.cms2016(tmp_path / "mirror", 5, events=40, simulated=5)
    file = datasets.expand(use(mirror, monkeypatch)).files[0]
    place = mirror.folder / file.url.split("/", 3)[3]
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    with pytest.raises(ChecksumError, match="not the file that the catalogue describes"):
        datasets.fetch(file.url, alternatives=file.alternatives, size=file.bytes, adler32=file.adler32)


def test_event_that_the_record_does_not_know_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrors.cms2016(tmp_path / "mirror", 6, events=40, simulated=5)
    campaign = use(mirror, monkeypatch)
    first = campaign.datasets[0]
    wrong = replace(campaign, datasets=(replace(first, stated_events=(first.events or 0) + 1), *campaign.datasets[1:]))
    with pytest.raises(CampaignError, match=rf"dataset '{first.name}' should have .* events, its files have"):
        list(engine.run(wrong, selection.load("open2012")))


def test_mirror_of_atlas_is_planned_and_fetched(atlas: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = use(atlas, monkeypatch)
    shipped = datasets.load(campaign.name)
    assert [file.url for file in campaign.files] == [file.url for file in shipped.files]
    answer = CliRunner().invoke(main, ["plan", str(atlas.campaign), "--json"])
    assert answer.exit_code == 0
    assert json.loads(answer.output)["total"]["files"] == shipped.n_files
    name = next(one.name for one in campaign.datasets if one.is_data)
    assert CliRunner().invoke(main, ["fetch", str(atlas.campaign), name, "--quiet"]).exit_code == 0


# --- the files say what is claimed of them: each requirement, computed from the columns


def columns(mirror: Mirror, campaign: datasets.Campaign, name: str) -> ak.Array:
    """All events of a dataset."""
    files = datasets.expand(campaign).dataset(name).files
    trees = [uproot.open(mirror.folder / file.url.split("/", 3)[3])[campaign.tree] for file in files]
    return ak.concatenate([tree.arrays() for tree in trees if tree.num_entries])


def good_leptons(event: Any, flavour: str) -> list[int]:
    """Indices of the muons or electrons of an event that `run2` calls good, by its list of cuts."""
    found = []
    for i in range(int(event[f"n{flavour}"])):
        one = {name.partition("_")[2]: event[name][i] for name in event.fields if name.startswith(f"{flavour}_")}
        good = abs(one["dxy"]) < 0.5 and abs(one["dz"]) < 1.0 and one["sip3d"] < 4
        if flavour == "Muon":
            photons = sum(event["FsrPhoton_pt"][event["FsrPhoton_muonIdx"] == i]) / one["pt"]
            good &= one["pt"] > 5 and abs(one["eta"]) < 2.4 and one["isPFcand"]
            good &= one["pfRelIso03_all"] - photons < 0.35
        else:
            at = abs(one["eta"] + one["deltaEtaSC"])
            row = (
                (0.9128577458, 0.9056792368, 0.9439440575)
                if one["pt"] <= 10
                else (0.1559788054, 0.0273863727, -0.5532483665)
            )
            good &= (
                one["pt"] > 7 and abs(one["eta"]) < 2.5 and one["mvaFall17V2Iso"] > row[np.digitize(at, (0.8, 1.479))]
            )
        if good:
            found.append(i)
    return found


def kept_by_run2(event: Any, asked: set[str]) -> bool:
    """Whether four good leptons make two Z, and a path that is asked for has fired; for events of two clean pairs."""
    muons, electrons = good_leptons(event, "Muon"), good_leptons(event, "Electron")
    if len(muons) + len(electrons) != 4 or len(muons) % 2:
        return False
    pairs = []
    for flavour, indices in (("Muon", muons), ("Electron", electrons)):
        charges = [int(event[f"{flavour}_charge"][i]) for i in indices]
        if sum(charges):
            return False
        by_pt = sorted(indices, key=lambda i: -event[f"{flavour}_pt"][i])
        pairs += [(flavour, by_pt[n : n + 2]) for n in range(0, len(by_pt), 2)]
    masses = []
    for flavour, (a, b) in pairs:
        pt, eta, phi = (event[f"{flavour}_{name}"] for name in ("pt", "eta", "phi"))
        masses.append(math.sqrt(2 * pt[a] * pt[b] * (math.cosh(eta[a] - eta[b]) - math.cos(phi[a] - phi[b]))))
    return min(masses) > 12 and any(event[name] for name in event.fields if name in asked)


@pytest.mark.parametrize("name", ["Run2016G_DoubleMuon", "Run2016H_DoubleEG", "Run2016G_MuonEG", "Run2016H_SingleMuon"])
def test_files_of_cms_hold_the_events_that_run2_keeps(cms: Mirror, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    campaign = use(cms, monkeypatch)
    primary = campaign.dataset(name).primary_dataset
    asked = {path for paths in known_events.PATHS.values() for path in paths}
    known = {event.id: event for event in cms.data}
    certified = datasets.LumiMask.load(str(cms.folder / str(campaign.golden_json).split("/", 3)[3]))
    for event in columns(cms, campaign, name):
        one = known[int(event.run), int(event.luminosityBlock), int(event.event)]
        assert primary in one.primary_datasets
        fired = {path for path in event.fields if path.startswith("HLT_") and event[path]}
        assert fired == set(one.fired)
        key = np.array([one.run << 32 | one.section])
        found = kept_by_run2(event, asked) and bool(certified.holds(key)[0])
        assert found == one.passes(known_events.RUN2), one.fails


def test_simulation_of_cms_has_weights_of_both_signs_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = mirrors.cms2016(tmp_path / "mirror", 8, events=20, simulated=200, skimmed=4.0)
    campaign = use(mirror, monkeypatch)
    for name, events in mirror.simulated.items():
        (file,) = datasets.expand(campaign).dataset(name).files
        with uproot.open(mirror.folder / file.url.split("/", 3)[3]) as opened:
            weights = opened["Events"]["genWeight"].array(library="np")
            runs = opened["Runs"].arrays(library="np")
        assert weights.tolist() == [event.weight for event in events]
        assert 10 < (weights < 0).sum() < 80
        assert runs["genEventSumw"].tolist() == [4 * math.fsum(event.weight for event in events)]
        assert runs["genEventCount"].tolist() == [800]


def kept_by_atlas(events: ak.Array, release: str) -> ak.Array:
    """The cuts of ATLAS's example, one after the other, in its order."""
    unit = 1000.0 if release == "2020" else 1.0
    pt, kind = events.lep_pt / unit, events.lep_type
    matched = events.lep_trigMatched if release == "2020" else events.lep_isTrigMatched
    good = (events.trigE | events.trigM) & (ak.sum(matched, axis=1) >= 1) & (events.lep_n == 4)
    good = good & (pt[:, 0] > 20) & (pt[:, 1] > 15) & (pt[:, 2] > 10)
    if release == "2020":
        passes = (
            events.lep_isTightID & (events.lep_ptcone30 / unit / pt < 0.3) & (events.lep_etcone20 / unit / pt < 0.3)
        )
    else:
        identified = ((kind == MUON) & events.lep_isMediumID) | ((kind == ELECTRON) & events.lep_isLooseID)
        passes = identified & events.lep_isLooseIso
    good = good & (ak.sum(passes, axis=1) == 4) & (ak.sum(events.lep_charge, axis=1) == 0)
    return good & np.isin(ak.to_numpy(ak.sum(kind, axis=1)), (44, 48, 52))


def test_files_of_atlas_hold_the_events_that_its_example_keeps(atlas: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = use(atlas, monkeypatch)
    release = campaign.name.removeprefix("atlas")
    known = {(event.run, event.number): event for event in atlas.data}
    seen: Counter[str | None] = Counter()
    for dataset in campaign.datasets:
        if not dataset.is_data:
            continue
        events = columns(atlas, campaign, dataset.name)
        for event, kept in zip(events, kept_by_atlas(events, release), strict=True):
            one = known[int(event.runNumber), int(event.eventNumber)]
            assert bool(kept) == one.passes(known_events.ATLAS4L), one.fails
            seen[one.fails] += 1
    assert sum(seen.values()) == len(atlas.data)
    assert set(seen) == {None, *known_events.ATLAS4L}


def test_simulation_of_atlas_adds_up_to_what_its_sample_says(atlas: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = use(atlas, monkeypatch)
    for dataset in campaign.datasets:
        if dataset.is_data:
            continue
        events, known = columns(atlas, campaign, dataset.name), atlas.simulated[dataset.name]
        generated = 4 * math.fsum(event.weight for event in known)
        stated = dataset.sum_of_weights
        total = events[stated][0] if isinstance(stated, str) else stated
        assert total == pytest.approx(generated)
        factors = [ak.to_numpy(events[name]) for name in str(dataset.weight).split(" * ") if name in events.fields]
        assert len(factors) == len(str(dataset.weight).split(" * "))
        constants = 1.0 if campaign.name == "atlas2020" else 0.8 * 1.25 * 0.5
        weights = np.prod(np.array(factors, np.float64), axis=0)
        assert weights == pytest.approx([constants * atlas_files.weight(event) for event in known], rel=1e-12)
        assert (weights < 0).any()


@pytest.mark.parametrize("release", ["2020", "2025"])
def test_vectors_hold_what_counted_branches_do(tmp_path: Path, release: atlas_files.Release) -> None:
    events = known_events.atlas_events(3, 100)
    events.append(KnownEvent(1, 0, 5, "4mu", (), 0.0, 0.0))  # no lepton
    read = []
    for vectors in (False, True):
        path = atlas_files.write(tmp_path / f"{vectors}.root", events, release, simulated=True, vectors=vectors)
        with uproot.open(path) as file:
            tree = file[atlas_files.TREES[release]]
            assert file.keys() == [f"{atlas_files.TREES[release]};1"]
            assert tree["lep_pt"].typename == ("std::vector<float>" if vectors else "float[]")
            read.append(tree.arrays())
    counted, vector = read
    assert counted.fields == vector.fields or set(counted.fields) == set(vector.fields)
    assert all(counted[name].tolist() == vector[name].tolist() for name in counted.fields)


def test_vectors_are_read_by_root_as_its_own(tmp_path: Path) -> None:
    root = pytest.importorskip("ROOT", reason="reading the files back needs ROOT")
    if not hasattr(root, "TFile"):
        pytest.skip("ROOT is not whole")
    events = known_events.atlas_events(4, 200)
    path = atlas_files.write(tmp_path / "v.root", events, "2025", simulated=True, vectors=True)
    frame = root.RDataFrame("analysis", str(path))
    assert frame.GetColumnType("lep_pt") == "ROOT::VecOps::RVec<float>"
    total = frame.Define("total", "Sum(lep_pt)").Sum("total").GetValue()
    expected = sum(np.float32(lepton.pt) for event in events for lepton in event.leptons)
    assert total == pytest.approx(float(expected), rel=1e-6)


def test_same_seed_makes_the_same_mirror(tmp_path: Path) -> None:
    made = [mirrors.cms2016(tmp_path / name, 9, events=30, simulated=5) for name in "ab"]
    assert made[0].data == made[1].data
    assert [path.relative_to(made[0].folder) for path in sorted(made[0].folder.rglob("*.root"))] == [
        path.relative_to(made[1].folder) for path in sorted(made[1].folder.rglob("*.root"))
    ]
