-- What is asked for often must not cost the more, the more waits.

-- The integrations of a room, whose throttles are looked at when it is claimed and when it is given back.
CREATE INDEX integrations_room ON integrations (room);

-- What waits for one integration, in order, and what gathers for it apart.
DROP INDEX notifications_open;
CREATE INDEX notifications_open ON notifications (integration, state, seq) WHERE event_no IS NOT NULL;

-- How long the oldest waits.
CREATE INDEX notifications_waiting ON notifications (ready_at) WHERE state IN ('pending', 'gathering');

-- How many notifications are open: the sum over all rows. Each transaction counts in a row by its connection, so that
-- hardly any waits for another's.
CREATE TABLE open_counts (
    slot INT PRIMARY KEY,
    open BIGINT NOT NULL
);

INSERT INTO open_counts (slot, open) SELECT 0, count(*) FROM notifications WHERE event_no IS NOT NULL;
