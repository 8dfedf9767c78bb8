"""A cluster of processes on real servers, of which one thing after another is killed, paused, taken out and put in, while 200
people write without a pause: nothing acked is lost, doubled or out of order, and all goes on by itself.

The tests share one cluster and one storm; each leaves the cluster whole. What each fault cost is printed, and appended to
the file that HITHER_TEST_REPORT names.
"""

import asyncio
import time

import pytest

from tests.chaos.judging import judge
from tests.chaos.storm import Storm
from tests.support.apart import RunningCluster, Servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


async def test_without_a_fault_nothing_is_lost(storm: Storm) -> None:
    began_s = time.monotonic()
    await storm.everybody_acked(began_s, times=5)
    await judge(storm, "no fault", began_s)


async def test_kill_9_of_a_messaging_instance(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    await cluster.processes["messaging-1"].kill()
    await storm.everybody_acked(time.monotonic())
    await judge(storm, "kill -9 of a messaging instance", began_s)
    await cluster.start_one("messaging-1")


async def test_sigterm_of_a_messaging_instance(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    assert await cluster.processes["messaging-1"].terminate() == 0
    await judge(storm, "SIGTERM of a messaging instance", began_s)
    await cluster.start_one("messaging-1")


async def test_kill_9_of_an_edge(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    await cluster.processes["edge-1"].kill()
    await storm.everybody_acked(time.monotonic())
    await cluster.start_one("edge-1")
    await judge(storm, "kill -9 of an edge", began_s)


async def test_adding_a_third_messaging_instance(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    name = cluster.add_services(["messaging"])
    await cluster.start_one(name)
    await judge(storm, "adding a third messaging instance", began_s)
    began_s = time.monotonic()
    assert await cluster.processes[name].terminate() == 0
    await judge(storm, "taking the third messaging instance out", began_s)


async def test_restart_of_the_etcd_leader(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    leader = servers.etcd.nodes[await asyncio.to_thread(servers.etcd.leader)]
    await asyncio.to_thread(leader.kill)
    await storm.everybody_acked(time.monotonic(), times=5)
    await asyncio.to_thread(leader.start)
    await judge(storm, "restart of the etcd leader", began_s)


async def test_all_of_etcd_down_for_30_s(storm: Storm, servers: Servers) -> None:
    began_s = time.monotonic()
    await asyncio.to_thread(servers.etcd.kill)
    await asyncio.sleep(30)
    await storm.everybody_acked(time.monotonic())
    await asyncio.to_thread(servers.etcd.start)
    await judge(storm, "all of etcd down for 30 s", began_s)


async def test_an_owner_paused_for_20_s_that_believes_it_still_owns(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    cluster.processes["messaging-2"].pause()
    await asyncio.sleep(20)
    cluster.processes["messaging-2"].resume()
    await judge(storm, "SIGSTOP of an owner for 20 s", began_s)


async def test_a_rolling_restart_of_every_process_fails_no_send(storm: Storm, cluster: RunningCluster) -> None:
    began_s = time.monotonic()
    for name in list(cluster.processes):
        if name == "messaging-3":
            continue
        assert await cluster.processes[name].terminate() == 0, name
        await cluster.start_one(name)
    await judge(storm, "rolling restart of every process", began_s)
