"""Deep supervision in a network: branches, the joint loss, the supervised model.

Imports only ``network`` and ``record``.
"""
