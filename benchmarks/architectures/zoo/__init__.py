"""Architectures with random weights and tiny sizes, by name.

`Architecture.expected` and `Architecture.forbidden` are derived from how each network is built (its forward method
and the names of its modules), never from what gradprobe printed. Nothing is downloaded.
"""

from benchmarks.architectures.zoo.architecture import Architecture
from benchmarks.architectures.zoo.dense import DENSE
from benchmarks.architectures.zoo.feedforward import FEEDFORWARD
from benchmarks.architectures.zoo.image_classifiers import IMAGE_CLASSIFIERS
from benchmarks.architectures.zoo.image_collections import IMAGE_COLLECTIONS
from benchmarks.architectures.zoo.medical import MEDICAL
from benchmarks.architectures.zoo.medical_segmentation import MEDICAL_SEGMENTATION
from benchmarks.architectures.zoo.multimodal import MULTIMODAL
from benchmarks.architectures.zoo.sequences import SEQUENCES
from benchmarks.architectures.zoo.streams import STREAMS
from benchmarks.architectures.zoo.text import TEXT_MODELS

__all__ = ["ZOO", "Architecture"]

_FROM_TRANSFORMERS = [*TEXT_MODELS, *IMAGE_CLASSIFIERS, *DENSE, *MULTIMODAL]
_FROM_MONAI = [*MEDICAL, *MEDICAL_SEGMENTATION]
_OF_TORCH_ALONE = [*FEEDFORWARD, *IMAGE_COLLECTIONS, *STREAMS, *SEQUENCES]
ZOO = {each.name: each for each in [*_FROM_TRANSFORMERS, *_FROM_MONAI, *_OF_TORCH_ALONE]}
