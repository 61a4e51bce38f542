"""An account on AWS as a target."""
