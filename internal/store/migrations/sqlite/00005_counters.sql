-- +goose Up
-- What calls have come to in the windows of counters: see counters.go. A row whose time
-- has passed says as much as none.
CREATE TABLE counters (
    key   blob   PRIMARY KEY, -- keyed digest of what is counted together
    until bigint NOT NULL,    -- microseconds since 1970
    body  blob   NOT NULL     -- a window of package limit
);
CREATE INDEX counters_until ON counters (until);
