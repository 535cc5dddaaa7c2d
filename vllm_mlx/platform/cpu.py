"""What MLX does slowly on a CPU, written in the operations that it does fast.

MLX 0.32 calls the C library once an element for `exp` (12 ns) and what is built on it, and
branches once an element for `where` (5 ns); multiplication and addition are vectorised (0.3 ns).
"""

from __future__ import annotations

import mlx.core as mx

_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_ROUND = 12582912.0  # 1.5 * 2**23: adding it leaves the nearest integer in the low bits
_ROUND_BITS = 0x4B400000
_EXPONENT_BIAS = 127
# Cephes' expf: a polynomial on [-ln(2)/2, ln(2)/2], relative error 2e-7.
_POLYNOMIAL = (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOWEST = -87.0  # below, the result is no normal number any more; exp(-87) is 1.6e-38


def exp(x: mx.array) -> mx.array:
    """`e**x` of float32 numbers up to 88, five times as fast as `mx.exp`.

    Below -87 it is `exp(-87)`, which in a softmax is nothing.
    """
    x = mx.maximum(x, _LOWEST)
    rounded = x * _LOG2_E + _ROUND
    whole = rounded - _ROUND
    rest = x - whole * _LN2_HIGH - whole * _LN2_LOW
    series: mx.array | float = 1.9875691500e-4
    for coefficient in _POLYNOMIAL:
        series = series * rest + coefficient
    series = series * rest * rest + rest + 1.0
    exponent = (mx.view(rounded, mx.int32) - (_ROUND_BITS - _EXPONENT_BIAS)) << 23
    return series * mx.view(exponent, mx.float32)
