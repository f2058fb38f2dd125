"""Options of a training other than its recipe and its network."""

from __future__ import annotations

from dataclasses import dataclass

from model_build.common.errors import UserError
from model_build.network.backbones import STRIDE


@dataclass(frozen=True)
class Options:
    """How to read the data, what to compute with, and when to stop.

    Attributes:
        splits: names of the splits to train on and to validate on.
        crop: (height, width) of the training crops in pixels, multiples of 32.
        pad_small: pad images smaller than the crop instead of dropping them.
        half: store the kernels as float16; the scores reported are those of the rounded network.
        patience: stop after this many epochs without a better validation mIoU.
        engine, precision: see :func:`model_build.training.devices.resolve_engine`.
        seed: of the new layers' weights, the order and the crops.
        resume: continue from the last checkpoint in the output folder.
        freeze_backbone: train only the new layers.

    Raises:
        UserError: a side of the crop is not a multiple of the network's stride.
    """

    splits: tuple[str, str] = ("train", "val")
    crop: tuple[int, int] = (320, 480)
    pad_small: bool = False
    half: bool = False
    patience: int | None = None
    engine: str = "auto"
    precision: str = "auto"
    seed: int = 0
    resume: bool = False
    freeze_backbone: bool = False

    def __post_init__(self) -> None:
        if any(side <= 0 or side % STRIDE for side in self.crop):
            height, width = self.crop
            raise UserError(f"--crop {height}x{width}: sides must be multiples of {STRIDE}")
