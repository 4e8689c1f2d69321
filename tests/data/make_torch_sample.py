"""Make `mimo_unet_torch.pkl` and `mimo_unet_torch.npz`: a PyTorch file of MIMO-UNet and what PyTorch computes with it.

    python -m tests.data.make_torch_sample        # from the repository's root; needs PyTorch

The file has every name, shape and number type of the published one, in full size, as PyTorch 2 writes it, but takes 100
KB instead of 27 MB: the weights are overlapping windows on a few short random sequences, which PyTorch stores once. No
axis of a weight can be swapped or reversed without changing its values, and no two weights are equal.
"""

from pathlib import Path

import numpy as np
import torch

from benchmarks.torch_twin import TorchMIMOUNet

HERE = Path(__file__).parent
STRIDES = (23, 7, 3, 1)  # of a window along (out, in, height, width), in numbers
LENGTH = 4100  # of a sequence: 128 channels each way need 127 * (23 + 7) + 2 * 4 numbers, the rest is for offsets


def make_state_dict(seed: int = 1) -> dict[str, torch.Tensor]:
    """The state dict of MIMO-UNet, all tensors views of one sequence per power of two of their scale."""
    generator = torch.Generator().manual_seed(seed)
    sequences, state = {}, {}
    for i, (name, p) in enumerate(TorchMIMOUNet(8).state_dict().items()):
        fan_in = p[0].numel() if p.ndim > 1 else 64
        scale = 2.0 ** round(np.log2(1 / np.sqrt(fan_in)))
        if scale not in sequences:
            sequences[scale] = (torch.rand(LENGTH, generator=generator) * 2 - 1) * scale
        state[name] = torch.as_strided(sequences[scale], p.shape, STRIDES[: p.ndim], storage_offset=i)
    return state


def main() -> None:
    state = make_state_dict()
    torch.save({"model": state, "epoch": 3000}, HERE / "mimo_unet_torch.pkl")
    network = TorchMIMOUNet(8).eval()
    network.load_state_dict(state)
    image = np.random.RandomState(0).rand(1, 3, 32, 48).astype(np.float32)
    with torch.no_grad():
        outputs = [o.numpy() for o in network(torch.from_numpy(image))]
    np.savez_compressed(
        HERE / "mimo_unet_torch.npz", image=image, **{f"output_{scale}": o for scale, o in enumerate(outputs)}
    )
    for name in ("mimo_unet_torch.pkl", "mimo_unet_torch.npz"):
        print(f"{name}: {(HERE / name).stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
