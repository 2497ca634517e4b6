"""The cell magic ``%%gradprobe``: a training cell under the probe, and the answer in its place. Needs IPython."""
