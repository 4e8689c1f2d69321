"""Make `mimo_unet_lite.npz`: outputs, losses and gradients of MIMO-UNetLite by the twin in PyTorch, in float64.

    python -m tests.data.make_lite_reference        # from the repository's root; needs PyTorch

Weights, input and label are drawn from names, as `tests/conftest.py` draws them; the keys are those of the other
reference files. `adam_losses` are the losses before each of three Adam steps at 1e-4 on the one batch, and after them.
"""

import json

import numpy as np
import torch

from benchmarks.torch_twin import TorchMIMOUNet, torch_loss
from tests.conftest import DATA, REFERENCES, draw_image, draw_weight

NAME = "mimo_unet_lite"


def main() -> None:
    _, _, salt, shape = REFERENCES[NAME]
    network = TorchMIMOUNet(num_res=4, shuffle=2).double()
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.from_numpy(draw_weight(salt + name, tuple(p.shape))))
    image, label = (torch.from_numpy(draw_image(salt + kind, shape)).double() for kind in ("input", "label"))

    outputs = network(image)
    total, content, fft = torch_loss(outputs, label)
    total.backward()
    gradients = [p.grad.numpy().copy() for p in parameters.values()]

    optimizer, adam_losses = torch.optim.Adam(network.parameters(), lr=1e-4), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch_loss(network(image), label)[0]
        loss.backward()
        optimizer.step()
        adam_losses.append(loss.item())
    adam_losses.append(torch_loss(network(image), label)[0].item())

    np.savez_compressed(
        DATA / f"{NAME}.npz",
        **{f"output_{i}": o.detach().numpy().astype(np.float32) for i, o in enumerate(outputs)},
        loss_content=content.item(),
        loss_fft=fft.item(),
        loss_total=total.item(),
        param_names=np.array(list(parameters)),
        param_shapes=np.array([json.dumps(list(p.shape)) for p in parameters.values()]),
        grad_l2=np.array([np.sqrt((g**2).sum()) for g in gradients]),
        grad_sum=np.array([g.sum() for g in gradients]),
        adam_losses=np.array(adam_losses),
        num_parameters=sum(p.numel() for p in parameters.values()),
    )
    print(f"{NAME}.npz: {(DATA / f'{NAME}.npz').stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
