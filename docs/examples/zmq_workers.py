"""Requests dealt to 1, 2 and 4 worker processes by ZeroMQ's own proxy, and how long that takes.

    python zmq_workers.py            prints a table: requests per second

A client sends its requests to the proxy's ROUTER; the proxy's DEALER deals them to the workers. One kind of
request computes, so it can use no more processors than there are; the other waits, as for a disk or a database.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time

import zmq

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


def start_proxy(context: zmq.Context, front: str, back: str) -> None:
    router, dealer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(front)
    dealer.sndhwm = 1  # what a busy worker has no room for goes to another
    dealer.bind(back)

    def run() -> None:
        with router, dealer:
            try:
                zmq.proxy(router, dealer)
            except zmq.ContextTerminated:
                pass

    threading.Thread(target=run, daemon=True).start()


def measure(client: PacketClient, rq_type: int, payload: bytes, requests: int) -> float:
    begun = time.perf_counter()
    for future in [client.submit(rq_type, 0, payload, idempotent=True) for _ in range(requests)]:
        assert future.result()[0]
    return requests / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--size", type=int, default=20_000, help="of one computation")
    parser.add_argument("--worker", metavar="ENDPOINT", help="be a worker there")
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    print("| workers | computing, /s | waiting, /s |\n|---:|---:|---:|")
    for workers in 1, 2, 4:
        context = zmq.Context()
        with tempfile.TemporaryDirectory() as directory:
            front, back = f"ipc://{directory}/front", f"ipc://{directory}/back"
            start_proxy(context, front, back)
            command = [sys.executable, __file__, "--worker", back]
            children = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(workers)]
            with PacketClient(front) as client:
                for _ in range(8 * workers):  # all are there, and warm
                    client(COMPUTE, b"10", idempotent=True)
                measure(client, WAIT, b"", 50 * workers)
                rates = [measure(client, COMPUTE, b"%d" % args.size, args.requests)]
                rates.append(measure(client, WAIT, b"", args.requests * workers))
            print(f"| {workers} | {rates[0]:,.0f} | {rates[1]:,.0f} |", flush=True)
            for child in children:
                child.communicate()
            context.term()


if __name__ == "__main__":
    main()
