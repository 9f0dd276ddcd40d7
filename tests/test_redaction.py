"""No secret leaves the package: not in an error, a log record, a repr, a notebook or a file."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from generators import random_leptons
from http_server import FileServer
from outreach import write

import higgsnb
from higgsnb import cluster, datasets, engine, errors, provenance, selection
from higgsnb.__main__ import main
from higgsnb.cluster.machine import Check
from higgsnb.cluster.options import ClusterSpec
from higgsnb.datasets import Address, Campaign
from higgsnb.datasets.files.request import SourceError
from higgsnb.redaction import is_secret, logger, redact
from higgsnb.results import Failure, Result
from higgsnb.widgets.view import describe_error

CANARY = "c4n4ryC4N4RY"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        # by the name of a parameter, wherever it stands
        ("https://h/a.root?code=§&n=1", "https://h/a.root?code=***&n=1"),
        ("https://h/a?access=§", "https://h/a?access=***"),
        ("https://h/a?Policy=§&Signature=§&Key-Pair-Id=§", "https://h/a?Policy=***&Signature=***&Key-Pair-Id=***"),
        (
            "https://h/a?AWSAccessKeyId=§&Signature=§&Expires=1",
            "https://h/a?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        ("https://h/a?X-Goog-Credential=§&generation=1", "https://h/a?X-Goog-Credential=***&generation=1"),
        ("https://h/a?sv=2020&sr=b&sig=§%3D", "https://h/a?sv=2020&sr=b&sig=***"),
        ("root://h//a?authz=Bearer §&xrd.a=1", "root://h//a?authz=***&xrd.a=1"),
        ("root://h//a?cap.sym=§&cap.msg=§", "root://h//a?cap.sym=***&cap.msg=***"),
        ("token=§", "token=***"),
        ("refused (sig=§)", "refused (sig=***)"),
        ("got 'access_token=§', sent secret=§.", "got 'access_token=***', sent secret=***"),
        ("AWS_SECRET_ACCESS_KEY=§ --password=§", "AWS_SECRET_ACCESS_KEY=*** --password=***"),
        ("https://h/a?token=it's(§)", "https://h/a?token=***)"),
        ("<a href='https://h/?n=1&amp;token=§'>", "<a href='https://h/?n=1&amp;token=***'>"),
        ("https://h/?to=https%3A%2F%2Fu%3A§%40x%2F%3Ftoken%3D§%26n%3D1", "https://h/?to=***"),
        ("to%3Dhttps%3A%2F%2Fu%3A§%40x%2F%3Fcode%3D§%26n%3D1", "to%3Dhttps%3A%2F%2F***%40x%2F%3Fcode%3D***%26n%3D1"),
        ("{'auth_token': '§', \"n\": 1}", "{'auth_token': '***', \"n\": 1}"),
        ("password: §", "password: ***"),
        # by its place
        ("https://§@github.com/o/r/tree/main", "https://***@github.com/o/r/tree/main"),
        ("https://u:§/§@h/a", "https://***@h/a"),
        ("https://u:§?§#§@h:80/a", "https://***@h:80/a"),
        ("u:§@registry.example/image:v1", "***@registry.example/image:v1"),
        ("Authorization: Basic §1Bhc3M=", "Authorization: ***"),
        ("[('Authorization', 'Bearer §')]", "[('Authorization', '***')]"),
        ("Set-Cookie: id=§; Max-Age=1", "Set-Cookie: ***"),
        ("X-Auth-Token: §", "X-Auth-Token: ***"),
        ("sent Bearer §.§-§", "sent Bearer ***"),
        # by its form
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc-_1", "***"),
        ("ghp_0123456789abcdefABCD", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nC\n-----END RSA PRIVATE KEY-----", "***"),
    ],
)
def test_redact_hides_a_secret(text: str, clean: str) -> None:
    assert redact(text.replace("§", CANARY)) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a@b.root",
        "https://[::1]:80/a@b.root?n=1",
        "registry.example/org/image:v1@sha256:0123456789abcdef",
        "image:v1@sha256:0123456789abcdef",
        "signal=8.0 passed=12 monkey=4 design=5",
        "exit code=139, key=None, token=''",
        "/data/key=a/access=public.root",
        "pull_secrets = ['mine']; the key 'xsec' is now called 'cross_section_pb'",
        "without the branches needed: 'Muon_pt'",
        "Basic understanding of a bearer",
    ],
)
def test_redact_leaves_everything_else(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [("access_token", True), ("AWSAccessKeyId", True), ("PHPSESSID", True), ("signal", False), ("n_passed", False)],
)
def test_names_of_secrets_are_taken_word_by_word(name: str, secret: bool) -> None:
    assert is_secret(name) == secret


def test_address_hides_parameters_and_users_with_blanks_and_quotes() -> None:
    address = Address.of(f"https://me:{CANARY} '{CANARY}@h/a.root?n=1&token={CANARY} \"{CANARY}&m=2")
    assert str(address) == "https://***@h/a.root?n=1&token=***&m=2"


@pytest.mark.parametrize("name", ["key", "code", "pass"])
def test_files_told_apart_by_a_parameter_are_not_one_in_the_cache(name: str) -> None:
    one, other = (Address.of(f"https://h/get?{name}={file}.root&token=t") for file in "ab")
    assert one.without_secrets != other.without_secrets
    assert "token" not in one.without_secrets


# --- the edges


def test_errors_hold_no_secret_wherever_they_were_raised() -> None:
    error = errors.TransferError(f"https://u:{CANARY}@h/a: refused", f"Renew token={CANARY}.")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - as it comes from a worker
    foreign = OSError(f"401 for https://h/a?sig={CANARY}")
    source = SourceError("permanent", f"Bearer {CANARY}")
    shown = [error, again, errors.describe(foreign), source, describe_error(foreign)]
    assert CANARY not in f"{error}{shown}"
    assert again.message == "https://***@h/a: refused"


def test_log_records_hold_no_secret_for_any_handler(caplog: pytest.LogCaptureFixture) -> None:
    log = logger("higgsnb.test_redaction")
    with caplog.at_level(logging.DEBUG):
        log.info("asking %s", f"https://u:{CANARY}@h")
        log.error("failed", exc_info=OSError(f"token={CANARY}"))
    first, second = caplog.records
    assert (first.getMessage(), second.exc_info) == ("asking https://***@h", None)
    assert "OSError: token=***" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.one_python
def test_every_module_logs_through_the_redacting_logger() -> None:
    package = Path(higgsnb.__file__).parent
    direct = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "getLogger(__name__)" in path.read_text(encoding="utf-8")
    }
    assert direct == set()


def secret_campaign(url: str) -> Campaign:
    """The toy with one file of this address, and secrets in every other text that may be an address."""
    toy = datasets.load("toy")
    address = f"https://u:{CANARY}@h/x?code={CANARY}"
    file = datasets.File(url, alternatives=(address,))
    dataset = replace(toy.datasets[0], process="data", files=(file,), title=address, doi=address)
    texts = dict.fromkeys(("title", "golden_json", "luminosity_table", "source", "normalisation"), address)
    return replace(toy, **texts, datasets=(dataset,))


def test_reprs_hold_no_secret() -> None:
    campaign = secret_campaign(f"https://h/a.root?token={CANARY}")
    (chunk,) = datasets.plan_chunks(campaign, {campaign.files[0].url: 5}, 5)
    assert CANARY in str(chunk.golden_json)
    failure = Failure("d", campaign.files[0].url, "OSError", f"token={CANARY}", f"Renew {campaign.files[0].url}")
    spec = ClusterSpec(kind="kubernetes", options={"environment": {"API_TOKEN": CANARY}})
    check = Check("session", True, f"Binder, https://{CANARY}@github.com/o/r")
    items = [campaign, *campaign.datasets, *campaign.files, chunk, failure, failure.as_dict(), spec, check]
    shown = [*map(repr, items), campaign._repr_html_()]
    assert CANARY not in "".join(shown)
    assert "golden_json='https://***@h/x?code=***'" in repr(chunk)


@pytest.fixture
def poisoned_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Secrets in the variables of a session in a hub, each as it is met there."""
    found = {
        "BINDER_REPO_URL": f"https://{CANARY}@github.com/o/r",
        "BINDER_REF_URL": f"https://oauth2:{CANARY}@gitlab.example/o/r/tree/main",
        "BINDER_LAUNCH_HOST": f"https://u:{CANARY}@binder.example/",
        "BINDER_REQUEST": f"v2/gh/o/r?token={CANARY}",
        "JUPYTER_IMAGE_SPEC": f"u:{CANARY}@registry.example/image:v1",
        "JUPYTERHUB_SERVICE_PREFIX": f"/user/me/?token={CANARY}",
        "JUPYTERHUB_API_TOKEN": CANARY,
        "HTTPS_PROXY": f"http://u:{CANARY}@127.0.0.1:9",
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return


@pytest.mark.usefixtures("poisoned_environment")
def test_provenance_and_doctor_tell_the_session_without_its_secrets() -> None:
    machine = provenance.machine()
    assert machine["image"] == "***@registry.example/image:v1"
    assert machine["binder"] == "https://***@gitlab.example/o/r/tree/main"
    checks = {check.name: check for check in cluster.doctor()}
    assert "gitlab.example" in checks["session"].found
    assert CANARY not in repr(checks)


SECRETS = f"authz=Bearer%20{CANARY}&code={CANARY}&access={CANARY}&Policy={CANARY}&X-Amz-Signature={CANARY}"


@pytest.mark.usefixtures("poisoned_environment")
@pytest.mark.parametrize("mirror", ["", "http://u:{canary}@127.0.0.1:9/m?token={canary}"], ids=["hosts", "mirror"])
def test_nothing_that_a_run_prints_logs_or_writes_holds_a_secret(
    mirror: str, tmp_path: Path, http_server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path / "cache"))
    if mirror:
        monkeypatch.setenv("HIGGSNB_MIRROR", mirror.format(canary=CANARY))
        monkeypatch.setattr("higgsnb.datasets.files.retries.TRIES", 1)
    good = write(tmp_path / "good.root", random_leptons(300, seed=1))
    base = http_server.base.replace("://", f"://u:{CANARY}@")
    http_server.add("/good.root", good.read_bytes())
    http_server.add("/bad.root", b"root" + bytes(500))
    files = [f'{{ url = "{base}/{name}.root?{SECRETS}" }}' for name in ("good", "bad", "gone")]
    files.append(f'{{ url = "{write(tmp_path / "here.root", random_leptons(300, seed=2))}" }}')
    path = tmp_path / "mine.toml"
    path.write_text(f"""
[campaign]
name = "mine"
title = "from {base}/?token={CANARY}"
schema = "outreach"
luminosity_fb = 1.0
luminosity_uncertainty = 0.0
energy_tev = 8
[[dataset]]
name = "mc"
process = "higgs"
cross_section_pb = 0.1
file = [{", ".join(files)}]
""")
    told = ""
    commands = ["run", str(path), "--out", str(tmp_path / "out"), "--skim"]
    for options, code in ((["--log-level", "debug"], 3), (["--debug"], 2)):
        strict = ["--on-error", "strict"] if code == 2 else []
        result = CliRunner().invoke(main, [*options, *commands, *strict])
        assert result.exit_code == code, result.stderr
        told += result.output + result.stderr + repr(result.exception)
    assert "Traceback" in told
    for command in (
        ["plan", str(path)],
        ["fetch", str(path)],
        ["doctor"],
        ["plan", base],
        ["run", "-s", f"{base}/c.toml"],
        ["ledger", "show", base],
    ):
        result = CliRunner().invoke(main, command)
        told += result.output + result.stderr
    assert "gone.root" in told
    written = [file for folder in ("out", "cache") for file in (tmp_path / folder).rglob("*") if file.is_file()]
    assert {"result.json", "ledger.sqlite"} <= {file.name for file in written}
    assert CANARY not in told
    assert [file for file in written if CANARY.encode() in file.read_bytes() or CANARY in file.name] == []


def test_results_of_a_run_hold_no_secret(http_server: FileServer) -> None:
    base = http_server.base.replace("://", f"://u:{CANARY}@")
    campaign = replace(secret_campaign(f"{base}/gone.root?{SECRETS}"), golden_json=None, luminosity_table=None)
    with pytest.raises(errors.FileError) as caught:  # as nothing could be read
        list(engine.run(campaign, selection.load("open2012")))
    (failure,) = caught.value.failed
    result = Result(campaign, selection.load("open2012"), failures={(0, 0): failure})
    shown = [repr(result), result._repr_html_(), repr(failure), repr(result.failures), json.dumps(dict(result.run))]
    assert "gone.root" in shown[1]
    assert CANARY not in "".join(shown)


def test_strict_error_and_its_causes_hold_no_secret(http_server: FileServer) -> None:
    campaign = secret_campaign(f"{http_server.base}/gone.root?{SECRETS}")
    campaign = replace(campaign, golden_json=None, luminosity_table=None)
    with pytest.raises(errors.FileError) as caught:
        list(engine.run(campaign, selection.load("open2012"), on_error="strict"))
    told, error = "", caught.value
    while error is not None:
        told, error = told + repr(error) + str(error), error.__cause__ or error.__context__
    assert "gone.root" in told
    assert CANARY not in told
