"""The embedded EC2 as a target."""
