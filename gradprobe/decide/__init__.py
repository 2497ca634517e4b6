"""Pure functions from a history to a decision: the policies, and what is found wrong. No torch.

Imports only ``record``.
"""
