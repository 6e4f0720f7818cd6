"""Which experts belong together, who serves them in a microbatch, and which of them a peer should serve.

A group holds the same neighbouring experts of every layer. It is what a shard holds and a peer serves: a replica of a
group has its experts in all layers, so a microbatch has one replica of each group, and its manifest counts whole
microbatches as that of a pipeline stage does.

Pure: numbers and names only. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from p2p_llm_forge.errors import DoesNotFit, SpecError


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A layer's experts in groups of neighbours, as even as they come."""

    edges: tuple[int, ...]
    """The first expert of each group, and after them the number of experts."""

    @classmethod
    def of(cls, experts: int, groups: int) -> Groups:
        """Cut so many experts into so many groups. Raises SpecError where a group would be empty."""
        if not 1 <= groups <= experts:
            raise SpecError(
                f"experts.groups: {groups}, but a layer of this model has {experts} experts; set 1…{experts}"
            )
        return cls(edges=tuple(experts * group // groups for group in range(groups + 1)))

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return self.edges[-1]

    @property
    def count(self) -> int:
        """Groups."""
        return len(self.edges) - 1

    def span(self, group: int) -> tuple[int, int]:
        """The experts of a group, half-open."""
        return self.edges[group], self.edges[group + 1]


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Who serves each expert of each layer in one microbatch; fixed from its first forward to its last backward."""

    holders: tuple[tuple[str | None, ...], ...]
    """By layer and expert; None where the expert is dead."""

    @classmethod
    def of(
        cls,
        groups: Groups,
        holders: Sequence[str | None],
        *,
        layers: int,
        dead: Mapping[int, Collection[int]] | None = None,
    ) -> Serving:
        """One holder for each group, None where no replica lives.

        Args:
            dead: experts that are dead besides, by layer.
        """
        assert len(holders) == groups.count
        lost = dead or {}
        row = [holders[group] for group in range(groups.count) for _ in range(*groups.span(group))]
        return cls(
            holders=tuple(
                tuple(None if expert in lost.get(layer, ()) else holder for expert, holder in enumerate(row))
                for layer in range(layers)
            )
        )

    def dead(self, layer: int) -> frozenset[int]:
        """The experts of a layer that nobody serves."""
        return frozenset(expert for expert, holder in enumerate(self.holders[layer]) if holder is None)


@dataclass(frozen=True, kw_only=True)
class Service:
    """How a group is served, as it was measured of late."""

    speeds: tuple[float, ...]
    """Token-expert pairs that each of its live replicas can do in a second."""
    load: float
    """Pairs that the routers sent to its experts in a second, over all layers; popular experts have more."""
    need_bytes: int
    """Memory that serving it takes."""


def scarcity(service: Service, *, minimum: int) -> tuple[int, float]:
    """How little a group is served; larger is scarcer: missing replicas first, then load for each unit of speed."""
    missing = max(0, minimum - len(service.speeds))
    speed = sum(service.speeds)
    return missing, service.load / speed if speed > 0.0 else float("inf")


def to_serve(services: Sequence[Service], *, minimum: int, free_bytes: int) -> int:
    """The group that a peer with this memory should serve: the scarcest that it can hold, the first of equals.

    Raises:
        DoesNotFit: it can hold none; says the least memory that would do.
    """
    held = [group for group, service in enumerate(services) if service.need_bytes <= free_bytes]
    if not held:
        least = min(service.need_bytes for service in services)
        raise DoesNotFit(
            f"experts: the smallest of {len(services)} groups needs {least / 2**30:.2f} GiB, "
            f"{free_bytes / 2**30:.2f} GiB are free; set more experts.groups, or lend more memory"
        )
    return max(held, key=lambda group: (scarcity(services[group], minimum=minimum), -group))
