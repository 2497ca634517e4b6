"""Random training loops, and an independent float64 account of what each of their gradients is.

A `program` is a small list of operations, the way people write loops. `machine` executes it. `oracle` executes it
too, with autograd alone, and knows from the operations which backward passes are in which parameter's ``.grad``.
`compare` sets its numbers against a record. Nothing but `compare` knows of gradprobe.
"""
