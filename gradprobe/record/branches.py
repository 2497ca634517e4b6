"""The kinds of branch that have a name. Any other is a function ``(point_shape, output_shape) -> module``."""

BRANCH_NAMES = ("auto", "cnds", "pooled", "dense", "native", "token", "shared", "svm")
