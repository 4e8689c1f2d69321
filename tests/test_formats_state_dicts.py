import numpy as np
import pytest

from src.errors import UserError
from src.formats.state_dicts import find_network

NAMES = ("Encoder.0.layers.0.main.0.main.0.weight", "feat_extract.0.main.0.weight", "AFFs.1.conv.0.main.0.bias")


def state(value, prefix=""):
    return {prefix + name: np.full(2, value) for name in NAMES}


def found_value(content, weights="ema"):
    """The number that fills the chosen tensors; they must bear the network's own names."""
    values = find_network(content, "a.pkl", weights).values
    assert sorted(values) == sorted(NAMES)
    (number,) = {float(v) for array in values.values() for v in array}
    return number


@pytest.mark.parametrize("key", ["params", "params_ema", "state_dict", "model", "net", "anything"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.net."])
def test_one_network_is_found_wherever_it_is(key, prefix):
    for content in (state(1, prefix), {key: state(1, prefix), "epoch": 3}, {"run": {key: state(1, prefix)}}):
        assert found_value(content) == found_value(content, "raw") == 1


def test_wrapper_around_one_layer():
    content = {"Encoder._orig_mod.0.layers.0.main.0.main.0.weight": np.ones(2), **{n: np.ones(2) for n in NAMES[1:]}}
    assert found_value(content) == 1
    assert find_network(content, "a.pkl").taken == "all names, without _orig_mod."


@pytest.mark.parametrize(
    "content,names",
    [
        ({"params": state(1), "params_ema": state(2)}, ("params_ema", "params")),
        ({"params_ema": state(2), "params": state(1)}, ("params_ema", "params")),
        ({"state_dict": state(1, "model.") | state(2, "ema_model.")}, ("state_dict.ema_model.*", "state_dict.model.*")),
        ({"model": state(1), "model_ema": {"module": state(2, "module.")}}, ("model_ema.module.*", "model")),
        (state(1) | state(2, "ema."), ("ema.*", "the others")),
    ],
)
def test_average_is_preferred_unless_raw_weights_are_asked_for(content, names):
    assert (found_value(content), found_value(content, "raw")) == (2, 1)
    average, raw = (name.replace(".module.*", ".module") for name in names)
    taken = find_network(content, "a.pkl").taken
    assert taken.startswith(f"the moving average of the weights, {average}")
    assert taken.endswith(f"(--weights raw takes {raw})")
    assert find_network(content, "a.pkl", "raw").taken.endswith(f"(--weights ema takes {average})")


def test_incomplete_average_is_not_taken():
    partial = {f"ema.{NAMES[0]}": np.full(2, 2.0)}
    assert found_value(state(1) | partial) == 1
    assert find_network(state(1) | partial, "a.pkl").left_out == list(partial)


def test_what_is_not_the_network_is_left_out_by_name():
    moments = state(5, "moment1.")
    content = {"epoch": 3, "params": {**state(1), **moments, "note": "x"}, "params_ema": state(2), "opt": {}}
    assert find_network(content, "a.pkl").left_out == ["epoch", "opt"]
    assert find_network(content, "a.pkl", "raw").left_out == [*moments, "epoch", "params_ema", "opt", "note"]
    assert find_network(state(1), "a.pkl").taken == ""


def refusal(content):
    with pytest.raises(UserError) as caught:
        find_network(content, "a.pkl")
    return str(caught.value)


def test_refusals_say_what_was_found():
    assert refusal(
        {"params_g": {"conv.weight": np.ones(1), "conv.bias": np.ones(1)}, "iter": 7, "w": np.ones(1)}
    ).endswith("got params_g: {conv.weight, conv.bias}, iter: int, w")
    assert refusal({"model": {}}).endswith("got model: {}")
    assert refusal({}).endswith("got an empty dictionary")
    assert refusal([1]) == "a.pkl holds a list, expected a state dict: names and tensors"
    twice = refusal(state(1) | {f"module.{NAMES[0]}": np.ones(2)})
    assert twice == f"a.pkl holds {NAMES[0]} twice, as {NAMES[0]} and as module.{NAMES[0]}"
