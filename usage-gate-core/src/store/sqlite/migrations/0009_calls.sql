-- The largest number of a call of the node's latest life that asked for units: one that is not newer is granted nothing new.
ALTER TABLE node ADD COLUMN heard INTEGER NOT NULL DEFAULT 0;
