"""Run Terraform or OpenTofu: apply a copy of a configuration, and destroy it from the kept state.

The program installed on this machine does the work; nothing here knows what a cluster is.
"""
