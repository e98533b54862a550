-- +goose Up
-- What pseudonyms stand for that were given to agents: see vault.go.
CREATE TABLE vault (
    at      bytea  PRIMARY KEY,   -- keyed hash of the domain's pseudonym
    same    bytea  NOT NULL,      -- keyed hash of the original: two that share a pseudonym are found out
    run     text COLLATE "C" NOT NULL,    -- whose data key seals it
    sealed  bytea  NOT NULL,      -- empty if it stands for two
    expires bigint NOT NULL
);
CREATE INDEX vault_expires ON vault (expires);
