"""Overlap: work ahead starts where blobs say, counts once its round is open, leaves nothing if it is thrown away."""

from pathlib import Path
from typing import Any

import pytest
import torch

from p2p_llm_forge.blobs import blob_id
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.engine import Engine
from p2p_llm_forge.errors import DiskError, EngineError, RequestError, SpecError, StateError, UpdateError
from p2p_llm_forge.prepare import Prepared
from p2p_llm_forge.protocol import Ahead, Settled

from .client import Client, refused, share
from .conftest import Run, spec_fields
from .engines import member, prepared, settled, train
from .test_microbatch import short_of_memory

pytestmark = pytest.mark.usefixtures("one_thread")

SLOTS = 4


def begun(engine: Engine, reply: dict[str, Any], path: Path = Path("none")) -> Ahead:
    """Where this engine's work after this update starts; by default it holds the state itself."""
    return Ahead(state=engine.state_id, path=str(path), update=reply["update"])


def train_ahead(engine: Engine, number: int, start: int, ahead: Ahead) -> dict[str, Any]:
    """Training of a round that is not open yet."""
    return engine.train(
        round_number=number, start=start, count=SLOTS, seconds=600.0, stopped=lambda: False, report=lambda *_: None,
        ahead=ahead,
    )  # fmt: skip


def sent(reply: dict[str, Any]) -> bytes:
    """The bytes of the update."""
    return Path(reply["update"]).read_bytes()


def log_of(*replies: dict[str, Any]) -> list[Settled]:
    """These updates of rounds 1, 2, … as the log tells of them."""
    return [Settled(round=number, update=blob_id(sent(reply))) for number, reply in enumerate(replies, 1)]


def first_state(run: Prepared) -> Path:
    """The blob that every member starts from."""
    return run.paths["state"]


@pytest.mark.parametrize("codec", ["topk", "int4"])
def test_work_ahead_is_the_same_bit_by_bit_as_the_same_work_done_late_from_the_blobs(
    tmp_path: Path, codec: str
) -> None:
    run = prepared(tmp_path, codec={"kind": codec}, overlap=True, warmup_rounds=0)
    early, late, other = (member(run, tmp_path / name) for name in ("early", "late", "other"))
    firsts = [train(engine, 1, start, SLOTS) for engine, start in ((early, 0), (late, 0), (other, 8))]
    assert sent(firsts[0]) == sent(firsts[1])
    train_ahead(early, 2, 16, begun(early, firsts[0]))
    start = begun(late, firsts[1], first_state(run))
    for engine in (early, late):
        engine.apply(1, settled([firsts[0], firsts[2]], 0))
    early.evaluate(4)  # what a worker is asked in between changes nothing
    train_ahead(late, 2, 16, start)
    seconds = [engine.finish(round_number=2, settled=log_of(firsts[0])) for engine in (early, late)]
    assert sent(seconds[0]) == sent(seconds[1])
    assert seconds[0]["tokens"] == SLOTS * 16


@pytest.mark.parametrize("outer", [{"kind": "sgd"}, {"kind": "nesterov", "learning_rate": 0.7}])
def test_an_auditor_computes_where_work_ahead_started_from_blobs_alone(tmp_path: Path, outer: dict[str, Any]) -> None:
    run = prepared(tmp_path, codec={"kind": "f32"}, outer=outer, overlap=True, warmup_rounds=0)
    one, other = member(run, tmp_path / "1"), member(run, tmp_path / "2")
    taken: list[torch.Tensor] = []
    take = one.inner.take
    one.inner.take = lambda weights_P: (taken.append(weights_P.clone()), take(weights_P))[1]  # type: ignore[method-assign]
    for number in (1, 2, 3):
        before = tmp_path / f"before-{number}"
        one.state.write(before)
        start = begun(one, {"update": ""}, before)
        replies = [
            one.finish(round_number=number) if number > 1 else train(one, 1, 0, SLOTS),
            train(other, number, 16 * number + 8, SLOTS),
        ]
        start = start.model_copy(update={"update": replies[0]["update"]})
        train_ahead(one, number + 1, 16 * number, start)
        auditor = member(run, tmp_path / f"auditor-{number}", shards=False)
        assert torch.equal(auditor.start_of(number + 1, start), taken[-1])
        auditor.load(before)
        auditor.apply(number, settled(replies[:1]))
        assert torch.equal(auditor.state.weights_P, taken[-1]), "the state if its update alone counted"
        ids = {engine.apply(number, settled(replies, mine))["state"] for mine, engine in enumerate((one, other))}
        assert len(ids) == 1


def test_an_update_that_did_not_count_goes_with_the_work_ahead_only_if_the_log_says_so(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "f32"}, overlap=True, warmup_rounds=0)
    changes = {}
    for counted in (True, False):
        one = member(run, tmp_path / str(counted))
        first = train(one, 1, 0, SLOTS)
        train_ahead(one, 2, 16, begun(one, first))
        second = one.finish(round_number=2, settled=log_of(first) if counted else [])
        changes[counted] = one._decode(Path(second["update"]))[0].values
        first_P = one._decode(Path(first["update"]))[0].values
    assert torch.allclose(changes[False], changes[True] + first_P, atol=1e-7)


def test_work_that_is_thrown_away_leaves_nothing(tmp_path: Path) -> None:
    run = prepared(tmp_path, overlap=True, warmup_rounds=0)
    calm, hasty = member(run, tmp_path / "calm"), member(run, tmp_path / "hasty")
    firsts = [train(engine, 1, 0, SLOTS) for engine in (calm, hasty)]
    train_ahead(hasty, 2, 16, begun(hasty, firsts[1]))
    for engine in (calm, hasty):
        engine.apply(1, settled(firsts[:1], 0))
    seconds = [train(engine, 2, 32, SLOTS) for engine in (calm, hasty)]
    assert sent(seconds[0]) == sent(seconds[1])
    with pytest.raises(RequestError, match="nothing was trained ahead of round 2"):
        hasty.finish(round_number=2)


def test_work_ahead_starts_from_nothing_but_what_it_names(tmp_path: Path) -> None:
    run = prepared(tmp_path, overlap=True)
    one = member(run, tmp_path / "1")
    first = train(one, 1, 0, SLOTS)
    base = begun(one, first, first_state(run))
    one.apply(1, settled([first], 0))
    second = tmp_path / "second"
    one.state.write(second)
    broken = tmp_path / "broken"
    broken.write_bytes(sent(first)[:-1])
    faults: list[tuple[dict[str, str], type[EngineError]]] = [
        ({"path": str(second)}, StateError), ({"update": str(broken)}, UpdateError),
        ({"path": str(tmp_path / "gone")}, EngineError),
    ]  # fmt: skip
    for change, error in faults:
        with pytest.raises(error):
            train_ahead(one, 2, 16, base.model_copy(update=change))
    train_ahead(one, 2, 16, base)
    with pytest.raises(RequestError, match="ahead of round 3"):
        one.finish(round_number=3)


def test_work_whose_update_could_not_be_written_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, overlap=True)
    lucky, full = member(run, tmp_path / "lucky"), member(run, tmp_path / "full")
    for engine in (lucky, full):
        first = train(engine, 1, 0, SLOTS)
        train_ahead(engine, 2, 16, begun(engine, first))

    def no_space(path: Path, parts: object, **how: object) -> None:
        raise DiskError(f"{path.name}: no space left")

    with monkeypatch.context() as patch:
        patch.setattr("p2p_llm_forge.engine.write_atomic", no_space)
        with pytest.raises(DiskError):
            full.finish(round_number=2, settled=log_of(first))
    replies = [engine.finish(round_number=2, settled=log_of(first)) for engine in (lucky, full)]
    assert sent(replies[0]) == sent(replies[1])


def test_a_worker_trains_ahead_and_finishes(run: Run, tmp_path: Path) -> None:
    with Client(tmp_path / "a") as a:
        a("open", **run.open)
        first = a("train", round=1, start=0, count=8, seconds=600, settled=[])
        ahead = {"state": run.prepared["ids"]["state"], "path": "none", "update": first["update"]}
        work = a("train", round=2, start=16, count=8, seconds=600, ahead=ahead)
        assert (work["update"], work["slots"]) == ("", 8)
        a("apply", round=1, updates=[share(first, True)])
        log = [{"round": 1, "update": blob_id(sent(first))}]
        second = a("finish", round=2, settled=log)
        assert (second["slots"], second["leaves"]) == (8, work["leaves"])
        assert a("check", update=second["update"])["values"] > 0
        refused(a, "finish", "FP-109", "nothing was trained ahead", round=2, settled=log)


def test_mode_synchronous_refuses_overlap(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("words\n")
    with pytest.raises(SpecError, match="mode synchronous has no round's delay; leave overlap out"):
        RunSpec.from_worker(spec_fields(tmp_path / "corpus.txt", mode="synchronous", overlap=True))


def losses(run: Prepared, folder: Path, *, overlap: bool, rounds: int = 8, members: int = 3) -> list[int]:
    """Held-out loss before and after a run of such members, all states alike."""
    engines = [member(run, folder / str(place)) for place in range(members)]
    found = [engines[0].evaluate(64)["loss"]]
    history: list[list[dict[str, Any]]] = [[] for _ in engines]
    for number in range(1, rounds + 1):
        starts = [SLOTS * (members * number + place) for place in range(members)]
        if overlap and number > 1:
            said = zip(engines, history, strict=True)
            replies = [engine.finish(round_number=number, settled=log_of(*before)) for engine, before in said]
        else:
            replies = [train(engine, number, start, SLOTS) for engine, start in zip(engines, starts, strict=True)]
        for engine, start, reply, before in zip(engines, starts, replies, history, strict=True):
            if overlap:
                train_ahead(engine, number + 1, start + SLOTS * members, begun(engine, reply))
            kept = folder / f"{engine.folder.name}-{number}.update"
            kept.write_bytes(sent(reply))
            before.append({"update": str(kept)})
        ids = {engine.apply(number, settled(replies, mine))["state"] for mine, engine in enumerate(engines)}
        assert len(ids) == 1
    return [*found, engines[0].evaluate(64)["loss"]]


def test_a_run_with_overlap_learns_and_loses_little_at_equal_tokens(tmp_path: Path) -> None:
    run = prepared(tmp_path, codec={"kind": "int4"}, inner_steps=2, rounds=8, learning_rate=0.01)
    before, plain = losses(run, tmp_path / "plain", overlap=False)
    again, delayed = losses(run, tmp_path / "delayed", overlap=True)
    assert before == again
    assert before - delayed > 0.7 * (before - plain)


def test_work_ahead_during_which_memory_runs_out_goes_on_in_smaller_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, codec={"kind": "f32"}, overlap=True, warmup_rounds=0)
    calm, short = member(run, tmp_path / "calm"), member(run, tmp_path / "short")
    changes = []
    for engine in (calm, short):
        first = train(engine, 1, 0, SLOTS)
        if engine is short:
            short_of_memory(engine.inner, monkeypatch, 1, from_call=2)
        train_ahead(engine, 2, 16, begun(engine, first))
        engine.apply(1, settled([first], 0))
        second = engine.finish(round_number=2, settled=log_of(first))
        assert second["slots"] == SLOTS
        changes.append(engine._decode(Path(second["update"]))[0].values)
    assert short.inner.micro == 1
    torch.testing.assert_close(changes[1], changes[0], atol=2e-5, rtol=1e-4)
