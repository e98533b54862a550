-- +goose Up
-- As for SQLite, and text is ordered by its bytes as it is there. In control
-- stands who owns the store: see postgres.go.
--
-- Times are microseconds since 1970, ids are made by the program, JSON is taken
-- apart by the program. The records are the truth; hashes, intents and what calls
-- add to runs follow from them and are written down behind them: see late.go.

CREATE TABLE records (
    seq     bigint  PRIMARY KEY,  -- the position in the tree, from 0, without gaps
    run     text COLLATE "C" NOT NULL,
    body    bytea  NOT NULL,     -- the leaf's bytes: one JSON object
    payload bytea                -- sealed under the run's data key
);
CREATE INDEX records_run ON records (run, seq) WHERE run <> '';

CREATE TABLE hashes (
    first  bigint  PRIMARY KEY,   -- stored-hash index of the first hash of the batch
    hashes bytea  NOT NULL       -- 32 bytes each
);

CREATE TABLE checkpoints (
    size bigint  PRIMARY KEY,
    note bytea  NOT NULL
);

CREATE TABLE intents (           -- intents without a final outcome
    call text COLLATE "C" PRIMARY KEY,
    seq  bigint NOT NULL,
    boot text COLLATE "C" NOT NULL         -- which start of the program made it
);

CREATE TABLE data_keys (
    run     text COLLATE "C" PRIMARY KEY,
    wrapped bytea NOT NULL
);

CREATE TABLE runs (
    id              text COLLATE "C" PRIMARY KEY,
    agent           text COLLATE "C" NOT NULL,
    release         text COLLATE "C" NOT NULL,
    stage           bigint  NOT NULL,
    state           bigint  NOT NULL,
    implicit        boolean NOT NULL,
    opened_by       text COLLATE "C" NOT NULL,
    envelope        bytea   NOT NULL,  -- sealed under the run's data key
    opened          bigint  NOT NULL,
    last_call       bigint  NOT NULL,
    closed          bigint  NOT NULL,
    integrity       bigint  NOT NULL,
    confidentiality bigint  NOT NULL,
    calls           bigint  NOT NULL,
    close           text COLLATE "C" NOT NULL
);
CREATE INDEX runs_implicit ON runs (opened_by, stage) WHERE implicit AND state = 1;

CREATE TABLE versions (
    kind   text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    body   bytea  NOT NULL,
    at     bigint NOT NULL,
    PRIMARY KEY (kind, digest)
);

CREATE TABLE stage_configs (
    stage  bigint PRIMARY KEY,
    digest text COLLATE "C" NOT NULL
);

CREATE TABLE latest (
    agent   text COLLATE "C" PRIMARY KEY,
    release text COLLATE "C" NOT NULL
);

CREATE TABLE pointers (
    agent   text COLLATE "C" NOT NULL,
    stage   bigint NOT NULL,
    release text COLLATE "C" NOT NULL,
    by_whom text COLLATE "C" NOT NULL,
    reason  text COLLATE "C" NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (agent, stage)
);

CREATE TABLE halts (
    scope   bigint NOT NULL,
    subject text COLLATE "C" NOT NULL,
    reason  text COLLATE "C" NOT NULL,
    by_whom text COLLATE "C" NOT NULL,
    at      bigint NOT NULL,
    PRIMARY KEY (scope, subject)
);

CREATE TABLE persons (
    id    text COLLATE "C" PRIMARY KEY,
    roles text COLLATE "C" NOT NULL            -- names, separated by spaces
);

CREATE TABLE links (
    hash    bytea  PRIMARY KEY,
    person  text COLLATE "C" NOT NULL,
    expires bigint NOT NULL,
    used    bigint NOT NULL
);

CREATE TABLE keys (
    id      text COLLATE "C" PRIMARY KEY,
    kind    bigint NOT NULL,
    hash    bytea  NOT NULL UNIQUE,
    agent   text COLLATE "C" NOT NULL,
    release text COLLATE "C" NOT NULL,
    run     text COLLATE "C" NOT NULL,
    person  text COLLATE "C" NOT NULL,
    ceiling bigint NOT NULL,
    note    text COLLATE "C" NOT NULL,
    made    bigint NOT NULL,
    expires bigint NOT NULL,
    revoked bigint NOT NULL
);
CREATE INDEX keys_run ON keys (run) WHERE run <> '';

CREATE TABLE answers (             -- of requests made with an idempotency key
    key     text COLLATE "C" PRIMARY KEY,
    request text COLLATE "C" NOT NULL,       -- digest of who asked for what
    status  bigint NOT NULL,
    body    bytea  NOT NULL,
    at      bigint NOT NULL
);

CREATE TABLE control (
    one     bigint  PRIMARY KEY,
    epoch   bigint NOT NULL,       -- grows with every change that calls are judged by
    boot    text COLLATE "C" NOT NULL, -- the start of the program that may write
    written bigint NOT NULL        -- what follows from the records below is in the tables
);
INSERT INTO control (one, epoch, boot, written) VALUES (1, 1, '', 0);
