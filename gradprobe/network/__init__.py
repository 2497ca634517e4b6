"""What is seen of an ``nn.Module``: its layers, hooks on it, its graph, cuts and supervision points.

Imports only ``record``.
"""
