"""The registry of a cluster whose processes stand apart: etcd 3.4 to 3.6 behind discovery.registry.port.Registry."""
