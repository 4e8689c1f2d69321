import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import Tensor
from onnx import numpy_helper

from src.checkpoint import parameter_arrays
from src.engine import MindSporeEngine, import_fast
from src.formats.onnx_graph import INPUT, OUTPUTS, build_onnx
from tests.conftest import REFERENCES


def noise(*shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def run_onnxruntime(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {INPUT: images})


def run_openvino(model, images, tmp_path):
    onnx.save(model, tmp_path / "network.onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    _, openvino = import_fast()
    compiled = openvino.Core().compile_model(tmp_path / "network.onnx", "CPU", options)
    return [np.array(output) for output in compiled([images]).values()]


@pytest.fixture(scope="module")
def tiny(cpu, reference):
    network, images, _, recorded = reference("mimo_unet_num_res_1")
    return network, parameter_arrays(network), images, recorded


@pytest.fixture(scope="module")
def answer(tiny):
    """What MindSpore says; compiled once for all shapes."""
    return MindSporeEngine(tiny[0])


@pytest.mark.parametrize("name", REFERENCES)
def test_both_runtimes_give_the_reference(name, cpu, reference, tmp_path):
    network, images, _, recorded = reference(name)
    model = build_onnx(parameter_arrays(network), network.variant.num_res, all_scales=True)
    onnx.checker.check_model(model, full_check=True)
    for outputs in (run_onnxruntime(model, images), run_openvino(model, images, tmp_path)):
        for output, scale in zip(outputs, (2, 1, 0), strict=True):  # the full resolution comes first here
            np.testing.assert_allclose(output, recorded[f"output_{scale}"], rtol=0, atol=1e-5)


def test_weights_are_there_once_under_their_published_names(tiny):
    network, arrays, _, recorded = tiny
    model = build_onnx(arrays, 1, all_scales=True)
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert set(stored) - {"double"} == set(recorded["param_names"])
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored[name], array)
    assert len(model.graph.initializer) == len(stored)


def test_only_the_full_resolution_unless_asked(tiny):
    _, arrays, images, _ = tiny
    one, three = build_onnx(arrays, 1), build_onnx(arrays, 1, all_scales=True)
    assert [o.name for o in one.graph.output] == ["restored"]
    assert [o.name for o in three.graph.output] == list(OUTPUTS)
    assert not any(i.name.startswith("ConvsOut") for i in one.graph.initializer)  # they serve the coarse outputs alone
    np.testing.assert_array_equal(run_onnxruntime(one, images)[0], run_onnxruntime(three, images)[0])


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (3, 3, 8, 20), (1, 3, 332, 500)])
def test_one_file_for_every_shape(shape, tiny, answer, tmp_path):
    model, images = build_onnx(tiny[1], 1), noise(*shape)
    expected = answer(images)
    for outputs in (run_onnxruntime(model, images), run_openvino(model, images, tmp_path)):
        np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_published_depth_at_the_size_of_a_photo(cpu, reference, tmp_path):
    network = reference("mimo_unet")[0]
    model, images = build_onnx(parameter_arrays(network), network.variant.num_res), noise(1, 3, 332, 500)
    expected = network(Tensor(images))[2].asnumpy()
    for outputs in (run_onnxruntime(model, images), run_openvino(model, images, tmp_path)):
        np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-5)


def test_shapes_that_are_fixed_stand_in_the_file(tiny):
    _, arrays, _, _ = tiny
    model = build_onnx(arrays, 1, size=(16, 24), batch=2, all_scales=True)
    onnx.checker.check_model(model, full_check=True)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*model.graph.input, *model.graph.output)]
    assert shapes == [[2, 3, 16, 24], [2, 3, 16, 24], [2, 3, 8, 12], [2, 3, 4, 6]]
    free = build_onnx(arrays, 1).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in free] == ["N", 3, "H", "W"]


def test_float16_is_half_the_file_and_close(tiny, tmp_path):
    _, arrays, images, recorded = tiny
    single, half = build_onnx(arrays, 1), build_onnx(arrays, 1, float16=True)
    onnx.checker.check_model(half, full_check=True)
    assert half.ByteSize() < 0.55 * single.ByteSize()
    for outputs in (run_onnxruntime(half, images), run_openvino(half, images, tmp_path)):
        assert outputs[0].dtype == np.float32
        np.testing.assert_allclose(outputs[0], recorded["output_2"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 3, 16, 40)])
def test_one_file_of_lite_for_every_shape(shape, cpu, reference, tmp_path):
    network = reference("mimo_unet_lite")[0]
    model, images = build_onnx(parameter_arrays(network), 4), noise(*shape)
    half = build_onnx(parameter_arrays(network), 4, float16=True)
    expected = network(Tensor(images))[2].asnumpy()
    for outputs in (run_onnxruntime(model, images), run_openvino(model, images, tmp_path)):
        np.testing.assert_allclose(outputs[0], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run_onnxruntime(half, images)[0], expected, rtol=0, atol=2e-3)


def test_texts_are_stored(tiny):
    model = build_onnx(tiny[1], 1, metadata={"variant": "MIMO-UNet", "range": "0..1"})
    assert {p.key: p.value for p in model.metadata_props} == {"variant": "MIMO-UNet", "range": "0..1"}


def test_same_weights_same_file(tiny):
    files = {zlib.crc32(build_onnx(tiny[1], 1).SerializeToString()) for _ in range(2)}
    assert len(files) == 1
