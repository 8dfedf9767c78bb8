"""What a bus on Redis counts."""

from prometheus_client import Counter, Gauge

LINKS = Gauge("hither_bus_links", "Buses whose subscriptions are live at their server.")
LOSSES = Counter("hither_bus_losses", "Times that a bus lost its server, and news with it.")
BUGS = Counter("hither_bus_failures", "Times that a bus began anew after an error that is no outage.")
IGNORED = Counter("hither_bus_ignored", "News that were not given to handlers.", ["why"])
GAPS = Counter("hither_bus_gaps", "Times that subscribers of a topic were told that they may have missed news of it.")
SERVERS = Gauge("hither_bus_servers", "Redis servers that the topics are sharded over, as this process sees it.")
MOVES = Counter("hither_bus_moves", "Topics that went on at another server, which took over their partition.")
