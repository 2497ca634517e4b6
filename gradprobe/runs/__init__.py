"""Runs on disk, and two of them side by side. No torch: a saved run is read on any machine.

Imports only ``record``, ``decide``, ``verdict``, ``show`` and ``version``.
"""
