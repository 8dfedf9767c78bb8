"""The steps of the directory's schema. A step that was released is never changed; a new one follows it."""
