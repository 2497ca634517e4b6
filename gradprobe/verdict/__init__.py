"""Whether a difference between trainings is one: two of them, or several arms, and which arm to use. No torch.

Imports only ``record`` and ``decide``.
"""
