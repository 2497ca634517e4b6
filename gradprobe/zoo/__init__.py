"""Networks to try gradprobe on, and real data that needs no download.

They import nothing of gradprobe: they stand for a user's own code.
"""

from gradprobe.zoo.cnds import cnds8, cnds13
from gradprobe.zoo.digits import digits
from gradprobe.zoo.plain import plain_mlp

__all__ = ["cnds8", "cnds13", "digits", "plain_mlp"]
