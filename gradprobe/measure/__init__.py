"""Measuring gradients: the probe, the reduction to statistics, and a scan.

Imports only ``network`` and ``record``.
"""
