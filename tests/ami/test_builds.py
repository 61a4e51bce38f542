"""Images built by Packer: deployed from, refused with its own words, and never left behind."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from deploying import everything
from recording_endpoint import recording

from nomad_testkit import Example
from nomad_testkit.checks import NodesReady, RaftPeers
from nomad_testkit.deployment.amis import built
from nomad_testkit.deployment.lifecycle import deployed
from nomad_testkit.errors import BrokenError, PackerError
from nomad_testkit.images.cache import Cache
from nomad_testkit.runs.run import ENVIRONMENT_VARIABLE
from nomad_testkit.settings import Settings
from nomad_testkit.targets import Target
from nomad_testkit.targets.aws.policy import seen_calls
from nomad_testkit.targets.embedded.target import EmbeddedTarget

log = logging.getLogger(__name__)

EXAMPLE = "nomad-consul-colocated-cluster"


@pytest.fixture
def settings(nomad_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The runs of a test's own are those of no other process on this machine.
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "state"))
    return replace(nomad_settings, artifacts=tmp_path / "artifacts")


def with_provisioner(bare: Path, lines: str) -> None:
    file = bare / "nomad-consul.pkr.hcl"
    provisioner = f'  provisioner "shell" {{\n    inline = [{lines}]\n  }}\n}}\n'
    file.write_text(file.read_text().rstrip().removesuffix("}") + provisioner)


def test_a_cluster_is_deployed_from_the_image(nomad_ami: str, settings: Settings, nomad_target: Target) -> None:
    example = Example.load(EXAMPLE).replace(ami_id=nomad_ami, num_servers=1, num_clients=1)
    with deployed(settings, example, target=nomad_target, progress=log.info) as cluster:
        assert {host.instance.image_id for host in cluster.hosts} == {nomad_ami}
        cluster.require(RaftPeers(1), NodesReady(1), within=60)


def test_the_image_is_deleted_after_a_deployment_that_failed(
    bare: Path, settings: Settings, nomad_target: EmbeddedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(nomad_target)

    def build_and_deploy(url: str) -> None:
        monkeypatch.setattr(EmbeddedTarget, "endpoint_url", url)
        with built(settings, target=nomad_target, progress=log.info, template=bare) as ami:
            made = everything(nomad_target)
            assert set(made["AMIs"]) - set(before["AMIs"]) == {ami.ami_id}
            assert len(set(made["snapshots"]) - set(before["snapshots"])) == 1
            (image,) = nomad_target.client("ec2").describe_images(ImageIds=[ami.ami_id])["Images"]
            assert {"Key": "nomad-testkit-run", "Value": ami.run_id} in image["Tags"]
            # The example's agents are not on it, so that its user data must fail.
            example = Example.load(EXAMPLE).replace(ami_id=ami.ami_id, num_servers=1, num_clients=0)
            with deployed(settings, example, target=nomad_target, progress=log.info):
                pytest.fail("it became ready")

    with recording(nomad_target.endpoint_url) as (url, calls), pytest.raises(BrokenError, match="user data"):
        build_and_deploy(url)
    assert everything(nomad_target) == before
    # From these its IAM policy is made.
    assert sorted(set(calls)) == list(seen_calls("packer")), (
        "fixtures/recorded/aws-calls.json has other calls of Packer"
    )


def test_an_interrupted_build_leaves_nothing(bare: Path, settings: Settings, nomad_target: Target) -> None:
    with_provisioner(bare, '"sleep 600"')
    before = everything(nomad_target)
    seen: list[dict[str, list[str]]] = []

    def interrupt(line: str) -> None:
        if line.startswith("packer: Connected"):
            seen.append(everything(nomad_target))
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        built(settings, target=nomad_target, progress=interrupt, template=bare),
    ):
        pytest.fail("it was built")
    assert len(seen[0]["instances"]) == len(before["instances"]) + 1
    assert len(seen[0]["key pairs"]) == len(before["key pairs"]) + 1
    assert everything(nomad_target) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda text: text.replace("  instance_type  ", "  instanze_type  "),
            'An argument named "instanze_type" is not',
        ),
        (lambda text: text.replace('variable "tags"', 'variable "labels"'), 'A "tags" variable was passed in'),
        (lambda text: text + "\n}\n", "Argument or block definition required"),
    ],
    ids=["argument", "variable", "syntax"],
)
def test_a_template_that_packer_refuses_is_refused_in_its_words(
    change: Callable[[str], str], words: str, bare: Path, settings: Settings, nomad_target: Target
) -> None:
    file = bare / "nomad-consul.pkr.hcl"
    file.write_text(change(file.read_text()))
    before = everything(nomad_target)
    with (
        pytest.raises(PackerError, match="Packer refuses") as refused,
        built(settings, target=nomad_target, progress=log.info, template=bare),
    ):
        pytest.fail("it was built")
    assert str(bare) in str(refused.value)
    assert words in str(refused.value)
    assert everything(nomad_target) == before
    assert not settings.artifacts.exists()


@pytest.fixture(scope="session")
def cache_folder() -> Path:
    """The cache of this run: `pytester`, which is made after it, gives the user another home."""
    return Cache().root


def test_pytest_shows_packers_words_and_no_traceback(
    cache_folder: Path, bare: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TESTKIT_CACHE", str(cache_folder))
    (bare / "nomad-consul.pkr.hcl").write_text("nonsense\n")
    pytester.makeconftest(
        f"""
        from pathlib import Path
        import pytest

        @pytest.fixture(scope="session")
        def nomad_template():
            return Path({str(bare)!r})
        """
    )
    pytester.makepyfile("def test_it(nomad_ami): pass")
    ran = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines([f"*Packer refuses {bare} (status 1). Packer's own words:", "*Error: *"])
    ran.stdout.no_fnmatch_line("*Traceback*")
    ran.stdout.no_fnmatch_line("*During handling*")
    ran.stdout.no_fnmatch_line("*packer.py:*")
