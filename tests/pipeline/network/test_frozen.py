import numpy as np
import pytest
import tensorflow as tf

from model_build import artifact
from pipeline.network import frozen
from pipeline.network.frozen import NotPlain
from pipeline.network.graphs import Graph, traced

IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8)
SCORES = tf.TensorSpec([None, None, None, 4], tf.float32)


class Other(tf.Module):
    """A network that this project has not saved: inner functions, caught constants, two kinds."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.layers = [
            {"kernel": tf.Variable(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))},
            {"kernel": tf.Variable(rng.normal(size=(1, 1, 4, 4)).astype(np.float16))},
        ]
        self.unused = tf.Variable(1.0)
        shift = tf.constant(rng.normal(size=4).astype(np.float32))

        @tf.function
        def inner(x, kernel):
            return tf.nn.conv2d(x, tf.cast(kernel, tf.float32), 1, "SAME") + shift

        @tf.function
        def outer(x):
            return inner(inner(x, self.layers[0]["kernel"]), self.layers[1]["kernel"])

        @tf.function(input_signature=[IMAGES])
        def body(images):
            return outer(tf.cast(images[:, ::2, ::2], tf.float32) / 255)

        @tf.function(input_signature=[SCORES])
        def head(scores):
            parts = tf.split(scores, [1, 2, 1], axis=-1)
            first, *others = tf.unstack(parts[1], axis=-1)
            return tf.concat([parts[2], first[..., None], others[0][..., None], parts[0]], -1)

        self.body, self.head = body, head


def saved(module, folder):
    tf.saved_model.save(module, str(folder))
    return str(folder)


def noise(*shape):
    return np.random.default_rng(1).integers(0, 255, shape, np.uint8)


def run(functions, images):
    """Scores and logits."""
    body = functions.body
    if isinstance(body, Graph):
        scores = traced(body, IMAGES)(images)
        return scores.numpy(), traced(functions.head, tf.TensorSpec(scores.shape))(scores).numpy()
    scores = body(images)
    return scores.numpy(), functions.head(scores).numpy()


def assert_alike(one, other, images, tolerance=0.0):
    for found, expected in zip(run(one, images), run(other, images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    assert one.channels == other.channels


def test_a_saved_network_is_read_as_the_loader_loads_it(tiny_model):
    folder = f"{tiny_model}/{artifact.NETWORK}"
    assert_alike(frozen.read(folder), artifact.loaded(folder), tf.constant(noise(2, 64, 96, 3)))


def test_the_default_model_is_read():
    read = frozen.read(f"{artifact.DEFAULT_MODEL}/{artifact.NETWORK}")
    assert isinstance(read.body, Graph)
    assert read.channels == 21


def test_a_network_of_another_program_is_read_too(tmp_path):
    folder = saved(Other(), tmp_path)
    images = tf.constant(noise(2, 8, 6, 3))
    # TensorFlow may compute with caught constants in another order.
    assert_alike(frozen.read(folder), artifact.loaded(folder), images, 1e-5)


def stateful(x):
    return x + tf.random.uniform([])


def looping(x):
    return tf.while_loop(lambda y: tf.reduce_sum(y) < 1000, lambda y: (y + 1,), [x])[0]


def several(x):
    return x, x


@pytest.mark.parametrize("function", [stateful, looping, several])
def test_what_is_not_plain_is_left_to_the_loader(tmp_path, function):
    module = Other()
    module.head = tf.function(function, input_signature=[SCORES])
    with pytest.raises(NotPlain):
        frozen.read(saved(module, tmp_path))


def test_the_loader_loads_what_is_not_plain(tmp_path):
    module = Other()
    module.head = tf.function(looping, input_signature=[SCORES])
    functions = frozen.functions(saved(module, tmp_path), "")
    images = tf.constant(noise(1, 8, 6, 3))
    np.testing.assert_array_equal(run(functions, images)[1], module.head(module.body(images)))


def test_a_variable_that_is_written_is_left_to_the_loader(tmp_path):
    module = Other()
    module.head = tf.function(lambda x: x + module.unused.assign_add(1.0), input_signature=[SCORES])
    with pytest.raises(NotPlain):
        frozen.read(saved(module, tmp_path))


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ([("x", "Placeholder"), ("y", "Switch")], r"Switch \(y\) is not a pure function"),
        ([("x", "Placeholder"), ("y", "Relu"), ("y", "Neg")], "two nodes have one name"),
    ],
)
def test_what_edges_cannot_be_taken_from_is_no_graph(nodes, why):
    definition = tf.compat.v1.GraphDef(
        node=[tf.compat.v1.NodeDef(name=name, op=op) for name, op in nodes]
    )
    with pytest.raises(ValueError, match=why):
        Graph.of(definition, ["x"], ["y"])


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
@pytest.mark.parametrize("content", [None, b"", b"no network"])
def test_a_damaged_file_is_not_read(tmp_path, name, content):
    saved(Other(), tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(NotPlain):
        frozen.read(str(tmp_path))
