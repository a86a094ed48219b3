"""A guide from the story alone: an encoder for each latent of the rows, wired as the story says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..data import as_data
from ..errors import StoryError, unknown_name
from ..likelihoods import Likelihood
from ..model import rows
from ..nets import feature_net, joint_feature_net, output_dim
from ..pair import key_of
from . import families
from .heads import Head, make_head
from .inputs import ColumnFeatures
from .inverse import invert
from .shared import entered, make_shared
from .story import ROWS, StoryRead, has_gaps

__all__ = ["AutoAmortizedGuide", "guide_for"]


class AutoAmortizedGuide(nn.Module):
    """q(latents | columns) made from a story: only ``model`` is left to be written.

    The story is run once and its graph is inverted: each latent of a row gets an encoder of what it
    depends on under the posterior (columns, and latents drawn before it), and a head on its own
    support. Latents outside the plate of rows get a guide of their own. Discrete latents are summed
    out where that can be.

    Parameters
    ----------
    model
        A model function, or an object with a method ``model``. In the constructor of a class, build
        it last, when all that ``model`` uses is there: ``self.auto = AutoAmortizedGuide(self)``.
    columns
        Rows of data (their unit is that of the encoders' inputs), or the number of entries in a row
        of each column, ``{"x": 784}``. Columns that are left out are drawn from the story;
        those that it is given, and cannot draw, must be there.
    family
        Of q for continuous latents: ``"diagonal"``, ``"full_rank"``, ``"low_rank"``, ``"flow"``, or
        an object of :mod:`vaeppl.guides`; or one for each latent, ``{"z": "flow"}``.
    order
        ``"upwards"``: latents near the data are drawn first, and those above given them;
        ``"downwards"``: in the story's order. Discrete latents always come first.
    hidden, activation, **options
        Of each encoder, as in :func:`vaeppl.nets.feature_net`.
    encoders
        Networks for some of the latents, ``{"z": network}``, of the features of all that it depends
        on, side by side.
    features
        How a column enters the encoders, ``{"x": likelihoods.NegativeBinomial()}``; by default as
        the model's own likelihood says, or as its values suggest.
    missing
        Whether entries of columns may be NaN: they enter as zeros, with a mask. ``None``: where the
        rows given have some, or the model says so (``takes_missing``).
    discrete
        ``"enumerate"``: discrete latents are summed out; ``"sample"``: drawn.
    shared
        Guide of the latents outside the plate of rows: ``"normal"``, independent normals over all
        reals, mapped to their supports; or a class of :mod:`pyro.infer.autoguide`.

    Raises
    ------
    StoryError
        The story does not run, or has latents for which no guide is known.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch, vaeppl
    >>> def model(x=None):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    ...     with vaeppl.rows(x):
    ...         z = pyro.sample("z", dist.Normal(mu, 1.0))
    ...         pyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> data = {"x": 3 + torch.randn(100)}
    >>> guide = AutoAmortizedGuide(model, data, hidden=())
    >>> guide
    q(mu) q(z | x)
    >>> fit = vaeppl.fit(model, data, guide=guide, epochs=1, progress=False)
    """

    def __init__(
        self,
        model: Any,
        columns: Any = None,
        *,
        family: str | families.Family | Mapping[str, Any] = "diagonal",
        order: str = "upwards",
        hidden: Sequence[int] = (400,),
        activation: str = "relu",
        encoders: Mapping[str, nn.Module] | None = None,
        features: Mapping[str, Likelihood] | None = None,
        missing: bool | None = None,
        discrete: str = "enumerate",
        shared: Any = "normal",
        **options: Any,
    ) -> None:
        super().__init__()
        if discrete not in ("enumerate", "sample"):
            raise ValueError(f"discrete is 'enumerate' or 'sample'; given {discrete!r}")
        story = StoryRead(model, columns)
        self.columns = story.columns
        nodes = story.nodes
        local = [n for n, node in nodes.items() if node.is_in(ROWS)]
        self.latents = tuple(n for n in local if story.is_latent(n))
        outside = [n for n in nodes if n not in local and story.is_latent(n)]
        named = {
            "family": family if isinstance(family, Mapping) else {},
            "encoders": encoders or {},
        }
        for argument, given in named.items():
            _check_names(argument, given, self.latents)
        _check_names("features", features or {}, story.columns)
        self.shared = make_shared(shared, story, outside)
        encoded = [*local, *(c for c in story.columns if c not in nodes)]
        parents = {n: [p for p in nodes[n].parents if p in encoded] for n in local}
        first = [n for n in self.latents if nodes[n].fn.support.is_discrete]
        first += [n for n in self.latents if n in story.partly]
        inverse = invert(parents, self.latents, order=order, first=first)
        known = {*self.latents, *story.columns}  # factors tell of no data
        self.parents = {n: tuple(p for p in above if p in known) for n, above in inverse.items()}
        seen = {p for above in self.parents.values() for p in above}
        self.used = tuple(c for c in encoded if c in seen and c not in self.latents)
        self.inputs = nn.ModuleDict(
            {key_of(c): story.features(c, (features or {}).get(c), missing) for c in self.used}
        )
        self.encoders, self.heads = nn.ModuleDict(), nn.ModuleDict()
        net_options = {"activation": activation, **options}
        for name, above in self.parents.items():
            sizes = [self._width(p) for p in above]
            encoder, in_dim = _encoder((encoders or {}).get(name), sizes, hidden, net_options)
            self.encoders[key_of(name)] = encoder
            self.heads[key_of(name)] = make_head(
                nodes[name],
                in_dim,
                _family(family, name),
                enumerate_=discrete == "enumerate",
                start=story.is_fixed(name),
            )

    def _width(self, name: str) -> int:
        if key_of(name) in self.inputs:
            features = self.inputs[key_of(name)]
            assert isinstance(features, ColumnFeatures)
            return features.out_dim
        return self._head(name).width

    def _head(self, name: str) -> Head:
        head = self.heads[key_of(name)]
        assert isinstance(head, Head)
        return head

    def forward(self, *args: Any, **columns: Any) -> dict[str, Tensor]:
        """Draw all latents given the columns; return them by name."""
        columns = {**dict(zip(self.columns, args, strict=False)), **columns}
        there = {n: v for n, v in columns.items() if isinstance(v, Tensor)}
        drawn: dict[str, Tensor] = {} if self.shared is None else dict(self.shared(**columns))
        with rows(*there.values()):
            inputs = self._encoded(there)
            for name, above in self.parents.items():
                if name in there:  # a label, where it is known
                    z = self._head(name).known(there[name])
                else:
                    z = self._draw(name, [inputs[p] for p in above])
                    drawn[name] = z
                inputs[name] = self._head(name).gathered(z)
        return drawn

    def _encoded(self, there: Mapping[str, Tensor]) -> dict[str, Tensor]:
        absent = [c for c in self.used if c not in there]
        if absent:
            raise StoryError(
                f"the guide looks at the columns {', '.join(map(repr, self.used))}, but "
                f"{', '.join(map(repr, absent))} is not given"
            )
        return {c: self.inputs[key_of(c)](there[c]) for c in self.used}

    def _draw(self, name: str, inputs: Sequence[Tensor]) -> Tensor:
        head, encoder = self._head(name), self.encoders[key_of(name)]
        if not inputs:  # nothing that is known tells of it
            inputs = [next(self.parameters()).new_zeros(1, 1)]
        h = encoder(*inputs) if hasattr(encoder, "in_dims") else encoder(_side_by_side(inputs))
        while h.ndim > 2 and len(h) == 1:  # the place of a plate in which this latent is not
            h = h.squeeze(0)
        with entered(head.frames):
            z: Tensor = pyro.sample(name, head(h), infer={**head.infer})
        return z

    @property
    def takes_missing(self) -> bool:
        """Whether entries of columns may be NaN."""
        return all(getattr(features, "missing", False) for features in self.inputs.values())

    def __repr__(self) -> str:
        outside = [] if self.shared is None else list(self.shared.names)
        told = [f"q({n})" for n in outside]
        for name, above in self.parents.items():
            told.append(f"q({name} | {', '.join(above)})" if above else f"q({name})")
        return " ".join(told)


def guide_for(model: Any, guide: Any, data: Any, *others: Any, seed: int = 0) -> Any:
    """Return a guide; ``"auto"`` makes one from the story, its weights drawn from a seed.

    It looks at rows with entries missing if there are such in the data, or in other rows that it
    is to be used on.
    """
    if not isinstance(guide, str):
        return guide
    if guide != "auto":
        raise StoryError(f"guide is 'auto', a function or an object; given {guide!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = AutoAmortizedGuide(model, data)
        wanted = set(made.columns) - set(getattr(model, "partly_observed", ()))
        rows_of = as_data(data)
        unseen = [*map(as_data, others), *([rows_of] if rows_of.splits else [])]
        if made.takes_missing or not any(has_gaps(t, wanted) for t in unseen):
            return made
        torch.manual_seed(seed)
        return AutoAmortizedGuide(model, data, missing=True)


def _encoder(
    given: nn.Module | None, sizes: Sequence[int], hidden: Sequence[int], options: Any
) -> tuple[nn.Module, int]:
    """Return a network over inputs of some sizes, and the size of what it puts out."""
    total = max(sum(sizes), 1)
    if given is not None:
        return given, output_dim(given, total)
    if len(sizes) > 1:
        several = joint_feature_net(sizes, hidden, **options)
        return several, int(several.out_dim)
    network = feature_net(total, hidden, **options)
    return network, output_dim(network, total)


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    shape = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return torch.cat([x.expand(*shape, -1) for x in inputs], dim=-1)


def _family(family: Any, name: str) -> families.Family:
    return families.get(family.get(name, "diagonal") if isinstance(family, Mapping) else family)


def _check_names(argument: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    if unknown := [n for n in given if n not in known]:
        raise StoryError(unknown_name(f"name in {argument}=", unknown[0], known))
