"""Push servers for tests: APNs, FCM (with Google's token endpoint) and a browsers' push service, on ports of 127.0.0.1.

async with PushServers(tmp_path) as servers:             # all three; or one: ApnsServer(Pki(tmp_path), max_streams=20)
    providers = open_providers(servers.settings)         # Platform -> provider
    await providers[Platform.IOS].send(WakeUps(clock).ios("ann"))
    await servers.apns.until(1)                          # accepted since the start; until_asked(n): whatever became of them
    servers.apns.accepted[0].payload["aps"]              # also .token, .headers, .connection
    servers.apns.behave(answers(429, "TooManyRequests", retry_after="7"), token=apns_token("ben"))
    servers.apns.behave(GOAWAY, times=1)                 # HANG, RESET, CUT, ENDLESS, slow(0.1); None: as usual again
    servers.apns.gone.add(apns_token("old"))             # FCM: gone and foreign by token; web: gone by endpoint(name)
    servers.web.subscription("ann")                      # the token of a browser
    await servers.fcm.leave()                            # ends all connections; close() goes away for good
"""
