//! What stands below each verb's options: how to use it, with examples. A paragraph is one line here, since clap
//! breaks it to the terminal's width.

pub const TOP: &str = "\
Configuration: built-in defaults, then the file, then environment NOTIFIER__SECTION__KEY.

Exit codes: 0 done, 1 failed, 2 usage, 78 configuration is wrong (all faults are listed).

Examples:
  hipchat-notifier check --rooms                  is everything in place?
  hipchat-notifier run                            start the worker
  hipchat-notifier publish run.json               publish an event
  hipchat-notifier explain 5852-run-1             what became of it?

`hipchat-notifier help VERB` tells of each verb.";

pub const RUN: &str = "\
Consumes the work queue, decides which integrations each event is news for, and posts to their rooms. Logs go to \
stderr. SIGTERM and SIGINT stop it cleanly: calls in flight may end within shutdown.grace, all else stays in the \
store and in the queue. A second signal ends it at once.

Examples:
  hipchat-notifier run --config /etc/hipchat-notifier/config.toml
  NOTIFIER__LOG__FORMAT=json hipchat-notifier run";

pub const MIGRATE: &str = "\
A worker does the same at its start unless store.migrate is false. Run it before the workers of a new version then: \
they refuse a schema that is older than they need, and workers of the old version refuse one that is newer at their \
next start.

Example:
  NOTIFIER__STORE__URL=postgres://notifier@db/notifier hipchat-notifier migrate";

pub const CHECK: &str = "\
Says of each part whether it is as it must be: every fault of the configuration and of the integrations file at \
once, whether the broker can be reached and what stands on it fits, whether the store can be opened (one that is \
not there yet is no fault, and is not made). Names each integration that is suspended, and whether a worker runs on \
the store.

Examples:
  hipchat-notifier check
  hipchat-notifier check --rooms --output json";

pub const PUBLISH: &str = "\
Each event is validated before any is published, and published persistent, mandatory and confirmed: exit code 0 \
means that the broker has all of them. Prints each event's id, for `explain`. With --no-validate a file's bytes go \
out whatever they are: to try out what happens to a malformed event, which ends in the dead-letter queue.

Examples:
  hipchat-notifier publish run.json activity.json --team acme
  hipchat-notifier publish - --id 5852-run-1 < run.json
  newman run api.json -r json --reporter-json-export report.json
  hipchat-notifier publish --newman report.json --team acme
  hipchat-notifier publish event.json \\
    --content-type application/cloudevents+json
  hipchat-notifier publish broken.json --no-validate \\
    --routing-key monitor.acme.1";

pub const INTEGRATIONS: &str = "\
What is changed takes effect in running workers within two seconds. Integrations that integrations.file manages \
are changed in that file only; `show` says which these are. Only `apply` makes a store where there is none.

Examples:
  hipchat-notifier integrations apply integrations.toml
  hipchat-notifier integrations list
  hipchat-notifier integrations test checkout-on-call";

pub const INTEGRATIONS_LIST: &str = "\
Examples:
  hipchat-notifier integrations list
  hipchat-notifier integrations list --output json";

pub const INTEGRATIONS_SHOW: &str = "\
Examples:
  hipchat-notifier integrations show checkout-on-call
  hipchat-notifier integrations show checkout-on-call --output json";

pub const INTEGRATIONS_APPLY: &str = "\
All of the file is applied, or, if anything in it is wrong, nothing: every fault is listed with its line, and the \
exit code is 78. A room URL that changes lifts a suspension; a pause by `pause` is lifted where the file does not \
say paused = true. A file that names no integration is a fault, unless it \
says integrations = [].

Examples:
  hipchat-notifier integrations apply integrations.toml
  generate-integrations | hipchat-notifier integrations apply -";

pub const INTEGRATIONS_REMOVE: &str = "\
Examples:
  hipchat-notifier integrations remove checkout-on-call
  hipchat-notifier integrations remove checkout-on-call --yes";

pub const INTEGRATIONS_PAUSE: &str = "\
What waits for the room ends as suppressed (integration-paused).

Example:
  hipchat-notifier integrations pause checkout-on-call";

pub const INTEGRATIONS_RESUME: &str = "\
A monitor that is failing is told anew with its next failed run, since the room may not know of it. What went to \
the dead-letter queue meanwhile stays there until it is replayed.

Example:
  hipchat-notifier integrations resume checkout-on-call
  hipchat-notifier dead-letters replay --integration checkout-on-call";

pub const INTEGRATIONS_TEST: &str = "\
Posts at once, past the frequency rule and the room's line, and prints what HipChat answered.

Example:
  hipchat-notifier integrations test checkout-on-call";

pub const EXPLAIN: &str = "\
Of what is pending it says what that waits for, and until when. An id that is not in the journal exits 1: it was \
never seen, or waits in the broker still, no integration wanted it, it could not be read and is a dead letter, or it is older than journal.keep.

Examples:
  hipchat-notifier explain 5852-run-1
  hipchat-notifier explain 5852-run-1 --output json";

pub const SIMULATE: &str = "\
Runs the events through the same decisions in the given order and prints what would be sent, word for word, and \
why the rest would not, also where no integration wants an event. Nothing is read but the files, nothing is sent. An \
event without an id of its own is called by its place in its file.

Examples:
  hipchat-notifier simulate --integrations integrations.toml \\
    --team acme runs/*.json
  hipchat-notifier simulate --integrations integrations.toml \\
    --output json - < events.jsonl";

pub const DEAD_LETTERS: &str = "\
Looking never removes a letter. `replay` and `discard` show the count first and want --yes; without an id and without \
a filter they mean all letters.

Examples:
  hipchat-notifier dead-letters list
  hipchat-notifier dead-letters replay --reason retries-exhausted --yes";

pub const DEAD_LETTERS_LIST: &str = "\
Examples:
  hipchat-notifier dead-letters list
  hipchat-notifier dead-letters list --each --integration checkout-on-call
  hipchat-notifier dead-letters list --each --since 2026-11-22T00:00:00Z";

pub const DEAD_LETTERS_SHOW: &str = "\
Examples:
  hipchat-notifier dead-letters show ID
  hipchat-notifier dead-letters show ID --output json";

pub const DEAD_LETTERS_REPLAY: &str = "\
A letter of one integration goes to that integration alone, past its frequency rule; one without an integration \
is treated as a new event. Each leaves the dead-letter queue only when the broker has it in the work queue. It \
begins anew there: its age, its attempts and retry.give_up_after count from the replay.

Examples:
  hipchat-notifier dead-letters replay --integration checkout-on-call
  hipchat-notifier dead-letters replay --integration checkout-on-call --yes
  hipchat-notifier dead-letters replay ID ID --yes --rate 10";

pub const DEAD_LETTERS_DISCARD: &str = "\
Examples:
  hipchat-notifier dead-letters discard --reason malformed-event
  hipchat-notifier dead-letters discard --until 2026-11-01T00:00:00Z --yes
  hipchat-notifier dead-letters discard ID --yes";

pub const SCHEMA: &str = "\
Examples:
  hipchat-notifier schema --list
  hipchat-notifier schema > asyncapi.json
  hipchat-notifier schema monitor-webhook";

pub const SANDBOX: &str = "\
Validates as strictly as HipChat did, enforces both rate limits with their headers, fails on request, and shows the \
rooms on a page at its address. Point integrations at \
http://127.0.0.1:8330/v2/room/42/notification?auth_token=… and let the worker reach it with \
egress.allow = [\"127.0.0.1\"].

Examples:
  hipchat-notifier sandbox
  hipchat-notifier sandbox --room 42:secret --room-limit 5/10s
  hipchat-notifier sandbox --room-limit none --token-limit none

Endpoints:
  GET    /                             the page
  GET    /sandbox/rooms                the rooms and their figures
  GET    /sandbox/rooms/ROOM/messages  what one room has received
  GET    /sandbox/transcript           all of it as people read it
  GET    /sandbox/attempts             every call and how it was answered
  DELETE /sandbox/messages             forgets messages and figures
  GET    /sandbox/faults               the faults, and how often each was done
  PUT    /sandbox/faults               replaces them
  POST   /sandbox/faults               adds to them
  DELETE /sandbox/faults               clears them

A fault has a kind: answer (late, or with other headers), status, redirect, drop, hang, trickle, huge. Of the others \
each is optional: room, times, skip, every, probability say to which calls it is done; status, body, headers, \
latency_ms what is answered; accept whether the room has the message all the same. For each call the first fault \
that fits is done.

Examples, three calls to room 42 answered 503, and every tenth call dropped:
  curl -X PUT http://127.0.0.1:8330/sandbox/faults \\
    -H 'content-type: application/json' --data '{\"faults\": [
      {\"kind\": \"status\", \"status\": 503, \"room\": \"42\", \"times\": 3},
      {\"kind\": \"drop\", \"every\": 10}]}'
  curl http://127.0.0.1:8330/sandbox/rooms/42/messages";
