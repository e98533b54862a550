-- +goose Up
-- What calls have come to in the windows of counters, by all replicas together: see
-- counters.go. A row whose time has passed says as much as none.
CREATE TABLE counters (
    key   bytea  PRIMARY KEY, -- keyed digest of what is counted together
    until bigint NOT NULL,    -- microseconds since 1970, by the clock of the database
    body  bytea  NOT NULL     -- a window of package limit
);
CREATE INDEX counters_until ON counters (until);
