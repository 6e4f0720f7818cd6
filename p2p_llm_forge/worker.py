"""The worker subprocess: one run's engine behind JSON lines on stdin and stdout (see `protocol`).

`python -m p2p_llm_forge.worker --folder DIR [--threads N] [--device auto|cpu|cuda] [--parent PID]`

The main thread computes; what mostly waits for other peers goes on beside it. A reader thread parses requests; it
answers `stop` itself, so that a training ends after its current step, and hands `check` to a side thread. End of input
ends the process at once: the daemon is gone. Anything that is printed by a library goes to stderr; stdout carries only
the protocol.

IO: pipes, blobs, its own folder. No network, no pickle, no code from models.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2p_llm_forge import isolation, protocol
from p2p_llm_forge.beside import Beside
from p2p_llm_forge.blobs import disk_error
from p2p_llm_forge.channel import Channel
from p2p_llm_forge.config import RunSpec
from p2p_llm_forge.errors import DeviceError, EngineError, RequestError
from p2p_llm_forge.stages.experts import requests as experts
from p2p_llm_forge.stages.front import Front
from p2p_llm_forge.stages.requests import COMMANDS, StageCheck, StageRequest

if TYPE_CHECKING:
    import torch

    from p2p_llm_forge.engine import Engine

REPORT_S = 0.1
_QUEUE = 64


class Worker:
    """Dispatches requests; `engine` is set by `open`."""

    def __init__(self, folder: Path, device: torch.device, channel: Channel, tensors: int | None) -> None:
        self.folder, self.device = folder, device
        self.engine: Engine | None = None  # Written only by the main thread.
        self._channel = channel
        self._waiting: queue.Queue[tuple[protocol.Request, threading.Event]] = queue.Queue(_QUEUE)
        self.stage = Front(folder, device, tensors, self._waiting.qsize, channel.send)
        self._stops: set[threading.Event] = set()  # Of trainings not yet finished. Guarded by _stops_lock.
        self._stops_lock = threading.Lock()
        self._beside = Beside(_fail_loudly)
        self._side = ThreadPoolExecutor(1, thread_name_prefix="check")

    def answer(self, request_id: int, work: Callable[[], dict[str, Any]]) -> None:
        """Run `work` and reply with its result or its refusal."""
        try:
            self._channel.send({"id": request_id, "ok": work()})
        except EngineError as exc:
            self._channel.send({"id": request_id, "error": protocol.error(exc)})
        except OSError as exc:
            where = Path(exc.filename) if isinstance(exc.filename, str) else self.folder
            self._channel.send({"id": request_id, "error": protocol.error(disk_error(exc, where))})
        except MemoryError:
            self._channel.send(
                {"id": request_id, "error": protocol.error(DeviceError("out of memory; use a smaller batch"))}
            )

    def read(self) -> None:
        """The reader thread."""
        for line in self._channel.lines():
            if len(line) > protocol.LINE_LIMIT_BYTES:
                self._channel.send({"id": 0, "error": protocol.error(RequestError("request: line too long"))})
                break
            try:
                request = protocol.parse(line, {**COMMANDS, **experts.COMMANDS})
            except EngineError as exc:
                self._channel.send({"id": protocol.request_id(line), "error": protocol.error(exc)})
                continue
            if isinstance(request, protocol.Stop):
                self._stop(request)
            elif isinstance(request, experts.TrunkAnswer):
                self.answer(request.id, partial(self.stage.answered, request))
            elif isinstance(request, protocol.Check | StageCheck):
                self._side.submit(self.answer, request.id, partial(self._check, request)).add_done_callback(
                    _fail_loudly
                )
            elif (busy := self.stage.turned_away(request)) is not None:
                self._channel.send({"id": request.id, "ok": busy})
            else:
                self._queue(request)
        os._exit(0)

    def _stop(self, request: protocol.Stop) -> None:
        with self._stops_lock:
            for event in self._stops:
                event.set()
        self._channel.send({"id": request.id, "ok": {}})

    def _queue(self, request: protocol.Request) -> None:
        event = threading.Event()
        if isinstance(request, protocol.Train):
            with self._stops_lock:
                self._stops.add(event)
        try:
            self._waiting.put_nowait((request, event))
        except queue.Full:
            message = f"request: {_QUEUE} requests are waiting already; wait for their replies"
            self._channel.send({"id": request.id, "error": protocol.error(RequestError(message))})

    def run(self) -> None:
        """The main thread: one request after the other until `close`."""
        threading.excepthook = _thread_fault
        threading.Thread(target=self.read, name="reader", daemon=True).start()
        while True:
            request, stopped = self._waiting.get()
            work = partial(self.answer, request.id, partial(self._do, request, stopped))
            if most := self.stage.at_once(request):
                self._beside.begin(work, most)
                continue
            self._beside.wait()
            work()
            with self._stops_lock:
                self._stops.discard(stopped)
            if isinstance(request, protocol.Close):
                return

    def _do(self, request: protocol.Request, stopped: threading.Event) -> dict[str, Any]:
        import torch

        try:
            return self._dispatch(request, stopped)
        except torch.OutOfMemoryError as exc:
            raise DeviceError(f"{self.device.type}: out of memory; use a smaller micro_batch_size") from exc

    def _dispatch(self, request: protocol.Request, stopped: threading.Event) -> dict[str, Any]:
        match request:
            case protocol.Prepare():
                return self._prepare(request)
            case protocol.Open():
                return self._open(request)
            case protocol.Train():
                return self._train(request, stopped)
            case protocol.Finish():
                return self._opened().finish(round_number=request.round, settled=request.settled)
            case protocol.Apply():
                return self._opened().apply(request.round, request.updates)
            case protocol.Load():
                return {"state": self._opened().load(Path(request.state))}
            case protocol.Evaluate():
                return self._opened().evaluate(request.sequences)
            case protocol.Export():
                return self._export(request)
            case protocol.Generate():
                return self._generate(request)
            case protocol.Measure():
                from p2p_llm_forge.measure import measure

                return measure(self.device)
            case StageRequest():
                return self.stage.do(request)
        if self.engine is not None:
            self.engine.kept.wait()
        return {}  # close

    def _opened(self) -> Engine:
        if self.engine is None:
            raise RequestError("no run is open; send open first")
        return self.engine

    def _prepare(self, request: protocol.Prepare) -> dict[str, Any]:
        from p2p_llm_forge import memory
        from p2p_llm_forge.prepare import prepare

        sent = 0.0

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal sent
            now = time.monotonic()
            if now - sent < REPORT_S and done < total:
                return
            sent = now
            self._channel.send({"id": request.id, "event": "progress", "phase": phase, "done": done, "total": total})

        free = memory.available_bytes() if request.memory_bytes is None else request.memory_bytes
        spec, out = RunSpec.from_worker(request.spec), Path(request.out)
        return prepare(spec, out, free, progress, request.peers_bytes).reply()

    def _open(self, request: protocol.Open) -> dict[str, Any]:
        from p2p_llm_forge.engine import Engine

        if self.engine is not None:
            self.engine.kept.wait()
        self.engine = None  # The memory of the run before is free again for this one.
        self.engine = Engine(request, self.folder, self.device)
        parameters = self.engine.layout.parameters
        answer = {"state": self.engine.state_id, "parameters": parameters, "device": self.device.type}
        chosen = self.engine.micro_batch
        return answer if chosen is None else {**answer, "micro_batch": asdict(chosen)}

    def _train(self, request: protocol.Train, stopped: threading.Event) -> dict[str, Any]:
        def report(step: int, steps: int, tokens: int, loss: float) -> None:
            nats = round(loss * 1e6) if loss == loss and loss < 1e6 else 0
            event = {"event": "progress", "step": step, "steps": steps, "tokens": tokens, "loss": nats}
            self._channel.send({"id": request.id, **event})

        return self._opened().train(
            round_number=request.round,
            start=request.start,
            count=request.count,
            seconds=request.seconds,
            stopped=stopped.is_set,
            report=report,
            settled=request.settled,
            ahead=request.ahead,
        )

    def _check(self, request: protocol.Check | StageCheck) -> dict[str, Any]:
        if isinstance(request, StageCheck):
            return self.stage.check(request)
        return self._opened().check(Path(request.update))

    def _export(self, request: protocol.Export) -> dict[str, Any]:
        from p2p_llm_forge.produce import export

        engine, to = self._opened(), Path(request.to).absolute()
        engine.inner.take(engine.state.weights_P)
        files = export(engine.inner.model, engine.state, engine.model_blob, engine.tokenizer, to)
        return {"folder": str(to), "files": files}

    def _generate(self, request: protocol.Generate) -> dict[str, Any]:
        from p2p_llm_forge.produce import generate

        engine = self._opened()
        engine.inner.take(engine.state.weights_P)
        text = ""
        for part in generate(
            engine.inner.model,
            engine.tokenizer,
            engine.config,
            self.device,
            prompt=request.prompt,
            tokens=request.tokens,
            temperature=request.temperature,
            top_k=request.top_k,
            seed=request.seed,
        ):
            text += part
            self._channel.send({"id": request.id, "event": "text", "text": part})
        return {"text": text}


def _fail_loudly(done: Future[None]) -> None:
    """A fault of our own in a side thread ends the process as it would in the main thread."""
    if (exc := done.exception()) is not None:
        traceback.print_exception(exc)
        os._exit(70)


def _thread_fault(fault: threading.ExceptHookArgs) -> None:
    traceback.print_exception(fault.exc_type, fault.exc_value, fault.exc_traceback)
    os._exit(70)


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until `close` or the end of input."""
    parser = argparse.ArgumentParser(prog="python -m p2p_llm_forge.worker", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where updates and states are written")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads to compute with")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--parent", type=int, help="process id of the daemon: without it, a worker has no reason to be")
    parser.add_argument("--tensors", type=int, metavar="FD", help="memory shared with the daemon, for tensors")
    options = parser.parse_args(arguments)
    threads = max(1, options.threads)
    isolated = isolation.isolate(options.parent)
    channel = Channel.over_standard_streams()
    isolation.environment(threads)
    import torch

    torch.set_num_threads(threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("FP-111 device: cuda was asked for, but torch finds none; use --device cpu")
    name = "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"
    worker = Worker(options.folder.absolute(), torch.device(name), channel, options.tensors)
    ready = {"event": "ready", "version": protocol.VERSION, "device": name, "threads": threads}
    channel.send({**ready, "network_isolated": int(isolated)})
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
