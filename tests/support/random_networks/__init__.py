"""Random networks of many kinds, drawn from a number: the same number gives the same network."""

from support.random_networks.draw import Drawn as Drawn
from support.random_networks.draw import draw as draw
