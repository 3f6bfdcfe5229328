"""Checks and measurements for users: gradients, parity, exact resume, throughput."""
