"""Checks and measurements that a user can run: gradients, parity, exact resume, throughput."""
