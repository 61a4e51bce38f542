"""A profile with MFA under pytest-xdist: one code for all workers, and none of what it gives in any output."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from api_lab import cloud_lab
from aws_user import ACCOUNT, AMI, REGION, SOURCE
from scripted_aws import Call, ec2_error, scripted_aws

pytestmark = pytest.mark.usefixtures("aws_user")

ROLE = f"arn:aws:iam::{ACCOUNT}:role/deployer"
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}],
}
EVERYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
PROFILE = f"""
[profile admin]
role_arn = {ROLE}
source_profile = base
mfa_serial = arn:aws:iam::{ACCOUNT}:mfa/bob
[profile base]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = nobodys
"""
TESTS = """
import os
from pathlib import Path

import pytest

from nomad_testkit.wait import Deadline, Ok, Pending, wait_until


@pytest.mark.parametrize("number", range(2))
def test_it(nomad_target, number):
    here = Path(__file__).parent
    sts = nomad_target.client("sts")
    secret = sts._request_signer._credentials.secret_key
    (here / f"used-by-{os.environ['PYTEST_XDIST_WORKER']}").write_text(secret)
    assert sts.get_caller_identity()["Arn"].startswith("arn:aws:sts::")

    def both():
        found = list(here.glob("used-by-*"))
        return Ok(None) if len(found) == 2 else Pending(str(found))

    wait_until("the other worker", both, deadline=Deadline.after(60))
"""


def in_a_terminal(command: list[str], environ: dict[str, str], folder: Path, code: str) -> tuple[int, str, int]:
    """Run a command at a terminal, where a code is typed whenever one is asked for; gives status, text and codes."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(command[0], command, environ)
    seen, answered = b"", 0
    try:
        while True:
            try:
                data = os.read(terminal, 4096)
            except OSError:  # the process has ended
                break
            seen += data
            if seen.count(b"MFA code for") > answered:
                answered += 1
                os.write(terminal, code.encode() + b"\n")
    finally:
        _, status = os.waitpid(process, 0)
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen.decode(), answered


@pytest.mark.parametrize("code", ["123456", "000000"], ids=["right", "wrong"])
def test_workers_share_what_one_code_gives(code: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(PROFILE)
    (tmp_path / "test_inner.py").write_text(TESTS)
    of_base = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environ = {name: value for name, value in os.environ.items() if name not in of_base} | {"AWS_PROFILE": "admin"}
    used: set[str] = set()

    def each_code_once(call: Call) -> tuple[int, str] | None:
        if call.action != "AssumeRole":
            return None
        if call.parameters["TokenCode"] != "123456" or call.parameters["TokenCode"] in used:
            return ec2_error("AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code.")
        used.add(call.parameters["TokenCode"])
        return None

    settings = {"target": "aws", "region": REGION, "aws-account": ACCOUNT, "aws-source-cidr": SOURCE, "ami": AMI}
    with cloud_lab() as lab, scripted_aws(each_code_once, lab.ec2.meta.endpoint_url) as api:
        lab.iam.create_role(RoleName="deployer", AssumeRolePolicyDocument=json.dumps(TRUST))
        lab.iam.put_role_policy(RoleName="deployer", PolicyName="all", PolicyDocument=json.dumps(EVERYTHING))
        options = [f"--nomad-{name}={value}" for name, value in settings.items()]
        loud = ["-vv", "-rA", "-n2", "--dist=load", "-p", "no:cacheprovider", "--log-level=DEBUG", "--junitxml=r.xml"]
        command = [sys.executable, "-m", "pytest", *options, *loud]
        status, text, asked = in_a_terminal(command, environ | {"AWS_ENDPOINT_URL": api.url}, tmp_path, code)
        calls = [call for call in api.calls if call.action == "AssumeRole"]
    if code == "000000":
        assert status == 1, text
        assert "MultiFactorAuthentication failed" in text
        return
    assert status == 0, text
    assert "2 passed" in text
    assert (asked, len(calls)) == (1, 1), text
    used_by = sorted(tmp_path.glob("used-by-*"))
    assert len(used_by) == 2
    (secret,) = {path.read_text() for path in used_by}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path not in used_by]
    assert tmp_path / "r.xml" in files
    assert [path for path in files if secret in path.read_text(errors="replace")] == []
    assert secret not in text


INTERRUPTED = """
import os
import signal
import time
from pathlib import Path

import pytest


@pytest.fixture
def torn_down():
    yield
    time.sleep(2)  # far longer than pytest-xdist waits
    Path("torn-down").touch()


def test_it(torn_down):
    os.killpg(0, signal.SIGINT)
    time.sleep(60)
"""


def test_a_teardown_on_aws_is_waited_for_after_an_interrupt(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from xdist.workermanage import NodeManager\nNodeManager.EXIT_TIMEOUT = 0.1\n"
    )
    (tmp_path / "test_inner.py").write_text(INTERRUPTED)
    command = [sys.executable, "-m", "pytest", "-n1", "-p", "no:cacheprovider", "--nomad-target=aws"]
    done = subprocess.run(
        command, cwd=tmp_path, start_new_session=True, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == pytest.ExitCode.INTERRUPTED, done.stdout
    assert (tmp_path / "torn-down").exists(), done.stdout
