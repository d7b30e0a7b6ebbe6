"""Requests dealt to 1, 2 and 4 worker processes by ZeroMQ's own proxy, and how long that takes.

    python zmq_workers.py                        prints a table: requests per second
    python zmq_workers.py --worker ENDPOINT      is one more worker, until its standard input ends

A client sends its requests to the proxy's ROUTER; the proxy's DEALER deals them to the workers. One kind of
request computes, so it can use no more processors than there are; the other waits, as for a disk or a database.
All are idempotent: one that is lost with its worker is sent again, to another.
It needs pip install 'packetwire[zmq]'.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack

import zmq

from packetwire import PacketwireError
from packetwire.zmqpackets import PacketClient, PacketWorker

COMPUTE, WAIT = 0, 1
WAIT_SECONDS = 0.01


def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
    if rq_type == WAIT:
        time.sleep(WAIT_SECONDS)
        return payload
    total = 0
    for i in range(int(payload)):
        total += i * i
    return b"%d" % total


def work(endpoint: str) -> None:
    """The program of a worker process: ends with its standard input."""
    with PacketWorker(endpoint, handle, handlers=4):
        sys.stdin.read()


def run_proxy(context: zmq.Context, front: str, back: str) -> None:
    """The thread of the proxy: ends with its context."""
    try:
        with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
            router.linger = dealer.linger = 0
            router.bind(front)
            dealer.sndhwm = 1  # what a busy worker has no room for goes to another
            dealer.bind(back)
            zmq.proxy(router, dealer)
    except zmq.ContextTerminated:
        pass
    except zmq.ZMQError:
        if not context.closed:  # else it has ended before there was a socket
            raise


def start_worker(endpoint: str) -> subprocess.Popen[bytes]:
    # in a process group of its own: Ctrl-C is for this process, which then ends its workers
    command = [sys.executable, __file__, "--worker", endpoint]
    return subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)


def measure(client: PacketClient, rq_type: int, payload: bytes, requests: int) -> float:
    """Requests per second; raises what went wrong with one of them."""
    begun = time.perf_counter()
    for future in [client.submit(rq_type, 0, payload, idempotent=True) for _ in range(requests)]:
        ok, _, answer = future.result()
        if not ok:
            raise PacketwireError(f"a worker failed: {answer.decode(errors='replace')}")
    return requests / (time.perf_counter() - begun)


def measure_with(workers: int, size: int, requests: int, timeout: float) -> list[float]:
    """Requests per second of both kinds, with so many workers behind a proxy."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        context = zmq.Context()
        stack.callback(context.term)  # which ends the proxy
        front, back = f"ipc://{directory}/front", f"ipc://{directory}/back"
        threading.Thread(target=run_proxy, args=(context, front, back), daemon=True).start()
        for _ in range(workers):
            stack.callback(start_worker(back).communicate)  # closes its standard input, and waits for it
        client = stack.enter_context(PacketClient(front, timeout=timeout))
        measure(client, COMPUTE, b"10", 8 * workers)  # all are there, and warm
        measure(client, WAIT, b"", 50 * workers)
        return [measure(client, COMPUTE, b"%d" % size, requests), measure(client, WAIT, b"", requests * workers)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=400, metavar="N", help="of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=int, default=20_000, metavar="N", help="of one computation (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="S", help="for one answer (default: %(default)s)"
    )
    parser.add_argument("--worker", metavar="ENDPOINT", help="be a worker there, such as tcp://127.0.0.1:5571")
    args = parser.parse_args()
    try:
        if args.worker:
            work(args.worker)
            return 0
        print("| workers | computing, /s | waiting, /s |\n|---:|---:|---:|", flush=True)
        for workers in 1, 2, 4:
            computing, waiting = measure_with(workers, args.size, args.requests, args.timeout)
            print(f"| {workers} | {computing:,.0f} | {waiting:,.0f} |", flush=True)
        return 0
    except KeyboardInterrupt:
        return 130
    except (PacketwireError, OSError) as error:
        print(f"zmq_workers: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
