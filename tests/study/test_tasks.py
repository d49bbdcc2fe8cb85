"""Models and data to test them on: what is read, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from bmrpruner import study
from bmrpruner.study import Task, models

PARAMS = {"dense_0": {"kernel": np.ones((2, 16))}, "dense_1": {"kernel": np.ones((16, 3))}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_at_all:f", "expected a function to import, .*ModuleNotFoundError"),
        (
            "bmrpruner.study.models:no_such_function",
            "expected a function to import, .*AttributeError",
        ),
        ("bmrpruner.study.models", "expected module:function"),
        ("bmrpruner:__all__", "expected a function, .* a list"),
    ],
)
def test_models_that_do_not_import(name, message):
    with pytest.raises(ValueError, match=message):
        study.load_model(name)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task(np.ones((9, 5)), np.zeros(9, int), np.ones((9, 5))), r"inputs of shape \(9, 5\)"),
        (
            Task(np.ones((9, 2)), np.full(9, 3), np.ones((9, 2))),
            r"expected integers in \[0, 3\), the classes of the model, got 3 to 3",
        ),
    ],
)
def test_data_of_the_wrong_shape(task, message):
    with pytest.raises(ValueError, match=message):
        study.check_model(models.mlp, PARAMS, task)


def test_a_model_of_another_shape():
    with pytest.raises(ValueError, match=r"expected logits of shape \(200, classes\), got \(3,\)"):
        study.check_model(
            lambda params, x: jnp.zeros(3),
            PARAMS,
            Task(np.ones((200, 2)), np.zeros(200, int), np.ones((9, 2))),
        )


def test_tasks_from_files(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(12.0).reshape(4, 3), y=np.arange(4))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)), y=np.zeros(2, int))
    task = study.load_task(tmp_path / "a.npz")
    assert np.array_equal(np.sort(task.ood, 1), task.inputs)
    assert not np.array_equal(task.ood, task.inputs)
    assert study.load_task(tmp_path / "a.npz", tmp_path / "b.npz").ood.shape == (2, 3)
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 4)), y=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"c.npz: x: expected inputs of shape \(3,\)"):
        study.load_task(tmp_path / "a.npz", tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.zeros((2, 4)), y=np.zeros(2))
    with pytest.raises(ValueError, match=r"d.npz: y: expected an integer"):
        study.load_task(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", images=np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"e.npz: expected arrays x and y, got images"):
        study.load_task(tmp_path / "e.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        study.load_task(tmp_path / "nowhere")


def test_labels_of_outsiders_are_not_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3)), y=np.arange(4))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 3)))
    assert study.load_task(tmp_path / "a.npz", tmp_path / "b.npz").ood.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64, jnp.bfloat16])
def test_real_inputs_become_float32(tmp_path, dtype):
    x = np.array([[0, 1], [1, 1]])
    np.savez(tmp_path / "a.npz", x=x.astype(dtype), y=np.array([0, 2**31 - 1]))
    task = study.load_task(tmp_path / "a.npz")
    assert (task.inputs.dtype, task.labels.dtype) == (np.float32, np.int32)
    assert task.inputs.tolist() == x.tolist()
    assert task.labels.tolist() == [0, 2**31 - 1]


X, Y = np.zeros((3, 2)), np.zeros(3, int)
BAD_INPUTS = {
    "complex": (X.astype(complex), "booleans or real numbers, got complex128"),
    "text": (X.astype(str), "booleans or real numbers, got <U"),
    "dates": (X.astype("datetime64[s]"), "booleans or real numbers, got datetime64"),
    "NaN": (X * np.nan, "finite numbers of float32, got nan"),
    "infinite": (X + np.inf, "finite numbers of float32, got inf"),
    "beyond float32": (X + 1e300, r"finite numbers of float32, got 1e\+300"),
    "no rows": (X[:0], r"got shape \(0, 2\)"),
    "rows of nothing": (X[:, :0], r"got shape \(3, 0\)"),
    "a scalar": (np.ones(()), r"got shape \(\)"),
}
BAD_LABELS = {
    "beyond 32 bits": (Y + 2**32, "got 4294967296 to 4294967296"),
    "beyond 31 bits": (Y.astype(np.uint32) + 2**31, "got 2147483648 to 2147483648"),
    "beyond 63 bits": (Y.astype(np.uint64) - 1, "got 18446744073709551615 to"),
    "negative": (Y - 1, "got -1 to -1"),
    "booleans": (Y.astype(bool), "got bool"),
    "fractions": (Y.astype(float), "got float64"),
    "a scalar": (np.array(1), r"got int64 of shape \(\)"),
    "too few": (Y[:2], r"got int64 of shape \(2,\)"),
}


@pytest.mark.parametrize(("x", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_are_refused(tmp_path, x, message):
    np.savez(tmp_path / "good.npz", x=X, y=Y)
    np.savez(tmp_path / "bad.npz", x=x, y=np.zeros(np.shape(x)[:1], int))
    with pytest.raises(ValueError, match=rf"bad\.npz: x: expected .*{message}"):
        study.load_task(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match=rf"bad\.npz: x: expected .*{message}"):
        study.load_task(tmp_path / "good.npz", tmp_path / "bad.npz")


@pytest.mark.parametrize(("y", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_are_refused(tmp_path, y, message):
    np.savez(tmp_path / "bad.npz", x=X, y=y)
    with pytest.raises(ValueError, match=rf"bad\.npz: y: expected .*{message}"):
        study.load_task(tmp_path / "bad.npz")


def test_files_that_are_no_data(tmp_path):
    np.savez(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"none\.npz: expected tensors in it, got none"):
        study.load_task(tmp_path / "none.npz")
    (tmp_path / "test.h5").touch()
    with pytest.raises(NotADirectoryError, match=r"test\.h5: expected a directory"):
        study.load_task(tmp_path / "test.h5")


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seeds_of_too_many_bits(tmp_path, seed):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(ValueError, match="seed: expected an integer in"):
        study.load_task(tmp_path / "a.npz", seed=seed)


@pytest.mark.parametrize("seed", [True, 1.0, "1", None])
def test_seeds_of_another_type(tmp_path, seed):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(TypeError, match="seed: expected an integer in"):
        study.load_task(tmp_path / "a.npz", seed=seed)
