-- +goose Up
-- Times are microseconds since 1970, ids are made by the program, JSON is taken
-- apart by the program. The records are the truth; hashes, intents and what calls
-- add to runs follow from them and are written down behind them: see late.go.

CREATE TABLE records (
    seq     integer PRIMARY KEY,  -- the position in the tree, from 0, without gaps
    run     text   NOT NULL,
    body    bytea  NOT NULL,     -- the leaf's bytes: one JSON object
    payload bytea                -- sealed under the run's data key
);
CREATE INDEX records_run ON records (run, seq) WHERE run <> '';

CREATE TABLE hashes (
    first  integer PRIMARY KEY,   -- stored-hash index of the first hash of the batch
    hashes bytea  NOT NULL       -- 32 bytes each
);

CREATE TABLE checkpoints (
    size integer PRIMARY KEY,
    note bytea  NOT NULL
);

CREATE TABLE intents (           -- intents without a final outcome
    call text   PRIMARY KEY,
    seq  bigint NOT NULL,
    boot text   NOT NULL         -- which start of the program made it
);

CREATE TABLE data_keys (
    run     text  PRIMARY KEY,
    wrapped bytea NOT NULL
);

CREATE TABLE runs (
    id              text    PRIMARY KEY,
    agent           text    NOT NULL,
    release         text    NOT NULL,
    stage           bigint  NOT NULL,
    state           bigint  NOT NULL,
    implicit        boolean NOT NULL,
    opened_by       text    NOT NULL,
    envelope        bytea   NOT NULL,  -- sealed under the run's data key
    opened          bigint  NOT NULL,
    last_call       bigint  NOT NULL,
    closed          bigint  NOT NULL,
    integrity       bigint  NOT NULL,
    confidentiality bigint  NOT NULL,
    calls           bigint  NOT NULL,
    close           text    NOT NULL
);
CREATE INDEX runs_implicit ON runs (opened_by, stage) WHERE implicit AND state = 1;

CREATE TABLE versions (
    kind   text   NOT NULL,
    digest text   NOT NULL,
    body   bytea  NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (kind, digest)
);

CREATE TABLE stage_configs (
    stage  bigint PRIMARY KEY,
    digest text   NOT NULL
);

CREATE TABLE latest (
    agent   text PRIMARY KEY,
    release text NOT NULL
);

CREATE TABLE pointers (
    agent   text   NOT NULL,
    stage   bigint NOT NULL,
    release text   NOT NULL,
    by_whom text   NOT NULL,
    reason  text   NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (agent, stage)
);

CREATE TABLE halts (
    scope   bigint NOT NULL,
    subject text   NOT NULL,
    reason  text   NOT NULL,
    by_whom text   NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (scope, subject)
);

CREATE TABLE persons (
    id    text PRIMARY KEY,
    roles text NOT NULL            -- names, separated by spaces
);

CREATE TABLE links (
    hash    bytea  PRIMARY KEY,
    person  text   NOT NULL,
    expires bigint NOT NULL,
    used    bigint NOT NULL
);

CREATE TABLE keys (
    id      text   PRIMARY KEY,
    kind    bigint NOT NULL,
    hash    bytea  NOT NULL UNIQUE,
    agent   text   NOT NULL,
    release text   NOT NULL,
    run     text   NOT NULL,
    person  text   NOT NULL,
    ceiling bigint NOT NULL,
    note    text   NOT NULL,
    made    bigint NOT NULL,
    expires bigint NOT NULL,
    revoked bigint NOT NULL
);
CREATE INDEX keys_run ON keys (run) WHERE run <> '';

CREATE TABLE answers (             -- of requests made with an idempotency key
    key     text   PRIMARY KEY,
    request text   NOT NULL,       -- digest of who asked for what
    status  bigint NOT NULL,
    body    bytea  NOT NULL,
    at      bigint NOT NULL
);

CREATE TABLE control (
    one     integer PRIMARY KEY,
    epoch   bigint NOT NULL,       -- grows with every change that calls are judged by
    written bigint NOT NULL        -- what follows from the records below is in the tables
);
INSERT INTO control (one, epoch, written) VALUES (1, 1, 0);
