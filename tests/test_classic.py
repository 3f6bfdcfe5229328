"""The seed's Network against the tutorial's own algorithm, one sample and one column at a time, written here."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import twostroke as ts
from twostroke.backend import Backend
from twostroke.classic import Network, sigmoid, sigmoid_prime
from twostroke.engine.batches import epoch_order
from twostroke.errors import ConfigError, DataError

Column = NDArray[np.float64]
Pair = tuple[Column, Column]


def f(z: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-z))


class Tutorial:
    """The demo's algorithm (S6 to S8): lists of columns, a loop over samples, nothing shared with the package."""

    def __init__(self, weights: list[Column], biases: list[Column]) -> None:
        self.weights = [np.array(w) for w in weights]
        self.biases = [np.array(b) for b in biases]

    def update(self, x: Column, y: Column) -> tuple[list[Column], list[Column]]:
        zs: list[Column] = []
        ys = [x]
        for w, b in zip(self.weights, self.biases, strict=True):
            zs.append(np.dot(w, ys[-1]) + b)
            ys.append(f(zs[-1]))
        delta = (ys[-1] - y) * f(zs[-1]) * (1 - f(zs[-1]))
        nabla_b, nabla_w = [delta], [np.dot(delta, ys[-2].transpose())]
        for layer in range(2, len(self.weights) + 1):
            slope = f(zs[-layer]) * (1 - f(zs[-layer]))
            delta = np.dot(self.weights[-layer + 1].transpose(), delta) * slope
            nabla_b.insert(0, delta)
            nabla_w.insert(0, np.dot(delta, ys[-layer - 1].transpose()))
        return nabla_b, nabla_w

    def summed(self, pairs: list[Pair]) -> tuple[list[Column], list[Column]]:
        sum_b = [np.zeros(b.shape) for b in self.biases]
        sum_w = [np.zeros(w.shape) for w in self.weights]
        for x, y in pairs:
            nabla_b, nabla_w = self.update(x, y)
            sum_b = [a + b for a, b in zip(sum_b, nabla_b, strict=True)]
            sum_w = [a + b for a, b in zip(sum_w, nabla_w, strict=True)]
        return sum_b, sum_w

    def step(self, pairs: list[Pair], eta: float, decay: float = 1.0) -> None:
        nabla_b, nabla_w = self.summed(pairs)
        self.weights = [decay * w - eta * g for w, g in zip(self.weights, nabla_w, strict=True)]
        self.biases = [b - eta * g for b, g in zip(self.biases, nabla_b, strict=True)]

    def cost(self, pairs: list[Pair]) -> float:
        total = 0.0
        for x, y in pairs:
            for w, b in zip(self.weights, self.biases, strict=True):
                x = f(np.dot(w, x) + b)  # noqa: PLW2901
            total += 0.5 * float(((x - y) ** 2).sum())
        return total


def pairs(n: int, n_in: int = 5, n_out: int = 3, seed: int = 0) -> list[Pair]:
    rng = np.random.default_rng(seed)
    one_hot = np.eye(n_out)
    return [(rng.random((n_in, 1)), one_hot[:, [i % n_out]]) for i in range(n)]


def close(found: list[Any], expected: list[Any], limit: float = 1e-12) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(b)


def twin(net: Network) -> Tutorial:
    return Tutorial(net.weights, net.biases)


# --- names and shapes (S8) -------------------------------------------------------------------------------------


def test_names_and_shapes(backend: Backend) -> None:
    net = Network([7, 4, 3, 2], backend=backend, seed=0)
    assert net.num_layers == 4
    assert net.sizes == [7, 4, 3, 2]
    assert [b.shape for b in net.biases] == [(4, 1), (3, 1), (2, 1)]
    assert [w.shape for w in net.weights] == [(4, 7), (3, 4), (2, 3)]
    assert all(type(a) is np.ndarray and a.dtype == np.float64 for a in net.weights + net.biases)
    assert ts.Network is Network


def test_weights_start_standard_normal_and_follow_the_seed() -> None:
    net = Network([300, 200, 10], seed=0)
    for values in (net.weights[0], net.biases[0]):
        assert abs(values.mean()) < 4 / np.sqrt(values.size)
        assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)
    close(Network([300, 200, 10], seed=0).weights, net.weights, 0)
    assert not np.array_equal(Network([300, 200, 10], seed=1).weights[0], net.weights[0])
    assert not np.array_equal(Network([9, 9]).weights[0], Network([9, 9]).weights[0])  # new at each call


def test_cost_derivative(backend: Backend) -> None:
    net = Network([2, 2], backend=backend)
    a, y = np.array([[0.25], [0.75]]), np.array([[1.0], [0.0]])
    assert net.cost_derivative(a, y).tolist() == [[-0.75], [0.75]]
    on_device = net.cost_derivative(backend.asarray(a), backend.asarray(y))
    assert backend.to_host(on_device).tolist() == [[-0.75], [0.75]]


def test_sigmoid_by_hand() -> None:
    z = np.array([[0.0, np.log(3.0)], [-np.log(3.0), 1000.0]])
    kept = z.copy()
    np.testing.assert_allclose(sigmoid(z), [[0.5, 0.75], [0.25, 1.0]], rtol=1e-15)
    np.testing.assert_allclose(sigmoid_prime(z), [[0.25, 0.1875], [0.1875, 0.0]], rtol=1e-14)
    assert np.array_equal(z, kept)
    assert sigmoid(np.array([-1000.0]))[0] == 0.0  # no overflow warning either: those are errors here
    assert sigmoid(np.array([0, 1])).dtype == np.float64
    assert sigmoid(np.float64(0.0)) == 0.5


@pytest.mark.parametrize("zero", [0.0, 0])
def test_sigmoid_of_a_number(zero: float) -> None:
    assert sigmoid(zero) == 0.5
    assert sigmoid_prime(zero) == 0.25


# --- the same results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[5, 3], [5, 4, 3], [5, 6, 4, 3], [1, 1, 1]])
def test_update_is_the_tutorial_s_backprop(backend: Backend, sizes: list[int]) -> None:
    net = Network(sizes, backend=backend, seed=1)
    reference = twin(net)
    for x, y in pairs(4, sizes[0], sizes[-1]):
        expected_b, expected_w = reference.update(x, y)
        for method in (net.update, net.backprop):
            nabla_b, nabla_w = method(x, y)
            close(nabla_b, expected_b)
            close(nabla_w, expected_w)
    close(net.weights, reference.weights, 0)  # a gradient moves nothing


def test_a_chain_worked_by_hand() -> None:
    """S6: one neuron per layer, w_h = 2, b_h = -1, w_o = -1, b_o = 1/2, x = 1/2, y = 1: z_h = 0, y_h = 1/2, z_o = 0."""
    net = Network([1, 1, 1])
    net.weights, net.biases = [[[2.0]], [[-1.0]]], [[[-1.0]], [[0.5]]]
    nabla_b, nabla_w = net.update(np.array([[0.5]]), np.array([[1.0]]))
    delta_o = (0.5 - 1.0) * 0.25
    delta_h = -1.0 * delta_o * 0.25
    assert [float(b[0, 0]) for b in nabla_b] == pytest.approx([delta_h, delta_o], rel=1e-14)
    assert [float(w[0, 0]) for w in nabla_w] == pytest.approx([delta_h * 0.5, delta_o * 0.5], rel=1e-14)


def test_columns_together_give_the_sum_of_their_gradients(backend: Backend) -> None:
    net, samples = Network([5, 6, 3], backend=backend, seed=1), pairs(37)
    expected_b, expected_w = twin(net).summed(samples)
    nabla_b, nabla_w = net.update(np.hstack([x for x, _ in samples]), np.hstack([y for _, y in samples]))
    close(nabla_b, expected_b)
    close(nabla_w, expected_w)


def test_gd_steps_by_eta_times_the_sum(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    net, samples = Network([5, 6, 3], backend=backend, seed=1), pairs(30)
    reference = twin(net)
    net.GD(samples, 3, 0.05)
    for _ in range(3):
        reference.step(samples, 0.05)
    close(net.weights, reference.weights)
    close(net.biases, reference.biases)
    assert capsys.readouterr().out == "Epoch 0 complete\nEpoch 1 complete\nEpoch 2 complete\n"


@pytest.mark.parametrize(("batch", "lmbda"), [(4, 0.0), (7, 2.0), (1, 0.5), (30, 1.0), (99, 1.0)])
def test_sgd_is_the_book_s_mini_batch_loop(backend: Backend, batch: int, lmbda: float) -> None:
    net, samples = Network([5, 6, 3], backend=backend, seed=1), pairs(30)
    reference = twin(net)
    net.SGD(samples, 2, batch, 0.7, lmbda)
    for epoch in range(2):
        order = epoch_order(30, 1, epoch)
        for start in range(0, 30, batch):
            part = [samples[i] for i in order[start : start + batch]]
            reference.step(part, 0.7 / len(part), 1 - 0.7 * lmbda / 30)
    close(net.weights, reference.weights)
    close(net.biases, reference.biases)


def test_a_second_call_sees_a_new_order() -> None:
    """Two calls of one epoch are one call of two epochs."""
    once, twice = Network([5, 6, 3], seed=1), Network([5, 6, 3], seed=1)
    once.SGD(pairs(30), 2, 4, 0.7)
    for _ in range(2):
        twice.SGD(pairs(30), 1, 4, 0.7)
    close(once.weights, twice.weights, 0)


def test_the_loss_falls_at_each_of_20_steps() -> None:
    net, samples = Network([5, 6, 3], seed=1), pairs(60)
    costs = [twin(net).cost(samples)]
    for _ in range(20):
        net.GD(samples, 1, 0.02)
        costs.append(twin(net).cost(samples))
    assert all(after < before for before, after in pairwise(costs))


def test_feedforward(backend: Backend) -> None:
    net, samples = Network([5, 6, 3], backend=backend, seed=1), pairs(3)
    w, b = net.weights, net.biases
    x = np.hstack([x for x, _ in samples])
    expected = f(w[1] @ f(w[0] @ x + b[0]) + b[1])
    np.testing.assert_allclose(net.feedforward(x), expected, rtol=1e-12)
    np.testing.assert_allclose(net.feedforward(x[:, :1]), expected[:, :1], rtol=1e-12)
    np.testing.assert_allclose(net.feedforward(x[:, 0]), expected[:, :1], rtol=1e-12)


def test_float32_on_request() -> None:
    net, samples = Network([5, 6, 3], seed=1, dtype="float32"), pairs(30)
    assert net.weights[0].dtype == np.float32
    expected_b, expected_w = Tutorial([w.astype(float) for w in net.weights], net.biases).summed(samples)
    nabla_b, nabla_w = net.update(np.hstack([x for x, _ in samples]), np.hstack([y for _, y in samples]))
    close(nabla_b + nabla_w, expected_b + expected_w, 5e-6)


# --- the loop's outside ------------------------------------------------------------------------------------------


def test_evaluate_counts_right_answers(backend: Backend) -> None:
    net, samples = Network([5, 6, 3], backend=backend, seed=1), pairs(50)
    answers = [int(np.argmax(net.feedforward(x))) for x, _ in samples]
    classes = [(x, i % 3) for i, (x, _) in enumerate(samples)]
    expected = sum(answer == i % 3 for i, answer in enumerate(answers))
    assert 0 < expected < 50
    assert net.evaluate(samples) == expected  # one-hot columns
    assert net.evaluate(classes) == expected  # classes
    assert net.evaluate([(x, np.array([y])) for x, y in classes]) == expected
    assert net.evaluate(zip([x for x, _ in classes], [y for _, y in classes], strict=True)) == expected
    assert type(net.evaluate(samples)) is int


def test_one_output_counts_as_1_above_one_half() -> None:
    """XOR."""
    net = Network([2, 2, 1], seed=1)
    net.weights = [np.array([[20.0, 20.0], [-20.0, -20.0]]), np.array([[20.0, 20.0]])]
    net.biases = [np.array([[-10.0], [30.0]]), np.array([[-30.0]])]
    samples = [(np.array([[a], [b]]), a ^ b) for a in (0, 1) for b in (0, 1)]
    assert net.evaluate(samples) == 4
    assert net.evaluate([(x, np.array([[float(y)]])) for x, y in samples]) == 4


def test_evaluate_needs_samples() -> None:
    with pytest.raises(DataError, match=r"^no samples: test_data: found an empty list, expected \(x, y\) pairs$"):
        Network([2, 1]).evaluate([])


def test_pixels_are_scaled_in_every_method() -> None:
    rng = np.random.default_rng(0)
    pixels = [(rng.integers(0, 256, (5, 1), dtype=np.uint8), y) for _, y in pairs(30)]
    floats = [(x / 255.0, y) for x, y in pixels]
    found: list[Any] = []
    expected: list[Any] = []
    for samples, results in ((pixels, found), (floats, expected)):
        net = Network([5, 6, 3], seed=1)
        results.extend([*net.update(*samples[0])[1], net.evaluate(samples), net.feedforward(samples[0][0])])
        net.SGD(samples, 2, 10, 0.5)
        net.GD(samples, 2, 0.1)
        results.extend(net.weights)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_a_copy_goes_on_as_the_network_does(copied: Any) -> None:
    net, samples = Network([5, 6, 3], seed=1), pairs(30)
    net.SGD(samples, 1, 10, 0.5)
    other = copied(net)
    for one in (net, other):
        one.SGD(samples, 2, 10, 0.5)
    for a, b in zip(net.weights, other.weights, strict=True):
        assert np.array_equal(a, b)


def test_what_sgd_prints(capsys: pytest.CaptureFixture[str]) -> None:
    net, samples = Network([5, 6, 3], seed=1), pairs(30)
    net.SGD(samples, 2, 10, 0.5)
    assert capsys.readouterr().out == "Epoch 0 complete\nEpoch 1 complete\n"
    net.SGD(samples, 1, 10, 0.5, test_data=[(x, int(np.argmax(y))) for x, y in samples])
    assert capsys.readouterr().out == f"Epoch 0: {net.evaluate(samples)} / 30\n"
    net.SGD(samples, 1, 10, 0.5, test_data=iter(samples))
    assert capsys.readouterr().out == f"Epoch 0: {net.evaluate(samples)} / 30\n"


def test_an_iterator_of_pairs_is_taken_as_a_list() -> None:
    nets = [Network([5, 6, 3], seed=1) for _ in range(4)]
    samples = pairs(30)
    xs, ys = [x for x, _ in samples], [y for _, y in samples]
    nets[0].SGD(samples, 3, 7, 0.5)
    nets[1].SGD(zip(xs, ys, strict=True), 3, 7, 0.5)
    nets[2].GD(samples, 3, 0.1)
    nets[3].GD(zip(xs, ys, strict=True), 3, 0.1)
    close(nets[1].weights, nets[0].weights, 0)
    close(nets[3].weights, nets[2].weights, 0)


def test_training_data_are_not_changed() -> None:
    samples, kept = pairs(20), pairs(20)
    net = Network([5, 6, 3], seed=1)
    net.SGD(samples, 1, 4, 1.0)
    net.GD(samples, 1, 0.1)
    assert all(
        np.array_equal(a, b) for pair, old in zip(samples, kept, strict=True) for a, b in zip(pair, old, strict=True)
    )


def test_it_learns() -> None:
    """Three classes, each with one bright input."""
    rng = np.random.default_rng(0)
    samples = [(0.4 * rng.random((3, 1)) + np.eye(3)[:, [i % 3]], np.eye(3)[:, [i % 3]]) for i in range(90)]
    net = Network([3, 8, 3], seed=0)
    net.SGD(samples, 30, 10, 3.0)
    assert net.evaluate(samples) == 90


def test_setting_weights_and_biases(backend: Backend) -> None:
    net = Network([2, 2, 1], backend=backend, seed=0)
    weights = [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0]])]
    biases = [np.array([[0.5], [-0.5]]), np.array([[0.25]])]
    net.weights, net.biases = weights, biases
    close(net.weights, weights, 0)
    close(net.biases, biases, 0)
    x = np.array([[0.1], [0.2]])
    hidden = f(weights[0] @ x + biases[0])
    np.testing.assert_allclose(net.feedforward(x), f(weights[1] @ hidden + biases[1]), rtol=1e-13)
    weights[0][:] = 99.0
    assert net.weights[0][0, 0] == 1.0  # copied, not adopted
    # The book's own line of code.
    net.weights = [w - 0.5 * nw for w, nw in zip(net.weights, net.backprop(x, np.array([[1.0]]))[1], strict=True)]
    assert net.weights[0][0, 0] != 1.0


def test_on_the_cpu_weights_are_views() -> None:
    net = Network([2, 2, 1], seed=0)
    net.weights[0][1, 0] = 7.0
    net.biases[1][0, 0] = 8.0
    assert net.weights[0][1, 0] == 7.0
    assert net.biases[1][0, 0] == 8.0


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], [5], [5, 0], [5, -1], "53", [5, 3.0]])
def test_bad_sizes(sizes: Any) -> None:
    with pytest.raises(ConfigError, match="layers"):
        Network(sizes)


BAD_PAIRS: dict[str, list[tuple[Any, Any]]] = {
    "no samples": [],
    "wrong input width": [(np.zeros((4, 1)), np.zeros((3, 1)))] * 3,
    "NaN in x": [(np.full((5, 1), np.nan), np.zeros((3, 1)))] * 3,
    "wrong output width": [(np.zeros((5, 1)), np.zeros((2, 1)))] * 3,
    "a class for y": [(np.zeros((5, 1)), 1)] * 3,
    "ragged x": [(np.zeros((5, 1)), np.zeros((3, 1))), (np.zeros((4, 1)), np.zeros((3, 1)))],
    "NaN in y": [(np.zeros((5, 1)), np.full((3, 1), np.nan))] * 3,
    "strings": [(np.array([["a"]] * 5), np.zeros((3, 1)))] * 3,
}


ALL_BAD_PAIRS = [pytest.param(data, id=name) for name, data in BAD_PAIRS.items()]


@pytest.mark.parametrize("data", ALL_BAD_PAIRS)
def test_gd_refuses_bad_samples(data: list[tuple[Any, Any]]) -> None:
    net = Network([5, 4, 3], seed=0)
    before = [w.copy() for w in net.weights]
    with pytest.raises(DataError):
        net.GD(data, 1, 0.1)
    close(net.weights, before, 0)


@pytest.mark.parametrize("data", ALL_BAD_PAIRS)
def test_sgd_refuses_bad_samples(data: list[tuple[Any, Any]]) -> None:
    net = Network([5, 4, 3], seed=0)
    before = [w.copy() for w in net.weights]
    with pytest.raises(DataError):
        net.SGD(data, 1, 2, 0.1)
    close(net.weights, before, 0)


@pytest.mark.parametrize("size", [0, -1])
def test_sgd_refuses_a_bad_batch_size(size: int) -> None:
    with pytest.raises(ConfigError):
        Network([5, 3]).SGD(pairs(4), 1, size, 0.1)


def test_update_refuses_bad_columns() -> None:
    net = Network([5, 4, 3], seed=0)
    x, y = np.zeros((5, 1)), np.zeros((3, 1))
    with pytest.raises(DataError, match="4 features, model expects 5"):
        net.update(np.zeros((4, 1)), y)
    with pytest.raises(DataError, match="y has 2 features, model expects 3"):
        net.update(x, np.zeros((2, 1)))
    with pytest.raises(DataError, match="as many targets as samples are needed: y: found 2, expected 1"):
        net.update(x, np.zeros((3, 2)))
    with pytest.raises(DataError, match="NaN"):
        net.update(np.full((5, 1), np.nan), y)
    with pytest.raises(DataError, match="4 features, model expects 5"):
        net.feedforward(np.zeros((4, 1)))
    with pytest.raises(DataError, match="4 features, model expects 5"):
        net.evaluate([(np.zeros((4, 1)), 0)])


@pytest.mark.parametrize(
    "weights",
    [
        [np.zeros((5, 4)), np.zeros((4, 3))],
        [np.zeros((4, 5))],
        [np.zeros((4, 5)), np.zeros((3, 4)), np.zeros((3, 4))],
    ],
)
def test_weights_of_the_wrong_shape_are_refused(weights: list[Any]) -> None:
    with pytest.raises(ValueError):  # DataError and ConfigError are ValueErrors too
        Network([5, 4, 3]).weights = weights


def test_biases_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError):
        Network([5, 4, 3]).biases = [np.zeros((1, 1)), np.zeros((1, 1))]
