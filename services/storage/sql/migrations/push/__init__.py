"""The steps of the push store's schema. A step that was released is never changed; a new one follows it."""
