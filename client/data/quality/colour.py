"""sRGB and CIE Lab, a colour space whose equal distances look about equally different."""

import numpy as np
from numpy.typing import NDArray

_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_WHITE = _TO_XYZ.sum(axis=1)


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert sRGB (N, 3) of 0 to 255 to Lab (N, 3).

    The columns are L (0 to 100), a (green to red) and b (blue to yellow). sRGB is that of IEC
    61966-2-1, Lab that of CIE 15:2004, section 8.2.1, and white is D65.

    >>> np.abs(lab(np.array([[255, 255, 255], [0, 0, 0]], np.uint8))).round(2).tolist()
    [[100.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    ratio = _LINEAR[pixels] @ (_TO_XYZ / _WHITE[:, None]).T
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.T
    values: NDArray[np.float32] = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    return values.astype(np.float32)


def rgb(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert Lab (N, 3) to sRGB (N, 3) of 0 to 255, clipped to the colours of sRGB."""
    lightness, red, yellow = values.T
    y = (lightness + 16) / 116
    f = np.stack([y + red / 500, y, y - yellow / 200], axis=1)
    ratio = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = np.clip((ratio * _WHITE) @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels: NDArray[np.uint8] = np.round(255 * shown).astype(np.uint8)
    return levels
