"""Small networks as inference programs, each written as a function."""

from types import SimpleNamespace

import tensorflow as tf

from model_build.artifact import PROGRAM, Scores
from model_build.network.upsampling import Interpolation
from model_build.program import Program
from pipeline.network.models import Network


def average(features, number=0, keepdims=True):
    """The mean over height and width, named as a program names it."""
    features = tf.identity(features, f"features{number}")
    mean = tf.reduce_mean(features, [1, 2], keepdims=True, name=f"mean{number}")
    return mean if keepdims else tf.squeeze(mean, [1, 2])


def program(body, head=lambda scores: scores, averages=0):
    """A program: ``body`` makes float32 scores of uint8 images, ``head`` logits of these."""

    def whole(images):
        scores = tf.identity(body(images), "scores")
        return tf.identity(head(scores), "logits")

    images = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    graph = tf.compat.v1.wrap_function(whole, [images]).graph
    return Program(graph.as_graph_def(add_shapes=True), averages)


def network(body, stride=8, head=None, shift=None, averages=0, long_side=256):
    """A program as a job loads it; its logits are an interpolation unless a head is given."""
    if head is None:
        shift = 0.0
        head = Interpolation(stride, shift)
    description = SimpleNamespace(
        stride=32, long_side=long_side, scores=Scores(stride, shift, averages), kind=PROGRAM
    )
    return Network(description, program(body, head, averages))
