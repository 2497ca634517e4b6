"""Where people train: callbacks for Lightning and transformers, a function for Accelerate, and their loggers.

Each is one line of the user's code and an extra of its own; nothing here is imported unasked.
"""
