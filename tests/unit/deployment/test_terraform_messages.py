"""What is told of a program's words, from a recording of OpenTofu: short, in its own words, and without secrets."""

from __future__ import annotations

import pytest

from nomad_testkit.deployment.terraform.messages import HIDDEN, Output, diagnostic, plain
from nomad_testkit.modules.bundle import fixtures_dir

SECRET = "s3cr3t-t0ken"


def heard(*secrets: str) -> tuple[Output, list[str]]:
    said = Output(secrets)
    recording = (fixtures_dir() / "recorded" / "tofu-apply-fails.jsonl").read_text()
    assert SECRET in recording, "the program itself shows it"
    return said, [told for line in recording.splitlines() if (told := said.hear(line))]


def test_a_person_is_told_what_is_created() -> None:
    _, told = heard()
    assert told == [
        "terraform_data.servers: Creating...",
        "terraform_data.servers: Creation complete after 0s [id=802ab0cc-fdd2-dfac-0abe-9fbccd0abcad]",
        "terraform_data.clients: Creating...",
        "terraform_data.clients: Creation errored after 0s",
    ]


def test_an_error_is_told_with_place_and_reason_and_without_secrets() -> None:
    said, _ = heard(SECRET)
    assert said.own_words() == (
        "Error: local-exec provisioner error\n"
        '  on main.tf line 12, in terraform_data.clients: provisioner "local-exec" {\n'
        f"  Error running command 'echo no room for {HIDDEN} >&2; exit 3': exit status 3. Output: no room for {HIDDEN}"
    )


def test_the_log_has_everything_in_words_but_outputs_and_secrets() -> None:
    said, _ = heard(SECRET)
    log = "\n".join(said.lines)
    assert said.lines[0] == "14:51:35 OpenTofu 1.10.10"
    assert "14:51:35 Plan: 2 to add, 0 to change, 0 to destroy." in said.lines
    assert "Error: local-exec provisioner error" in log
    assert SECRET not in log
    assert "Outputs" not in log
    assert "{" not in log.replace('provisioner "local-exec" {', "")


def test_a_secret_is_hidden_before_a_line_is_cut_short() -> None:
    long = "x" * 290 + SECRET + "y" * 50
    told = diagnostic({"summary": "No", "detail": long}, hide=Output((SECRET,)).hide)
    assert told == "Error: No\n  " + "x" * 290 + "(hidden..."


def test_what_is_short_would_hide_half_of_everything() -> None:
    assert Output(("3", "ab", "abc")).hide("3 ab abc") == f"3 ab {HIDDEN}"


def test_of_a_long_error_the_first_lines_and_the_last_are_told() -> None:
    told = diagnostic({"severity": "error", "summary": "No", "detail": "\n".join(map(str, range(100)))})
    assert told.split() == ["Error:", "No", "0", "1", "2", "...", *map(str, range(88, 100))]


def test_of_many_errors_the_first_are_told() -> None:
    said = Output()
    said.diagnose(
        [{"severity": "warning", "summary": "old"}, *({"severity": "error", "summary": f"no {n}"} for n in range(7))]
    )
    assert said.own_words() == "\n".join([*(f"Error: no {n}" for n in range(5)), "and 2 more errors"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Killed", "Killed"),
        ('{"@message": "half a li', '{"@message": "half a li'),
        ('["no", "message"]', '["no", "message"]'),
        ("", "(nothing)"),
    ],
)
def test_what_is_no_message_is_told_as_it_is(line: str, words: str) -> None:
    said = Output()
    assert said.hear(line) is None
    assert said.own_words() == words


def test_without_json_the_errors_are_found_behind_what_was_done() -> None:
    said = Output()
    for line in "Initializing...\n- a plugin\n╷\n│ Error: No module\n│ \n│   on main.tf line 1:\n╵\n".splitlines():
        said.hear(line)
    assert said.own_words() == "Error: No module\n  on main.tf line 1:"


def test_colours_and_frames_are_taken_off() -> None:
    assert plain("\x1b[1m\x1b[31m╷\x1b[0m\n│ a\n╵\nb │ c") == "a\nb │ c"
