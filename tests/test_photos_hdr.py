"""HDR frames as SDR: known signals, against the formulas of the standards."""

import numpy as np

from src.photos.hdr import HLG, PQ, light_of, to_sdr


def pq_signal(nits):
    """ITU-R BT.2100, table 4: the inverse of what the module computes."""
    y = (np.asarray(nits, float) / 10_000) ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)
    return np.round(signal * 65535).astype(np.uint16)


def grey(signals):
    return np.repeat(np.asarray(signals, np.uint16)[None, :, None], 3, axis=2)


def test_pq_keeps_dark_greys_and_compresses_bright_ones():
    nits = np.array([0, 5, 20, 60, 100, 203, 500, 1000, 4000])
    sdr = to_sdr(grey(pq_signal(nits)), PQ, light_of(PQ))
    assert sdr.dtype == np.uint8 and (np.ptp(sdr.astype(int), axis=2) <= 1).all()  # grey stays grey
    values = sdr[0, :, 1].astype(int)
    np.testing.assert_allclose(values[:5], 255 * (nits[:5] / 203) ** (1 / 2.4), atol=1)
    assert (np.diff(values[:-1]) > 0).all() and values[-2:].tolist() == [255, 255] and 215 < values[5] < 240


def test_hlg_has_reference_white_at_three_quarters():
    values = to_sdr(grey(np.array([0, 0.38, 0.75, 1]) * 65535), HLG, light_of(HLG))[0, :, 1].astype(int)
    pq = to_sdr(grey(pq_signal([0, 26, 203, 1000])), PQ, light_of(PQ))[0, :, 1].astype(int)
    np.testing.assert_allclose(values, pq, atol=2)  # BT.2408, table 1: 26 and 203 nits


def test_colours_outside_bt709_are_clipped_without_turning():
    sdr = to_sdr(np.array([[[30000, 0, 0], [0, 30000, 0], [0, 0, 30000]]], np.uint16), PQ, light_of(PQ))[0]
    assert (sdr.argmax(axis=1) == [0, 1, 2]).all() and sdr.max(axis=1).min() > 50
