"""Networks: the formula of the perceptron, odd images, leading dimensions, and rows apart."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vaeppl import nets
from vaeppl.nets import MLP, ConvDecoder, ConvEncoder, activation, feature_net, output_dim

IMAGES = [(5, 7), (28, 28), (1, 1), (3, 8, 8), (2, 9, 4)]


def networks(shape):
    """Each network that maps an image or a code, with the width of its input."""
    pixels = math.prod(shape)
    return [
        (MLP(pixels, 3, hidden=(6,), norm="layer"), pixels),
        (ConvEncoder(shape, 5, channels=(2, 3)), pixels),
        (ConvDecoder(4, shape, params=2, channels=(3, 2)), 4),
    ]


def test_mlp_is_the_composition_of_its_layers():
    net = MLP(4, 2, hidden=(5, 3), activation="tanh")
    first, second, last = (m for m in net.layers if isinstance(m, nn.Linear))
    x = torch.randn(7, 4)
    h = torch.tanh(x @ first.weight.T + first.bias)
    h = torch.tanh(h @ second.weight.T + second.bias)
    torch.testing.assert_close(net(x), h @ last.weight.T + last.bias)


def test_mlp_without_hidden_layers_is_affine():
    net = MLP(4, 2, hidden=())
    x, y = torch.randn(2, 4)
    torch.testing.assert_close(net(x) + net(y) - net(torch.zeros(4)), net(x + y))


def test_activate_last():
    assert (MLP(4, 3, hidden=(), activate_last=True)(torch.randn(50, 4)) >= 0).all()
    assert (MLP(4, 3, hidden=(5,))(torch.randn(50, 4)) < 0).any()


def test_dropout_acts_in_training_only():
    net = MLP(4, 50, hidden=(200,), dropout=0.5)
    x = torch.randn(1, 4)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("shape", IMAGES)
def test_shapes_of_images(shape):
    pixels = math.prod(shape)
    encoder, decoder = ConvEncoder(shape, 5, channels=(2, 3)), ConvDecoder(5, shape, params=2)
    assert (encoder.in_dim, encoder.out_dim, decoder.out_dim) == (pixels, 5, 2 * pixels)
    features = encoder(torch.randn(4, pixels))
    assert features.shape == (4, 5) and decoder(features).shape == (4, 2 * pixels)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_decoder_mirrors_the_encoder(shape, stages):
    """The decoder starts from maps of the size at which the encoder ends."""
    channels = (2, 3, 4)[:stages]
    encoder = ConvEncoder(shape, 5, channels=channels)
    decoder = ConvDecoder(5, shape, channels=channels[::-1])
    maps = encoder.stages(torch.randn(1, *encoder.image_shape))
    assert decoder.start == tuple(maps.shape[1:])


def test_the_decoder_puts_out_one_parameter_of_all_pixels_after_the_other():
    """A bias of the last convolution moves one channel, and so one block of the output."""
    decoder = ConvDecoder(3, (2, 4, 5), params=3, channels=(4,))
    last = decoder.stages[-1]
    z = torch.randn(6, 3)
    before = decoder(z)
    with torch.no_grad():
        last.bias[2:4] += 1.0  # both colours of the second parameter
    moved = (decoder(z) - before).chunk(3, dim=-1)
    assert (moved[0] == 0).all() and (moved[2] == 0).all()
    torch.testing.assert_close(moved[1], torch.ones(6, 40))


@given(st.lists(st.integers(1, 3), max_size=3), st.sampled_from(IMAGES[:1] + IMAGES[3:]))
def test_leading_dimensions_are_applied_one_by_one(lead, shape):
    for net, width in networks(shape):
        x = torch.randn(*lead, width)
        y = net(x)
        assert y.shape[:-1] == tuple(lead)
        flat = net(x.reshape(-1, width))
        torch.testing.assert_close(y.reshape(flat.shape), flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5, 7), (3, 8, 8)])
def test_rows_do_not_leak_into_each_other(shape):
    for net, width in networks(shape):
        x = torch.randn(4, width, requires_grad=True)
        slope = torch.autograd.grad(net(x)[2].sum(), x)[0]
        assert (slope[[0, 1, 3]] == 0).all() and (slope[2] != 0).any()
        other = x.detach().clone()
        other[:2] = 100.0
        torch.testing.assert_close(net(other)[2:], net(x)[2:], rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_weight():
    for net, width in networks((5, 7)):
        net(torch.randn(20, width)).square().sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ["relu", "tanh", "softplus", "elu", "gelu", "silu", "leaky_relu"])
def test_activations(name):
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(activation(name)(x), getattr(torch.nn.functional, name)(x))


def test_feature_net():
    assert isinstance(feature_net(5, ()), nn.Identity)
    net = feature_net(5, [7, 3], "softplus")
    assert (net(torch.randn(20, 5)) > 0).all() and output_dim(net, 5) == 3
    assert feature_net(5, (7,))(torch.randn(2, 5)).shape == (2, 7)


def test_output_dim_leaves_no_trace():
    net = nn.Sequential(nn.Linear(4, 6).double(), nn.BatchNorm1d(6).double(), nn.Dropout(0.5))
    state, mean = torch.get_rng_state(), net[1].running_mean.clone()
    assert output_dim(net, 4) == 6
    assert net.training and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(net[1].running_mean, mean)
    assert output_dim(nn.Identity(), 9) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(4, 2, activation="rellu"), "unknown activation 'rellu': did you mean 'relu'"),
        (lambda: MLP(4, 2, norm="bach"), "unknown norm 'bach': did you mean 'batch'"),
        (
            lambda: MLP(4, 2, hidden=(3, 0)),
            r"at least one unit; the sizes given are \(4, 3, 0, 2\)",
        ),
        (lambda: ConvEncoder((28,)), r"\(H, W\) or \(C, H, W\); given \(28,\)"),
        (lambda: ConvEncoder((28, 28), channels=()), "at least one stage"),
        (lambda: ConvDecoder(3, (28, 28), channels=()), "at least one stage"),
    ],
)
def test_constructors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_batch_norm_is_over_all_leading_dimensions_and_spares_a_single_row():
    norm = nets.BatchNorm(4)
    plain = nn.BatchNorm1d(4)
    x = 3 + 2 * torch.randn(7, 5, 4)
    assert torch.equal(norm(x), plain(x.reshape(35, 4)).reshape(7, 5, 4))
    # As wide as the batch, so that a plain BatchNorm1d would normalise the wrong dimension.
    square = torch.randn(6, 4, 4)
    assert torch.equal(norm(square), plain(square.reshape(24, 4)).reshape(6, 4, 4))
    running = norm.running_mean.clone()
    alone = norm(x[:1, 0])
    assert torch.allclose(alone, norm.eval()(x[:1, 0])) and torch.equal(norm.running_mean, running)


def test_joint_is_an_mlp_of_the_concatenation():
    joint = nets.Joint((4, 3), 2, hidden=(8,), activation="tanh")
    x, y = torch.randn(5, 4), torch.eye(3).unsqueeze(1)
    both = torch.cat([x.expand(3, 5, 4), y.expand(3, 5, 3)], -1)
    assert torch.allclose(joint(x, y), joint.layers(both), atol=1e-6)
    with pytest.raises(ValueError, match=r"the inputs have sizes \(3, 4\), but in_dims=\(4, 3\)"):
        joint(torch.zeros(5, 3), torch.zeros(5, 4))


def test_each_label_has_a_first_layer_of_its_own_and_all_start_alike():
    net = nets.PerLabel(3, 4, 2, hidden=(8,), activation="tanh")
    x, labels = torch.randn(5, 4), torch.eye(3).unsqueeze(1)
    start = net(labels, x)
    assert torch.allclose(start, start[:1].expand(3, 5, 2))
    with torch.no_grad():
        net.weight.normal_()
        net.bias.normal_()
    each = net(labels, x)
    for k in range(3):
        by_hand = net.rest(x @ net.weight[k].T + net.bias[k])
        assert torch.allclose(each[k], by_hand, atol=1e-5)
    y = torch.tensor([0, 2, 1, 1, 0])
    mixed = net(torch.eye(3)[y], x)
    assert torch.allclose(mixed, each[y, torch.arange(5)], atol=1e-5)
    particles = net(labels.unsqueeze(1), x.expand(6, 5, 4))
    assert particles.shape == (3, 6, 5, 2)


def test_joint_features_without_a_layer_are_the_inputs_side_by_side():
    net = nets.joint_feature_net((4, 3), ())
    assert net(torch.zeros(5, 4), torch.zeros(2, 1, 3)).shape == (2, 5, 7)
    assert net.out_dim == 7


def test_the_way_back_has_the_weights_transposed():
    net = MLP(4, 2, hidden=(3,), activation="tanh")
    back = nets.TransposedMLP(net)
    with torch.no_grad():
        for bias in back.biases:
            bias.normal_()
    first, last = net.layers[0], net.layers[2]
    z = torch.randn(5, 2)
    by_hand = torch.tanh(z @ last.weight + back.biases[0]) @ first.weight + back.biases[1]
    assert torch.allclose(back(z), by_hand, atol=1e-6)
    assert [n for n, _ in back.named_parameters()] == ["biases.0", "biases.1"]
    with pytest.raises(ValueError, match="this one holds a LayerNorm"):
        nets.TransposedMLP(MLP(4, 2, hidden=(3,), norm="layer"))
