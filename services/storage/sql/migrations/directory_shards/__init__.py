"""The steps of the schema of the directory's shards. A step that was released is never changed; a new one follows it."""
