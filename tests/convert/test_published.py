"""What a file's content is recognized as; hostile and foreign content gives an error of ours."""

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from networks.published import config_of, listed

from golden import golden
from score_sde.convert import read_file
from score_sde.convert.published import recognize
from score_sde.convert.table import Entry
from score_sde.errors import UserError

W = np.ones((2, 3), np.float32)


CODES = {  # folder: (code, averaged, type of the table of noise levels)
    "score_sde_jax": ("score_sde", True, None),
    "score_sde_pytorch": ("score_sde_pytorch", True, np.float64),
    "ncsn": ("ncsn", False, None),
    "ncsnv2": ("ncsnv2", True, np.float32),
    "score_flow_jax": ("score_flow", True, None),
}
STATES = listed("*/*/checkpoint*")


@pytest.mark.parametrize("file", STATES)
def test_published_forms(file: str) -> None:
    path, folder = golden(f"nets/{file}"), str(Path(file).parent)
    content = read_file(path)
    found, tree = recognize(*content, path), content[1]
    code, averaged, dtype = CODES[file.split("/")[0]]
    assert (found.code, found.averaged) == (code, averaged)
    if code == "ncsn":  # what Adam counted
        steps = {int(state["step"]) for state in tree[1]["state"].values()}
        assert {found.step} == (steps or {None})
    else:
        step = tree[3] if code == "ncsnv2" else int(np.ravel(tree["step"])[0])
        assert found.step == step > 0
    assert (found.sigmas is None) == (dtype is None)
    if found.sigmas is not None:
        model = config_of(folder)["model"]
        levels = model.get("num_scales") or model["num_classes"]
        assert (len(found.sigmas), found.sigmas.dtype) == (levels, dtype)
    assert found.params.keys() == found.ema.keys()
    if averaged and found.format == "torch":
        same = [name for name in found.params if (found.params[name] == found.ema[name]).all()]
        assert set(same) <= {"all_modules.0.W"}  # frequencies are not trained


@pytest.mark.parametrize("file", listed("score_flow_jax/*/*.msgpack"))
def test_weights_alone_of_a_dequantizer(file: str) -> None:
    found = recognize(*read_file(golden(f"nets/{file}")))
    assert (found.code, found.step, found.averaged) == ("score_flow", None, False)
    assert found.sigmas is None and found.params.keys() == found.ema.keys()


def test_the_step_of_ncsn_is_in_its_optimizer_or_its_name() -> None:
    state = {"module.begin_conv.weight": W}
    counted = {"state": {0: {"step": 12}}, "param_groups": []}
    assert recognize("pickle", [state, counted], Path("checkpoint_7.pth")).step == 12
    assert recognize("pickle", [state, {"state": {}}], Path("checkpoint_7.pth")).step == 7
    assert recognize("pickle", [state, {"state": {}}], Path("checkpoint.pth")).step is None
    assert (
        recognize("pickle", [state, {"state": {}}], Path("model_20201123120000.pth")).step is None
    )
    assert recognize("pickle", [state, {}, 3, 70]).step == 70


def test_averages_without_names_follow_the_names_of_the_model() -> None:
    model = {
        "module.sigmas": W[0],
        "module.all_modules.0.W": W,
        "module.all_modules.1.weight": W,
        "module.b": W[0],
    }
    averages = {"decay": 0.9, "num_updates": 1, "shadow_params": [2 * W, 3 * W[0]]}
    found = recognize("zip", {"model": model, "ema": averages, "optimizer": {}, "step": 5})
    assert list(found.ema) == ["all_modules.0.W", "all_modules.1.weight", "b"]
    assert [float(array.flat[0]) for array in found.ema.values()] == [1, 2, 3]
    with pytest.raises(UserError, match="1 averaged parameters for 2 names"):
        recognize("zip", {"model": model, "ema": averages | {"shadow_params": [W]}, "step": 5})


@pytest.mark.parametrize("name", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("averages", [None, "ema", "model_ema", "ema_state_dict", "params_ema"])
def test_dictionaries_of_other_codes(name: str, averages: str | None) -> None:
    """Weights and averages by name, with what parallelism and compilation add to names."""
    model = {"module._orig_mod.a": W, "b._orig_mod.c": W, "sigmas": W[0]}
    tree = {name: model, "step": 7} | ({averages: {"a": 2 * W}} if averages else {})
    found = recognize("zip", tree)
    assert found.params.keys() == found.ema.keys() == {"a", "b.c"} and found.step == 7
    assert found.averaged == bool(averages) and found.sigmas is not None
    assert float(found.ema["a"].flat[0]) == (2 if averages else 1) * float(W.flat[0])


def test_averages_alone_are_the_weights() -> None:
    found = recognize("zip", {"ema": {"module.a": W}, "step": np.asarray(4)})
    assert found.params.keys() == {"a"} and found.averaged and found.step == 4


def test_a_state_kept_for_several_devices_has_one_step() -> None:
    tree = {"optimizer": {"target": {"a": W}}, "params_ema": {"a": W}}
    for step, expected in (
        (np.asarray([4, 4]), 4),
        (np.asarray([4, 5]), None),
        ("4", None),
        (np.nan, None),
        (-1, None),
        ([np.int32(4)], None),  # a list may hold an array many times
    ):
        assert recognize("msgpack", tree | {"step": step}).step == expected


@pytest.mark.parametrize(
    ("container", "tree", "message"),
    [
        ("msgpack", {}, "it holds nothing"),
        ("msgpack", 3, "it holds a int"),
        ("msgpack", {"a": {"b": "text"}}, "it holds entries a"),
        ("msgpack", {"optimizer": 3, "params_ema": {}}, r"no entry optimizer|no entry target"),
        (
            "msgpack",
            {"optimizer": {"target": 3}, "params_ema": {"a": W}},
            "it holds entries optimizer, params_ema",
        ),
        ("msgpack", {1: W}, "it holds entries 1"),
        ("zip", [1, 2, 3], "a list of 3: int, int, int"),
        ("zip", [{"a": "text"}, {}], "without its dictionary of weights"),
        ("zip", {"model": {"a": W}, "ema": 5}, "unknown layout; .* It is a int"),
        ("zip", {"model": {"a": W}, "ema": {"b": W}}, "1 of its averaged weights, like b"),
        ("zip", {"ema": {"shadow_params": [W]}, "step": 3}, "averaged weights without names"),
        ("zip", {"model": {"a": W, "module.a": W}}, "1 of its weights have the name of another"),
        ("zip", {"weights": {"a": "text"}}, "it holds entries weights"),
        (
            "zip",
            {"model": {"a": W}, "ema": {"shadow_params": 5}},
            "no averaged parameters for 1 names",
        ),
        (
            "zip",
            {"model": {"a": W}, "ema": {"shadow_params": [[W]]}},
            "no averaged parameters for 1 names",
        ),
        ("zip", {"a": W, "sigmas": W.astype(complex)}, "noise levels are of type complex128"),
        ("zip", {"a\x1b[2J": W}, r"it holds entries a\\x1b\[2J"),
        ("msgpack", {"a": {"b" * 201: W}}, "it holds entries a"),
        ("zip", {"a": W, 5: W}, "it holds entries a, 5"),
        ("zip", "text", "it holds a str"),
    ],
)
def test_foreign_content_is_refused(container: str, tree: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recognize(container, tree)


TABLE = [Entry("a", "a", "a")]
LIKE = {"a": np.zeros(3)}


def test_arrays_that_are_no_weights_are_refused() -> None:
    for dtype in (np.int64, bool, complex):
        found = recognize("zip", {"a": np.ones(3, dtype)})
        with pytest.raises(UserError, match=r"a is of type \w+, not a weight"):
            found.convert(TABLE, LIKE)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_weights_of_other_precisions_come_in_single_precision(dtype: type) -> None:
    params, _ = recognize("zip", {"a": np.array([1, 2, 0.5], dtype)}).convert(TABLE, LIKE)
    assert params["a"].dtype == np.float32
    np.testing.assert_array_equal(params["a"], [1, 2, 0.5])


def test_weights_too_large_for_single_precision_are_refused(
    recwarn: pytest.WarningsRecorder,
) -> None:
    with pytest.raises(UserError, match="1 of the weights are not finite numbers, the first a"):
        recognize("zip", {"a": np.array([1, 2, 1e300])}).convert(TABLE, LIKE)
    assert not recwarn.list


def test_names_are_compared_before_arrays_are_copied() -> None:
    shared = np.ones(10**6, np.float32)
    found = recognize("zip", {f"a{i}": shared for i in range(30)})
    tracemalloc.start()
    with pytest.raises(UserError, match="a0 has no place"):
        found.convert(TABLE, LIKE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < shared.nbytes


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 0, 0), (4, 3, 1, 1, 1)])
def test_other_kernels_do_not_pass_as_pointwise(shape: tuple[int, ...]) -> None:
    table, like = [Entry("a", "a", "a", "pointwise")], {"a": np.zeros((3, 4))}
    with pytest.raises(UserError, match="a has shape"):
        recognize("zip", {"a": np.zeros(shape, np.float32)}).convert(table, like)


def test_other_arrays_do_not_pass_as_vectors() -> None:
    table, like = [Entry("a", "a", "a", "vector")], {"a": np.zeros(4)}
    for container in ("zip", "msgpack"):
        for shape in ((4,), (1, 1, 1, 4)):
            recognize(container, {"a": np.zeros(shape, np.float32)}).convert(table, like)
        for shape in ((2, 2), (4, 1), ()):
            with pytest.raises(UserError, match="a has shape"):
                recognize(container, {"a": np.zeros(shape, np.float32)}).convert(table, like)
