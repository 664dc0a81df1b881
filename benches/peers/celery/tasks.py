"""Posts an event to a room: a Celery task with requests.

AMQP_URL, QUEUE, ROOM_URL and TOKEN say where. A task is acknowledged after the post (`task_acks_late`); one that fails
is tried again by Celery.
"""

import os
from html import escape

import requests
from celery import Celery
from kombu import Queue

CORES = len(os.sched_getaffinity(0))

app = Celery("peer", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_default_queue=os.environ["QUEUE"],
    # By the default exchange: no exchange of its own, nor a binding.
    task_queues=[Queue(os.environ["QUEUE"])],
    task_default_exchange="",
    task_default_routing_key=os.environ["QUEUE"],
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    # Two processes for each core, as each of them waits for the room now and then.
    worker_concurrency=2 * CORES,
    worker_prefetch_multiplier=32,
    # Nobody watches or steers this worker.
    worker_enable_remote_control=False,
)

# One for each process of the pool, whose connections are made when it first posts.
http = requests.Session()
http.headers["authorization"] = f"Bearer {os.environ.get('TOKEN')}"
# Else the environment is searched for proxies and passwords at every post.
http.trust_env = False


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


@app.task(autoretry_for=(requests.RequestException,), retry_backoff=True, max_retries=8)
def notify(event: dict) -> None:
    http.post(os.environ["ROOM_URL"], json=render(event), timeout=10).raise_for_status()
