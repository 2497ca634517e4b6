"""What gradprobe costs, whether its placements are right, and which networks it works on: see README.md.

A package, so that every import is absolute (`from benchmarks.report import Report`). The editable installation of
the project (`pip install -e .`) is what puts it on the path, however a script is started.
"""
