// Takes events from a queue and posts each to a room: amqplib and undici, one process. Acknowledges after the post.
//
// AMQP_URL, QUEUE, ROOM_URL and TOKEN say where. SIGTERM ends it once what is in flight is posted.

import { setTimeout as wait } from "node:timers/promises";

import amqp from "amqplib";
import { Pool } from "undici";

const PREFETCH = 256;
// Posts at the same time; the others that are in hand wait for a connection.
const CONNECTIONS = 64;
const ATTEMPTS = 8;
const FIRST_WAIT_MS = 250;

const { AMQP_URL, QUEUE, ROOM_URL, TOKEN } = process.env;
const room = new URL(ROOM_URL);
// Its connections are kept alive.
const pool = new Pool(room.origin, { connections: CONNECTIONS });
const request = {
  method: "POST",
  path: room.pathname + room.search,
  headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
};

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escape = (text) => String(text).replace(/[&<>"]/g, (character) => ENTITIES[character]);

function render(event) {
  const { passedTests, failedTests } = event.metrics;
  const passed = event.status === "success";
  const failures = event.failures.map(
    ({ request, test, message }) => `<br>${escape(request)}: ${escape(test)}: ${escape(message)}`,
  );
  return {
    color: passed ? "green" : "red",
    message_format: "html",
    notify: !passed,
    message:
      `<b>${escape(event.monitor_name)}</b> ${passed ? "passed" : "failed"} in ${escape(event.environment_name)} ` +
      `(${passedTests} passed, ${failedTests} failed): <a href="${escape(event.run_url)}">run</a>${failures.join("")}`,
  };
}

// Whether the room took it; throws where another attempt may help.
async function attempt(body) {
  const answer = await pool.request({ ...request, body });
  await answer.body.dump();
  if (answer.statusCode === 429 || answer.statusCode >= 500) throw new Error(`status ${answer.statusCode}`);
  return answer.statusCode < 300;
}

async function post(body) {
  for (let failed = 0; ; ) {
    try {
      return await attempt(body);
    } catch (error) {
      failed += 1;
      if (failed === ATTEMPTS) throw error;
      await wait(FIRST_WAIT_MS * 2 ** (failed - 1) * (0.5 + Math.random()));
    }
  }
}

const connection = await amqp.connect(AMQP_URL);
const channel = await connection.createChannel();
await channel.prefetch(PREFETCH);

const inFlight = new Set();

async function handle(delivery) {
  try {
    if (await post(JSON.stringify(render(JSON.parse(delivery.content))))) {
      channel.ack(delivery);
      return;
    }
    console.error("the room refused a message");
  } catch (error) {
    console.error("a message could not be posted:", error.message);
  }
  channel.nack(delivery, false, false);
}

const { consumerTag } = await channel.consume(QUEUE, (delivery) => {
  // Null where the queue was deleted.
  if (delivery === null) process.exit(1);
  const handled = handle(delivery).finally(() => inFlight.delete(handled));
  inFlight.add(handled);
});

process.once("SIGTERM", async () => {
  await channel.cancel(consumerTag);
  await Promise.all(inFlight);
  await channel.close();
  await connection.close();
  await pool.close();
});
