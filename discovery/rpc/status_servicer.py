"""StatusService: shows an operator the mesh as this process sees it."""

from typing import Final, Protocol

from discovery.contract import service_methods
from discovery.registry.messages import to_message
from discovery.view import View
from hither.mesh.v1 import status_service_pb2 as pb
from hither.mesh.v1.status_service_pb2_grpc import StatusServiceServicer as Base

STATUS_SERVICE: Final = "hither.mesh.v1.StatusService"


class Seen(Protocol):
    """What is shown."""

    partitions: int

    @property
    def view(self) -> View:
        """The mesh at its newest revision."""


class StatusServicer(Base):
    """Answers from the view that also routes this process's calls."""

    def __init__(self, mesh: Seen, cluster: str) -> None:
        self._mesh = mesh
        self._cluster = cluster

    async def GetStatus(self, request: pb.GetStatusRequest, context: object) -> pb.GetStatusResponse:
        """See the contract."""
        view = self._mesh.view
        answer = pb.GetStatusResponse(cluster=self._cluster, revision=view.revision, partitions=self._mesh.partitions)
        for name, service in sorted(view.services.items()):
            routed = any(spec.routing_key for spec in service_methods(name))
            for instance_id, instance in sorted(service.instances.items()):
                answer.instances.add(
                    instance=to_message(instance),
                    partitions=sorted(service.partitions_of(instance_id)) if routed else (),
                )
        return answer
