"""Small networks with the supervision points that they should have; `registry.NETWORKS` holds all, by name."""

from support.networks import convolutional as convolutional
from support.networks import long_skips as long_skips
from support.networks import outputs as outputs
from support.networks import published as published
from support.networks import sequences as sequences
from support.networks import transformers as transformers
