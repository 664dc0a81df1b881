"""Puts events, one line of JSON each on stdin, into the queue as tasks: Celery reads no other messages."""

import json
import sys

from tasks import app, notify

with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
    for line in sys.stdin:
        notify.apply_async((json.loads(line),), producer=producer)
