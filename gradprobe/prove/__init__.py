"""Trainings side by side, under the same conditions: comparisons, arms, trials, remedies.

Imports only ``measure``, ``insert``, ``network``, ``decide``, ``verdict``, ``record`` and ``tracebacks``.
"""
