"""Deploying an example: a plan as pure data, its steps applied with boto3, and the sweep that destroys it."""
