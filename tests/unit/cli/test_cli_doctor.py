"""What `nomad-testkit doctor` tells, and what it puts right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call

from nomad_testkit import setup
from nomad_testkit.cli import doctor
from nomad_testkit.ec2.machines import isolation
from nomad_testkit.errors import Missing
from nomad_testkit.settings import Settings

pytestmark = pytest.mark.usefixtures("account")


def test_doctor_tells_what_is_missing_with_its_fix_and_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    there: set[str] = set()

    def findings(settings: Settings) -> list[doctor.Finding]:
        nft = doctor.Finding("nft", doctor.MISSING, fix="apt-get install nftables", package="nftables")
        image = doctor.Finding("base image", doctor.LATER, fix="at first use", make=lambda: made.append("image"))
        packer = doctor.Finding("packer", doctor.MISSING, package="packer", optional=True)
        return [doctor.Finding("nft", doctor.FOUND, "/usr/sbin/nft") if "nftables" in there else nft, image, packer]

    monkeypatch.setattr(doctor, "findings", findings)
    result = call("doctor")
    assert result.exit_code == 1
    assert "MISSING  nft\n         apt-get install nftables\nlater    base image\n" in result.stdout
    assert "-        packer\n" in result.stdout
    assert json.loads(call("doctor", "--json").stdout) == {
        "ready": False,
        "findings": [
            {"what": what, "state": state, "where": None, "fix": fix, "optional": what == "packer"}
            for what, state, fix in (
                ("nft", "missing", "apt-get install nftables"),
                ("base image", "later", "at first use"),
                ("packer", "missing", None),
            )
        ],
    }
    monkeypatch.setattr(setup, "install", lambda packages, run, say: there.update(packages))
    result = call("doctor", "--fix")
    assert (result.exit_code, there, made) == (0, {"nftables"}, ["image"])
    assert "everything needed is there" in result.stdout
    call("doctor", "--fix", "--optional")
    assert "packer" in there


def test_doctor_looks_at_the_programs_and_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "find_program", lambda name: None if name == "nft" else f"/bin/{name}")
    monkeypatch.setattr("nomad_testkit.images.agents.preflight", lambda *_, **__: [Missing("nomad", "name a binary")])
    found = {one.what: one for one in doctor.findings(Settings())}
    assert (found["nft"].state, found["nft"].fix) == ("missing", "apt-get install nftables")
    assert (found["ip"].state, found["ip"].where) == ("found", "/bin/ip")
    assert (found["nomad 1.6.1"].state, found["nomad 1.6.1"].fix) == ("missing", "name a binary")
    assert found["folder for runs"].state == "found"


def test_doctor_looks_for_what_applies_terraforms_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what = "tofu or terraform (examples that are Terraform's)"

    def look(named: Path | None = None) -> doctor.Finding:
        return {one.what: one for one in doctor.findings(Settings(target="aws", terraform=named))}[what]

    monkeypatch.setenv("PATH", str(tmp_path))
    none = look()
    assert (none.state, none.optional) == ("missing", True)
    assert none.fix.startswith("install OpenTofu 1.6 or newer")
    program = tmp_path / "tofu"
    program.write_text("#!/bin/sh\necho OpenTofu v1.10.10\n")
    program.chmod(0o755)
    assert (look().state, look().where) == ("found", f"OpenTofu 1.10.10 ({program})")
    named = look(tmp_path / "another")
    assert (named.state, named.optional) == ("missing", False)
    assert named.where.startswith(f"Terraform or OpenTofu (`{tmp_path / 'another'} version` says 'No such file")


@pytest.mark.parametrize(
    ("user", "lacking", "state", "where"),
    [
        (0, "", "found", "root on a host is nobody on this machine"),
        (0, "a tmpfs cannot", "missing", "a tmpfs cannot; so root on a host is root on this machine, without some"),
        (1000, "", "later", "only root can find out"),
    ],
)
def test_doctor_says_what_root_on_a_host_is_here(
    user: int, lacking: str, state: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, ...]] = []

    def missing(*folders: Path) -> str:
        asked.append(folders)
        return lacking

    monkeypatch.setattr(isolation, "missing_isolation", missing)
    monkeypatch.setattr("os.geteuid", lambda: user)
    finding = doctor.isolation(tmp_path / "no/such")
    assert (finding.state, finding.optional) == (state, state != "found")
    assert finding.where.startswith(where)
    assert asked == ([(tmp_path,)] if user == 0 else [])
