"""FCN-32s, -16s and -8s: fully convolutional networks (Long, Shelhamer & Darrell 2015).

An ImageNet backbone without its head, 1×1 convolutions from its features to class scores, and
upsampling to the size of the input: bilinear interpolation, or a transposed convolution if it is
learned.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from model_build.common.errors import UserError
from model_build.network.backbones import STRIDE, Normalisation, pyramid
from model_build.network.upsampling import Interpolation, Upsampling

# Names of the network's parts.
BACKBONE, SCORES, ENLARGED, LOGITS = "backbone", "scores", "enlarged", "logits"
HIDDEN = 256  # channels of each hidden layer, as in the head of DeepLabv3


@keras.saving.register_keras_serializable("fcn_beam")
class PadToStride(keras.layers.Layer):
    """Pads images at the bottom and right, with zeros, to sides that are multiples of the stride.

    Backbones treat the extra pixels of other sides differently.
    """

    def call(self, images):
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        return tf.pad(images, [[0, 0], [0, -height % STRIDE], [0, -width % STRIDE], [0, 0]])

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        height, width = (side and -(-side // STRIDE) * STRIDE for side in (height, width))
        return (batch, height, width, channels)


@dataclass(frozen=True)
class Architecture:
    """The arguments of :func:`fcn`, except the number of classes."""

    backbone_name: str = "resnet50"
    backbone_weights: str = "none"
    skips: int = 32
    output_stride: int = 32
    learn_upsampling: bool = False
    context: bool = False

    def without_weights(self) -> Architecture:
        """Returns it without pretrained backbone, for weights from a checkpoint."""
        return replace(self, backbone_weights="none")

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON for ``model.json``, without the source of the backbone's weights."""
        value = asdict(self)
        del value["backbone_weights"]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any], source: str = "model.json") -> Architecture:
        """Parses the JSON of ``model.json``.

        Args:
            value: the decoded JSON.
            source: the file's name, for errors.

        Raises:
            UserError: a field is missing or unknown, or its value is not valid for :func:`fcn`.
        """
        strides = (8, 16, 32)

        def known(name: str, field: Any) -> bool:
            if name == "backbone_name":
                return isinstance(field, str) and 0 < len(field) <= 40 and field.isprintable()
            if name in ("skips", "output_stride"):
                return type(field) is int and field in strides
            return isinstance(field, bool)

        names = cls().to_json().keys()
        if value.keys() != names:
            wrong = min(value.keys() ^ names)
            cause = f"{wrong[:40]!r} is {'missing' if wrong in names else 'unknown'}"
            raise UserError(f"{source}: this version cannot build its architecture: {cause}")
        for name, field in value.items():
            if not known(name, field):
                raise UserError(
                    f"{source}: this version cannot build its architecture: {name} is "
                    f"{repr(field)[:40]}"
                )
        return cls(**value)


def fcn(
    num_classes: int,
    backbone_name: str = "resnet50",
    backbone_weights: str = "none",
    *,
    skips: int = 32,
    output_stride: int = 32,
    learn_upsampling: bool = False,
    context: bool = False,
) -> tuple[keras.Model, Normalisation]:
    """Builds an FCN-32s, FCN-16s or FCN-8s.

    Args:
        num_classes: int, channels of the output.
        backbone_name: see :func:`model_build.network.backbones.backbone`.
        backbone_weights: ``"none"``, ``"imagenet"`` or a weights file.
        skips: 32, 16 or 8: the finest stride whose features are scored. Scores of coarser features
            are upsampled to twice their size, with learned weights, and added to the scores of the
            next finer features, which start at zero (section 4 of the paper).
        output_stride: 32, 16 or 8: the stride of the backbone's last features; below 32 its last
            stages are dilated.
        learn_upsampling: whether the last step, to the size of the image, is a transposed
            convolution or plain interpolation (the paper, section 4, finds no difference).
        context: score the last features together with their mean over the image, through two
            hidden layers: the head of Chen et al. 2017, section 3.3, with its image pooling and
            1×1 convolutions but without its dilated ones, as in Sandler et al. 2018, section 6.3.
            It replaces the expanding 1×1 convolution at the end of some backbones, which serves
            classification.

    Returns:
        A model from uint8 RGB ``[n, h, w, 3]`` of any size to float32 logits
        ``[n, ⌈h/32⌉·32, ⌈w/32⌉·32, num_classes]``, and the normalisation that is part of it.

    Raises:
        UserError: as :func:`model_build.network.backbones.backbone`; the backbone has no features
            at a requested stride; or the output stride is too fine for any skips.

    Example:

    >>> model, _ = fcn(21, "mobilenet_v2", skips=8)
    >>> model(np.zeros((1, 320, 480, 3), "uint8")).shape
    TensorShape([1, 320, 480, 21])
    """
    if output_stride <= skips < STRIDE:
        raise UserError(
            f"--skips {skips}s: adds nothing to --output-stride {output_stride}, which is that "
            "fine already; leave one of them out"
        )
    features, centers, normalisation = pyramid(
        backbone_name,
        backbone_weights,
        finest=min(skips, output_stride),
        coarsest=output_stride,
        expanded=not context,
    )
    features.name = BACKBONE
    images = keras.Input((None, None, 3), dtype="uint8", name="images")
    padded = PadToStride(name="pad", dtype="uint8")(images)
    coarse, *finer = features(normalisation(padded))
    if context:
        mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="mean")(coarse)
        local = keras.layers.Conv2D(HIDDEN, 1, activation="relu", name="local")(coarse)
        distant = keras.layers.Conv2D(HIDDEN, 1, activation="relu", name="context")(mean)
        # Equals a convolution of both concatenated, but computes the part of the mean only once.
        parts = [
            keras.layers.Conv2D(HIDDEN, 1, name="from_local")(local),
            keras.layers.Conv2D(HIDDEN, 1, use_bias=False, name="from_context")(distant),
        ]
        coarse = keras.layers.ReLU(name="hidden")(keras.layers.Add(name="seen")(parts))
    scores = keras.layers.Conv2D(
        num_classes, 1, kernel_initializer="glorot_uniform", dtype="float32", name=SCORES
    )(coarse)
    stride = output_stride
    for feature in finer:
        half = stride // 2
        shift = (centers[stride] - centers[half]) / half - 0.5
        enlarged = Upsampling(num_classes, 2, shift, dtype="float32", name=f"{ENLARGED}{half}")(
            scores
        )
        added = keras.layers.Conv2D(
            num_classes, 1, kernel_initializer="zeros", dtype="float32", name=f"{SCORES}{half}"
        )(feature)
        scores = keras.layers.Add(dtype="float32", name=f"fused{half}")([enlarged, added])
        stride = half
    shift = centers[stride] - (stride - 1) / 2
    if learn_upsampling:
        enlarge = Upsampling(num_classes, stride, shift, dtype="float32", name=LOGITS)
    else:
        enlarge = Interpolation(stride, shift, dtype="float32", name=LOGITS)
    name = f"fcn{stride}s_os{output_stride}{'_context' * context}_{backbone_name}"
    return keras.Model(images, enlarge(scores), name=name), normalisation


def scoring_layers(model: keras.Model) -> list[str]:
    """Returns the names of layers whose weights depend on the number of classes."""
    names = (layer.name for layer in model.layers if layer.weights)
    return [name for name in names if name.startswith((SCORES, ENLARGED, LOGITS))]
