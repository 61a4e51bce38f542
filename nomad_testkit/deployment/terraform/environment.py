"""The environment of Terraform and OpenTofu: the user's, without variables that change a run or its output."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "TF_VAR_"
RUN_DEFAULT_TAG = "TF_AWS_DEFAULT_TAGS_"
"""Prefix of a default tag's key: the AWS provider tags every resource that supports default tags (since 5.62:
https://registry.terraform.io/providers/hashicorp/aws/latest/docs#default_tags-configuration-block); auto scaling
groups do not."""
_DROPPED = ("TF_LOG", "TF_CLI_ARGS", VARIABLE, "TF_DATA_DIR", "TF_WORKSPACE", "TF_INPUT", "TF_IN_AUTOMATION")
"""Prefixes to remove. The rest stays: mirrors, tokens and state encryption are part of a user's set-up."""


def environment(
    environ: Mapping[str, str],
    *,
    variables: Mapping[str, str],
    tags: Mapping[str, str],
    plugins: Path,
    region: str,
    endpoint_url: str | None,
    credentials: Mapping[str, str] | None,
) -> dict[str, str]:
    """Return a program's environment; `credentials` replace all of the user's AWS settings.

    `variables` become TF_VAR_…; `plugins` is the provider cache, unless the user has set one.
    """
    kept = {name: value for name, value in environ.items() if not name.startswith(_DROPPED)}
    if credentials is not None:
        kept = {name: value for name, value in kept.items() if not name.startswith("AWS_")}
        kept |= {
            **credentials,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    if endpoint_url is not None:
        kept["AWS_ENDPOINT_URL"] = endpoint_url
    kept.setdefault("TF_PLUGIN_CACHE_DIR", str(plugins))
    return (
        kept
        | {
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "CHECKPOINT_DISABLE": "1",
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            # The cache may leave the lock file incomplete; the file is thrown away with its copy.
            "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1",
        }
        | {f"{RUN_DEFAULT_TAG}{key}": value for key, value in tags.items()}
        | {f"{VARIABLE}{name}": value for name, value in variables.items()}
    )


def variable_text(value: Any) -> str:
    """Format a value for TF_VAR_…: a string unchanged, everything else as JSON, which is valid HCL.

    >>> variable_text(["10.0.0.0/8"]), variable_text("a b"), variable_text(3)
    ('["10.0.0.0/8"]', 'a b', '3')
    """
    return value if isinstance(value, str) else json.dumps(value)
