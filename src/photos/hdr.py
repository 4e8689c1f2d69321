"""HDR video frames as SDR: BT.2020 with the PQ or HLG curve becomes BT.709 with 8 bits.

FFmpeg's own conversion computes a table for half a minute before the first frame.
"""

import numpy as np

PQ, HLG = 16, 18  # transfer characteristics of ITU-T H.273
WHITE, PEAK = 203.0, 1000.0  # nits of white in an HDR picture (ITU-R BT.2408), and of the brightest light that is kept
KNEE = 0.5  # light below this share of white keeps its brightness
LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020's primaries
TO_BT709 = np.array(  # ITU-R BT.2087
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def light_of(curve: int) -> np.ndarray:
    """(65536,) float32: light for each 16-bit signal, by ITU-R BT.2100. In units of WHITE for PQ; for HLG of the scene,
    0 to 1."""
    signal = np.linspace(0, 1, 65536)
    if curve == PQ:
        root = signal ** (32 / 2523)
        nits = 10_000 * (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        return (nits / WHITE).astype(np.float32)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


def to_sdr(pixels: np.ndarray, curve: int, table: np.ndarray) -> np.ndarray:
    """One frame for a display with BT.709's primaries and a gamma of 2.4.

    Args:
        pixels: (H, W, 3) uint16, non-linear RGB with BT.2020's primaries.
        curve: PQ or HLG.
        table: `light_of(curve)`.

    Returns:
        (H, W, 3) uint8. Up to KNEE the light is kept; above, it is compressed so that PEAK becomes white.
    """
    light = table[pixels]
    if curve == HLG:  # the system gamma of a display of PEAK nits
        light *= (PEAK / WHITE) * (light @ LUMINANCE)[..., None] ** 0.2
    light = np.maximum(light @ TO_BT709.T, 0)
    brightest = light.max(axis=2, keepdims=True)
    above = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    reach = (PEAK / WHITE - KNEE) / (1 - KNEE)
    kept = np.minimum(brightest, KNEE) + (1 - KNEE) * above * (1 + above / reach**2) / (1 + above)
    light *= kept / np.maximum(brightest, 1e-6)
    return np.round(255 * np.minimum(light, 1) ** (1 / 2.4)).astype(np.uint8)
