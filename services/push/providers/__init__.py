"""The push providers: APNs, FCM and the browsers' push services. Each tries once and tells what became of it; nothing here queues,
repeats or decides when.
"""
