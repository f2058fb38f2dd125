import keras
import numpy as np
import pytest

from model_build.common.errors import UserError
from model_build.network import backbones
from model_build.network.backbones import Normalisation, backbone, probe_normalisation

TF_MODE = Normalisation("RGB", (1 / 127.5,) * 3, (-1.0,) * 3)
CAFFE_MODE = Normalisation("BGR", (1.0,) * 3, (-103.939, -116.779, -123.68))
IDENTITY = Normalisation("RGB", (1.0,) * 3, (0.0,) * 3)
MEAN, STD = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
TORCH_MODE = Normalisation("RGB", tuple(1 / 255 / STD), tuple(-MEAN / STD))


@pytest.fixture(scope="module")
def resnet18():
    return backbone("resnet18")


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "constructor", "expected"),
    [
        ("mobilenet_v2", "MobileNetV2", TF_MODE),
        ("MobileNetV2", "MobileNetV2", TF_MODE),
        ("mobilenet", "MobileNet", TF_MODE),
        ("resnet50", "ResNet50", CAFFE_MODE),
        ("ResNet-50", "ResNet50", CAFFE_MODE),
        ("resnet50_v2", "ResNet50V2", TF_MODE),
        ("resnet101", "ResNet101", CAFFE_MODE),
        ("resnet101_v2", "ResNet101V2", TF_MODE),
        ("vgg16", "VGG16", CAFFE_MODE),
        ("densenet121", "DenseNet121", TORCH_MODE),
        ("efficientnet_b0", "EfficientNetB0", IDENTITY),
        ("efficientnet_v2_b0", "EfficientNetV2B0", IDENTITY),
        ("mobilenet_v3_large", "MobileNetV3Large", IDENTITY),
        ("convnext_tiny", "ConvNeXtTiny", IDENTITY),
    ],
)
def test_name_resolves_to_the_keras_network_and_its_normalisation(name, constructor, expected):
    found, normalisation = backbones._find(name)
    assert found is getattr(keras.applications, constructor)
    assert normalisation.channels == expected.channels
    np.testing.assert_allclose(normalisation.scale, expected.scale, rtol=1e-5)
    np.testing.assert_allclose(normalisation.offset, expected.offset, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("mobilenet_v2", "mobilenet_v2"),
        ("mobilenet_v3_large", "mobilenet_v3"),
        ("resnet50", "resnet50"),
        ("resnet50_v2", "resnet_v2"),
        ("densenet121", "densenet"),
        ("efficientnet_b0", "efficientnet"),
    ],
)
def test_normalisation_equals_preprocess_input(name, module, pixels):
    expected = getattr(keras.applications, module).preprocess_input(pixels.astype(np.float32))
    _, normalisation = backbones._find(name)
    np.testing.assert_allclose(normalisation(pixels), expected, rtol=1e-5, atol=1e-4)


def test_resnet18_normalises_like_torchvision(resnet18, pixels):
    _, normalisation = resnet18
    np.testing.assert_allclose(normalisation(pixels), (pixels / 255 - MEAN) / STD, atol=1e-5)


def test_normalisation_to_json_names_channels_scale_and_offset():
    value = Normalisation("BGR", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)).to_json()
    assert value == {"channels": "BGR", "scale": (1.0, 2.0, 3.0), "offset": (4.0, 5.0, 6.0)}


def test_a_normalisation_that_mixes_channels_is_refused():
    with pytest.raises(UserError, match="mixes colour channels"):
        probe_normalisation(lambda images: images.mean(axis=-1, keepdims=True).repeat(3, -1))


def test_resnet18_has_as_many_weights_as_torchvisions_without_its_classifier(resnet18):
    model, _ = resnet18
    with_classifier, classifier = 11_689_512, 512 * 1000 + 1000
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == with_classifier - classifier == 11_176_512


@pytest.mark.parametrize(("side", "cells"), [(64, 2), (96, 3), (65, 3), (95, 3)])
def test_resnet18_features_have_stride_32(resnet18, side, cells):
    model, _ = resnet18
    assert model(np.zeros((1, side, 64, 3), "float32")).shape == (1, cells, 2, 512)


def test_resnet18_pads_evenly_on_both_sides(resnet18):
    """With mirrored kernels a mirrored image has mirrored features only if padding is even."""
    model, _ = resnet18
    mirrored = keras.models.clone_model(model)
    mirrored.set_weights([w[:, ::-1] if w.ndim == 4 else w for w in model.get_weights()])
    image = np.random.default_rng(0).normal(size=(1, 65, 65, 3)).astype("float32")
    np.testing.assert_allclose(
        mirrored(image[:, :, ::-1]), np.array(model(image))[:, :, ::-1], rtol=1e-3, atol=1e-3
    )


def test_mobilenet_features_have_stride_32():
    model, _ = backbone("mobilenet_v2")
    assert model(np.zeros((1, 64, 96, 3), "float32")).shape == (1, 2, 3, 1280)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mobilnet_v2", "did you mean mobilenetv2?"),
        ("resnet-81", "did you mean resnet18?"),
        ("???", "try resnet50 or mobilenet_v2"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name, hint):
    with pytest.raises(UserError) as caught:
        backbone(name)
    assert name in str(caught.value)
    assert hint in str(caught.value)


def test_resnet18_has_no_imagenet_weights():
    with pytest.raises(UserError, match="resnet18: Keras has no weights for it; use none or a f"):
        backbone("resnet18", "imagenet")


def test_features_at_another_stride_are_refused(monkeypatch):
    def stride_16(include_top, weights, input_shape):
        inputs = keras.Input(input_shape)
        return keras.Model(inputs, keras.layers.AveragePooling2D(16)(inputs))

    monkeypatch.setattr(backbones, "_find", lambda name: (stride_16, IDENTITY))
    with pytest.raises(UserError, match=r"backbone odd: .*\(16, 16, 3\).*needs 8×8"):
        backbone("odd")


def test_a_failed_download_names_the_way_out(monkeypatch):
    def offline(include_top, weights, input_shape):
        raise OSError("URL fetch failure on https://example.org\nand more")

    monkeypatch.setattr(backbones, "_find", lambda name: (offline, IDENTITY))
    with pytest.raises(UserError) as caught:
        backbone("resnet50", "imagenet")
    message = str(caught.value)
    assert message.startswith("backbone resnet50: ")
    assert "URL fetch failure" in message
    assert "--backbone-weights FILE" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["weights.txt", "weights.weights.h5", "weights.keras"])
def test_a_bad_weights_file_is_refused_in_one_line(tmp_path, tiny_backbone, name):
    path = tmp_path / name
    path.write_text("no weights")
    with pytest.raises(UserError) as caught:
        backbone("tiny", str(path))
    assert str(caught.value).startswith(f"{path}: cannot be loaded as weights of tiny")
    assert "\n" not in str(caught.value)


def test_a_missing_weights_file_is_refused(tmp_path, tiny_backbone):
    path = tmp_path / "weights.weights.h5"
    with pytest.raises(UserError) as caught:
        backbone("tiny", str(path))
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path, resnet18, monkeypatch, use_tiny_backbone):
    path = tmp_path / "tiny.weights.h5"
    with monkeypatch.context() as patch:
        use_tiny_backbone(patch)
        backbone("tiny")[0].save_weights(path)
    with pytest.raises(UserError, match="cannot be loaded as weights of resnet18"):
        backbone("resnet18", str(path))


@pytest.mark.slow
def test_a_weights_file_is_loaded(tmp_path):
    path = tmp_path / "mobilenet.weights.h5"
    saved, _ = backbone("mobilenet_v2")
    saved.save_weights(path)
    loaded, _ = backbone("mobilenet_v2", str(path))
    for before, after in zip(saved.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
