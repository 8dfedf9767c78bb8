"""The steps of the live-session store's schema. A step that was released is never changed; a new one follows it."""
