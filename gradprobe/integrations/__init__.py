"""Callbacks for Lightning and transformers, a function for Accelerate, and the loggers of all of them.

Each takes one line in the user's code and is an extra of its own; ``import gradprobe`` imports none of them.
"""
