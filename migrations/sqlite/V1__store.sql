-- Everything the worker must remember. Times are integer microseconds since the Unix epoch.
-- Rows are small on purpose: a suppressed event costs one row and two index entries.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `clock` is about the latest time that the store was told, in microseconds.
INSERT INTO meta (name, value) VALUES ('revision', 0), ('clock', 0);

-- The events themselves, only while a notification of theirs is open (waiting, or on its way to the
-- dead-letter queue). `open` counts those.
CREATE TABLE events (
    no          INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    properties  TEXT NOT NULL, -- JSON: message id, content type, headers, exchange, routing key
    body        BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    open        INTEGER NOT NULL
) STRICT;

-- One event as one integration's room should hear it. `state` is an outcome's word, or for what is open:
--   gathering   its time (`ready_at`) has not come
--   pending     in its room's line; `reason` says why it is told
--   burying     given up; a letter is in the outbox
-- `event_no` is set exactly while it is open. AUTOINCREMENT, since a place in a line is never used twice.
-- `monitor` and `region` name the streak that decided it, so that its loss can be noted there.
CREATE TABLE notifications (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    event            TEXT NOT NULL,
    integration      TEXT NOT NULL,
    room             TEXT NOT NULL,
    event_no         INTEGER,
    monitor          TEXT,
    region           TEXT,
    state            TEXT NOT NULL,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL DEFAULT '',
    failures         INTEGER NOT NULL DEFAULT 0,
    first_failed_at  INTEGER,
    gather           TEXT,
    ready_at         INTEGER,
    attempts         INTEGER NOT NULL DEFAULT 0,
    first_attempt_at INTEGER,
    last_status      INTEGER,
    plain            INTEGER NOT NULL DEFAULT 0,
    received_at      INTEGER NOT NULL,
    decided_at       INTEGER NOT NULL,
    sent_at          INTEGER,
    UNIQUE (event, integration)
) STRICT;

CREATE INDEX notifications_line ON notifications (room, seq, integration, ready_at) WHERE state = 'pending';
CREATE INDEX notifications_gathering ON notifications (room, ready_at) WHERE state = 'gathering';
CREATE INDEX notifications_open ON notifications (integration, seq, event_no) WHERE event_no IS NOT NULL;
CREATE INDEX notifications_ended ON notifications (decided_at) WHERE event_no IS NULL;

-- A room's pacing, its retries, and who holds it. Never deleted: `claim` must only grow.
--   due_at      when to look at it; while it is held, when the lease lapses; NULL: nothing waits
--   hold_until  nothing can go out before this, whatever arrives
--   fresh_at    while it is held: when the first of what arrived meanwhile gets ready
--   lease_until NULL: nobody holds it
--   claimed_at_revision  of the integrations, as the holder knew them
CREATE TABLE rooms (
    room                TEXT PRIMARY KEY,
    due_at              INTEGER,
    hold_until          INTEGER,
    fresh_at            INTEGER,
    claim               INTEGER NOT NULL DEFAULT 0,
    lease_until         INTEGER,
    lease               INTEGER NOT NULL DEFAULT 0, -- microseconds
    claimed_at_revision INTEGER NOT NULL DEFAULT 0,
    meter               TEXT NOT NULL DEFAULT '',
    retry_failures      INTEGER,
    retry_at            INTEGER,
    expired_untold      INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Rooms whose last attempt failed stand apart: however many they are, none are read to find the others.
CREATE INDEX rooms_due ON rooms (due_at, room) WHERE due_at IS NOT NULL AND retry_failures IS NULL;
CREATE INDEX rooms_retrying ON rooms (due_at, room) WHERE due_at IS NOT NULL AND retry_failures IS NOT NULL;

-- What was spent of each token's budget, and the budget that the latest claim named.
CREATE TABLE tokens (
    token    TEXT PRIMARY KEY,
    meter    TEXT NOT NULL DEFAULT '',
    messages INTEGER NOT NULL,
    per      INTEGER NOT NULL -- microseconds
) STRICT, WITHOUT ROWID;

-- Calls that a held room may still make with a token.
CREATE TABLE reservations (
    token TEXT NOT NULL,
    room  TEXT NOT NULL,
    calls INTEGER NOT NULL,
    PRIMARY KEY (token, room)
) STRICT, WITHOUT ROWID;

CREATE INDEX reservations_room ON reservations (room);

-- Until `closed_until`, what waits for the integration is left out of its room's line.
CREATE TABLE throttles (
    integration  TEXT PRIMARY KEY,
    meter        TEXT NOT NULL DEFAULT '',
    closed_until INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX throttles_closed ON throttles (closed_until) WHERE closed_until IS NOT NULL;

CREATE TABLE streaks (
    integration     TEXT NOT NULL,
    monitor         TEXT NOT NULL,
    region          TEXT NOT NULL,
    failures        INTEGER NOT NULL,
    first_failed_at INTEGER,
    newest          INTEGER,
    -- What the room believes: passing, failing, unsure.
    belief          TEXT NOT NULL,
    -- When a run last came for it, to about a day.
    touched         INTEGER,
    -- The latest notification (seq) that tells of it.
    news            INTEGER,
    PRIMARY KEY (integration, monitor, region)
) STRICT, WITHOUT ROWID;

CREATE INDEX streaks_touched ON streaks (touched);

CREATE TABLE collations (
    integration TEXT NOT NULL,
    of          TEXT NOT NULL,
    until       INTEGER NOT NULL,
    PRIMARY KEY (integration, of)
) STRICT, WITHOUT ROWID;

CREATE INDEX collations_until ON collations (until);

-- The outbox of the dead-letter queue. A notification's letter (`seq`) takes its body from `events`; that of
-- an event that could not be decided carries its own.
CREATE TABLE letters (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    seq              INTEGER,
    event            TEXT,
    integration      TEXT,
    event_no         INTEGER,
    properties       TEXT,
    body             BLOB,
    reason           TEXT NOT NULL,
    detail           TEXT NOT NULL,
    attempts         INTEGER NOT NULL,
    last_status      INTEGER,
    first_attempt_at INTEGER,
    at               INTEGER NOT NULL
) STRICT;

CREATE INDEX letters_seq ON letters (seq) WHERE seq IS NOT NULL;

-- `room_url` is encrypted; `suspended` is the reason, or NULL.
CREATE TABLE integrations (
    id           TEXT PRIMARY KEY,
    json         TEXT NOT NULL,
    room_url     BLOB NOT NULL,
    room         TEXT NOT NULL,
    token        TEXT NOT NULL,
    paused       INTEGER NOT NULL,
    suspended    TEXT,
    managed_by   TEXT NOT NULL,
    url_revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
