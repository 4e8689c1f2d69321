"""What MindSpore writes is read; tests/test_checkpoint.py has the damaged files."""

import numpy as np
import pytest

from src.formats.ckpt import read_ckpt


@pytest.fixture
def save(cpu, tmp_path):
    """save(array, ...): the file that MindSpore writes of one array called 'a'."""
    import mindspore as ms

    def write(array, **options):
        ms.save_checkpoint([{"name": "a", "data": ms.Tensor(array)}], str(tmp_path / "a.ckpt"), **options)
        return tmp_path / "a.ckpt"

    return write


def test_a_large_array_lies_in_several_entries(save, monkeypatch):
    monkeypatch.setattr("mindspore.train.serialization.SLICE_SIZE", 1)  # KiB
    array = np.arange(900, dtype=np.float32).reshape(30, 30)
    path = save(array, append_dict={"text": "ü"})
    assert path.read_bytes().count(b"\n\x01a\x12") == 4
    arrays, texts = read_ckpt(path)
    np.testing.assert_array_equal(arrays["a"], array)
    assert texts == {"text": "ü"} and arrays["a"].flags.writeable


def test_numbers_that_numpy_lacks(save):
    import mindspore as ms

    (array,) = read_ckpt(save(ms.Tensor([1.5, -2], ms.bfloat16)))[0].values()
    assert (str(array.dtype), array.astype(np.float32).tolist()) == ("bfloat16", [1.5, -2])


@pytest.mark.parametrize("crc_check", [False, True])
def test_every_cut_and_many_flipped_bits_are_a_value_error_or_another_content(crc_check, save, tmp_path):
    content = save(np.arange(6, dtype=np.float32), append_dict={"step": 3}, crc_check=crc_check).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:end] for end in range(1, len(content))] + [b"\xff" * 10**6, b"\x0a" + b"\xff" * 100]
    for _ in range(300):
        bad = bytearray(content)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        damaged.append(bytes(bad))
    for bad in damaged:
        (tmp_path / "bad.ckpt").write_bytes(bad)
        try:
            arrays, texts = read_ckpt(tmp_path / "bad.ckpt")
        except ValueError:
            continue
        assert not crc_check or content[-17:-10] not in bad, "the checksum fits no other content"
        assert isinstance(arrays, dict) and isinstance(texts, dict)
