-- +goose Up
-- What is to be told of approvals, and to whom.
ALTER TABLE approvals ADD COLUMN told bigint NOT NULL DEFAULT 0; -- how much has been: -1 for all of it
ALTER TABLE approvals ADD COLUMN tell bigint NOT NULL DEFAULT 0; -- when there may be more, if it stays pending
UPDATE approvals SET told = -1 WHERE state <> 1; -- of what is over nobody is told anew
CREATE INDEX approvals_tell ON approvals (tell) WHERE told >= 0;
CREATE TABLE notices (
    id       text COLLATE "C" PRIMARY KEY,
    approval text COLLATE "C" NOT NULL,
    event    bigint NOT NULL,
    roles    text   NOT NULL,
    target   text COLLATE "C" NOT NULL,
    made     bigint NOT NULL,
    due      bigint NOT NULL, -- not tried before; 0 if it was given up
    tries    bigint NOT NULL,
    error    text   NOT NULL  -- of the last try
);
CREATE INDEX notices_due ON notices (target, due);
