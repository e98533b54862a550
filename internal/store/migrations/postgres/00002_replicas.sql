-- +goose Up
-- Several replicas write. What one of them commits arrives under a count of its own;
-- one of them, the leader, gives all that has arrived its place in the tree. The two
-- together are the records.

CREATE SEQUENCE starts;

CREATE TABLE replicas (
    start   bigint PRIMARY KEY,
    boot    text COLLATE "C" NOT NULL, -- names the start of the program
    address text COLLATE "C" NOT NULL, -- where other replicas reach it; empty if they cannot
    began   bigint  NOT NULL,
    beat    bigint  NOT NULL,          -- when it was heard of last, by the clock of the database
    epoch   bigint  NOT NULL,          -- of the decisions that it judges by
    flying  text    NOT NULL,          -- the calls that its halts have found sent, as JSON
    ended   bigint  NOT NULL,          -- when it was found to be gone; 0 while it may write
    done    boolean NOT NULL           -- it is gone, and all it wrote has its place
);
CREATE INDEX replicas_at_work ON replicas (start) WHERE NOT done;

CREATE TABLE arrivals (
    start   bigint NOT NULL,  -- who wrote it
    n       bigint NOT NULL,  -- how many the same start had written before
    epoch   bigint NOT NULL,  -- of the decisions it was judged by, or that it made
    at      bigint NOT NULL,  -- by the clock of the database
    run     text COLLATE "C" NOT NULL,
    body    bytea  NOT NULL,
    payload bytea,
    PRIMARY KEY (start, n)
);
CREATE INDEX arrivals_run ON arrivals (run) WHERE run <> '';

CREATE TABLE places (
    seq   bigint PRIMARY KEY,  -- from 0, without gaps
    start bigint NOT NULL,
    n     bigint NOT NULL,
    UNIQUE (start, n)
);

CREATE TABLE placed (
    start bigint PRIMARY KEY,
    n     bigint NOT NULL      -- how many of its records have a place
);

CREATE TABLE sequence (
    one     bigint PRIMARY KEY,
    leader  text COLLATE "C" NOT NULL, -- who may give places
    written bigint NOT NULL,           -- records that have one; all that follows from them is in the tables
    epoch   bigint NOT NULL            -- the newest that any of them has
);

INSERT INTO arrivals SELECT 0, seq, 0, 0, run, body, payload FROM records;
INSERT INTO places SELECT seq, 0, seq FROM records;
INSERT INTO placed SELECT 0, count(*) FROM records;
INSERT INTO replicas VALUES (0, '', '', 0, 0, 0, '', 1, true);
INSERT INTO sequence SELECT 1, '', written, 0 FROM control;

DROP TABLE records;
CREATE VIEW records AS SELECT p.seq, a.run, a.body, a.payload FROM places p JOIN arrivals a ON a.start = p.start AND a.n = p.n;

ALTER TABLE control DROP COLUMN boot, DROP COLUMN written;
ALTER TABLE runs ADD COLUMN reserved bigint NOT NULL DEFAULT 0; -- calls that replicas may make or have made
UPDATE runs SET reserved = calls;
-- Two replicas do not open a run for the same key at once.
CREATE UNIQUE INDEX runs_one_implicit ON runs (opened_by, stage) WHERE implicit AND state = 1;
DROP INDEX runs_implicit;
-- What is over is found without looking at all that ever was.
CREATE INDEX runs_open ON runs (id) WHERE state = 1;
