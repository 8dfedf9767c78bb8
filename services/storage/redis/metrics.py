"""What a bus on Redis counts."""

from prometheus_client import Counter, Gauge

LINKS = Gauge("hither_bus_links", "Buses whose subscriptions are live at their server.")
LOSSES = Counter("hither_bus_losses", "Times that a bus lost its server, and news with it.")
BUGS = Counter("hither_bus_failures", "Times that a bus began anew after an error that is no outage.")
IGNORED = Counter("hither_bus_ignored", "News that were not given to handlers.", ["why"])
