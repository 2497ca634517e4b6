"""An unmodified training script under the probe, and what to add to it.

Imports only ``record``, ``decide``, ``network``, ``measure``, ``show`` and ``runs``.
"""
