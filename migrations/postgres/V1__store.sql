-- Everything the workers must remember: the same tables as SQLite's. Times are integer microseconds since the Unix
-- epoch. Text is compared by its bytes (COLLATE "C"), as the program does.

CREATE TABLE meta (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value BIGINT NOT NULL
);

-- `clock` is about the latest time that the store was told, in microseconds.
INSERT INTO meta (name, value) VALUES ('revision', 0), ('clock', 0);

-- The events themselves, only while a notification of theirs is open (waiting, or on its way to the
-- dead-letter queue). `open` counts those.
CREATE TABLE events (
    no          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          TEXT COLLATE "C" NOT NULL UNIQUE,
    properties  TEXT NOT NULL, -- JSON: message id, content type, headers, exchange, routing key
    body        BYTEA NOT NULL,
    received_at BIGINT NOT NULL,
    open        BIGINT NOT NULL
);

-- One event as one integration's room should hear it. `state` is an outcome's word, or for what is open:
--   gathering   its time (`ready_at`) has not come
--   pending     in its room's line; `reason` says why it is told
--   burying     given up; a letter is in the outbox
-- `event_no` is set exactly while it is open. Places in a line
-- are given by one transaction at a time, so that none becomes visible after a later one.
-- `monitor` and `region` name the streak that decided it, so that its loss can be noted there.
CREATE TABLE notifications (
    seq              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event            TEXT COLLATE "C" NOT NULL,
    integration      TEXT COLLATE "C" NOT NULL,
    room             TEXT COLLATE "C" NOT NULL,
    event_no         BIGINT,
    monitor          TEXT COLLATE "C",
    region           TEXT COLLATE "C",
    state            TEXT NOT NULL,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL DEFAULT '',
    failures         BIGINT NOT NULL DEFAULT 0,
    first_failed_at  BIGINT,
    gather           TEXT,
    ready_at         BIGINT,
    attempts         BIGINT NOT NULL DEFAULT 0,
    first_attempt_at BIGINT,
    last_status      BIGINT,
    plain            BOOLEAN NOT NULL DEFAULT FALSE,
    received_at      BIGINT NOT NULL,
    decided_at       BIGINT NOT NULL,
    sent_at          BIGINT,
    UNIQUE (event, integration)
);

CREATE INDEX notifications_line ON notifications (room, seq, integration, ready_at) WHERE state = 'pending';
CREATE INDEX notifications_gathering ON notifications (room, ready_at) WHERE state = 'gathering';
CREATE INDEX notifications_open ON notifications (integration, seq, event_no) WHERE event_no IS NOT NULL;
CREATE INDEX notifications_ended ON notifications (decided_at) WHERE event_no IS NULL;

-- Lines and outboxes are short of a moment and long of the next: the planner must not think of them as empty.
ALTER TABLE notifications SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.02);

-- A room's pacing, its retries, and who holds it. Never deleted: `claim` must only grow.
--   due_at      when to look at it; while it is held, when the lease lapses; NULL: nothing waits
--   hold_until  nothing can go out before this, whatever arrives
--   fresh_at    while it is held: when the first of what arrived meanwhile gets ready
--   lease_until NULL: nobody holds it
--   claimed_at_revision  of the integrations, as the holder knew them
CREATE TABLE rooms (
    room                TEXT COLLATE "C" PRIMARY KEY,
    due_at              BIGINT,
    hold_until          BIGINT,
    fresh_at            BIGINT,
    claim               BIGINT NOT NULL DEFAULT 0,
    lease_until         BIGINT,
    lease               BIGINT NOT NULL DEFAULT 0, -- microseconds
    claimed_at_revision BIGINT NOT NULL DEFAULT 0,
    meter               TEXT NOT NULL DEFAULT '',
    retry_failures      BIGINT,
    retry_at            BIGINT,
    expired_untold      BIGINT NOT NULL DEFAULT 0
);

-- Rooms whose last attempt failed stand apart: however many they are, none are read to find the others.
CREATE INDEX rooms_due ON rooms (due_at, room) WHERE due_at IS NOT NULL AND retry_failures IS NULL;
CREATE INDEX rooms_retrying ON rooms (due_at, room) WHERE due_at IS NOT NULL AND retry_failures IS NOT NULL;

-- What was spent of each token's budget, and the budget that the latest claim named.
CREATE TABLE tokens (
    token    TEXT COLLATE "C" PRIMARY KEY,
    meter    TEXT NOT NULL DEFAULT '',
    messages BIGINT NOT NULL,
    per      BIGINT NOT NULL -- microseconds
);

-- Calls that a held room may still make with a token.
CREATE TABLE reservations (
    token TEXT COLLATE "C" NOT NULL,
    room  TEXT COLLATE "C" NOT NULL,
    calls BIGINT NOT NULL,
    PRIMARY KEY (token, room)
);

CREATE INDEX reservations_room ON reservations (room);

-- Until `closed_until`, what waits for the integration is left out of its room's line.
CREATE TABLE throttles (
    integration  TEXT COLLATE "C" PRIMARY KEY,
    meter        TEXT NOT NULL DEFAULT '',
    closed_until BIGINT
);

CREATE INDEX throttles_closed ON throttles (closed_until) WHERE closed_until IS NOT NULL;

CREATE TABLE streaks (
    integration     TEXT COLLATE "C" NOT NULL,
    monitor         TEXT COLLATE "C" NOT NULL,
    region          TEXT COLLATE "C" NOT NULL,
    failures        BIGINT NOT NULL,
    first_failed_at BIGINT,
    newest          BIGINT,
    -- What the room believes: passing, failing, unsure.
    belief          TEXT NOT NULL,
    -- When a run last came for it, to about a day.
    touched         BIGINT,
    -- The latest notification (seq) that tells of it.
    news            BIGINT,
    PRIMARY KEY (integration, monitor, region)
);

CREATE INDEX streaks_touched ON streaks (touched);

CREATE TABLE collations (
    integration TEXT COLLATE "C" NOT NULL,
    of          TEXT COLLATE "C" NOT NULL,
    until       BIGINT NOT NULL,
    PRIMARY KEY (integration, of)
);

CREATE INDEX collations_until ON collations (until);

-- The outbox of the dead-letter queue. A notification's letter (`seq`) takes its body from `events`; that of
-- an event that could not be decided carries its own.
CREATE TABLE letters (
    id               BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq              BIGINT,
    event            TEXT COLLATE "C",
    integration      TEXT COLLATE "C",
    event_no         BIGINT,
    properties       TEXT,
    body             BYTEA,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL,
    attempts         BIGINT NOT NULL,
    last_status      BIGINT,
    first_attempt_at BIGINT,
    at               BIGINT NOT NULL,
    -- The worker that is publishing it, and until when nobody else does.
    taken_by         TEXT,
    taken_until      BIGINT
);

CREATE INDEX letters_seq ON letters (seq) WHERE seq IS NOT NULL;

-- A known text, encrypted with the key that this store was begun with: a worker with another key is refused before
-- it writes anything that the others can't read.
CREATE TABLE key_check (
    one    BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    sealed BYTEA NOT NULL
);

-- `room_url` is encrypted; `suspended` is the reason, or NULL.
CREATE TABLE integrations (
    id           TEXT COLLATE "C" PRIMARY KEY,
    json         TEXT NOT NULL,
    room_url     BYTEA NOT NULL,
    room         TEXT COLLATE "C" NOT NULL,
    token        TEXT COLLATE "C" NOT NULL,
    paused       BOOLEAN NOT NULL,
    suspended    TEXT,
    managed_by   TEXT NOT NULL,
    url_revision BIGINT NOT NULL
);
