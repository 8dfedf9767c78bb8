"""The log on Apache Kafka. The only room that imports aiokafka."""
