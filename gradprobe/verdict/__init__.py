"""Whether a difference between trainings is beyond the noise: of two or several arms. No torch.

Imports only ``record`` and ``decide``.
"""
