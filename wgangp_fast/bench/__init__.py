"""Benchmarks that check the answers before they print a time. The command is ``wgangp-fast bench``.

A workload is a critic with its inputs (:mod:`.workloads`); a contestant is a way to compute the penalty
and its parameter gradients (:mod:`.contestants`). :mod:`.suite` checks each contestant against float64
stock code (:mod:`.correctness`), times the ones that are right, interleaved (:mod:`.timing`), and counts
their memory (:mod:`.memory`); :mod:`.report` prints what came out.
"""
