"""A PyTorch loop: as many threads as cores, each taking photos all the way.

    python benchmarks/peers/torch_loop.py photos/ out/ --weights FILE.npz [--precision bfloat16]

The network is written again here, with batch norms folded into the convolutions; the weights are
those of the default model, as ``weights.py`` saves them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from shared import CORES, listed, padded, parser, read, write
from torch import Tensor, nn
from torch.nn.functional import pad, relu, relu6

# Stride and dilation of MobileNetV2's blocks. For output stride 16 the last four have stride 1.
BLOCKS = [(1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (2, 1)] + 7 * [(1, 1)] + 3 * [(1, 2)]
STRIDE, SHIFT = 16, 7.5  # of the scores: their stride, and how far they look beside its middle


class Network(nn.Module):
    """uint8 ``[1, 3, h, w]`` → classes ``[h, w]``."""

    def __init__(self, weights: dict[str, np.ndarray]):
        super().__init__()
        arrays = iter([torch.from_numpy(weights[name]) for name in weights])

        def conv(stride: int = 1, dilation: int = 1) -> nn.Conv2d:
            kernel, bias = next(arrays), next(arrays)
            count, inputs, size, _ = kernel.shape
            groups = count if size == 3 and inputs == 1 else 1
            # Strides of 2 pad below and to the right, in `step`.
            around = dilation if size == 3 and stride == 1 else 0
            made = nn.Conv2d(inputs * groups, count, size, stride, around, dilation, groups)
            made.load_state_dict({"weight": kernel, "bias": bias})
            return made

        self.first = conv(2)
        self.blocks = nn.ModuleList()
        for index, how in enumerate(BLOCKS):
            expand = [conv()] if index else []
            self.blocks.append(nn.ModuleList([*expand, conv(*how), conv()]))
        self.near, self.far, self.from_near, self.from_far, self.scores = (conv() for _ in range(5))

    def forward(self, images: Tensor) -> Tensor:
        x = step(self.first, (images.float() / 127.5 - 1).to(self.first.weight.dtype))
        for *inner, project in self.blocks:
            y = x
            for layer in inner:
                y = step(layer, y)
            y = project(y)
            x = x + y if x.shape == y.shape else y
        far = self.from_far(relu(self.far(x.mean((2, 3), keepdim=True))))
        x = relu(self.from_near(relu(self.near(x))) + far)
        scores = self.scores(x.float())[0]
        return (tents(scores.shape[1]) @ scores @ tents(scores.shape[2]).T).argmax(0)


def step(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return relu6(layer(pad(x, (0, 1, 0, 1)) if layer.stride[0] == 2 else x))


def tents(cells: int) -> Tensor:
    """``[cells * STRIDE, cells]``: how much of each cell goes into each pixel, bilinearly."""
    pixels = torch.arange(cells * STRIDE)
    where = ((pixels - SHIFT - (STRIDE - 1) / 2) / STRIDE).clamp(0, cells - 1)
    return (1 - (where[:, None] - torch.arange(cells)).abs()).clamp(min=0)


def main(photos: str, out: str, weights: str, precision: str) -> None:
    network = Network(dict(np.load(weights))).eval().to(memory_format=torch.channels_last)
    network.to(getattr(torch, precision)).scores.float()  # which decides between classes

    def segment(path: Path) -> None:
        pixels, size = read(path)
        height, width = pixels.shape[:2]
        images = torch.from_numpy(padded(pixels)[None]).permute(0, 3, 1, 2)  # channels last
        with torch.inference_mode():
            class_map = network(images).numpy()
        write(class_map[:height, :width], size, path.name, out)

    with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as threads:
        list(threads.map(segment, listed(photos)))


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--weights", required=True)
    arguments.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    main(**vars(arguments.parse_args()))
