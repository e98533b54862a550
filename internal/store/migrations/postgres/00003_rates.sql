-- +goose Up
-- How far each rate has been used, by all replicas together: see rates.go. A row whose
-- time has passed says as much as none.
CREATE TABLE rates (
    key text COLLATE "C" PRIMARY KEY,
    tat bigint NOT NULL -- nanoseconds since 1970, by the clock of the database
);
