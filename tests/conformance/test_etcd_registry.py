"""What the registry over etcd promises while members of etcd die, sleep, come back, lose their data or ask for passwords."""

import asyncio
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from discovery.clock import SystemClock
from discovery.errors import Unavailable
from discovery.membership import Membership
from discovery.registry.etcd.client import EtcdClient
from discovery.registry.etcd.contents import Contents, encode
from discovery.registry.etcd.endpoints import EtcdTls
from discovery.registry.etcd.registry import EtcdRegistry
from discovery.registry.etcd.watch import PrefixWatch
from discovery.registry.metrics import RegistryMetrics
from discovery.registry.port import Instance, Registry, Snapshot
from hither.messaging.v1.messaging_service_pb2 import SendMessageRequest
from tests.support.certs import Pki, named
from tests.support.cluster import ALICE, MESSAGING, PARTITIONS, SEND, Keys, Process, key_in, running_process
from tests.support.servers.etcd import EtcdCluster, TlsFiles, etcd_server

LONG_S = 300.0
PATIENCE_S = 60.0
ONE = Instance("hither.test.v1.TestService", "one", address="127.0.0.1:1")
TWO = replace(ONE, instance_id="two")

Opener = Callable[..., Awaitable[EtcdRegistry]]


@pytest.fixture
async def open_registry() -> AsyncIterator[Opener]:
    """Opens registries of one cluster, and closes them at the end."""
    cluster = uuid4().hex
    async with AsyncExitStack() as stack:

        async def open_one(endpoints: list[str], **options: object) -> EtcdRegistry:
            registry = await EtcdRegistry.open(endpoints, cluster, metrics=RegistryMetrics(), **options)  # type: ignore[arg-type]
            stack.push_async_callback(registry.close)
            return registry

        yield open_one


@pytest.fixture
def lone(etcd: EtcdCluster, tmp_path: Path) -> Iterator[EtcdCluster]:
    """An etcd of one member that the test may do anything to. (`etcd` skips where there is none.)"""
    with etcd_server(tmp_path) as server:
        yield server


@pytest.fixture
def trio(etcd: EtcdCluster, tmp_path: Path) -> Iterator[EtcdCluster]:
    """An etcd of three."""
    with EtcdCluster(tmp_path, 3) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that nobody answers end soon."""
    monkeypatch.setattr("discovery.registry.etcd.client.CALL_S", 1.5)


async def seen(watch: AsyncIterator[Snapshot], *instances: Instance) -> Snapshot:
    """The first snapshot of the watch with just these instances."""
    async with asyncio.timeout(PATIENCE_S):
        async for snapshot in watch:
            if snapshot.instances == instances:
                return snapshot
    raise AssertionError("the watch ended")


async def put(registry: Registry, instance: Instance) -> int:
    """Registers it, however long etcd is away."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                lease = await registry.grant(LONG_S)
                assert await registry.put(instance, lease)
            except Unavailable:
                continue
            return lease


async def off_loop(blocking: Callable[[], object]) -> None:
    await asyncio.to_thread(blocking)


@asynccontextmanager
async def watching(watch: PrefixWatch, changed: asyncio.Event) -> AsyncIterator[None]:
    """While the watch runs, and once it has brought something."""
    changed.clear()
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(changed.wait(), PATIENCE_S)
    yield
    running.cancel()
    await asyncio.wait({running})


async def test_a_watch_survives_compaction(etcd: EtcdCluster) -> None:
    client, contents, changed = EtcdClient(etcd.endpoints), Contents(), asyncio.Event()
    prefix = f"/{uuid4().hex}/".encode()
    watch = PrefixWatch(client, prefix, contents, changed.set, RegistryMetrics())
    await client.put(prefix + b"one", encode(ONE), 0)
    async with watching(watch, changed):
        assert contents.snapshot().instances == (ONE,)
    await client.put(prefix + b"two", encode(TWO), 0)
    revision = (await client.put(prefix + b"two", encode(TWO), 0)).header.revision
    etcd.ask("kv/compaction", {"revision": revision})

    async with watching(watch, changed):
        assert contents.snapshot().instances == (ONE, TWO)
    await client.close()


async def test_a_watch_and_leases_survive_a_restart_of_the_only_member(
    lone: EtcdCluster, open_registry: Opener
) -> None:
    registry, other = await open_registry(lone.endpoints), await open_registry(lone.endpoints)
    watch = registry.watch()
    lease = await put(other, ONE)
    before = await seen(watch, ONE)

    lone.nodes[0].kill()
    await off_loop(lone.nodes[0].start)
    await put(other, TWO)

    assert (await seen(watch, ONE, TWO)).revision > before.revision
    assert await other.keep_alive(lease)


async def test_a_watch_survives_the_death_of_its_own_member_and_of_the_leader(
    trio: EtcdCluster, open_registry: Opener
) -> None:
    leader = trio.leader()
    endpoints = [trio.endpoints[leader], *(trio.endpoints[:leader] + trio.endpoints[leader + 1 :])]
    registry = await open_registry(endpoints)
    watch = registry.watch()
    lease = await put(registry, ONE)
    await seen(watch, ONE)

    trio.nodes[leader].kill()
    await put(registry, TWO)
    await seen(watch, ONE, TWO)
    await off_loop(trio.nodes[leader].start)
    await registry.revoke(lease)

    await seen(watch, TWO)


async def test_a_watch_leaves_a_member_that_is_silent(trio: EtcdCluster, open_registry: Opener) -> None:
    leader = trio.leader()
    follower = (leader + 1) % 3
    registry = await open_registry([trio.endpoints[follower], trio.endpoints[leader]])
    writer = await open_registry([trio.endpoints[leader]])
    watch = registry.watch()
    await seen(watch)

    trio.nodes[follower].pause()
    await put(writer, ONE)

    await seen(watch, ONE)


async def test_an_endpoint_where_nobody_listens_is_passed_over(trio: EtcdCluster, open_registry: Opener) -> None:
    dead = (trio.leader() + 1) % 3
    trio.nodes[dead].kill()
    endpoints = [trio.endpoints[dead], *(trio.endpoints[:dead] + trio.endpoints[dead + 1 :])]
    registry = await open_registry(endpoints)

    lease = await registry.grant(LONG_S)

    assert await registry.put(ONE, lease)
    assert await registry.keep_alive(lease)
    await seen(registry.watch(), ONE)


@pytest.mark.usefixtures("impatient")
async def test_while_etcd_is_away_calls_say_so_and_the_watch_waits(lone: EtcdCluster, open_registry: Opener) -> None:
    registry = await open_registry(lone.endpoints)
    watch = registry.watch()
    lease = await put(registry, ONE)
    await seen(watch, ONE)
    waiting = asyncio.ensure_future(seen(watch, ONE, TWO))
    lone.nodes[0].kill()

    with pytest.raises(Unavailable) as refused:
        await registry.keep_alive(lease)
    last = await anext(registry.watch())
    await off_loop(lone.nodes[0].start)
    await put(registry, TWO)

    assert refused.value.reason == "ENGINE_DOWN"
    assert last.instances == (ONE,)
    await waiting


async def test_a_cluster_that_lost_its_data_is_read_anew_and_revisions_ascend(
    lone: EtcdCluster, open_registry: Opener, tmp_path: Path
) -> None:
    registry = await open_registry(lone.endpoints)
    watch = registry.watch()
    await put(registry, ONE)
    before = await seen(watch, ONE)

    lone.nodes[0].kill()
    shutil.rmtree(tmp_path / "n0" / "data")
    await off_loop(lone.nodes[0].start)

    empty = await seen(watch)
    await put(registry, TWO)
    after = await seen(watch, TWO)
    assert before.revision < empty.revision < after.revision
    assert await registry.snapshot() == after


async def test_processes_that_claim_at_once_get_different_numbers(etcd: EtcdCluster, open_registry: Opener) -> None:
    registries = [await open_registry(etcd.endpoints) for _ in range(5)]
    leases = [await registry.grant(LONG_S) for registry in registries for _ in range(6)]

    claims = [registries[at % 5].claim_number(lease) for at, lease in enumerate(leases)]
    numbers = await asyncio.gather(*claims)

    assert len(set(numbers)) == 30


async def test_numbers_are_no_instances(etcd: EtcdCluster, open_registry: Opener) -> None:
    registry = await open_registry(etcd.endpoints)

    await registry.claim_number(await registry.grant(LONG_S))

    assert (await registry.snapshot()).instances == ()


@dataclass(frozen=True)
class Credentials:
    user: str
    password: str

    def body(self) -> dict[str, str]:
        """As etcd's JSON has them."""
        return {"name": self.user, "password": self.password}


def ask_for_passwords(server: EtcdCluster) -> tuple[Credentials, Credentials]:
    """Makes a user that may touch what the registry needs and nothing else, and lets in nobody else but root. Returns
    root's credentials, and the user's.
    """
    root = Credentials("root", uuid4().hex)
    hither = Credentials("hither", uuid4().hex)
    for user in (root, hither):
        server.ask("auth/user/add", user.body())
        server.ask("auth/role/add", {"name": user.user})
        server.ask("auth/user/grant", {"user": user.user, "role": user.user})
    keys = {"key": b64encode(b"/hither/v1/").decode(), "range_end": b64encode(b"/hither/v10").decode()}
    server.ask("auth/role/grant", {"name": hither.user, "perm": {"permType": "READWRITE", **keys}})
    server.ask("auth/enable", {})
    return root, hither


async def test_a_password_opens_an_etcd_that_asks_for_one(lone: EtcdCluster, open_registry: Opener) -> None:
    _, hither = ask_for_passwords(lone)
    registry = await open_registry(lone.endpoints, user=hither.user, password=hither.password)
    watch = registry.watch()

    lease = await put(registry, ONE)

    assert await registry.keep_alive(lease)
    assert await registry.claim_number(lease) == 0
    await seen(watch, ONE)
    await registry.revoke(lease)
    await seen(watch)


async def test_a_token_that_etcd_has_forgotten_is_replaced(lone: EtcdCluster) -> None:
    root, hither = ask_for_passwords(lone)
    client = EtcdClient(lone.endpoints, user=hither.user, password=hither.password)
    await client.put(b"/hither/v1/key", b"value", 0)

    # A new password, even the same one, ends all tokens of the user.
    token = lone.ask("auth/authenticate", root.body())["token"]
    lone.ask("auth/user/changepw", hither.body(), token=token)

    [pair] = (await client.range(b"/hither/v1/key")).kvs
    assert pair.value == b"value"
    await client.close()


async def test_a_user_is_no_obstacle_where_etcd_asks_for_none(lone: EtcdCluster, open_registry: Opener) -> None:
    registry = await open_registry(lone.endpoints, user="root", password=uuid4().hex)

    await put(registry, ONE)

    await seen(registry.watch(), ONE)


@pytest.mark.usefixtures("impatient")
async def test_a_wrong_password_opens_nothing_and_is_not_logged(
    lone: EtcdCluster, open_registry: Opener, capsys: pytest.CaptureFixture[str]
) -> None:
    ask_for_passwords(lone)
    wrong = uuid4().hex
    registry = await open_registry(lone.endpoints, user="root", password=wrong)

    with pytest.raises(Unavailable):
        await registry.snapshot()

    printed = capsys.readouterr()
    assert "authentication failed" in printed.out + printed.err
    assert wrong not in printed.out + printed.err


@pytest.mark.usefixtures("impatient")
async def test_tls_shows_a_certificate_to_an_etcd_that_asks_for_one(
    etcd: EtcdCluster, open_registry: Opener, tmp_path: Path
) -> None:
    pki = Pki(tmp_path)
    server, client = pki.issue(named("etcd")), pki.issue(named("hither"))
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key", asks_clients=True)
    files.ca.write_bytes(pki.ca_pem)
    files.certificate.write_bytes(server.certificate_pem)
    files.key.write_bytes(server.key_pem)
    with etcd_server(tmp_path / "etcd", tls=files) as guarded:
        tls = EtcdTls(pki.ca_pem, client.certificate_pem, client.key_pem)
        registry = await open_registry([f"https://{guarded.endpoints[0]}"], tls=tls)
        stranger = await open_registry(guarded.endpoints, tls=EtcdTls(pki.ca_pem))

        await put(registry, ONE)

        await seen(registry.watch(), ONE)
        with pytest.raises(Unavailable):
            await stranger.snapshot()
        await registry.close()
        await stranger.close()


@pytest.mark.parametrize(
    ("endpoints", "cluster"),
    [([], "c"), (["ftp://127.0.0.1:1"], "c"), (["127.0.0.1:1"], ""), (["127.0.0.1:1"], "a/b")],
)
async def test_what_cannot_be_meant_is_refused_at_once(endpoints: list[str], cluster: str) -> None:
    with pytest.raises(ValueError, match=r"endpoint|cluster"):
        await EtcdRegistry.open(endpoints, cluster)


@asynccontextmanager
async def living(registry: Registry) -> AsyncIterator[Membership]:
    """A member that keeps its leases and follows the registry, as the mesh has it."""
    member = Membership(registry, 16, SystemClock(), on_change=lambda: None, metrics=RegistryMetrics())
    await member.join()
    await member.put(ONE)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(member.keep()), group.create_task(member.follow())]
        yield member
        for task in tasks:
            task.cancel()
    await member.leave()


async def test_a_member_whose_lease_was_ended_is_back_with_its_number(etcd: EtcdCluster, open_registry: Opener) -> None:
    registry, other = await open_registry(etcd.endpoints), await open_registry(etcd.endpoints)
    async with living(registry) as member:
        watch = other.watch()
        await seen(watch, ONE)

        await other.revoke(member._lease)

        await seen(watch, ONE)
        assert member.number == 0
    await seen(watch)


@pytest.mark.slow
async def test_a_member_keeps_its_lease_while_the_leader_dies(trio: EtcdCluster, open_registry: Opener) -> None:
    registry = await open_registry(trio.endpoints)
    async with living(registry) as member:
        lease = member._lease
        leader = trio.leader()

        trio.nodes[leader].kill()
        # Longer than the lease lives without a renewal.
        survivor = await open_registry(trio.endpoints[:leader] + trio.endpoints[leader + 1 :])
        await put(survivor, TWO)
        await asyncio.sleep(12)

        assert member._lease == lease
        assert not member.fenced
        assert member._metrics.lease_losses == 0
        assert (await survivor.snapshot()).instances == (ONE, TWO)


async def owning(process: Process, counts: range) -> None:
    """Returns when the number of partitions that the process owns is in the range."""
    async with asyncio.timeout(PATIENCE_S):
        async for owned in process.mesh.watch_owned(MESSAGING):
            if len(owned) in counts:
                return


async def test_processes_that_stand_apart_share_the_keys_and_call_each_other(
    etcd: EtcdCluster, open_registry: Opener
) -> None:
    everything, a_part = range(PARTITIONS, PARTITIONS + 1), range(1, PARTITIONS)
    registries, keys = [await open_registry(etcd.endpoints) for _ in range(2)], Keys()
    async with running_process(registries[0], keys, "here") as here:
        await owning(here, everything)
        async with running_process(registries[1], keys, "there") as there:
            await owning(here, a_part)
            await owning(there, a_part)
            key = key_in(there.mesh.owned(MESSAGING), there.mesh)
            request = SendMessageRequest(conversation_id=key, client_id="1", text="hi")

            await here.mesh.call(SEND, request, caller=ALICE, timeout_s=10)
            await there.mesh.drain()

            await owning(here, everything)
            assert len(there.servicer.seen) == 1
            assert here.mesh.instance_number != there.mesh.instance_number
