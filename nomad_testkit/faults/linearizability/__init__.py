"""Whether Consul's key/value store is linearizable while a sequence of faults, which a seed decides, goes over it.

>>> def test_consul_kv(nomad_cluster, nomad_faults):  # doctest: +SKIP
...     print(check_kv(nomad_cluster, nomad_faults, seed=42, seconds=60))
linearizable: 16210 operations on 39 keys in 63.8 s (254/s), 0.4% of them unknown, 9 faults, seed 42
"""

from __future__ import annotations

from nomad_testkit.faults.linearizability.check import Outcome, check_kv
from nomad_testkit.faults.linearizability.history import Operation, OperationHistory
from nomad_testkit.faults.linearizability.sequence import Done, FaultStep, steps

__all__ = ["Done", "FaultStep", "Operation", "OperationHistory", "Outcome", "check_kv", "steps"]
