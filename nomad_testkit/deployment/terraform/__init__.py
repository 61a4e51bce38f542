"""Terraform and OpenTofu: configurations read, applied in a copy of their own, and destroyed from the kept state.

The program that is found on this machine does the work; nothing here knows what a cluster is.
"""
