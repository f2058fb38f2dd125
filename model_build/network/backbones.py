"""ImageNet backbones without their heads, by name, and the input normalisation of each.

Any ``keras.applications`` family with features at stride 32 can be used by name: ``resnet50``,
``mobilenet_v2``, ``efficientnet_b0``, ``mobilenet_v3_large``. ``resnet18`` is defined here.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import keras
import numpy as np

from model_build.common.errors import UserError, first_line
from model_build.network import strides

STRIDE = 32


@dataclass(frozen=True)
class Normalisation:
    """The transform of uint8 RGB before the first convolution: ``pixel * scale + offset``.

    Attributes:
        channels: ``"RGB"``, or ``"BGR"`` if the channels are reversed first.
        scale: one factor per channel, in the order of ``channels``.
        offset: one summand per channel.
    """

    channels: str
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]

    def __call__(self, images: keras.KerasTensor) -> keras.KerasTensor:
        """Applies it to a uint8 ``[n, h, w, 3]`` batch; returns float32."""
        if self.channels == "BGR":
            images = keras.ops.flip(images, axis=-1)
        return keras.layers.Rescaling(self.scale, self.offset, name="normalise")(images)

    def to_json(self) -> dict:
        return asdict(self)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def backbone(name: str, weights: str = "none") -> tuple[keras.Model, Normalisation]:
    """Builds a backbone without its head.

    Args:
        name: ``resnet18`` or a ``keras.applications`` model in any spelling of case and
            underscores (``resnet50_v2``, ``ResNet50V2``).
        weights: ``"none"``, ``"imagenet"`` (downloaded by Keras), or a weights file.

    Returns:
        A model from normalised float32 ``[n, h, w, 3]`` to features ``[n, h/32, w/32, channels]``,
        and the normalisation it expects.

    Raises:
        UserError: unknown name, features at another stride, or weights that do not load.
    """
    constructor, normalisation = _find(name)
    try:
        with warnings.catch_warnings():
            # Keras warns that weights of 224×224 are used for inputs of any size, which is
            # intended.
            warnings.filterwarnings("ignore", message=".*input_shape.*")
            model = constructor(
                include_top=False,
                weights="imagenet" if weights == "imagenet" else None,
                input_shape=(None, None, 3),
            )
            shape = model.compute_output_shape((1, 8 * STRIDE, 8 * STRIDE, 3))
    except UserError:
        raise
    except Exception as error:
        what = "its ImageNet weights" if weights == "imagenet" else "it"
        raise UserError(
            f"backbone {name}: Keras could not load {what} for any input size: {first_line(error)}"
            + ("; pass a local file with --backbone-weights FILE" if weights == "imagenet" else "")
        ) from None
    if len(shape) != 4 or tuple(shape[1:3]) != (8, 8):
        raise UserError(
            f"backbone {name}: its features of a 256×256 image are {tuple(shape[1:])}, but an FCN "
            "needs 8×8 (stride 32); try resnet50 or mobilenet_v2"
        )
    if weights not in ("none", "imagenet"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # real errors raise exceptions
                model.load_weights(weights)
        except Exception as error:
            raise UserError(
                f"{weights}: cannot be loaded as weights of {name} without its head: "
                f"{first_line(error)}"
            ) from None
    return model, normalisation


def pyramid(
    name: str,
    weights: str = "none",
    *,
    finest: int = STRIDE,
    coarsest: int = STRIDE,
    expanded: bool = True,
) -> tuple[keras.Model, dict[int, float], Normalisation]:
    """Builds a backbone that outputs the features of several strides.

    Args:
        name, weights: see :func:`backbone`.
        finest: 8, 16 or 32, the stride of the finest features.
        coarsest: 8, 16 or 32, the stride of the last features; if that is finer than the backbone's
            own, it is dilated
            (:func:`model_build.network.strides.dilate`).
        expanded: whether to take the last features after the expanding 1×1 convolution at the end
            of some backbones, or before it (:func:`model_build.network.strides.before_expansion`).

    Returns:
        A model from normalised float32 ``[n, h, w, 3]`` to a list of features, coarsest first,
        each at half the stride of the one before; the centre of the first cell of each, in
        pixels, by stride (:func:`model_build.network.strides.grid_centers`); and the normalisation.

    Raises:
        UserError: as :func:`backbone`; or the backbone has no features of a stride.
    """
    plain, normalisation = backbone(name, weights)
    try:
        dilated = strides.dilate(plain, coarsest)
        shape = dilated.compute_output_shape((1, strides.PROBE, strides.PROBE, 3))
    except ValueError:  # the shapes of branches no longer match
        shape = ()
    if tuple(shape[1:3]) != (strides.PROBE // coarsest,) * 2:
        raise UserError(
            f"backbone {name}: it cannot be dilated to stride {coarsest}; use --output-stride "
            f"{STRIDE}, or another backbone such as resnet50 or mobilenet_v2"
        )
    layers = strides.feature_layers(plain)
    wanted = [stride for stride in (16, 8) if finest <= stride < coarsest]
    for stride in wanted:
        if stride not in layers:
            offered = ", ".join(str(stride) for stride in sorted(layers))
            raise UserError(
                f"backbone {name}: it has no features at stride {stride}; it offers {offered}: "
                "choose other --skips or another backbone"
            )
    centers = strides.grid_centers(dilated)
    last = strides.last_operation(dilated).name
    names = {coarsest: last if expanded else strides.before_expansion(dilated)}
    names |= {stride: layers[stride] for stride in wanted}
    output_of = {layer.name: layer.output for layer in dilated.operations}
    outputs = [output_of[layer] for layer in names.values()]
    model = keras.Model(dilated.input, outputs, name=plain.name)
    return model, {stride: centers[layer] for stride, layer in names.items()}, normalisation


def _find(name: str) -> tuple[Callable[..., keras.Model], Normalisation]:
    if plain_name(name) == "resnet18":
        std = np.array(IMAGENET_STD)
        scale, offset = 1 / (255 * std), -np.array(IMAGENET_MEAN) / std
        return resnet18, Normalisation("RGB", _triple(scale), _triple(offset))
    constructors = {
        plain_name(key): value
        for key, value in vars(keras.applications).items()
        if key[0].isupper() and callable(value)
    }
    key = plain_name(name)
    if key not in constructors:
        near = difflib.get_close_matches(key, [*constructors, "resnet18"], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "try resnet50 or mobilenet_v2"
        raise UserError(f"backbone {name}: no such network in keras.applications; {hint}")

    def owns(module_name: str) -> tuple[bool, int]:
        # MobileNetV3's constructors are outside their module, so they are matched by name.
        module = vars(keras.applications)[module_name]
        holds = constructors[key] in vars(module).values()
        return holds, len(module_name) if key.startswith(plain_name(module_name)) else 0

    modules = [m for m, v in vars(keras.applications).items() if hasattr(v, "preprocess_input")]
    module = vars(keras.applications)[max(modules, key=owns)]
    return constructors[key], probe_normalisation(module.preprocess_input)


def probe_normalisation(preprocess: Callable[[np.ndarray], np.ndarray]) -> Normalisation:
    """Derives the affine map of a ``preprocess_input``.

    Each mode of Keras (``tf``, ``torch``, ``caffe``, or nothing where the network scales its own
    input) is a channel order followed by a scale and an offset per channel, so four pixels
    determine it.

    Raises:
        UserError: the function is not affine.
    """
    probes = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.float32)
    offset, *unit = np.asarray(preprocess(probes.reshape(1, 4, 1, 3).copy())).reshape(4, 3)
    response = np.stack([row - offset for row in unit]) / 255  # [channel in, channel out]
    for channels, order in (("RGB", [0, 1, 2]), ("BGR", [2, 1, 0])):
        if np.array_equal(response[order], np.diag(np.diag(response[order]))):
            return Normalisation(channels, _triple(np.diag(response[order])), _triple(offset))
    raise UserError("this backbone mixes colour channels before its first layer; choose another")


def resnet18(
    include_top: bool, weights: str | None, input_shape: tuple[int | None, int | None, int]
) -> keras.Model:
    """ResNet-18 (He et al. 2015, table 1) in torchvision's v1 layout, called like a Keras one.

    Padding is symmetric, as there, and not TensorFlow's (0, 1).

    Raises:
        UserError: ``include_top``, or ``weights`` other than None, as Keras publishes none.
    """
    if include_top or weights is not None:
        raise UserError("backbone resnet18: Keras has no weights for it; use none or a file")
    layers = keras.layers

    def convolution(x, filters, kernel, stride, name, relu=True):
        if kernel > 1:
            x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
        x = layers.Conv2D(
            filters, kernel, stride, use_bias=False, kernel_initializer="he_normal", name=name
        )(x)
        x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if relu else x

    def block(x, filters, stride, name):
        y = convolution(x, filters, 3, stride, f"{name}_conv1")
        y = convolution(y, filters, 3, 1, f"{name}_conv2", relu=False)
        if stride > 1:
            x = convolution(x, filters, 1, stride, f"{name}_downsample", relu=False)
        return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, y]))

    images = keras.Input(input_shape)
    x = convolution(images, 64, 7, 2, "conv1")
    # The input comes from a ReLU, so padding with zeros equals torch's padding with -infinity.
    x = layers.ZeroPadding2D(1, name="pool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool")(x)
    for stage, filters in enumerate((64, 128, 256, 512), start=1):
        for index in range(2):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(x, filters, stride, f"layer{stage}_{index}")
    return keras.Model(images, x, name="resnet18")


def plain_name(name: str) -> str:
    """Returns a backbone's name in lower case without ``-`` and ``_``, by which it is found."""
    return name.lower().replace("_", "").replace("-", "")


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
