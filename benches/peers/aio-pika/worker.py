"""Takes events from a queue and posts each to a room: aio-pika and aiohttp on uvloop, one process a core.

AMQP_URL, QUEUE, ROOM_URL and TOKEN say where. Acknowledges after the post. SIGTERM ends it once what is in flight is
posted.
"""

import asyncio
import json
import logging
import multiprocessing
import os
import random
import signal
from html import escape

import aio_pika
import aiohttp
import uvloop

PREFETCH = 256
ATTEMPTS = 8
FIRST_WAIT = 0.25
# One interpreter keeps one core busy at most.
PROCESSES = len(os.sched_getaffinity(0))


def render(event: dict) -> dict:
    metrics, passed = event["metrics"], event["status"] == "success"
    failures = "".join(
        f"<br>{escape(f['request'])}: {escape(f['test'])}: {escape(f['message'])}" for f in event["failures"]
    )
    return {
        "color": "green" if passed else "red",
        "message_format": "html",
        "notify": not passed,
        "message": f"<b>{escape(event['monitor_name'])}</b> {'passed' if passed else 'failed'}"
        f" in {escape(event['environment_name'])}"
        f" ({metrics['passedTests']} passed, {metrics['failedTests']} failed):"
        f' <a href="{escape(event["run_url"])}">run</a>{failures}',
    }


class Relay:
    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.http = http
        self.url = os.environ["ROOM_URL"]
        self.in_flight: set[asyncio.Task] = set()

    async def take(self, delivery: aio_pika.abc.AbstractIncomingMessage) -> None:
        """aio-pika runs this as a task of its own for each delivery."""
        task = asyncio.current_task()
        self.in_flight.add(task)
        try:
            # Acknowledges at the end, and rejects what raises.
            async with delivery.process():
                await self.post(render(json.loads(delivery.body)))
        finally:
            self.in_flight.discard(task)

    async def post(self, message: dict) -> None:
        for attempt in range(ATTEMPTS):
            try:
                async with self.http.post(self.url, json=message) as answer:
                    answer.raise_for_status()
                    return
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:
                status = getattr(error, "status", 500)
                if attempt + 1 == ATTEMPTS or (400 <= status < 500 and status != 429):
                    raise
            await asyncio.sleep(FIRST_WAIT * 2**attempt * random.uniform(0.5, 1.5))


async def relay() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=PREFETCH),
        headers={"authorization": f"Bearer {os.environ['TOKEN']}"},
        timeout=aiohttp.ClientTimeout(total=10),
    )
    async with connection, http:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(os.environ["QUEUE"])
        relay = Relay(http)
        consumer = await queue.consume(relay.take)
        await stop.wait()
        await queue.cancel(consumer)
        await asyncio.gather(*relay.in_flight, return_exceptions=True)


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    # Before any loop runs, so that a fork copies none.
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=lambda: uvloop.run(relay())) for _ in range(PROCESSES - 1)]
    for process in others:
        process.start()
    try:
        uvloop.run(relay())
    finally:
        for process in others:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
