-- +goose Up
-- What people are asked to permit, and what they said.
CREATE TABLE approvals (
    id      text PRIMARY KEY,
    run     text NOT NULL,
    agent   text NOT NULL,
    state   bigint NOT NULL,
    bound   bytea  NOT NULL, -- keyed digest of all it is for
    asked   bigint NOT NULL,
    expires bigint NOT NULL,
    used    text NOT NULL, -- the call that used it up
    version bigint NOT NULL, -- grows with every change
    body    bytea  NOT NULL  -- sealed under the run's data key
);
CREATE INDEX approvals_bound ON approvals (bound, id);
CREATE INDEX approvals_open ON approvals (run) WHERE state <= 2;
