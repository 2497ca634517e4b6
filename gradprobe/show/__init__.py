"""What a person sees: tables for a terminal, figures, the page. No torch.

Imports only ``record``, ``decide``, ``verdict`` and ``version``.
"""
