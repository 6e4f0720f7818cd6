"""What a replica refuses: in one line, with nothing added and nothing lost."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest
import torch

from p2p_llm_forge.errors import ActivationError, DiskError, EngineError, RequestError, StateError, UpdateError
from p2p_llm_forge.protocol import Contribution
from p2p_llm_forge.stages.activations import encode
from p2p_llm_forge.stages.replica import Replica
from p2p_llm_forge.stages.step import norm_hex
from p2p_llm_forge.stages.tags import Tag
from p2p_llm_forge.state import State

from .stage_world import LENGTH, SEQUENCES, VOCABULARY, WIDTH, World, windows

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (SEQUENCES, LENGTH, WIDTH)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One replica of each of three stages, in round 1 of 4 microbatches."""
    world = World(tmp_path, replicas=1)
    world.begin(1, 4)
    return world


def hidden(seed: int = 0, scale: float = 1.0) -> bytes:
    return encode(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * scale, "f32")


def sums(world: World) -> list[torch.Tensor]:
    return [replicas[0]._sum_P.clone() for replicas in world.replicas]


def refused(kind: type[EngineError], text: str, ask: object, replica: Replica) -> None:
    """The request is refused in one line, and the sum is as before."""
    before, done = replica._sum_P.clone(), replica.manifest()
    with pytest.raises(kind, match=text) as caught:
        ask()  # type: ignore[operator]
    assert "\n" not in caught.value.message
    assert torch.equal(replica._sum_P, before)
    assert replica.manifest() == done


def test_another_round_or_state_is_stale_and_says_nothing_else(world: World) -> None:
    (replica,) = world.replicas[1]
    good = world.tag(1, 1, 0)
    for tag in (
        Tag(round=2, microbatch=0, state=good.state, tokens=good.tokens),
        Tag(round=1, microbatch=0, state="0" * 64 + "-7", tokens=good.tokens),
        Tag(round=2, microbatch=99, state=good.state, tokens=0),
    ):
        assert replica.forward(tag, b"whatever").kind == "stale"
        assert replica.backward(tag, None, b"whatever").kind == "stale"
        assert replica.undo(tag).kind == "stale"


def test_unknown_microbatches_and_counts_are_refused(world: World) -> None:
    (replica,) = world.replicas[1]
    good = world.tag(1, 1, 0)
    four = "round 1 has 4"
    for number, tokens, text in ((4, 1, four), (-1, 1, four), (0, 25, "25 valid"), (0, 0, "0 valid")):
        tag = Tag(round=1, microbatch=number, state=good.state, tokens=tokens)
        refused(RequestError, text, lambda: replica.forward(tag, hidden()), replica)  # noqa: B023
        refused(RequestError, text, lambda: replica.backward(tag, None, hidden()), replica)  # noqa: B023


def test_malformed_tensors_are_refused_before_and_after_something_was_done(world: World) -> None:
    world.drive(1, 0, lambda *_: 0)
    (middle,), (last,), (first,) = world.replicas[1], world.replicas[2], world.replicas[0]
    tag = world.tag(1, 1, 1)
    short = encode(torch.zeros(SEQUENCES, LENGTH - 1, WIDTH), "f32")
    half = encode(torch.zeros(SHAPE), "bf16")
    for bad, text in ((short, "wanted"), (hidden()[:-1], "truncated"), (half, "got bf16")):
        refused(ActivationError, text, lambda: middle.forward(tag, bad), middle)  # noqa: B023
        refused(ActivationError, text, lambda: middle.backward(tag, bad, hidden()), middle)  # noqa: B023
        refused(ActivationError, text, lambda: middle.backward(tag, hidden(), bad), middle)  # noqa: B023
    tokens = windows(1, 1)
    inputs, targets = encode(tokens[:, :-1], "tokens"), tokens[:, 1:].clone()
    too_large = encode(torch.full((SEQUENCES, LENGTH), VOCABULARY), "tokens")
    negative = encode(targets * 0 - 1, "tokens")
    at_first, at_last = world.tag(1, 0, 1), world.tag(1, 2, 1)
    refused(ActivationError, "wanted 0 … 60", lambda: first.forward(at_first, too_large), first)
    refused(ActivationError, "tokens -1", lambda: first.forward(at_first, negative), first)
    refused(ActivationError, "wanted -1 … 60", lambda: last.backward(at_last, hidden(), too_large), last)
    targets[0, 3] = -1
    fewer = encode(targets, "tokens")
    refused(ActivationError, "got 23 of them, the tag says 24", lambda: last.backward(at_last, hidden(), fewer), last)
    refused(RequestError, "last stage only answers backward", lambda: last.forward(at_last, inputs), last)


def test_targets_that_are_not_there_are_not_counted(world: World) -> None:
    (last,) = world.replicas[2]
    targets = windows(1, 0)[:, 1:].clone()
    targets[0] = -1
    tag = world.tag(1, 2, 0)
    half = Tag(round=1, microbatch=0, state=tag.state, tokens=LENGTH)
    assert last.backward(half, hidden(), encode(targets, "tokens")).kind == "done"
    written = last.write([0])
    assert written.tokens == LENGTH
    assert last._done[0].losses[0] == 0 < last._done[0].losses[1]


def test_gradients_out_of_bounds_are_refused_and_the_others_stay(world: World) -> None:
    world.drive(1, 0, lambda *_: 0)
    (middle,) = world.replicas[1]
    tag = world.tag(1, 1, 1)
    for scale in (1e9, 1e30, 3e37):
        refused(
            ActivationError, "wanted at most|not finite",
            lambda: middle.backward(tag, hidden(), hidden(1, scale)), middle,  # noqa: B023
        )  # fmt: skip
    refused(ActivationError, "not finite|wanted at most", lambda: middle.forward(tag, hidden(1, 3e37)), middle)


def test_a_backward_without_its_input_says_what_is_missing(world: World) -> None:
    (middle,) = world.replicas[1]
    tag = world.tag(1, 1, 2)
    assert middle.backward(tag, None, hidden()).kind == "missing"
    assert middle.manifest() == []
    done = middle.backward(tag, hidden(), hidden(1))
    assert done.kind == "done"
    assert middle.backward(tag, None, hidden(2)) == done, "a repeat is answered as before, whatever it brings"


def test_no_room_for_another_input_is_busy_until_one_is_done(tmp_path: Path) -> None:
    world = World(tmp_path, replicas=1, keep_bytes=2 * len(hidden()))
    world.begin(1, 4)
    (middle,) = world.replicas[1]
    for number in (0, 1):
        assert middle.forward(world.tag(1, 1, number), hidden(number)).kind == "done"
    assert middle.forward(world.tag(1, 1, 2), hidden(2)).kind == "busy"
    assert middle.forward(world.tag(1, 1, 1), hidden(1)).kind == "done", "it is there already"
    assert middle.backward(world.tag(1, 1, 0), None, hidden(9)).kind == "done"
    assert middle.forward(world.tag(1, 1, 2), hidden(2)).kind == "done"
    assert middle.forward(world.tag(1, 1, 3), hidden(3)).kind == "busy"
    assert middle.undo(world.tag(1, 1, 2)).kind == "done", "its driver is gone"
    assert middle.forward(world.tag(1, 1, 3), hidden(3)).kind == "done"
    assert middle.manifest() == [0]


def test_an_evicted_record_has_to_be_given_again_and_be_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, replicas=1, keep_bytes=0)
    world.begin(1, 4)
    (middle,) = world.replicas[1]
    tag = world.tag(1, 1, 0)
    answer = middle.backward(tag, hidden(), hidden(1))
    assert middle.backward(tag, None, hidden(1)).kind == "missing"
    assert middle.backward(tag, hidden(2), hidden(1)).kind == "missing"
    assert middle.backward(tag, hidden(), hidden(1)) == answer
    assert middle.undo(tag).kind == "missing"
    assert middle.undo(tag, hidden(), hidden(2)).kind == "missing"
    assert middle.manifest() == [0]
    assert middle.undo(tag, hidden(), hidden(1)).kind == "done"
    assert middle.manifest() == []
    assert not middle._sum_P.any()


def test_what_cannot_be_undone_is_forgotten_altogether(tmp_path: Path) -> None:
    world = World(tmp_path, replicas=1, keep_bytes=0)
    world.begin(1, 4)
    (middle,) = world.replicas[1]
    for number in (0, 1):
        middle.backward(world.tag(1, 1, number), hidden(number), hidden(5))
    assert middle.freeze([0, 1]) == []
    assert middle.freeze([0]) == [0]
    assert not middle._sum_P.any()


def test_only_the_manifest_that_is_done_is_written(world: World) -> None:
    for number in (0, 1):
        world.drive(1, number, lambda *_: 0)
    (middle,) = world.replicas[1]
    for manifest in ([], [0], [0, 1, 2]):
        refused(RequestError, "freeze first", lambda: middle.write(manifest), middle)  # noqa: B023
    assert middle.write([1, 0]) == middle.write([0, 1])
    assert middle.write([0, 1]).loss == 0
    assert world.replicas[2][0].write([0, 1]).loss > 0
    assert middle.write([0, 1]).leaves != world.replicas[2][0].write([0, 1]).leaves


def test_a_round_that_begins_again_goes_on_and_another_one_starts_from_nothing(world: World) -> None:
    world.drive(1, 0, lambda *_: 0)
    (middle,) = world.replicas[1]
    middle.begin(1, 1000, 4)
    assert middle.manifest() == [0]
    middle.begin(1, 1002, 4)
    assert middle.manifest() == []
    assert not middle._sum_P.any()
    assert middle.backward(world.tag(1, 1, 0), None, hidden()).kind == "missing"


def settled(world: World, index: int) -> list[Contribution]:
    written = world.replicas[index][0].write([0])
    return [Contribution(path=str(written.path), tokens=written.tokens, mine=1)]


def test_steps_from_other_states_norms_or_updates_are_refused_without_a_trace(world: World) -> None:
    world.drive(1, 0, lambda *_: 0)
    world.reconcile(1, Random(0))
    updates = [settled(world, index) for index in range(3)]
    held = world.replicas[0][0].held
    norm = held.norm(held.id, updates[0], updates[2])
    norms = [norm, norm_hex(1.0), norm_hex(1.0)]
    other = [Contribution(path=item.path, tokens=item.tokens + 1) for item in updates[2]]
    before = held.id
    for kind, text, arguments in (
        (StateError, "holds state", ("0" * 64 + "-7", updates[0], updates[2], norms)),
        (RequestError, "wanted the updates of both", (before, updates[0], [], norms)),
        (RequestError, "0 own updates", (before, [], updates[2], norms)),
        (UpdateError, "over 24 tokens, the others over 25", (before, updates[0], other, norms)),
        (UpdateError, "is told 3ff0000000000000, found", (before, updates[0], updates[2], [norm_hex(1.0)] * 3)),
        (UpdateError, "is told none", (before, updates[0], updates[2], [])),
        (UpdateError, "expected 16 hex digits", (before, updates[0], updates[2], [norm, "x", norm])),
        (UpdateError, "wrong header|truncated|oversize", (before, updates[2], updates[2], norms)),
    ):
        state, own, theirs, told = arguments
        with pytest.raises(kind, match=text):
            held.apply(state, 1, own, theirs, told)
    assert held.id == before == held.state.id()
    assert not list((world.folder / "0 0" / "states").glob("*"))
    middle = world.replicas[1][0].held
    with pytest.raises(RequestError, match="wanted its own updates only"):
        middle.norm(middle.id, updates[1], updates[0])
    assert held.apply(before, 1, updates[0], updates[2], norms).exists()
    assert held.id != before


def test_a_disk_that_fails_leaves_state_and_sum_as_they_were(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    world.drive(1, 0, lambda *_: 0)
    (middle,) = world.replicas[1]
    before = middle.held.id
    updates = settled(world, 1)
    told = [norm_hex(1.0), middle.held.norm(before, updates, []), norm_hex(1.0)]
    with monkeypatch.context() as patch, pytest.raises(DiskError, match="No space left"):
        patch.setattr("os.fsync", full)
        middle.apply(before, 1, updates, [], told)
    assert not list((world.folder / "1 0" / "states").iterdir())
    assert before == middle.held.id == middle.held.state.id()
    assert middle.manifest() == [0]
    assert middle.write([0]).path == Path(updates[0].path)
    path = middle.apply(before, 1, updates, [], told)
    assert middle.held.id != before
    assert State.load(path, middle.held.layout).id() == middle.held.id
    assert middle.manifest() == []
