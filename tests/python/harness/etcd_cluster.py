"""Clusters on an etcd: coordinators and workers that have their metadata there, and nothing of each other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.cluster import Node
from harness.etcd import Etcd
from harness.members import wait_for_seats


@dataclass
class EtcdCluster:
    """A cluster of one name in an etcd."""

    folder: Path
    etcd: Etcd
    name: str
    args: Sequence[str | Path] = ()
    coordinators: list[Node] = field(default_factory=list)
    workers: list[Node] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        folder: Path,
        etcd: Etcd,
        name: str,
        mounts: Mapping[str, str],
        *,
        coordinators: int = 2,
        workers: int = 2,
        args: Sequence[str | Path] = (),
    ) -> EtcdCluster:
        """So many nodes, all workers seated; the first coordinator makes the mounts."""
        mounted = [part for path, uri in mounts.items() for part in ("--mount", f"{path}={uri}")]
        cluster = cls(folder, etcd, name, args)
        for number in range(coordinators):
            cluster.coordinators.append(cluster.node("coordinator", number, [] if number else mounted))
        for number in range(workers):
            cluster.workers.append(cluster.node("worker", number, ["--memory", "512MiB"]))
        wait_for_seats(cluster.nodes, workers)
        return cluster

    def node(self, role: str, number: int, args: Sequence[str | Path] = (), *, port: int | None = None) -> Node:
        """One more node, that reaches etcd at a port; it is not counted among those of the cluster."""
        meta = f"etcd://127.0.0.1:{port or self.etcd.port}/{self.name}"
        folder = self.folder / f"{self.name}-{role}-{number}"
        return Node(folder, role, ["--meta", meta, *self.args, *args])

    @property
    def nodes(self) -> list[Node]:
        return [*self.coordinators, *self.workers]

    def close(self) -> None:
        """Ends all that still runs, the workers first."""
        for node in reversed(self.nodes):
            if node.is_running():
                node.kill()
