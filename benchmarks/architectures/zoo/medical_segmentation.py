"""Models of monai that segment images, most of them U-Nets."""

from __future__ import annotations

from functools import partial

import torch
from monai.networks import nets
from torch import Tensor
from torch.nn import functional as F

from benchmarks.architectures.zoo.architecture import Places, with_places
from benchmarks.architectures.zoo.batches import integers, normal
from benchmarks.architectures.zoo.losses import first
from benchmarks.architectures.zoo.medical import SLICE, SLICE_TARGET, medical
from benchmarks.architectures.zoo.patterns import UNITS, each

ENCODER = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
FOUR_LEVELS = {"channels": (4, 8, 12, 16), "strides": (2, 2, 2)}
DYN = {
    **ENCODER,
    "kernel_size": [3, 3, 3, 3],
    "strides": [1, 2, 2, 2],
    "upsample_kernel_size": [2, 2, 2],
    "filters": [4, 8, 12, 16],
}
segmenter = partial(medical, inputs=SLICE, target=SLICE_TARGET, long_skips=True)


def every_head(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of heads stacked on axis 1 (DynUNet's own deep supervision), or of one prediction."""
    heads = output.unbind(1) if output.dim() == target.dim() + 2 else (output,)
    return torch.stack([F.cross_entropy(head, target) for head in heads]).mean()


_ARCHITECTURES = [
    segmenter("UNet", lambda: nets.UNet(**ENCODER, **FOUR_LEVELS, num_res_units=2)),
    segmenter("BasicUNet", lambda: nets.BasicUNet(**ENCODER, features=(4, 4, 8, 12, 16, 4))),
    segmenter(
        "BasicUNetPlusPlus",
        lambda: nets.BasicUNetPlusPlus(**ENCODER, features=(4, 4, 8, 12, 16, 4)),
        loss=first(F.cross_entropy),
    ),
    segmenter("DynUNet", lambda: nets.DynUNet(**DYN)),
    segmenter(
        "DynUNet (deep supervision)",
        lambda: nets.DynUNet(**DYN, deep_supervision=True, deep_supr_num=2),
        loss=every_head,
    ),
    medical(
        "SegResNet",
        lambda: nets.SegResNet(spatial_dims=3, init_filters=8, blocks_down=(1, 2, 2, 2)),
        normal(1, 1, 16, 16, 16),
        integers(2, 1, 16, 16, 16),
        long_skips=True,
    ),
    segmenter("AttentionUnet", lambda: nets.AttentionUnet(**ENCODER, **FOUR_LEVELS)),
    segmenter("VNet", lambda: nets.VNet(spatial_dims=2, out_channels=2, dropout_prob_down=0.5, dropout_dim=2)),
    segmenter(
        "UNETR",
        lambda: nets.UNETR(**ENCODER, img_size=32, feature_size=4, hidden_size=24, mlp_dim=48, num_heads=2),
    ),
    medical(
        "SwinUNETR",
        lambda: nets.SwinUNETR(**ENCODER, feature_size=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        normal(2, 1, 64, 64),
        integers(2, 2, 64, 64),
        long_skips=True,
    ),
    medical(
        "HighResNet",
        lambda: nets.HighResNet(spatial_dims=3, out_channels=2),
        normal(1, 1, 12, 12, 12),
        integers(2, 1, 12, 12, 12),
    ),
    medical(
        "FlexibleUNet",
        lambda: nets.FlexibleUNet(
            in_channels=3, out_channels=2, backbone="resnet10", decoder_channels=(32, 16, 16, 8, 8)
        ),
        normal(2, 3, 32, 32),
        SLICE_TARGET,
        long_skips=True,
    ),
]

_PLACES: dict[str, Places] = {
    # U-Nets: the bottom with the innermost skip is a region of no more than a dozen layers, a block like others
    "UNet": (
        (
            r"model\.0",
            r"model\.1\.submodule\.0",
            r"model\.1\.submodule\.1\.submodule\.0",
            r"model\.1\.submodule\.1\.submodule\.2(\.1)?",
            r"model\.1\.submodule\.2(\.1)?",
        ),
        UNITS,
    ),
    "BasicUNet": (
        (
            r"conv_0(\.conv_1.*)?",
            *each(r"down_@(\.convs(\.conv_1.*)?)?", 1, 2, 3),
            *each(r"upcat_@(\.convs(\.conv_1.*)?)?", 4, 3, 2, 1),
        ),
        (r".*\.(conv|N|D|max_pooling|final_conv)",),
    ),
    "BasicUNetPlusPlus": ((r"conv_0_0(\.conv_1.*)?", r"upcat_0_4(\.convs(\.conv_1.*)?)?"), (r"final_conv_.*",)),
    "DynUNet": (
        (
            "input_block",
            *each(r"downsamples\.@", 0, 1),
            *each(r"upsamples\.@(\.conv_block)?", 0, 1, 2),
        ),
        (r".*\.conv[12]\.conv", r"output_block.*"),
    ),
    # its own heads branch off after each of the first stages of the decoder
    "DynUNet (deep supervision)": (
        ("input_block", *each(r"downsamples\.@", 0, 1), r"upsamples\.0(\.conv_block)?"),
        (r".*\.conv[12]\.conv", r"output_block.*"),
    ),
    "SegResNet": (
        (
            r"convInit(\.conv)?",
            *each(r"down_layers\.@", r"0\.1", r"1\.2", r"2\.2"),
            *each(r"up_layers\.@(\.0)?", 0, 1, 2),
        ),
        (r"(down_layers\.\d\.[12]|up_layers\.\d\.0)\.(norm|conv|act).*",),
    ),
    "AttentionUnet": (
        (
            r"model\.0(\.conv.*)?",
            r"model\.1\.submodule\.0(\.conv.*)?",
            r"model\.1(\.merge.*)?",
            r"model\.1\.submodule\.1(\.merge.*)?",
        ),
        (r".*\.(psi|W_g|W_x|attention)(\..+)?",),
    ),
    "VNet": (
        (
            r"in_tr(\.act_function)?",
            *each(r"down_tr@(\.act_function2)?", 32, 64, 128),
            *each(r"up_tr@(\.act_function2)?", 256, 128, 64, 32),
        ),
        (r"(down|up)_tr\d+\.ops.*",),
    ),
    "UNETR": (
        (r"vit\.blocks\.\d+", r"decoder5(\.conv_block)?", r"decoder4(\.conv_block)?", r"decoder2(\.conv_block)?"),
        (r"vit\.blocks\.\d+\..+", r".*\.(conv[123]|norm[123])(\..+)?"),
    ),
    "SwinUNETR": (
        (
            r"swinViT\.layers1\.0(\.blocks\.\d|\.downsample.*)?",
            r"swinViT\.layers3\.0(\.blocks\.\d|\.downsample.*)?",
            r"decoder5(\.conv_block)?",
            r"decoder1(\.conv_block)?",
        ),
        (r".*\.blocks\.\d\..+", r".*\.(conv[123]|norm[123])(\..+)?"),
    ),
    "HighResNet": ((r"blocks\.0(\.adn.*)?", *each(r"blocks\.@", *range(1, 10))), (r"blocks\.[1-9]\..+",)),
    "FlexibleUNet": (
        (
            *each(r"encoder\.layer@(\.0)?", 1, 2, 3),
            *each(r"decoder\.blocks\.@(\.convs(\.conv_1.*)?)?", 1, 2, 3, 4),
        ),
        (r".*layer\d\.\d\.(conv|bn|downsample).*",),
    ),
}

MEDICAL_SEGMENTATION = with_places(_ARCHITECTURES, _PLACES)
