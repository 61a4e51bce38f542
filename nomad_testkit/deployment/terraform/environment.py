"""The environment of Terraform and OpenTofu: the user's, without what would change what a run does or says."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "TF_VAR_"
RUN_DEFAULT_TAG = "TF_AWS_DEFAULT_TAGS_"
"""With a tag's key after it, the AWS provider gives that tag to everything that it creates and that can have default
tags (since 5.62: https://registry.terraform.io/providers/hashicorp/aws/latest/docs#default_tags-configuration-block);
auto scaling groups cannot."""
_DROPPED = ("TF_LOG", "TF_CLI_ARGS", VARIABLE, "TF_DATA_DIR", "TF_WORKSPACE", "TF_INPUT", "TF_IN_AUTOMATION")
"""Beginnings. Of the rest, mirrors, tokens and the encryption of the state are what a user's set-up needs."""


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
    """Give a program's environment; with `credentials` of its own nothing of the user's AWS settings is in it.

    `variables` are given as TF_VAR_…; `plugins` is where providers are cached, unless the user has such a folder.
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
            # A lock file that lacks what a cached provider would add to it is thrown away with its copy.
            "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1",
        }
        | {f"{RUN_DEFAULT_TAG}{key}": value for key, value in tags.items()}
        | {f"{VARIABLE}{name}": value for name, value in variables.items()}
    )


def variable_text(value: Any) -> str:
    """Write a value as TF_VAR_… takes it: a string as it is, and everything else as JSON, which is HCL too.

    >>> variable_text(["10.0.0.0/8"]), variable_text("a b"), variable_text(3)
    ('["10.0.0.0/8"]', 'a b', '3')
    """
    return value if isinstance(value, str) else json.dumps(value)
