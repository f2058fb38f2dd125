"""TensorFlow is imported without Keras, which later imports still find, and with GC paused."""

import gc
import subprocess
import sys
import threading

import pytest

from model_build.common.quiet_imports import _WithoutKeras, gc_paused

LATER = """
import sys
from model_build.common.quiet_imports import import_tensorflow
import_tensorflow()
assert "_WithoutKeras" not in {type(finder).__name__ for finder in sys.meta_path}
assert "keras" not in sys.modules
import tensorflow as tf
tf.saved_model.load
tf.keras.layers.Dense(1)
import keras
assert keras.layers.Dense is tf.keras.layers.Dense
"""


@pytest.mark.slow
def test_keras_is_not_imported_until_it_is_needed():
    subprocess.run([sys.executable, "-c", LATER], check=True)


def test_keras_is_hidden_only_from_the_importing_thread():
    finder = _WithoutKeras()
    with pytest.raises(ModuleNotFoundError) as raised:
        finder.find_spec("keras.src", None)
    assert raised.value.name == "keras.src"
    assert finder.find_spec("keras", None) is None
    found = []
    other = threading.Thread(target=lambda: found.append(finder.find_spec("keras.src", None)))
    other.start()
    other.join()
    assert found == [None]


def test_the_collector_rests_while_a_block_runs():
    frozen = gc.get_freeze_count()
    with gc_paused():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen  # this process is not claimed


OURS = """
import gc
from model_build.common.quiet_imports import claim_process, gc_paused
claim_process()
with gc_paused():
    pass
assert not gc.get_freeze_count()
with gc_paused():
    import decimal
assert gc.get_freeze_count()
"""


def test_imports_are_excluded_from_gc_in_a_claimed_process():
    subprocess.run([sys.executable, "-c", OURS], check=True)
