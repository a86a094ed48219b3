"""Encoder and decoder networks: a multilayer perceptron and a pair of convolutional networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Configurable
from .errors import unknown_name

__all__ = [
    "MLP",
    "BatchNorm",
    "Concatenate",
    "ConvDecoder",
    "ConvEncoder",
    "Joint",
    "PerLabel",
    "TransposedMLP",
    "activation",
    "feature_net",
    "joint_feature_net",
    "output_dim",
]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
}


def activation(name: str) -> nn.Module:
    """Return the activation of that name.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(unknown_name("activation", name, _ACTIVATIONS))
    return _ACTIVATIONS[name]()


def output_dim(network: nn.Module, in_dim: int) -> int:
    """Return the size of a network's last dimension, by running it on two rows of zeros."""
    parameter = next(network.parameters(), torch.zeros(()))
    was_training = network.training
    # A PyroModule writes its weights into Pyro's store when it runs.
    store_apart = pyro.get_param_store().scope()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), store_apart:
        network.eval()
        out = network(torch.zeros(2, in_dim, dtype=parameter.dtype, device=parameter.device))
        network.train(was_training)
    return int(out.shape[-1])


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the last dimension, whatever dimensions are to the left.

    Statistics are those of all rows and particles together; a single row, which has none, is
    normalised by the running ones.

    Examples
    --------
    >>> import torch
    >>> BatchNorm(4)(torch.randn(3, 5, 4)).square().mean().round(decimals=2).item()
    1.0
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., num_features)``."""
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) > 1 or not self.training:
            return super().forward(flat).reshape(x.shape)
        mean, variance = self.running_mean, self.running_var
        return F.batch_norm(flat, mean, variance, self.weight, self.bias, eps=self.eps).reshape(
            x.shape
        )


_NORMS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": BatchNorm}


class MLP(Configurable, nn.Module):
    """A multilayer perceptron over the last dimension, ``(..., in_dim) -> (..., out_dim)``.

    Parameters
    ----------
    in_dim, out_dim
        Sizes of the last dimension of input and output.
    hidden
        Sizes of the hidden layers; ``()`` makes a linear map.
    activation
        ``"relu"``, ``"tanh"``, ``"softplus"``, ``"elu"``, ``"gelu"``, ``"silu"``,
        ``"leaky_relu"`` or ``"sigmoid"``.
    norm
        What stands before each activation: ``"layer"``, a LayerNorm; ``"batch"``, a
        :class:`BatchNorm`; ``None``, nothing. Batch normalisation couples the rows of a batch while
        training, so that the objective is no sum over rows then; what is read of a fit is.
    dropout
        Probability of dropping a hidden unit while training.
    activate_last
        Whether the output goes through the activation too (for a network that ends in features).

    Examples
    --------
    >>> import torch
    >>> MLP(4, 2, hidden=(8, 8), activation="tanh")(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        activate_last: bool = False,
    ) -> None:
        super().__init__()
        if norm is not None and norm not in _NORMS:
            raise ValueError(unknown_name("norm", str(norm), _NORMS))
        sizes = (in_dim, *hidden, out_dim)
        if min(sizes) < 1:
            raise ValueError(f"every layer needs at least one unit; the sizes given are {sizes}")
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(a, b))
            if i < len(hidden) or activate_last:
                layers += [_NORMS[norm](b)] if norm is not None else []
                layers.append(_activation(activation))
                layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)
        self.in_dim, self.out_dim = in_dim, out_dim

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_dim)`` to ``(..., out_dim)``."""
        return self.layers(x)


class TransposedMLP(nn.Module):
    """The way back through a multilayer perceptron: its weights transposed, biases of its own.

    The weights stay those of the network given, which is to be a part of the same model: here they
    are neither parameters nor saved.

    Parameters
    ----------
    network
        The network ``(..., in_dim) -> (..., out_dim)``, without norms or dropout. Its activation
        stands between the layers on the way back too.

    Raises
    ------
    ValueError
        If the network has layers that have no transpose.

    Examples
    --------
    >>> import torch
    >>> TransposedMLP(MLP(4, 2, hidden=(8,)))(torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(self, network: MLP) -> None:
        super().__init__()
        linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        between = [layer for layer in network.layers if not isinstance(layer, nn.Linear)]
        if others := [m for m in between if type(m) not in _ACTIVATIONS.values()]:
            raise ValueError(
                "only a network of linear layers and activations can be gone back through; this "
                f"one holds a {type(others[0]).__name__}"
            )
        self._linear = linear[::-1]  # a list, so that the weights are registered once
        self.biases = nn.ParameterList(torch.zeros(layer.in_features) for layer in self._linear)
        self.activation = between[0] if between else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., out_dim)`` to ``(..., in_dim)``."""
        for number, (layer, bias) in enumerate(zip(self._linear, self.biases, strict=True)):
            x = x if number == 0 else self.activation(x)
            x = F.linear(x, layer.weight.T, bias)
        return x


class Joint(MLP):
    """A multilayer perceptron of several inputs, which broadcast against each other.

    It computes what an MLP does on their concatenation, but sums one product for each input in
    its first layer. So the product with rows ``(B, x_dim)`` is taken once, and not once for each
    label, when the labels come as ``(K, 1, K)``.

    Parameters
    ----------
    in_dims
        Size of the last dimension of each input.
    out_dim, **options
        As in :class:`MLP`.

    Examples
    --------
    >>> import torch
    >>> labels = torch.eye(3).unsqueeze(1)
    >>> Joint((4, 3), 2, hidden=(8,))(torch.zeros(5, 4), labels).shape
    torch.Size([3, 5, 2])
    """

    def __init__(self, in_dims: Sequence[int], out_dim: int, **options: Any) -> None:
        super().__init__(sum(in_dims), out_dim, **options)
        self.in_dims = tuple(in_dims)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map inputs ``(..., in_dims[i])`` to ``(..., out_dim)``."""
        sizes = tuple(x.shape[-1] for x in inputs)
        if sizes != self.in_dims:
            raise ValueError(f"the inputs have sizes {sizes}, but in_dims={self.in_dims}")
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        h: Tensor = first.bias
        for x, weight in zip(inputs, first.weight.split(self.in_dims, dim=1), strict=True):
            h = F.linear(x, weight) + h
        out: Tensor = self.layers[1:](h)
        return out


class PerLabel(Configurable, nn.Module):
    """A multilayer perceptron of a label and an input, whose first layer each label has of its own.

    Its other layers are shared: h = φ(W_y x + b_y). With no hidden layer it is a linear map for
    each label, as in a mixture of factor analysers (Ghahramani & Hinton 1996). All labels start
    alike, so that what a label means is learnt from the data and not from the initial weights.

    Parameters
    ----------
    num_labels
        K.
    in_dim, out_dim
        Sizes of the last dimension of the input and of the output.
    **options
        As in :class:`MLP`.

    Examples
    --------
    >>> import torch
    >>> labels = torch.eye(3).unsqueeze(1)
    >>> PerLabel(3, 4, 2, hidden=(8,))(labels, torch.zeros(5, 4)).shape
    torch.Size([3, 5, 2])
    """

    def __init__(self, num_labels: int, in_dim: int, out_dim: int, **options: Any) -> None:
        super().__init__()
        network = MLP(in_dim, out_dim, **options)
        first, self.rest = network.layers[0], network.layers[1:]
        assert isinstance(first, nn.Linear)
        self.weight = nn.Parameter(first.weight.detach().repeat(num_labels, 1, 1))
        self.bias = nn.Parameter(first.bias.detach().repeat(num_labels, 1))
        self.num_labels, self.in_dim, self.out_dim = num_labels, in_dim, out_dim

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """Map indicators ``(..., K)`` and inputs ``(..., in_dim)`` to ``(..., out_dim)``."""
        if y.ndim > 1 and y.shape[-2] == 1:  # one label for all rows: a product of matrices
            weight = (y @ self.weight.flatten(1)).unflatten(-1, self.weight.shape[1:])
            h = x @ weight.squeeze(-3).mT
        else:
            each = F.linear(x, self.weight.flatten(0, 1)).unflatten(-1, self.bias.shape)
            h = (y.unsqueeze(-1) * each).sum(-2)
        out: Tensor = self.rest(h + y @ self.bias)
        return out


class Concatenate(Configurable, nn.Module):
    """Several inputs side by side, broadcast against each other: ``(..., sum(in_dims))``.

    Examples
    --------
    >>> import torch
    >>> Concatenate((4, 3))(torch.zeros(5, 4), torch.zeros(2, 1, 3)).shape
    torch.Size([2, 5, 7])
    """

    def __init__(self, in_dims: Sequence[int]) -> None:
        super().__init__()
        self.in_dims, self.out_dim = tuple(in_dims), sum(in_dims)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Concatenate over the last dimension."""
        shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
        return torch.cat([x.expand(*shape, -1) for x in inputs], dim=-1)


def joint_feature_net(
    in_dims: Sequence[int], hidden: Sequence[int], activation: str = "relu", **options: Any
) -> Joint | Concatenate:
    """Return an encoder of several inputs that ends in ``out_dim`` features, as `feature_net`.

    Other options are those of :class:`MLP`: ``norm`` and ``dropout``.
    """
    if not hidden:
        return Concatenate(in_dims)
    options = {"hidden": hidden[:-1], "activation": activation, "activate_last": True, **options}
    return Joint(in_dims, hidden[-1], **options)


def feature_net(
    in_dim: int, hidden: Sequence[int], activation: str = "relu", **options: Any
) -> nn.Module:
    """Return an encoder that ends in features: an MLP, or the identity where there is no layer.

    Other options are those of :class:`MLP`: ``norm`` and ``dropout``.
    """
    if isinstance(hidden, int):
        raise TypeError(f"hidden is a sequence of sizes, ({hidden},) for one layer; given {hidden}")
    if not hidden:
        return nn.Identity()
    options = {"hidden": hidden[:-1], "activation": activation, "activate_last": True, **options}
    return MLP(in_dim, hidden[-1], **options)


class ConvEncoder(Configurable, nn.Module):
    """Strided convolutions over an image given as a flat vector.

    ``(..., H*W) -> (..., out_dim)``; each stage halves height and width (rounding up).

    Parameters
    ----------
    image_shape
        ``(H, W)`` or ``(C, H, W)`` of the image that the flat vector holds, in C order.
    out_dim
        Size of the features.
    channels
        Channels of each stage.
    activation
        As in :class:`MLP`.

    Examples
    --------
    >>> import torch
    >>> ConvEncoder((28, 28), 64, channels=(8, 16))(torch.zeros(5, 784)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_dim: int = 128,
        *,
        channels: Sequence[int] = (32, 64),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.image_shape = _chw(image_shape)
        self.in_dim, self.out_dim = math.prod(self.image_shape), out_dim
        _check_stages(channels)
        stages: list[nn.Module] = []
        sizes = (self.image_shape[0], *channels)
        for a, b in pairwise(sizes):
            stages += [nn.Conv2d(a, b, 3, stride=2, padding=1), _activation(activation)]
        h, w = _stage_sizes(self.image_shape, len(channels))[-1]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Linear(channels[-1] * h * w, out_dim), _activation(activation))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(..., C*H*W)`` to features ``(..., out_dim)``."""
        lead = x.shape[:-1]
        maps = self.stages(x.reshape(-1, *self.image_shape))
        return self.head(maps.flatten(1)).reshape(*lead, self.out_dim)


class ConvDecoder(Configurable, nn.Module):
    """Upsampling and convolutions from a code to a flat image; the mirror of the encoder.

    ``(..., in_dim) -> (..., params * C*H*W)``: ``params`` values for each pixel, the first value
    of all pixels first.

    Parameters
    ----------
    in_dim
        Size of the code.
    image_shape
        ``(H, W)`` or ``(C, H, W)``.
    params
        Parameters that the likelihood needs for each pixel.
    channels
        Channels of each stage, from the code outwards.
    activation
        As in :class:`MLP`.

    Examples
    --------
    >>> import torch
    >>> ConvDecoder(10, (28, 28), channels=(16, 8))(torch.zeros(3, 5, 10)).shape
    torch.Size([3, 5, 784])
    """

    def __init__(
        self,
        in_dim: int,
        image_shape: Sequence[int],
        *,
        params: int = 1,
        channels: Sequence[int] = (64, 32),
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.image_shape = _chw(image_shape)
        self.in_dim, self.out_dim = in_dim, params * math.prod(self.image_shape)
        _check_stages(channels)
        sizes = _stage_sizes(self.image_shape, len(channels))[::-1]
        self.start = (channels[0], *sizes[0])
        self.head = nn.Sequential(nn.Linear(in_dim, math.prod(self.start)), _activation(activation))
        stages: list[nn.Module] = []
        outs = (*channels[1:], params * self.image_shape[0])
        for i, (a, b) in enumerate(zip(channels, outs, strict=True)):
            stages += [nn.Upsample(size=sizes[i + 1]), nn.Conv2d(a, b, 3, padding=1)]
            stages += [_activation(activation)] if i + 1 < len(channels) else []
        self.stages = nn.Sequential(*stages)

    def forward(self, h: Tensor) -> Tensor:
        """Map codes ``(..., in_dim)`` to ``(..., params * C*H*W)``."""
        lead = h.shape[:-1]
        maps = self.stages(self.head(h).reshape(-1, *self.start))
        return maps.reshape(*lead, self.out_dim)


_activation = activation  # the constructors above take an argument of the same name


def _chw(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) not in (2, 3):
        raise ValueError(f"an image shape is (H, W) or (C, H, W); given {tuple(image_shape)}")
    c, h, w = (1, *image_shape) if len(image_shape) == 2 else tuple(image_shape)
    return c, h, w


def _check_stages(channels: Sequence[int]) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels names at least one stage, of >= 1 each; given {channels}")


def _stage_sizes(image_shape: tuple[int, int, int], stages: int) -> list[tuple[int, int]]:
    """Heights and widths from the full image to the smallest map."""
    sizes = [image_shape[1:]]
    for _ in range(stages):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes
