"""The optimisers: where the gradient is accumulated, and how the parameters are updated.

``backward`` computes target <- alpha * gradient + beta * target in place. Each optimiser chooses the target: SGD
the parameters themselves, momentum its velocity, the others a gradient buffer. L2 adds ``l2 / 2 * sum W^2`` to the
loss (weights, not biases); Nielsen's lambda is ``l2 * n``.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from ..backend import Array, Backend
from .kinds import Optimizer
from .layers import layer_views
from .mlp import MLP


class Accumulation(NamedTuple):
    """How ``backward`` adds a gradient g: target <- alpha g + beta target (beta_b for biases)."""

    alpha: float
    beta: float
    beta_b: float


class OptimizerState:
    """Base class: the flat target buffer, its views by layer, and the state for a checkpoint."""

    name: str
    n_scalars = 1  # how many numbers change per step

    def __init__(self, net: MLP, l2: float = 0.0) -> None:
        self.net = net
        self.l2 = l2
        self.scalars = net.backend.scalars(self.n_scalars, net.dtype)
        self.target = self._make_target()
        self.target_views = layer_views(self.target, net.layers)

    def _make_target(self) -> Array:
        """A buffer of zeros, shaped like the parameters."""
        parameters = self.net.parameters
        target = self.net.backend.empty(parameters.shape, str(parameters.dtype))
        target.fill(0)
        return target

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        """The values of ``scalars`` for step ``step`` (counted from 1) with this learning rate and L2.

        ``l2`` may change from step to step, but must be 0 in all steps or in none.
        """
        raise NotImplementedError

    def begin_step(self, lr: float, step: int = 1) -> None:
        """Set the scalars for one step."""
        self.scalars.set(*self.numbers(lr, step, self.l2))

    @property
    def factor(self) -> Any:
        """The factor of the gradient when it is added to the target."""
        return 1.0

    def prepare(self) -> Accumulation:
        """Call before ``backward``: prepares the target and returns the factors to accumulate with."""
        raise NotImplementedError

    def update(self) -> None:
        """Call after ``backward``: updates the parameters."""

    def accumulate(self, gradient: Array) -> None:
        """Add a complete flat gradient, already multiplied by ``factor``, to the target, as ``backward`` would."""
        _, beta, beta_b = self.prepare()
        backend = self.net.backend
        if not self.l2:
            _add(backend, self.target, gradient, beta)
            return
        for target, layer in zip(self.target_views, layer_views(gradient, self.net.layers), strict=True):
            _add(backend, target.W, layer.W, beta)
            _add(backend, target.b, layer.b, beta_b)

    @property
    def state(self) -> dict[str, Array]:
        """The buffers that persist between steps, by name."""
        return {}


class SGD(OptimizerState):
    """p <- p - lr * g, done by the GEMM that computes the gradient; there is no gradient buffer."""

    name = "sgd"

    def _make_target(self) -> Array:
        return self.net.parameters

    n_scalars = 2

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        return -lr, 1.0 - lr * l2

    @property
    def factor(self) -> Any:
        return self.scalars[0]

    def prepare(self) -> Accumulation:
        return Accumulation(self.factor, self.scalars[1] if self.l2 else 1.0, 1.0)


class Momentum(OptimizerState):
    """v <- mu v - lr g; p <- p + v (Sutskever et al. 2013; scikit-learn's and Keras's form)."""

    name = "momentum"
    n_scalars = 2

    def __init__(self, net: MLP, l2: float = 0.0, momentum: float = 0.9) -> None:
        super().__init__(net, l2)
        self.momentum = momentum
        self._decay = layer_views(self._make_target(), net.layers) if l2 else []

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        return -lr, lr * l2

    @property
    def factor(self) -> Any:
        return self.scalars[0]

    def prepare(self) -> Accumulation:
        if not self.l2:
            return Accumulation(self.factor, self.momentum, self.momentum)
        decay = self.net.backend.elementwise(decay_velocity)
        for layer, velocity, scratch in zip(self.net.views, self.target_views, self._decay, strict=True):
            decay(velocity.W, layer.W, scratch.W, self.momentum, self.scalars[1])
        return Accumulation(self.factor, 1.0, self.momentum)

    def update(self) -> None:
        self.net.backend.elementwise(add_to)(self.net.parameters, self.target)

    @property
    def state(self) -> dict[str, Array]:
        return {"velocity": self.target}


class Gradient(OptimizerState):
    """Stores the gradient in a buffer: for an external minimiser, and as base class. With L2, ``prepare`` sets the
    buffer to l2 * W before g is added. The first scalar is l2."""

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        return (l2,)

    def prepare(self) -> Accumulation:
        if self.l2:
            scale = self.net.backend.elementwise(scale_to)
            for layer, gradient in zip(self.net.views, self.target_views, strict=True):
                scale(layer.W, gradient.W, self.scalars[0])
        return Accumulation(1.0, 1.0 if self.l2 else 0.0, 0.0)


class Nesterov(Gradient):
    """v <- mu v - lr g; p <- p + mu v - lr g (Sutskever et al. 2013, in scikit-learn's form)."""

    name = "nesterov"
    n_scalars = 2

    def __init__(self, net: MLP, l2: float = 0.0, momentum: float = 0.9) -> None:
        super().__init__(net, l2)
        self.momentum = momentum
        self.velocity = self._make_target()

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        return l2, -lr

    def update(self) -> None:
        net = self.net
        net.backend.elementwise(nesterov_update)(
            net.parameters, self.target, self.velocity, self.scalars[1], self.momentum
        )

    @property
    def state(self) -> dict[str, Array]:
        return {"velocity": self.velocity}


class Adam(Gradient):
    """Kingma & Ba 2015, algorithm 1. L2 is part of the gradient; ``AdamW`` decays the weights instead."""

    name = "adam"
    n_scalars = 4

    def __init__(
        self, net: MLP, l2: float = 0.0, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(net, l2)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.mean, self.square = self._make_target(), self._make_target()

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        step_size = lr / (1.0 - self.beta1**step)
        correction = 1.0 / math.sqrt(1.0 - self.beta2**step)
        return l2, step_size, correction, 1.0 - lr * l2

    def update(self) -> None:
        rest1 = 1.0 - self.beta1
        self.net.backend.elementwise(adam_update)(
            self.net.parameters, self.target, self.mean, self.square,
            self.beta1, rest1, self.beta2, (1.0 - self.beta2) / rest1**2,
            self.scalars[1], self.scalars[2], self.epsilon,
        )  # fmt: skip

    @property
    def state(self) -> dict[str, Array]:
        return {"mean": self.mean, "square": self.square}


class AdamW(Adam):
    """Adam with decoupled decay W <- (1 - lr l2) W before the step. Loshchilov & Hutter 2019."""

    name = "adamw"

    def prepare(self) -> Accumulation:
        return Accumulation(1.0, 0.0, 0.0)

    def update(self) -> None:
        if self.l2:
            scale = self.net.backend.elementwise(scale_to)
            for layer in self.net.views:
                scale(layer.W, layer.W, self.scalars[3])
        super().update()


class AdamEpsilonHat(Adam):
    """Adam as at the end of section 2 of Kingma & Ba 2015, and as in scikit-learn: epsilon is added to sqrt(s)
    before the bias correction."""

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        step_size = lr * math.sqrt(1.0 - self.beta2**step) / (1.0 - self.beta1**step)
        return l2, step_size, 1.0, 1.0


class Own(Gradient):
    """A user's ``Optimizer`` with its state."""

    def __init__(self, net: MLP, l2: float, optimizer: Optimizer) -> None:
        self.name, self._rule, self.n_scalars = optimizer, optimizer, 1 + len(optimizer.numbers(1.0, 1))
        super().__init__(net, l2)
        self._state = {name: self._make_target() for name in optimizer.state}
        scratch = [self._make_target() for _ in range(optimizer.scratch)]
        self._operands = [*self._state.values(), *scratch, *(self.scalars[i] for i in range(1, self.n_scalars))]

    def numbers(self, lr: float, step: int, l2: float) -> tuple[float, ...]:
        return l2, *self._rule.numbers(lr, step)

    def update(self) -> None:
        self.net.backend.elementwise(self._rule.update)(self.net.parameters, self.target, *self._operands)

    @property
    def state(self) -> dict[str, Array]:
        return self._state


OPTIMIZERS: Final[dict[str, type[OptimizerState]]] = {
    optimizer.name: optimizer for optimizer in (SGD, Momentum, Nesterov, Adam, AdamW)
}
Optimizer.taken = frozenset(OPTIMIZERS)


# --- elementwise kernels ---------------------------------------------------------------------------------


def _add(backend: Backend, target: Array, g: Array, beta: Any) -> None:
    """target <- g + beta target, like a GEMM (beta 0 does not read the target), in the fewest passes."""
    if type(beta) is float and beta == 0.0:
        backend.elementwise(scale_to)(g, target, 1.0)
    elif type(beta) is float and beta == 1.0:
        backend.elementwise(add_to)(target, g)
    else:
        backend.elementwise(add_to_scaled)(target, g, beta)


def add_to(xp: Any, p: Array, v: Array) -> None:
    """p <- p + v."""
    xp.add(p, v, out=p)


def add_to_scaled(xp: Any, p: Array, g: Array, beta: float) -> None:
    """p <- beta p + g."""
    xp.multiply(p, beta, out=p)
    xp.add(p, g, out=p)


def scale_to(xp: Any, W: Array, out: Array, factor: float) -> None:
    """out <- factor * W."""
    xp.multiply(W, factor, out=out)


def decay_velocity(xp: Any, v: Array, W: Array, scratch: Array, momentum: float, decay: float) -> None:
    """v <- momentum * v - decay * W."""
    xp.multiply(v, momentum, out=v)
    xp.multiply(W, decay, out=scratch)
    xp.subtract(v, scratch, out=v)


def nesterov_update(xp: Any, p: Array, g: Array, v: Array, minus_lr: float, momentum: float) -> None:
    """v <- momentum v - lr g; p <- p + momentum v - lr g. g is overwritten."""
    xp.multiply(g, minus_lr, out=g)
    xp.multiply(v, momentum, out=v)
    xp.add(v, g, out=v)
    xp.add(p, g, out=p)
    xp.multiply(v, momentum, out=g)
    xp.add(p, g, out=p)


def adam_update(
    xp: Any, p: Array, g: Array, m: Array, s: Array,
    beta1: float, rest1: float, beta2: float, rest2: float, step_size: float, correction: float, epsilon: float,
) -> None:  # fmt: skip
    """m <- beta1 m + rest1 g; s <- beta2 s + (1 - beta2) g^2; p <- p - step_size m / (correction sqrt(s) + epsilon).

    g is overwritten. Its first value is rest1 g, therefore rest2 is (1 - beta2) / rest1^2.
    """
    xp.multiply(g, rest1, out=g)
    xp.multiply(m, beta1, out=m)
    xp.add(m, g, out=m)
    xp.multiply(g, g, out=g)
    xp.multiply(g, rest2, out=g)
    xp.multiply(s, beta2, out=s)
    xp.add(s, g, out=s)
    xp.sqrt(s, out=g)
    xp.multiply(g, correction, out=g)
    xp.add(g, epsilon, out=g)
    xp.divide(m, g, out=g)
    xp.multiply(g, step_size, out=g)
    xp.subtract(p, g, out=p)
