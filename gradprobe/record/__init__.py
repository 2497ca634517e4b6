"""What is kept: the history, points, a placement, and how quantities, numbers and names are written.

Imports nothing of gradprobe outside this folder, and no torch.
"""
