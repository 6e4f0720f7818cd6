"""One of two processes that train the same model together by other means, for `vs_ddp`; driven over pipes.

`ddp`: torch.distributed DistributedDataParallel over gloo with its defaults: gradients of every step are averaged in
buckets while the backward pass goes on. `hivemind`: hivemind.Optimizer, matchmaking as in its quick start, everything
else by default; with `--local-steps 1` it averages the gradients of every step, with more it lets each peer step alone
and averages their weights. After a first line, each line on standard input is a number of steps (ddp) or seconds.

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


def main() -> None:
    """Train in bursts until the end of input."""
    parser = plain.options()
    parser.add_argument("--kind", choices=("ddp", "hivemind"), required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--meet", default="", help="where the first one is: ADDRESS:PORT, or a multiaddress")
    parser.add_argument("--address", required=True, help="where to listen")
    parser.add_argument("--device", required=True, help="the network interface")
    parser.add_argument("--local-steps", type=int, default=1)
    given = parser.parse_args()
    burst = (ddp if given.kind == "ddp" else hivemind)(given)
    for line in sys.stdin:
        plain.tell(burst(float(line)))
    os._exit(0)  # the other one may be gone: no farewell that waits for it


if __name__ == "__main__":
    main()
