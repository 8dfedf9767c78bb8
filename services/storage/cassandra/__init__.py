"""Engines on Apache Cassandra: the only room that imports its driver."""
