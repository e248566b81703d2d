"""Numbers that are added to scores, from what a caller holds."""

from typing import Any

from memmodel_kernels.namespace import namespace


def numbers(bias: Any, q: Any, m: Any) -> Any:
    """A bias (1 or b, 1 or h, n, m) as it is; ALiBi slopes (h,) in fp32 times the key's position.

    The latter are (1, h, 1, m) in the type of q. Softmax does not see what a whole row has in common, so that the
    position stands for the distance.
    """
    if bias.dim() > 1:
        return bias
    xp = namespace(q)
    slopes = bias[None, :, None, None]
    return (slopes * xp.arange(m, device=bias.device)).to(q.dtype)
