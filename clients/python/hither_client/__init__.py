"""Talks to Hither: connects, stays connected, loses nothing, sees nothing twice."""
