"""What is in the contract and not built yet says so, whole: nothing pretends."""

import asyncio

import pytest

from discovery.errors import Unimplemented
from hither.push.v1 import push_service_pb2
from services.push.service import Push

UNBUILT = [
    (service, method)
    for service, contract in ((Push, push_service_pb2.DESCRIPTOR.services_by_name["PushService"]),)
    for method in contract.methods_by_name
]


@pytest.mark.parametrize(("service", "method"), UNBUILT)
async def test_an_unbuilt_method_says_so(service: type[Push], method: str) -> None:
    with pytest.raises(Unimplemented) as refused:
        await getattr(service().servicer, method)(None, None)

    assert refused.value.reason == "NOT_BUILT"


@pytest.mark.parametrize("service", [Push])
async def test_an_unbuilt_service_runs_until_it_is_cancelled(service: type[Push]) -> None:
    running = asyncio.ensure_future(service().run())
    done, _ = await asyncio.wait([running], timeout=0)
    assert not done

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
