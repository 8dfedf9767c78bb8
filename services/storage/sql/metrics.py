"""What a database with replicas counts."""

from prometheus_client import Counter

READS = Counter("hither_sql_reads", "Reads of a database that has replicas, by who served them.", ["by"])
MISSED = Counter("hither_sql_replica_misses", "Times that a replica could not serve a read.", ["replica", "why"])
