"""Whatever a replica is asked, in whatever order, with however little memory: each microbatch once, or not at all."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.replica import Replica

from .stage_world import LENGTH, SEQUENCES, WIDTH, World

pytestmark = pytest.mark.usefixtures("one_thread")

MICROBATCHES = 4
NUMBERS = st.integers(0, MICROBATCHES - 1)
SETS = st.frozensets(NUMBERS)
ASKED = st.lists(
    st.one_of(
        st.tuples(st.just("forward"), NUMBERS, st.booleans()),
        st.tuples(st.just("backward"), NUMBERS, st.booleans()),
        st.tuples(st.just("undo"), NUMBERS, st.booleans()),
        st.tuples(st.just("confirm"), NUMBERS, st.booleans()),
        st.tuples(st.just("freeze"), SETS, st.booleans()),
        st.tuples(st.just("begin"), NUMBERS, st.booleans()),
    ),
    max_size=40,
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A microbatch on a replica of its own."""

    x: bytes
    gradient: bytes
    output: bytes
    answer: bytes
    sum_P: torch.Tensor


@pytest.fixture(scope="module")
def world() -> World:
    """The middle one of three stages; what it is given is drawn once."""
    with tempfile.TemporaryDirectory() as folder:
        return World(Path(folder), replicas=1)


@pytest.fixture(scope="module")
def known(world: World) -> list[Known]:
    """What each microbatch comes to."""
    found, (replica,) = [], world.replicas[1]
    random = torch.Generator().manual_seed(1)
    for number in range(MICROBATCHES):
        x, gradient = (encode(torch.randn(SEQUENCES, LENGTH, WIDTH, generator=random), "f32") for _ in range(2))
        replica.begin(1, 0, MICROBATCHES, anew=True)
        tag = world.tag(1, 1, number)
        output, answer = replica.forward(tag, x).data, replica.backward(tag, x, gradient).data
        found.append(Known(x=x, gradient=gradient, output=output, answer=answer, sum_P=replica._sum_P.clone()))
    return found


def ask(replica: Replica, world: World, known: list[Known], asked: tuple[str, object, bool], done: set[int]) -> None:
    """Ask it; `done` is what has to be done afterwards."""
    do, what, whole = asked
    if do == "freeze":
        assert isinstance(what, frozenset)
        lacking = replica.freeze(what)
        kept = done & what
        assert set(lacking) in (what - kept, what), "it undid the rest, or it had to forget everything"
        done.intersection_update(what - set(lacking))
        return
    assert isinstance(what, int)
    one, tag = known[what], world.tag(1, 1, what)
    x = one.x if whole else None
    if do == "forward":
        answer = replica.forward(tag, one.x)
        assert (answer.kind, answer.data) in (("done", one.output), ("busy", b""))
    elif do == "backward":
        answer = replica.backward(tag, x, one.gradient)
        assert (answer.kind, answer.data) in (("done", one.answer), ("missing", b""))
        assert answer.kind == "done" or x is None
        done.update({what} if answer.kind == "done" else ())
    elif do == "undo":
        answer = replica.undo(tag, x, one.gradient)
        assert answer.kind == "done" or x is None
        done.difference_update({what} if answer.kind == "done" else ())
    elif do == "confirm":
        replica.confirm([what])
    elif whole:
        replica.begin(1, 0, MICROBATCHES)
    else:
        replica.begin(1, 0, MICROBATCHES, anew=True)
        done.clear()


@settings(max_examples=60)
@given(ASKED, st.sampled_from([0, 7_000, 20_000, 1 << 20]), st.sampled_from([0, 2]))
def test_the_sum_is_that_of_what_is_done(
    world: World, known: list[Known], asked: list[tuple[str, object, bool]], keep_bytes: int, keep_passes: int
) -> None:
    (replica,) = world.replicas[1]
    replica._shelf.budget_bytes, replica._passes._room = keep_bytes, keep_passes
    replica.begin(1, 0, MICROBATCHES, anew=True)
    done: set[int] = set()
    for one in asked:
        ask(replica, world, known, one, done)
        assert replica.manifest() == sorted(done)
        assert replica._shelf.used_bytes <= keep_bytes
        wanted_P = sum((known[number].sum_P for number in sorted(done)), torch.zeros_like(replica._sum_P))
        distance = float((replica._sum_P - wanted_P).norm())
        assert distance <= 1e-5 * max(float(one.sum_P.norm()) for one in known)
    if not done:
        assert not replica._sum_P.any()
