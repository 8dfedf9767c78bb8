"""The steps of the privacy store's schema. A step that was released is never changed; a new one follows it."""
