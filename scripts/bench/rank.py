"""One of two processes that train the same model together by other means, for `vs_ddp`; driven over pipes.

`ddp`: torch.distributed DistributedDataParallel over gloo with its defaults: gradients of every step are averaged in
buckets while the backward pass goes on. `hivemind`: hivemind.Optimizer, matchmaking as in its quick start, everything
else by default; with `--local-steps 1` it averages the gradients of every step, with more it lets each peer step alone
and averages their weights. `pipeline`: torch.distributed.pipelining, 1F1B over gloo, the same two stages that two of
our replicas serve. After a first line, each line on standard input is a number of steps (ddp, pipeline) or seconds.

IO: standard input and output, the network.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import plain

GIVE_UP_S = 180.0
MATCHMAKING_S, AVERAGING_S = 3.0, 60.0

Burst = Callable[[float], dict[str, float]]


def ddp(given: argparse.Namespace) -> Burst:
    """A rank of DDP; rank 0 listens at `meet`."""
    os.environ["GLOO_SOCKET_IFNAME"] = given.device
    model = plain.build(given)
    import torch
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group(
        "gloo", init_method=f"tcp://{given.meet}", rank=given.rank, world_size=2, timeout=timedelta(seconds=GIVE_UP_S)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.learning_rate, **plain.ADAMW)
    loop = plain.Loop(DistributedDataParallel(model), optimizer, given)
    plain.tell({"parameters": sum(parameter.numel() for parameter in model.parameters())})
    return lambda steps: loop.burst(int(steps))


def hivemind(given: argparse.Namespace) -> Burst:
    """A peer of hivemind; the second one joins the first at `meet`, whose address the first one tells."""
    model = plain.build(given)
    import hivemind as library
    import torch

    others = [given.meet] if given.rank else []
    dht = library.DHT(initial_peers=others, host_maddrs=[f"/ip4/{given.address}/tcp/0"], start=True)
    local = given.local_steps > 1
    optimizer = library.Optimizer(
        dht=dht, run_id="bench", batch_size_per_step=given.batch,
        target_batch_size=2 * given.batch * given.local_steps, use_local_updates=local,
        params=model.parameters(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=given.learning_rate, **plain.ADAMW),
        matchmaking_time=MATCHMAKING_S, averaging_timeout=AVERAGING_S,
    )  # fmt: skip
    loop = plain.Loop(model, optimizer, given)
    meet = next(str(one) for one in dht.get_visible_maddrs())
    plain.tell({"parameters": sum(parameter.numel() for parameter in model.parameters()), "meet": meet})

    def burst(seconds: float) -> dict[str, float]:
        began, started, steps = optimizer.local_epoch, time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            loop.step()
            steps += 1
        taken = time.perf_counter() - started
        tokens = steps * given.batch * given.length
        return {"tokens": tokens, "seconds": taken, "epochs": optimizer.local_epoch - began}

    return burst


def pipeline(given: argparse.Namespace) -> Burst:
    """A rank of 1F1B; rank 0 has the first stage and listens at `meet`. A step is `--microbatches` microbatches."""
    os.environ["GLOO_SOCKET_IFNAME"] = given.device
    whole = plain.build(given)
    import torch
    from torch import distributed
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    from p2p_llm_forge.stages import split
    from p2p_llm_forge.stages.cut import Cut

    distributed.init_process_group(
        "gloo", init_method=f"tcp://{given.meet}", rank=given.rank, world_size=2, timeout=timedelta(seconds=GIVE_UP_S)
    )
    cut = Cut.of_counts([int(count) for count in given.cut.split(",")])
    stage = split.build(whole.config, cut, given.rank).train()
    weights = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in stage.named_parameters():
            parameter.copy_(weights[name])
    optimizer = torch.optim.AdamW(stage.parameters(), lr=given.learning_rate, **plain.ADAMW)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    schedule = Schedule1F1B(
        PipelineStage(stage, given.rank, 2, torch.device("cpu")), n_microbatches=given.microbatches, loss_fn=loss
    )
    tokens = torch.randint(given.vocabulary, (given.microbatches * given.batch, given.length + 1))
    plain.tell({"parameters": sum(parameter.numel() for parameter in whole.parameters())})

    def burst(steps: float) -> dict[str, float]:
        started = time.perf_counter()
        for _ in range(int(steps)):
            optimizer.zero_grad(set_to_none=True)
            if given.rank == 0:
                schedule.step(tokens[:, :-1])
            else:
                schedule.step(target=tokens[:, 1:])
            torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
            optimizer.step()
        taken = time.perf_counter() - started
        return {"tokens": steps * tokens[:, 1:].numel() / 2, "seconds": taken}

    return burst


KINDS: dict[str, Callable[[argparse.Namespace], Burst]] = {"ddp": ddp, "hivemind": hivemind, "pipeline": pipeline}


def main() -> None:
    """Train in bursts until the end of input."""
    parser = plain.options()
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--meet", default="", help="where the first one is: ADDRESS:PORT, or a multiaddress")
    parser.add_argument("--address", required=True, help="where to listen")
    parser.add_argument("--device", required=True, help="the network interface")
    parser.add_argument("--local-steps", type=int, default=1)
    parser.add_argument("--cut", default="", help="pipeline: layers of each stage, as 3,3")
    parser.add_argument("--microbatches", type=int, default=1, help="pipeline: of a step")
    given = parser.parse_args()
    burst = KINDS[given.kind](given)
    for line in sys.stdin:
        plain.tell(burst(float(line)))
    os._exit(0)  # the other one may be gone: no farewell that waits for it


if __name__ == "__main__":
    main()
