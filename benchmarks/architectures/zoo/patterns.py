"""Patterns of names that several architectures have in common: where points have to be, where they must not be."""

from __future__ import annotations


def each(pattern: str, *values: object) -> tuple[str, ...]:
    """The pattern with each of the values at its ``@``."""
    return tuple(pattern.replace("@", str(value)) for value in values)


def post_norm_bert(prefix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Post-norm: both sums, after the attention and after the MLP, are normalised, and nothing bypasses them."""
    places = (rf"{prefix}\.@\.attention(\.output(\.LayerNorm)?)?", rf"{prefix}\.@(\.output(\.LayerNorm)?)?")
    inner = r"attention\.self.*|attention\.output\.d.*|intermediate.*|output\.d.*"
    return (*each(places[0], 0, 1, 2), *each(places[1], 0, 1, 2)), (rf"{prefix}\.\d\.({inner})",)


def pre_norm(prefix: str, *others: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Pre-norm: the sums are made in the block's own forward, so of all its modules only the block is a cut."""
    return (*each(rf"{prefix}\.@", 0, 1, 2), *others), (rf"{prefix}\.\d\..+", r"lm_head|classifier|embed_out")


def normed(prefix: str, count: int, *norms: str) -> tuple[str, ...]:
    """Each block of a post-norm stack, by its own name or its last norm's, and its other norms."""
    final, *inner = norms
    return (
        *each(rf"{prefix}\.@(\.{final})?", *range(count)),
        *(place for norm in inner for place in each(rf"{prefix}\.@\.{norm}", *range(count))),
    )


PROJECTIONS = (
    r".*\.([qkvo]|[qkvo]_proj|out_proj|[qkv]_lin|out_lin|query|key|value|query_key_value|c_attn|c_proj|c_fc)",
    r".*\.(fc[12]|dense_(h_to_4h|4h_to_h)|(gate|up|down)_proj|lin[12]|wi|wo)",
)
RESNET_BLOCKS = (r"layer\d\.\d\.(conv|bn|downsample).*",)
HF_RESNET = (r".*\.stages\.\d\.layers\.\d\.(layer|shortcut).*",)
UNITS = (r".*\.conv\.unit\d.*", r".*\.residual")
