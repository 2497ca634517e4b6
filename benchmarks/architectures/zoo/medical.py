"""Models of monai that classify images, encode and decode them, generate or discriminate."""

from __future__ import annotations

from functools import partial

import torch
from monai.networks import nets
from torch import nn
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Architecture, Places, with_places
from benchmarks.architectures.zoo.batches import FIVE, IMAGES, integers, normal
from benchmarks.architectures.zoo.losses import first
from benchmarks.architectures.zoo.patterns import RESNET_BLOCKS, UNITS, each

medical = partial(Architecture, library="monai")
SLICE, SLICE_TARGET = normal(2, 1, 32, 32), integers(2, 2, 32, 32)
medical_classifier = partial(medical, inputs=IMAGES["pixel_values"], target=FIVE)


def bag_of_patches() -> nn.Module:
    """MILModel on a small backbone: it takes (bags, patches, 3, H, W)."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return nets.MILModel(5, mil_mode="att", pretrained=False, backbone=backbone, backbone_num_features=12)


_ARCHITECTURES = [
    medical_classifier(
        "monai ResNet-18",
        lambda: nets.ResNet(
            block="basic", layers=[2, 2, 2, 2], block_inplanes=[8, 16, 24, 32], spatial_dims=2, num_classes=5
        ),
    ),
    medical_classifier(
        "monai ResNet-50",
        lambda: nets.ResNet(
            block="bottleneck", layers=[3, 4, 6, 3], block_inplanes=[4, 8, 12, 16], spatial_dims=2, num_classes=5
        ),
    ),
    medical_classifier(
        "monai DenseNet-121",
        lambda: nets.DenseNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=5,
            init_features=8,
            growth_rate=4,
            block_config=(6, 12, 24, 16),
        ),
    ),
    medical_classifier(
        "monai EfficientNet-B0",
        lambda: nets.EfficientNetBN(model_name="efficientnet-b0", pretrained=False, num_classes=5),
    ),
    medical_classifier(
        "monai SEResNet",
        lambda: nets.SENet(
            spatial_dims=2,
            in_channels=3,
            block="se_resnet_bottleneck",
            layers=(1, 1, 2, 1),
            groups=1,
            reduction=16,
            downsample_kernel_size=1,
            inplanes=16,
            num_classes=5,
        ),
    ),
    medical(
        "MILModel",
        bag_of_patches,
        normal(4, 3, 3, 16, 16),
        FIVE,
        # the batch in its backbone is one of patches: whose they are shows where the attention receives them
    ),
    medical(
        "AutoEncoder",
        lambda: nets.AutoEncoder(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(4, 8, 12, 16),
            strides=(2, 2, 2, 2),
            num_res_units=2,
            inter_channels=[16, 16],
            inter_dilations=[1, 2],
        ),
        SLICE,
        SLICE,
        F.mse_loss,
    ),
    medical(
        "VarAutoEncoder",
        lambda: nets.VarAutoEncoder(
            spatial_dims=2,
            in_shape=(1, 32, 32),
            out_channels=1,
            use_mean_at_inference=True,
            latent_size=6,
            channels=(4, 8, 12),
            strides=(2, 2, 2),
            num_res_units=1,
        ),
        SLICE,
        lambda: SLICE().sigmoid(),
        first(F.binary_cross_entropy),
    ),
    medical(
        "Generator",
        lambda: nets.Generator(
            latent_shape=(10,), start_shape=(8, 4, 4), channels=(8, 8, 4, 1), strides=(2, 2, 2, 1)
        ),
        normal(4, 10),
        normal(4, 1, 32, 32),
        F.mse_loss,
    ),
    medical(
        "Discriminator",
        lambda: nets.Discriminator(in_shape=(1, 32, 32), channels=(4, 8, 12), strides=(2, 2, 2)),
        normal(4, 1, 32, 32),
        lambda: torch.tensor([[0.0], [1.0], [0.0], [1.0]]),
        F.binary_cross_entropy,
    ),
    medical(
        "PatchDiscriminator",
        lambda: nets.PatchDiscriminator(spatial_dims=2, channels=8, in_channels=1),
        normal(4, 1, 32, 32),
        lambda: torch.ones(4, 1, 1, 1),
        lambda output, target: torch.stack([(made - target).square().mean() for made in output]).mean(),
        long_skips=True,  # every map is an output
    ),
]

_PLACES: dict[str, Places] = {
    "monai ResNet-18": (
        ("act", *each(r"layer@", r"1\.0", r"2\.1", r"3\.0", r"3\.1")),
        (*RESNET_BLOCKS, "maxpool"),
    ),
    "monai ResNet-50": (
        ("act", *each(r"layer@", r"1\.0", r"2\.3", r"3\.0", r"3\.5")),
        (*RESNET_BLOCKS, "maxpool"),
    ),
    "monai DenseNet-121": (
        (
            *each(r"features\.denseblock@(\.denselayer\d+)?", 1, 2, 3),
            *each(r"features\.transition@\.conv", 1, 2, 3),
        ),
        (r".*\.denselayer\d+\.layers.*", r"features\.transition\d(\.pool)?"),
    ),
    "monai EfficientNet-B0": (
        each(r"_blocks\.@", r"1\.2", r"2\.4", r"3\.7", r"4\.10", r"5\.14"),
        (*each(r"_blocks\.@\..+", r"1\.2", r"2\.4", r"3\.[67]", r"4\.(9|10)", r"5\.1[234]"), r".*\._se_.*"),
    ),
    "monai SEResNet": (
        each(r"layer@(\.relu)?", r"1\.0", r"2\.0", r"3\.0", r"3\.1"),
        (r"layer[1-4]\.\d\.(conv\d|se_layer|project).*",),
    ),
    # the attention scores the patches and is multiplied with them: it is bypassed
    "MILModel": ((r"attention:input",), (r"attention(\..*)?", "myfc", r"net.*")),
    "AutoEncoder": (
        (
            *each(r"encode\.encode_@", 0, 3),
            r"intermediate\.inter_0",
            *each(r"decode\.decode_@(\.resunit)?", 0, 1, 2),
        ),
        UNITS,
    ),
    "VarAutoEncoder": (
        (r"encode\.encode_2", "decodeL", *each(r"decode\.decode_@(\.resunit)?", 0, 1)),
        (*UNITS, "mu|logvar"),
    ),
    "Generator": (("linear", *each(r"conv\.layer_@(\.1)?", 0, 1, 2)), UNITS),
    "Discriminator": (each(r"net\.layer_@", 0, 1, 2), UNITS),
    # its output is the list of all its maps, the first of which is the first layer's: nothing is certain
    "PatchDiscriminator": ((), ("final_conv",)),
}

MEDICAL = with_places(_ARCHITECTURES, _PLACES)
